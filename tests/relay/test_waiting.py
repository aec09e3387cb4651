"""Requests that are queued: for a slot, and for the activation of a model that is scaled to zero."""

import asyncio
import json
import math

import pytest

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, STREAMING, TALKING, Case, broken_off, error_in, events_of, is_refusal, label
from tests.support.gateways import HOUSE, Answer, Line, RunningGateway
from tests.support.waiting import until

ONE_SLOT = "models: [{model: pebble-chat, max_in_flight: 1}]"
HEARTBEAT = "x-roundhouse-sse-heartbeat-interval: 0.1"
HANGING = Fault(gap=3600)


async def occupy(gateway: RunningGateway) -> Line:
    """Sends a request that holds the only slot until its client disconnects."""
    gateway.engines[0].script(HANGING)
    line = await gateway.connect()
    before = len(gateway.seen)
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.seen) == before + 1)
    return line


async def queue(gateway: RunningGateway, text: str, *headers: str, stream: bool = False, **fields: str) -> Line:
    """Sends a request that is queued; returns once it is."""
    line = await gateway.connect()
    before = gateway.queued()
    body = CHAT.body(stream) | {"messages": [{"role": "user", "content": text}], **fields}
    await line.post(CHAT.path, json.dumps(body).encode(), "connection: close", *headers)
    await until(lambda: gateway.queued() == before + 1)
    return line


