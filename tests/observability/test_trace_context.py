"""What of a request's headers is a trace, and which headers engines get."""

import pytest

from service.observability.record import Record, Trace
from service.observability.trace_context import MAX_MEMBERS, begin

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def of(*headers: tuple[str, str]) -> Trace:
    return begin([(name.encode(), value.encode()) for name, value in headers], "POST", lambda _, parent: bool(parent))


@pytest.mark.parametrize(
    ("value", "sampled"),
    [(PARENT, True), (PARENT[:-2] + "00", False), (PARENT[:-2] + "03", True), ("cc" + PARENT[2:] + "-more", True)],
)
def test_a_valid_parent_is_continued(value: str, sampled: bool) -> None:
    trace = of(("traceparent", value))
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE, SPAN, sampled)
    assert len(trace.span_id) == 16 and trace.span_id != SPAN


INVALID = [
    "", "x", PARENT.upper(), PARENT + "-more", "ff" + PARENT[2:], PARENT[:-3], PARENT + "\n", PARENT.replace("-", "_"),
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", PARENT[:-1] + "é", f"00-{TRACE}-{SPAN}-01, {PARENT}",
]  # fmt: skip


def test_an_invalid_parent_or_two_of_them_begin_a_new_trace() -> None:
    for headers in [*([("traceparent", value)] for value in INVALID), [("traceparent", PARENT)] * 2, []]:
        trace = of(*headers, ("tracestate", "a=b"))
        assert (trace.parent_id, trace.state) == ("", b""), headers
        assert trace.trace_id != TRACE and len(trace.trace_id) == 32 and int(trace.trace_id, 16)


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["a=b"], b"a=b"),
        (["a=b , vendor@system=x y", "c=d"], b"a=b,vendor@system=x y,c=d"),
        (["a=b,,"], b"a=b"),
        (["A=b"], b""),
        (["a"], b""),
        (["a=b\r\nx-evil: 1"], b""),
        (["a=é"], b""),
        ([",".join(f"k{number}=v" for number in range(MAX_MEMBERS + 1))], b""),
        (["a=" + "x" * 600], b""),
    ],
    ids=str,
)
def test_a_valid_state_is_passed_on_and_no_other(values: list[str], state: bytes) -> None:
    trace = of(("traceparent", PARENT), *(("tracestate", value) for value in values))
    assert trace.state == state
    assert trace.parent_id == SPAN, "an invalid state does not cost the parent"


def test_an_engine_gets_the_attempt_as_its_parent() -> None:
    record, trace = Record("r", "/v1/completions", 0.0), of(("traceparent", PARENT), ("tracestate", "a=b"))
    first, second = trace.attempt(record, "m-0", 1.0), trace.attempt(record, "m-1", 2.0)
    assert trace.headers(first) == f"traceparent: 00-{TRACE}-{first.span_id}-01\r\ntracestate: a=b\r\n".encode()
    assert trace.headers(second) == f"traceparent: 00-{TRACE}-{second.span_id}-01\r\ntracestate: a=b\r\n".encode()
    assert (first.earlier, second.earlier) == (None, first)
    assert of().headers(first).endswith(b"-00\r\n")
