"""The images' health check: 200 is healthy, anything else is not, and it imports next to nothing."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.processes import free_port
from service.cli.healthy import main


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_only_200_is_healthy(port: int) -> None:
    assert main(port, "/200") is None
    assert main(port, "/503") == "status 503"
    assert "Connection refused" in str(main(free_port(), "/200"))


def test_as_a_program_it_ends_with_0_or_1_and_imports_nothing_of_ours(port: int) -> None:
    for path, status in (("/200", 0), ("/503", 1)):
        command = [sys.executable, "-X", "importtime", "-m", "service.cli.healthy", str(port), path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert not [name for name in ("click", "pydantic", "bentoml") if name in done.stderr]
