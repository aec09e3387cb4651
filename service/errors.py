"""The errors a client can see, and the one place where they are rendered."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class ApiError(Exception):
    """An error that is its own HTTP answer.

    `code` is a stable string for programs, `message` tells a person what was wrong and what to do, `param` names the
    offending field of the request when there is one.
    """

    message: str
    param: str | None = None
    code: str = "internal_error"
    status: int = 500
    type: str = "server_error"
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def invalid(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(message, param, code, 400, "invalid_request_error")


def unknown_model(message: str) -> ApiError:
    """404: nothing is served under that name."""
    return ApiError(message, "model", "model_not_found", 404, "invalid_request_error")


def unknown_path(method: str, path: str) -> ApiError:
    """404: no such endpoint."""
    return ApiError(
        f"There is no endpoint {method} {path}. docs/architecture.md lists the endpoints.",
        code="unknown_url",
        status=404,
        type="invalid_request_error",
    )


def wrong_method(method: str, path: str, allowed: str) -> ApiError:
    """405, naming the methods that the path has."""
    message = f"{path} does not take {method}; use {allowed}."
    return ApiError(message, None, "method_not_allowed", 405, "invalid_request_error", {"allow": allowed})


def too_large(message: str, code: str = "request_too_large", status: int = 413) -> ApiError:
    """413 or 431: a bound of the gateway is exceeded."""
    return ApiError(message, None, code, status, "invalid_request_error")


def wrong_media_type(message: str) -> ApiError:
    """415: the body is not plain JSON."""
    return ApiError(message, None, "unsupported_media_type", 415, "invalid_request_error")


def conflicting(message: str) -> ApiError:
    """422: the request's `Idempotency-Key` stands for another request."""
    return ApiError(message, None, "idempotency_conflict", 422, "invalid_request_error")


def in_progress(message: str, retry_after: float) -> ApiError:
    """409 with `Retry-After` in whole seconds: the request's `Idempotency-Key` stands for one that is still running."""
    seconds = str(max(1, math.ceil(retry_after)))
    return ApiError(message, None, "idempotency_in_progress", 409, "invalid_request_error", {"retry-after": seconds})


def quarantined(message: str, retry_after: float) -> ApiError:
    """422: engines died of this request. `Retry-After` says in how many seconds it may be tried again."""
    headers = {"retry-after": str(math.ceil(retry_after))}
    return ApiError(message, None, "request_quarantined", 422, "invalid_request_error", headers)


def rate_limited(message: str, retry_after: float) -> ApiError:
    """429 with `Retry-After` in whole seconds: the tenant's budget is used up until then."""
    seconds = str(max(1, math.ceil(retry_after)))
    return ApiError(message, None, "rate_limit_exceeded", 429, "rate_limit_error", {"retry-after": seconds})


def unavailable(message: str, code: str, retry_after: float) -> ApiError:
    """503 with `Retry-After` in whole seconds: the model exists, but cannot answer now."""
    seconds = str(max(1, round(retry_after)))
    return ApiError(message, None, code, 503, "overloaded_error", {"retry-after": seconds})


def upstream_failed(message: str) -> ApiError:
    """502: the engine died or answered something that is no answer."""
    return ApiError(message, None, "upstream_error", 502, "server_error")


def too_slow(message: str) -> ApiError:
    """504: a deadline of the gateway passed."""
    return ApiError(message, None, "timeout", 504, "timeout_error")


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_body(error: ApiError) -> bytes:
    """The error in OpenAI's envelope; `code` is always a string."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return json.dumps({"error": fields}, ensure_ascii=False).encode()


def anthropic_body(error: ApiError) -> bytes:
    """The error in the envelope of Anthropic's Messages API."""
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    fields = {"type": kind, "message": error.message}
    return json.dumps({"type": "error", "error": fields}, ensure_ascii=False).encode()
