"""Graceful shutdown of a gateway process, with real signals to the test process."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import uvicorn

from bench.processes import free_port
from service.engine import gateway_registry
from service.gateway import shutdown
from service.gateway.shutdown import GracefulShutdown, ListenSockets
from tests.support.servers import serving
from tests.support.waiting import PATIENCE, until

PID = os.getpid()


class Service:
    """Records the calls of a shutdown in `events`, in order; `server` is the signal handler that was there before."""

    def __init__(self, run_dir: Path, **durations: float) -> None:
        self.events: list[str] = []
        self.shutdown = GracefulShutdown(
            run_dir, durations.get("grace", 0.01), durations.get("timeout", 600.0),
            lambda: self.events.append("drain"), lambda: self.events.append("abort"),
        )  # fmt: skip

    def server(self, number: int, frame: object) -> None:
        self.events.append("close")


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    original = {number: signal.getsignal(number) for number in shutdown.SIGNALS}
    yield
    for number, handler in original.items():
        signal.signal(number, handler)


def started(run_dir: Path, **durations: float) -> Service:
    service = Service(run_dir, **durations)
    for number in shutdown.SIGNALS:
        signal.signal(number, service.server)
    service.shutdown.install()
    return service


async def test_gateway_is_registered_until_it_is_uninstalled(tmp_path: Path) -> None:
    service = started(tmp_path)
    assert gateway_registry.registered(tmp_path) == {PID: False}
    service.shutdown.uninstall()
    assert gateway_registry.registered(tmp_path) == {}
    assert signal.getsignal(signal.SIGTERM) == service.server


@pytest.mark.parametrize("number", shutdown.SIGNALS)
async def test_gateway_is_draining_before_the_server_closes(number: int, tmp_path: Path) -> None:
    service = started(tmp_path)
    os.kill(PID, number)
    await until(lambda: "drain" in service.events)
    assert gateway_registry.registered(tmp_path) == {PID: True}
    await until(lambda: service.events == ["drain", "close"])
    service.shutdown.uninstall()


async def test_signals_in_quick_succession_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "SECOND_SIGNAL_AFTER", PATIENCE)
    service = started(tmp_path)
    for number in shutdown.SIGNALS:
        os.kill(PID, number)
    await until(lambda: "close" in service.events)
    assert service.events == ["drain", "close"]
    service.shutdown.uninstall()


async def test_later_second_signal_aborts_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "SECOND_SIGNAL_AFTER", -1.0)  # the loop's clock has steps of a millisecond
    service = started(tmp_path, grace=600.0)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: service.events == ["drain"])
    os.kill(PID, signal.SIGTERM)
    await until(lambda: sorted(service.events) == ["abort", "close", "drain"])
    service.shutdown.uninstall()


def _has_aborted(service: Service, count: int) -> bool:
    return service.events.count("abort") == count


@pytest.mark.parametrize("signals", [2, 3])
async def test_the_server_closes_once_though_signals_repeat_within_the_grace(
    signals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "SECOND_SIGNAL_AFTER", -1.0)
    monkeypatch.setattr(shutdown, "SETTLE_TIME", 0.01)
    service = started(tmp_path, grace=0.2)
    monkeypatch.setattr(shutdown, "ListenSockets", lambda server, shared: RecordedSockets(service.events, shared))
    for count in range(signals):
        os.kill(PID, signal.SIGTERM)
        await until(partial(_has_aborted, service, count))
    await until(lambda: "close" in service.events)
    grace = next(timer for timer in service.shutdown._timers if timer.when() > 0)
    await until(
        lambda: asyncio.get_running_loop().time() > grace.when() + 0.1, "the end of the grace, and of what follows"
    )
    assert service.events.count("close") == service.events.count("drop handshakes") == 1
    assert service.events.count("abort") == signals - 1
    service.shutdown.uninstall()


async def test_timeout_aborts_requests(tmp_path: Path) -> None:
    service = started(tmp_path, timeout=0.05)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: sorted(service.events) == ["abort", "close", "drain"])
    service.shutdown.uninstall()


async def test_uninstall_cancels_the_timers(tmp_path: Path) -> None:
    service = started(tmp_path, grace=600.0)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: "drain" in service.events)
    timers = list(service.shutdown._timers)
    assert timers and not any(timer.cancelled() for timer in timers)
    service.shutdown.uninstall()
    assert all(timer.cancelled() for timer in timers)
    assert service.events == ["drain"]


async def test_unwritable_run_folder_does_not_prevent_shutdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = started(tmp_path)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway_registry, "mark_draining", disk_full)
    os.kill(PID, signal.SIGTERM)
    await until(lambda: service.events == ["drain", "close"])
    service.shutdown.uninstall()


@dataclass
class RunningServer:
    """A server, its listening sockets, and a duplicate of them as BentoML's first process inherits it."""

    server: uvicorn.Server
    sockets: ListenSockets
    inherited: socket.socket

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.inherited.getsockname()
        return host, port

    def close_sockets(self) -> None:
        """The three steps of closing the sockets, without a pause."""
        for step in (self.sockets.drop_handshakes, self.sockets.stop_accepting, self.sockets.refuse_connections):
            step()


