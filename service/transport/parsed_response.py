"""What the parser finds of a response."""

import httptools

from service.transport.connect import TransportError


class ParsedResponse:
    """The response that is being read, as the parser calls back: `status` is 0 until its head has been read.

    `_chunks` is what was read of its body. `_between_chunks` says that it is streamed, and that the next byte is the
    first of the line with the size of a chunk, or of an unfinished one.
    """

    __slots__ = ("_between_chunks", "_chunks", "_complete", "_keeps_alive", "_parser", "on_body", "status")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.on_body = self._chunks.append  # a bound method of the list: the parser calls it for every chunk
        self._parser = httptools.HttpResponseParser(self)
        self._complete, self._keeps_alive, self._between_chunks, self.status = True, False, False, 0

    def on_message_begin(self) -> None:
        """A response begins."""
        if self._complete:
            # Raising stops the parser, so no byte of this response is added to the previous one.
            raise TransportError("the replica sent a response without a request")

    def on_headers_complete(self) -> None:
        """The head has been read."""
        status: int = self._parser.get_status_code()
        if status < 200:
            raise TransportError(f"unexpected interim response with status {status}")
        self.status = status

    def on_chunk_header(self) -> None:
        """The size of a chunk has been read."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """A chunk has been read, and its line end."""
        self._between_chunks = True

    def on_message_complete(self) -> None:
        """The response has been read."""
        self._complete = True
        self._keeps_alive = self._parser.should_keep_alive()  # not available after this callback
