"""Guardrails as the fleet file declares them: named steps that judge texts. docs/guardrails.md explains each key."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from service.catalog.model import Identifier, ModelId
from service.config.loopback import is_loopback
from service.config.strict_yaml import Frozen

Format = Literal["llama-guard", "qwen3guard"]
UNIX = re.compile(r"unix:(/[^:]{1,106}):(/.*)")
LONGEST_TIMEOUT = 30.0  # seconds; while a step judges a stream nothing of it is read


def _private(url: str) -> str:
    """A URL on the way to which nobody can read texts: https, or within this machine."""
    if UNIX.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not host or not plain or parts.scheme not in ("https", "http") or parts.username is not None or parts.fragment:
        raise ValueError("should be 'https://host/path', 'http://127.0.0.1:port/path' or 'unix:/path/of.sock:/path'")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("would send texts unencrypted over the network: use https, or an address of this machine")
    return url


class GuardrailEntry(Frozen):
    """One step: a served guard `model`, or the `url` of a classifier. `timeout` is in seconds, `window` in characters.

    `categories` are those that block; None is all.
    """

    model: ModelId | None = None
    url: Annotated[str, AfterValidator(_private)] | None = None
    timeout: Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT)] = 10.0
    on_error: Literal["block", "pass"] = "block"
    categories: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    scope: Literal["conversation", "turn"] = "conversation"
    window: Annotated[int, Field(ge=50, le=8000)] = 500

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.model is None) == (self.url is None):
            raise ValueError("needs either 'model', a served guard, or 'url', a classifier")
        return self


class GuardrailNames(Frozen):
    """The steps before and after a model, by their names, in order."""

    input: tuple[Identifier, ...] = ()
    output: tuple[Identifier, ...] = ()


@dataclass(frozen=True)
class Guardrail:
    """One step. Either `model` and the `format` of its answers are given, or `url`; the rest as in GuardrailEntry."""

    name: str
    model: str | None = None
    format: Format | None = None
    url: str | None = None
    timeout: float = 10.0
    on_error: Literal["block", "pass"] = "block"
    categories: frozenset[str] | None = None
    scope: Literal["conversation", "turn"] = "conversation"
    window: int = 500


@dataclass(frozen=True)
class Guardrails:
    """The steps before and after one model, in order."""

    input: tuple[Guardrail, ...] = ()
    output: tuple[Guardrail, ...] = ()
