"""Tests that fail or hang, for `test_time_limits.py` to run: each must end as a failure. Nothing else collects them."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

FOR_EVER = 3600.0  # seconds


async def connected(protocol: type[asyncio.Protocol]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a server in this loop, both of which stay open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await asyncio.get_running_loop().create_server(protocol, sock=listener)
        return await asyncio.open_connection(*listener.getsockname())


class Endless(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        while True:
            time.sleep(0.01)


async def test_fails_while_a_server_and_a_connection_are_open() -> None:
    await connected(asyncio.Protocol)
    raise AssertionError("the reason")


async def test_waits_for_what_does_not_come() -> None:
    await asyncio.Event().wait()


async def test_waits_for_a_server_whose_callback_does_not_return() -> None:
    reader, writer = await connected(Endless)
    writer.write(b"x")
    await reader.read()


async def test_blocks_the_loop() -> None:
    time.sleep(FOR_EVER)  # noqa: ASYNC251  to block is the test


async def test_fails_beside_a_task_that_cannot_be_cancelled() -> None:
    async def endless() -> None:
        while True:
            try:
                await asyncio.sleep(FOR_EVER)
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(endless())
    await asyncio.sleep(0)
    assert task.done(), "the reason"


@pytest.fixture
async def waits() -> AsyncIterator[None]:
    yield
    await asyncio.Event().wait()


@pytest.fixture
async def blocks() -> AsyncIterator[None]:
    yield
    time.sleep(FOR_EVER)  # noqa: ASYNC251


async def test_fails_before_a_teardown_that_waits(waits: None) -> None:
    raise AssertionError("the reason")


async def test_fails_before_a_teardown_that_blocks(blocks: None) -> None:
    raise AssertionError("the reason")


async def test_passes_and_its_teardown_waits(waits: None) -> None:
    pass


async def test_passes_and_leaves_a_connection_open() -> None:
    await connected(asyncio.Protocol)
