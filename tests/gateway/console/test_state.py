"""What the console says of starts and of requests that wait, in words and numbers."""

from pathlib import Path
from typing import Any

import pytest

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.engine.status_writer import START_ORDER
from service.gateway.console.state import Meter, start_of, starts, why_waiting
from service.upstreams.breaker import Breaker
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from tests.support import fleets


def state(condition: Any, **more: Any) -> EngineState:
    return EngineState("pebble-chat-0", "pebble-chat", 0, condition, **more)


def test_a_start_shows_how_far_it_is() -> None:
    phases = {"verifying the weights": 0.31, "importing vLLM": 12.02}
    shown = start_of(state("starting", phase="loading weights", since=7.0, start_phases=phases), ejected=False)
    assert shown == {
        "since": 7.0, "step": START_ORDER.index("loading weights") + 1, "steps": len(START_ORDER),
        "phase": "loading weights", "phases": [["verifying the weights", 0.3], ["importing vLLM", 12.0]],
        "restarts": 0, "ejected": False,
    }  # fmt: skip
    assert start_of(state("starting", phase="starts again without --flag"), ejected=False)["step"] is None
    assert start_of(state("ready", phase="loading weights"), ejected=True)["step"] is None


EJECTED = Breaker(failures=3, ejections=1, retry_at=9.0)


@pytest.mark.parametrize(
    ("replicas", "why"),
    [
        ([], "the model is waiting: its engine service has not started yet"),
        ([Replica("a", "", state("starting", phase="loading weights"))], "the model is starting: loading weights"),
        ([Replica("a", "", state("scaled_to_zero"))], "the model is scaled to zero"),
        ([Replica("a", "", state("failed", reason="out of memory"))], "the model is failed: out of memory"),
        ([Replica("a", "", state("scaled_to_zero", phase="waiting for room", ready_at=47.4))],
         "the model is scaled to zero: waiting for room, about 42 s"),
        ([Replica("a", "", state("ready"), breaker=EJECTED)],
         "its ready replicas have failed requests, and get none for a while"),
        ([Replica("a", "", state("ready"), in_flight=4, limit=4), Replica("b", "", state("ready"), 3, 2)],
         "its ready replicas run 7 of the 6 sequences that they take at once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_request_waits_for_a_reason(replicas: list[Replica], why: str, tmp_path: Path) -> None:
    assert why_waiting(Upstream(fleets.only(tmp_path, "model: pebble-chat"), replicas), 5.0) == why


def test_an_ejected_replica_is_shown_as_one(tmp_path: Path) -> None:
    replicas = [Replica("a", "", state("ready"), breaker=EJECTED), Replica("b", "", state("ready")), Replica("c", "")]
    shown = starts([Upstream(fleets.only(tmp_path, "model: pebble-chat"), replicas)])
    assert {name: one["ejected"] for name, one in shown.items()} == {"a": True, "b": False}


def test_a_replica_that_shares_memory_is_shown_with_its_part(tmp_path: Path) -> None:
    shared = "model: pebble-chat, share: ram, memory: 2GiB, keep: always"
    text = f"shares: {{ram: {{memory: 3GiB}}}}\nmodels: [{{{shared}}}, {{model: pebble-code}}]"
    chat, code = fleets.load(tmp_path, text).served
    shown = starts(
        [Upstream(chat, [Replica("a", "", state("ready"))]), Upstream(code, [Replica("b", "", state("ready"))])]
    )
    assert {name: one["share"] for name, one in shown.items()} == {
        "a": "2.00 GiB of the 3.00 GiB of share ram, always", "b": None,
    }  # fmt: skip


def test_tokens_per_second_are_those_between_two_looks() -> None:
    meter, one = Meter(), Replica("a", "", state("ready"), in_flight=1, limit=8)
    rates = []
    for stats in (None, EngineStats(10.0, 1, 0, 0.5, 100.0), EngineStats(12.0, 1, 2, 0.5, 150.0),
                  EngineStats(12.0, 1, 2, 0.5, 150.0), EngineStats(14.0, 0, 0, 0.0, 3.0)):  # fmt: skip
        one.stats = stats
        rates.append(meter.sample([one])["a"].tokens_per_second)
    assert rates == [None, None, 25.0, None, None]  # the last is of an engine that has started again
    one.stats = EngineStats(15.0, 1, 2, 0.25, 7.0)
    assert meter.sample([one]) == {"a": (1, 8, 1, 2, 0.25, 4.0)}
    assert meter.sample([]) == {} and not meter._tokens
