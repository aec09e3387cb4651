"""Whole answers, and the refusals of a real engine, word for word: what they become, and what must not leak."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import anthropic_body, openai_body
from service.fleet.served_model import ServedModel
from service.observability.record import Record
from service.protocol.answers import BrokenAnswerError, record_answer, upstream_error
from tests.support.fleets import only


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return only(tmp_path_factory.mktemp("fleet"), "model: pebble-chat")


def record() -> Record:
    return Record("id", "/v1", started=0.0)


# What was used


@pytest.mark.parametrize(
    ("answer", "noted"),
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
def test_usage_and_finish_reason_of_every_dialect(answer: dict[str, Any], noted: tuple[int, int, str | None]) -> None:
    one = record()
    record_answer(one, json.dumps(answer).encode())
    assert (one.prompt_tokens, one.completion_tokens, one.finish_reason) == noted


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"3", b'"text"', b"\xff", b"Internal Server Error", b'{"choices": [3]}', b'{"usage": 3}',
        b'{"choices": [{"finish_reason": "abort"}]}', b'{"stop_reason": "error"}', b'{"status": "cancelled"}',
        b"[" * 100_000,
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_what_is_no_answer_is_not_passed_on(body: bytes) -> None:
    with pytest.raises(BrokenAnswerError):
        record_answer(record(), body)


# Refusals


def error(message: str, kind: str = "BadRequestError", param: str | None = None, code: int = 400) -> bytes:
    """The envelope of vLLM 0.32."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


LONG = (
    "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=1025)"
)
MANY = (
    "max_tokens=5000 cannot be greater than max_model_len=1024. Please request fewer output tokens. "
    "(parameter=max_tokens, value=5000)"
)
TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
TYPE = (
    "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a valid "
    "number, unable to parse string as a number', 'input': 'hot'}"
)
TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
FIM = "suffix is only supported for models with FIM completion rendering"
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
ANTHROPIC = b'{"type":"error","error":{"type":"BadRequestError","message":"' + LONG.encode() + b'"}}'

# the engine's status and body; our status, code and param, and a part of our message
REFUSALS: list[tuple[int, bytes, int, str, str | None, str]] = [
    (400, error(LONG, param="input_tokens"), 400, "context_length_exceeded", None, "at least 1025 tokens"),
    (400, ANTHROPIC, 400, "context_length_exceeded", None, "the context of 'pebble-chat' is 1024 tokens"),
    (400, error(MANY, param="max_tokens"), 400, "context_length_exceeded", "max_tokens", "max_tokens is 5000"),
    (400, error(TEMPLATE), 400, "no_chat_template", "messages", "has no chat template"),
    (400, error("Conversation roles must alternate user/assistant"), 400, "invalid_conversation", "messages", "roles"),
    (400, error("expected user, found assistant in the template"), 400, "invalid_conversation", "messages", "roles"),
    (400, error("User and assistant must take turns, user first: expected user, found assistant."), 400,
     "invalid_conversation", "messages", "where one of role 'user' should stand there is one of role 'assistant'"),
    (400, error("This model has no tools: leave out tools."), 400, "invalid_conversation", "messages",
     "leave out 'tools'"),
    (400, error("This model calls one tool at a time: x."), 400, "invalid_conversation", "messages",
     "one tool at a time"),
    (400, error("The conversation holds no user message."), 400, "invalid_conversation", "messages", "add one"),
    (400, error(TOOLS), 400, "tools_not_served", "tools", "tool_call_parser"),
    (400, error(FIM, param="suffix"), 400, "upstream_rejected", "suffix", "because of 'suffix'"),
    (400, error(TYPE, "Bad Request", "body.temperature"), 400, "upstream_rejected", "temperature", "'temperature'"),
    (400, error("x", param="body.messages[0].content"), 400, "upstream_rejected", "messages[0].content", "content"),
    (400, error("pebble-chat is not a multimodal model"), 400, "upstream_rejected", None, "its contents"),
    (400, b'{"detail":"There was an error parsing the body"}', 400, "upstream_rejected", None, "its contents"),
    (400, b"not even JSON", 400, "upstream_rejected", None, "its contents"),
    (413, b"", 400, "upstream_rejected", None, "its contents"),
    (422, b'{"error": "text"}', 400, "upstream_rejected", None, "its contents"),
    (503, error(BUSY, "Service Unavailable", code=503), 503, "overloaded", None, "is full"),
    (500, error(DEAD, "InternalServerError", code=500), 502, "upstream_error", None, "failed (status 500)"),
    (404, b'{"detail":"Not Found"}', 502, "upstream_error", None, "failed (status 404)"),
    (404, error("The model `x` does not exist. Valid aliases: pebble-chat.", "NotFoundError", "model", 404), 502,
     "upstream_error", None, "failed (status 404)"),
]  # fmt: skip
OF_THE_ENGINE = ("EngineCore", "pydantic", "validation error", "parameter=", "stack trace", "transformers", "--enable",
                 "body.", "Valid aliases", "multimodal", "parsing the body", "different instance", "FIM")  # fmt: skip


@pytest.mark.parametrize(("theirs", "body", "status", "code", "param", "part"), REFUSALS)
def test_a_refusal_is_told_in_our_words(
    served: ServedModel, theirs: int, body: bytes, status: int, code: str, param: str | None, part: str
) -> None:
    ours = upstream_error(theirs, body, served)
    assert (ours.status, ours.code, ours.param) == (status, code, param)
    assert part in ours.message and "'pebble-chat'" in ours.message
    for rendered in (openai_body(ours), anthropic_body(ours)):
        assert not [words for words in OF_THE_ENGINE if words.encode() in rendered]


SECRET = "/srv/weights/secret prompt 4711"


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "body",
    [
        error(SECRET),
        error(f"{LONG} {SECRET}"),
        error(f"{TEMPLATE} {SECRET}"),
        error("x", param=SECRET),
        error("x", param=f"body.messages {SECRET}"),
        error("x", kind=SECRET),
        json.dumps({"detail": SECRET}).encode(),
        SECRET.encode(),
    ],
)
def test_the_engines_own_text_never_leaks(served: ServedModel, status: int, body: bytes) -> None:
    ours = upstream_error(status, body, served)
    for rendered in (openai_body(ours), anthropic_body(ours)):
        assert b"secret" not in rendered and b"4711" not in rendered


@given(body=st.binary(), status=st.integers(300, 599))
def test_any_refusal_is_an_error_of_ours(served: ServedModel, body: bytes, status: int) -> None:
    assert upstream_error(status, body, served).status in (400, 502, 503)
