"""Errors that are their own HTTP answers: one table of codes, in the envelopes of both dialects."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import errors
from service.errors import ANTHROPIC_TYPES, ApiError, ErrorCode, anthropic_body, openai_body, whole_seconds
from service.server.request import STATUS_LINES
from tests.support.each import each
from tests.support.fleets import ROOT
from tests.test_architecture import tree

SOURCES = [path for path in sorted((ROOT / "service").rglob("*.py")) if path != Path(errors.__file__)]
every_code = each("code", ErrorCode)
every_source = each("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def used(path: Path) -> Iterator[str]:
    """The names of the codes that a file's code mentions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ErrorCode":
            yield node.attr


def codes_given(path: Path) -> Iterator[ast.expr]:
    """What a file's calls of ApiError give as the code."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError":
            named = [one.value for one in node.keywords if one.arg == "code"]
            yield (node.args or named)[0]


def test_every_code_of_the_table_is_raised_somewhere() -> None:
    reference = ROOT / "service/cli/error_reference.py"  # it shows one as an example, and raises none
    assert {name for path in SOURCES if path != reference for name in used(path)} == set(ErrorCode.__members__)


@every_source
def test_every_error_that_is_raised_has_a_code_of_the_table(path: Path) -> None:
    assert set(used(path)) <= set(ErrorCode.__members__)
    # A name stands for one that was chosen before; mypy knows that it is of the table.
    assert all(isinstance(code, ast.Attribute | ast.Name) for code in codes_given(path))


@every_code
def test_a_row_is_complete(code: ErrorCode) -> None:
    assert code.name == code.upper()
    assert code.status in STATUS_LINES
    assert code.when.endswith(".")
    assert code.remedy.endswith(".")


def test_the_types_are_those_of_the_libraries() -> None:
    types = {code.status: (code.type, code.anthropic_type) for code in ErrorCode}
    assert types == {
        400: ("invalid_request_error", "invalid_request_error"),
        401: ("invalid_request_error", "authentication_error"),
        403: ("invalid_request_error", "permission_error"),
        404: ("invalid_request_error", "not_found_error"),
        405: ("invalid_request_error", "invalid_request_error"),
        408: ("invalid_request_error", "invalid_request_error"),
        409: ("invalid_request_error", "invalid_request_error"),
        413: ("invalid_request_error", "request_too_large"),
        415: ("invalid_request_error", "invalid_request_error"),
        422: ("invalid_request_error", "invalid_request_error"),
        429: ("rate_limit_error", "rate_limit_error"),
        431: ("invalid_request_error", "invalid_request_error"),
        500: ("server_error", "api_error"),
        502: ("server_error", "api_error"),
        503: ("overloaded_error", "overloaded_error"),
        504: ("timeout_error", "timeout_error"),
    }
    assert set(ANTHROPIC_TYPES) <= set(types)


@every_code
@each("param", [None, "stop"])
def test_in_openais_envelope(code: ErrorCode, param: str | None) -> None:
    error = ApiError(code, "Oops.", param)
    fields = {"message": str(error), "type": code.type, "param": param, "code": code.value}
    assert error.status == code.status
    assert json.loads(openai_body(error)) == {"error": fields}


@every_code
def test_in_anthropics_envelope(code: ErrorCode) -> None:
    body = json.loads(anthropic_body(ApiError(code, "Oops.")))
    assert body == {"type": "error", "error": {"type": code.anthropic_type, "message": "Oops."}}


@pytest.mark.parametrize(("wait", "seconds"), [(-3.0, 1), (0.0, 1), (0.4, 1), (1.0, 1), (1.2, 2), (7.4, 8), (30.0, 30)])
def test_a_wait_is_whole_seconds_never_too_early_and_never_none(wait: float, seconds: int) -> None:
    assert whole_seconds(wait) == seconds
    assert ApiError(ErrorCode.OVERLOADED, "Full.", retry_after=wait).headers == {"retry-after": str(seconds)}


def test_the_methods_that_a_path_has_are_a_header() -> None:
    assert ApiError(ErrorCode.METHOD_NOT_ALLOWED, "No.", allow="GET, POST").headers == {"allow": "GET, POST"}
    assert ApiError(ErrorCode.INVALID_JSON, "No.").headers == {}
    assert ApiError(ErrorCode.INVALID_API_KEY, "No.").headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("text", ['"', "\n\r\0", "模型 \u2028", "</script>"])
def test_what_a_message_repeats_cannot_break_out(text: str) -> None:
    for render in (openai_body, anthropic_body):
        body = render(ApiError(ErrorCode.UNKNOWN_PARAMETER, text, text))
        assert json.loads(body)["error"]["message"] == text
        assert b"\n" not in body
