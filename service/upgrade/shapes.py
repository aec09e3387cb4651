"""The shapes of live requests, from the service's log: how long they are and what they ask for, never what they say."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.config.strict_yaml import ConfigError

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


@dataclass(frozen=True)
class LiveShape:
    """One request of the log: its endpoint, its tokens of prompt and answer, whether it had tools, its temperature."""

    endpoint: str
    prompt_tokens: int
    completion_tokens: int
    tools: bool = False
    temperature: float | None = None

    @property
    def tokens(self) -> int:
        """What it took of a context."""
        return self.prompt_tokens + self.completion_tokens

    def request(self, text: str) -> tuple[str, dict[str, Any]]:
        """A request of this shape that says `text`, without its model: the path, and the body of a stream.

        Other dialects than OpenAI's are the same work for an engine, so they are asked as conversations.
        """
        body: dict[str, Any] = {"max_tokens": self.completion_tokens, "stream": True, "seed": 0}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.endpoint == "/v1/completions":
            return self.endpoint, body | {"prompt": text}
        tools = {"tools": [TOOL]} if self.tools else {}
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]} | tools


def read(path: Path, model: str, most: int) -> list[LiveShape]:
    """A sample of the completed requests that this model had; raises ConfigError for what is no log in JSON.

    The longest request is among them.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = shapes_of(file, model, path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if not found:
        raise ConfigError([f"{path}: has no completed request of '{model}'"])
    found.sort(key=lambda one: one.tokens)
    return [found[-1], *random.Random(0).sample(found[:-1], min(len(found), most) - 1)]


def shapes_of(lines: Iterable[str], model: str, path: Path) -> list[LiveShape]:
    """The shapes of the lines of requests that `model` has completed."""
    found, others, rows = [], 0, 0
    for line in lines:
        if not line.startswith("{"):
            others += 1  # such as what the engines' starts have to say
            continue
        rows += 1
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a log that is being written
        if row.get("event") != "request" or row.get("model") != model or row.get("outcome") != "complete":
            continue
        if row["endpoint"] in ENDPOINTS and row["prompt_tokens"] and row["completion_tokens"]:
            found.append(
                LiveShape(
                    row["endpoint"], row["prompt_tokens"], row["completion_tokens"], bool(row.get("tools")),
                    row.get("temperature"),
                )
            )  # fmt: skip
    if others and not rows:
        raise ConfigError([f"{path}:1: line: is no log in JSON: start the service with ROUNDHOUSE_LOG_FORMAT=json"])
    return found
