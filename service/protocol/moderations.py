"""The body of `POST /v1/moderations`; see `requests`."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from service.protocol import validation_errors
from service.protocol.requests import Body, ModelName


class ModerationPart(Struct, gc=False):
    """A part of what is judged; only text is."""

    type: str
    text: str | None = None


class ModerationRequest(Body, kw_only=True):
    """`POST /v1/moderations`. Without `model` any guard of the fleet answers."""

    prompt_field: ClassVar[str] = "input"
    model: ModelName | None = None  # type: ignore[assignment]
    input: str | Annotated[list[str | ModerationPart], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if isinstance(self.input, list) and len(self.input) > self.bounds.inputs:
            raise validation_errors.invalid_value("input", f"it should be a list of at most {self.bounds.inputs} items")
