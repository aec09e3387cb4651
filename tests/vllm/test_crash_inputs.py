"""Requests that have killed, stalled or corrupted engines, sent through the gateway to a real one."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.checks.test_worker import MANY_ITEMS, MANY_STATES, format_of, with_pattern
from tests.support.services import Service
from tests.vllm.conftest import MODEL, RealEngine
from tests.vllm.test_rejections import CHAT, COMPLETIONS, MESSAGES, RESPONSES, ask, client

pytestmark = pytest.mark.engine
__all__ = ["client"]  # the fixture

VOCABULARY = 512
SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>system", "<|im_end|>", "[INST]", "<tool_call>", "<think>", "<image>")


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def talk(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def refused() -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that get a 400."""
    wrong: tuple[Any, ...] = (
        {"type": "nope"}, {"type": 5}, {"type": "object", "properties": [1]}, {"enum": []}, {"$ref": "#"},
        {"$ref": "#/no/such"}, {"$ref": "http://127.0.0.1:1/schema"}, nested(65), {"enum": list(range(10_000))},
        with_pattern("(("), with_pattern("a" * 513), {"type": "integer", "minimum": 5, "maximum": 3}, MANY_ITEMS,
        MANY_STATES,
    )  # fmt: skip
    for schema in wrong:
        yield CHAT, format_of(schema)
        yield RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
        yield MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    constraints: tuple[dict[str, Any], ...] = (
        {"json": ""}, {"json": "{"}, {"regex": "("}, {"grammar": ""}, {"grammar": "root ::= ("}, {"choice": []},
        {"json_object": False}, {"structural_tag": "{}"}, {},
    )  # fmt: skip
    for constraint in constraints:
        yield CHAT, {"structured_outputs": constraint}
    for value in (-2.1, 2.1, 1e308, -1e308):
        yield CHAT, {"presence_penalty": value}
        yield CHAT, {"frequency_penalty": value}
    for token in (-1, VOCABULARY, 2**31 - 1, 2**31):
        yield CHAT, {"logit_bias": {str(token): 1}}
        yield CHAT, {"stop_token_ids": [token]}
        yield COMPLETIONS, {"prompt": [1, token]}
        yield COMPLETIONS, {"allowed_token_ids": [token]}
    yield CHAT, {"n": 10**9}
    yield CHAT, {"n": 16385}
    yield CHAT, {"min_tokens": 2**31 + 1}
    yield COMPLETIONS, {"prompt": []}
    yield COMPLETIONS, {"prompt": [[]]}
    yield COMPLETIONS, {"prompt_embeds": "AAAA"}
    yield COMPLETIONS, {"prompt_logprobs": -1}


def either() -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that may be answered, or get a 400, as the engine can."""
    for pattern in ("(a+)+b", "(x{1,1000}){1,1000}"):
        yield CHAT, format_of(with_pattern(pattern))
        yield CHAT, {"structured_outputs": {"regex": pattern}}
    for text in SPECIAL:
        yield CHAT, talk(text)
        yield COMPLETIONS, {"prompt": text}
    for value in (-2, 2):
        yield CHAT, {"presence_penalty": value, "frequency_penalty": value, "repetition_penalty": 2}
    yield CHAT, {"repetition_penalty": 1e-300}
    yield CHAT, {"cache_salt": "\0é"}  # the engine gets one of ours in its place
    yield CHAT, {"min_tokens": 4, "max_tokens": 4, "stop_token_ids": [1]}
    yield CHAT, {"min_tokens": 2**31}
    yield CHAT, {"logit_bias": {str(token): -100 for token in range(VOCABULARY)}}
    yield COMPLETIONS, {"prompt": ""}
    yield COMPLETIONS, {"prompt": "a", "echo": True, "logprobs": 5, "max_tokens": 1, "prompt_logprobs": 1}
    yield CHAT, {"seed": -(2**63), "top_k": 2**31, "min_p": 1, "temperature": 5e-324}


def processes_of(pid: int) -> set[int]:
    """The API server with this pid, the engine core and its workers."""
    server = psutil.Process(pid)
    return {pid, *(child.pid for child in server.children(recursive=True))}


def test_none_of_them_harms_an_engine(client: httpx.Client, pebble: Service, real_engine: RealEngine) -> None:
    alive, wrong = processes_of(real_engine.pid), []
    for statuses, requests in (((400,), refused()), ((200, 400), either())):
        for path, fields in requests:
            response = ask(client, path, **fields)
            if response.status_code not in statuses:
                wrong.append((response.status_code, path, json.dumps(fields)[:120], response.text[:200]))
    assert ask(client, CHAT).status_code == 200
    assert processes_of(real_engine.pid) == alive and pebble.models()[MODEL]["state"] == "ready"
    assert not wrong, "\n".join(map(str, wrong))
