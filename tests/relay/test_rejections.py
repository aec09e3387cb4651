"""Requests that an engine rejects, before a stream or within it: whose fault it is, and what the client is told."""

import json
from typing import Any

import pytest

from service.upstreams.breaker import TOLERATED_FAILURES
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.fake_engine.bodies import dumps, error
from tests.support.exchanges import CHAT, COMPLETION, COUNT, MESSAGE, RESPONSE, TALKING, Case, error_in, label
from tests.support.gateways import HOUSE, ONE, TWO, RunningGateway
from tests.support.pictures import block, picture

# A keyword that the engine finds unfit only after it has begun to stream.
SCHEMA = {"type": "array", "uniqueItems": True, "items": {"const": "secret words"}}
LATE: dict[str, dict[str, Any]] = {
    CHAT.name: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    RESPONSE.name: {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    MESSAGE.name: {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
TWO_OPEN = f"{TWO}\nextra_fields: [output_config]"
every_chat = pytest.mark.parametrize("case", TALKING, ids=label)


@every_chat
@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_rejection_is_a_400_and_no_failure_of_a_replica(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(TWO_OPEN)
    for _ in range(2 * (TOLERATED_FAILURES + 1)):
        response = await gateway.post(case.path, case.body(stream, **LATE[case.name]))
        assert response.status_code == 400
        error_in(case, response.content)
        message = response.json()["error"]["message"]
        assert message.startswith("The engine of 'pebble-chat' rejected ")
        assert message.endswith('which it cannot follow: Grammar error: Unimplemented keys: ["uniqueItems"].')
        (field,) = LATE[case.name]
        assert case.anthropic or response.json()["error"]["param"] == field
    await gateway.settle()
    assert all(replica.breaker.closed for replica in gateway.replicas)
    assert {(line["attempts"], line["code"]) for line in gateway.lines} == {(1, "upstream_rejected")}
    assert {line["reason"] for line in gateway.lines} == {'Grammar error: Unimplemented keys: ["uniqueItems"]'}


@pytest.mark.parametrize("events", [0, 2])
async def test_a_stream_of_responses_that_ends_at_once_is_asked_for_its_reason(events: int, start: Start) -> None:
    gateway = await start(TWO)
    rejects = Fault(status=400, body=dumps(error("top_p must be lower", "BadRequestError", "top_p", 400)))
    for engine in gateway.engines:
        engine.script(Fault(events=events), rejects, path=RESPONSE.path)
    response = await gateway.post(RESPONSE.path, RESPONSE.body(stream=True, top_p=0.5))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "top_p")
    assert not any(replica.breaker.failures for replica in gateway.replicas)
    asked = [seen.json for engine in gateway.engines for seen in engine.requests]
    assert [(one["stream"], one.get("max_output_tokens")) for one in asked] == [(True, None), (False, 1)]


async def test_a_stream_that_says_it_is_rejected_stays_so_without_a_reason(start: Start) -> None:
    """Where the engine then takes the same request without streaming, nobody knows why."""
    gateway = await start(f"{ONE}\nextra_fields: [output_config]")
    event = b'event: error\ndata: {"type":"error","error":{"message":"2 validation errors {\'code\': 400}"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(event)
    gateway.engines[0].script(Fault(raw=head + event))
    response = await gateway.post(MESSAGE.path, MESSAGE.body(stream=True))
    assert response.status_code == 400
    assert "because of its contents" in response.text


@every_chat
async def test_a_stream_that_fails_for_another_reason_is_the_replicas_failure(case: Case, start: Start) -> None:
    gateway = await start(TWO)
    broken = Fault(events=2) if case is RESPONSE else Fault(cut=0)
    for engine in gateway.engines:
        engine.script(broken, path=case.path)
    assert (await gateway.post(case.path, case.body(stream=True))).status_code == 502
    assert [replica.breaker.failures for replica in gateway.replicas] == [1, 1]


async def test_an_error_of_the_engine_within_a_stream_is_no_rejection(start: Start) -> None:
    gateway = await start(ONE)
    event = b"data: " + dumps(error("'code': 400 is what the prompt says", "InternalServerError", None, 500)) + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(event)
    gateway.engines[0].always = Fault(raw=head + event)
    assert (await gateway.post(CHAT.path, CHAT.body(stream=True))).status_code == 502


# Prompts that are too long

WORDS = "why not " * 600
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"properties": {}}}
CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "seen it"}]}
AGENT: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": WORDS}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, CALL]},
    {"role": "user", "content": [RESULT]},
]


