"""Guardrails around every endpoint, on a running gateway with fake engines: one plays the model, others the guard."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Start
from tests.fake_engine import Call, FakeEngine, Fault, Script, Verdicts
from tests.support import fleets
from tests.support.exchanges import CHAT, COMPLETION, EMBEDDING, MESSAGE, RESPONSE, Case, error_in, label
from tests.support.gateways import RunningGateway
from tests.support.ledger import text
from tests.support.waiting import until

if TYPE_CHECKING:
    import anthropic
    import openai

JUDGED = (CHAT, COMPLETION, RESPONSE, MESSAGE)
GUARD = "llama-guard-3-8b"
STEPS = """
  - {model: llama-guard-3-8b, min_replicas: 2, policy: round_robin}
  - {model: acme/tiny-embedding, id: embedder}
guardrails:
  safety: {model: llama-guard-3-8b, timeout: 5, window: 50}
"""
INPUT = "models:\n  - {model: pebble-chat, aliases: [pebble-base]}" + STEPS + "default_guardrails: {input: [safety]}"
OUTPUT = "models:\n  - {model: pebble-chat, aliases: [pebble-base]}" + STEPS + "default_guardrails: {output: [safety]}"
ENDINGS = {
    "/v1/chat/completions": b'"finish_reason":"content_filter"',
    "/v1/completions": b'"finish_reason":"content_filter"',
    "/v1/responses": b'"incomplete_details":{"reason":"content_filter"}',
    "/v1/messages": b'"stop_reason":"refusal"',
}


def asking(case: Case, said: str, **more: Any) -> dict[str, Any]:
    """A request of the case in which the user says this."""
    field = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(case.path)
    talk = {field: said} if field else {"messages": [{"role": "user", "content": said}]}
    room = {"max_tokens": 500} if case is MESSAGE else {}
    return case.body() | talk | room | more


def guards(gateway: RunningGateway) -> list[FakeEngine]:
    return [engine for engine in gateway.engines if engine.model == GUARD]


def judged(gateway: RunningGateway) -> list[str]:
    """The texts that guards were asked about."""
    return [seen.json["messages"][-1]["content"] for engine in guards(gateway) for seen in engine.requests]


def long(word: str = "") -> str:
    """A text of some windows, with a word in its last one."""
    return " ".join([f"word{number}" for number in range(30)] + [word] * bool(word))


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("case", JUDGED, ids=label)
async def test_a_request_that_is_blocked_reaches_no_model(start: Start, case: Case, stream: bool) -> None:
    gateway = await start(INPUT)
    answer = await gateway.post(case.path, asking(case, "do the forbidden thing", stream=stream))
    kind, code = error_in(case, answer.content)
    assert (answer.status_code, kind) == (400, "invalid_request_error")
    assert code == ("" if case.anthropic else "content_filter")
    assert "guardrail 'safety' (S1: violent crimes, S9: indiscriminate weapons)" in answer.text
    assert not gateway.seen
    assert gateway.lines[-1]["code"] == "content_filter"

    fine = await gateway.post(case.path, asking(case, "one two three", stream=stream))
    assert fine.status_code == 200
    assert text(fine.content) == "one two three"
    assert [len(engine.requests) for engine in guards(gateway)] == [1, 1]  # two replicas, in turns
    assert gateway.sample("roundhouse_guardrail_checks_total", stage="input", result="blocked") == 1
    assert gateway.sample("roundhouse_guardrail_checks_total", stage="input", result="passed") == 1
    assert gateway.sample("roundhouse_guard_tokens_total", model=GUARD) > 0


@pytest.mark.parametrize("case", JUDGED, ids=label)
async def test_a_whole_answer_that_is_blocked_is_an_error(start: Start, case: Case) -> None:
    gateway = await start(OUTPUT)
    answer = await gateway.post(case.path, asking(case, "forbidden words"))
    assert (answer.status_code, error_in(case, answer.content)[0]) == (400, "invalid_request_error")
    assert "forbidden" not in answer.text
    assert text((await gateway.post(case.path, asking(case, "fine words"))).content) == "fine words"


@pytest.mark.parametrize("case", JUDGED, ids=label)
async def test_a_stream_ends_before_what_is_blocked(start: Start, case: Case) -> None:
    gateway = await start(OUTPUT)
    said = long("forbidden") + " " + long()
    gateway.engines[0].gap = 0.002
    gateway.engines[0].hold(after=len(said.split()) - 1)  # it is not at its end, however long the guard takes
    answer = await gateway.post(case.path, asking(case, said, stream=True))
    assert answer.status_code == 200
    assert ENDINGS[case.path] in answer.content
    got = text(answer.content)
    assert got.startswith("word0 word1")
    assert "forbidden" not in answer.text
    (seen,) = gateway.seen
    await until(seen.closed.is_set, "the engine to be told")
    assert not seen.sent
    assert gateway.lines[-1]["finish_reason"] == "content_filter"
    assert gateway.lines[-1]["outcome"] == "complete"

    gateway.engines[0].go_on()
    fine = await gateway.post(case.path, asking(case, long(), stream=True))
    assert text(fine.content) == long()
    assert len(judged(gateway)) > 6
    assert all(len(one) < 150 for one in judged(gateway))


@pytest.mark.parametrize("case", JUDGED, ids=label)
async def test_a_stream_whose_first_words_are_blocked_has_none(start: Start, case: Case) -> None:
    gateway = await start(OUTPUT)
    answer = await gateway.post(case.path, asking(case, "forbidden", stream=True))
    assert answer.status_code == 200
    assert text(answer.content) == ""
    assert ENDINGS[case.path] in answer.content
    events = [row for row in answer.text.split("\n") if row.startswith("event: ")]
    if case is MESSAGE:
        assert [events[0], *events[-2:]] == ["event: message_start", "event: message_delta", "event: message_stop"]
        assert answer.text.count("content_block_start\n") == answer.text.count("content_block_stop\n")
    if case is RESPONSE:
        assert (events[0], events[-1]) == ("event: response.created", "event: response.incomplete")
        numbers = [json.loads(row[6:])["sequence_number"] for row in answer.text.split("\n") if row[:5] == "data:"]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("case", [CHAT, RESPONSE, MESSAGE], ids=label)
async def test_arguments_of_tools_are_judged(start: Start, case: Case, stream: bool) -> None:
    gateway = await start(OUTPUT)
    gateway.engines[0].agent = Script((Call("run", '{"command": "something forbidden"}'),), "done")
    function = {"name": "run", "parameters": {"type": "object"}}
    tools: dict[str, Any] = {
        CHAT.name: {"type": "function", "function": function},
        RESPONSE.name: {"type": "function", **function},
        MESSAGE.name: {"name": "run", "input_schema": {"type": "object"}},
    }
    answer = await gateway.post(case.path, asking(case, "go", stream=stream, tools=[tools[case.name]]))
    assert answer.status_code == (200 if stream else 400)
    assert "forbidden" not in answer.text


HIDDEN: list[tuple[Case, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "forbidden"}, {"role": "assistant", "content": "no"},
                         {"role": "user", "content": "go on"}]}),
    (CHAT, {"messages": [{"role": "system", "content": [{"type": "text", "text": "forbidden"}]},
                         {"role": "user", "content": "go on"}]}),
    (CHAT, {"messages": [{"role": "user", "content": "x"},
                         {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
                             "name": "f", "arguments": "{\"a\": \"forbidden\"}"}}]},
                         {"role": "tool", "tool_call_id": "1", "content": "y"}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "description": "forbidden"}}]}),
    (COMPLETION, {"prompt": ["fine", "forbidden"]}),
    (RESPONSE, {"instructions": "forbidden"}),
    (RESPONSE, {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                          {"type": "function_call_output", "call_id": "1", "output": "forbidden"}]}),
    (MESSAGE, {"system": "forbidden"}),
    (MESSAGE, {"messages": [{"role": "user", "content": "x"},
                            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f",
                                                               "input": {"forbidden": 1}}]},
                            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1",
                                                          "content": [{"type": "text", "text": "y"}]}]}]}),
]  # fmt: skip


async def test_nothing_that_a_model_reads_is_left_out(start: Start) -> None:
    gateway = await start(INPUT)
    for case, fields in HIDDEN:
        answer = await gateway.post(case.path, case.body() | fields)
        assert answer.status_code == 400, (case.path, fields, answer.text)
        assert "safety" in answer.text, answer.text
    ids = await gateway.post(COMPLETION.path, COMPLETION.body() | {"prompt": [1, 2, 3]})
    assert (ids.status_code, ids.json()["error"]["param"]) == (400, "prompt")
    assert not gateway.seen


async def test_other_endpoints_are_not_judged(start: Start) -> None:
    gateway = await start(INPUT)
    counted = await gateway.post("/v1/messages/count_tokens", asking(MESSAGE, "forbidden", max_tokens=None))
    embedded = await gateway.post(EMBEDDING.path, EMBEDDING.body() | {"input": "forbidden"})
    assert (counted.status_code, embedded.status_code) == (200, 200)
    assert not judged(gateway)


BROKEN = {
    "silent": Fault(raw=b"", end="hang"),
    "wrong": Fault(status=500, body=b"{}"),
    "refusing": Fault(status=400, body=b'{"error": {"message": "no", "code": 400}}'),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("on_error", ["block", "pass"])
async def test_a_guard_that_cannot_judge(start: Start, fault: str, on_error: str) -> None:
    gateway = await start(INPUT.replace("timeout: 5", f"timeout: 0.3, on_error: {on_error}"))
    for engine in guards(gateway):
        engine.always = BROKEN[fault]
    answer = await gateway.post(CHAT.path, asking(CHAT, "fine words"))
    if on_error == "pass":
        assert text(answer.content) == "fine words"
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guardrail_unavailable")
        assert "guardrail 'safety'" in answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert not gateway.seen
    assert gateway.sample("roundhouse_guardrail_checks_total", result="failed") == 1


async def test_a_guard_that_babbles_has_given_no_verdict(start: Start) -> None:
    gateway = await start(INPUT)
    for engine in guards(gateway):
        engine.agent = Verdicts(text="sure, here is how")
    answer = await gateway.post(CHAT.path, asking(CHAT, "fine words"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guardrail_unavailable")


@pytest.mark.parametrize("case", [CHAT, RESPONSE, MESSAGE], ids=label)
async def test_a_guard_that_fails_midway_ends_the_stream_with_an_error(start: Start, case: Case) -> None:
    gateway = await start(OUTPUT)
    gateway.engines[0].gap = 0.01
    async with gateway.http.stream("POST", case.path, json=asking(case, long(), stream=True)) as answer:
        got = b""
        async for chunk in answer.aiter_raw():
            got += chunk
            for engine in guards(gateway):
                engine.always = Fault(status=500, body=b"{}")
    assert b"could not judge this" in got
    assert long().startswith(text(got))
    assert text(got) != long()


@pytest.mark.parametrize("condition", ["starting", "failed"])
async def test_a_guard_that_is_not_ready(start: Start, condition: Any) -> None:
    gateway = await start(INPUT)
    for order in (1, 2):
        gateway.show(order, condition, reason="out of memory" if condition == "failed" else None)
    answer = await gateway.post(CHAT.path, asking(CHAT, "fine"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guardrail_unavailable")
    assert not gateway.seen


async def test_a_guard_that_is_scaled_to_zero_is_started_for_a_request(start: Start) -> None:
    gateway = await start(INPUT.replace("min_replicas: 2", "min_replicas: 0"))
    gateway.show(1, "scaled_to_zero")
    asked = asyncio.create_task(gateway.post(CHAT.path, asking(CHAT, "fine words")))
    await until(lambda: 1 in gateway.wanted(), "the guard to be wanted")
    assert not gateway.seen
    gateway.show(1, "ready")
    assert text((await asked).content) == "fine words"


async def test_a_client_that_leaves_during_the_check(start: Start) -> None:
    gateway = await start(INPUT)
    for engine in guards(gateway):
        engine.gap = 60.0
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(asking(CHAT, "fine")).encode())
    await until(lambda: bool(judged(gateway)), "the guard to be asked")
    line.leave()
    (seen,) = [seen for engine in guards(gateway) for seen in engine.requests]
    await until(seen.closed.is_set, "the guard to be told")
    await until(lambda: bool(gateway.lines), "the end of the request")
    assert gateway.lines[-1]["outcome"] == "cancelled"
    assert not gateway.seen


async def test_a_replay_is_the_answer_that_was_judged(start: Start) -> None:
    gateway = await start(OUTPUT)
    for said, stream in (("fine words", False), (long("forbidden"), True)):
        headers = {"idempotency-key": said[:4]}
        body = asking(CHAT, said, stream=stream)
        first = await gateway.http.post(CHAT.path, json=body, headers=headers)
        count = len(judged(gateway))
        again = await gateway.http.post(CHAT.path, json=body, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.content, len(judged(gateway))) == (first.content, count)


async def test_the_tenant_does_not_pay_for_its_guards(start: Start) -> None:
    gateway = await start(INPUT + "\ntenants: {default: {requests_per_minute: 1}}")
    first, second = [await gateway.post(CHAT.path, asking(CHAT, "fine")) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert len(judged(gateway)) == 1  # its limits come first
    assert gateway.lines[0]["prompt_tokens"] < 10


@pytest.mark.parametrize("way", ["whole", "streamed", "background"])
async def test_stored_responses_are_judged(start: Start, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "responses"
    folder.mkdir()
    gateway = await start(OUTPUT, responses_dir=folder)
    how = {"stream": way == "streamed", "background": way == "background", "store": True}
    gateway.engines[0].gap = 0.002
    answer = await gateway.post(RESPONSE.path, asking(RESPONSE, long("forbidden"), **how))
    if way == "whole":
        assert answer.status_code == 400
        return
    assert answer.status_code == 200
    rows = [json.loads(row[6:]) for row in answer.text.split("\n") if row.startswith("data: ")]
    id = rows[-1]["response"]["id"] if rows else answer.json()["id"]

    async def stored() -> Any:
        return (await gateway.http.get(f"{RESPONSE.path}/{id}")).json()

    if way == "streamed":
        assert await stored() == rows[-1]["response"]
        assert (await stored())["incomplete_details"] == {"reason": "content_filter"}
    else:
        await until(lambda: not gateway.gateway._relay._running, "the end of its task")
        assert (await stored())["error"]["code"] == "content_filter"
    assert "forbidden" not in json.dumps((await stored())["output"])


async def test_a_request_in_the_background_is_judged_before_it_begins(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    folder.mkdir()
    gateway = await start(INPUT, responses_dir=folder)
    body = asking(RESPONSE, "forbidden", background=True, store=True)
    assert (await gateway.post(RESPONSE.path, body)).status_code == 400
    first = (await gateway.post(RESPONSE.path, asking(RESPONSE, "fine", store=True))).json()
    more = asking(RESPONSE, "forbidden", previous_response_id=first["id"])
    assert (await gateway.post(RESPONSE.path, more)).status_code == 400
    assert len(gateway.seen) == 1


async def test_what_a_reload_changes(start: Start, tmp_path: Path) -> None:
    gateway = await start(INPUT)
    assert (await gateway.post(CHAT.path, asking(CHAT, "forbidden"))).status_code == 400
    off = fleets.load(tmp_path, INPUT.replace("{input: [safety]}", "{}"))
    gateway.gateway.apply(off)
    assert (await gateway.post(CHAT.path, asking(CHAT, "forbidden"))).status_code == 200
    assert len(judged(gateway)) == 1


@asynccontextmanager
async def sdks(gateway: RunningGateway) -> AsyncIterator["tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]"]:
    import anthropic  # takes seconds of each process that collects tests
    import openai

    url = f"http://127.0.0.1:{gateway.port}"
    ours = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    theirs = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with ours, theirs:
        yield (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=ours, max_retries=0),
            anthropic.AsyncAnthropic(base_url=url, api_key="none", http_client=theirs, max_retries=0),
        )


async def test_the_official_sdks_understand_a_blocked_stream(start: Start) -> None:
    import anthropic  # takes seconds of each process that collects tests
    import openai

    gateway = await start(OUTPUT)
    gateway.engines[0].gap = 0.002
    said = long("forbidden")
    async with sdks(gateway) as (client, claude):
        talk: Any = [{"role": "user", "content": said}]
        chunks = [
            one async for one in await client.chat.completions.create(model="pebble-chat", messages=talk, stream=True)
        ]
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        assert said.startswith("".join(one.choices[0].delta.content or "" for one in chunks))
        pieces = [one async for one in await client.completions.create(model="pebble-chat", prompt=said, stream=True)]
        assert pieces[-1].choices[0].finish_reason == "content_filter"
        events = [one async for one in await client.responses.create(model="pebble-chat", input=said, stream=True)]
        last = events[-1]
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details
        assert last.response.incomplete_details.reason == "content_filter"
        assert last.response.output_text
        assert said.startswith(last.response.output_text)
        async with claude.messages.stream(model="pebble-chat", messages=talk, max_tokens=500) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "refusal"
        (block,) = message.content
        assert block.type == "text"
        assert block.text
        assert said.startswith(block.text)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="pebble-chat", messages=talk)
        assert caught.value.code == "content_filter"
        with pytest.raises(anthropic.BadRequestError):
            await claude.messages.create(model="pebble-chat", messages=talk, max_tokens=500)


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_judging_a_long_text_ends_with_the_time_of_the_request(start: Start, stream: bool) -> None:
    """Each of its pieces has the time of the step, and there may be hundreds of them."""
    gateway = await start(INPUT, total_timeout=2.0)
    for engine in guards(gateway):
        engine.always = Fault(gap=0.5)
    pieces: list[int] = []
    while not pieces or pieces[-1] < 2:  # the machine stood still until the time of the first one was over
        before = len(judged(gateway))
        answer = await gateway.post(CHAT.path, asking(CHAT, ("w" * 400 + " ") * 250, stream=stream))
        assert (answer.status_code, error_in(CHAT, answer.content)[1]) == (504, "timeout")
        pieces.append(len(judged(gateway)) - before)
    assert not gateway.seen and max(pieces) < 6