@contextlib.asynccontextmanager
async def running_server(shared: bool = False) -> AsyncIterator[RunningServer]:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    with (
        socket.create_server(("127.0.0.1", free_port())) as listener,  # a port that was named is kept at a shutdown
        socket.socket(fileno=os.dup(listener.fileno())) as inherited,
    ):
        async with serving(app, listener, lifespan="off") as server:
            yield RunningServer(server, ListenSockets(server, shared), inherited)


async def test_connections_are_refused_after_shutdown() -> None:
    async with running_server() as running:
        address = running.address
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        other = ListenSockets(running.server)
        running.close_sockets()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert not other.has_pending_connections()  # a worker that closes later
        other.refuse_connections()


async def test_pending_connection_is_accepted_and_a_later_one_refused() -> None:
    async with running_server() as running:
        with socket.create_connection(running.address) as early:  # the server's event loop has not run yet
            assert running.sockets.has_pending_connections()
            running.sockets.drop_handshakes()
            late = asyncio.create_task(asyncio.open_connection(*running.address))
            await until(lambda: not running.sockets.has_pending_connections())
            running.sockets.stop_accepting()
            running.sockets.refuse_connections()
            with pytest.raises(ConnectionRefusedError):
                await late
            (connection,) = running.server.server_state.connections
            connection.shutdown()
            await until(lambda: not running.server.server_state.connections)
            assert early.recv(1) == b""  # closed, not reset


async def test_closed_socket_can_listen_again() -> None:
    """A worker that BentoML restarts gets the same socket."""
    async with running_server() as running:
        address = running.address
        running.close_sockets()
        running.inherited.listen()
        socket.create_connection(address, timeout=PATIENCE).close()


async def test_shared_socket_stays_open() -> None:
    async with running_server(shared=True) as running:
        running.close_sockets()
        socket.create_connection(running.address, timeout=PATIENCE).close()


class RecordedSockets:
    """Records the steps of closing the sockets in `events`; a connection is pending at the first two checks."""

    def __init__(self, events: list[str], shared: bool) -> None:
        self._events, self._pending = events, [True, True]
        events.append("shared" if shared else "last")

    def drop_handshakes(self) -> None:
        self._events.append("drop handshakes")

    def has_pending_connections(self) -> bool:
        return bool(self._pending) and self._pending.pop()

    def stop_accepting(self) -> None:
        assert not self._pending
        self._events.append("stop accepting")

    def refuse_connections(self) -> None:
        self._events.append("refuse connections")


@pytest.mark.parametrize("has_other_gateways", [True, False])
async def test_sockets_close_step_by_step_and_are_shared_while_another_gateway_serves(
    has_other_gateways: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "SETTLE_TIME", 0.01)
    if has_other_gateways:
        gateway_registry.register(tmp_path, os.getppid())
    service = started(tmp_path)
    monkeypatch.setattr(shutdown, "ListenSockets", lambda server, shared: RecordedSockets(service.events, shared))
    os.kill(PID, signal.SIGTERM)
    await until(lambda: "close" in service.events)
    first = "shared" if has_other_gateways else "last"
    assert service.events == ["drain", first, "drop handshakes", "stop accepting", "refuse connections", "close"]
    service.shutdown.uninstall()
