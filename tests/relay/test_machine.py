"""A stateful, model-based test of routing, admission, relay and upstreams: any actions, in any order."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.auth.tenants import PRIORITIES
from service.fleet.fleet import Fleet
from tests.relay.scripted_engines import FAULTS, EngineRequest
from tests.relay.simulation import SimulatedClient, SimulatedGateway
from tests.support import fleets

TIMEOUTS = "timeouts: {queue: 10, activation: 20, first_token: 8, idle: 4, total: 40}"
# The fleet at the start, and those that a reload may change it to.
FLEETS = (
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 2, max_queued: 3, policy: least_load, {TIMEOUTS}}}
  - {{model: pebble-instruct, min_replicas: 0, max_in_flight: 1, max_queued: 4, policy: round_robin, {TIMEOUTS}}}
aliases: {{small: pebble-chat}}
tenants: {{acme: {{weight: 2}}, crawler: {{priority: batch, max_in_flight: 2}}, default: {{}}}}
""",
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 1, max_queued: 1, {TIMEOUTS}}}
aliases: {{small: pebble-chat}}
tenants: {{crawler: {{priority: batch, max_in_flight: 1}}, default: {{}}}}
""",
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 3, max_queued: 5, policy: round_robin, {TIMEOUTS}}}
  - {{model: pebble-instruct, min_replicas: 0, max_in_flight: 2, max_queued: 2, {TIMEOUTS}}}
aliases: {{small: pebble-instruct}}
tenants: {{acme: {{}}, crawler: {{max_in_flight: 3}}, default: {{weight: 3}}}}
""",
)
NAMES = ("pebble-chat", "pebble-chat", "pebble-chat", "small", "pebble-instruct", "auto", "nobody")

