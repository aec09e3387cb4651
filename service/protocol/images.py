"""The images of a request: found, and checked against what an engine may be asked to decode. Pure."""

from binascii import a2b_base64
from collections.abc import Iterator, Sequence

from service.errors import ApiError, ErrorCode
from service.fleet.image_bounds import ImageBounds
from service.protocol.anthropic import CountRequest
from service.protocol.image_headers import ImageError, read_header
from service.protocol.parts import Image, images_of_blocks, images_of_output, images_of_parts, is_list, no_image
from service.protocol.requests import Body, ChatRequest, ResponsesRequest
from service.protocol.tokenization import TokenizeRequest
from service.protocol.validation_errors import wrong_value

MEDIA_TYPES = {name: name for name in ("image/png", "image/jpeg", "image/gif", "image/webp")} | {
    "image/jpg": "image/jpeg"  # no registered name, and a common one
}
MAX_RATIO = 100  # of the sides; engines scale the shorter one up to what the model sees, and the longer one with it
SLICE = 2**18  # characters that are decoded at once: between two, other threads can run
TOKENS = 1024  # what an image is estimated to be in a prompt


def find_images(request: Body) -> list[Image]:
    """The images of a request, in order; raises the 400 for a part of a message that no engine may get."""
    return list(_images(request))


def _images(request: Body) -> Iterator[Image]:
    kind = type(request)
    if isinstance(request, ChatRequest | TokenizeRequest):
        for index, message in enumerate(request.messages or []):
            if isinstance(message.content, list):
                yield from images_of_parts(kind, f"messages[{index}].content", message.content)
    elif isinstance(request, ResponsesRequest) and isinstance(request.input, list):
        for index, item in enumerate(request.input):
            if isinstance(item.content, list):
                yield from images_of_parts(kind, f"input[{index}].content", item.content)
            if is_list(item.output):
                yield from images_of_output(kind, f"input[{index}].output", item.output)
    elif isinstance(request, CountRequest):
        if isinstance(request.system, list):
            yield from images_of_blocks(kind, "system", request.system)
        for index, turn in enumerate(request.messages):
            if isinstance(turn.content, list) and not no_image((turn.content,)):
                yield from images_of_blocks(kind, f"messages[{index}].content", turn.content)


def check_images(images: Sequence[Image], bounds: ImageBounds) -> list[bytes]:
    """The files of the images; raises the 400 for the first that is none, or that is more than the bounds allow.

    All of the data is decoded from base64, which takes some 5 ms for each MB, so this belongs in a thread of its own.
    """
    if len(images) > bounds.max_count:
        words = f"the request has {len(images)} images, and {bounds.max_count} are allowed: leave some out"
        raise ApiError(ErrorCode.INVALID_VALUE, f"{words[0].upper()}{words[1:]}.", images[bounds.max_count].path)
    pixels, files = 0, []
    for image in images:
        declared = MEDIA_TYPES.get(image.media_type.lower())
        if declared is None:
            raise _wrong(image, f"it should be a PNG, JPEG, GIF or WebP, not '{image.media_type[:64]}'", "media_type")
        size = len(image.data) * 3 // 4 - image.data[-2:].count("=")
        if size > bounds.max_bytes:
            raise _too_large(image, size, bounds.max_bytes)
        try:
            files.append(_decode(image.data))
            header = read_header(files[-1])
        except ImageError as error:
            raise _wrong(image, f"it {error}", "data") from None
        if header.media_type != declared:
            raise _wrong(image, f"it is declared as {declared}, and its data is {header.media_type}", "media_type")
        longer, shorter = max(header[1:]), min(header[1:])
        extent = f"it is an image of {header.width} × {header.height} pixels"
        if longer > MAX_RATIO * shorter:
            raise _wrong(image, f"{extent}, and no side may be over {MAX_RATIO} times the other: crop it", "data")
        pixels += header.width * header.height
        if pixels > bounds.max_pixels:
            total = f"all images of a request may have {bounds.max_pixels:,} pixels together: scale them down"
            raise _wrong(image, f"{extent}, and {total}", "data")
    return files


def prompt_estimate(body_bytes: float, bytes_per_token: int, images: Sequence[Image]) -> float:
    """The estimated tokens of a prompt. The data of an image is in the body, and says little of its tokens."""
    if not images:
        return body_bytes / bytes_per_token
    return (body_bytes - sum(len(image.data) for image in images)) / bytes_per_token + TOKENS * len(images)


def _decode(data: str) -> bytes:
    """The bytes of strict base64, without line breaks and with all of its padding."""
    if "=" in data[:-2] or not data:
        raise ImageError("is not valid base64: leave out line breaks and keep the padding")
    try:
        starts = range(0, len(data), SLICE)
        return b"".join([a2b_base64(data[start : start + SLICE], strict_mode=True) for start in starts])
    except ValueError:
        raise ImageError("is not valid base64: leave out line breaks and keep the padding") from None


def _wrong(image: Image, reason: str, member: str) -> ApiError:
    anthropic = getattr(image.kind, "anthropic", False)
    return wrong_value(image.kind, f"{image.path}.{member}" if anthropic else image.path, reason)


def _too_large(image: Image, size: int, max_bytes: int) -> ApiError:
    """The words on Anthropic's endpoints are those by which its clients know that they should shrink an image."""
    if getattr(image.kind, "anthropic", False):
        path = image.path.replace("[", ".").replace("]", "")
        text = f"{path}: image exceeds {max_bytes / 2**20:g} MB maximum: {size} bytes > {max_bytes} bytes"
        return ApiError(ErrorCode.INVALID_VALUE, text, image.path)
    reason = f"it is an image of {size:,} bytes, and {max_bytes:,} are allowed: send a smaller one"
    return wrong_value(image.kind, image.path, reason)
