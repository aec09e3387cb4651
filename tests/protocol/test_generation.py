"""What a body visibly needs, for every generation endpoint."""

import json
from typing import Any, get_args

import pytest

from service.protocol.generation import GENERATION, Kind, Need
from service.protocol.parse_body import parse_body

ENDPOINTS = {endpoint.path: endpoint for endpoint in GENERATION}
CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    RESPONSES: {"model": "m", "input": "hi"},
    MESSAGES: {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]},
    COUNT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    EMBEDDINGS: {"model": "m", "input": "hi"},
}
TOOL = {"type": "function", "function": {"name": "f"}}
FENCE = "Explain:\n```\nx\n```"


def need(path: str, **fields: Any) -> Need:
    """The need that the endpoint reads from its minimal body with these fields."""
    endpoint = ENDPOINTS[path]
    return endpoint.need(parse_body(endpoint.body, json.dumps(MINIMAL[path] | fields).encode()))


def seen(need: Need) -> tuple[Kind, int, bool, bool]:
    """All that a need says."""
    return need.kind, need.turns, need.tools, need.code


def turn(role: str, content: Any = "hi") -> dict[str, Any]:
    return {"role": role, "content": content}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_every_endpoint_has_a_minimal_body_and_every_kind_an_endpoint() -> None:
    assert set(MINIMAL) == set(ENDPOINTS)
    assert {need(path).kind for path in MINIMAL} | {"infill"} == set(get_args(Kind))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (CHAT, "chat"),
        (COMPLETIONS, "completion"),
        (RESPONSES, "chat"),
        (MESSAGES, "chat"),
        (COUNT, "chat"),
        (EMBEDDINGS, "embedding"),
    ],
)
def test_the_plainest_request(path: str, kind: Kind) -> None:
    assert seen(need(path)) == seen(Need(kind))


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (COMPLETIONS, {"suffix": "x"}, Need("infill")),
        (COMPLETIONS, {"suffix": ""}, Need("infill")),
        (COMPLETIONS, {"suffix": None}, Need("completion")),
        (COMPLETIONS, {"prompt": "def f(x):"}, Need("completion", contents=[FENCE])),
        (COMPLETIONS, {"prompt": ["a", "import os"]}, Need("completion", contents=[FENCE])),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, Need("completion")),
        (COMPLETIONS, {"prompt": "class f", "suffix": "x"}, Need("infill", contents=[FENCE])),
        (CHAT, {"tools": [TOOL]}, Need("chat", tools=True)),
        (CHAT, {"tools": []}, Need("chat")),
        (CHAT, {"messages": [turn("system"), turn("user")]}, Need("chat")),
        (CHAT, {"messages": [turn("user"), turn("assistant"), turn("user")]}, Need("chat", 2)),
        (CHAT, {"messages": [turn("user", FENCE)]}, Need("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("user", [text("hi"), text(FENCE)])]}, Need("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("system", FENCE), turn("user")]}, Need("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("assistant", None), turn("user")]}, Need("chat")),
        (RESPONSES, {"input": FENCE}, Need("chat", contents=[FENCE])),
        (RESPONSES, {"input": [turn("user"), turn("user", [text(FENCE)])]}, Need("chat", 2, contents=[FENCE])),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": "x"}]}, Need("chat", 0)),
        (RESPONSES, {"input": [turn("user", [{}, {"type": "input_image"}])]}, Need("chat")),
        (RESPONSES, {"tools": [TOOL]}, Need("chat", tools=True)),
        (MESSAGES, {"messages": [turn("user"), turn("assistant"), turn("user")]}, Need("chat", 2)),
        (MESSAGES, {"messages": [turn("user", [text(FENCE)])]}, Need("chat", contents=[FENCE])),
        (MESSAGES, {"tools": [TOOL]}, Need("chat", tools=True)),
        (COUNT, {"messages": [turn("user", FENCE)]}, Need("chat", contents=[FENCE])),
        (EMBEDDINGS, {"input": "def f(): pass"}, Need("embedding")),
    ],
)
def test_what_a_request_shows(path: str, fields: dict[str, Any], expected: Need) -> None:
    assert seen(need(path, **fields)) == seen(expected)


@pytest.mark.parametrize(
    ("words", "is_code"),
    [
        ("def f(x):", True),
        ("    return x\n    def g():", True),
        ("class A:", True),
        ("from os import path", True),
        ("#include <stdio.h>", True),
        ("const x = 1", True),
        ("fn main() {", True),
        ("SELECT name FROM t", True),
        ("```python\nx\n```", True),
        ("I define a class of imports.", False),
        ("Letters from import companies", False),
        ("select a name", False),
        ("a `name` in text", False),
        ("", False),
    ],
)
def test_what_counts_as_code(words: str, is_code: bool) -> None:
    assert need(CHAT, messages=[turn("user", words)]).code == is_code


@pytest.mark.parametrize("filler", ["\n", " ", "\n ", "from a", "x" * 100 + "\n"])
def test_looking_for_code_takes_no_longer_than_reading(filler: str) -> None:
    # Of a search that goes back over blank lines nobody would see the end.
    assert not need(CHAT, messages=[turn("user", filler * 500_000)]).code
    assert need(CHAT, messages=[turn("user", filler * 100 + "\ndef f(x):")]).code
