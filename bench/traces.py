"""What traces cost: the processor's time for each request, without them, with ones that are not sampled, and with all.

`python -m bench.traces` runs the outermost middleware around a streamed response of 100 outputs, and has the spans sent
to a collector in a process of its own. The times are processor time of all threads, the least of several rounds.
"""

import asyncio
import os
import subprocess
import sys
import time

from bench.observability.parts import ENDPOINTS, record
from service.config.settings import Settings
from service.gateway.middleware import RecordMiddleware
from service.observability.log import Log
from service.observability.log_lines import encoded
from service.observability.log_writer import LogWriter
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.observability.trace_settings import read
from service.observability.tracer import Tracer
from service.server.asgi import Message, Receive, Scope, Send

ROUNDS, REQUESTS = 15, 500
SAMPLER, SAMPLERS = "OTEL_TRACES_SAMPLER", ("always_off", "always_on")
HEADERS = [(name, b"x" * 20) for name in (b"host", b"user-agent", b"accept", b"authorization", b"content-type")]
COLLECTOR = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
MADE = record("m", "t", ENDPOINTS[0], 100)


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """What an answered request leaves in its record, and what one exchange with an engine adds to its trace."""
    found: Record = scope["record"]
    found.started, found.status = 0.0, 200
    for name in ("model", "variant", "tenant", "streamed", "attempts", "admitted", "output_times", "route_reason"):
        setattr(found, name, getattr(MADE, name))
    found.requested, found.prompt_tokens, found.completion_tokens = "m", MADE.prompt_tokens, MADE.completion_tokens
    if found.trace:
        attempt = found.trace.attempt(found, "m-0", 0.01)
        found.trace.headers(attempt)
        attempt.ended = 3.0


async def receive() -> Message:
    """Nothing is read."""
    raise NotImplementedError


async def send(message: Message) -> None:
    """Nothing is sent."""


async def per_request(tracer: Tracer | None) -> float:
    """Microseconds for each request, of one round."""
    log = Log(LogWriter(os.open(os.devnull, os.O_WRONLY), encode=encoded), Settings())
    app = RecordMiddleware(serve, Metrics(), str, log, tracer=tracer)
    began = time.process_time()
    for _ in range(REQUESTS):
        await app({"type": "http", "path": ENDPOINTS[0], "method": "POST", "headers": HEADERS}, receive, send)
    if tracer:
        await tracer.close()
    log.close()
    return (time.process_time() - began) / REQUESTS * 1e6


def main() -> None:
    """Prints the table."""
    with subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout
        url = f"http://127.0.0.1:{collector.stdout.readline().strip()}"
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_MAX_QUEUE_SIZE": "100000"}
        metrics, wanted = Metrics(), [read(given | {SAMPLER: name}) for name in SAMPLERS]
        made = [None, *(Tracer(one, metrics) for one in wanted if one)]
        # In turns, so that a machine that others use, too, is as slow for each of them.
        rounds = [[asyncio.run(per_request(tracer)) for tracer in made] for _ in range(ROUNDS)]
        costs = [min(one) for one in zip(*rounds, strict=True)]
        for name, cost in zip(("without traces", "none is sampled", "all are sampled"), costs, strict=True):
            print(f"{name:16} {cost:8.1f} us a request, {cost - costs[0]:+6.1f} us")
        (dropped,) = metrics.spans_dropped.collect()
        lost = sum(one.value for one in dropped.samples if one.name.endswith("_total"))
        print(f"{lost:.0f} spans were lost")
        collector.terminate()


if __name__ == "__main__":
    main()
