"""What real engines log of requests: nothing, whether they answer or reject them."""

import json
from typing import Any

import httpx
import pytest

from tests.support.services import Service
from tests.vllm.conftest import MODEL

pytestmark = pytest.mark.engine

SECRET = "canary7f3a9c41d8e05b62ac"
SAID = [{"role": "system", "content": SECRET}, {"role": "user", "content": SECRET}]
CALL = {"id": SECRET, "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": SECRET})}}
CALLED = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": SECRET, "tool_call_id": SECRET}]
SCHEMA = {"type": "array", "uniqueItems": True, "title": SECRET, "items": {"const": SECRET}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "description": SECRET, "parameters": {"type": "object"}}}
REQUESTS: list[tuple[str, dict[str, Any], int | None]] = [
    ("/v1/chat/completions", {"messages": SAID, "max_tokens": 4, "user": SECRET}, 200),
    ("/v1/chat/completions", {"messages": SAID, "max_tokens": 4, "stream": True}, 200),
    ("/v1/chat/completions", {"messages": SAID, "max_tokens": 4, "response_format": FORMAT}, 400),
    ("/v1/chat/completions", {"messages": SAID, "tools": [TOOL]}, 400),
    ("/v1/chat/completions", {"messages": CALLED, "max_tokens": 4}, None),
    ("/v1/chat/completions", {"messages": [{"role": SECRET, "content": None}]}, None),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET * 600}]}, 400),
    ("/v1/completions", {"prompt": SECRET, "max_tokens": 4, "stop": SECRET}, 200),
    ("/v1/completions", {"prompt": SECRET, "structured_outputs": {"regex": f"({SECRET}"}}, None),
    ("/v1/responses", {"input": SECRET, "instructions": SECRET, "max_output_tokens": 4}, 200),
    ("/v1/messages", {"messages": SAID[1:], "system": SECRET, "max_tokens": 4}, 200),
    ("/tokenize", {"prompt": SECRET}, 200),
]  # fmt: skip


def test_engines_log_nothing_of_what_is_said(pebble: Service) -> None:
    with httpx.Client(base_url=pebble.url, timeout=60) as client:
        for path, fields, status in REQUESTS:
            answer = client.post(path, json={"model": MODEL, **fields})
            assert status in (None, answer.status_code), (path, fields, answer.text)
            assert answer.status_code < 500, (path, fields, answer.text)
    logs = [path for path in pebble.run_dir.rglob("*") if path.is_file()]
    assert [path for path in logs if path.name == f"{MODEL}-0.log"]
    assert not [path.name for path in logs if SECRET.encode() in path.read_bytes()]
