"""What holds whatever happens at a door: no place is lost or given twice, and none is idle while somebody waits."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.admission.slots import Slot
from service.auth.tenants import PRIORITIES, Priority, Tenant
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from tests.admission.gates import Gate, Seats, Time
from tests.support.fleets import CATALOG

MOST = 4  # who may wait
TENANTS = [
    Tenant("free"),
    Tenant("heavy", weight=3),
    Tenant("few", max_in_flight=3),
    Tenant("slow", requests_per_minute=5, tokens_per_minute=2000),
]
MODEL = CATALOG.models["pebble-chat"]
SERVED = ServedModel(MODEL.id, MODEL, "pebble", "", None, max_queued=MOST)
SOME = st.integers(0, 100)


class Promises(RuleBasedStateMachine):
    """Requests come, sit, change replicas, end and leave; replicas come, go, shrink and grow; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Time()
        self.door = Gate(SERVED, self.clock, seats=[Seats(2), Seats(1)])
        self.waiting: list[Slot] = []
        self.inside: list[Slot] = []
        self.seated: set[Slot] = set()

    def look(self) -> None:
        """Sees who was let in or refused since, and that it was right."""
        for place in [*self.waiting]:
            if not place.is_waiting:
                assert place.ticket is None or place.deadline > self.clock.now
                assert self.door.room() >= len(self.inside) + 1 - len(self.seated)
                self.waiting.remove(place)
                self.inside.append(place)
            elif place.position == 0:  # refused
                self.waiting.remove(place)
                place.leave()

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(PRIORITIES),
        cost=st.integers(0, 1000),
        patience=st.sampled_from([1.0, 10.0, 600.0]),
    )
    def enter(self, tenant: Tenant, priority: Priority, cost: int, patience: float) -> None:
        try:
            place = self.door.enter(tenant, priority, cost, patience)
        except ApiError as error:
            assert error.status in (429, 503)
            assert int(error.headers["retry-after"]) >= 1
            assert error.status == 503 or tenant.id in ("few", "slow")
        else:
            self.waiting.append(place)
        self.look()

    @precondition(lambda self: len(self.inside) > len(self.seated))
    @rule(which=SOME)
    def assign(self, which: int) -> None:
        unassigned = [place for place in self.inside if place not in self.seated]
        place = unassigned[which % len(unassigned)]
        if self.door.room():
            self.seated.add(self.door.assign(place))

    @precondition(lambda self: self.seated)
    @rule(which=SOME)
    def unassign(self, which: int) -> None:
        place = [one for one in self.inside if one in self.seated][which % len(self.seated)]
        self.seated.remove(place)
        place.unassign()

    @precondition(lambda self: self.inside)
    @rule(which=SOME, tokens=st.none() | st.integers(0, 3000), seconds=st.floats(0, 20))
    def end(self, which: int, tokens: int | None, seconds: float) -> None:
        self.clock.now += seconds
        place = self.inside.pop(which % len(self.inside))
        self.seated.discard(place)
        if tokens is not None:
            place.ended(tokens)
        place.leave()
        place.leave()
        self.look()

    @precondition(lambda self: self.waiting)
    @rule(which=SOME)
    def give_up(self, which: int) -> None:
        place = self.waiting.pop(which % len(self.waiting))
        place.leave()
        place.leave()
        self.look()

    @rule(which=SOME, limit=st.integers(0, 4))
    def resize(self, which: int, limit: int) -> None:
        self.door.seats[which % len(self.door.seats)].limit = limit
        self.door.wake_waiters()
        self.look()

    @rule(seconds=st.floats(0, 700))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def counts_are_right(self) -> None:
        door = self.door
        assert door.load == len(self.inside)
        assert door.queued == len(self.waiting) <= MOST
        assert sum(one.in_flight for one in door.seats) == len(self.seated)

    @invariant()
    def no_place_is_idle_while_somebody_waits(self) -> None:
        assert not self.waiting or self.door.room() <= len(self.inside) - len(self.seated)

    @invariant()
    def everybody_has_a_place_of_their_own_in_the_queue(self) -> None:
        # Among tenants at the same virtual time the places are estimates, but never beyond the end of the queue.
        assert all(1 <= place.position <= len(self.waiting) for place in self.waiting)

    def teardown(self) -> None:
        while self.waiting:
            self.waiting.pop().leave()
        while self.inside:
            self.inside.pop().leave()
        assert (self.door.load, self.door.queued) == (0, 0)
        assert [one.in_flight for one in self.door.seats] == [0, 0]
        # All is as at the beginning: as many get in at once as there are places, whoever they are.
        self.clock.now += 1e6
        self.door.seats = [Seats(9)]
        places = [self.door.enter(tenant) for tenant in TENANTS for _ in range(tenant.max_in_flight or 2)]
        assert not any(place.is_waiting for place in places)


TestPromises = Promises.TestCase
