"""Image files for tests, and the parts and blocks that carry them."""

import base64
import io
from typing import Any

from PIL import Image


def picture(kind: str = "PNG", width: int = 3, height: int = 2, colour: str = "red", **options: Any) -> bytes:
    """An image file of one colour that Pillow writes."""
    with io.BytesIO() as file:
        Image.new("RGB", (width, height), colour).save(file, kind, **options)
        return file.getvalue()


def animation(kind: str) -> bytes:
    """An image file of two frames."""
    frame = Image.new("RGB", (3, 2), (0, 0, 255))
    return picture(kind, save_all=True, append_images=[frame], duration=100)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64_of(data)}"


def chat_part(url: str) -> dict[str, Any]:
    """A part of a message of chat completions."""
    return {"type": "image_url", "image_url": {"url": url}}


def responses_part(url: str) -> dict[str, Any]:
    """A part of a message of the Responses API."""
    return {"type": "input_image", "image_url": url}


def block(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """A block of Anthropic's API."""
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": base64_of(data)}}
