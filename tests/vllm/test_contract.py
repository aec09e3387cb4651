"""The fake engine responds as vLLM does."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.support.services import ROOT
from tests.support.waiting import until
from tests.vllm.conftest import MODEL, RealEngine
from tests.vllm.transcript import RawExchange, ask, metrics

pytestmark = pytest.mark.engine

USER = [{"role": "user", "content": "one two three four five six seven"}]
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TOO_LONG = "word " * 1500
TOO_MANY_CHARACTERS = "What is my name? " * 600
SCHEMA = {"type": "array", "uniqueItems": True}
UNFIT: dict[str, dict[str, Any]] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
LIMITS = {
    CHAT: "max_completion_tokens",
    COMPLETIONS: "max_tokens",
    RESPONSES: "max_output_tokens",
    MESSAGES: "max_tokens",
}
USAGE = {"stream_options": {"include_usage": True}}
FOUR = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": USER, **FOUR},
    COMPLETIONS: {"model": MODEL, "prompt": "one two three", **FOUR},
    RESPONSES: {"model": MODEL, "input": "one two three four", "max_output_tokens": 4, "temperature": 0},
    MESSAGES: {"model": MODEL, "messages": USER, "max_tokens": 4, "temperature": 0},
}


def worded(path: str, text: str) -> dict[str, Any]:
    """The field with a prompt of these words."""
    field = {COMPLETIONS: "prompt", RESPONSES: "input"}.get(path)
    return {field: text} if field else {"messages": [{"role": "user", "content": text}]}


LONG = {path: worded(path, TOO_LONG) for path in BODIES}


@dataclass(frozen=True)
class Row:
    """One request that is sent to both engines."""

    name: str
    path: str
    body: Any = b""
    method: str = "POST"
    media: str = "application/json"


def rows() -> list[Row]:
    """Every endpoint, streamed and not, with its options, and invalid requests."""
    found = [
        Row("health", "/health", method="GET"),
        Row("models", "/v1/models", method="GET"),
        Row("metrics", "/metrics", method="GET"),
        Row("no such path", "/v1/nothing", method="GET"),
        Row("no such method", CHAT, method="GET"),
        Row("embeddings", "/v1/embeddings", {"model": MODEL, "input": "one"}),
        Row("tokenize prompt", "/tokenize", {"model": MODEL, "prompt": "one two"}),
        Row("tokenize messages", "/tokenize", {"model": MODEL, "messages": USER}),
        Row("tokenize with strings", "/tokenize", {"model": MODEL, "prompt": "one two", "return_token_strs": True}),
        Row("tokenize for an unknown model", "/tokenize", {"model": "nope", "prompt": "one two"}),
        Row("detokenize", "/detokenize", {"model": MODEL, "tokens": [20, 21]}),
        Row("version", "/version", method="GET"),
        Row("rerank", "/rerank", {"model": MODEL, "query": "one", "documents": ["two"]}),
        Row("count tokens", "/v1/messages/count_tokens", {"model": MODEL, "messages": USER}),
        Row("chat usage", CHAT, BODIES[CHAT] | {"stream": True} | USAGE),
        Row("completions usage", COMPLETIONS, BODIES[COMPLETIONS] | {"stream": True} | USAGE),
        Row("options without stream", CHAT, BODIES[CHAT] | USAGE),
        Row("suffix", COMPLETIONS, BODIES[COMPLETIONS] | {"suffix": "end"}),
        Row("empty prompt", COMPLETIONS, BODIES[COMPLETIONS] | {"prompt": ""}),
        Row("no messages", CHAT, BODIES[CHAT] | {"messages": []}),
        Row("content in parts", CHAT, BODIES[CHAT] | {"messages": [{"role": "user", "content": PARTS}]}),
        Row("too many tokens wanted", CHAT, BODIES[CHAT] | {"max_tokens": 5000}),
        Row("count for an unknown model", "/v1/messages/count_tokens", {"model": "nope", "messages": USER}),
        Row("completions n null", COMPLETIONS, BODIES[COMPLETIONS] | {"n": None}),
        *(
            Row(f"responses {field} null {stream}", RESPONSES, BODIES[RESPONSES] | {field: None, "stream": stream})
            for field in ("tools", "service_tier", "truncation", "background")
            for stream in (False, True)
        ),
        Row("responses with a verbosity", RESPONSES, BODIES[RESPONSES] | {"text": {"verbosity": "low"}}),
        Row("message without a limit", MESSAGES, {"model": MODEL, "messages": USER}),
    ]
    for path, body in BODIES.items():
        name = path.rpartition("/v1/")[2]
        missing = {"model": MODEL, "max_tokens": 4}
        found += [
            Row(f"{name} not streamed", path, body),
            Row(f"{name} stream", path, body | {"stream": True}),
            Row(f"{name} unknown field", path, body | {"unheard_of": 1}),
            Row(f"{name} malformed", path, b'{"model": '),
            Row(f"{name} not UTF-8", path, b'{"model": "\xff"}'),
            Row(f"{name} empty", path, b""),
            Row(f"{name} list", path, b"[1]"),
            Row(f"{name} missing field", path, missing),
            Row(f"{name} text for a number", path, body | {"temperature": "hot"}),
            Row(f"{name} negative temperature", path, body | {"temperature": -3}),
            Row(f"{name} media type", path, body, media="text/plain"),
            Row(f"{name} unknown model", path, body | {"model": "nope"}),
            Row(f"{name} too long", path, body | LONG[path]),
            Row(f"{name} too many characters", path, body | worded(path, TOO_MANY_CHARACTERS)),
            Row(f"{name} more output than the context", path, body | {LIMITS[path]: 5000}),
            *(
                Row(f"{name} unfit {stream}", path, body | UNFIT[path] | {"stream": stream})
                for stream in (False, True)
                if path in UNFIT
            ),
            Row(f"{name} too long stream", path, body | LONG[path] | {"stream": True}),
        ]
    return found


@pytest.fixture
async def fake_socket(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a fake engine that serves the same model."""
    async with FakeEngine(MODEL).listen(tmp_path / "fake.sock"):
        yield tmp_path / "fake.sock"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
