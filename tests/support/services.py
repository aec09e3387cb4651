"""The whole service as a user starts it: `roundhouse serve`, BentoML, the Pebble fleet on real vLLM."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench import processes
from service.config.settings import PREFIX
from service.engine import state

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for what processes of a service do at once
Setting = float | str | Path
START_LIMIT = 600.0  # seconds for four engines; about two minutes on two idle cores


@dataclass(frozen=True)
class Service:
    """A running service: its address, its run folder with the engines' sockets, and the process that was started."""

    url: str
    run_dir: Path
    process: "subprocess.Popen[bytes]"
    log: Path

    def socket_of(self, order: int) -> Path:
        """The socket of the fleet's engine number `order`."""
        return state.socket_path(self.run_dir, order)

    def models(self) -> dict[str, dict[str, Any]]:
        """`GET /v1/models`, by id."""
        rows = httpx.get(f"{self.url}/v1/models", timeout=30, verify=False).json()["data"]
        return {row["id"]: row for row in rows}


def wait_for(condition: Any, limit: float, what: str) -> None:
    """Polls until `condition()` holds; fails the test when it does not within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {limit:g} s")
        time.sleep(0.1)


def descendants_of(run_dir: Path) -> list[psutil.Process]:
    """Every process that was started with this run folder in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if str(run_dir) in " ".join(process.cmdline()) or environment.get("ROUNDHOUSE_RUN_DIR") == str(run_dir):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@contextmanager
def serving(
    fleet: Path, run_dir: Path, *, until_ready: bool = True, **settings: float | str | Path
) -> Iterator[Service]:
    """`roundhouse serve` with this fleet and settings, ready; afterwards stopped as Ctrl-C stops it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    port = processes.free_port()
    log = run_dir / "serve.log"
    given = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    with log.open("wb") as out:
        # It ends with these tests, also where they are killed.
        process = processes.launch(
            processes.serve(fleet, port), out.fileno(), environment={"ROUNDHOUSE_RUN_DIR": str(run_dir)} | given
        )
    service = Service(f"http://127.0.0.1:{port}", run_dir, process, log)

    def is_ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the service ended:\n{log.read_text()}")
        try:
            return all(row["state"] in ("ready", "scaled_to_zero") for row in service.models().values())
        except httpx.TransportError:
            return False

    try:
        if until_ready:
            wait_for(is_ready, START_LIMIT, f"all models ready ({log})")
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
