"""The errors of a real engine (recorded/rejections.json, from vLLM 0.32) and others: what a client and the log get."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import anthropic_body, openai_body
from service.fleet.served_model import ServedModel
from service.protocol.generation import GENERATION
from service.protocol.requests import Body
from service.protocol.upstream_errors import MAX_SEARCHED, Rejected, reason, upstream_error
from service.protocol.validation_reports import problem
from tests.support.each import each
from tests.support.fleets import only

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded/rejections.json").read_text())
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
STRUCTS = {endpoint.path: endpoint.body for endpoint in GENERATION}
TALK = [{"role": "user", "content": "Hello!"}]
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TALK}, COMPLETIONS: {"prompt": "a"},
    "/v1/responses": {"input": "a"}, "/v1/embeddings": {"input": "a"},
    MESSAGES: {"messages": TALK, "max_tokens": 9}, f"{MESSAGES}/count_tokens": {"messages": TALK},
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return only(tmp_path_factory.mktemp("fleet"), "model: pebble-chat")


def rejected(path: str = CHAT, **fields: Any) -> Rejected:
    """A request that an engine rejects; fields that our own schema would reject are in its bytes only."""
    kind, body = STRUCTS[path], {"model": "pebble-chat", **NEEDED[path], **fields}
    request: Body = msgspec.convert({"model": "pebble-chat", **NEEDED[path]}, kind)
    for name in kind.output_limit_fields:
        setattr(request, name, fields.get(name))
    return Rejected(request, json.dumps(body).encode())


def error(message: str, kind: str = "BadRequestError", param: str | None = None, code: int = 400) -> bytes:
    """An error response as vLLM sends it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


