"""Errors that are their own HTTP answers, in the envelopes of both dialects."""

import json

import pytest

from service import errors
from service.errors import ANTHROPIC_TYPES, ApiError, anthropic_body, openai_body

# error, status, type, code
ROWS: list[tuple[ApiError, int, str, str]] = [
    (ApiError("Oops."), 500, "server_error", "internal_error"),
    (errors.invalid("Bad."), 400, "invalid_request_error", "invalid_request"),
    (errors.invalid("Bad.", "stop", "too_many"), 400, "invalid_request_error", "too_many"),
    (errors.unknown_model("None."), 404, "invalid_request_error", "model_not_found"),
    (errors.unknown_path("GET", "/x"), 404, "invalid_request_error", "unknown_url"),
    (errors.wrong_method("GET", "/x", "POST"), 405, "invalid_request_error", "method_not_allowed"),
    (errors.too_large("Big."), 413, "invalid_request_error", "request_too_large"),
    (errors.too_large("Big.", "headers_too_large", 431), 431, "invalid_request_error", "headers_too_large"),
    (errors.wrong_media_type("XML."), 415, "invalid_request_error", "unsupported_media_type"),
    (errors.conflicting("Other."), 422, "invalid_request_error", "idempotency_conflict"),
    (errors.in_progress("Soon.", 2.4), 409, "invalid_request_error", "idempotency_in_progress"),
    (errors.quarantined("Deadly.", 9.2), 422, "invalid_request_error", "request_quarantined"),
    (errors.rate_limited("Spent.", 2.4), 429, "rate_limit_error", "rate_limit_exceeded"),
    (errors.unavailable("Full.", "overloaded", 2.4), 503, "overloaded_error", "overloaded"),
    (errors.upstream_failed("Dead."), 502, "server_error", "upstream_error"),
    (errors.too_slow("Late."), 504, "timeout_error", "timeout"),
]
every_error = pytest.mark.parametrize(("error", "status", "kind", "code"), ROWS, ids=[row[3] for row in ROWS])


def test_every_way_to_make_an_error_is_here() -> None:
    makers = {
        name for name, one in vars(errors).items() if getattr(one, "__annotations__", {}).get("return") is ApiError
    }
    assert makers == {
        "invalid", "unknown_model", "unknown_path", "wrong_method", "too_large", "wrong_media_type", "conflicting",
        "in_progress", "quarantined", "rate_limited", "unavailable", "upstream_failed", "too_slow",
    }  # fmt: skip


@every_error
def test_in_openais_envelope(error: ApiError, status: int, kind: str, code: str) -> None:
    assert error.status == status
    fields = {"message": str(error), "type": kind, "param": error.param, "code": code}
    assert json.loads(openai_body(error)) == {"error": fields}


@every_error
def test_in_anthropics_envelope(error: ApiError, status: int, kind: str, code: str) -> None:
    body = json.loads(anthropic_body(error))
    known = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    assert body == {"type": "error", "error": {"type": known, "message": error.message}}


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, "1"), (0.4, "1"), (1.6, "2"), (29.9, "30")])
def test_waits_are_whole_seconds_and_never_none(wait: float, seconds: str) -> None:
    assert errors.unavailable("Full.", "overloaded", wait).headers == {"retry-after": seconds}


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, "1"), (0.4, "1"), (1.2, "2"), (30.0, "30")])
def test_a_budget_is_never_said_to_suffice_too_early(wait: float, seconds: str) -> None:
    for error in (errors.rate_limited("Spent.", wait), errors.in_progress("Soon.", wait)):
        assert error.headers == {"retry-after": seconds}


def test_a_wrong_method_is_told_the_right_one() -> None:
    error = errors.wrong_method("PUT", "/v1/models", "GET")
    assert error.headers == {"allow": "GET"}
    assert error.message == "/v1/models does not take PUT; use GET."


@pytest.mark.parametrize("text", ['"', "\n\r\0", "模型 \u2028", "</script>"])
def test_what_a_message_repeats_cannot_break_out(text: str) -> None:
    for render in (openai_body, anthropic_body):
        body = render(errors.invalid(text, text))
        assert json.loads(body)["error"]["message"] == text
        assert b"\n" not in body