async def test_fake_answers_like_vllm(row: Row, real_engine: RealEngine, fake_socket: Path) -> None:
    real = await ask(real_engine.socket, row.method, row.path, row.body, row.media)
    assert await ask(fake_socket, row.method, row.path, row.body, row.media) == real


@pytest.mark.parametrize("stream", [False, True], ids=["not streamed", "stream"])
async def test_a_response_that_ends_with_a_stop_token(stream: bool, real_engine: RealEngine, fake_socket: Path) -> None:
    end = json.loads((ROOT / "models/pebble" / MODEL / "config.json").read_text())["eos_token_id"]
    body = BODIES[CHAT] | {"max_tokens": 50, "min_tokens": 2, "logit_bias": {str(end): 100}, "ignore_eos": False}
    real = await ask(real_engine.socket, "POST", CHAT, body | {"stream": stream})
    assert await ask(fake_socket, "POST", CHAT, body | {"stream": stream}) == real


async def test_fake_has_the_metrics_of_vllm(real_engine: RealEngine, fake_socket: Path) -> None:
    assert (await metrics(fake_socket)).keys() <= (await metrics(real_engine.socket)).keys()


@pytest.mark.parametrize("stream", [False, True], ids=["not streamed", "stream"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
async def test_a_client_that_disconnects_frees_the_engine(
    path: str, stream: bool, real_engine: RealEngine, tmp_path: Path
) -> None:
    real = await _running_around_disconnect(real_engine.socket, path, stream)
    async with FakeEngine(MODEL, gap=0.1).listen(tmp_path / "fake.sock"):
        assert await _running_around_disconnect(tmp_path / "fake.sock", path, stream) == real == [1, 0]


async def _running_around_disconnect(socket: Path, path: str, stream: bool) -> list[float]:
    """How many requests run while the client waits, and after it has disconnected."""
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    exchange = await RawExchange.start(
        socket, "POST", path, BODIES[path] | {limit: 900, "stream": stream, "ignore_eos": True}
    )
    before = await _until(socket, 1)
    exchange.disconnect()
    return [before, await _until(socket, 0)]


async def _until(socket: Path, wanted: float) -> float:
    """Waits until `wanted` requests run; returns how many do."""

    async def running() -> bool:
        return (await metrics(socket))["vllm:num_requests_running"] == wanted

    await until(running, f"{wanted:g} running")
    return wanted
