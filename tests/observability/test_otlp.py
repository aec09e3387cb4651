"""Spans as every reader of OpenTelemetry's protobuf messages reads them."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.observability.otlp import CLIENT, SERVER, Encoder, Span, Value, request, resource

TRACE, ID, OTHER = bytes(range(16)), b"\x01" * 8, b"\x02" * 8


def read(span: Span) -> Any:
    """The span, as a collector has it after an encoder has seen the same attributes before."""
    encoder = Encoder()
    encoder.encode(span)
    body = request(resource({"service.name": "x" * 300}), b"scope", [encoder.encode(span)] * 2)
    (group,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert group.resource.attributes[0].value.string_value == "x" * 300
    (scope,) = group.scope_spans
    assert scope.scope.name == "scope"
    first, second = scope.spans
    assert first == second
    return first


def test_a_span_has_all_that_it_was_given() -> None:
    start = 1_800_000_000_123_456_789
    found = read(Span(TRACE, ID, OTHER, "é" * 200, CLIENT, start, start + 1, {}, True, OTHER, b"a=b", True))
    assert (found.trace_id, found.span_id, found.parent_span_id, found.name) == (TRACE, ID, OTHER, "é" * 200)
    assert (found.kind, found.start_time_unix_nano, found.end_time_unix_nano) == (3, start, start + 1)
    assert (found.status.code, found.trace_state, found.flags) == (2, "a=b", 0x301)
    assert [(link.trace_id, link.span_id) for link in found.links] == [(TRACE, OTHER)]
    bare = read(Span(TRACE, ID, b"", "", SERVER, 0, 0))
    assert (bare.parent_span_id, bare.status.code, bare.trace_state, bare.flags) == (b"", 0, "", 0x101)
    assert not bare.links and not bare.attributes


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("", "string"), ("text", "string"), ("\U0001f600" * 500, "string"), (True, "bool"), (False, "bool"), (1, "int"),
        (0, "int"), (127, "int"), (128, "int"), (2**62, "int"), (0.1, "double"), (1.0, "double"),
    ],
)  # fmt: skip
def test_an_attribute_has_its_type_and_value(value: Value, kind: str) -> None:
    (row,) = read(Span(TRACE, ID, b"", "n", SERVER, 0, 0, {"the.name": value})).attributes
    assert (row.key, row.value.WhichOneof("value")) == ("the.name", f"{kind}_value")
    assert getattr(row.value, f"{kind}_value") == value


def test_a_list_and_half_a_character() -> None:
    found = read(Span(TRACE, ID, b"", "n", SERVER, 0, 0, {"a": ("stop", "length"), "b": "x\ud800"}))
    many, broken = found.attributes
    assert [one.string_value for one in many.value.array_value.values] == ["stop", "length"]
    assert broken.value.string_value == "x?"


def test_what_is_remembered_of_equal_numbers_is_their_own() -> None:
    encoder, found = Encoder(), []
    for value in (True, 1, 1.0):
        body = request(b"", b"", [encoder.encode(Span(TRACE, ID, b"", "n", SERVER, 0, 0, {"a": value}))])
        (row,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0].attributes
        found.append(row.value.WhichOneof("value"))
    assert found == ["bool_value", "int_value", "double_value"]
