"""Chunks of a streamed HTTP/1.1 body that are passed on without being parsed."""

from collections.abc import Callable
from functools import lru_cache

Pipe = tuple[Callable[[bytes, float], bytes | None], Callable[[bytes], object], Callable[[], float]]
"""Where such chunks go. A tuple, because that is what Python unpacks quickest.

The first function gets what may be a chunk, and the time of the third, in seconds of the event loop's clock. It returns
what is to be written in its place, or None if it has to be parsed; what it takes must be one chunk, a line with its
size, its data, a line end, or several. The second function writes.
"""


@lru_cache(maxsize=1024)
def size_line(size: int) -> bytes:
    """The line before the data of a chunk that has `size` bytes in all; empty where no chunk has so many."""
    for digits in range(1, len(b"%x" % size) + 1):
        data = size - digits - 4
        if data > 0 and len(b"%x" % data) == digits:
            return b"%x\r\n" % data
    return b""
