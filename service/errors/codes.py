"""The one table of the errors that a client can get.

docs/errors.md is generated from the table; `python -m service.cli.error_reference` writes it.
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Every error code. A row is the code, its HTTP status, when it happens and what the client can do about it."""

    status: int
    when: str
    remedy: str

    def __new__(cls, code: str, status: int, when: str, remedy: str) -> "ErrorCode":
        """A string with the rest of its row as attributes."""
        member = str.__new__(cls, code)
        member._value_, member.status, member.when, member.remedy = code, status, when, remedy
        return member

    @property
    def type(self) -> str:
        """The `type` of OpenAI's envelope."""
        return OPENAI_TYPES.get(self.status, "invalid_request_error")

    @property
    def anthropic_type(self) -> str:
        """The `type` of Anthropic's envelope."""
        return ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")

    # fmt: off
    # The request itself
    INVALID_HTTP = (
        "invalid_http", 400,
        "What arrived is not a valid HTTP/1.1 request, or its meaning is not clear. The connection is closed.",
        "Look at what the message names: a proxy in between, the URL's scheme, a client that speaks HTTP/2 only.",
    )
    INVALID_REQUEST = (
        "invalid_request", 400, "Fields of the body, or headers, do not go together.",
        "Leave one of them out; the message names them.",
    )
    INVALID_JSON = (
        "invalid_json", 400,
        "The body is not valid JSON, not UTF-8, nested too deeply, no JSON object, or has a name twice in one object.",
        "Fix the body; the message says what is wrong with it.",
    )
    MISSING_REQUIRED_PARAMETER = (
        "missing_required_parameter", 400, "A field that the endpoint requires is missing.",
        "Add the field that `param` names.",
    )
    UNKNOWN_PARAMETER = (
        "unknown_parameter", 400,
        "The body has a field that the endpoint does not know, and the fleet file has `unknown_fields: refuse`.",
        "Leave it out. A field that only your engines know can be allowed with `extra_fields` in the fleet file.",
    )
    UNSUPPORTED_PARAMETER = (
        "unsupported_parameter", 400,
        "The body has a field that exists elsewhere and cannot be honoured here; the message says why.",
        "Leave it out, or do what the message says instead. [Compatibility](compatibility.md) lists all such fields.",
    )
    INVALID_VALUE = (
        "invalid_value", 400, "A field has a value of the wrong type or out of range.",
        "Correct the field that `param` names; the message says what it should be.",
    )
    CHECK_FAILED = (
        "check_failed", 400, "Compiling a schema or grammar, or decoding an image, took too long or too much.",
        "Simplify what `param` names. No engine has seen it: [security.md](security.md) says where it was tried.",
    )
    UNKNOWN_HEADER = (
        "unknown_header", 400, "There is an `x-roundhouse-…` header that does not exist.",
        "Use one of those that the message lists.",
    )
    INVALID_HEADER = (
        "invalid_header", 400, "An `x-roundhouse-…` header or `Idempotency-Key` has an invalid value, or came twice.",
        "Correct the header that the message names.",
    )
    UNKNOWN_TENANT = (
        "unknown_tenant", 400, "`x-roundhouse-tenant` names a tenant that the fleet file does not have.",
        "Send a tenant of the fleet file, or no such header.",
    )
    INVALID_API_KEY = (
        "invalid_api_key", 401, "The request has no API key or token, or one that is not valid.",
        "Send `Authorization: Bearer KEY` or `x-api-key: KEY`; who runs the service hands out keys.",
    )
    INSUFFICIENT_SCOPE = (
        "insufficient_scope", 403,
        "The API key or token is valid, but not for this endpoint or the tenant that `x-roundhouse-tenant` names.",
        "Use a key that is made for it. [security.md](security.md) says what a key can be limited to.",
    )
    SIGN_ON_UNAVAILABLE = (
        "sign_on_unavailable", 503, "The identity provider's signing keys, to verify a token by, cannot be fetched.",
        "Wait as long as `Retry-After` says; they are fetched again and again. API keys go on working.",
    )
    HOST_NOT_ALLOWED = (
        "host_not_allowed", 403,
        "The gateway listens on a loopback address, and `Host` is neither a loopback name nor an allowed one.",
        "Use `localhost`. Where a proxy passes on its own name, add it to `ROUNDHOUSE_ALLOWED_HOSTS`.",
    )
    CROSS_SITE_REQUEST = (
        "cross_site_request", 403,
        "A web page of another site sent the request to a gateway that listens on a loopback address.",
        "Where the page may use the gateway, add its origin to `cors` in the fleet file.",
    )
    UNKNOWN_URL = (
        "unknown_url", 404, "There is no endpoint with this path.",
        "Check the base URL of the client: for OpenAI's libraries it ends in `/v1`, for Anthropic's it does not.",
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed", 405, "The endpoint exists, but not with this method.", "Use one that `Allow` lists.",
    )
    REQUEST_TIMEOUT = (
        "request_timeout", 408, "The rest of the request body did not arrive in time.",
        "Use a faster connection, or raise `ROUNDHOUSE_BODY_TIMEOUT` or `ROUNDHOUSE_BODY_TOTAL_TIMEOUT`.",
    )
    REQUEST_TOO_LARGE = (
        "request_too_large", 413, "The body is larger than the gateway accepts.",
        "Send less, or raise `ROUNDHOUSE_MAX_BODY_BYTES`.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported_media_type", 415,
        "The body is compressed, or its `Content-Type` is missing or not `application/json`.",
        "Send plain JSON with `Content-Type: application/json`.",
    )
    HEADERS_TOO_LARGE = (
        "headers_too_large", 431, "There are too many headers, or too many bytes of them.",
        "Send fewer (cookies are a common cause), or raise `ROUNDHOUSE_MAX_HEADER_BYTES`.",
    )
    # The model
    MODEL_NOT_FOUND = (
        "model_not_found", 404, "No served model has this name, variant or task.",
        "Use a name that `GET /v1/models` lists; the message suggests the nearest ones.",
    )
    UNSUPPORTED_FOR_MODEL = (
        "unsupported_for_model", 400,
        "The model is served but cannot do this: a conversation without a chat template, images with a text model, "
        "`suffix` without infilling, embeddings or reranking with one that generates text, or the reverse.",
        "Use one of the models that the message names.",
    )
    UNSUPPORTED_INFILL_ORDER = (
        "unsupported_infill_order", 400, "The model was not trained on this `infill_order`.",
        "Send an order that the message names, or none.",
    )
    NO_CHAT_TEMPLATE = (
        "no_chat_template", 400, "Neither the catalogue nor the model's files have a chat template.",
        "Name a template in the fleet file, or use `/v1/completions`.",
    )
    TOOLS_NOT_SERVED = (
        "tools_not_served", 400, "The request has `tools`, but the engine was started without a parser for tool calls.",
        "Set `enable_auto_tool_choice` and `tool_call_parser` in the model's engine settings, or leave out `tools`.",
    )
    INVALID_CONVERSATION = (
        "invalid_conversation", 400, "The model's chat template cannot render these messages in this order of roles.",
        "Change the messages as the message says; [prompts.md](prompts.md) has each format's rules.",
    )
    CONTEXT_LENGTH_EXCEEDED = (
        "context_length_exceeded", 400, "The prompt does not fit the model's context.", "Shorten the prompt.",
    )
    MAX_TOKENS_TOO_LARGE = (
        "max_tokens_too_large", 400, "More output tokens were asked for than the model's context holds.",
        "Lower the field that `param` names, or leave it out.",
    )
    UPSTREAM_REJECTED = (
        "upstream_rejected", 400, "The engine rejected the request for a reason that has no code of its own.",
        "Change the field that `param` names, as the message says. The log line has the engine's reason, too.",
    )

    # Guardrails
    CONTENT_FILTER = (
        "content_filter", 400,
        "A guardrail of the model has judged the request, or the answer to it, as what must not pass.",
        "Change the request; the message names the categories. A stream that has begun ends with the finish reason "
        "`content_filter` instead, see [guardrails.md](guardrails.md).",
    )
    GUARDRAIL_UNAVAILABLE = (
        "guardrail_unavailable", 503,
        "A guardrail of the model could not judge the request, or the answer to it, and nothing passes unjudged.",
        "Send it again later. Where it happens often, look at the guard that the message names.",
    )

    # Stored responses
    RESPONSE_NOT_FOUND = (
        "response_not_found", 404,
        "No response or item is stored for this tenant under this id; it may have been deleted, or been too old.",
        "Send the whole conversation. [responses.md](responses.md) says what is stored, and for how long.",
    )
    STORE_UNAVAILABLE = (
        "store_unavailable", 503,
        "The request needs the file of stored responses, or of usage, which is locked or damaged, or its disk is full.",
        "Send it again later; a request to a model also with `store: false` and the whole conversation.",
    )
    # Repeated requests
    IDEMPOTENCY_IN_PROGRESS = (
        "idempotency_in_progress", 409,
        "The answer to the first request with this `Idempotency-Key` is still being generated.",
        "Send the request again later, with the same key.",
    )
    IDEMPOTENCY_CONFLICT = (
        "idempotency_conflict", 422, "The `Idempotency-Key` was used for another request.", "Use a new one for each.",
    )
    REQUEST_QUARANTINED = (
        "request_quarantined", 422,
        "Engines crashed repeatedly while this request was running, so it is refused for some minutes.",
        "Do not repeat it. Look for the cause in the engine's log.",
    )
    # Capacity
    RATE_LIMIT_EXCEEDED = (
        "rate_limit_exceeded", 429,
        "The tenant has used up its requests or tokens per minute or day, or has too many requests in flight.",
        "Wait as long as `Retry-After` says, or raise the tenant's limits in the fleet file.",
    )
    BUDGETS_UNAVAILABLE = (
        "budgets_unavailable", 503, "The Redis that counts tenants' budgets is away.", "Wait as `Retry-After` says.",
    )
    OVERLOADED = (
        "overloaded", 503,
        "The model's queue is full, or the request would wait in it, or has waited, longer than it may.",
        "Wait as long as `Retry-After` says. Where it happens often, add replicas.",
    )
    CHECKS_UNAVAILABLE = (
        "checks_unavailable", 503, "The process in which schemas, grammars and images are checked cannot be started.",
        "Send it again later, or without a schema or image. Whoever runs the service looks at the gateway's processes.",
    )
    MODEL_LOADING = (
        "model_loading", 503, "The model's engines are starting.",
        "Wait as long as `Retry-After` says; `GET /v1/models/{id}` shows how far they are.",
    )
    MODEL_UNAVAILABLE = (
        "model_unavailable", 503, "No replica of the model can be used: all have failed, hang or cannot be reached.",
        "`GET /v1/models/{id}` has the reason. Replicas are retried on their own.",
    )
    SHUTTING_DOWN = (
        "shutting_down", 503, "The gateway stopped before the answer was complete.",
        "Send the request again; another gateway, or the restarted one, will take it.",
    )
    # The service
    INTERNAL_ERROR = (
        "internal_error", 500, "A defect of the gateway.", "Report it with the log's lines for its `x-request-id`.",
    )
    UPSTREAM_ERROR = (
        "upstream_error", 502,
        "The engine crashed, closed the connection or sent what is no answer, and no other replica could answer.",
        "Send the request again. Where it happens often, look at the engine's log.",
    )
    RESPONSE_TOO_LARGE = (
        "response_too_large", 502,
        "The answer is larger than the gateway accepts, such as that to very many texts to embed.",
        "Ask for less at a time, for embeddings as base64 (a quarter), or raise `ROUNDHOUSE_MAX_RESPONSE_BYTES`.",
    )
    TIMEOUT = (
        "timeout", 504, "The answer, or the next part of it, did not come in time.",
        "Ask for less at a time, or raise the timeouts of [configuration.md](configuration.md) or of the fleet file.",
    )
    # fmt: on


OPENAI_TYPES = {
    429: "rate_limit_error", 500: "server_error", 502: "server_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
