"""What is edited in a request, what ends its answer, and what of that a client does not see."""

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
TALK = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": TALK},
    "responses": {"input": "hi"},
    "messages": {"messages": TALK, "max_tokens": 9},
    "messages/count_tokens": {"messages": TALK},
    "completions": {"prompt": "a"},
    "embeddings": {"input": "a"},
}
TALKER = Model(id="talker", variant="chat", hub="a/b", chat=Chat(stop=("\nUser",), stop_token_ids=(7, 8)))
FILLER = Model(
    id="filler",
    variant="code",
    hub="a/b",
    infill=Infill(prompt="<P>{prefix}<S>{suffix}<M>", stop=("<E>",), stop_token_ids=(9,)),
)
BOTH = FILLER.model_copy(
    update={"infill": Infill(prompt="<P>{prefix}<S>{suffix}<M>", suffix_first="<S>{suffix}<P>{prefix}<M>")}
)


def request(path: str, **fields: Any) -> Body:
    body = {"model": "m", **BODIES[path], **fields}
    return parse_body(ENDPOINTS[path].body, json.dumps(body).encode())


def edited(path: str, model: Model = TALKER, **fields: Any) -> dict[str, Any]:
    asked = request(path, **fields)
    return rewrites(asked, "m", model, ENDPOINTS[path].dialect, stop_conditions(asked, model))


# What ends an answer


@pytest.mark.parametrize(
    ("path", "fields", "said"),
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
def test_what_ends_a_turn_is_said_at_every_endpoint(path: str, fields: dict[str, Any], said: dict[str, Any]) -> None:
    assert edited(path, **fields) == said


@pytest.mark.parametrize("path", [path for path in BODIES if path != "embeddings"])
def test_a_model_without_stops_gets_what_was_written(path: str) -> None:
    plain = Model(id="plain", variant="chat", hub="a/b", chat=Chat())
    said = edited(path, plain)
    assert said == (NO_BOS if path == "responses" else {})
    whole = b'{"stop_reason":7}'
    assert stop_conditions(request(path), plain).redact_stop_reason("openai")(whole) is whole


def test_what_ends_a_middle_is_said_with_a_suffix_only() -> None:
    filling = {"prompt": "<P>a<S>b<M>", "suffix": None, "stop": ["x", "<E>"], "stop_token_ids": [9]}
    assert edited("completions", FILLER, suffix="b", stop="x") == filling
    assert edited("completions", FILLER, stop="x") == {}


# Infilling


def test_both_orders() -> None:
    assert edited("completions", BOTH, suffix="b")["prompt"] == "<P>a<S>b<M>"
    assert edited("completions", BOTH, suffix="b", infill_order="prefix_first")["prompt"] == "<P>a<S>b<M>"
    assert edited("completions", BOTH, suffix="b", infill_order="suffix_first")["prompt"] == "<S>b<P>a<M>"
    assert edited("completions", BOTH, suffix="", prompt="")["prompt"] == "<P><S><M>"


def test_an_order_that_there_is_not() -> None:
    with pytest.raises(ApiError) as caught:
        edited("completions", FILLER, suffix="b", infill_order="suffix_first")
    assert (caught.value.status, caught.value.param, caught.value.code) == (
        400,
        "infill_order",
        "unsupported_infill_order",
    )
    assert str(caught.value) == "'filler' does not fill in the middle 'suffix_first': send 'prefix_first'."


# What a client does not see. The answers are vLLM's, shortened.

CHOICE = '{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop","stop_reason":%s,"token_ids":null}]}'
MESSAGE = '{"content":[{"text":"Hi"}],"stop_reason":"stop_sequence","stop_sequence":%s,"usage":{"output_tokens":1}}'
DELTA = 'event: message_delta\ndata: {"delta":{"stop_reason":"stop_sequence","stop_sequence":%s},"usage":{}}\n\n'


@pytest.mark.parametrize("said", ['"\\nUser"', "7", "8"])
def test_the_catalogues_stops_do_not_show(said: str) -> None:
    redact_stop_reason = stop_conditions(request("chat/completions"), TALKER).redact_stop_reason("openai")
    assert redact_stop_reason((CHOICE % said).encode()) == (CHOICE % "null").encode()


@pytest.mark.parametrize("form", [MESSAGE, DELTA])
def test_to_a_client_of_messages_the_turn_just_ended(form: str) -> None:
    redact_stop_reason = stop_conditions(request("messages"), TALKER).redact_stop_reason("messages")
    wanted = (form % "null").replace('"stop_reason":"stop_sequence"', '"stop_reason":"end_turn"')
    assert redact_stop_reason((form % '"\\nUser"').encode()) == wanted.encode()


@pytest.mark.parametrize("said", ["null", '"x"', "77", "2", '"\\nUser:"', '"User"'])
def test_other_ends_show(said: str) -> None:
    for dialect, form in (("openai", CHOICE), ("messages", MESSAGE)):
        path = "chat/completions" if dialect == "openai" else "messages"
        answer = (form % said).encode()
        assert stop_conditions(request(path), TALKER).redact_stop_reason(dialect)(answer) == answer  # type: ignore[arg-type]


def test_a_client_sees_the_stops_that_it_asked_for() -> None:
    asked = stop_conditions(
        request("chat/completions", stop=["\nUser"], stop_token_ids=[7]), TALKER
    ).redact_stop_reason("openai")
    assert asked((CHOICE % '"\\nUser"').encode()) == (CHOICE % '"\\nUser"').encode()
    assert asked((CHOICE % "7").encode()) == (CHOICE % "7").encode()
    assert asked((CHOICE % "8").encode()) == (CHOICE % "null").encode()


@given(text=st.text(), dialect=st.sampled_from(["openai", "messages"]))
def test_what_a_model_wrote_stays(text: str, dialect: Dialect) -> None:
    redact_stop_reason = stop_conditions(
        request("messages" if dialect == "messages" else "chat/completions"), TALKER
    ).redact_stop_reason(dialect)
    for part in (text, f'"stop_reason":7,{text}', MESSAGE % '"\\nUser"', DELTA % '"\\nUser"'):
        answer = json.dumps({"text": part}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        assert redact_stop_reason(answer) == answer
