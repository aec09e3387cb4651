"""Running the program of a user: its own home, its own folder, and no way to any other machine."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.fleets import ROOT

LIMIT = 240.0  # seconds for one program: several import for half a minute on a machine that is busy
CLIENT = [pytest.mark.clients, pytest.mark.timeout(LIMIT + 120)]
"""The marks of tests that run such programs: the time is that of one, and of the gateway around it."""
NODE = ROOT / "tests/clients/node"
VENVS = ROOT / "build/clients"
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses every connection
QUIET = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_COLOR": "1",
    "OTEL_SDK_DISABLED": "true",
    "PYTHONWARNINGS": "ignore",
    "TERM": "dumb",
}


@dataclass(frozen=True)
class Done:
    """How a program ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.stdout[-4000:]}\n{self.stderr[-4000:]}"


@dataclass(frozen=True)
class Desk:
    """Where a program runs: `home` has its settings, `work` is the folder that it works in."""

    home: Path
    work: Path

    @classmethod
    def at(cls, folder: Path) -> "Desk":
        desk = cls(folder / "home", folder / "work")
        desk.home.mkdir()
        desk.work.mkdir()
        return desk

    def environment(self, **more: str) -> dict[str, str]:
        """All that a program gets to know of this machine."""
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
        local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        places = {"HOME": str(self.home), "TMPDIR": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return places | proxies | local | QUIET | more

    async def run(self, *command: str | Path, **environment: str) -> Done:
        """Runs the command to its end. What it leaves running, and a program that does not end, is killed."""
        skip_if_missing(command)
        process = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=self.work, env=self.environment(**environment),
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(LIMIT):
                out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return Done(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))

    def clear(self) -> None:
        """Kills what programs have left running for their next start."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home):
                    process.kill()

    async def connect(self, client: str, url: str, *options: str) -> Done:
        """`roundhouse connect`, as a user calls it."""
        command = (sys.executable, "-m", "service.cli", "connect", client, "--url", url, *options)
        return await self.run(*command, PYTHONPATH=str(ROOT))


def skip_if_missing(command: tuple[str | Path, ...]) -> None:
    """Skips the test of a program that is not installed: `make test-clients` installs all, or those that it is told."""
    folders = (NODE / "node_modules", *(VENVS / venv for venv in ("clients", "clients-aider")))
    for part in command:
        folder = next((each for each in folders if Path(part).is_relative_to(each)), None)
        if Path(part).is_relative_to(NODE):
            folder = NODE / "node_modules"
        if folder and not folder.is_dir():
            pytest.skip(f"make test-clients installs {folder.relative_to(ROOT)}")


def node(name: str) -> Path:
    """A program from npm."""
    return NODE / "node_modules/.bin" / name


def python(name: str = "python", venv: str = "clients") -> Path:
    """A program of one of the environments with clients from PyPI."""
    return VENVS / venv / "bin" / name
