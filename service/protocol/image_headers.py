"""The format and size of an image, read from its first bytes; no pixel is decoded. Pure.

A decoder trusts these bytes: a file of a few kilobytes can ask for gigabytes of pixels. Where a file could be read in
two ways it is refused, because the engine's decoder may choose the other one.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_SEGMENTS = 1024  # of a JPEG before its pixels, or chunks of a PNG
MAX_BLOCKS = 2**15  # of a GIF; each has up to 255 bytes
MAX_SCANS = 64  # of a JPEG: its decoder goes over all pixels for each
PNG, GIF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
START_OF_FRAME = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
# Tables, comments and what applications add; any other marker has no place before the pixels.
JPEG_SEGMENTS = frozenset((0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))) | START_OF_FRAME
START_OF_SCAN = 0xDA


class ImageError(ValueError):
    """The bytes are no image that may be passed on; the message says why, after "it"."""


class Header(NamedTuple):
    """What an image is, and its size in pixels."""

    media_type: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """The header of a PNG, JPEG, GIF or WebP file with one frame; raises ImageError for anything else."""
    formats: tuple[tuple[bool, str, Callable[[bytes], tuple[int, int]]], ...] = (
        (data.startswith(PNG), "image/png", _png),
        (data.startswith(b"\xff\xd8\xff"), "image/jpeg", _jpeg),
        (data.startswith(GIF), "image/gif", _gif),
        (data[:4] == b"RIFF" and data[8:12] == b"WEBP", "image/webp", _webp),
    )
    for matches, media_type, measure in formats:
        if matches:
            try:
                width, height = measure(data)
            except IndexError:
                raise ImageError("ends too early") from None
            if not (width and height):
                raise ImageError("has no pixels")
            return Header(media_type, width, height)
    raise ImageError("is no PNG, JPEG, GIF or WebP")


def _big(data: bytes, start: int, size: int) -> int:
    """An unsigned integer of `size` bytes, most significant first; raises IndexError beyond the end."""
    if start + size > len(data):
        raise IndexError
    return int.from_bytes(data[start : start + size], "big")


def _little(data: bytes, start: int, size: int) -> int:
    """The same, least significant byte first."""
    if start + size > len(data):
        raise IndexError
    return int.from_bytes(data[start : start + size], "little")


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR" or _big(data, 8, 4) != 13:
        raise ImageError("is a PNG without a header")
    place = 8
    for _ in range(MAX_SEGMENTS):
        name = data[place + 4 : place + 8]
        if name == b"IDAT":
            return _big(data, 16, 4), _big(data, 20, 4)
        if name == b"acTL" and _big(data, place + 8, 4) > 1:
            raise ImageError("is animated, and one frame is what a model sees: send that")
        if name == b"IHDR" and place > 8:
            raise ImageError("is a PNG with two headers")
        place += 12 + _big(data, place, 4)
    raise ImageError("is a PNG with too much before its pixels")


def _jpeg(data: bytes) -> tuple[int, int]:
    sizes = [
        (_big(data, place + 3, 2), _big(data, place + 1, 2))
        for marker, place in _segments(data)
        if marker in START_OF_FRAME
    ]
    if len(sizes) != 1:
        raise ImageError("is a JPEG without exactly one frame")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"is a JPEG with more than {MAX_SCANS} scans: save it again as an ordinary one")
    return sizes[0]


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The marker of each segment before the first scan, and where its contents begin."""
    place = 2
    for _ in range(MAX_SEGMENTS):
        marker, length = _big(data, place, 2), _big(data, place + 2, 2)
        if marker == 0xFFFF:  # a byte that fills the space between two segments
            place += 1
            continue
        if marker == 0xFF00 | START_OF_SCAN:
            return
        if marker >> 8 != 0xFF or marker & 0xFF not in JPEG_SEGMENTS or length < 2:
            raise ImageError("is a damaged JPEG")
        yield marker & 0xFF, place + 4
        place += 2 + length
    raise ImageError("is a JPEG with too much before its pixels")


def _gif(data: bytes) -> tuple[int, int]:
    width, height, flags = _little(data, 6, 2), _little(data, 8, 2), data[10]
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames, blocks = 0, 0
    while blocks < MAX_BLOCKS:
        introducer = data[place] if place < len(data) else 0x3B  # a file without its last byte is common
        if introducer == 0x3B:
            break
        if introducer == 0x2C:  # a frame, which can be larger than what was announced
            frames += 1
            width = max(width, _little(data, place + 1, 2) + _little(data, place + 5, 2))
            height = max(height, _little(data, place + 3, 2) + _little(data, place + 7, 2))
            flags = data[place + 9]
            place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif introducer == 0x21:
            place += 2
        else:
            raise ImageError("is a damaged GIF")
        if frames > 1:
            raise ImageError("is animated, and one frame is what a model sees: send that")
        while size := data[place]:
            place, blocks = place + 1 + size, blocks + 1
            if blocks > MAX_BLOCKS:
                break
        place, blocks = place + 1, blocks + 1
    if blocks >= MAX_BLOCKS:
        raise ImageError("is a GIF of too many blocks")
    if not frames:
        raise ImageError("is a GIF without a frame")
    return width, height


def _webp(data: bytes) -> tuple[int, int]:
    kind, start = data[12:16], 20
    if kind == b"VP8X":
        if data[start] & 0x02:
            raise ImageError("is animated, and one frame is what a model sees: send that")
        return _little(data, start + 4, 3) + 1, _little(data, start + 7, 3) + 1
    if kind == b"VP8L" and data[start] == 0x2F:
        bits = _little(data, start + 1, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
        return _little(data, start + 6, 2) & 0x3FFF, _little(data, start + 8, 2) & 0x3FFF
    raise ImageError("is a damaged WebP")
