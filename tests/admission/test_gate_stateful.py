"""Stateful test of admission: no slot is lost or released twice, and none is free while requests are queued."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.admission.slots import Slot
from service.auth.tenants import PRIORITIES, Priority, Tenant
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from tests.admission.harness import FakeClock, FakeReplica, Harness
from tests.support.fleets import CATALOG

MAX_QUEUED = 4
TENANTS = [
    Tenant("free"),
    Tenant("heavy", weight=3),
    Tenant("few", max_in_flight=3),
    Tenant("slow", requests_per_minute=5, tokens_per_minute=2000),
]
MODEL = CATALOG.models["pebble-chat"]
SERVED = ServedModel(MODEL.id, MODEL, "pebble", "", None, max_queued=MAX_QUEUED)
INDEX = st.integers(0, 100)


class AdmissionMachine(RuleBasedStateMachine):
    """Requests arrive, are assigned, retried, completed and cancelled; replicas shrink and grow; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.harness = Harness(SERVED, self.clock, replicas=[FakeReplica(2), FakeReplica(1)])
        self.queued: list[Slot] = []
        self.admitted: list[Slot] = []
        self.assigned: set[Slot] = set()

    @property
    def unassigned(self) -> int:
        """The sequences that were admitted and are assigned to no replica."""
        return sum(slot.sequences for slot in self.admitted if slot not in self.assigned)

    def sort_queued(self) -> None:
        """Moves what was admitted or rejected out of `queued`, and checks that it was right to admit it."""
        sizes = [slot.sequences for slot in self.queued if not slot.is_queued]
        # The last of them needed one free slot, and took as many as it is sequences.
        assert not sizes or self.harness.capacity() > self.unassigned + sum(sizes) - max(sizes)
        for slot in [*self.queued]:
            if not slot.is_queued:
                assert slot.ticket is None or slot.deadline > self.clock.now
                self.queued.remove(slot)
                self.admitted.append(slot)
            elif slot.position == 0:  # rejected
                self.queued.remove(slot)
                slot.release()

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(PRIORITIES),
        cost=st.integers(0, 1000),
        timeout=st.sampled_from([1.0, 10.0, 600.0]),
        sequences=st.sampled_from([1, 1, 1, 2, 7]),
        session=st.sampled_from([None, "a", "b"]),
    )
    def acquire(
        self, tenant: Tenant, priority: Priority, cost: int, timeout: float, sequences: int, session: str | None
    ) -> None:
        try:
            slot = self.harness.acquire(tenant, priority, cost, timeout, sequences, session)
        except ApiError as error:
            assert error.status in (429, 503)
            assert int(error.headers["retry-after"]) >= 1
            assert error.status == 503 or tenant.id in ("few", "slow")
        else:
            self.queued.append(slot)
        self.sort_queued()

    @precondition(lambda self: len(self.admitted) > len(self.assigned))
    @rule(index=INDEX)
    def assign(self, index: int) -> None:
        unassigned = [slot for slot in self.admitted if slot not in self.assigned]
        slot = unassigned[index % len(unassigned)]
        if self.harness.capacity() > 0:
            self.assigned.add(self.harness.assign(slot))
            self.sort_queued()

    @precondition(lambda self: self.assigned)
    @rule(index=INDEX)
    def unassign(self, index: int) -> None:
        slot = [slot for slot in self.admitted if slot in self.assigned][index % len(self.assigned)]
        self.assigned.remove(slot)
        slot.unassign()

    @precondition(lambda self: self.admitted)
    @rule(index=INDEX, tokens=st.none() | st.integers(0, 3000), seconds=st.floats(0, 20))
    def end(self, index: int, tokens: int | None, seconds: float) -> None:
        self.clock.now += seconds
        slot = self.admitted.pop(index % len(self.admitted))
        self.assigned.discard(slot)
        if tokens is not None:
            slot.tokens = tokens
        slot.release()
        slot.release()
        self.sort_queued()

    @precondition(lambda self: self.queued)
    @rule(index=INDEX)
    def disconnect(self, index: int) -> None:
        slot = self.queued.pop(index % len(self.queued))
        slot.release()
        slot.release()
        self.sort_queued()

    @rule(index=INDEX, limit=st.integers(0, 4))
    def resize(self, index: int, limit: int) -> None:
        self.harness.replicas[index % len(self.harness.replicas)].limit = limit
        self.harness.wake_waiters()
        self.sort_queued()

    @rule(seconds=st.floats(0, 700))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def counters_match(self) -> None:
        harness = self.harness
        assert harness.load == len(self.admitted)
        assert harness.queued == len(self.queued) <= MAX_QUEUED
        assert harness.admission.sequences(SERVED.id) == sum(slot.sequences for slot in self.admitted)
        assert sum(replica.in_flight for replica in harness.replicas) == sum(slot.sequences for slot in self.assigned)

    @invariant()
    def no_capacity_is_idle_while_requests_are_queued(self) -> None:
        assert not self.queued or self.harness.capacity() <= self.unassigned

    @invariant()
    def positions_are_within_the_queue(self) -> None:
        # With several tenants the position is an estimate, but never one beyond the end of the queue.
        assert all(1 <= slot.position <= len(self.queued) for slot in self.queued)

    def teardown(self) -> None:
        while self.queued:
            self.queued.pop().release()
        while self.admitted:
            self.admitted.pop().release()
        assert (self.harness.load, self.harness.queued) == (0, 0)
        assert [replica.in_flight for replica in self.harness.replicas] == [0, 0]
        # Nothing has leaked: there are as many slots again as replicas take, and every tenant has all of its limits.
        self.clock.now += 1e6
        self.harness.replicas = [FakeReplica(9)]
        slots = [self.harness.acquire(tenant) for tenant in TENANTS for _ in range(tenant.max_in_flight or 2)]
        assert not any(slot.is_queued for slot in slots)


TestAdmission = AdmissionMachine.TestCase
