"""What a client of the gateway gets when the real engine rejects its request, streamed or not."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.services import Service
from tests.vllm.conftest import MODEL

pytestmark = pytest.mark.engine

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
TALK = [{"role": "user", "content": "Hello!"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TALK, "max_tokens": 4}, COMPLETIONS: {"prompt": "Once", "max_tokens": 4},
    RESPONSES: {"input": "Hello!", "max_output_tokens": 4}, MESSAGES: {"messages": TALK, "max_tokens": 4},
    COUNT: {"messages": TALK},
}  # fmt: skip
SCHEMA = {"type": "array", "uniqueItems": True}
# 9 tokens each time, and more characters than the engine looks at before it counts tokens.
WORDY, LONG = "What is my name? " * 600, "What is my name? " * 200
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
KEYS = 'which it cannot follow: Grammar error: Unimplemented keys: ["uniqueItems"].'

# path, fields, our code, param and a part of our message
REJECTED: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
     "upstream_rejected", "response_format", KEYS),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
     "upstream_rejected", "text", KEYS),
    (CHAT, {"n": 2, "temperature": 0}, "upstream_rejected", "n", "must be 1 where 'temperature' is 0"),
    (COMPLETIONS, {"prompt": [1, 999999]}, "upstream_rejected", "prompt", "no token with the id 999999"),
    (CHAT, {"stop_token_ids": [999999]}, "upstream_rejected", "stop_token_ids", "vocabulary ends before 512"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "upstream_rejected", "messages[0].content", "a string"),
    (CHAT, {"tool_choice": "auto"}, "upstream_rejected", "tool_choice", "`tools` must be set"),
    (CHAT, {"tools": [FUNCTION]}, "tools_not_served", "tools", "tool_call_parser"),
    (CHAT, {"max_tokens": 5000}, "max_tokens_too_large", "max_tokens", "max_tokens is 5000"),
    (RESPONSES, {"max_output_tokens": 5000}, "max_tokens_too_large", "max_output_tokens", "max_output_tokens is 5000"),
    (CHAT, {"messages": [{"role": "user", "content": WORDY}]}, "context_length_exceeded", "messages",
     "The prompt is longer than the context of 'pebble-chat', which is 1024 tokens."),
    (COMPLETIONS, {"prompt": LONG}, "context_length_exceeded", "prompt", "at least 1025 tokens"),
]  # fmt: skip


@pytest.fixture
def client(pebble: Service) -> Iterator[httpx.Client]:
    """A client of the gateway."""
    with httpx.Client(base_url=pebble.url, timeout=60, verify=False) as found:
        yield found


def ask(client: httpx.Client, path: str, **fields: Any) -> httpx.Response:
    return client.post(path, json={"model": MODEL, **BODIES[path], **fields})


@pytest.mark.parametrize("stream", [False, True], ids=["not streamed", "stream"])
@pytest.mark.parametrize(("path", "fields", "code", "param", "part"), REJECTED)
def test_the_client_is_told_what_to_change(
    client: httpx.Client, path: str, fields: dict[str, Any], code: str, param: str | None, part: str, stream: bool
) -> None:
    response = ask(client, path, stream=stream, **fields)
    assert response.status_code == 400, response.text
    found = response.json()["error"]
    assert (found["code"], found["param"]) == (code, param)
    assert part in found["message"]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


CALL = {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "it"}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [text("seen")]}
BEFORE: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "parts": [{"role": "user", "content": [text("Hi"), text("Ho")]}, {"role": "assistant", "content": [text("Yes?")]}],
    "a tool": [*TALK, {"role": "assistant", "content": [text("I look"), CALL]}, {"role": "user", "content": [RESULT]}],
}
SYSTEMS: tuple[Any, ...] = (None, "Be kind.", [text("Be kind."), text("Be brief.")])


@pytest.mark.parametrize("repetitions", [200, 600], ids=["tokens counted", "characters counted"])
@pytest.mark.parametrize("system", SYSTEMS, ids=["no system", "system", "parts of system"])
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_the_length_of_a_prompt_is_the_true_one(
    client: httpx.Client, before: list[dict[str, Any]], system: Any, repetitions: int
) -> None:
    """It is what the engine's own counts of shorter conversations come to."""

    def conversation(count: int) -> dict[str, Any]:
        last = {"role": "user", "content": "What is my name? " * count}
        return {"messages": [*before, last], "system": system}

    ten, twenty = (ask(client, COUNT, **conversation(count)).json()["input_tokens"] for count in (10, 20))
    words = f"prompt is too long: {ten + (twenty - ten) * (repetitions - 10) // 10} tokens > 1024 maximum"
    for path, stream in ((MESSAGES, False), (MESSAGES, True), (COUNT, False)):
        response = ask(client, path, **conversation(repetitions), stream=stream)
        assert (response.status_code, response.json()["error"]["message"]) == (400, words)


def test_max_tokens_in_anthropics_words(client: httpx.Client) -> None:
    response = ask(client, MESSAGES, max_tokens=5000)
    words = "max_tokens: 5000 > 1024, which is the maximum allowed number of output tokens for pebble-chat"
    assert response.json()["error"]["message"] == words