async def ask(gateway: RunningGateway, case: Case, stream: bool, **fields: Any) -> str:
    response = await gateway.post(case.path, case.body(stream, **fields))
    assert response.status_code == 400
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize(
    ("case", "stream"), [(COUNT, False), (COUNT, True), (MESSAGE, False), (MESSAGE, True)], ids=label
)
async def test_too_long_is_said_in_anthropics_words_with_the_true_count(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(ONE)
    short = [{"role": "user", "content": WORDS}]
    assert await ask(gateway, case, stream, messages=short) == "prompt is too long: 1201 tokens > 1024 maximum"
    # So many characters that the engine does not count tokens, but says how many characters there are.
    for system in ("Be kind", [{"type": "text", "text": "Be kind"}]):
        wordy = await ask(
            gateway, case, stream, messages=[{"role": "user", "content": "x" * 9000 + WORDS}], system=system
        )
        assert wordy == "prompt is too long: 1204 tokens > 1024 maximum"
    assert await ask(gateway, case, stream, messages=AGENT, tools=[TOOL]) == (
        "prompt is too long: 1205 tokens > 1024 maximum"
    )
    (counting,) = [seen for seen in gateway.engines[0].requests if seen.path == "/tokenize"][-1:]
    assert counting.json == {
        "model": "pebble-chat",
        "messages": [
            {"role": "user", "content": WORDS},
            {
                "role": "assistant",
                "reasoning": "hm",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "seen it"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look",
                    "description": "Looks.",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
    }


async def test_a_prompt_that_cannot_be_counted_is_too_long_without_a_number(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, vision: true}]")
    with_image = [{"role": "user", "content": [{"type": "text", "text": WORDS}, block(picture())]}]
    assert await ask(gateway, MESSAGE, False, messages=with_image) == "prompt is too long: more than 1024 tokens"
    assert not [seen for seen in gateway.engines[0].requests if seen.path == "/tokenize"]
    gateway.engines[0].script(Fault(status=500), path="/tokenize")
    prompt = [{"role": "user", "content": WORDS}]
    assert await ask(gateway, MESSAGE, False, messages=prompt) == "prompt is too long: more than 1024 tokens"


@pytest.mark.parametrize(
    ("case", "field"), [(CHAT, "messages"), (COMPLETION, "prompt"), (RESPONSE, "input")], ids=label
)
async def test_characters_are_never_called_tokens(case: Case, field: str, start: Start) -> None:
    gateway = await start(HOUSE)
    for text, length in (("x" * 10000, "is longer than the context"), (WORDS, "has at least 1025 tokens")):
        prompt = [{"role": "user", "content": text}] if field == "messages" else text
        response = await gateway.post(case.path, case.body() | {field: prompt})
        found = response.json()["error"]
        assert (found["code"], found["param"]) == ("context_length_exceeded", field)
        assert found["message"].startswith(f"The prompt {length}")


@pytest.mark.parametrize(
    ("case", "field"),
    [(CHAT, "max_tokens"), (CHAT, "max_completion_tokens"), (COMPLETION, "max_tokens"),
     (RESPONSE, "max_output_tokens"), (MESSAGE, "max_tokens")],
    ids=label,
)  # fmt: skip
async def test_more_output_than_the_context_has_a_code_of_its_own(case: Case, field: str, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body() | {field: 5000})
    if case.anthropic:
        words = "max_tokens: 5000 > 1024, which is the maximum allowed number of output tokens for pebble-chat"
        assert response.json()["error"]["message"] == words
    else:
        found = response.json()["error"]
        assert (found["code"], found["param"]) == ("max_tokens_too_large", field)
        assert found["message"].startswith(f"{field} is 5000 and the context of '{case.model}' is 1024 tokens.")
    await gateway.settle()
    assert gateway.lines[0]["code"] == "max_tokens_too_large"


async def test_the_log_line_has_the_engines_reason_without_the_prompt(start: Start) -> None:
    gateway = await start(ONE)
    secret = "my secret words"
    messages = [{"role": "user", "content": secret}]
    said = error(
        f"Unheard of: top_p with '{secret}' (parameter=top_p, value={secret})", "BadRequestError", "top_p", 400
    )
    gateway.engines[0].script(
        Fault(status=400, body=dumps(said)), Fault(status=500, body=dumps(error("It broke", "x", None, 500)))
    )
    response = await gateway.post(CHAT.path, CHAT.body(messages=messages, top_p=0.5))
    assert response.json()["error"]["param"] == "top_p"
    assert (
        response.json()["error"]["message"]
        == "The engine of 'pebble-chat' rejected the request: Unheard of: top_p with …."
    )
    await gateway.post(CHAT.path, CHAT.body(messages=messages))
    await gateway.post(CHAT.path, CHAT.body(messages=messages))
    await gateway.settle()
    assert [line["reason"] for line in gateway.lines] == ["Unheard of: top_p with …", "It broke", None]
    assert "secret" not in json.dumps(gateway.lines)
