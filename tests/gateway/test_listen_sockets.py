"""Closing listening sockets, without a server: a plain listener, connections made before and after each step."""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from service.gateway.shutdown import ListenSockets
from tests.support.waiting import PATIENCE

HANDSHAKE_LIMIT = 0.2  # seconds; a handshake within this machine takes far less
# Another process with the same socket: it prints how many connections it accepts until none comes any more.
OTHER = f"""
import select, socket, sys
listener, accepted = socket.socket(fileno=int(sys.argv[1])), 0
while select.select([listener], [], [], {HANDSHAKE_LIMIT})[0]:
    accepted += bool(listener.accept())
print(accepted)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def server(listener: socket.socket) -> SimpleNamespace:
    """What `ListenSockets` uses of a uvicorn server."""
    return SimpleNamespace(servers=[SimpleNamespace(sockets=[listener], close=lambda: None)])


@pytest.fixture
def sockets(listener: socket.socket) -> Iterator[ListenSockets]:
    sockets = ListenSockets(server(listener))
    yield sockets
    sockets.refuse_connections()


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """A client that has not connected yet."""
    with socket.socket() as client:
        client.setblocking(False)
        yield client


def connects(client: socket.socket, listener: socket.socket) -> bool:
    """Whether the handshake that the client begins now completes."""
    client.connect_ex(listener.getsockname())
    return bool(select.select([], [client], [], HANDSHAKE_LIMIT)[1])


def test_connections_are_accepted_before_the_first_step(
    listener: socket.socket, sockets: ListenSockets, client: socket.socket
) -> None:
    assert connects(client, listener)
    assert sockets.has_pending_connections()


def test_handshakes_are_dropped_and_earlier_connections_work(
    listener: socket.socket, sockets: ListenSockets, client: socket.socket
) -> None:
    with socket.create_connection(listener.getsockname()) as early:
        sockets.drop_handshakes()
        assert not connects(client, listener)
        connection, address = listener.accept()
        with connection:
            assert address == early.getsockname()
            early.sendall(b"request")
            assert connection.recv(100) == b"request"
            connection.sendall(b"response")
            assert early.recv(100) == b"response"
    assert not sockets.has_pending_connections()


def test_handshakes_are_dropped_for_other_processes_with_the_socket_too(
    listener: socket.socket, sockets: ListenSockets, client: socket.socket
) -> None:
    with socket.create_connection(listener.getsockname()):
        sockets.drop_handshakes()
        client.connect_ex(listener.getsockname())
        command = [sys.executable, "-c", OTHER, str(listener.fileno())]
        other = subprocess.run(command, pass_fds=[listener.fileno()], capture_output=True, timeout=PATIENCE, check=True)
    assert other.stdout == b"1\n"


def test_shared_sockets_accept_handshakes(listener: socket.socket, client: socket.socket) -> None:
    ListenSockets(server(listener), shared=True).drop_handshakes()
    assert connects(client, listener)


def test_connections_are_refused_after_the_last_step(
    listener: socket.socket, sockets: ListenSockets, client: socket.socket
) -> None:
    sockets.drop_handshakes()
    sockets.refuse_connections()
    client.setblocking(True)
    with pytest.raises(ConnectionRefusedError):
        client.connect(listener.getsockname())
