"""The schemas and the words of `openapi`: what each endpoint answers, the headers, and the errors. Data."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from service.auth.tenants import Priority
from service.errors import ANTHROPIC_TYPES, ErrorCode
from service.protocol.request_headers import SHORTEST_HEARTBEAT

Schema = dict[str, Any]
JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream"
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
ANY_OBJECT: Schema = {"type": "object"}
NULLABLE: Schema = {"type": ["string", "null"]}
NULLABLE_NUMBER: Schema = {"type": ["integer", "null"]}
OBJECTS: Schema = {"type": "array", "items": ANY_OBJECT}
STRINGS: Schema = {"type": "array", "items": STRING}
PRINTABLE: Schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"}


def an_object(**properties: Schema) -> Schema:
    """The schema of an object that has all of these members, and perhaps more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def constant(*values: str) -> Schema:
    """The schema of a text that is one of these."""
    return {"type": "string", "enum": list(values)}


MODEL_SCHEMA = an_object(
    id=STRING, object=constant("model"), created=NUMBER, owned_by=STRING, root=STRING,
    parent=NULLABLE, family=STRING, variant=STRING,
    specialty=NULLABLE, context_length=NULLABLE_NUMBER, max_model_len=NULLABLE_NUMBER, capabilities=STRINGS,
    aliases=STRINGS, weight=NULLABLE_NUMBER, fallback=STRINGS, state=STRING, reason=NULLABLE, replicas=OBJECTS,
)  # fmt: skip
ANTHROPIC_MODEL = an_object(type=constant("model"), id=STRING, display_name=STRING, created_at=STRING)
MODEL, OTHER = ({"$ref": "#/components/schemas/" + name} for name in ("Model", "AnthropicModel"))
ONE_MODEL = {"anyOf": [MODEL, OTHER]}
# What `GET /v1/models` answers to a client that sends `anthropic-version` is the second of both.
MODEL_LIST = {
    "anyOf": [
        an_object(object=constant("list"), data={"type": "array", "items": MODEL}),
        an_object(data={"type": "array", "items": OTHER}, has_more={"type": "boolean"}),
    ]
}
RESPONSE = an_object(id=STRING, object=constant("response"), status=STRING, output=OBJECTS)
USAGE: Schema = {"type": ["object", "null"]}
# Bodies of status 200 by path, of those that engines write. Engines may add members.
ANSWERS: Mapping[str, Schema] = MappingProxyType(
    {
        "/v1/chat/completions": an_object(id=STRING, object=STRING, model=STRING, choices=OBJECTS, usage=USAGE),
        "/v1/completions": an_object(id=STRING, object=STRING, model=STRING, choices=OBJECTS, usage=USAGE),
        "/v1/responses": RESPONSE,
        "/v1/messages": an_object(id=STRING, type=constant("message"), role=STRING, content=OBJECTS, usage=USAGE),
        "/v1/messages/count_tokens": an_object(input_tokens=NUMBER),
        "/v1/embeddings": an_object(object=constant("list"), data=OBJECTS, usage=USAGE),
        "/rerank": an_object(id=STRING, results=OBJECTS),
        "/score": an_object(id=STRING, data=OBJECTS),
        "/tokenize": an_object(count=NUMBER, tokens={"type": "array", "items": NUMBER}),
        "/detokenize": an_object(prompt=STRING),
    }
)
SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "Continue a conversation (OpenAI's chat completions)",
        "/v1/completions": "Continue a text, or fill the gap before a suffix (OpenAI's completions)",
        "/v1/responses": "Continue a conversation (OpenAI's responses)",
        "/v1/messages": "Continue a conversation (Anthropic's messages)",
        "/v1/messages/count_tokens": "Count the tokens of a conversation (Anthropic's)",
        "/v1/embeddings": "Turn texts into vectors (OpenAI's embeddings)",
        "/rerank": "Rank documents by their relevance to a query (Cohere's and Jina's)",
        "/score": "Score pairs of texts (vLLM's)",
        "/tokenize": "Show the tokens of a prompt or of a conversation (vLLM's)",
        "/detokenize": "Show the text of tokens (vLLM's)",
    }
)
# The request headers of the endpoints that engines answer.
REQUEST_HEADERS: Mapping[str, tuple[str, Schema]] = MappingProxyType(
    {
        "x-roundhouse-tenant": ("The tenant; believed from keys with `proxy: true` alone.", PRINTABLE),
        "x-roundhouse-priority": ("The priority, within the tenant's own.", constant(*get_args(Priority))),
        "x-roundhouse-session": ("What the client says belongs together.", PRINTABLE),
        "x-roundhouse-timeout": ("Seconds for the whole answer.", {"type": "number", "minimum": 0.001}),
        "x-roundhouse-sse-heartbeat-interval": (
            "Seconds between comments in a stream that waits.", {"type": "number", "minimum": SHORTEST_HEARTBEAT},
        ),
        "x-roundhouse-fallback": (
            "Whether another model may answer where this one cannot; one asked for by its id, only if allowed.",
            constant("allow", "deny"),
        ),
        "idempotency-key": ("A repeated request with the same key gets the first one's response.", PRINTABLE),
    }
)  # fmt: skip
RESPONSE_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "x-request-id": "The id of the request, also in the gateway's log.",
        "x-roundhouse-model": "The model that answered.",
        "x-roundhouse-replica": "The engine that answered.",
        "x-roundhouse-route-reason": "Why it was this model.",
        "x-roundhouse-ignored-fields": "The fields of the body that were ignored.",
    }
)
SCHEMAS: Mapping[str, Schema] = MappingProxyType(
    {
        "Model": MODEL_SCHEMA,
        "AnthropicModel": ANTHROPIC_MODEL,
        "Error": an_object(
            error=an_object(
                message=STRING, type=constant(*sorted({code.type for code in ErrorCode})), param=NULLABLE,
                code=constant(*ErrorCode),
            )
        ),
        "AnthropicError": an_object(
            type=constant("error"),
            error=an_object(
                type=constant(*sorted({*ANTHROPIC_TYPES.values(), "invalid_request_error", "api_error"})),
                message=STRING,
            ),
        ),
    }
)  # fmt: skip
# Responses that are errors, by name, and the schemas that their bodies can have.
FAILURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"Error": ("Error",), "AnthropicError": ("AnthropicError",), "EitherError": ("Error", "AnthropicError")}
)
INPUT_ITEMS_QUERY: tuple[tuple[str, Schema], ...] = (
    ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    ("order", {**constant("asc", "desc"), "default": "desc"}),
    ("after", STRING),
)
USAGE_QUERY = ("by", "since", "tenant")
USED = an_object(object=constant("list"), since=NUMBER, by=STRINGS, data=OBJECTS)
