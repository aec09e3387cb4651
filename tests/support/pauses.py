"""A pytest plugin: `--pauses` stops the process of the tests again and again, as a busy machine does.

A test whose result depends on how far something came in a given time fails then; one that waits for the thing itself
does not. `make test-paused` runs the tests of sockets and deadlines that way.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

RUNNING = 0.04  # seconds from one pause to the next, on the average
SHORTEST, LONGEST = 0.02, 2.0  # seconds of a pause: as many are shorter than 0.2 as longer
PAUSER = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pauses", action="store_true", help="stop the process for up to 2 s, at random moments")


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    has_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if config.getoption("--pauses") and has_tests:
        command = [sys.executable, __file__, str(os.getpid())]
        config.stash[PAUSER] = subprocess.Popen(command)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if pauser := session.config.stash.get(PAUSER, None):
        pauser.terminate()
        pauser.wait()
        os.kill(os.getpid(), signal.SIGCONT)


def pause(process: int, chance: random.Random) -> None:
    """Stops a process, and lets it go on, for as long as it is there."""
    while os.getppid() == process:
        time.sleep(chance.expovariate(1 / RUNNING))
        os.kill(process, signal.SIGSTOP)
        time.sleep(SHORTEST * (LONGEST / SHORTEST) ** chance.random())
        os.kill(process, signal.SIGCONT)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    victim = int(sys.argv[1])
    with suppress(ProcessLookupError):
        try:
            pause(victim, random.Random())  # another sequence each time: it is the machine that is unsteady
        finally:
            os.kill(victim, signal.SIGCONT)
