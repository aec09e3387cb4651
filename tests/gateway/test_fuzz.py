"""Requests made up from the description of the API: whatever they are, the answer is one that is described."""

import asyncio

import pytest

from bench.fuzzing import Fuzz
from tests.conftest import Start
from tests.support.gateways import HOUSE


@pytest.mark.slow
async def test_whatever_is_sent_gets_an_answer_that_is_described(start: Start) -> None:
    """A few hundred, always the same ones; `make fuzz` sends 10,000 and measures the memory."""
    gateway = await start(HOUSE + "tenants: {default: {}}")
    gateway.expected_unseen = None  # an answer may be read from the cache
    fuzz = Fuzz(f"http://127.0.0.1:{gateway.port}")
    await asyncio.to_thread(fuzz.run, 240, 1)
    assert not fuzz.failures, "\n".join(fuzz.failures)
    assert fuzz.statuses.total() >= 240
    assert {200, 400, 404} <= fuzz.statuses.keys()
    assert len(gateway.seen) >= 10  # it is not all refused
