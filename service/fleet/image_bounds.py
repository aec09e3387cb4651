"""How much of images one request may have, so that no request makes an engine decode gigabytes."""

from pydantic import NonNegativeInt, PositiveInt

from service.config.strict_yaml import Frozen


class ImageBounds(Frozen):
    """`max_count` images, each of `max_bytes` at most, and `max_pixels` of all of them together. No images with 0."""

    max_count: NonNegativeInt = 20
    max_bytes: PositiveInt = 5 * 2**20
    max_pixels: PositiveInt = 2**26
