"""`Idempotency-Key` through the whole gateway: an answer is generated once, however often it is asked for."""

import json

import pytest

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support import fleets
from tests.support.exchanges import CHAT, STREAMING, TALKING, Case, events_of, is_refusal, label, sent, visible
from tests.support.gateways import HOUSE, Witness
from tests.support.waiting import until

KEY = {"idempotency-key": "k-1"}


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_the_same_request_gets_the_same_answer(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    answers = [await gateway.http.post(case.path, json=case.body(stream), headers=KEY) for _ in range(3)]
    (seen,) = gateway.seen
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].content == (b"".join(visible(events_of(sent(seen)))) if stream else sent(seen))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    for name in ("content-type", "x-roundhouse-model", "x-roundhouse-replica", "x-roundhouse-route-reason"):
        assert len({answer.headers[name] for answer in answers}) == 1
    await gateway.settle()
    assert [line["outcome"] for line in gateway.lines] == ["complete"] * 3
    assert [line["replayed"] for line in gateway.lines] == [False, True, True]
    assert [line["attempts"] for line in gateway.lines] == [1, 0, 0]
    assert [line["completion_tokens"] > 0 for line in gateway.lines] == [True, False, False]
    assert len({(line["model"], line["replica"], line["finish_reason"]) for line in gateway.lines}) == 1
    assert gateway.sample("roundhouse_idempotency_cache_bytes") > len(answers[0].content)


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_while_the_first_runs_the_next_is_refused(case: Case, stream: bool, start: Start) -> None:
    gateway = await start()
    gateway.engines[0].gap = 3600
    line = await gateway.connect()
    body = json.dumps(case.body(stream)).encode()
    await line.post(case.path, body, "connection: close", "idempotency-key: k-1")
    await until(lambda: len(gateway.seen) == 1)
    response = await gateway.http.post(case.path, json=case.body(stream), headers=KEY)
    assert is_refusal(case, response, 409, "idempotency_in_progress")
    assert 1 <= int(response.headers["retry-after"]) <= 30
    other = await gateway.http.post(case.path, json=case.body(stream, temperature=1), headers=KEY)
    assert is_refusal(case, other, 422, "idempotency_conflict")
    for engine_line in gateway.engines[0]._lines:
        engine_line.stir.set()  # ends every pause
    first = await line.answer()
    assert first.whole
    again = await gateway.http.post(case.path, json=case.body(stream), headers=KEY)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert len(gateway.seen) == 1


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_when_the_first_client_leaves_the_engine_and_the_key_are_free(stream: bool, start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(events=3, end="hang") if stream else Fault(gap=3600))
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body(stream)).encode(), "idempotency-key: k-1")
    await (line.read_until(b"data: ") if stream else until(lambda: len(gateway.seen) == 1))
    line.leave()
    await until(gateway.seen[0].closed.is_set)
    await until(lambda: gateway.in_flight() == 0)
    response = await gateway.http.post(CHAT.path, json=CHAT.body(temperature=1), headers=KEY)
    assert (response.status_code, "idempotent-replayed" in response.headers) == (200, False)
    assert len(gateway.seen) == 2


async def test_a_first_stream_needs_no_task_for_each_piece(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the server's own way, as a stream without a key does."""
    pushed: list[bytes] = []
    original = Witness.write_now

    def write_now(self: Witness, piece: bytes) -> bool:
        pushed.append(piece)
        return original(self, piece)

    monkeypatch.setattr(Witness, "write_now", write_now)
    gateway = await start()
    gateway.engines[0].gap = 0.01
    response = await gateway.http.post(CHAT.path, json=CHAT.body(stream=True), headers=KEY)
    assert b"".join(pushed) and response.content.endswith(b"".join(pushed))


async def test_another_request_under_the_same_key(start: Start) -> None:
    gateway = await start()
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=KEY)).status_code == 200
    response = await gateway.http.post(CHAT.path, json=CHAT.body(temperature=1), headers=KEY)
    assert is_refusal(CHAT, response, 422, "idempotency_conflict")
    assert len(gateway.seen) == 1


async def test_tenants_have_keys_of_their_own(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {one: {}, two: {}}")
    for tenant in ("one", "two"):
        headers = {**KEY, "x-roundhouse-tenant": tenant}
        assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    assert len(gateway.seen) == 2


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_a_failure_is_not_kept(case: Case, start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(status=500, body=b"{}"), path=case.path)
    response = await gateway.http.post(case.path, json=case.body(), headers=KEY)
    assert is_refusal(case, response, 502, "upstream_error")
    assert (await gateway.http.post(case.path, json=case.body(), headers=KEY)).status_code == 200
    assert len(gateway.seen) == 2


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_a_stream_that_broke_off_is_not_kept(case: Case, start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(events=5, end="reset"), path=case.path)
    broken = await gateway.http.post(case.path, json=case.body(stream=True), headers=KEY)
    assert (broken.status_code, gateway.lines[-1]["outcome"]) == (200, "failed")
    whole = await gateway.http.post(case.path, json=case.body(stream=True), headers=KEY)
    assert (whole.status_code, "idempotent-replayed" in whole.headers) == (200, False)
    assert len(gateway.seen) == 2


@pytest.mark.parametrize("megabytes", [3, 5])
async def test_an_answer_may_have_four_megabytes(megabytes: int, start: Start) -> None:
    gateway = await start()
    event = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000)
    stop = b'data: {"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = event * (megabytes * 2**20 // len(event)) + stop
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    gateway.engines[0].script(*[Fault(raw=head % len(body) + body)] * 2)
    answers = [await gateway.http.post(CHAT.path, json=CHAT.body(stream=True), headers=KEY) for _ in range(2)]
    assert [answer.content == body for answer in answers] == [True, True]
    assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, megabytes < 4]
    assert gateway.sample("roundhouse_idempotency_cache_bytes") < 4 * 2**20 + 2**12


async def test_what_is_replayed_is_recorded_as_what_it_was(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where the fleet has changed, and the name now stands for another model."""
    gateway = await start("models: [{model: pebble-chat}, {model: pebble-instruct}]\naliases: {it: pebble-chat}")
    asked = CHAT.body() | {"model": "it"}
    first = await gateway.http.post(CHAT.path, json=asked, headers=KEY)
    changed = "models: [{model: pebble-chat}, {model: pebble-instruct}]\naliases: {it: pebble-instruct}"
    gateway.gateway.apply(fleets.load(tmp_path_factory.mktemp("next"), changed))
    again = await gateway.http.post(CHAT.path, json=asked, headers=KEY)
    assert again.content == first.content
    assert [(line["model"], line["variant"]) for line in gateway.lines] == [("pebble-chat", "chat")] * 2
