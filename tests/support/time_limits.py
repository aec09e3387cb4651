"""A pytest plugin: no test, and no teardown, lasts longer than its limit, whatever it is that it waits for.

pytest-timeout raises an error in the test when its `timeout` has passed. That does not help where no Python code runs
(a loop that is being closed, a lock), and after a test that has failed pytest-timeout looks no more. So the teardown
gets a limit of its own, `timeout_teardown`, and where the error has changed nothing `timeout_grace` later, the process
shows all its stacks and ends: a run without `-n` ends there, a worker of xdist is replaced and its test has failed.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scheduling import SLOW

ENGINE = 900.0  # seconds for a test that needs an engine: the start of a whole fleet counts to the first that uses it
SERVICES = 300.0  # seconds for one that may start services, with small programs in place of engines
LIMITS = pytest.StashKey[Any]()  # pytest-timeout's settings for the test
STDERR = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("timeout_teardown", "seconds for the teardown of a test that needs no engine", default="45")
    parser.addini("timeout_grace", "seconds from a timeout to the end of the process", default="15")


def pytest_configure(config: pytest.Config) -> None:
    # A job in a shell's background does not hear Ctrl-C, and nor would what the tests start, and end that way.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest replaces the descriptor itself while a test runs.
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        seconds = ENGINE if needs_engine(item) else SERVICES if item.path.parent.name in SLOW else None
        if seconds and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Arms the last resort; pytest-timeout then sets its own timer."""
    item.stash.setdefault(LIMITS, settings)
    last = settings.timeout + float(item.config.getini("timeout_grace"))
    faulthandler.dump_traceback_later(last, file=item.config.stash[STDERR], exit=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    if settings := item.stash.get(LIMITS, None):
        hook = item.config.hook
        hook.pytest_timeout_cancel_timer(item=item)
        hook.pytest_timeout_set_timer(item=item, settings=settings._replace(timeout=teardown_limit(item, nextitem)))
    return (yield)


def teardown_limit(item: pytest.Item, nextitem: pytest.Item | None) -> float:
    """Seconds; engines that the whole run has shared end with its last test."""
    shared = nextitem is None and any(map(needs_engine, item.session.items))
    return ENGINE if shared or needs_engine(item) else float(item.config.getini("timeout_teardown"))


def needs_engine(item: pytest.Item) -> bool:
    return item.get_closest_marker("engine") is not None
