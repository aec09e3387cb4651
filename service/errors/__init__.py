"""The errors that a client can get, and how each is rendered; `codes` is the table of them."""

import json
import math
from dataclasses import KW_ONLY, dataclass

from service.errors.codes import ANTHROPIC_TYPES, OPENAI_TYPES, ErrorCode

__all__ = [
    "ANTHROPIC_TYPES",
    "OPENAI_TYPES",
    "ApiError",
    "ErrorCode",
    "anthropic_body",
    "openai_body",
    "whole_seconds",
]


@dataclass(eq=False)
class ApiError(Exception):
    """An error that is its own HTTP answer.

    `message` tells a person what was wrong and what to do; `param` names the offending field of the request where there
    is one. `retry_after` is in seconds; `allow` lists the methods that a path has.
    """

    code: ErrorCode
    message: str
    param: str | None = None
    _: KW_ONLY
    retry_after: float | None = None
    allow: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code.status

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the answer has because of the error."""
        retry_after = None if self.retry_after is None else str(whole_seconds(self.retry_after))
        challenge = "Bearer" if self.status == 401 else None
        values = {"retry-after": retry_after, "allow": self.allow, "www-authenticate": challenge}
        return {name: value for name, value in values.items() if value is not None}


def whole_seconds(seconds: float) -> int:
    """A wait as a client is told it: whole seconds, never too early and never none."""
    return max(1, math.ceil(seconds))


def openai_body(error: ApiError) -> bytes:
    """The error in OpenAI's envelope; `code` is always a string."""
    fields = {"message": error.message, "type": error.code.type, "param": error.param, "code": error.code}
    return json.dumps({"error": fields}, ensure_ascii=False).encode()


def anthropic_body(error: ApiError) -> bytes:
    """The error in the envelope of Anthropic's Messages API."""
    fields = {"type": error.code.anthropic_type, "message": error.message}
    return json.dumps({"type": "error", "error": fields}, ensure_ascii=False).encode()
