"""Bounds of a fleet are those that a request is checked by, and every one of them is."""

import re
from typing import Any

import msgspec
import pytest

from service.errors import ApiError
from service.fleet.request_bounds import RequestBounds
from service.protocol.parse_body import SCHEMAS, FieldPolicy, decoders_for, parse_body
from tests.protocol.test_generation import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
    TOOL,
)
from tests.protocol.test_requests import body

TURN = {"role": "user", "content": "a"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}] * 3}
# A bound of two, and a field of three that is within the default.
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("messages", CHAT, {"messages": [TURN] * 3}, "messages"),
    ("messages", MESSAGES, {"messages": [TURN] * 3}, "messages"),
    ("messages", COUNT, {"messages": [TURN] * 3}, "messages"),
    ("messages", RESPONSES, {"input": [TURN] * 3}, "input"),
    ("messages", TOKENIZE, {"prompt": None, "messages": [TURN] * 3}, "messages"),
    ("parts", CHAT, {"messages": [PARTS]}, "messages[0].content"),
    ("parts", MESSAGES, {"messages": [PARTS]}, "messages[0].content"),
    ("parts", MESSAGES, {"system": PARTS["content"]}, "system"),
    ("parts", RESPONSES, {"input": [PARTS]}, "input[0].content"),
    ("n", CHAT, {"n": 3}, "n"),
    ("n", COMPLETIONS, {"n": 3}, "n"),
    ("prompts", COMPLETIONS, {"prompt": ["a"] * 3}, "prompt"),
    ("inputs", EMBEDDINGS, {"input": ["a"] * 3}, "input"),
    ("inputs", RERANK, {"documents": ["a"] * 3}, "documents"),
    ("inputs", SCORE, {"text_2": ["a"] * 3}, "text_2"),
    ("sequences", RERANK, {"documents": ["a"] * 3}, "documents"),
    ("sequences", CHAT, {"n": 3}, "n"),
    ("sequences", COMPLETIONS, {"prompt": [[1]] * 3}, "prompt"),
    ("sequences", COMPLETIONS, {"prompt": [[1]] * 2, "n": 2}, "n"),
    ("sequences", EMBEDDINGS, {"input": ["a"] * 3}, "input"),
    ("tools", CHAT, {"tools": [TOOL] * 3}, "tools"),
    ("tools", RESPONSES, {"tools": [TOOL] * 3}, "tools"),
    ("tools", MESSAGES, {"tools": [TOOL] * 3}, "tools"),
    ("tools", COUNT, {"tools": [TOOL] * 3}, "tools"),
    ("tools", TOKENIZE, {"prompt": None, "messages": [{"role": "user", "content": "a"}], "tools": [TOOL] * 3}, "tools"),
    ("stop", CHAT, {"stop": ["a"] * 3}, "stop"),
    ("stop", MESSAGES, {"stop_sequences": ["a"] * 3}, "stop_sequences"),
    ("stop_characters", COMPLETIONS, {"stop": "abc"}, "stop"),
    ("stop_characters", COMPLETIONS, {"stop": ["abc"]}, "stop[0]"),
    ("stop_token_ids", CHAT, {"stop_token_ids": [1] * 3}, "stop_token_ids"),
    ("logit_bias", CHAT, {"logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias"),
    ("bad_words", CHAT, {"bad_words": ["a"] * 3}, "bad_words"),
    ("allowed_token_ids", CHAT, {"allowed_token_ids": [1] * 3}, "allowed_token_ids"),
    ("logprob_token_ids", CHAT, {"logprob_token_ids": [1] * 3}, "logprob_token_ids"),
    ("logprobs", COMPLETIONS, {"logprobs": 3}, "logprobs"),
    ("logprobs", CHAT, {"top_logprobs": 3}, "top_logprobs"),
    ("logprobs", RESPONSES, {"top_logprobs": 3}, "top_logprobs"),
    ("prompt_logprobs", CHAT, {"prompt_logprobs": 3}, "prompt_logprobs"),
]


