"""Traces of requests, if the OTEL_… variables ask for them: begun with a request, exported after its end."""

import asyncio
import time
from collections.abc import Iterable
from os import getpid
from socket import gethostname

from service.config.release import release
from service.observability import otlp, trace_context
from service.observability.metrics import Metrics
from service.observability.record import PROBES, Record, Trace
from service.observability.span_sender import SpanSender
from service.observability.spans import spans_of
from service.observability.trace_settings import TraceSettings

CLOSE_TIMEOUT = 3.0  # seconds that the end of the process waits for a collector


class Tracer:
    """Begins a trace for each request, and sends its spans at its end if it is sampled."""

    def __init__(self, traces: TraceSettings, metrics: Metrics) -> None:
        own = {"service.name": traces.service, "service.version": release()}
        own |= {"service.instance.id": f"{gethostname()}-{getpid()}", **traces.attributes}
        self._decide, self._encode = traces.decide, otlp.Encoder().encode
        self._sender = SpanSender(
            traces, otlp.resource(own), lambda why, count: metrics.spans_dropped.labels(why).inc(count)
        )

    async def close(self) -> None:
        """Sends what waits, within CLOSE_TIMEOUT."""
        await asyncio.to_thread(self._sender.close, CLOSE_TIMEOUT)

    def begin(self, record: Record, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Gives a request its trace, continued from its headers or new; health checks and scrapes get none."""
        if not record.endpoint.startswith(PROBES):
            record.trace = trace_context.begin(headers, method, self._decide)

    def end(self, record: Record, trace: Trace) -> None:
        """Queues the spans of a request that has ended, if its trace is sampled."""
        if trace.sampled:
            self._sender.add([*map(self._encode, spans_of(record, trace, time.time() - time.monotonic()))])
        trace.attempts.clear()  # they refer to the record, which would be left for the garbage collector
