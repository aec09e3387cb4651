"""The commands on a system that is not Linux, simulated: its name is another, and what only Linux has is gone."""

import json
import subprocess
import sys

import pytest

from tests.packaging import LIMIT
from tests.support.fleets import ROOT

# psutil and parts of the standard library are made for each system: they stay this one's.
PROGRAM = """
import json, os, select, signal, socket, sys
import psutil, sysconfig, urllib.request
from click.testing import CliRunner

sysconfig.get_config_vars()
for module, names in {
    socket: ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "SO_REUSEPORT", "SO_DOMAIN", "SO_PROTOCOL"),
    select: ("epoll",),
    os: ("sched_getaffinity", "sched_setaffinity", "pidfd_open", "eventfd", "memfd_create", "sendfile"),
    signal: ("SIGPOLL", "SIGSTKFLT", "SIGRTMIN", "sigtimedwait", "sigwaitinfo"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "darwin"

from service.cli.__main__ import main

results = [CliRunner().invoke(main, words) for words in json.loads(sys.argv[1])]
print(json.dumps([(one.exit_code, one.output) for one in results]))
"""
pytestmark = pytest.mark.slow
NEEDS_LINUX = "Error: {} needs Linux, whose kernel supervises the engines, and this is darwin.\n"
COMMANDS = {
    ("list",): (0, "pebble-chat"),
    ("show", "llama-2-7b-chat"): (0, "llama-2-7b-chat"),
    ("plan", "llama-2-7b-chat", "--gpu", "L40S"): (0, "L40S"),
    ("check",): (0, "4 models, nothing wrong."),
    ("route", "chat"): (0, "pebble-chat"),
    ("prove", "--list", "pebble-chat"): (0, "pebble"),
    ("serve",): (1, NEEDS_LINUX.format("Serving")),
    ("prove", "pebble-chat"): (1, NEEDS_LINUX.format("Proving")),
}


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, ...], tuple[int, str]]:
    """The exit code and the output of every command."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(COMMANDS))], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_works_or_says_that_it_needs_linux(
    words: tuple[str, ...], results: dict[tuple[str, ...], tuple[int, str]]
) -> None:
    (code, output), (expected_code, expected) = results[words], COMMANDS[words]
    assert code == expected_code, output
    assert output == expected if expected_code else expected in output
