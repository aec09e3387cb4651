"""The time limits of every test: a hanging test ends as a failure."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import hanging
from tests.support.fleets import ROOT
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

TIMEOUT = "Failed: Timeout"
# What the run says of each test: of the test itself, and of its teardown.
ENDS = {
    "fails_while_a_server_and_a_connection_are_open": ("the reason", "ResourceWarning"),
    "waits_for_what_does_not_come": (TIMEOUT, None),
    "waits_for_a_server_whose_callback_does_not_return": (TIMEOUT, "ResourceWarning"),
    "blocks_the_loop": (TIMEOUT, None),
    "fails_beside_a_task_that_cannot_be_cancelled": ("the reason", TIMEOUT),
    "fails_before_a_teardown_that_waits": ("the reason", TIMEOUT),
    "fails_before_a_teardown_that_blocks": ("the reason", TIMEOUT),
    "passes_and_its_teardown_waits": (None, TIMEOUT),
    "passes_and_leaves_a_connection_open": (None, "ResourceWarning"),
}


def run(file: str, *options: str, grace: int = 2) -> "subprocess.CompletedProcess[str]":
    """pytest on a file beside this one, with limits of two seconds; fails if it does not end.

    `grace` is so many seconds from such a limit to the end of the process.
    """
    command = [sys.executable, "-m", "pytest", f"tests/support/{file}", "-p", "no:cacheprovider", *options]
    command += ["-otimeout=2", "-otimeout_teardown=2", f"-otimeout_grace={grace}"]
    # Without what takes long to import, and without what has a test fail for what the one before it has left behind.
    command += ["--noconftest", *(f"-ptests.support.{name}" for name in ("event_loop", "scheduling", "time_limits"))]
    command += [f"-pno:{name}" for name in ("hypothesispytest", "anyio", "unraisableexception")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE)


def verdict(kind: str, name: str, output: str) -> str | None:
    """The line of the summary on a test."""
    found = re.search(rf"^{kind} tests/support/\w+\.py::test_{name}\b(?: - )?(.*)$", output, re.MULTILINE)
    return found[1] if found else None


@pytest.fixture(scope="module")
def output() -> str:
    ended = run("hanging.py", grace=60)  # its limits are heard, if late
    assert ended.returncode == 1, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(("name", "ends"), ENDS.items(), ids=ENDS.keys())
def test_a_red_test_ends(name: str, ends: tuple[str | None, str | None], output: str) -> None:
    for kind, said in zip(("FAILED", "ERROR"), ends, strict=True):
        line = verdict(kind, name, output)
        assert said in line if said and line else said is line, line


def test_each_of_them_is_looked_at() -> None:
    assert {f"test_{name}" for name in ENDS} == {name for name in vars(hanging) if name.startswith("test_")}


def test_where_no_signal_is_heard_a_process_ends_and_another_does_the_rest() -> None:
    ended = run("unheard.py", "-n1", "-k", "not teardown")
    assert ended.returncode == 1
    assert " in hang\n" in ended.stderr
    assert verdict("FAILED", "itself", ended.stdout)
    assert " 1 failed, 2 passed in " in ended.stdout


@pytest.mark.parametrize("name", ["itself", "its_teardown"])
def test_without_another_process_the_run_ends(name: str) -> None:
    ended = run("unheard.py", "-k", name)
    assert ended.returncode == 1
    assert " in hang\n" in ended.stderr
