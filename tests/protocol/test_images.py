"""The bounds of images, checked without decoding a pixel."""

import struct
import zlib
from typing import Any

import pytest

from service.errors import ApiError
from service.fleet.image_bounds import ImageBounds
from service.protocol.anthropic import MessagesRequest
from service.protocol.images import SLICE, check_images, prompt_estimate
from service.protocol.parts import Image
from service.protocol.requests import Body, ChatRequest
from tests.protocol.test_image_headers import chunk, png
from tests.support.pictures import animation, base64_of, picture

PATH = "messages[0].content[0].image_url.url"
SOURCE = "messages[0].content[0].image.source.base64"
BOMB = png(chunk(b"IDAT", zlib.compress(b"")), width=30_000, height=30_000)
RED = base64_of(picture())


def image(data: str = RED, media_type: str = "image/png", kind: type[Body] = ChatRequest) -> Image:
    return Image(kind, PATH if kind is ChatRequest else SOURCE, media_type, data)


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("image/png", picture()), ("image/jpeg", picture("JPEG")), ("image/jpg", picture("JPEG")),
        ("IMAGE/GIF", picture("GIF")), ("image/webp", picture("WEBP")), ("image/png", picture("PNG", 100, 1)),
        ("image/png", picture() + bytes(2 * SLICE)),
    ],
)  # fmt: skip
def test_what_engines_may_get(media_type: str, data: bytes) -> None:
    check_images([image(base64_of(data), media_type)], ImageBounds())


DAMAGED = "is not valid base64"


@pytest.mark.parametrize(
    ("given", "bounds", "words"),
    [
        (image(media_type="image/svg+xml"), {}, "it should be a PNG, JPEG, GIF or WebP, not 'image/svg+xml'"),
        (image(media_type=""), {}, "it should be a PNG"),
        (image(media_type="video/jpeg"), {}, "it should be a PNG"),
        (image(media_type="image/png;charset=utf-8"), {}, "it should be a PNG"),
        (image(media_type="image/jpeg"), {}, "declared as image/jpeg, and its data is image/png"),
        (image(""), {}, DAMAGED), (image(RED[:-1]), {}, DAMAGED), (image(RED + "\n"), {}, DAMAGED),
        (image("é" + RED[1:]), {}, DAMAGED), (image(RED.replace("A", "-", 1)), {}, DAMAGED),
        (image("QQ==" + RED), {}, DAMAGED), (image(base64_of(bytes(SLICE + 1))[:-4] + "A=AA"), {}, DAMAGED),
        (image(base64_of(b"%PDF-1.7")), {}, "is no PNG, JPEG, GIF or WebP"),
        (image(base64_of(animation("GIF")), "image/gif"), {}, "it is animated"),
        (image(), {"max_bytes": 20}, "bytes, and 20 are allowed: send a smaller one"),
        (image(), {"max_pixels": 5}, "3 × 2 pixels, and all images of a request may have 5 pixels together"),
        (image(base64_of(BOMB)), {}, "30000 × 30000 pixels"),
        (image(base64_of(picture("PNG", 101, 1))), {}, "no side may be over 100 times the other"),
    ],
    ids=lambda value: value.replace("×", "x") if isinstance(value, str) else "",  # mutmut finds no other
)  # fmt: skip
def test_what_they_may_not_get(given: Image, bounds: dict[str, int], words: str) -> None:
    with pytest.raises(ApiError) as raised:
        check_images([given], ImageBounds(**bounds))
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, "invalid_value", PATH)
    assert words in raised.value.message
    assert len(raised.value.message) < 300


def test_bounds_are_those_of_a_whole_request() -> None:
    check_images([image()] * 3, ImageBounds(max_count=3, max_pixels=18))
    with pytest.raises(ApiError, match="The request has 4 images, and 3 are allowed"):
        check_images([image()] * 4, ImageBounds(max_count=3))
    with pytest.raises(ApiError, match="17 pixels together: scale them down"):
        check_images([image()] * 3, ImageBounds(max_pixels=17))


@pytest.mark.parametrize(
    ("given", "bounds", "message"),
    [
        ({"data": base64_of(bytes(2**20 + 1))}, {"max_bytes": 2**20},
         ": image exceeds 1 MB maximum: 1048577 bytes > 1048576 bytes"),
        ({"media_type": "image/gif"}, {}, ".media_type: Input is declared as image/gif, and its data is image/png"),
        ({"data": base64_of(b"hello!")}, {}, ".data: Input is no PNG, JPEG, GIF or WebP"),
        ({"data": base64_of(BOMB)}, {}, ".data: Input is an image of 30000 × 30000 pixels, and all images of a"),
    ],
)  # fmt: skip
def test_anthropics_clients_get_its_words(given: dict[str, Any], bounds: dict[str, int], message: str) -> None:
    with pytest.raises(ApiError) as raised:
        check_images([image(**given, kind=MessagesRequest)], ImageBounds(**bounds))
    assert raised.value.message.startswith("messages.0.content.0.image.source.base64" + message)


def test_the_data_of_images_is_no_text_of_a_prompt() -> None:
    body_bytes = 400 + len(RED)
    assert prompt_estimate(body_bytes, 4, [image()]) == 100 + 1024
    assert prompt_estimate(400, 4, ()) == 100


def test_a_bomb_is_small() -> None:
    assert len(BOMB) < 100
    assert struct.unpack(">II", BOMB[16:24]) == (30_000, 30_000)
