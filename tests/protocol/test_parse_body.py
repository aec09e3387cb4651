"""Parsing a body with the fleet's extra fields, and the bytes that an engine gets."""

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.parse_body import FieldPolicy, engine_body, parse_body, with_fields
from service.protocol.requests import ChatRequest
from tests.protocol.test_generation import CHAT
from tests.protocol.test_requests import body, rejection

# Fields that an endpoint does not read


def test_a_body_whose_fields_are_all_known_stays_as_it_is() -> None:
    raw = b' {"model":"m","messages": [ {"role":"user","content":"hi","mood":1} ] } '
    parsed = parse_body(ChatRequest, raw)
    assert parsed.body is raw
    assert parsed.ignored == ()


def test_other_fields_are_dropped_and_named() -> None:
    raw = body(CHAT, verbosity="low", n=2, my_field={"a": [1]})
    parsed = parse_body(ChatRequest, raw)
    assert parsed.ignored == ("verbosity", "my_field")
    assert cast(ChatRequest, parsed.request).n == 2
    assert json.loads(parsed.body) == json.loads(body(CHAT, n=2))


def test_null_is_no_field() -> None:
    parsed = parse_body(ChatRequest, body(CHAT, request_id=None, verbosity=None, guided_json=None))
    assert parsed.ignored == ()
    assert json.loads(parsed.body) == json.loads(body(CHAT))


def test_extra_fields_of_the_fleet_are_passed() -> None:
    raw = body(CHAT, guided_json={"a": [1]}, request_id="s")
    parsed = parse_body(ChatRequest, raw, FieldPolicy(("guided_json", "request_id")))
    assert json.loads(parsed.body) == json.loads(raw)
    assert parsed.ignored == ()
    assert rejection(CHAT, raw, ("guided_json",)).param == "request_id"
    assert rejection(CHAT, body(CHAT, other=1), ("guided_json",)).code == "unknown_parameter"


def test_a_known_field_is_validated_even_if_it_is_an_extra_field() -> None:
    raw = body(CHAT, stop_token_ids=[7], guided_json={})
    known = parse_body(ChatRequest, raw, FieldPolicy(("stop_token_ids", "guided_json")))
    assert cast(ChatRequest, known.request).stop_token_ids == [7]
    assert (
        rejection(CHAT, body(CHAT, temperature=3, guided_json=4), ("temperature", "guided_json")).param == "temperature"
    )


def test_the_values_that_remain_are_the_clients_bytes() -> None:
    raw = b'{"model":"a\\u0062", "seed": 1, "temperature": 1.00, "messages":[{"role":"user","content":"\xc3\xa9"}],'
    raw += b' "x\\"": {}}'
    parsed = parse_body(ChatRequest, raw)
    assert b'"temperature":1.00' in parsed.body
    assert b'"model":"a\\u0062"' in parsed.body
    assert b'[{"role":"user","content":"\xc3\xa9"}]' in parsed.body
    assert parsed.ignored == ('x"',)


# Appended fields

KEYS = st.sampled_from(["model", "prompt", "suffix", "stop", "stream_options", "a"])
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


@given(OBJECTS.filter(bool), OBJECTS, st.sampled_from([None, 2]), st.sampled_from(["", " ", "\n", "\t\r\n "]))
def test_fields_are_replaced_and_other_bytes_kept(
    original: dict[str, Any], replaced: dict[str, Any], indent: int | None, space: str
) -> None:
    raw = (space + json.dumps(original, indent=indent, ensure_ascii=False) + space).encode()
    result = with_fields(raw, replaced)
    assert json.loads(result) == original | replaced
    assert result.startswith(raw.rstrip()[:-1])
    if not replaced:
        assert result is raw


def test_bytes_that_reencoding_would_change_are_kept() -> None:
    raw = b'{"temperature": 1.0, "seed": 1e2, "model":\t"a\\u0062" }'
    assert with_fields(raw, {"model": "x"}) == b'{"temperature": 1.0, "seed": 1e2, "model":\t"a\\u0062" ,"model":"x"}'


# The body for an engine


def sent(fields: dict[str, Any], rewritten: dict[str, Any], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an engine gets for a chat request with these fields."""
    raw = body(CHAT, **fields)
    parsed = parse_body(ChatRequest, raw, FieldPolicy(extra))
    got: dict[str, Any] = json.loads(engine_body(parsed.body, parsed.request, rewritten, streams=True))
    return {name: value for name, value in got.items() if name not in ("model", "messages")}


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        (["x", {}], ["y", "x"], ["x", {}, "y"]),
        ("x", ["y"], ["x", "y"]),
        (None, ["y"], ["y"]),
        ("x", 5, 5),
        (7, {"b": 3}, {"b": 3}),
    ],
)
def test_an_opened_field_that_is_rewritten_too_has_both_values(theirs: Any, ours: Any, expected: Any) -> None:
    assert sent({"opened": theirs}, {"opened": ours}, ("opened",)) == {"opened": expected}


def test_template_arguments_of_both_are_merged() -> None:
    theirs, ours = {"enable_thinking": False}, {"bos_is_added": True}
    got = sent({"chat_template_kwargs": theirs}, {"chat_template_kwargs": ours})
    assert got == {"chat_template_kwargs": {"enable_thinking": False, "bos_is_added": True}}


def test_a_field_of_ours_is_replaced_as_the_rewrite_says() -> None:
    assert sent({"stop": ["x"]}, {"stop": ["y"]}) == {"stop": ["y"]}


def test_nulls_within_a_field_are_kept() -> None:
    assert sent({"metadata": None, "tools": [{"a": None}], "seed": None}, {}) == {"tools": [{"a": None}]}


def test_a_body_with_nothing_to_leave_out_is_the_clients() -> None:
    raw = body(CHAT, temperature=0.5)
    assert engine_body(raw, parse_body(ChatRequest, raw).request, {}, streams=True) is raw
