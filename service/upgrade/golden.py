"""Golden prompts: what both models are asked before one takes the other's place; a file of JSON lines."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from service.config.strict_yaml import ConfigError, Frozen, plain

MOST = 1000  # prompts of one file
Json = dict[str, Any]


class GoldenPrompt(Frozen):
    """One line: a conversation, with tools perhaps, or a prompt to continue. `max_tokens` bounds its answer."""

    messages: list[Json] | None = Field(None, min_length=1)
    prompt: str | None = Field(None, min_length=1)
    tools: list[Json] | None = Field(None, min_length=1)
    max_tokens: int = Field(64, ge=1, le=4096)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("has to have either 'messages' or 'prompt'")
        if self.tools and self.prompt:
            raise ValueError("'tools' go with 'messages'")
        return self


@dataclass(frozen=True)
class Golden:
    """A golden prompt, and where it stands: `place` is `file:line`."""

    place: str
    prompt: GoldenPrompt

    @property
    def key(self) -> str:
        """The key that holds the text."""
        return "messages" if self.prompt.messages else "prompt"

    @property
    def path(self) -> str:
        """The endpoint that answers it."""
        return "/v1/chat/completions" if self.prompt.messages else "/v1/completions"

    @property
    def text(self) -> Json:
        """What is rendered: the conversation with its tools, or the prompt."""
        return self.prompt.model_dump(include={"messages", "prompt", "tools"}, exclude_none=True)

    @property
    def body(self) -> Json:
        """The request, without its model: greedy, with the log probability of each token of the answer."""
        probabilities: Json = {"logprobs": True} if self.prompt.messages else {"logprobs": 1}
        return {**self.text, "max_tokens": self.prompt.max_tokens, "temperature": 0, "seed": 0, **probabilities}


def read(path: Path) -> list[Golden]:
    """The prompts of a file; raises ConfigError with every mistake in it, by file, line and key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            found.append(Golden(place, GoldenPrompt.model_validate(json.loads(line))))
        except ValidationError as error:
            problems += [f"{place}: {'.'.join(map(str, one['loc'])) or 'line'}: {plain(one)}" for one in error.errors()]
        except (ValueError, RecursionError) as error:
            problems.append(f"{place}: line: is no JSON: {error}")
    if not found and not problems:
        problems.append(f"{path}:1: line: the file has no prompt")
    if len(found) > MOST:
        problems.append(f"{found[MOST].place}: line: there are more than {MOST} prompts")
    if problems:
        raise ConfigError(problems)
    return found
