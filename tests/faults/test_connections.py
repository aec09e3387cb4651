"""Connections to engines that break, are refused, swallow what they are given, or lead to somebody else."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from service.gateway import app
from service.upstreams import discovery, remote
from service.upstreams.upstreams import Upstreams
from tests.fake_engine import FakeEngine, Fault
from tests.faults.conftest import Begin, Far
from tests.support.exchanges import CHAT, RESPONSE, TALKING, Case, broken_off, events_of, is_refusal, label
from tests.support.fault_proxy import PASS, Trouble
from tests.support.gateways import Line, answer_of
from tests.support.waiting import until


@dataclass
class Talk:
    """A stream that has begun: its connection, and what came so far."""

    line: Line
    got: bytes

    @classmethod
    async def begin(cls, far: Far, case: Case = CHAT) -> "Talk":
        line = await far.gateway.connect()
        await line.post(case.path, json.dumps(case.body(stream=True)).encode(), "connection: close")
        return cls(line, await line.read_until(b"data: "))

    async def ending(self) -> bytes:
        """The last event."""
        return events_of(answer_of(self.got + await self.line.rest()).body)[-1]


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_a_reset_within_streams_hurts_only_those_there(case: Case, far: Begin) -> None:
    one = await far(2, ", policy: round_robin")
    for engine in one.engines:
        engine.script(*[Fault(events=5 if case is RESPONSE else 3, end="hang")] * 2, path=case.path)
    talks = [await Talk.begin(one, case) for _ in range(4)]
    one.proxies[0].be(Trouble(reset=True, refuse=True))
    await one.until_ready(False, True)
    await until(lambda: len(one.gateway.lines) == 2)
    one.gateway.gateway.abort_requests()  # the others still run until they are told to end
    codes = sorted([broken_off(case, await talk.ending()) for talk in talks])
    told = ["api_error", "api_error", "overloaded_error", "overloaded_error"]
    assert codes == (told if case.anthropic else ["shutting_down"] * 2 + ["upstream_error"] * 2)


@pytest.mark.parametrize("streamed", [False, True], ids=label)
async def test_a_pooled_connection_that_is_reset_is_not_the_clients_concern(streamed: bool, far: Begin) -> None:
    one = await far(2, ", policy: round_robin")
    one.gateway.expected_unseen = None  # whether a connection is found dead before or after the request is luck
    for number in range(6):
        one.cut(number % 2)
        await one.until_ready(True, True)
        assert (await one.gateway.post(CHAT.path, CHAT.body(streamed))).status_code == 200


async def test_one_that_refuses_is_left_alone_until_it_answers_again(far: Begin) -> None:
    one = await far(2)
    one.gateway.expected_unseen = None
    one.proxies[0].be(Trouble(refuse=True, reset=True))
    for _ in range(6):
        assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code == 200
    await one.until_ready(False, True)
    assert not [seen for seen in one.engines[0].requests if "x-request-id" in seen.headers]
    one.proxies[0].be(PASS)
    await one.until_ready(True, True)


async def test_with_nobody_left_the_refusal_is_immediate_and_says_when_to_return(far: Begin) -> None:
    one = await far(1)
    one.proxies[0].be(Trouble(refuse=True, reset=True))
    await one.until_ready(False)
    await until(lambda: one.gateway.gateway.upstreams["pebble-chat"].condition()[0] == "failed")
    response = await one.gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 503, "model_unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("streamed", [False, True], ids=label)
async def test_a_connection_that_swallows_the_request(streamed: bool, far: Begin) -> None:
    """Accepted by the kernel, read by nobody: only a deadline tells, and what may be running is not repeated."""
    one = await far(1)
    one.proxies[0].be(Trouble(hold="requests"))
    one.gateway.expected_unseen = None  # its time may be over before it has a connection
    one.gateway.limit(first_token_timeout=0.2, total_timeout=0.3)
    response = await one.gateway.post(CHAT.path, CHAT.body(streamed))
    assert is_refusal(CHAT, response, 504, "timeout")
    one.gateway.limit()
    one.cut(0)
    await one.until_ready(True)
    assert (await one.gateway.post(CHAT.path, CHAT.body(streamed))).status_code == 200


async def test_a_stream_whose_engine_vanished_without_a_word(far: Begin) -> None:
    one = await far(1, idle_timeout=0.3)
    one.engines[0].gap = 0.1
    talk: Talk | None = None
    while talk is None:
        with suppress(asyncio.IncompleteReadError):  # a machine that stands still is silent for as long
            talk = await Talk.begin(one)
    one.proxies[0].be(Trouble(hold="both"))
    assert broken_off(CHAT, await talk.ending()) == "timeout"
    one.engines[0].gap = 0.0
    one.cut(0)
    await until(lambda: one.engines[0].running == 0, "the engine's own end of the dead connection")


@pytest.mark.parametrize("size", [1, 3, 64])
async def test_an_answer_that_drips_is_whole(size: int, far: Begin) -> None:
    one = await far(1, idle_timeout=5.0)
    one.proxies[0].be(Trouble(drip=size * 16))
    response = await one.gateway.post(CHAT.path, CHAT.body(stream=True))
    assert response.content.endswith(b"data: [DONE]\n\n")


async def test_a_hung_engine_that_says_it_is_healthy(far: Begin) -> None:
    """Nothing goes to it until it has made a token again; what it had ends with its deadline, and leaves nothing."""
    one = await far(2, hang_timeout=0.4)
    one.engines[0].always = Fault(raw=b"", end="hang")
    one.gateway.limit(first_token_timeout=0.3, total_timeout=0.3)
    answers = await asyncio.gather(*(one.gateway.post(CHAT.path, CHAT.body(True)) for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 504}
    one.gateway.limit()
    (replica,) = (each for each in one.gateway.replicas if each.address == one.proxies[0].address)
    await until(lambda: replica.state is not None and replica.state.condition == "failed")
    await one.until_ready(False, True)
    assert replica.state
    assert replica.state.reason and "no progress" in replica.state.reason
    before = len(one.gateway.seen)
    for _ in range(5):
        assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert all(seen in one.engines[1].requests for seen in one.gateway.seen[before:])
    one.engines[0].always = Fault()
    await one.until_ready(True, True)


async def test_engines_that_changed_places_get_nothing(far: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that was ours belongs to another model now; its connections were cut, as a restart does."""
    monkeypatch.setattr(remote, "IDENTITY_INTERVAL", 0.1)
    one = await far(2)
    one.gateway.expected_unseen = None  # the other engine is none of this gateway's
    other = FakeEngine("pebble-code", "code")
    async with other.listen(0):
        one.proxies[0].engine = f"127.0.0.1:{other.port}"
        one.cut(0)
        for _ in range(8):
            assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code in (200, 502)
        (replica,) = (each for each in one.gateway.replicas if each.address == one.proxies[0].address)
        # Not `until_ready`: refused requests eject a replica before its identity is known.
        await until(lambda: replica.state is not None and replica.state.condition == "failed", "the other identity")
        await one.until_ready(False, True)
        rows = (await one.gateway.http.get("/v1/models")).json()["data"]
        assert "pebble-chat" in [row["id"] for row in rows]
        assert replica.state
        assert replica.state.reason and "'pebble-code' and not 'pebble-chat'" in replica.state.reason
        before = len([seen for seen in other.requests if "x-request-id" in seen.headers])
        for _ in range(4):
            assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code == 200
        assert len([seen for seen in other.requests if "x-request-id" in seen.headers]) == before
        # What it was asked in between it refused, because requests name their model; no answer was its.
        assert {seen.answer.split(b" ")[1] for seen in other.requests if "x-request-id" in seen.headers} <= {b"404"}


async def test_proxies_of_the_environment_are_for_others(far: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    one = await far(1)
    assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code == 200


async def test_a_name_server_that_answers_no_more_is_not_the_clients_concern(
    far: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only thing beside engines that a gateway asks; there is no store and no collector that could be down."""
    asked, silent = [0, 0], asyncio.Event()

    async def look_up(host: str, port: int) -> list[str]:
        asked[silent.is_set()] += 1
        if silent.is_set():
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    monkeypatch.setattr(app, "Upstreams", partial(Upstreams, lookup=look_up))
    monkeypatch.setattr(discovery, "LOOKUP_TIMEOUT", 0.05)
    one = await far(1, name="engines.test")
    assert asked[0]
    silent.set()
    one.cut(0)
    await until(lambda: asked[1] > 1, "a lookup that is given up, and the next one")
    await one.until_ready(True)
    assert (await one.gateway.post(CHAT.path, CHAT.body())).status_code == 200
