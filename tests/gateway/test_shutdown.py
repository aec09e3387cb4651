"""What a gateway process does when it is asked to stop, with real signals to this one."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from service.engine import gateway_registry
from service.gateway import shutdown
from service.gateway.shutdown import Door, Leaving
from tests.support.servers import serving
from tests.support.waiting import PATIENCE, until

PID = os.getpid()


class Service:
    """Notes in order what is asked of it; the `server` is whoever listened for signals first."""

    def __init__(self, run_dir: Path, **durations: float) -> None:
        self.asked: list[str] = []
        self.leaving = Leaving(
            run_dir, durations.get("grace", 0.01), durations.get("limit", 600.0),
            lambda: self.asked.append("drain"), lambda: self.asked.append("end"),
        )  # fmt: skip

    def server(self, number: int, frame: object) -> None:
        self.asked.append("close")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in shutdown.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def started(run_dir: Path, **durations: float) -> Service:
    service = Service(run_dir, **durations)
    for number in shutdown.SIGNALS:
        signal.signal(number, service.server)
    service.leaving.enter()
    return service


async def test_it_is_present_until_it_has_left(tmp_path: Path) -> None:
    service = started(tmp_path)
    assert gateway_registry.present(tmp_path) == {PID: False}
    service.leaving.leave()
    assert gateway_registry.present(tmp_path) == {}
    assert signal.getsignal(signal.SIGTERM) == service.server


@pytest.mark.parametrize("number", shutdown.SIGNALS)
async def test_it_says_so_before_the_server_closes(number: int, tmp_path: Path) -> None:
    service = started(tmp_path)
    os.kill(PID, number)
    await until(lambda: "drain" in service.asked)
    assert gateway_registry.present(tmp_path) == {PID: True}
    await until(lambda: service.asked == ["drain", "close"])
    service.leaving.leave()


async def test_two_signals_at_once_are_one(tmp_path: Path) -> None:
    service = started(tmp_path)
    for number in shutdown.SIGNALS:
        os.kill(PID, number)
    await until(lambda: "close" in service.asked)
    assert service.asked == ["drain", "close"]
    service.leaving.leave()


async def test_a_second_one_later_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "TWICE", -1.0)  # the loop's clock has steps of a millisecond
    service = started(tmp_path, grace=600.0)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: service.asked == ["drain"])
    os.kill(PID, signal.SIGTERM)
    await until(lambda: sorted(service.asked) == ["close", "drain", "end"])
    service.leaving.leave()


async def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    service = started(tmp_path, limit=0.05)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: sorted(service.asked) == ["close", "drain", "end"])
    service.leaving.leave()


async def test_who_has_left_is_not_ended(tmp_path: Path) -> None:
    service = started(tmp_path, grace=0.05, limit=0.1)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: "drain" in service.asked)
    service.leaving.leave()
    await asyncio.sleep(0.2)  # longer than both
    assert service.asked == ["drain"]


async def test_a_run_folder_that_cannot_be_written_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = started(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway_registry, "drain", full)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: service.asked == ["drain", "close"])
    service.leaving.leave()


@dataclass
class House:
    """A server, its door, and the listening socket as another process holds it: as BentoML's first one does."""

    server: uvicorn.Server
    door: Door
    theirs: socket.socket

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.theirs.getsockname()
        return host, port

    def end(self) -> None:
        """The door's steps, one after the other."""
        for act in (self.door.shut, self.door.leave, self.door.refuse):
            act()


@contextlib.asynccontextmanager
async def house(shared: bool = False) -> AsyncIterator[House]:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # one that was asked for is kept when the socket is shut down
    with socket.create_server(("127.0.0.1", port)) as ours, socket.socket(fileno=os.dup(ours.fileno())) as theirs:
        async with serving(app, ours, lifespan="off") as server:
            yield House(server, Door(server, shared), theirs)


async def test_nobody_connects_to_a_server_that_has_left() -> None:
    async with house() as one:
        address = one.address
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        other = Door(one.server)
        one.end()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert not other.crowded()  # another worker, which comes later
        other.refuse()


async def test_who_stands_at_the_door_is_taken_and_who_comes_later_is_refused() -> None:
    async with house() as one:
        with socket.create_connection(one.address) as early:  # the loop has had no time to take it
            assert one.door.crowded()
            one.door.shut()
            late = asyncio.create_task(asyncio.open_connection(*one.address))
            await until(lambda: not one.door.crowded())
            one.door.leave()
            one.door.refuse()
            with pytest.raises(ConnectionRefusedError):
                await late
            (connection,) = one.server.server_state.connections
            connection.shutdown()
            await until(lambda: not one.server.server_state.connections)
            assert early.recv(1) == b""  # an end, and not a reset


async def test_a_door_that_was_shut_opens_again() -> None:
    """A worker that BentoML starts anew gets the same socket."""
    async with house() as one:
        address = one.address
        one.end()
        one.theirs.listen()
        socket.create_connection(address, timeout=PATIENCE).close()


async def test_a_door_that_others_share_stays_open() -> None:
    async with house(shared=True) as one:
        one.end()
        socket.create_connection(one.address, timeout=PATIENCE).close()


class Steps:
    """A door that notes in `asked` what it is told; somebody waits at it for the first two looks."""

    def __init__(self, asked: list[str], shared: bool) -> None:
        self._asked, self._crowds = asked, [True, True]
        asked.append("shared" if shared else "last")

    def shut(self) -> None:
        self._asked.append("shut")

    def crowded(self) -> bool:
        return bool(self._crowds) and self._crowds.pop()

    def leave(self) -> None:
        assert not self._crowds
        self._asked.append("leave")

    def refuse(self) -> None:
        self._asked.append("refuse")


@pytest.mark.parametrize("others", [True, False])
async def test_the_door_is_shut_then_left_then_refuses_and_is_left_to_other_gateways(
    others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "LAST_WORDS", 0.01)
    if others:
        gateway_registry.enter(tmp_path, os.getppid())
    service = started(tmp_path)
    monkeypatch.setattr(shutdown, "Door", lambda server, shared: Steps(service.asked, shared))
    os.kill(PID, signal.SIGTERM)
    await until(lambda: "close" in service.asked)
    assert service.asked == ["drain", "shared" if others else "last", "shut", "leave", "refuse", "close"]
    service.leaving.leave()
