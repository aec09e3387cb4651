"""The table of fields has every field that the APIs and today's clients have, and each rule does what it says."""

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from service.protocol.fields import ACTED, RULES, header_value, label
from service.protocol.generation import GENERATION, MODERATIONS
from service.protocol.parse_body import FieldPolicy, parse_body
from service.protocol.requests import Body, ChatRequest
from tests.protocol.test_generation import (
    CHAT,
    COMPLETIONS,
    COUNT,
    DETOKENIZE,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
)
from tests.protocol.test_requests import body, rejection
from tests.support.each import each

# A body as each client sends it, with other words in it: {"client": …, "path": …, "body": …} in each line.
CLIENTS = [json.loads(line) for line in (Path(__file__).parent / "recorded/clients.jsonl").read_text().splitlines()]
# What of a client's body is refused, and why that is right.
REFUSED = {
    "langchain-09-best-of": "best_of",  # no choice of the best of several is made
}
ROWS = [(kind, name, rule) for kind, rules in RULES.items() for name, rule in rules.items()]


def known(kind: type[Body]) -> set[str]:
    return {*kind.__struct_fields__, *RULES[kind]}


@pytest.fixture(scope="module")
def sdks() -> dict[str, tuple[type, ...]]:
    """What the SDKs can send to each endpoint; importing both takes seconds."""
    from anthropic.types import message_count_tokens_params, message_create_params
    from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
    from anthropic.types.beta import message_create_params as beta_create_params
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    return {
        CHAT: (chat_create_params.CompletionCreateParamsStreaming,),
        COMPLETIONS: (completion_create_params.CompletionCreateParamsStreaming,),
        RESPONSES: (response_create_params.ResponseCreateParamsStreaming,),
        EMBEDDINGS: (embedding_create_params.EmbeddingCreateParams,),
        MESSAGES: (message_create_params.MessageCreateParamsStreaming, beta_create_params.MessageCreateParamsStreaming),
        COUNT: (
            message_count_tokens_params.MessageCountTokensParams,
            beta_count_tokens_params.MessageCountTokensParams,
        ),
    }


def test_every_endpoint_has_a_table(sdks: dict[str, tuple[type, ...]]) -> None:
    others = (RERANK, SCORE, TOKENIZE, DETOKENIZE)  # which the SDKs do not have
    paths = (CHAT, COMPLETIONS, RESPONSES, COUNT, MESSAGES, EMBEDDINGS, *others)
    assert list(RULES) == [*(ENDPOINTS[path].body for path in paths), MODERATIONS.body]
    assert {*sdks, *others} == {endpoint.path for endpoint in GENERATION}


@each("path", ENDPOINTS)
def test_every_field_of_the_sdks_is_decided(path: str, sdks: dict[str, tuple[type, ...]]) -> None:
    """A new release's new field fails here until somebody decides what becomes of it."""
    fields = {name for kind in sdks.get(path, ()) for name in get_type_hints(kind)}
    assert not fields - known(ENDPOINTS[path].body)


@each(("kind", "name", "rule"), ROWS, ids=lambda part: getattr(part, "__name__", str(part)[:20]))
def test_no_field_is_both_read_and_sorted_out(kind: type[Body], name: str, rule: Any) -> None:
    assert name not in kind.__struct_fields__
    assert rule.why[0].islower()
    assert not rule.why.endswith(".")


def test_what_is_acted_on_is_a_field_of_the_struct() -> None:
    assert set(ACTED) == set(RULES)
    for kind, acted in ACTED.items():
        assert set(acted) <= set(kind.__struct_fields__), kind


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_rule_decides_what_becomes_of_a_field(path: str) -> None:
    kind = ENDPOINTS[path].body
    for name, rule in RULES[kind].items():
        raw = body(path, **{name: {"a": 1}})
        if rule.action == "ignore":
            parsed = parse_body(kind, raw, FieldPolicy(refuse_unknown=True))
            assert parsed.ignored == (name,)
            assert name not in json.loads(parsed.body)
        else:
            error = rejection(path, raw)
            assert (error.param, error.code) == (name, "unsupported_parameter")
            assert rule.why in error.message
        passed = parse_body(kind, raw, FieldPolicy((name,)))
        assert json.loads(passed.body)[name] == {"a": 1}


@each("recorded", CLIENTS, ids=lambda recorded: recorded["client"])
def test_what_todays_clients_send_is_taken(recorded: dict[str, Any]) -> None:
    kind, raw = ENDPOINTS[recorded["path"]].body, json.dumps(recorded["body"]).encode()
    if param := REFUSED.get(recorded["client"]):
        assert rejection(recorded["path"], raw).param == param
        return
    parsed = parse_body(kind, raw, FieldPolicy(refuse_unknown=True))
    assert parsed.request.model == "m"
    assert set(json.loads(parsed.body)) == set(recorded["body"]) - set(parsed.ignored)


@each("path", [path for path in ENDPOINTS if "chat_template_kwargs" in ENDPOINTS[path].body.__struct_fields__])
def test_arguments_of_a_template_are_its_own_variables(path: str) -> None:
    """What transformers' renderer is asked with is not the client's: a template, the conversation, tensors."""
    parse_body(ENDPOINTS[path].body, body(path, chat_template_kwargs={"enable_thinking": False, "documents": [{}]}))
    for name in ("chat_template", "tokenize", "tools", "messages", "conversation", "max_length", "return_tensors"):
        assert rejection(path, body(path, chat_template_kwargs={name: 1})).param == f"chat_template_kwargs.{name}"


def test_the_header_names_what_is_harmless_in_a_header() -> None:
    assert header_value(("verbosity", "tools[3]")) == b"verbosity, tools[3]"
    assert header_value(("a\r\nset-cookie: x", "é", "x" * 65)) == b"other"
    assert header_value([f"f{number}" for number in range(1000)]).count(b",") == 31


def test_a_client_cannot_create_time_series() -> None:
    names = ("verbosity", "tools[3]", "anything")
    assert [label(ChatRequest, name) for name in names] == ["verbosity", "tools", "other"]
