"""One request for each generation endpoint, and the engine's expected response."""

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

from service.protocol.streams import Dialect
from tests.fake_engine import Seen
from tests.support.gateways import answer_of

TALK = [{"role": "user", "content": "one two three"}]
OUTPUT = re.compile(rb'"delta":\{"content"|"text":"[^"]*","logprobs"|output_text\.delta|content_block_delta')


@dataclass(frozen=True)
class Case:
    """A small request; `model` is the one of the house fleet that takes it."""

    name: str
    path: str
    model: str
    fields: dict[str, Any]
    dialect: Dialect = "openai"
    streams: bool = True

    def body(self, stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": self.model, **self.fields, **({"stream": True} if stream else {}), **more}

    @property
    def anthropic(self) -> bool:
        return self.path.startswith("/v1/messages")


CHAT = Case("chat", "/v1/chat/completions", "pebble-chat", {"messages": TALK})
COMPLETION = Case("completions", "/v1/completions", "pebble-base", {"prompt": "one two three"})
SUFFIX = Case("suffix", "/v1/completions", "pebble-code", {"prompt": "def f():", "suffix": "return 1"})
RESPONSE = Case("responses", "/v1/responses", "pebble-chat", {"input": "one two three"}, "responses")
MESSAGE = Case("messages", "/v1/messages", "pebble-chat", {"messages": TALK, "max_tokens": 20}, "messages")
COUNT = Case("count", "/v1/messages/count_tokens", "pebble-chat", {"messages": TALK}, "messages", streams=False)
EMBEDDING = Case("embeddings", "/v1/embeddings", "embedder", {"input": ["one two", "three"]}, streams=False)

CASES = (CHAT, COMPLETION, SUFFIX, RESPONSE, MESSAGE, COUNT, EMBEDDING)
STREAMING = tuple(case for case in CASES if case.streams)
# On one model that can chat, for the tests where the endpoint is not what matters.
TALKING = (CHAT, RESPONSE, MESSAGE)
EXCHANGES = tuple((case, stream) for case in CASES for stream in (False, True) if case.streams or not stream)


def label(value: object) -> str | None:
    """The id of a parameter of a test."""
    if isinstance(value, bool):
        return "streamed" if value else "whole"
    return value.name if isinstance(value, Case) else None


def events_of(body: bytes) -> list[bytes]:
    """The whole events in a stream; what is broken off is none."""
    return [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]


def visible(events: list[bytes]) -> list[bytes]:
    """The events for a client that did not ask for usage: the engine always sends it, the gateway keeps it back."""
    return [event for event in events if b'"choices":[],"usage":{' not in event]


def begun(events: list[bytes]) -> bool:
    """Whether any of the events carries output; before it the gateway sends nothing."""
    return any(OUTPUT.search(event) for event in events)


def sent(seen: Seen) -> bytes:
    """The body that the engine answered with, as far as it came."""
    return answer_of(seen.answer).body


def error_in(case: Case, body: bytes) -> tuple[str, str]:
    """Type and code of an error answer in the words of the endpoint; a message that is empty is none."""
    value = json.loads(body)
    error = value["error"]
    assert error["message"]
    if case.anthropic:
        assert value.keys() == {"type", "error"}
        assert value["type"] == "error"
        assert error.keys() == {"type", "message"}
        return error["type"], ""
    assert value.keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    return error["type"], error["code"]


def is_refusal(case: Case, response: httpx.Response, status: int, code: str) -> bool:
    """Whether that is what the client got, in the shape that it expects."""
    kinds = {502: "api_error", 503: "overloaded_error", 504: "timeout_error"}
    assert response.headers["content-type"] == "application/json"
    kind, said = error_in(case, response.content)
    wanted = (kinds.get(status, "invalid_request_error"), "") if case.anthropic else (kind, code)
    return (response.status_code, kind, said) == (status, *wanted)


def broken_off(case: Case, event: bytes) -> str:
    """Checks that the event is the one that ends a broken stream of the endpoint; its code, or Anthropic's type."""
    name, _, payload = event.decode().strip().rpartition("data: ")
    value = json.loads(payload)
    if case.dialect == "responses":
        assert name == "event: error\n"
        assert value.keys() == {"type", "code", "message", "param", "sequence_number"}
        assert value["type"] == "error"
        return str(value["code"])
    assert name == ("event: error\n" if case.anthropic else "")
    kind, code = error_in(case, payload.encode())
    return code or kind
