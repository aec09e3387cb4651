"""An OpenTelemetry collector for tests: it takes OTLP over HTTP, and can be slow or refuse."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Span:
    """A span as the collector got it; ids are hex, times are nanoseconds."""

    name: str
    trace_id: str
    id: str
    parent: str
    kind: int
    state: str
    error: bool
    start: int
    end: int
    links: list[str]
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Collector:
    """What was sent to `url`. `status` is that of its answers, of which other ones than 200 are counted as `refused`.

    While `going` is not set it answers nothing.
    """

    url: str
    status: int = 200
    refused: int = 0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    going: threading.Event = field(default_factory=threading.Event)

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order in which they came."""
        return [span for body in self.bodies for span in _spans(body)]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def _spans(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in group.scope_spans:
            for one in scope.spans:
                yield Span(
                    one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), one.kind,
                    one.trace_state, one.status.code == 2, one.start_time_unix_nano, one.end_time_unix_nano,
                    [link.span_id.hex() for link in one.links], _values(one.attributes),
                    _values(group.resource.attributes),
                )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {row.key: _value(row.value) for row in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.going.wait(PATIENCE)
            if collector.status != 200:
                collector.refused += 1
            elif self.path == "/v1/traces":
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                packed = self.headers["content-encoding"] == "gzip"
                collector.bodies.append(gzip.decompress(body) if packed else body)
            try:
                self.send_response(collector.status)
                self.end_headers()
            except OSError:
                pass  # whoever sent it has given up

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    collector.going.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        collector.going.set()
        server.shutdown()
        server.server_close()
        thread.join()
