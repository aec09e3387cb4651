"""Bodies have a bounded depth and number of parts, whatever their texts hold."""

import json

from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.fleet.request_bounds import RequestBounds
from service.protocol.structure import LARGE, check_structure
from tests.protocol.test_generation import CHAT, ENDPOINTS
from tests.protocol.test_requests import body, rejection
from tests.support.each import each

BOUNDS = RequestBounds(json_depth=8, json_members=1000)
TEXT = 'if (a[0]) { return [["\\"]]] }} \\'  # brackets that are none
JSON = st.recursive(
    st.text(alphabet='{}[]"\\n:, ', max_size=12) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{["\\', max_size=3), inner, max_size=3),
    max_leaves=30,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def is_refused(raw: bytes, bounds: RequestBounds = BOUNDS) -> bool:
    try:
        check_structure(raw, bounds)
    except ApiError as error:
        assert error.code == "invalid_json"
        return True
    return False


@given(JSON)
def test_the_depth_is_bounded_and_texts_have_none(value: object) -> None:
    raw = json.dumps([value, TEXT, "[{" * 9, value]).encode()  # enough brackets to be looked at
    assert is_refused(raw) == (depth(value) + 1 > 8)


@each("part", ["s", {}, [], {"a": 1}, [[]]], ids=str)
def test_the_parts_of_a_large_body_are_bounded(part: object) -> None:
    filler, few, many = "x" * LARGE, [part] * 400, [part] * 1200
    assert not is_refused(json.dumps([few, filler, TEXT * 2000, [[]] * 10]).encode())
    assert is_refused(json.dumps([many, filler, [[]] * 10]).encode())
    assert not is_refused(json.dumps([many, [[]] * 10]).encode())


@each("path", ENDPOINTS)
def test_every_endpoint_is_bounded(path: str) -> None:
    deep = json.loads("[" * 128 + "]" * 128)
    for value in (deep, [{"a": "b"}] * 70_000):
        assert rejection(path, body(path, nobody_knows=value)).code == "invalid_json"
        if path == CHAT:
            message = {"role": "user", "content": "a", "tool_calls": value}
            assert rejection(path, body(path, messages=[message])).code == "invalid_json"