# Recorded rejections: our code, the param, and a part of our message.
UNKNOWN, CONTEXT, LIMIT = "upstream_rejected", "context_length_exceeded", "max_tokens_too_large"
SAID: dict[str, tuple[str, str | None, str]] = {
    "a JSON schema with a keyword that is not supported": (UNKNOWN, "response_format", '["uniqueItems"]'),
    "a JSON schema in text.format": (UNKNOWN, "text", 'rejected \'text\', which it cannot follow: Grammar error: Un'),
    "a reference to nothing": (UNKNOWN, "response_format", "does not exist"),
    "no schema": (UNKNOWN, "response_format", "the 'json_schema' field must be provided"),
    "a type that does not exist": (UNKNOWN, "response_format", "Invalid type"),
    "an unknown response format": (UNKNOWN, "response_format.type", "should be 'text', 'json_object' or 'json_schema'"),
    "several greedy answers": (UNKNOWN, "n", "'n' is 2 and must be 1 where 'temperature' is 0"),
    "an invalid regular expression": (UNKNOWN, "structured_outputs", "unclosed group"),
    "an invalid pattern in a schema": (UNKNOWN, "response_format", "regex parse error: unclosed group"),
    "an unknown token in the prompt": (UNKNOWN, "prompt", "'pebble-chat' has no token with the id 999999"),
    "a bias for an unknown token": (UNKNOWN, "logit_bias", "vocabulary ends before 512"),
    "a bias for a word": (UNKNOWN, "logit_bias", "must be token ids"),
    "an unknown stop token": (UNKNOWN, "stop_token_ids", "vocabulary ends before 512"),
    "too many stops": (UNKNOWN, "stop", "at most 16 items, not 25"),
    "top_logprobs alone": (UNKNOWN, "top_logprobs", "`logprobs` must be set to true"),
    "no tools": (UNKNOWN, "tools", "omit the field entirely"),
    "a tool choice without tools": (UNKNOWN, "tool_choice", "`tools` must be set"),
    "an unknown tool choice": (UNKNOWN, "tool_choice", "must be 'none', 'auto', 'required' or name a function"),
    "a tool that is not there": (UNKNOWN, "tool_choice", "does not match any of the specified `tools`"),
    "tools without a parser": ("tools_not_served", "tools", "tool_call_parser"),
    "a named tool without a parser": ("tools_not_served", "tools", "tool_call_parser"),
    "a tool without a function": (UNKNOWN, "tools[0].function", "it is required"),
    "an image": (UNKNOWN, "messages", "'pebble-chat' takes text only"),
    "an image in responses": (UNKNOWN, "input", "'pebble-chat' takes text only"),
    "an image in messages": (UNKNOWN, "messages", "'pebble-chat' takes text only"),
    "a message without content": (UNKNOWN, "messages[0].content", "it should be a string"),
    "a tool call without an id": (UNKNOWN, "messages[1].tool_calls[0].id", "it is required"),
    "more output than the context": (LIMIT, "max_tokens", "max_tokens is 5000 and the context of 'pebble-chat' is"),
    "more output than the context in responses": (LIMIT, "max_output_tokens", "max_output_tokens is 5000"),
    "more output than the context in messages": (
        LIMIT, "max_tokens",
        "max_tokens: 5000 > 1024, which is the maximum allowed number of output tokens for pebble-chat",
    ),
    "a prompt of too many characters": (CONTEXT, "messages", "longer than the context of 'pebble-chat', which is 1024"),
    "a prompt of too many tokens": (CONTEXT, "messages", "at least 1025 tokens and the context of 'pebble-chat' is"),
    "a prompt of too many token ids": (CONTEXT, "prompt", "has 3000 tokens and the context of 'pebble-chat' is 1024"),
    "too many characters in responses": (CONTEXT, "input", "longer than the context of 'pebble-chat', which is 1024"),
    "too many characters in messages": (CONTEXT, "messages", "prompt is too long: more than 1024 tokens"),
    "too many tokens in messages": (CONTEXT, "messages", "prompt is too long: more than 1024 tokens"),
    "too many tokens to count": (CONTEXT, "messages", "prompt is too long: more than 1024 tokens"),
    "an item without a type": (UNKNOWN, "input[1].content[0].type", "one such as 'input_text'"),
    "a reference to an item": (UNKNOWN, "input", "nothing is stored here: send the items themselves"),
    "an unknown item": (UNKNOWN, "input[0].type", "one such as 'message'"),
    "encrypted reasoning": (UNKNOWN, "input", "'encrypted_content': leave it out"),
    "an unknown include": (UNKNOWN, "include[0]", "or 'reasoning.encrypted_content'"),
    "a tool with a grammar": (UNKNOWN, "tools", "only free-form text custom tools are accepted"),
    "a required tool without tools": (UNKNOWN, "tool_choice", "which needs 'tools'"),
    "too little thinking": (UNKNOWN, "thinking.budget_tokens", "greater than or equal to 1024"),
    "more thinking than output": (UNKNOWN, None, "thinking.budget_tokens must be less than max_tokens"),
    "a tool without a schema": (UNKNOWN, "tools[0].input_schema", "it is required"),
    "an unknown block": (UNKNOWN, "messages[0].content[0].type", "it should be 'text', 'image', 'tool_use'"),
    "a text for a number": (UNKNOWN, "temperature", "it should be a number"),
    "a number for a name": (UNKNOWN, "messages[0].name", "it should be a string"),
    "an empty bad word": (UNKNOWN, "bad_words", "cannot contain an empty string"),
    "a minimum above the maximum": (UNKNOWN, "min_tokens", "less than or equal to max_tokens=4, got 9"),
}  # fmt: skip
# What must not be in any message: vLLM's types and its way of writing a report, and the texts of the requests.
FOREIGN = ("Param", "validation error", "parameter=", "'loc'", "pydantic", "--enable", "body.", "SECRETWORD")


def test_every_recorded_rejection_has_its_words() -> None:
    assert {row["name"] for row in RECORDED} == SAID.keys()


@each("row", RECORDED, ids=lambda row: row["name"])
def test_a_rejection_says_what_to_change_and_names_the_clients_field(row: dict[str, Any], served: ServedModel) -> None:
    code, param, part = SAID[row["name"]]
    given, answer = rejected(row["path"], **row["request"]), json.dumps(row["answer"]).encode()
    ours, logged = upstream_error(400, answer, served, given), reason(answer, given)
    assert (ours.status, ours.code, ours.param) == (400, code, param)
    assert part in ours.message
    assert logged
    for text in (openai_body(ours).decode(), anthropic_body(ours).decode()):
        assert not [word for word in FOREIGN if word in text]
    assert "SECRETWORD" not in logged


