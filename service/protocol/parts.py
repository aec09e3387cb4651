"""Parts of messages: what is read of them, and the images among them. Pure.

vLLM fetches every URL that a part names, and decodes what it gets. So nothing but text and images reaches it, and of
images only those whose data is in the request.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from service.protocol import validation_errors

NOTHING = Raw(b"")
OPENING_BRACKET = ord("[")
NO_AUDIO = "audio is not taken here: send a transcript as text"
NO_VIDEO = "videos are not taken here: send single frames as images"
NO_TENSORS = "tensors are not accepted from clients: send the image itself, as a data: URL"
NO_FILES = "files are not read here: send their text"
# Types of parts that vLLM would load from wherever they point to, or whose decoding nothing bounds.
REFUSED = {
    "input_audio": NO_AUDIO, "audio_url": NO_AUDIO, "video_url": NO_VIDEO, "image_embeds": NO_TENSORS,
    "audio_embeds": NO_TENSORS, "video_embeds": NO_TENSORS, "prompt_embeds": NO_TENSORS, "image_pil": NO_TENSORS,
    "file": NO_FILES, "input_file": NO_FILES,
}  # fmt: skip
PLAIN = frozenset(("text", "input_text", "output_text", "refusal", "thinking"))
ELSEWHERE = "images are not fetched from anywhere, so send the data itself"


class ImageUrl(Struct, gc=False):
    """Where an image is; its `detail` is the engine's."""

    url: str


class Part(Struct, gc=False):
    """A part of a message of OpenAI's APIs, of any type."""

    type: str | None = None
    text: str | None = None
    image_url: str | ImageUrl | None = None
    detail: str | None = None
    file_id: str | None = None
    uuid: Raw = NOTHING


class Source(Struct, gc=False):
    """Where the data of an image, or of another block of Anthropic's API, is."""

    type: str | None = None
    media_type: str | None = None
    data: str | None = None


class Block(Struct, gc=False):
    """A block of content of Anthropic's API, of any type. The `content` of a tool's result may be blocks, too."""

    type: str | None = None
    text: str | None = None
    source: Source | str | None = None
    content: Raw = NOTHING


class Image(NamedTuple):
    """An image of a request of this `kind`, in base64, and the path of the field that has it."""

    kind: type
    path: str
    media_type: str
    data: str


PARTS, BLOCKS = msgspec.json.Decoder(list[Part]), msgspec.json.Decoder(list[Block])


def is_list(raw: Raw) -> bool:
    """Whether what was not decoded with the body is a list, so that there may be parts in it."""
    return raw is not NOTHING and memoryview(raw)[0] == OPENING_BRACKET


def any_list(raws: Iterable[Raw]) -> bool:
    """Whether one of them is a list; of most requests none is, however many results of tools they have."""
    return any(map(is_list, raws))


def only_text(contents: Iterable[Any]) -> bool:
    """Whether all parts in the contents of messages are text without more ado, as most are."""
    for content in contents:
        if type(content) is list:
            for part in content:
                if part.type not in PLAIN or part.uuid is not NOTHING:
                    return False
    return True


def no_image(contents: Iterable[Any]) -> bool:
    """Whether no block in the contents of messages is an image, or may hold one."""
    for content in contents:
        if type(content) is list:
            for block in content:
                if block.type == "image" or (block.type == "tool_result" and is_list(block.content)):
                    return False
    return True


def images_of_parts(kind: type, path: str, content: list[Part]) -> Iterator[Image]:
    """The images among the parts of a message of OpenAI's APIs; raises the 400 for a part that no engine may get."""
    for index, part in enumerate(content):
        if part.type in ("image_url", "input_image"):
            yield _image(kind, f"{path}[{index}]", part)
        elif part.type is None:  # vLLM goes by the part's other members then
            raise validation_errors.missing_field(kind, f"{path}[{index}].type")
        elif part.type in REFUSED:
            raise validation_errors.unsupported_field(kind, f"{path}[{index}]", REFUSED[part.type])
        if part.uuid is not NOTHING and bytes(part.uuid) != b"null":
            why = "it names media of earlier requests, which may be another client's: leave it out"
            raise validation_errors.unsupported_field(kind, f"{path}[{index}].uuid", why)


def images_of_output(kind: type, path: str, output: Raw) -> Iterator[Image]:
    """The images in the output of a tool in the Responses API, if that is a list of parts."""
    yield from images_of_parts(kind, path, _nested(kind, path, output, PARTS))


def images_without_detail(output: Raw) -> bool:
    """Whether the output of a tool, which was checked, has an image that does not say in which detail it is sent."""
    return any(part.type == "input_image" and part.detail is None for part in _nested(Part, "", output, PARTS))


def images_of_blocks(kind: type, path: str, content: list[Block]) -> Iterator[Image]:
    """The images among the blocks of a message of Anthropic's API, and in the results of tools."""
    for index, block in enumerate(content):
        if block.type == "image":
            yield _image_of_block(kind, f"{path}[{index}].image.source", block)
        elif block.type == "tool_result":
            inside = f"{path}[{index}].tool_result.content"
            for number, inner in enumerate(_nested(kind, inside, block.content, BLOCKS)):
                if inner.type == "image":
                    yield _image_of_block(kind, f"{inside}[{number}].image.source", inner)


def _nested(kind: type, path: str, raw: Raw, decoder: "msgspec.json.Decoder[list[Any]]") -> list[Any]:
    """The parts of a list that was not decoded with the body; none if it is no list."""
    if not is_list(raw):
        return []
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise validation_errors.wrong_value(kind, path, "it should be text or a list of parts") from None


def _image(kind: type, path: str, part: Part) -> Image:
    if part.file_id is not None:
        why = "nothing is stored here: send the image as a data: URL"
        raise validation_errors.unsupported_field(kind, f"{path}.file_id", why)
    url, path = part.image_url, f"{path}.image_url"
    if part.type == "image_url":
        if not isinstance(url, ImageUrl):
            raise validation_errors.wrong_value(kind, path, "it should be an object with 'url'")
        url, path = url.url, f"{path}.url"
    if not isinstance(url, str) or not url.startswith("data:"):
        raise validation_errors.wrong_value(kind, path, f"it should be a data: URL; {ELSEWHERE}")
    head, comma, data = url.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if not comma or encoding != "base64":
        raise validation_errors.wrong_value(kind, path, "it should begin like 'data:image/png;base64,'")
    return Image(kind, path, media_type, data)


def _image_of_block(kind: type, path: str, block: Block) -> Image:
    source = block.source
    if not isinstance(source, Source) or source.type != "base64":
        raise validation_errors.wrong_value(kind, f"{path}.type", f"it should be 'base64'; {ELSEWHERE}")
    if source.media_type is None or source.data is None:
        missing = "media_type" if source.media_type is None else "data"
        raise validation_errors.missing_field(kind, f"{path}.base64.{missing}")
    return Image(kind, f"{path}.base64", source.media_type, source.data)
