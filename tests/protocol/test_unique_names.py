"""A name that stands twice in an object is refused, wherever it is and however it is written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.protocol.unique_names import check_names
from tests.protocol.test_generation import CHAT, ENDPOINTS
from tests.protocol.test_requests import body, rejection
from tests.support.each import each


def refused(raw: bytes) -> str | None:
    """The name that is refused, if one is."""
    try:
        check_names(raw)
    except ApiError as error:
        assert error.code == "invalid_json"
        return error.param
    return None


@each(
    "inserted",
    [
        (b'"model":"m"', "model"),  # what is equal twice is twice, too
        (b'"model": "n"', "model"),
        (b'"mod\\u0065l": "other"', "model"),
        (b'"messages" : [{"role":"user"}]', "messages"),
        (b'"tools":[{"type":"function","function":{"name":"f","parameters":{"a":{"b":1,"c":{},"b":2}}}}]', "b"),
        (b'"verbosity": 1, "verbosity": 2', "verbosity"),
        (b'"verbosity": {"a": [[{"x": 1, "x": 1}]]}', "x"),
        (b'"": 1, "": 2', ""),
        (b'"a":1,"a":"\\u003a"', "a"),  # as many colons, written again, as were sent
        (b'"a":1,"a":"\\u003A","b":"\\\\u003a:"', "a"),
        (b'"' + b"x" * 99 + b'":1,"' + b"x" * 99 + b'":1', "x" * 64),
    ],
)
@each("extra", [(), ("verbosity", "a", "")])
def test_a_name_that_stands_twice_is_refused_and_named(inserted: tuple[bytes, str], extra: tuple[str, ...]) -> None:
    raw = body(CHAT)[:-1] + b"," + inserted[0] + b"}"
    error = rejection(CHAT, raw, extra)
    assert (error.code, error.param) == ("invalid_json", inserted[1])
    assert error.message == f"'{inserted[1]}' stands twice in one object of the body. Send it once."


@each("path", ENDPOINTS)
def test_every_endpoint_refuses_it(path: str) -> None:
    assert rejection(path, body(path)[:-1] + b',"model":"m"}').param == "model"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":{"b":1},"b":{"a":1,"A":2},"c":[{"b":1},{"b":1}]}',
        b'{"a":"\\u003a","b":"\\u003A","c":"\\\\u003a"}',
        b' {\n"a" : 1.50, "b":1E5, "c":-0, "\\u0061b":"\\ud83d\\ude00\\/\\u00e9",\t"d":99999999999999999999999999 } ',
        b'{":":":","\\":":"\\":"}',
    ],
)
def test_everything_else_is_taken(raw: bytes) -> None:
    assert refused(raw) is None


def test_a_number_without_end_is_refused_where_nothing_reads_it() -> None:
    raw = body(CHAT)[:-1] + b',"documents":[{"a":1e999}]}'
    assert "out of range" in rejection(CHAT, raw).message


NAMES = st.sampled_from(["a", ":", "\\", '"', "é", "b"])
TEXTS = st.text(st.sampled_from(':\\"u03aA'), max_size=6)
JSON = st.recursive(
    TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=3).map(tuple),
)


def written(value: Any, draw: Any) -> str:
    """JSON in which objects are tuples of members, with spaces and escapes as they come."""
    space: str = draw(st.sampled_from(["", " ", "\n"]))
    if isinstance(value, tuple):
        return "{" + ",".join(f"{written(name, draw)}{space}:{written(each, draw)}" for name, each in value) + "}"
    if isinstance(value, list):
        return "[" + f"{space},".join(written(each, draw) for each in value) + space + "]"
    if isinstance(value, str) and draw(st.booleans()):
        return '"' + "".join(f"\\u{ord(each):04x}" for each in value) + '"'
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


def is_unique(value: Any) -> bool:
    if isinstance(value, tuple):
        names = [name for name, _ in value]
        return len(set(names)) == len(names) and all(is_unique(each) for _, each in value)
    return not isinstance(value, list) or all(map(is_unique, value))


@given(JSON, st.data())
def test_whatever_the_json_and_its_spelling(value: Any, data: st.DataObject) -> None:
    assert (refused(written(value, data.draw).encode()) is None) == is_unique(value)