# Iterations of the event loop before the next action; None is until idle.
turns = st.sampled_from((0, 1, 2, 4, 8, None, None, None))
which = st.integers(0, 31)
orders = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    """Actions of clients, engines, the clock and the operator, each possible at any time."""

    fleets: tuple[Fleet, ...]

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.gateway = SimulatedGateway(Path(self._folder.name), self.fleets[0])
        self.stops = False

    @property
    def requests(self) -> list[EngineRequest]:
        return [request for engine in self.gateway.engines for request in engine.running]

    @property
    def clients(self) -> list[SimulatedClient]:
        return [one for one in self.gateway.oracle.live if one.disconnected_at is None]

    @property
    def keyed(self) -> list[SimulatedClient]:
        return [one for one in self.gateway.oracle.clients if one.key]

    def run_turns(self, count: int | None) -> None:
        """Runs `count` iterations of the event loop, or until idle (None)."""
        if count is None:
            self.gateway.run_until_idle()
        for _ in range(count or 0):
            self.gateway.step()
        self.gateway.check()

    @initialize(stops=st.booleans(), fleet=st.integers(0, 2))
    def begin(self, stops: bool, fleet: int) -> None:
        self.stops = stops
        self.gateway.run_until_idle()
        if fleet:
            self.gateway.apply(self.fleets[fleet])

    @rule(
        model=st.sampled_from(NAMES),
        tenant=st.sampled_from(("default", "default", "acme", "crawler")),
        priority=st.sampled_from((None, None, *PRIORITIES)),
        streamed=st.booleans(),
        timeout=st.sampled_from((None, None, None, 0.5, 3.0)),
        key=st.sampled_from((None, None, None, "a", "b")),
        text=st.sampled_from(("hello", "hello", "poison")),
        tokens=st.sampled_from((1, 500)),
        choices=st.sampled_from((1, 1, 1, 2, 4)),
        reads=st.sampled_from((True, True, True, False)),
        turns=turns,
    )
    def submit(self, text: str, tokens: int, choices: int, reads: bool, turns: int | None, **options: Any) -> None:
        if text == "hello" and not options["key"]:
            text = f"hello {len(self.gateway.oracle.clients)}"
        fields = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "n": choices}
        self.gateway.submit(fields=fields, reads=reads, **options)
        self.run_turns(turns)

    @precondition(lambda self: self.keyed)
    @rule(which=which, reads=st.booleans(), turns=turns)
    def repeat(self, which: int, reads: bool, turns: int | None) -> None:
        """Sends a request with an idempotency key once more, whatever its outcome."""
        one = self.keyed[which % len(self.keyed)]
        self._submit_again(one, one.fields, turns, reads=reads)

    @precondition(lambda self: self.keyed)
    @rule(which=which, turns=turns)
    def reuse_key(self, which: int, turns: int | None) -> None:
        """Sends another request with an idempotency key that stands for one already."""
        one = self.keyed[which % len(self.keyed)]
        messages = [{"role": "user", "content": f"another {len(self.gateway.oracle.clients)}"}]
        self._submit_again(one, {**one.fields, "messages": messages}, turns)

    def _submit_again(self, one: SimulatedClient, fields: dict[str, Any], turns: int | None, **more: Any) -> None:
        """Sends a request with the key of another one."""
        self.gateway.submit(
            model=one.model,
            tenant=one.tenant,
            priority=one.priority,
            streamed=one.streamed,
            timeout=one.timeout,
            key=one.key,
            fields=fields,
            **more,
        )
        self.run_turns(turns)

    @precondition(lambda self: self.requests)
    @rule(which=which, events=st.integers(1, 3), turns=turns)
    def send_event(self, which: int, events: int, turns: int | None) -> None:
        request = self.requests[which % len(self.requests)]
        for _ in range(events):
            request.send_event()
        self.run_turns(turns)

    @precondition(lambda self: self.requests)
    @rule(which=which, turns=turns)
    def finish(self, which: int, turns: int | None) -> None:
        self.requests[which % len(self.requests)].finish()
        self.run_turns(turns)

    @precondition(lambda self: self.requests)
    @rule(which=which, fault=st.sampled_from(FAULTS), turns=turns)
    def fail(self, which: int, fault: Any, turns: int | None) -> None:
        self.requests[which % len(self.requests)].fail(fault)
        self.run_turns(turns)

    @rule(order=orders, turns=turns)
    def kill(self, order: int, turns: int | None) -> None:
        self.gateway.engines[order].die()
        self.run_turns(turns)

    @rule(order=orders, socket=st.sampled_from(("open", "open", "open", "closed", "stuck")), turns=turns)
    def set_socket(self, order: int, socket: Any, turns: int | None) -> None:
        self.gateway.engines[order].socket = socket
        self.run_turns(turns)

    @rule(
        order=orders,
        condition=st.sampled_from(("ready", "ready", "ready", "starting", "failed", "stopping", "scaled_to_zero")),
        seen=st.booleans(),
        turns=turns,
    )
    def set_condition(self, order: int, condition: Any, seen: bool, turns: int | None) -> None:
        if condition == "ready":
            self.gateway.engines[order].socket = "open"
        self.gateway.set_condition(order, condition, seen)
        self.run_turns(turns)

    @precondition(lambda self: self.clients)
    @rule(which=which, turns=turns)
    def disconnect(self, which: int, turns: int | None) -> None:
        self.clients[which % len(self.clients)].disconnect(self.gateway.loop.now)
        self.run_turns(turns)

    @precondition(lambda self: self.clients)
    @rule(which=which, turns=turns)
    def toggle_reading(self, which: int, turns: int | None) -> None:
        client = self.clients[which % len(self.clients)]
        client.reads = not client.reads
        client.wake_waiters()
        self.run_turns(turns)

    @rule(order=orders, waiting=st.sampled_from((0, 0, 3)))
    def report_waiting(self, order: int, waiting: int) -> None:
        self.gateway.engines[order].waiting = waiting

    @rule(seconds=st.sampled_from((0.05, 0.05, 0.3, 0.3, 1.0, 2.5)))
    def pass_time(self, seconds: float) -> None:
        self.gateway.advance(seconds, stalled=False)

    @rule(seconds=st.sampled_from((0.3, 1.0, 4.5, 11.0, 45.0)), turns=turns)
    def stall(self, seconds: float, turns: int | None) -> None:
        self.gateway.advance(seconds, stalled=True)
        self.run_turns(turns)

    @rule(fleet=st.integers(0, 2), turns=turns)
    def reload(self, fleet: int, turns: int | None) -> None:
        self.gateway.apply(self.fleets[fleet])
        self.run_turns(turns)

    def teardown(self) -> None:
        try:
            self.finish_everything()
            self.check_nothing_leaked()
        finally:
            self.gateway.close()
            self._folder.cleanup()

    def finish_everything(self) -> None:
        gateway = self.gateway
        if self.stops:
            for client in self.clients[::3]:
                client.disconnect(gateway.loop.now)
            gateway.shut_down()
            gateway.run_until_idle()
        for client in self.clients[::2]:
            client.disconnect(gateway.loop.now)
        for client in self.clients:
            client.reads = True
            client.wake_waiters()
        while gateway.oracle.live:
            gateway.run_until_idle()
            for request in self.requests:
                request.finish()
            gateway.advance(0.3, stalled=False)

    def check_nothing_leaked(self) -> None:
        """When all requests have ended, every slot, retry and limit is available again."""
        gateway, oracle = self.gateway, self.gateway.oracle
        gateway.apply(self.fleets[2])
        for order, engine in enumerate(gateway.engines):
            engine.waiting = 0
            engine.socket = "open"
            gateway.set_condition(order, "starting")
            gateway.set_condition(order, "ready")
        gateway.advance(70.0, stalled=True)
        gateway.run_until_idle()
        assert [replica.in_flight for replica in oracle.replicas] == [0, 0, 0]
        assert [gateway.admission.demand(served.id) for served in self.fleets[2].served] == [0, 0]
        capacity = sum(replica.limit for replica in oracle.replicas[:2])
        for _ in range(2):
            probes = [*(self.submit_probe() for _ in range(capacity)), self.submit_probe(tenant="crawler")]
            gateway.run_until_idle()
            assert [one.stage for one in probes] == ["admitted"] * capacity + ["queued"]
            probes[-1].disconnect(gateway.loop.now)
            gateway.advance(0.1, stalled=False)
            assert probes[-1].stage == "released"
            again = [request for request in self.requests if request.engine is gateway.engines[0]][:3]
            for request in again:
                request.fail("abort")
            gateway.run_until_idle()
            assert [len(oracle.clients[int(request.request_id)].attempts) for request in again] == [2] * len(again)
            while oracle.live:
                for request in self.requests:
                    request.finish()
                gateway.run_until_idle()
        bounded = [
            self.submit_probe(tenant="crawler") for _ in range(self.fleets[2].tenants["crawler"].max_in_flight or 0)
        ]
        gateway.run_until_idle()
        assert {one.stage for one in bounded} <= {"admitted", "queued"}
        while oracle.live:
            for request in self.requests:
                request.send_event()
                request.send_event()
                gateway.run_until_idle()
                request.fail("error")
            gateway.run_until_idle()
        assert [one.failed for one in bounded] == ["upstream_error"] * len(bounded)
        short = self.submit_probe(timeout=0.5)
        gateway.run_until_idle()
        gateway.advance(0.6, stalled=False)
        assert short.error and short.error.code == "timeout"

    def submit_probe(self, tenant: str = "default", timeout: float | None = None) -> SimulatedClient:
        fields = {"messages": [{"role": "user", "content": f"probe {len(self.gateway.oracle.clients)}"}]}
        return self.gateway.submit(
            model="pebble-chat",
            tenant=tenant,
            priority=None,
            streamed=True,
            timeout=timeout,
            key=None,
            fields=fields,
        )


def test_invariants_hold_whatever_happens(tmp_path: Path) -> None:
    Machine.fleets = tuple(fleets.load(tmp_path, text) for text in FLEETS)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=settings().max_examples * 4 // 5,
            stateful_step_count=40,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
