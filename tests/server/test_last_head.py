"""A head that is known by its bytes means what the parser made of it, and nothing else is taken for it."""

from typing import Any

import pytest

from service.server.asgi import DERIVED, HEADERS_BY_NAME, derived
from service.server.last_head import FRUITLESS, LARGEST, LastHead

LINES = (b"POST /v1/x HTTP/1.1", b"Host: x", b"Content-Length: 12", b"X-A: b")


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((*lines, b"", b""))


def scope(*lines: bytes) -> dict[str, Any]:
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines[1:])]
    return {"headers": headers, HEADERS_BY_NAME: dict(headers), DERIVED: {}}


def learned(*lines: bytes) -> LastHead:
    last = LastHead()
    last.learn(head(*lines) + b"the body", scope(*lines))
    return last


@pytest.mark.parametrize("length", [b"12", b"0", b"7", b"123456", b"0012"])
def test_it_is_known_whatever_the_length(length: bytes) -> None:
    lines = (*LINES[:2], b"Content-Length: " + length, LINES[3])
    found = learned(*LINES).match(head(*lines) + b"{}")
    assert found is not None
    expected = scope(*lines)
    assert (found[0]["headers"], found[0][HEADERS_BY_NAME]) == (expected["headers"], expected[HEADERS_BY_NAME])
    assert found[1:] == (len(head(*lines)), int(length))


def test_what_a_request_adds_to_its_scope_is_its_own() -> None:
    last = learned(*LINES)
    first, second = (last.match(head(*LINES)) for _ in range(2))
    assert first and second
    first[0]["key"] = "of the first"
    assert "key" not in second[0]


def test_what_follows_from_the_headers_is_found_out_once() -> None:
    last, made = learned(*LINES), list[int]()

    def count(headers: list[tuple[bytes, bytes]]) -> int:
        made.append(len(headers))
        return len(headers)

    for length in (b"12", b"3"):
        found = last.match(head(*LINES[:2], b"Content-Length: " + length, LINES[3]))
        assert found and derived(found[0], count) == 3
    assert made == [3]


@pytest.mark.parametrize(
    "data",
    [
        head(*LINES)[:-1],
        head(*LINES)[:20],
        b"",
        head(*LINES, b"X-B: c"),
        head(LINES[0], b"Host: y", *LINES[2:]),
        head(*LINES[:2], b"Content-Length: +12", LINES[3]),
        head(*LINES[:2], b"Content-Length: 1 2", LINES[3]),
        head(*LINES[:2], b"Content-Length: ", LINES[3]),
        head(*LINES[:2], b"Content-Length: 99999999999999999999", LINES[3]),
        head(*LINES[:2], b"Content-Length: 12", b"Content-Length: 3", LINES[3]),
    ],
)
def test_nothing_else_is_taken_for_it(data: bytes) -> None:
    assert learned(*LINES).match(data) is None


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (head(*LINES[:2], LINES[3]), (*LINES[:2], LINES[3])),  # no length
        (head(*LINES, b"Transfer-Encoding: chunked"), (*LINES, b"Transfer-Encoding: chunked")),
        (head(*LINES).replace(b"\r\nHost", b"\nHost"), LINES),
        (b"\r\n" + head(*LINES), LINES),
        (head(*LINES, b" folded"), LINES),
        (head(*LINES, b"Upgrade: h2c"), LINES),  # which the parser was not given
        (head(*LINES, b"X-B: " + b"b" * LARGEST), (*LINES, b"X-B: " + b"b" * LARGEST)),
    ],
)
def test_a_head_is_not_remembered_unless_each_line_is_one_of_its_headers(data: bytes, lines: tuple[bytes, ...]) -> None:
    last = LastHead()
    last.learn(data, scope(*lines))
    assert last.match(data) is None


def test_heads_of_which_each_is_another_one_are_remembered_no_more() -> None:
    last = LastHead()
    for number in range(FRUITLESS + 1):
        lines = (*LINES, b"X-Request-Id: %d" % number)
        last.learn(head(*lines), scope(*lines))
    assert last.match(head(*lines)) is None
    assert last.match(head(*LINES, b"X-Request-Id: %d" % (FRUITLESS - 1)))
    last.learn(head(*LINES), scope(*LINES))
    assert last.match(head(*LINES))