def served(gateway: RunningGateway) -> list[str]:
    return [seen.json["messages"][0]["content"] for seen in gateway.seen]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_queued_until_a_slot_is_free(stream: bool, start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    second = await queue(gateway, "second", stream=stream)
    assert len(gateway.seen) == 1
    first.leave()
    answer = await second.answer()
    assert (answer.status, answer.whole) == (200, True)
    await gateway.settle()
    assert gateway.lines[-1]["time_to_admission_s"] > 0


async def test_queued_requests_are_served_in_order_of_arrival(start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    names = [f"number {number}" for number in range(5)]
    lines = [await queue(gateway, name) for name in names]
    first.leave()
    assert [(await line.answer()).status for line in lines] == [200] * 5
    assert served(gateway)[1:] == names


async def test_higher_priority_is_served_first(start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    order = ("batch", "default", "interactive", "batch", "interactive")
    lines = [await queue(gateway, name, f"x-roundhouse-priority: {name}") for name in order]
    first.leave()
    assert [(await line.answer()).status for line in lines] == [200] * 5
    assert served(gateway)[1:] == ["interactive", "interactive", "default", "batch", "batch"]


async def test_a_noisy_tenant_delays_only_itself(start: Start) -> None:
    gateway = await start(f"{ONE_SLOT}\ntenants: {{noisy: {{}}, quiet: {{}}}}")
    first = await occupy(gateway)
    lines = [await queue(gateway, "noisy", "x-roundhouse-tenant: noisy") for _ in range(8)]
    lines.append(await queue(gateway, "quiet", "x-roundhouse-tenant: quiet"))
    first.leave()
    assert [(await line.answer()).status for line in lines] == [200] * 9
    assert served(gateway)[1:].index("quiet") <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-roundhouse-session", "someone"),
        ("x-session-id", "someone"),
        ("x-claude-code-session-id", "someone"),
        ("x-session-affinity", "someone"),
        ("session-id", "someone"),
    ],
)
async def test_sub_agents_of_one_session_do_not_delay_the_chat_of_another(name: str, value: str, start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    agents = [f"x-claude-code-agent-id: {number}" for number in range(8)]
    lines = [await queue(gateway, "agent", f"{name}: {value}", agent) for agent in agents]
    lines += [await queue(gateway, "chat", "x-claude-code-session-id: another"), await queue(gateway, "unnamed")]
    first.leave()
    assert [(await line.answer()).status for line in lines] == [200] * 10
    assert served(gateway)[1:5] == ["agent", "chat", "unnamed", "agent"]


async def test_prompt_cache_key_is_a_session_where_no_header_names_one(start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    lines = [await queue(gateway, text, prompt_cache_key=text) for text in "aaab"]
    first.leave()
    assert [(await line.answer()).status for line in lines] == [200] * 4
    assert served(gateway)[1:] == ["a", "b", "a", "a"]


@pytest.mark.parametrize(
    ("name", "size", "status", "code"),
    [
        ("x-roundhouse-session", 256, 400, "invalid_header"),
        ("x-roundhouse-session", 65_536, 431, None),
        ("x-claude-code-session-id", 65_536, 431, None),
    ],
)
async def test_a_session_that_is_too_long_is_refused_and_reaches_no_engine(
    name: str, size: int, status: int, code: str | None, start: Start
) -> None:
    gateway = await start(ONE_SLOT)
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode(), "connection: close", f"{name}: {'s' * size}")
    answer = await line.answer()
    assert answer.status == status
    assert code is None or code.encode() in answer.body
    assert not gateway.seen


async def test_request_beyond_max_queued_gets_503(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, max_in_flight: 1, max_queued: 2}]")
    first = await occupy(gateway)
    lines = [await queue(gateway, "x") for _ in range(2)]
    for case in TALKING:
        response = await gateway.post(case.path, case.body())
        assert is_refusal(case, response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
    assert len(gateway.seen) == 1
    for line in (first, *lines):
        line.leave()


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_queue_timeout_is_a_503_and_reaches_no_engine(case: Case, start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, max_in_flight: 1, timeouts: {queue: 0.05}}]")
    first = await occupy(gateway)
    response = await gateway.post(case.path, case.body())
    assert is_refusal(case, response, 503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert len(gateway.seen) == 1
    first.leave()


async def test_timeout_header_bounds_the_time_in_the_queue(start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-timeout": "0.05"})
    assert response.status_code in (503, 504)
    assert len(gateway.seen) == 1
    first.leave()


async def test_timeout_header_bounds_the_response(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].always = HANGING
    response = await gateway.post_in_vain(CHAT.path, CHAT.body(), {"x-roundhouse-timeout": "0.1"})
    assert is_refusal(CHAT, response, 504, "timeout")
    await until(gateway.seen[0].closed.is_set)


async def test_disconnect_while_queued_leaves_the_queue(start: Start) -> None:
    gateway = await start(ONE_SLOT)
    first = await occupy(gateway)
    second, third = await queue(gateway, "second"), await queue(gateway, "third")
    second.leave()
    await until(lambda: gateway.queued() == 1)
    first.leave()
    assert (await third.answer()).status == 200
    assert served(gateway)[1:] == ["third"]


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_a_queued_stream_gets_its_position_as_comments(case: Case, start: Start) -> None:
    gateway = await start(HOUSE.replace(f"model: {case.model}\n", f"{{model: {case.model}, max_in_flight: 1}}\n"))
    (engine,) = (engine for engine in gateway.engines if engine.model == case.model)
    engine.script(HANGING, path=case.path)
    first = await gateway.connect()
    await first.post(case.path, json.dumps(case.body()).encode())
    await until(lambda: len(engine.requests) > 0 and engine.running == 1)
    second = await gateway.connect()
    await second.post(case.path, json.dumps(case.body(stream=True)).encode(), "connection: close", HEARTBEAT)
    head = await second.read_until(b": queued at position 1\n\n")
    assert head.startswith(b"HTTP/1.1 200")
    await second.read_until(b": queued at position 1\n\n")
    first.leave()
    raw = await second.rest()
    events = [event for event in events_of(b"\r\n\r\n".join([b"", raw])) if not event.startswith(b":")]
    assert events
    await gateway.settle()
    assert gateway.lines[-1]["outcome"] == "complete"


async def test_error_after_comments_is_an_event(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, max_in_flight: 1, timeouts: {queue: 0.5}}]")
    first = await occupy(gateway)

    async def ask(case: Case) -> Answer:
        line = await gateway.connect()
        await line.post(case.path, json.dumps(case.body(stream=True)).encode(), "connection: close", HEARTBEAT)
        return await line.answer()

    for case in TALKING:
        answer = await ask(case)
        while answer.status == 503:  # the machine stood still from before its first comment until its time was over
            answer = await ask(case)
        assert answer.status == 200 and answer.whole
        assert broken_off(case, events_of(answer.body)[-1]) in ("overloaded", "overloaded_error")
        assert b"[DONE]" not in answer.body
    first.leave()
    await gateway.settle()
    assert {line["code"] for line in gateway.lines} == {None, "overloaded"}


# Tenants


async def test_unknown_tenant_gets_400(start: Start) -> None:
    gateway = await start()
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "acme"})
    assert is_refusal(CHAT, response, 400, "unknown_tenant")


