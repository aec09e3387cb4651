"""The spans of a finished request, derived from its record. Pure."""

from collections.abc import Iterator
from itertools import count

from service.observability.genai_metrics import OPERATIONS, PROVIDER
from service.observability.otlp import CLIENT, INTERNAL, SERVER, Span, Value
from service.observability.record import Attempt, Record, Trace

NAMES = {**OPERATIONS, "guardrail": "chat"}  # guards are asked by a chat of ours
IDS = 1 << 64


def spans_of(record: Record, trace: Trace, clock_offset: float) -> Iterator[Span]:
    """The request's own span; in it *admit*, *queue* where it waited, an exchange per attempt, and *stream*.

    `clock_offset` is Unix time minus monotonic time, in seconds.
    """
    trace_id, own, parent = map(bytes.fromhex, (trace.trace_id, trace.span_id, trace.parent_id))
    state, ended, numbers = trace.state, record.ended or record.started, count(int(trace.span_id, 16) + 1)

    def nanoseconds(moment: float) -> int:
        return int((moment + clock_offset) * 1e9)

    def part(name: str, start: float, end: float) -> Span:
        """A span without attributes in the request's; its id is the next one."""
        id = (next(numbers) % IDS or 1).to_bytes(8, "big")
        return Span(trace_id, id, own, name, INTERNAL, nanoseconds(start), nanoseconds(end), state=state)

    yield Span(
        trace_id, own, parent, f"{trace.method} {record.endpoint}", SERVER, nanoseconds(record.started),
        nanoseconds(ended), of_request(record, trace), is_error(record), state=state, remote=bool(parent),
    )  # fmt: skip
    if record.admitted is not None:
        yield part("admit", record.started, trace.queued or record.admitted)
        if trace.queued is not None:
            yield part("queue", trace.queued, record.admitted)
    for attempt in trace.attempts:
        earlier = bytes.fromhex(attempt.earlier.span_id) if attempt.earlier else b""
        yield Span(
            trace_id, bytes.fromhex(attempt.span_id), own, f"{operation(attempt.record)} {attempt.record.model}",
            CLIENT, nanoseconds(attempt.started), nanoseconds(attempt.ended or ended), of_attempt(attempt),
            attempt.code is not None, earlier, state,
        )  # fmt: skip
    if record.streamed and record.output_times:
        yield part("stream", record.output_times[0], ended)


def operation(record: Record) -> str:
    """`gen_ai.operation.name`; for an endpoint that the conventions do not name, its path's last part."""
    return NAMES.get(record.endpoint) or record.endpoint.rpartition("/")[2]


def is_error(record: Record) -> bool:
    """Whether the service failed: what the client did wrong is no error, as in the conventions of HTTP servers."""
    return record.status >= 500 or record.outcome == "failed"


def of_request(record: Record, trace: Trace) -> dict[str, Value]:
    """The attributes of the request's own span: never a prompt or an output."""
    found: dict[str, Value] = {
        "http.request.method": trace.method,
        "http.route": record.endpoint,
        "http.response.status_code": record.status,
        "roundhouse.request_id": record.request_id,
        "roundhouse.outcome": record.outcome,
    }
    if record.code:
        found["error.type"] = str(record.code)
    if record.requested:
        found["gen_ai.operation.name"] = operation(record)
        found["gen_ai.provider.name"] = PROVIDER
        found["gen_ai.request.model"] = record.requested
        found["roundhouse.tenant"] = record.tenant
        found["roundhouse.route_reason"] = record.route_reason
    if record.fallback:
        found["roundhouse.fallback"] = record.fallback
        found["roundhouse.fallback_of"] = record.fallback_of
    if record.replayed:
        found["roundhouse.replayed"] = True
    return found


def of_attempt(attempt: Attempt) -> dict[str, Value]:
    """The attributes of an exchange with a replica. Its tokens are those of the attempt that succeeded."""
    record = attempt.record
    found: dict[str, Value] = {
        "gen_ai.operation.name": operation(record),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.request.stream": record.streamed,
        "roundhouse.replica": attempt.replica,
    }
    if attempt.code:
        found["error.type"] = str(attempt.code)
        return found
    found["gen_ai.usage.input_tokens"] = record.prompt_tokens
    found["gen_ai.usage.output_tokens"] = record.completion_tokens
    if record.cached_tokens:
        found["gen_ai.usage.cache_read.input_tokens"] = record.cached_tokens
    if record.finish_reason:
        found["gen_ai.response.finish_reasons"] = (record.finish_reason,)
    if record.streamed and record.output_times:
        found["gen_ai.response.time_to_first_chunk"] = record.output_times[0] - attempt.started
    return found
