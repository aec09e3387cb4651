"""What the tests of admission share: replicas with so many places, and a door to them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.fleet.served_model import ServedModel


@dataclass
class Time:
    """A clock that goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Seats:
    """A replica that takes `limit` requests."""

    limit: int
    in_flight: int = 0

    def room(self) -> int:
        return max(0, self.limit - self.in_flight)


@dataclass
class Gate:
    """A model's door, as the relay has it: its admission and its replicas."""

    served: ServedModel
    clock: Callable[[], float] = field(default_factory=Time)
    settings: Settings = field(default_factory=Settings)
    seats: list[Seats] = field(default_factory=lambda: [Seats(2)])
    chance: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings, self.clock, self.chance)

    def room(self) -> int:
        return sum(one.room() for one in self.seats)

    def enter(
        self,
        tenant: str | Tenant = "x",
        priority: Priority = "default",
        cost: float = 100,
        patience: float | None = None,
    ) -> Slot:
        who = Tenant(tenant) if isinstance(tenant, str) else tenant
        return self.admission.enter(self.served, who, priority, cost, self.room, self.clock(), patience)

    def assign(self, place: Slot) -> Slot:
        """Takes one who was let in to the replica with most room."""
        place.assign(max(self.seats, key=Seats.room))
        return place

    def wake_waiters(self) -> None:
        self.admission.wake_waiters(self.served.id)

    @property
    def load(self) -> int:
        return self.admission.load(self.served.id)

    @property
    def queued(self) -> int:
        return self.admission.queued(self.served.id)
