"""Request bodies: every field is accepted with a valid value, and what is invalid is rejected by name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.protocol.generation import GENERATION
from service.protocol.parse_body import FieldPolicy, parse_body
from service.protocol.scoring import SIDES
from tests.protocol.test_generation import (
    CHAT,
    COMPLETIONS,
    COUNT,
    DETOKENIZE,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    MINIMAL,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
    TOOL,
    turn,
)
from tests.support.each import each

# A valid value for every field of every endpoint; keys with a path are for that endpoint only.
GOOD: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 16,
    "max_completion_tokens": 16,
    "max_output_tokens": 16,
    "n": 4,
    "temperature": 1,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.1,
    "presence_penalty": -2.0,
    "frequency_penalty": 2,
    "repetition_penalty": 1.1,
    "seed": -1,
    "stop": ["a"] * 8,
    "stop_sequences": ["a"],
    "stop_token_ids": [0, 32015],
    "logit_bias": {"50256": -100},
    "user": "someone",
    "messages": [turn("user"), turn("assistant", "yes"), turn("user")],
    "system": "Be brief.",
    "prompt": ["a", "b"],
    "suffix": "c",
    "infill_order": "suffix_first",
    "echo": True,
    "best_of": 1,
    "logprobs": True,
    f"{COMPLETIONS} logprobs": 20,
    "top_logprobs": 20,
    "tools": [TOOL],
    "tool_choice": "auto",
    f"{MESSAGES} tool_choice": {"type": "auto"},
    f"{COUNT} tool_choice": {"type": "auto"},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "reasoning": {"effort": "low"},
    "thinking": {"type": "disabled"},
    "metadata": {"a": "b"},
    "store": False,
    "prompt_cache_key": "k",
    "input": ["a", "b"],
    f"{RESPONSES} input": [turn("user")],
    "instructions": "Be brief.",
    "text": {"format": {"type": "text"}},
    "truncation": "auto",
    "include": [],
    "previous_response_id": None,
    "background": False,
    "conversation": None,
    "encoding_format": "base64",
    "dimensions": 256,
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "structured_outputs": {"choice": ["a"]},
    "skip_special_tokens": False,
    "min_tokens": 0,
    "bad_words": ["b"],
    "allowed_token_ids": [1, 2],
    "logprob_token_ids": [1],
    "prompt_logprobs": 1,
    "truncate_prompt_tokens": -1,
    "truncation_side": "left",
    "add_special_tokens": False,
    "spaces_between_special_tokens": True,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "return_token_offsets": True,
    "return_prompt_text": True,
    "cache_salt": "a",
    "stream_interval": 2,
    "thinking_token_budget": 100,
    "include_reasoning": False,
    "chat_template_kwargs": {"enable_thinking": False},
    "documents": [{"text": "a"}],
    "add_generation_prompt": False,
    "continue_final_message": True,
    f"{CHAT} echo": True,
    "max_tool_calls": 3,
    "output_config": {"effort": "high"},
    "output_format": {"type": "json_schema", "schema": {}},
    "use_activation": True,
    "query": "a",
    f"{RERANK} documents": ["a", {"text": "b", "title": "c"}],
    "top_n": 0,
    "return_documents": False,
    "max_tokens_per_query": 64,
    "max_tokens_per_doc": 64,
    "instruction": "Find what answers it.",
    **{first: "a" for first, _ in SIDES},
    **{second: ["a", "b"] for _, second in SIDES if second != "documents"},
    f"{SCORE} documents": ["a", "b"],
    f"{TOKENIZE} prompt": "a",
    "return_token_strs": True,
    "tokens": [0, 5],
}
WITH: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "infill_order": {"suffix": "c"},
    **{f"{path} stream": {"stream": None} for path in (EMBEDDINGS, RERANK, SCORE)},
    **{f"{SCORE} {first}": {"text_1": None, "text_2": None, second: "b"} for first, second in SIDES[1:]},
    **{f"{SCORE} {second}": {"text_1": None, "text_2": None, first: "a"} for first, second in SIDES[1:]},
    f"{TOKENIZE} messages": {"prompt": None},
}
REQUIRED = [
    (endpoint.path, field.name)
    for endpoint in GENERATION
    for field in msgspec.structs.fields(endpoint.body)
    if field.required
]
FIELDS = [(endpoint.path, field) for endpoint in GENERATION for field in endpoint.body.__struct_fields__]


def body(path: str, **fields: Any) -> bytes:
    return json.dumps(MINIMAL[path] | fields).encode()


def rejection(path: str, raw: bytes, extra_fields: tuple[str, ...] = ()) -> ApiError:
    """The 400 where the fleet refuses unknown fields."""
    with pytest.raises(ApiError) as caught:
        parse_body(ENDPOINTS[path].body, raw, FieldPolicy(extra_fields, refuse_unknown=True))
    error = caught.value
    assert (error.status, error.code.type) == (400, "invalid_request_error")
    assert error.message.endswith(".") or ENDPOINTS[path].body.anthropic
    return error


# Fields


@each(("path", "field"), FIELDS, ids=lambda part: part.removeprefix("/v1/"))
def test_every_field_is_accepted(path: str, field: str) -> None:
    value = GOOD.get(f"{path} {field}", GOOD[field])
    fields = {field: value} | WITH.get(field, {}) | WITH.get(f"{path} {field}", {})
    parse_body(ENDPOINTS[path].body, body(path, **fields))


@each(("path", "field"), REQUIRED, ids=lambda part: part.removeprefix("/v1/"))
def test_a_missing_required_field_is_named(path: str, field: str) -> None:
    error = rejection(path, json.dumps({key: value for key, value in MINIMAL[path].items() if key != field}).encode())
    assert (error.param, error.code) == (field, "missing_required_parameter")


# Including names that occur in validators' own error paths, and unusual ones.
@each("path", ENDPOINTS)
@each("name", ["best_off", "guided_json", "str", "TextPart", "foo-bar", "a b", "0", "", "模型", "x" * 999])
def test_an_unknown_field_is_rejected_by_name(path: str, name: str) -> None:
    error = rejection(path, body(path, **{name: 1}))
    assert (error.param, error.code) == (name[:64], "unknown_parameter")
    openai = f"Unknown parameter: '{name[:64]}'. Leave it out."
    anthropic = f"{name[:64]}: Extra inputs are not permitted"
    assert error.message == (anthropic if path in (MESSAGES, COUNT) else openai)


@each(
    ("path", "fields", "param", "code", "part"),
    [
        (CHAT, {"temperature": "hot"}, "temperature", "invalid_value", "should be a number, not a string"),
        (CHAT, {"temperature": -3}, "temperature", "invalid_value", "a number of at least 0"),
        (CHAT, {"temperature": float("nan")}, None, "invalid_json", "invalid character"),
        (CHAT, {"top_p": float("inf")}, None, "invalid_json", "invalid character"),
        (CHAT, {"temperature": True}, "temperature", "invalid_value", "should be a number, not true or false"),
        (CHAT, {"top_p": 1.5}, "top_p", "invalid_value", "a number of at most 1."),
        (CHAT, {"max_tokens": 0}, "max_tokens", "invalid_value", "an integer of at least 1."),
        (CHAT, {"max_tokens": 1.5}, "max_tokens", "invalid_value", "should be an integer, not a number"),
        (CHAT, {"max_tokens": "9"}, "max_tokens", "invalid_value", "should be an integer, not a string"),
        (CHAT, {"max_tokens": 10**30}, "max_tokens", "invalid_value", "an integer of at most 2147483648."),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, None, "invalid_request", "max_completion_tokens differ"),
        (CHAT, {"temperature": 10**400}, "temperature", "invalid_value", "number out of range"),
        (CHAT, {"n": 5}, "n", "invalid_value", "at most 4."),
        (CHAT, {"n": True}, "n", "invalid_value", "should be an integer, not true or false"),
        (CHAT, {"seed": 2**63}, "seed", "invalid_value", "at most 9223372036854775807."),
        (CHAT, {"stream": "yes"}, "stream", "invalid_value", "should be true or false, not a string"),
        (CHAT, {"stream_options": {"include_usage": True}}, None, "invalid_request", "only allowed with stream"),
        (CHAT, {"stop": ["a"] * 9}, "stop", "invalid_value", "a list of at most 8 items"),
        (CHAT, {"stop": ["x" * 257]}, "stop[0]", "invalid_value", "a string of at most 256 characters"),
        (CHAT, {"stop": ""}, "stop", "invalid_value", "at least 1 character"),
        (CHAT, {"logit_bias": {"5": 101}}, "logit_bias", "invalid_value", "a number of at most 100."),
        (CHAT, {"logit_bias": {str(key): 1 for key in range(301)}}, "logit_bias", "invalid_value",
         "an object of at most 300 members"),
        (CHAT, {"logit_bias": {"a": 1}}, "logit_bias", "invalid_value", "its names should be token ids"),
        (CHAT, {"messages": [turn("x" * 65)]}, "messages[0].role", "invalid_value", "at most 64 characters"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "x" * 129}}]}, "tools[0].function.name",
         "invalid_value", "at most 128 characters"),
        (CHAT, {"messages": []}, "messages", "invalid_value", "at least 1 item"),
        (CHAT, {"messages": "hi"}, "messages", "invalid_value", "should be a list, not a string"),
        (CHAT, {"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter", "is required"),
        (CHAT, {"messages": [turn("user", 5)]}, "messages[0].content", "invalid_value",
         "should be a string or a list, not an integer"),
        (CHAT, {"a` - at `$.b": 1}, "a` - at `$.b", "unknown_parameter", "Leave it out"),
        (CHAT, {"messages": [turn("user", [{"type": "text", "text": 5}])]}, "messages[0].content[0].text",
         "invalid_value", "should be a string, not an integer"),
        (CHAT, {"tools": [TOOL] * 513}, "tools", "invalid_value", "at most 512 items"),
        (CHAT, {"tools": ["f"]}, "tools[0]", "invalid_value", "should be an object, not a string"),
        (RESPONSES, {"metadata": {"a": 1}}, "metadata", "invalid_value", "should be a string, not an integer"),
        (CHAT, {"model": ""}, "model", "invalid_value", "at least 1 character"),
        (CHAT, {"model": "x" * 129}, "model", "invalid_value", "at most 128 characters"),
        (CHAT, {"model": None}, "model", "invalid_value", "should be a string, not null"),
        (COMPLETIONS, {"prompt": ["a"], "suffix": "b"}, None, "invalid_request", "must be one string"),
        (COMPLETIONS, {"echo": True, "suffix": "b"}, None, "invalid_request", "cannot be combined"),
        (COMPLETIONS, {"infill_order": "suffix_first"}, None, "invalid_request", "only allowed with suffix"),
        (COMPLETIONS, {"suffix": "b", "infill_order": "x"}, "infill_order", "invalid_value", "'suffix_first'"),
        (COMPLETIONS, {"stop_token_ids": [-1]}, "stop_token_ids[0]", "invalid_value", "at least 0"),
        (COMPLETIONS, {"stop_token_ids": [*range(65)]}, "stop_token_ids", "invalid_value", "at most 64"),
        (COMPLETIONS, {"prompt": []}, "prompt", "invalid_value", "at least 1 item"),
        (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt", "invalid_value", "at most 128 items"),
                (COMPLETIONS, {"prompt": [-1]}, "prompt[0]", "invalid_value", "at least 0"),
        (COMPLETIONS, {"prompt": [{}]}, "prompt[0]", "invalid_value", "an integer, a string or a list, not an object"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt", "invalid_value", "texts only, or token ids only"),
        (COMPLETIONS, {"logprobs": 21}, "logprobs", "invalid_value", "at most 20"),
        (COMPLETIONS, {"best_of": 2}, "best_of", "invalid_value", "should be 1"),
        (RESPONSES, {"input": 5}, "input", "invalid_value", "should be a string or a list, not an integer"),
        (RESPONSES, {"previous_response_id": 1}, "previous_response_id", "invalid_value", "should be a string"),
        (RESPONSES, {"previous_response_id": "x" * 129}, "previous_response_id", "invalid_value", "at most 128"),
        (RESPONSES, {"background": True, "store": False}, None, "invalid_request", "needs store: true"),
        (RESPONSES, {"background": True, "stream": True}, None, "invalid_request", "cannot be combined with stream"),
        (RESPONSES, {"truncation": "hard"}, "truncation", "invalid_value", "should be 'auto' or 'disabled'"),
        (EMBEDDINGS, {"input": ""}, "input", "invalid_value", "at least 1 character"),
        (EMBEDDINGS, {"input": ["a", ""]}, "input[1]", "invalid_value", "at least 1 character"),
        (EMBEDDINGS, {"input": ["a"] * 2049}, "input", "invalid_value", "at most 2048 items"),
        (EMBEDDINGS, {"input": [[1]] * 2049}, "input", "invalid_value", "at most 2048 items"),
        (EMBEDDINGS, {"input": [[]]}, "input[0]", "invalid_value", "at least 1 item"),
        (EMBEDDINGS, {"input": [[1], 1]}, "input", "invalid_value", "texts only, or token ids only"),
        (EMBEDDINGS, {"stream": True}, "stream", "invalid_value", "should be false"),
        (EMBEDDINGS, {"encoding_format": "hex"}, "encoding_format", "invalid_value", "should be 'base64' or 'float'"),
        (RERANK, {"documents": []}, "documents", "invalid_value", "at least 1 item"),
        (RERANK, {"documents": ["a"] * 2049}, "documents", "invalid_value", "at most 2048 items"),
        (RERANK, {"documents": [{"image": "x"}]}, "documents[0].text", "missing_required_parameter", "is required"),
        (RERANK, {"documents": ["a", 1]}, "documents[1]", "invalid_value", "a string or an object, not an integer"),
        (RERANK, {"query": ""}, "query", "invalid_value", "at least 1 character"),
        (RERANK, {"top_n": -1}, "top_n", "invalid_value", "at least 0"),
        (RERANK, {"stream": True}, "stream", "invalid_value", "should be false"),
        (RERANK, {"query": "q" * 2**14, "documents": ["a"] * 1024}, None, "invalid_request", "are 16778240 characters"),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1", "invalid_value", "it has 2 texts and 'text_2'"),
        (SCORE, {"text_2": ["a"] * 2049}, "text_2", "invalid_value", "at most 2048 items"),
        (SCORE, {"text_2": None}, None, "invalid_request", "text_1 and text_2, queries and documents"),
        (SCORE, {"queries": "a"}, None, "invalid_request", "by the names of one pair"),
        (TOKENIZE, {"messages": [turn("user")]}, None, "invalid_request", "either prompt, a string, or messages"),
        (TOKENIZE, {"prompt": None}, None, "invalid_request", "either prompt, a string, or messages"),
        (TOKENIZE, {"prompt": ["a"]}, "prompt", "invalid_value", "should be a string, not a list"),
        (DETOKENIZE, {"tokens": [2**31]}, "tokens[0]", "invalid_value", "at most 2147483647"),
        (DETOKENIZE, {"tokens": [1] * (2**20 + 1)}, "tokens", "invalid_value", "at most 1048576 items"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_rejected_by_name(
    path: str, fields: dict[str, Any], param: str | None, code: str, part: str
) -> None:
    error = rejection(path, body(path, **fields))
    assert (error.param, error.code) == (param, code), error.message
    assert part in error.message
    assert param is None or f"'{param}'" in error.message


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": [turn("user"), turn("wizard")]}, "messages[1].role",
         "messages.1.role: Input should be 'assistant', 'system' or 'user'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages.0.content: Field required"),
        ({"temperature": 1.5}, "temperature", "temperature: Input should be a number of at most 1"),
        ({"tool_choice": "auto"}, "tool_choice", "tool_choice: Input should be an object, not a string"),
        ({"mcp_servers": []}, "mcp_servers", "mcp_servers: Extra inputs are not permitted: nothing here connects"),
    ],
)  # fmt: skip
def test_the_anthropic_endpoints_use_anthropics_words(fields: dict[str, Any], param: str, message: str) -> None:
    error = rejection(MESSAGES, body(MESSAGES, **fields))
    assert error.param == param
    assert error.message.startswith(message)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, 2**64, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
DEEP = b"{" + b'"a":{' * 5000 + b"}" * 5001
BROKEN = [
    b"",
    b" ",
    b"{",
    b'{"model": ',
    b'{"model": "m",}',
    b"{'model': 'm'}",
    b"[]",
    b"[1]",
    b'"text"',
    b"null",
    b"3",
    b'{"model": "\xff"}',
    b'{"model": "\\ud800"}',
    b"\xef\xbb\xbf{}",
    b'\xff\xfe{\x00"\x00',
    b"\x1f\x8b\x08",
]
AFTER = [b" {}", b",", b"}", b"\x00"]


with_and_without_extra_fields = each("extra_fields", [(), ("messages", "a")])


@with_and_without_extra_fields
@each("raw", BROKEN, ids=lambda raw: repr(raw[:20]))
@each("path", ENDPOINTS)
def test_a_body_that_is_no_json_object_is_rejected(path: str, raw: bytes, extra_fields: tuple[str, ...]) -> None:
    error = rejection(path, raw, extra_fields)
    assert (error.code, error.param) == ("invalid_json", None), error.message
    assert len(error.message) < 200


@with_and_without_extra_fields
@each("after", AFTER)
@each("path", ENDPOINTS)
def test_bytes_after_the_object_are_rejected(path: str, after: bytes, extra_fields: tuple[str, ...]) -> None:
    error = rejection(path, body(path) + after, extra_fields)
    assert (error.code, error.param) == ("invalid_json", None), error.message
    assert len(error.message) < 200


@with_and_without_extra_fields
@each("path", ENDPOINTS)
def test_deeply_nested_lists_are_rejected(path: str, extra_fields: tuple[str, ...]) -> None:
    names = ("messages", "prompt", "input", "documents", "text_1", "tokens")
    field = next(name for name in names if name in MINIMAL[path])
    depth = b"[" * 200_000 + b"]" * 200_000
    error = rejection(path, b'{"model":"m","%b":%b,"a":1}' % (field.encode(), depth), extra_fields)
    assert len(error.message) < 200


# What is forwarded unread may have any contents and size, but must be a JSON object.
@each(
    ("tool", "code"),
    [
        (b"{}", None),
        (b' { "a" : [ { } , null , 1e9 , "\xc3\xa9\\ud83d\\ude00" ] }', None),
        (b'{"a":1,}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":tru}', "invalid_json"),
        (b'{"a":"\n"}', "invalid_json"),
        (b'{"a":"\xff"}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b"{a:1}", "invalid_json"),
        (b'{"a":1]', "invalid_json"),
        (DEEP, "invalid_json"),
        (b"[]", "invalid_value"),
        (b"1", "invalid_value"),
        (b"null", "invalid_value"),
    ],
    ids=lambda part: repr(part[:20]) if isinstance(part, bytes) else part,
)
@with_and_without_extra_fields
@each("path", [CHAT, RESPONSES, MESSAGES, COUNT])
def test_opaque_objects_must_be_json_objects(
    path: str, tool: bytes, code: str | None, extra_fields: tuple[str, ...]
) -> None:
    raw = body(path)[:-1] + b',"tools":[' + tool + b"]}"
    if code is None:
        parse_body(ENDPOINTS[path].body, raw, FieldPolicy(extra_fields))
    else:
        assert rejection(path, raw, extra_fields).code == code


@given(st.binary())
def test_any_bytes_are_rejected_with_a_400(raw: bytes) -> None:
    for path in ENDPOINTS:
        rejection(path, raw)


@given(st.data())
def test_any_value_of_any_field_is_accepted_or_rejected_with_a_400(data: st.DataObject) -> None:
    path, field = data.draw(st.sampled_from(FIELDS))
    try:
        parse_body(ENDPOINTS[path].body, body(path, **{field: data.draw(ANYTHING)}))
    except ApiError as error:
        assert error.status == 400