@pytest.mark.parametrize(("key", "path", "fields", "param"), CASES)
def test_a_request_is_checked_by_the_bounds_of_the_fleet(
    key: str, path: str, fields: dict[str, Any], param: str
) -> None:
    kind, raw = ENDPOINTS[path].body, body(path, **fields)
    parse_body(kind, raw)
    bounded = FieldPolicy(decoders=decoders_for(RequestBounds(**{key: 2})))
    parse_body(kind, body(path, **({"n": 1} if "n" in fields else {})), bounded)
    with pytest.raises(ApiError) as caught:
        parse_body(kind, raw, bounded)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert "2" in error.message


@pytest.mark.parametrize(
    ("path", "fields"),
    [(RERANK, {"query": "abc", "documents": ["d", {"text": "e"}]}), (SCORE, {"text_1": "abc", "text_2": ["d", "e"]})],
)
def test_a_query_counts_once_for_each_of_its_documents(path: str, fields: dict[str, Any]) -> None:
    kind, raw = ENDPOINTS[path].body, body(path, **fields)
    parse_body(kind, raw, FieldPolicy(decoders=decoders_for(RequestBounds(paired_characters=8))))
    with pytest.raises(ApiError, match=r"8 characters together.*; 7 are the most") as caught:
        parse_body(kind, raw, FieldPolicy(decoders=decoders_for(RequestBounds(paired_characters=7))))
    assert caught.value.status == 400


SCHEMA = {"type": "object", "description": "a" * 500}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, "response_format"),
        (COMPLETIONS, {"structured_outputs": {"json": SCHEMA}}, "structured_outputs"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "text"),
        (CHAT, {"chat_template_kwargs": {"documents": [SCHEMA]}}, "chat_template_kwargs"),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "output_config"),
        (CHAT, {"tools": [TOOL, {"type": "function", "function": {"parameters": SCHEMA}}]}, "tools[1]"),
        (MESSAGES, {"tools": [{"name": "a", "input_schema": SCHEMA}]}, "tools[0]"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"nobody_knows": 1}], ids=["", "taken apart"])
def test_a_schema_is_bounded_in_bytes(path: str, fields: dict[str, Any], param: str, more: dict[str, Any]) -> None:
    kind, raw = ENDPOINTS[path].body, body(path, **fields, **more)
    parse_body(kind, raw, FieldPolicy(decoders=decoders_for(RequestBounds(schema_bytes=800))))
    with pytest.raises(ApiError, match=r"has \d+ bytes and should have at most 500") as caught:
        parse_body(kind, raw, FieldPolicy(decoders=decoders_for(RequestBounds(schema_bytes=500))))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", param)


def test_every_schema_of_a_body_is_bounded() -> None:
    """A new field with a schema or grammar has to be added to those that are bounded."""
    opaque = {"tool_choice", "reasoning", "thinking"}
    found = {
        field.encode_name
        for endpoint in ENDPOINTS.values()
        for field in msgspec.structs.fields(endpoint.body)
        if re.search("Opaque|Typed|TemplateArguments", str(field.type)) and "list" not in str(field.type)
    }
    assert found - opaque == set(SCHEMAS)


def test_every_bound_has_a_case() -> None:
    elsewhere = {key for key in RequestBounds.model_fields if key.startswith(("schema_", "json_"))}
    elsewhere |= {"paired_characters", "output_tokens"}  # tests of schema_bounds, structure, rewrites
    assert {key for key, *_ in CASES} | elsewhere == set(RequestBounds.model_fields)


def test_more_than_the_defaults_can_be_allowed() -> None:
    bounds = RequestBounds(n=200, sequences=400, tools=600, logprobs=50)
    policy = FieldPolicy(decoders=decoders_for(bounds))
    request = parse_body(ENDPOINTS[COMPLETIONS].body, body(COMPLETIONS, n=200, prompt=["a", "b"], logprobs=50), policy)
    assert request.request.count_sequences() == 400
    parse_body(ENDPOINTS[CHAT].body, body(CHAT, tools=[TOOL] * 600), policy)
