"""The schema of the `shares` of a fleet file: memory that several engines have together."""

import re
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveFloat, WithJsonSchema

from service.config.strict_yaml import Frozen
from service.sharing.parts import Share

UNITS = MappingProxyType(
    {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
)
SIZE = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?) ?({'|'.join(UNITS)})")


def _size(text: object) -> int:
    if isinstance(text, str) and (match := SIZE.fullmatch(text)):
        return round(float(match[1]) * UNITS[match[2]])
    raise ValueError("is no size: write it with its unit, as 20GiB or 512MiB")


def _cards(value: object) -> object:
    if value == 0 and isinstance(value, int):
        return ()
    if not isinstance(value, list) or not value:
        raise ValueError("lists the cards, as [0] or [0, 1], or is 0 for this machine's own memory")
    if len(set(map(str, value))) < len(value):
        raise ValueError("names a card twice")
    return value


Size = Annotated[
    int, BeforeValidator(_size), Field(gt=0), WithJsonSchema({"type": "string", "pattern": f"^{SIZE.pattern}$"})
]
Card = Annotated[int, Field(ge=0, le=63)]
LIST_OF_CARDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 63}}
Cards = Annotated[tuple[Card, ...], BeforeValidator(_cards), WithJsonSchema({"anyOf": [{"const": 0}, LIST_OF_CARDS]})]


class ShareEntry(Frozen):
    """One share: `memory` bytes of each of the cards `gpus`, or of the machine (0); `turn` is in seconds."""

    memory: Size
    gpus: Cards = ()
    turn: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 120.0

    def share(self, name: str) -> Share:
        """The share of that name."""
        return Share(name, self.memory, self.gpus, self.turn)
