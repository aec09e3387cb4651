"""Workers that share a listening socket: processes that answer with their number, and the listener of one by itself."""

import asyncio
import errno
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn

from service.server import shared_listener
from service.server.connection import Connection
from service.server.open_counts import OpenCounts
from service.server.shared_listener import PATIENCE, SharedListener, SharedServer
from tests.support.certificates import certificate
from tests.support.services import ROOT, wait_for
from tests.support.sharing_worker import answering
from tests.support.waiting import PATIENCE as TEST_PATIENCE
from tests.support.waiting import until

NEVER = 600.0  # seconds that a connection is left to others where a test is to show that it is
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Workers:
    """Processes that share a listening socket, by their numbers, and what clients see of them."""

    def __init__(self, folder: Path, count: int, patience: float) -> None:
        self._stack, self._folder, self._count, self._patience = ExitStack(), folder, count, patience
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        self.processes = {number: self.start(number) for number in range(1, count + 1)}

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        """A process, once it accepts connections."""
        descriptor = self._listener.fileno()
        words = [descriptor, self._folder, number, self._count, self._patience]
        command = [sys.executable, "-m", "tests.support.sharing_worker", *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[descriptor], cwd=ROOT)
        self._stack.callback(self._end, process)
        assert process.stdout and process.stdout.readline()
        return process

    def connections(self, count: int) -> list[socket.socket]:
        """So many new ones, which are all begun before anybody asks."""
        found = [self._stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.settimeout(TEST_PATIENCE)
            one.connect(self._listener.getsockname())
        return found

    def takers(self, connections: list[socket.socket]) -> list[int]:
        """The workers that answer on these connections."""
        for one in connections:
            one.sendall(REQUEST)
        return [int(one.recv(1000).decode()[-1]) for one in connections]

    def open(self) -> list[int]:
        """How many connections each worker says that it has."""
        rows = struct.iter_unpack("=2q", (self._folder / "connections").read_bytes())
        return [count - 1 for count, _ in rows][: self._count]

    def close(self) -> None:
        self._stack.close()

    @staticmethod
    def _end(process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.communicate()


@pytest.fixture
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """By default two, which never take what is another's to take, however slow that one is."""
    count, patience = getattr(request, "param", (2, NEVER))
    workers = Workers(tmp_path, count, patience)
    yield workers
    workers.close()


@pytest.mark.parametrize("workers", [(2, NEVER), (3, NEVER)], indirect=True)
def test_connections_that_come_at_once_are_shared_evenly(workers: Workers) -> None:
    taken = Counter(workers.takers(workers.connections(64)))
    assert taken.keys() == workers.processes.keys()
    assert max(taken.values()) - min(taken.values()) <= 1


@pytest.mark.parametrize("workers", [(2, NEVER), (3, NEVER)], indirect=True)
def test_connections_that_come_one_after_another_are_shared_evenly(workers: Workers) -> None:
    taken = Counter[int]()
    for _ in range(64):
        taken.update(workers.takers(workers.connections(1)))
        counts = [taken[number] for number in workers.processes]
        assert max(counts) - min(counts) <= 1


def test_a_worker_whose_connections_were_closed_gets_the_next(workers: Workers) -> None:
    connections = workers.connections(20)
    takers = workers.takers(connections)
    for one, taker in zip(connections, takers, strict=True):
        if taker == 1:
            one.close()
    wait_for(lambda: workers.open() == [0, 10], TEST_PATIENCE, "the worker has noticed it")
    assert workers.takers(workers.connections(10)) == [1] * 10


@pytest.mark.parametrize("workers", [(2, PATIENCE), (3, PATIENCE)], indirect=True)
def test_nothing_waits_for_a_frozen_worker(workers: Workers) -> None:
    before = workers.takers(workers.connections(30))
    workers.processes[1].send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(workers.processes[1]), TEST_PATIENCE, "it is frozen")
    assert 1 not in workers.takers(workers.connections(2 * len(before)))
    workers.processes[1].send_signal(signal.SIGCONT)
    wait_for(lambda: 1 in workers.takers(workers.connections(1)), TEST_PATIENCE, "it gets connections again")


def is_stopped(process: "subprocess.Popen[bytes]") -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1][0] == "T"


@pytest.mark.parametrize("workers", [(2, PATIENCE)], indirect=True)
def test_nothing_waits_for_a_killed_worker_and_the_next_one_takes_its_place(workers: Workers) -> None:
    workers.takers(workers.connections(20))
    workers.processes[1].kill()
    workers.processes[1].wait()
    assert workers.takers(workers.connections(20)) == [2] * 20
    workers.start(1)
    assert workers.open()[0] == 0
    wait_for(lambda: 1 in workers.takers(workers.connections(1)), TEST_PATIENCE, "it gets connections")


def test_nothing_waits_for_a_worker_that_has_stopped_accepting(workers: Workers) -> None:
    """It does not come back among the others when it closes the connections that it has."""
    workers.takers(workers.connections(20))
    workers.processes[1].send_signal(signal.SIGTERM)
    workers.processes[1].wait()
    assert workers.open() == [-1, 10]
    assert workers.takers(workers.connections(20)) == [2] * 20