@pytest.mark.parametrize("name", ["too many tokens in messages", "too many characters in messages"])
def test_a_counted_prompt_is_told_in_anthropics_words(name: str, served: ServedModel) -> None:
    row = next(row for row in RECORDED if row["name"] == name)
    given, answer = rejected(MESSAGES), json.dumps(row["answer"]).encode()
    assert str(upstream_error(400, answer, served, given, 5414)) == "prompt is too long: 5414 tokens > 1024 maximum"
    # A count that contradicts the engine is none.
    assert str(upstream_error(400, answer, served, given, 9)) == "prompt is too long: more than 1024 tokens"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("The decoder prompt (length 1024) plus the number of requested output tokens (at least 1) is longer than the "
         "maximum model length of 1024. Make sure", "prompt is too long: 1024 tokens > 1023 maximum"),
        ("The decoder prompt (length 2000) is longer than the maximum model length of 1024. Make",
         "prompt is too long: 2000 tokens > 1024 maximum"),
        ("Input length (2000) exceeds model's maximum context length (1024).",
         "prompt is too long: 2000 tokens > 1024 maximum"),
        ("This model's maximum context length is 1024 tokens. However, you requested 1500 tokens (1100 in the "
         "messages, 400 in the completion).", "prompt is too long: more than 1024 tokens"),
    ],
)  # fmt: skip
def test_other_forms_of_too_long(message: str, words: str, served: ServedModel) -> None:
    assert str(upstream_error(400, error(message), served, rejected(MESSAGES))) == words


LONG = "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input tokens"
TEMPLATE = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."

# status and body of the engine; our status, code and param, and a part of our message
ERRORS: list[tuple[int, bytes, int, str, str | None, str]] = [
    (400, error(TEMPLATE), 400, "no_chat_template", "messages", "has no chat template"),
    (400, error("Conversation roles must alternate user/assistant"), 400, "invalid_conversation", "messages", "roles"),
    (400, error("expected user, found assistant in the template"), 400, "invalid_conversation", "messages", "roles"),
    (400, error("User and assistant must take turns, user first: expected user, found assistant."), 400,
     "invalid_conversation", "messages", "expects a message of role 'user' where there is one of role 'assistant'"),
    (400, error("This model has no tools: leave out tools."), 400, "invalid_conversation", "messages",
     "leave out 'tools'"),
    (400, error("This model calls one tool at a time: x."), 400, "invalid_conversation", "messages",
     "one tool at a time"),
    (400, error("The conversation holds no user message."), 400, "invalid_conversation", "messages", "add one"),
    (400, b'{"detail":"There was an error parsing the body"}', 400, "upstream_rejected", None, "its contents"),
    (400, b"not even JSON", 400, "upstream_rejected", None, "its contents"),
    (400, error("x", param="some.other"), 400, "upstream_rejected", None, "'pebble-chat' rejected the request: x"),
    (413, b"", 400, "upstream_rejected", None, "its contents"),
    (422, b'{"error": "text"}', 400, "upstream_rejected", None, "its contents"),
    (503, error(BUSY, "Service Unavailable", code=503), 503, "overloaded", None, "is full"),
    (500, error(DEAD, "InternalServerError", code=500), 502, "upstream_error", None, "failed (status 500)"),
    (404, b'{"detail":"Not Found"}', 502, "upstream_error", None, "failed (status 404)"),
    (404, error("The model `x` does not exist. Valid aliases: pebble-chat.", "NotFoundError", "model", 404), 502,
     "upstream_error", None, "failed (status 404)"),
]  # fmt: skip


