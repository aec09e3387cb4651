"""An answer reaches its client as it was sent, and the copy holds the same."""

from collections.abc import Callable

import pytest

from service.relay.tee import Tee
from service.server.asgi import Headers, Message, respond

TYPE = (b"content-type", b"text/plain")


class Server:
    """What a client was sent; it is an Extra, too. It grants ten bytes for a copy."""

    extra_headers: Callable[[int], Headers] | None = None

    def __init__(self) -> None:
        self.status, self.body, self.ended, self.room = 0, b"", False, True
        self.headers: list[tuple[bytes, bytes]] = []
        self.leave: Callable[[], None] | None = None
        self.copied = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-request-id", b"1"))  # as the middleware does
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body, self.ended = status, [*headers], body, True

    def write_now(self, piece: bytes) -> bool:
        self.body += piece
        return self.room

    def chunk_writer(self, on_full: Callable[[], None]) -> Callable[[bytes], object]:
        raise AssertionError("what is copied is written with `write_now`")

    def buffered_body(self) -> bytes | None:
        return b"the request"

    def on_disconnect(self, leave: Callable[[], None] | None) -> None:
        self.leave = leave

    def reserve(self, copied: int, more: int) -> bool:
        assert copied == self.copied
        self.copied += more
        return self.copied <= 10


def copy(tee: Tee) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    assert tee.body is not None
    return tee.status, [*tee.headers], bytes(tee.body), tee.complete


@pytest.fixture
def server() -> Server:
    return Server()


async def test_messages(server: Server) -> None:
    tee = Tee(server.send, None, server.reserve)
    assert tee.extra is None
    await tee.send({"type": "http.response.start", "status": 201, "headers": [TYPE]})
    for piece in (b"one ", b"two"):
        await tee.send({"type": "http.response.body", "body": piece, "more_body": True})
        assert not tee.complete
    await tee.send({"type": "http.response.body"})
    assert copy(tee) == (201, [TYPE], b"one two", True)
    assert (server.status, server.body, server.ended) == (201, b"one two", True)
    assert server.headers == [TYPE, (b"x-request-id", b"1")]


async def test_an_answer_in_messages_is_copied_without_its_length(server: Server) -> None:
    tee = Tee(server.send, None, server.reserve)
    await respond(tee.send, 200, b"answer", [TYPE])
    assert copy(tee) == (200, [TYPE], b"answer", True)
    assert (b"content-length", b"6") in server.headers


async def test_an_answer_in_one_call(server: Server) -> None:
    tee = Tee(server.send, server, server.reserve)
    assert tee.extra is tee
    await tee.respond(200, [TYPE], b"answer")
    assert copy(tee) == (200, [TYPE], b"answer", True)
    assert (server.status, server.headers, server.body, server.ended) == (200, [TYPE], b"answer", True)


@pytest.mark.parametrize("room", [False, True])
async def test_a_stream_that_is_pushed(room: bool, server: Server) -> None:
    server.room = room
    tee = Tee(server.send, server, server.reserve)
    await tee.send({"type": "http.response.start", "status": 200, "headers": [TYPE]})
    assert [tee.write_now(piece) for piece in (b"one ", b"two")] == [room, room]
    assert not tee.complete
    await tee.send({"type": "http.response.body", "body": b""})
    assert copy(tee) == (200, [TYPE], b"one two", True)
    assert (server.body, server.ended) == (b"one two", True)


async def test_what_finds_no_room_reaches_its_client_all_the_same(server: Server) -> None:
    tee = Tee(server.send, server, server.reserve)
    await tee.send({"type": "http.response.start", "status": 200, "headers": []})
    tee.write_now(b"12345")
    tee.write_now(b"123456")
    tee.write_now(b"7")  # would find room again, and is not asked about
    await tee.send({"type": "http.response.body", "body": b"8", "more_body": False})
    assert tee.body is None
    assert server.copied == 11
    assert (server.body, server.ended) == (b"1234512345678", True)


def test_the_rest_is_the_servers(server: Server) -> None:
    tee = Tee(server.send, server, server.reserve)
    assert tee.buffered_body() == b"the request"
    tee.on_disconnect(print)
    assert server.leave is print
    tee.on_disconnect(None)
    assert server.leave is None
