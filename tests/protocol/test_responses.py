"""Responses that are not streamed: what is recorded of them, and which are none."""

import json
from typing import Any

import pytest

from service.observability.record import Record
from service.protocol.responses import InvalidResponseError, record_response


def record() -> Record:
    return Record("id", "/v1", started=0.0)


# Usage


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 6, "completion_tokens": 4}},
         (6, 4, "stop")),
        ({"stop_reason": "end_turn", "usage": {"input_tokens": 12, "output_tokens": 4}}, (12, 4, "end_turn")),
        ({"status": "completed", "usage": {"input_tokens": 13, "output_tokens": 4}}, (13, 4, "completed")),
        ({"status": "incomplete", "usage": {"input_tokens": 13, "output_tokens": 4}}, (13, 4, "incomplete")),
        ({"object": "list", "data": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}, (5, 0, None)),
        ({"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}, (5, 0, None)),
        ({"input_tokens": 12}, (0, 0, None)),
        ({"choices": None, "usage": None}, (0, 0, None)),
        ({"choices": [], "usage": {}}, (0, 0, None)),
    ],
)  # fmt: skip
def test_usage_and_finish_reason_of_every_dialect(
    response: dict[str, Any], expected: tuple[int, int, str | None]
) -> None:
    observed = record()
    record_response(observed, json.dumps(response).encode())
    assert (observed.prompt_tokens, observed.completion_tokens, observed.finish_reason) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"3", b'"text"', b"\xff", b"Internal Server Error", b'{"choices": [3]}', b'{"usage": 3}',
        b'{"choices": [{"finish_reason": "abort"}]}', b'{"stop_reason": "error"}', b'{"status": "cancelled"}',
        b"[" * 100_000,
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_an_invalid_or_aborted_response_raises(body: bytes) -> None:
    with pytest.raises(InvalidResponseError):
        record_response(record(), body)
