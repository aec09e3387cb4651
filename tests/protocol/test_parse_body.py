"""Parsing a body with the fleet's extra fields, and the bytes that an engine gets."""

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.parse_body import engine_body, parse_body, with_fields
from service.protocol.requests import ChatRequest
from tests.protocol.test_generation import CHAT, ENDPOINTS, turn
from tests.protocol.test_requests import body, rejection

# Extra fields


def test_extra_fields_of_the_fleet_are_allowed() -> None:
    raw = body(CHAT, guided_json={"a": [1]}, min_tokens=4)
    assert parse_body(ENDPOINTS[CHAT].body, raw, ("guided_json", "min_tokens")).model == "m"
    assert rejection(CHAT, raw, ("guided_json",)).param == "min_tokens"
    assert rejection(CHAT, raw).code == "unknown_parameter"


def test_a_known_field_is_validated_even_if_it_is_an_extra_field() -> None:
    known = parse_body(
        ENDPOINTS[CHAT].body, body(CHAT, stop_token_ids=[7], min_tokens=4), ("stop_token_ids", "min_tokens")
    )
    assert cast(ChatRequest, known).stop_token_ids == [7]


def test_extra_fields_are_allowed_only_at_the_top_level() -> None:
    raw = body(CHAT, messages=[turn("user") | {"min_tokens": 1}])
    assert rejection(CHAT, raw, ("min_tokens",)).param == "messages[0].min_tokens"
    assert rejection(CHAT, body(CHAT, temperature=3, min_tokens=4), ("min_tokens",)).param == "temperature"


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
    assert with_fields(raw, {"model": "x"}) == b'{"temperature": 1.0, "seed": 1e2, "model":\t"a\\u0062" ,"model": "x"}'


# The body for an engine


def sent(fields: dict[str, Any], rewritten: dict[str, Any], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an engine gets for a chat request with these fields."""
    raw = body(CHAT, **fields)
    got: dict[str, Any] = json.loads(
        engine_body(raw, parse_body(ENDPOINTS[CHAT].body, raw, extra), rewritten, streams=True)
    )
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


def test_a_field_of_ours_is_replaced_as_the_rewrite_says() -> None:
    assert sent({"stop": ["x"]}, {"stop": ["y"]}) == {"stop": ["y"]}


def test_nulls_within_a_field_are_kept() -> None:
    assert sent({"metadata": None, "tools": [{"a": None}], "seed": None}, {}) == {"tools": [{"a": None}]}


def test_a_body_with_nothing_to_leave_out_is_the_clients() -> None:
    raw = body(CHAT, temperature=0.5)
    assert engine_body(raw, parse_body(ENDPOINTS[CHAT].body, raw), {}, streams=True) is raw
