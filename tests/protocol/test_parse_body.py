"""A body read whole: what the fleet lets through, and the bytes an engine gets."""

import json
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from service.protocol.parse_body import parse_body, with_fields
from service.protocol.requests import ChatRequest
from tests.protocol.test_generation import CHAT, ENDPOINTS, turn
from tests.protocol.test_requests import body, refusal

# What the fleet lets through


def test_the_fleet_may_open_fields() -> None:
    raw = body(CHAT, guided_json={"a": [1]}, min_tokens=4)
    assert parse_body(ENDPOINTS[CHAT].body, raw, ("guided_json", "min_tokens")).model == "m"
    assert refusal(CHAT, raw, ("guided_json",)).param == "min_tokens"
    assert refusal(CHAT, raw).code == "unknown_parameter"


def test_a_field_that_is_known_is_read_even_if_the_fleet_opens_it() -> None:
    known = parse_body(
        ENDPOINTS[CHAT].body, body(CHAT, stop_token_ids=[7], min_tokens=4), ("stop_token_ids", "min_tokens")
    )
    assert cast(ChatRequest, known).stop_token_ids == [7]


def test_an_open_field_opens_no_other_place() -> None:
    raw = body(CHAT, messages=[turn("user") | {"min_tokens": 1}])
    assert refusal(CHAT, raw, ("min_tokens",)).param == "messages[0].min_tokens"
    assert refusal(CHAT, body(CHAT, temperature=3, min_tokens=4), ("min_tokens",)).param == "temperature"


# What the engine gets

KEYS = st.sampled_from(["model", "prompt", "suffix", "stop", "stream_options", "a"])
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


@given(OBJECTS.filter(bool), OBJECTS, st.sampled_from([None, 2]), st.sampled_from(["", " ", "\n", "\t\r\n "]))
def test_edited_sets_fields_and_leaves_the_clients_bytes(
    theirs: dict[str, Any], ours: dict[str, Any], indent: int | None, space: str
) -> None:
    raw = (space + json.dumps(theirs, indent=indent, ensure_ascii=False) + space).encode()
    result = with_fields(raw, ours)
    assert json.loads(result) == theirs | ours
    assert result.startswith(raw.rstrip()[:-1])
    if not ours:
        assert result is raw


def test_edited_keeps_what_json_would_rewrite() -> None:
    raw = b'{"temperature": 1.0, "seed": 1e2, "model":\t"a\\u0062" }'
    assert with_fields(raw, {"model": "x"}) == b'{"temperature": 1.0, "seed": 1e2, "model":\t"a\\u0062" ,"model": "x"}'
