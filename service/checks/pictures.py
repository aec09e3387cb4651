"""Decodes images as an engine does, with Pillow; part of the program `worker`."""

import io
import struct
import warnings
import zlib
from importlib.util import find_spec

from service.checks.schema_bounds import RefusedError

DAMAGED = "damaged"


def present() -> list[str]:
    """The name of what decodes, where it is installed."""
    return ["Pillow"] if find_spec("PIL") else []


def can_decode() -> bool:
    """Whether Pillow is installed, with the plugins of all formats that are accepted loaded."""
    try:
        from PIL import Image
    except ImportError:
        return False
    Image.preinit()
    from PIL import WebPImagePlugin  # noqa: F401

    return True


def decode(data: bytes, most_pixels: int) -> None:
    """Decodes all pixels of an image; raises RefusedError if that cannot be done."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = most_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP")) as image:
                image.load()
                image.convert("RGB")
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error, zlib.error, Warning):
        raise RefusedError(DAMAGED) from None
    except Image.DecompressionBombError:
        raise RefusedError(DAMAGED) from None
