"""The fake engine responds as vLLM does."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.support.services import ROOT
from tests.vllm.conftest import MODEL, RealEngine
from tests.vllm.transcript import RawExchange, ask, metrics

pytestmark = pytest.mark.engine

USER = [{"role": "user", "content": "one two three four five six seven"}]
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TOO_LONG = "word " * 1500
USAGE = {"stream_options": {"include_usage": True}}
FOUR = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": USER, **FOUR},
    COMPLETIONS: {"model": MODEL, "prompt": "one two three", **FOUR},
    RESPONSES: {"model": MODEL, "input": "one two three four", "max_output_tokens": 4, "temperature": 0},
    MESSAGES: {"model": MODEL, "messages": USER, "max_tokens": 4, "temperature": 0},
}
LONG: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": TOO_LONG}]},
    COMPLETIONS: {"prompt": TOO_LONG},
    RESPONSES: {"input": TOO_LONG},
    MESSAGES: {"messages": [{"role": "user", "content": TOO_LONG}]},
}


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
    """Waits up to two seconds until `wanted` requests run; returns how many do."""
    running = -1.0
    for _ in range(100):
        if (running := (await metrics(socket))["vllm:num_requests_running"]) == wanted:
            break
        await asyncio.sleep(0.02)
    return running