@each(("engine_status", "body", "status", "code", "param", "part"), ERRORS)
def test_an_engine_error_is_translated(
    served: ServedModel, engine_status: int, body: bytes, status: int, code: str, param: str | None, part: str
) -> None:
    ours = upstream_error(engine_status, body, served, rejected())
    assert (ours.status, ours.code, ours.param) == (status, code, param)
    assert part in ours.message and "'pebble-chat'" in ours.message


SECRET = "my secret prompt number 4711"
PLACES = "/srv/weights/secret http://10.0.0.7:8000/secret secret.host:8000 ~/.cache/secret"


@each("status", [400, 404, 413, 422, 429, 500, 503])
@each(
    "body",
    [
        error(SECRET),
        error(f"Unheard of: {SECRET}"),
        error(f"The message '{SECRET}' is wrong"),
        error(f"Wrong: `{SECRET}`, {{'content': '{SECRET}'}}"),
        error(f"at {PLACES}"),
        error(f'Traceback (most recent call last):\n  File "x", line 1\n{SECRET}'),
        error(f"first line\n{SECRET}"),
        error(f"{LONG} {SECRET}"),
        error(f"{TEMPLATE} {SECRET}"),
        error(f"Grammar error: {SECRET}"),
        error(f"1 validation error:\n  {{'type': 'value_error', 'loc': 'body.messages.0', 'msg': '{SECRET}'}}"),
        error(f"1 validation error:\n  {{'type': 'int_type', 'loc': 'body.messages.{SECRET}', 'msg': 'x'}}"),
        error("x", param=SECRET),
        error("x", param=f"body.messages {SECRET}"),
        error("x", kind=SECRET),
        json.dumps({"detail": SECRET}).encode(),
        SECRET.encode(),
    ],
)
def test_nothing_that_the_engine_quotes_is_passed_on(served: ServedModel, status: int, body: bytes) -> None:
    given = rejected(messages=[{"role": "user", "content": f"This is {SECRET}."}])
    ours = upstream_error(status, body, served, given)
    for text in (openai_body(ours).decode(), anthropic_body(ours).decode(), reason(body, given) or ""):
        assert "secret" not in text and "4711" not in text


def test_the_words_about_a_body_too_large_to_search_are_kept_back(served: ServedModel) -> None:
    given = rejected(messages=[{"role": "user", "content": "x" * MAX_SEARCHED}])
    for body in (error("Some words", param="messages"), json.dumps(RECORDED[-2]["answer"]).encode()):
        assert "because of its contents" in upstream_error(400, body, served, given).message
        assert reason(body, given) is None
    assert upstream_error(400, error(LONG), served, given).code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Input should be a valid dictionary or instance of Options", "it should be an object"),
        ("Input should be a valid integer, unable to parse string as an integer", "it should be an integer"),
        ("Input should be a valid boolean", "it should be true or false"),
        ("Value error, Nothing fits", "nothing fits"),
    ],
)
def test_pydantics_words_become_a_clause(text: str, words: str) -> None:
    report = f"1 validation error:\n  {{'type': 'any_type', 'loc': 'body.seed', 'msg': {text!r}, 'input': 3}}"
    assert problem(report, {"seed": "x"}) == ("seed", words, False)


@given(body=st.binary(), status=st.integers(300, 599))
def test_any_error_response_is_translated(served: ServedModel, body: bytes, status: int) -> None:
    assert upstream_error(status, body, served, rejected()).status in (400, 502, 503)


@given(
    text=st.text(),
    place=st.text("abc.0123[]", max_size=20),
    kind=st.sampled_from(["missing", "int_type", "literal_error"]),
)
def test_any_report_is_translated(served: ServedModel, text: str, place: str, kind: str) -> None:
    for report in (
        f"2 validation errors:\n  {{'type': '{kind}', 'loc': 'body.{place}', 'msg': {text!r}, 'input': 3}}",
        f"1 validation error for X\n{place}\n  {text} [type={kind}, input_value=3]",
    ):
        given = rejected(messages=[{"role": "user", "content": [{"type": "text"}], "tool_calls": [{}, {}]}])
        assert upstream_error(400, error(report), served, given).code == "upstream_rejected"
        reason(error(report), given)
