"""An adapter for external metrics: its numbers are those of a JSON file, {metric: number}, read for each request."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.k8s.control_plane.processes import ControlPlane

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
Object = dict[str, Any]


@contextmanager
def served(plane: ControlPlane, numbers: Path) -> Iterator[None]:
    """Registers one with the API server."""
    numbers.write_text("{}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(numbers))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(plane.certificate, plane.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with plane.client() as client:
        for path, one in _objects(server.server_address[1]):
            client.post(path, json=one).raise_for_status()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _objects(port: int) -> Iterator[tuple[str, Object]]:
    name = "external-metrics"
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }  # fmt: skip
    yield "/api/v1/namespaces/kube-system/services", service
    spec = {
        "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
        "insecureSkipTLSVerify": True, "service": {"namespace": "kube-system", "name": name, "port": port},
    }  # fmt: skip
    api = {
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": spec,
    }  # fmt: skip
    yield "/apis/apiregistration.k8s.io/v1/apiservices", api


def answer(path: str, numbers: dict[str, float]) -> Object:
    """What an adapter says at the path: the list of its kinds, or the value of the metric that ends it."""
    *_, group, last = path.split("?")[0].rstrip("/").split("/")
    if (group, last) == (GROUP, VERSION):
        kinds = [{"name": "externalmetrics", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList",
                  "verbs": ["get"]}]  # fmt: skip
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": kinds}
    value = {"metricName": last, "metricLabels": {}, "timestamp": "2026-01-01T00:00:00Z",
             "value": f"{round(numbers.get(last, 0) * 1000)}m"}  # fmt: skip
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [value]}


def _handler(numbers: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer(self.path, json.loads(numbers.read_text()))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler
