"""The filter on a listening socket, on its own: a plain listener, connections that come before and after."""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from service.gateway.shutdown import Door
from tests.support.waiting import PATIENCE

SOON = 0.2  # seconds in which a handshake on this machine would be over many times
# Another process that has the socket: it takes whoever comes within SOON, and says how many that were.
OTHER = f"""
import select, socket, sys
listener, taken = socket.socket(fileno=int(sys.argv[1])), 0
while select.select([listener], [], [], {SOON})[0]:
    taken += bool(listener.accept())
print(taken)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture
def door(listener: socket.socket) -> Iterator[Door]:
    door = Door(SimpleNamespace(servers=[SimpleNamespace(sockets=[listener], close=lambda: None)]))
    yield door
    door.refuse()


@pytest.fixture
def late(listener: socket.socket) -> Iterator[socket.socket]:
    """A client that has not come yet."""
    with socket.socket() as late:
        late.setblocking(False)
        yield late


def knock(client: socket.socket, listener: socket.socket) -> bool:
    """Whether the handshake that the client begins now is over soon."""
    client.connect_ex(listener.getsockname())
    return bool(select.select([], [client], [], SOON)[1])


def test_a_door_that_is_open_lets_everybody_in(listener: socket.socket, door: Door, late: socket.socket) -> None:
    assert knock(late, listener)
    assert door.crowded()


def test_who_comes_after_it_was_shut_is_not_let_in(listener: socket.socket, door: Door, late: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as early:
        door.shut()
        assert not knock(late, listener)
        taken, address = listener.accept()
        with taken:
            assert address == early.getsockname(), "who had come before is let in"
            early.sendall(b"request")
            assert taken.recv(100) == b"request"
            taken.sendall(b"answer")
            assert early.recv(100) == b"answer"
    assert not door.crowded()


def test_another_process_with_the_same_socket_sees_the_same(
    listener: socket.socket, door: Door, late: socket.socket
) -> None:
    with socket.create_connection(listener.getsockname()):
        door.shut()
        late.connect_ex(listener.getsockname())
        command = [sys.executable, "-c", OTHER, str(listener.fileno())]
        other = subprocess.run(command, pass_fds=[listener.fileno()], capture_output=True, timeout=PATIENCE, check=True)
    assert other.stdout == b"1\n"


def test_a_door_that_is_shared_stays_open(listener: socket.socket, late: socket.socket) -> None:
    door = Door(SimpleNamespace(servers=[SimpleNamespace(sockets=[listener], close=lambda: None)]), shared=True)
    door.shut()
    assert knock(late, listener)


def test_once_it_refuses_nobody_waits_in_vain(listener: socket.socket, door: Door, late: socket.socket) -> None:
    door.shut()
    door.refuse()
    late.setblocking(True)
    with pytest.raises(ConnectionRefusedError):
        late.connect(listener.getsockname())
