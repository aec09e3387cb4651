"""A real redis-server for tests, on a Unix socket, that can be killed and started again."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from service.admission import shared_budgets
from tests.support.waiting import PATIENCE, accepts


@dataclass
class RedisServer:
    """The server in `folder`. It keeps nothing on disk, so that it is empty after a restart."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    def start(self) -> None:
        path = self.folder / "redis.sock"
        path.unlink(missing_ok=True)
        words = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not accepts(path):
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop_answering(self, stopped: bool) -> None:
        assert self.process
        self.process.send_signal(19 if stopped else 18)  # SIGSTOP, SIGCONT


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """The server in `folder`, which nobody gives up that connects from now on: one that answers late stood still."""
    server = RedisServer(folder)
    server.start()
    try:
        with mock.patch.object(shared_budgets, "TIMEOUT", PATIENCE):
            yield server
    finally:
        server.kill()
