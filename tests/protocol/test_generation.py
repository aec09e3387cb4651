"""What the requests of each generation endpoint require of a model."""

import json
from typing import Any, get_args

import pytest

from service.protocol.generation import GENERATION, Kind, Requirements
from service.protocol.parse_body import parse_body
from service.protocol.requests import Message
from tests.support.each import each

ENDPOINTS = {endpoint.path: endpoint for endpoint in GENERATION}
CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
RERANK, SCORE, TOKENIZE, DETOKENIZE = "/rerank", "/score", "/tokenize", "/detokenize"
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    RESPONSES: {"model": "m", "input": "hi"},
    MESSAGES: {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]},
    COUNT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    EMBEDDINGS: {"model": "m", "input": "hi"},
    RERANK: {"model": "m", "query": "hi", "documents": ["ho"]},
    SCORE: {"model": "m", "text_1": "hi", "text_2": "ho"},
    TOKENIZE: {"model": "m", "prompt": "hi"},
    DETOKENIZE: {"model": "m", "tokens": [1]},
}
TWO, NONE = [Message("user")] * 2, [Message("tool")]  # messages of users
TOOL = {"type": "function", "function": {"name": "f"}}
DATA = "data:image/png;base64,AAAA"  # the data of an image is not looked at to route a request
IMAGE_URL = {"type": "image_url", "image_url": {"url": DATA}}
INPUT_IMAGE = {"type": "input_image", "image_url": DATA}
IMAGE_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
FENCE = "Explain:\n```\nx\n```"


def requirements(path: str, **fields: Any) -> Requirements:
    """The requirements of the endpoint's minimal body with these fields."""
    endpoint = ENDPOINTS[path]
    return endpoint.requirements(parse_body(endpoint.body, json.dumps(MINIMAL[path] | fields).encode()).request)


def facts(requirements: Requirements) -> tuple[Kind, int, bool, bool, bool]:
    """All that the requirements state, in a form that can be compared."""
    return requirements.kind, requirements.turns, requirements.tools, requirements.code, requirements.vision


def turn(role: str, content: Any = "hi") -> dict[str, Any]:
    return {"role": role, "content": content}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def test_the_cases_cover_every_endpoint_and_kind() -> None:
    assert set(MINIMAL) == set(ENDPOINTS)
    assert {requirements(path).kind for path in MINIMAL} | {"infill"} == set(get_args(Kind))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (CHAT, "chat"),
        (COMPLETIONS, "completion"),
        (RESPONSES, "chat"),
        (MESSAGES, "chat"),
        (COUNT, "chat"),
        (EMBEDDINGS, "embedding"),
        (RERANK, "rerank"),
        (SCORE, "rerank"),
        (TOKENIZE, "tokens"),
        (DETOKENIZE, "tokens"),
    ],
)
def test_kind_of_a_minimal_request(path: str, kind: Kind) -> None:
    assert facts(requirements(path)) == facts(Requirements(kind))


@each(
    ("path", "fields", "expected"),
    [
        (COMPLETIONS, {"suffix": "x"}, Requirements("infill")),
        (COMPLETIONS, {"suffix": ""}, Requirements("infill")),
        (COMPLETIONS, {"suffix": None}, Requirements("completion")),
        (COMPLETIONS, {"prompt": "def f(x):"}, Requirements("completion", contents=[FENCE])),
        (COMPLETIONS, {"prompt": ["a", "import os"]}, Requirements("completion", contents=[FENCE])),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, Requirements("completion")),
        (COMPLETIONS, {"prompt": "class f", "suffix": "x"}, Requirements("infill", contents=[FENCE])),
        (CHAT, {"tools": [TOOL]}, Requirements("chat", tools=True)),
        (CHAT, {"tools": []}, Requirements("chat")),
        (CHAT, {"messages": [turn("system"), turn("user")]}, Requirements("chat")),
        (CHAT, {"messages": [turn("user"), turn("assistant"), turn("user")]}, Requirements("chat", TWO)),
        (CHAT, {"messages": [turn("user", FENCE)]}, Requirements("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("user", [text("hi"), text(FENCE)])]}, Requirements("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("system", FENCE), turn("user")]}, Requirements("chat", contents=[FENCE])),
        (CHAT, {"messages": [turn("assistant", None), turn("user")]}, Requirements("chat")),
        (RESPONSES, {"input": FENCE}, Requirements("chat", contents=[FENCE])),
        (
            RESPONSES,
            {"input": [turn("user"), turn("user", [text(FENCE)])]},
            Requirements("chat", TWO, contents=[FENCE]),
        ),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": "x"}]}, Requirements("chat", NONE)),
        (RESPONSES, {"input": [turn("user", [{"type": "refusal"}, INPUT_IMAGE])]}, Requirements("chat", vision=True)),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "output": [INPUT_IMAGE]}]},
            Requirements("chat", NONE, vision=True),
        ),
        (CHAT, {"messages": [turn("user", [text("hi"), IMAGE_URL])]}, Requirements("chat", vision=True)),
        (MESSAGES, {"messages": [turn("user", [IMAGE_BLOCK])]}, Requirements("chat", vision=True)),
        (
            COUNT,
            {"messages": [turn("user", [{"type": "tool_result", "content": [IMAGE_BLOCK]}])]},
            Requirements("chat", vision=True),
        ),
        (RESPONSES, {"tools": [TOOL]}, Requirements("chat", tools=True)),
        (MESSAGES, {"messages": [turn("user"), turn("assistant"), turn("user")]}, Requirements("chat", TWO)),
        (MESSAGES, {"messages": [turn("user", [text(FENCE)])]}, Requirements("chat", contents=[FENCE])),
        (MESSAGES, {"tools": [TOOL]}, Requirements("chat", tools=True)),
        (COUNT, {"messages": [turn("user", FENCE)]}, Requirements("chat", contents=[FENCE])),
        (EMBEDDINGS, {"input": "def f(): pass"}, Requirements("embedding")),
        (TOKENIZE, {"prompt": None, "messages": [turn("user", FENCE)]}, Requirements("chat", contents=[FENCE])),
    ],
)
def test_requirements_of_a_request(path: str, fields: dict[str, Any], expected: Requirements) -> None:
    assert facts(requirements(path, **fields)) == facts(expected)


@each(
    ("content", "is_code"),
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
def test_code_is_detected(content: str, is_code: bool) -> None:
    assert requirements(CHAT, messages=[turn("user", content)]).code == is_code


@pytest.mark.parametrize("filler", ["\n", " ", "\n ", "from a", "x" * 100 + "\n"])
def test_searching_for_code_takes_linear_time(filler: str) -> None:
    # A search that backtracks over blank lines would not end.
    assert not requirements(CHAT, messages=[turn("user", filler * 500_000)]).code
    assert requirements(CHAT, messages=[turn("user", filler * 100 + "\ndef f(x):")]).code
