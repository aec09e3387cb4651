"""An answer on its way to a client, and a copy of it."""

from collections.abc import Callable

from service.server.asgi import Extra, Headers, Message, Send


class Tee:
    """Passes an answer on to its client and copies it, in place of ASGI's `send` and of the server's Extra.

    `reserve` is asked for memory before each piece: how many bytes have been copied, and how many come now. Once it
    refuses, the copy is given up and `body` is None.
    """

    heading: Callable[[int], Headers] | None = None

    def __init__(self, send: Send, extra: Extra | None, reserve: Callable[[int, int], bool]) -> None:
        self._send, self._extra, self._reserve = send, extra, reserve
        self.status = 0
        self.headers: Headers = ()
        self.body: bytearray | None = bytearray()
        self.complete = False

    @property
    def extra(self) -> "Tee | None":
        """What stands for the server's Extra, if it has one."""
        return self if self._extra else None

    async def send(self, message: Message) -> None:
        """Sends and copies a message of ASGI."""
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        else:
            self._copy(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends and copies a whole answer."""
        assert self._extra
        headers = tuple(headers)
        self._begin(status, headers)
        self._copy(body)
        self.complete = True
        await self._extra.answer(status, headers, body)

    def push(self, piece: bytes) -> bool:
        """Sends and copies a piece of a stream."""
        assert self._extra
        self._copy(piece)
        return self._extra.push(piece)

    def whole(self) -> bytes | None:
        """Passes the request's body on."""
        return self._extra.whole() if self._extra else None

    def tell(self, leave: Callable[[], None] | None) -> None:
        """Has `leave` called when the client leaves."""
        assert self._extra
        self._extra.tell(leave)

    def _begin(self, status: int, headers: Headers) -> None:
        # The middleware appends this request's own id to the message's list. A length is added when the copy is sent.
        self.status, self.headers = status, tuple(row for row in headers if row[0] != b"content-length")

    def _copy(self, piece: bytes) -> None:
        if self.body is None:
            return
        if self._reserve(len(self.body), len(piece)):
            self.body += piece
        else:
            self.body = None
