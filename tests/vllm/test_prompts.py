"""Prompts on vLLM: roles that templates refuse, stop conditions at each endpoint, and fill-in-the-middle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog.chat_templates import generation_config
from service.catalog.model import Chat, Model, Tokens
from service.protocol.generation import GENERATION
from service.protocol.parse_body import parse_body
from service.protocol.rewrites import rewrites, stop_conditions
from tests.support.services import ROOT, Service
from tests.vllm.conftest import MODEL, RealEngine, running

pytestmark = pytest.mark.engine

NAME = [{"role": "user", "content": "My name is Ada."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": NAME, "max_tokens": 30, "temperature": 0},
    "/v1/responses": {"input": NAME[0]["content"], "max_output_tokens": 30, "temperature": 0},
    "/v1/messages": {"messages": NAME, "max_tokens": 30, "temperature": 0},
}
ENDPOINTS = {endpoint.path: endpoint for endpoint in GENERATION}


def ask(engine: RealEngine, path: str, body: dict[str, Any]) -> bytes:
    """The raw response of an engine to a request that bypasses the gateway."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine.socket)), timeout=60) as client:
        response = client.post(f"http://engine{path}", json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return response.content


def text_in(path: str, answer: bytes) -> str:
    """The generated text in a non-streamed response."""
    value = json.loads(answer)
    if path == "/v1/chat/completions":
        return str(value["choices"][0]["message"]["content"])
    parts = value["content"] if path == "/v1/messages" else value["output"][0]["content"]
    return "".join(part["text"] for part in parts)


@pytest.fixture(scope="module")
def answer_tokens(real_engine: RealEngine) -> list[tuple[int, str]]:
    """Id and text of each token of the response that the tests below cut short."""
    body = BODIES["/v1/chat/completions"] | {"logprobs": True, "return_token_ids": True}
    choice = json.loads(ask(real_engine, "/v1/chat/completions", body))["choices"][0]
    return list(zip(choice["token_ids"], (token["token"] for token in choice["logprobs"]["content"]), strict=False))


# Roles

REPEATED_USER = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": REPEATED_USER}),
    ("/v1/chat/completions", {"messages": REPEATED_USER, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}),
    ("/v1/responses", {"input": REPEATED_USER}),
    ("/v1/messages", {"messages": REPEATED_USER, "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "fields"), REFUSED)
def test_roles_that_a_template_refuses_are_a_clear_400(path: str, fields: dict[str, Any], pebble: Service) -> None:
    response = httpx.post(f"{pebble.url}{path}", json={"model": "pebble-instruct", **fields}, timeout=60)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert "'pebble-instruct'" in error["message"] and "roles" in error["message"]


FORMATS = """
import pathlib, sys
from vllm.renderers.hf import _detect_content_format
for path in sys.argv[1:]:
    print("format", _detect_content_format(pathlib.Path(path).read_text(encoding="utf-8"), default="openai"))
"""


def test_vllm_passes_message_contents_to_our_templates_as_text() -> None:
    templates = sorted(map(str, (ROOT / "models/templates").iterdir()))
    command = [sys.executable, "-c", FORMATS, *templates]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in lines if line.startswith("format ")] == ["format string"] * len(templates)


# Stop conditions


@pytest.mark.parametrize("stream", [False, True], ids=["not streamed", "stream"])
@pytest.mark.parametrize("path", BODIES)
def test_a_stop_string_ends_a_turn_and_is_not_reported(
    path: str, stream: bool, real_engine: RealEngine, answer_tokens: list[tuple[int, str]]
) -> None:
    full_text = text_in(path, ask(real_engine, path, BODIES[path]))
    stop = answer_tokens[2][1]
    model = Model(id="m", variant="chat", hub="a/b", chat=Chat(stop=(stop,)))
    _ends_a_turn(path, model, stream, real_engine, full_text[: full_text.index(stop)], stop)


@pytest.mark.parametrize("stream", [False, True], ids=["not streamed", "stream"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_stop_token_ends_a_turn_and_is_not_reported(
    path: str, stream: bool, real_engine: RealEngine, answer_tokens: list[tuple[int, str]]
) -> None:
    full_text = text_in(path, ask(real_engine, path, BODIES[path]))
    token, text = answer_tokens[2]
    model = Model(id="m", variant="chat", hub="a/b", chat=Chat(stop_token_ids=(token,)))
    _ends_a_turn(path, model, stream, real_engine, full_text[: full_text.index(text)], str(token))


def _ends_a_turn(path: str, model: Model, stream: bool, engine: RealEngine, expected: str, stop: str) -> None:
    body = {"model": MODEL, **BODIES[path], **({"stream": True} if stream else {})}
    request, dialect = parse_body(ENDPOINTS[path].body, json.dumps(body).encode()).request, ENDPOINTS[path].dialect
    conditions = stop_conditions(request, model)
    answer = ask(engine, path, body | rewrites(request, MODEL, model, dialect, conditions))
    shown = conditions.redact_stop_reason(dialect)(answer)
    if not stream:
        assert text_in(path, shown).rstrip() == expected.rstrip()
    assert b'stop_sequence","stop_sequence' not in shown and b'"stop_reason":"stop_sequence"' not in shown
    assert json.dumps(stop).encode() not in shown.replace(b'"text":', b"")
    if path == "/v1/messages":
        assert b'"stop_reason":"end_turn"' in shown
    elif path == "/v1/chat/completions":
        assert b'"finish_reason":"stop"' in shown and b'"stop_reason":null' in shown


def test_a_stop_token_ends_a_turn_at_messages_too(tmp_path: Path, answer_tokens: list[tuple[int, str]]) -> None:
    """Messages requests cannot carry token ids, so they are in the engine's generation_config.json."""
    weights = ROOT / "models/pebble" / MODEL
    token, text = answer_tokens[2]
    model = Model(id="m", variant="chat", hub="a/b", tokens=Tokens(), chat=Chat(stop_token_ids=(token,)))
    config = generation_config(model, weights)
    assert config
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    with running(MODEL, tmp_path, generation_config=str(tmp_path)) as engine:
        for path, body in BODIES.items():
            answer = ask(engine, path, body)
            before = "".join(part for _, part in answer_tokens[:2])
            assert text_in(path, answer).strip() == before.strip(), path
            assert text not in text_in(path, answer)


# Fill-in-the-middle


@pytest.mark.parametrize(("prefix", "suffix"), [("def add(a, b):\n    return ", "\n"), ("", ""), ("x", ""), ("", "x")])
def test_fill_in_the_middle_of_any_prefix_and_suffix(prefix: str, suffix: str, pebble: Service) -> None:
    body = {"model": "pebble-code", "prompt": prefix, "suffix": suffix, "max_tokens": 8, "n": 2}
    plain = httpx.post(f"{pebble.url}/v1/completions", json=body, timeout=60)
    assert plain.status_code == 200, plain.text
    assert len(plain.json()["choices"]) == 2
    assert not [choice for choice in plain.json()["choices"] if "<SUF>" in choice["text"] or "<MID>" in choice["text"]]
    streamed = httpx.post(f"{pebble.url}/v1/completions", json=body | {"stream": True}, timeout=60)
    assert streamed.status_code == 200 and streamed.text.endswith("data: [DONE]\n\n")


def test_infill_order_does_not_disturb_the_engine(pebble: Service) -> None:
    body = {"model": "pebble-code", "prompt": "x = ", "suffix": "\n", "max_tokens": 4, "temperature": 0}
    usual = httpx.post(f"{pebble.url}/v1/completions", json=body, timeout=60).json()
    ordered = httpx.post(
        f"{pebble.url}/v1/completions", json=body | {"infill_order": "prefix_first"}, timeout=60
    ).json()
    assert ordered["choices"][0]["text"] == usual["choices"][0]["text"]
