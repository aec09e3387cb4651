"""The size of images, without decoding them: as Pillow reads it, and refused where files could be read in two ways."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from service.protocol.image_headers import MAX_BLOCKS, MAX_SCANS, MAX_SEGMENTS, Header, ImageError, read_header
from tests.support.pictures import animation, picture

ANIMATED = "is animated"
EXIF = b"Exif\0\0" + b"x" * 9
TWICE = b"\xff\xc0\x00\x0b\x08\x7f\xff\x7f\xff\x01\x01\x11\x00"  # a second frame header of a JPEG, for 32767 × 32767


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes, width: int = 3, height: int = 2) -> bytes:
    """A PNG with these chunks between its header and its end."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


JPEG, GIF, WEBP = picture("JPEG"), picture("GIF"), picture("WEBP")
FRAME = GIF[GIF.index(b",\0\0\0\0\3\0\2\0") : -1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("GIF", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"exif": EXIF}),
        ("JPEG", {"comment": b"made by hand", "icc_profile": b"p" * 150_000}), ("WEBP", {}),
        ("WEBP", {"lossless": True}), ("WEBP", {"exif": EXIF}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("width", "height"), [(1, 1), (300, 5), (257, 1025)])
def test_the_size_is_pillows(kind: str, options: dict[str, Any], width: int, height: int) -> None:
    data = picture(kind, width, height, **options)
    assert read_header(data) == Header(f"image/{kind.lower()}", width, height)


def test_a_frame_larger_than_the_gif_announces_counts() -> None:
    data = GIF.replace(b",\0\0\0\0\3\0\2\0", b",\1\0\2\0\x90\1\xf4\1")
    assert read_header(data) == Header("image/gif", 401, 502)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (401, 502), "Pillow would decode as many pixels"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no PNG, JPEG, GIF or WebP"),
        (b"BM" + bytes(60), "is no PNG, JPEG, GIF or WebP"),
        (b"<svg/>", "is no PNG, JPEG, GIF or WebP"),
        (picture("TIFF"), "is no PNG, JPEG, GIF or WebP"),
        (animation("PNG"), ANIMATED), (animation("GIF"), ANIMATED), (animation("WEBP"), ANIMATED),
        (b"\x89PNG\r\n\x1a\n", "is a PNG without a header"),
        (png(), "ends too early"),
        (png(chunk(b"IHDR", b"\0\0\x7f\xff\0\0\x7f\xff\x08\2\0\0\0"), chunk(b"IDAT", b"")), "two headers"),
        (png(*[chunk(b"teXt", b"")] * (MAX_SEGMENTS + 1), chunk(b"IDAT", b"")), "too much before its pixels"),
        (png(chunk(b"IDAT", b""), width=0), "has no pixels"),
        (JPEG[:20], "ends too early"),
        (JPEG[:2] + TWICE + JPEG[2:], "without exactly one frame"),
        (JPEG[:2] + segment(0xDA) + JPEG[2:], "without exactly one frame"),
        (JPEG[:2] + b"\xff\xd8" + TWICE + JPEG[2:], "is a damaged JPEG"),
        (JPEG[:3] + b"\0" + JPEG[3:], "is a damaged JPEG"),
        (JPEG[:2] + segment(0xFE) * MAX_SEGMENTS + JPEG[2:], "too much before its pixels"),
        (JPEG[:2] + b"\xff" * (MAX_SEGMENTS + 9) + JPEG[2:], "too much before its pixels"),
        (JPEG + segment(0xDA) * MAX_SCANS, "scans"),
        (GIF[:10], "ends too early"),
        (GIF[: GIF.index(FRAME)] + b";", "without a frame"),
        (GIF[: GIF.index(FRAME)] + b"?" + FRAME, "is a damaged GIF"),
        (GIF[: GIF.index(FRAME)] + b"!\xfe" + b"\1x" * MAX_BLOCKS + b"\0" + FRAME, "too many blocks"),
        (WEBP[:12], "is a damaged WebP"),
        (WEBP[:27], "ends too early"),
        (WEBP[:12] + b"JUNK" + WEBP[16:], "is a damaged WebP"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_image_or_not_surely_one_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        read_header(data)


STARTS = st.sampled_from([b"", picture(), JPEG, GIF, WEBP, animation("GIF"), animation("PNG")])


@given(STARTS, st.integers(0, 80), st.binary(max_size=64))
@example(GIF, len(GIF) - 1, b"")
def test_any_bytes_are_measured_or_refused(start: bytes, kept: int, more: bytes) -> None:
    try:
        header = read_header(start[:kept] + more)
    except ImageError as error:
        assert str(error)
    else:
        assert header.width > 0 < header.height