class Alone:
    """The listener of a worker, beside a worker that only counts; `taken` are the connections that it accepts."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.counts, self.other, self.taken = OpenCounts(folder, 1, 2), OpenCounts(folder, 2, 2), list[socket.socket]()
        self.socket = listener
        self.listener = SharedListener(listener, 128, self.counts, self.taken.append, NEVER)
        self.counts.show(5)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.socket.getsockname())

    def other_is_rung(self) -> bool:
        return bool(select.select([self.other.bell], [], [], 0)[0] and self.other.bell.recv(1) == b"")

    def close(self) -> None:
        self.listener.close()
        self.other.bell.close()
        for one in self.taken:
            one.close()


class Full(socket.socket):
    """A listening socket at which the process has as many files open as it may, so many times."""

    times = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Alone]:
    with Full() as listener:
        listener.bind(("127.0.0.1", 0))
        alone = Alone(tmp_path, listener)
        yield alone
        alone.close()


async def test_a_connection_is_left_to_a_worker_that_has_fewer(alone: Alone) -> None:
    alone.other.join()
    with alone.connect():
        await until(alone.other_is_rung)
        assert not alone.taken
        alone.other.show(5)
        alone.other.ring(0)
        await until(lambda: len(alone.taken) == 1)


async def test_a_late_worker_is_not_waited_for_again_until_it_runs(alone: Alone) -> None:
    alone.other.join()
    alone.listener._patience = 0.01
    with alone.connect(), alone.connect(), alone.connect():
        await until(lambda: bool(alone.taken), "the first is taken in its place")
        alone.listener._patience = NEVER
        await until(lambda: len(alone.taken) == 3)
    while alone.other_is_rung():
        pass
    alone.other.beat()
    with alone.connect():
        await until(alone.other_is_rung)
        assert len(alone.taken) == 3


async def test_who_cannot_accept_is_not_waited_for(alone: Alone) -> None:
    alone.other.show(9)
    alone.other.join()
    assert alone.other.fewer()
    assert isinstance(alone.socket, Full)
    alone.socket.times = 3
    with alone.connect():
        await until(lambda: not alone.other.fewer(), "it says that it accepts none")
        await until(lambda: len(alone.taken) == 1, "it has tried again")
        assert alone.other.fewer()


async def test_a_worker_shows_that_it_runs_though_nothing_happens(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.other.show(9)
    alone.other.join()
    monkeypatch.setattr(shared_listener, "BEAT", 0.01)
    alone.listener._next_beat.cancel()
    alone.listener._beat()
    before = alone.other.fewer()
    await until(lambda: alone.other.fewer() != before)


async def test_a_closed_listener_accepts_nothing_and_is_not_waited_for(alone: Alone) -> None:
    alone.other.show(9)
    alone.other.join()
    alone.listener.close()
    alone.listener.close()
    assert not alone.other.fewer() and not alone.listener.sockets
    with alone.connect():
        assert select.select([alone.socket], [], [], TEST_PATIENCE)[0]
        await alone.listener.wait_closed()
    assert not alone.taken


class Serving:
    """A server in the test's own loop, beside a worker without connections that only counts."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        config = uvicorn.Config(answering("1"), http=Connection, lifespan="off", log_config=None)
        config.load()
        self.config, self.listener = config, listener
        self.counts, self.other = OpenCounts(folder, 1, 2), OpenCounts(folder, 2, 2)
        self.server = SharedServer(config, self.counts)
        self.server.lifespan = config.lifespan_class(config)

    def is_open(self) -> bool:
        """Whether the server counts a connection."""
        return bool(self.counts.fewer())


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX])
async def serving(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    address = str(tmp_path / "s.sock") if request.param == socket.AF_UNIX else ("127.0.0.1", 0)
    with socket.create_server(address, family=request.param) as listener:
        serving = Serving(tmp_path, listener)
        serving.other.join()
        await serving.server.startup([listener])
        yield serving
        serving.server.servers[0].close()
        for one in list(serving.server.server_state.connections):
            one.shutdown()
        await until(lambda: not serving.server.server_state.connections)
        serving.other.bell.close()


def tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder))
    return context


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_connection_counts_until_it_is_closed(encrypted: bool, serving: Serving, tmp_path: Path) -> None:
    client = None
    if encrypted:
        serving.config.ssl = tls(tmp_path)
        client = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        client.check_hostname = False
    with socket.socket(serving.listener.family) as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, serving.listener.getsockname())
        reader, writer = await asyncio.open_connection(
            sock=connection, ssl=client, server_hostname="127.0.0.1" if client else None
        )
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n") + await reader.read(1)).endswith(b"\r\n\r\n1")
        assert serving.is_open()
        writer.close()
        await until(lambda: not serving.is_open())


async def test_a_handshake_of_tls_that_fails_is_no_open_connection(serving: Serving, tmp_path: Path) -> None:
    serving.config.ssl = tls(tmp_path)
    with socket.socket(serving.listener.family) as client:
        client.connect(serving.listener.getsockname())
        await until(serving.is_open)
        assert not serving.server.server_state.connections, "uvicorn does not know it yet"
        client.sendall(REQUEST)
        await until(lambda: not serving.is_open())
