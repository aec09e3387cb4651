"""The fields that are rewritten in a request, its stop conditions, and what is hidden of them in the response."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.model import Chat, Infill, Model
from service.errors import ApiError
from service.protocol.generation import GENERATION
from service.protocol.parse_body import parse_body
from service.protocol.requests import Body
from service.protocol.rewrites import rewrites, stop_conditions
from service.protocol.streams import Dialect

NO_BOS = {"chat_template_kwargs": {"bos_is_added": True}}
ENDPOINTS = {endpoint.path.removeprefix("/v1/"): endpoint for endpoint in GENERATION}
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": MESSAGES},
    "responses": {"input": "hi"},
    "messages": {"messages": MESSAGES, "max_tokens": 9},
    "messages/count_tokens": {"messages": MESSAGES},
    "completions": {"prompt": "a"},
    "embeddings": {"input": "a"},
}
CHAT_MODEL = Model(id="talker", variant="chat", hub="a/b", chat=Chat(stop=("\nUser",), stop_token_ids=(7, 8)))
INFILL_MODEL = Model(
    id="filler",
    variant="code",
    hub="a/b",
    infill=Infill(prompt="<P>{prefix}<S>{suffix}<M>", stop=("<E>",), stop_token_ids=(9,)),
)
BOTH_ORDERS = INFILL_MODEL.model_copy(
    update={"infill": Infill(prompt="<P>{prefix}<S>{suffix}<M>", suffix_first="<S>{suffix}<P>{prefix}<M>")}
)


def parse(path: str, **fields: Any) -> Body:
    body = {"model": "m", **BODIES[path], **fields}
    return parse_body(ENDPOINTS[path].body, json.dumps(body).encode()).request


def rewritten(path: str, model: Model = CHAT_MODEL, **fields: Any) -> dict[str, Any]:
    request = parse(path, **fields)
    return rewrites(request, "m", model, ENDPOINTS[path].dialect, stop_conditions(request, model))


# Stop conditions


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("chat/completions", {}, {"stop": ["\nUser"], "stop_token_ids": [7, 8]}),
        ("chat/completions", {"stop": "x"}, {"stop": ["x", "\nUser"], "stop_token_ids": [7, 8]}),
        ("chat/completions", {"stop": ["x", "y", "x"]}, {"stop": ["x", "y", "\nUser"], "stop_token_ids": [7, 8]}),
        ("chat/completions", {"stop": ["\nUser", "y"]}, {"stop_token_ids": [7, 8]}),
        ("chat/completions", {"stop_token_ids": [5, 7]}, {"stop": ["\nUser"], "stop_token_ids": [5, 7, 8]}),
        ("chat/completions", {"stop": ["\nUser"], "stop_token_ids": [8, 7]}, {}),
        ("responses", {}, {"stop": ["\nUser"], "stop_token_ids": [7, 8], **NO_BOS}),
        ("messages", {}, {"stop_sequences": ["\nUser"]}),
        ("messages", {"stop_sequences": ["x"]}, {"stop_sequences": ["x", "\nUser"]}),
        ("messages", {"stop_sequences": ["\nUser"]}, {}),
        ("messages/count_tokens", {}, {}),
        ("completions", {"stop": "x"}, {}),
        ("embeddings", {}, {}),
    ],
)  # fmt: skip
def test_chat_stops_of_the_catalogue_are_added_at_every_endpoint(
    path: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert rewritten(path, **fields) == expected


@pytest.mark.parametrize("path", [path for path in BODIES if path != "embeddings"])
def test_a_model_without_stops_gets_the_body_unchanged(path: str) -> None:
    plain = Model(id="plain", variant="chat", hub="a/b", chat=Chat())
    expected = rewritten(path, plain)
    assert expected == (NO_BOS if path == "responses" else {})
    body = b'{"stop_reason":7}'
    assert stop_conditions(parse(path), plain).redact_stop_reason("openai")(body) is body


def test_infill_stops_are_added_only_with_a_suffix() -> None:
    filling = {"prompt": "<P>a<S>b<M>", "suffix": None, "stop": ["x", "<E>"], "stop_token_ids": [9]}
    assert rewritten("completions", INFILL_MODEL, suffix="b", stop="x") == filling
    assert rewritten("completions", INFILL_MODEL, stop="x") == {}


# Infilling


def test_infill_order() -> None:
    assert rewritten("completions", BOTH_ORDERS, suffix="b")["prompt"] == "<P>a<S>b<M>"
    assert rewritten("completions", BOTH_ORDERS, suffix="b", infill_order="prefix_first")["prompt"] == "<P>a<S>b<M>"
    assert rewritten("completions", BOTH_ORDERS, suffix="b", infill_order="suffix_first")["prompt"] == "<S>b<P>a<M>"
    assert rewritten("completions", BOTH_ORDERS, suffix="", prompt="")["prompt"] == "<P><S><M>"


def test_an_unsupported_infill_order_is_rejected() -> None:
    with pytest.raises(ApiError) as caught:
        rewritten("completions", INFILL_MODEL, suffix="b", infill_order="suffix_first")
    assert (caught.value.status, caught.value.param, caught.value.code) == (
        400,
        "infill_order",
        "unsupported_infill_order",
    )
    assert str(caught.value) == "'filler' does not support infill_order 'suffix_first': use 'prefix_first'."


# Stop reasons. The responses are vLLM's, shortened.

CHOICE = '{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop","stop_reason":%s,"token_ids":null}]}'
MESSAGE = '{"content":[{"text":"Hi"}],"stop_reason":"stop_sequence","stop_sequence":%s,"usage":{"output_tokens":1}}'
DELTA = 'event: message_delta\ndata: {"delta":{"stop_reason":"stop_sequence","stop_sequence":%s},"usage":{}}\n\n'


@pytest.mark.parametrize("stop", ['"\\nUser"', "7", "8"])
def test_a_stop_of_the_catalogue_is_hidden(stop: str) -> None:
    redact_stop_reason = stop_conditions(parse("chat/completions"), CHAT_MODEL).redact_stop_reason("openai")
    assert redact_stop_reason((CHOICE % stop).encode()) == (CHOICE % "null").encode()


@pytest.mark.parametrize("template", [MESSAGE, DELTA])
def test_a_stop_of_the_catalogue_is_an_end_turn_in_the_messages_api(template: str) -> None:
    redact_stop_reason = stop_conditions(parse("messages"), CHAT_MODEL).redact_stop_reason("messages")
    wanted = (template % "null").replace('"stop_reason":"stop_sequence"', '"stop_reason":"end_turn"')
    assert redact_stop_reason((template % '"\\nUser"').encode()) == wanted.encode()


@pytest.mark.parametrize("stop", ["null", '"x"', "77", "2", '"\\nUser:"', '"User"'])
def test_other_stop_reasons_are_kept(stop: str) -> None:
    for dialect, template in (("openai", CHOICE), ("messages", MESSAGE)):
        path = "chat/completions" if dialect == "openai" else "messages"
        response = (template % stop).encode()
        assert stop_conditions(parse(path), CHAT_MODEL).redact_stop_reason(dialect)(response) == response  # type: ignore[arg-type]


def test_a_stop_that_the_client_set_is_kept() -> None:
    redact = stop_conditions(
        parse("chat/completions", stop=["\nUser"], stop_token_ids=[7]), CHAT_MODEL
    ).redact_stop_reason("openai")
    assert redact((CHOICE % '"\\nUser"').encode()) == (CHOICE % '"\\nUser"').encode()
    assert redact((CHOICE % "7").encode()) == (CHOICE % "7").encode()
    assert redact((CHOICE % "8").encode()) == (CHOICE % "null").encode()


@given(text=st.text(), dialect=st.sampled_from(["openai", "messages"]))
def test_generated_text_is_never_changed(text: str, dialect: Dialect) -> None:
    redact_stop_reason = stop_conditions(
        parse("messages" if dialect == "messages" else "chat/completions"), CHAT_MODEL
    ).redact_stop_reason(dialect)
    for part in (text, f'"stop_reason":7,{text}', MESSAGE % '"\\nUser"', DELTA % '"\\nUser"'):
        response = json.dumps({"text": part}, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )
        assert redact_stop_reason(response) == response