@pytest.mark.parametrize("limit", ["requests_per_minute: 1", "tokens_per_minute: 1"])
async def test_tenant_over_its_rate_limit_gets_429(limit: str, start: Start) -> None:
    gateway = await start(f"models: [{{model: pebble-chat}}]\ntenants: {{acme: {{{limit}}}, other: {{}}}}")
    acme = {"x-roundhouse-tenant": "acme"}
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=acme)).status_code == 200
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=acme)
    assert response.status_code == 429
    assert error_in(CHAT, response.content) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 7200
    for headers in ({"x-roundhouse-tenant": "other"}, {}):
        assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    await gateway.settle()
    assert [line["tenant"] for line in gateway.lines] == ["acme", "acme", "other", "default"]


async def test_tenant_over_max_in_flight_gets_429(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {acme: {max_in_flight: 1}}")
    gateway.engines[0].script(HANGING)
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode(), "x-roundhouse-tenant: acme")
    await until(lambda: len(gateway.seen) == 1)
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "acme"})
    assert response.status_code == 429
    line.leave()
    await until(lambda: gateway.in_flight() == 0)
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "acme"})
    assert response.status_code == 200


# Models scaled to zero

SCALED_TO_ZERO = "models: [{model: pebble-chat, min_replicas: 0, scale_down_after: 3600}]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_activates_a_model_scaled_to_zero(stream: bool, start: Start) -> None:
    gateway = await start(SCALED_TO_ZERO)
    gateway.show(0, "scaled_to_zero")
    assert gateway.wanted() == []
    line = await queue(gateway, "hello", HEARTBEAT, stream=stream)
    await until(lambda: gateway.wanted() == [0])
    if stream:
        await line.read_until(b": waiting for pebble-chat: scaled to zero\n\n")
    gateway.show(0, "starting", "loading weights")
    if stream:
        await line.read_until(b": waiting for pebble-chat: starting, loading weights\n\n")
    gateway.show(0, "ready")
    rest = await line.rest()
    assert b"hello" in rest
    assert len(gateway.seen) == 1


async def test_many_first_requests_activate_one_replica(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0, max_replicas: 3}]")
    for order in range(3):
        gateway.show(order, "scaled_to_zero")
    lines = [await queue(gateway, "hello") for _ in range(20)]
    await until(lambda: gateway.wanted() == [0])
    gateway.show(0, "ready")
    assert [(await line.answer()).status for line in lines] == [200] * 20


async def test_activation_timeout_is_a_503_model_loading(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0, timeouts: {activation: 0.05}}]")
    gateway.show(0, "scaled_to_zero")
    response = await gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 503, "model_loading")
    assert int(response.headers["retry-after"]) >= 1


async def test_request_for_a_failed_model_gets_503(start: Start) -> None:
    gateway = await start(SCALED_TO_ZERO)
    gateway.show(0, "failed", reason="no memory")
    response = await gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 503, "model_unavailable")


async def test_queued_requests_get_503_when_activation_fails(start: Start) -> None:
    gateway = await start(SCALED_TO_ZERO, sse_heartbeat_interval=0.05)
    gateway.show(0, "scaled_to_zero")
    request = asyncio.create_task(gateway.post(CHAT.path, CHAT.body()))
    await until(lambda: gateway.gateway.admission.queued("pebble-chat") == 1)
    gateway.show(0, "failed", reason="no memory")
    assert is_refusal(CHAT, await request, 503, "model_unavailable")


async def test_a_request_shorter_than_a_poll_counts_as_demand(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0, scale_down_after: 0.001}]")
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert gateway.gateway.admission.demand("pebble-chat") == 0
    assert gateway.gateway.wanted_engines() == [0]
    await until(lambda: gateway.gateway.wanted_engines() == [])


async def test_gateway_is_ready_with_models_scaled_to_zero(start: Start) -> None:
    gateway = await start(SCALED_TO_ZERO)
    gateway.show(0, "scaled_to_zero")
    assert gateway.gateway.is_ready()


async def test_requests_are_queued_while_the_only_replica_is_ejected(start: Start) -> None:
    gateway = await start()
    replica, now = gateway.replicas[0], gateway.clock()
    replica.breaker.record_failure(now, refused=True)
    assert not replica.usable(now)
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200


async def test_a_successful_trial_request_admits_all_queued(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(events=3, end="hang"))
    breaker = gateway.replicas[0].breaker
    breaker.record_failure(gateway.clock(), refused=True)
    breaker.retry_at = math.inf  # until all of them are queued
    trial = await queue(gateway, "trial", stream=True)
    others = [await queue(gateway, "other") for _ in range(3)]
    breaker.retry_at = gateway.clock() + 0.1
    await trial.read_until(b"data: ")
    assert [(await line.answer()).status for line in others] == [200] * 3
    trial.leave()
