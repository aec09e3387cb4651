"""Tests that hang where no signal is heard, as in C, for `test_time_limits.py` to run. Nothing else collects them."""

import signal
import time
from collections.abc import Iterator

import pytest


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(3600)


@pytest.fixture
def hangs() -> Iterator[None]:
    yield
    hang()


def test_before() -> None:
    pass


def test_itself() -> None:
    hang()


def test_its_teardown(hangs: None) -> None:
    pass


def test_after() -> None:
    pass
