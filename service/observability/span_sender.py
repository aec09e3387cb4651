"""Sends encoded spans to a collector in a thread of its own, so that no request waits for it."""

import gzip
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable

from service.observability import otlp
from service.observability.trace_settings import TraceSettings

TEMPORARY = (429, 502, 503, 504)  # statuses after which a collector should be asked again
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before that, as long as the timeout leaves
SCOPE = b"roundhouse"
OnDrop = Callable[[str, int], object]  # why, and how many spans


class SpanSender:
    """Sends spans in batches, while at most `traces.capacity` wait; `on_drop` is told how many were lost, and why.

    `resource` are the attributes of what makes the spans. The thread starts with the first span.
    """

    def __init__(self, traces: TraceSettings, resource: bytes, on_drop: OnDrop) -> None:
        self._traces, self._resource, self._on_drop = traces, resource, on_drop
        self._queued: deque[bytes] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, spans: list[bytes]) -> None:
        """Queues the encoded spans of one request; never blocks."""
        if len(self._queued) + len(spans) > self._traces.capacity:
            self._on_drop("queue", len(spans))
            return
        self._queued.extend(spans)
        if len(self._queued) >= self._traces.batch:
            self._wake.set()
        if self._thread is None or not self._thread.is_alive():
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Sends what waits, within so many seconds; what is left then is lost."""
        self._closing.set()
        self._wake.set()
        if self._thread:
            self._thread.join(seconds)

    def _run(self) -> None:
        context = _tls(self._traces)
        while not self._closing.is_set():
            self._wake.wait(self._traces.delay)
            self._wake.clear()
            self._send_queued(context)
        self._send_queued(context)

    def _send_queued(self, context: ssl.SSLContext | None) -> None:
        while self._queued:
            batch = [self._queued.popleft() for _ in range(min(len(self._queued), self._traces.batch))]
            if not self._send(otlp.request(self._resource, SCOPE, batch), context):
                self._on_drop("export", len(batch))

    def _send(self, body: bytes, context: ssl.SSLContext | None) -> bool:
        """Whether the collector took it, within the timeout: one that cannot at the moment is asked again."""
        headers = {"content-type": "application/x-protobuf", **self._traces.headers}
        if self._traces.compressed:
            body, headers["content-encoding"] = gzip.compress(body), "gzip"
        asked = urllib.request.Request(self._traces.endpoint, body, headers, method="POST")
        deadline = time.monotonic() + self._traces.timeout
        for pause in (*PAUSES, 0.0):
            try:
                left = max(0.001, deadline - time.monotonic())
                with urllib.request.urlopen(asked, timeout=left, context=context):
                    return True
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in TEMPORARY:
                    return False
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() + pause >= deadline or self._closing.wait(pause):
                return False
        return False


def _tls(traces: TraceSettings) -> ssl.SSLContext | None:
    """How a collector at `https` is verified; None for one without."""
    if not traces.endpoint.startswith("https:"):
        return None
    context = ssl.create_default_context(cafile=traces.certificate)
    if traces.client_certificate:
        context.load_cert_chain(traces.client_certificate, traces.client_key)
    return context
