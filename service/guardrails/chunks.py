"""The chunks of OpenAI's chat and completion streams, as far as guardrails read them. Pure."""

from typing import Any

import msgspec


class Choice(msgspec.Struct, gc=False):
    """A part of one choice. What `delta` holds beside text is not known beforehand."""

    index: Any = None
    delta: dict[str, Any] | None = None
    text: Any = None
    finish_reason: Any = None


class Chunk(msgspec.Struct):
    """One chunk; without `choices` it is none."""

    choices: list[Choice]
    id: Any = msgspec.UNSET
    object: Any = msgspec.UNSET
    created: Any = msgspec.UNSET
    model: Any = msgspec.UNSET

    def head(self) -> dict[str, Any]:
        """What all chunks of a stream have in common."""
        members = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        return {name: value for name, value in members.items() if value is not msgspec.UNSET}


_DECODER = msgspec.json.Decoder(Chunk)


def chunk_of(payload: bytes) -> Chunk | None:
    """The chunk that an event holds; None for everything else."""
    try:
        return _DECODER.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def as_chunk(value: dict[str, Any]) -> Chunk | None:
    """The same of what is decoded already."""
    try:
        return msgspec.convert(value, Chunk)
    except msgspec.ValidationError:
        return None
