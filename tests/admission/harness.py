"""What the tests of admission share: fake replicas, a clock that the test sets, and the admission of one model."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.fleet.served_model import ServedModel


@dataclass
class FakeClock:
    """A monotonic clock that stands still unless a test sets it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeReplica:
    """A replica that takes `limit` requests at a time."""

    limit: int
    in_flight: int = 0

    def capacity(self) -> int:
        return max(0, self.limit - self.in_flight)


@dataclass
class Harness:
    """The admission of one model with its replicas, called as the relay calls it."""

    served: ServedModel
    clock: Callable[[], float] = field(default_factory=FakeClock)
    settings: Settings = field(default_factory=Settings)
    replicas: list[FakeReplica] = field(default_factory=lambda: [FakeReplica(2)])
    jitter: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings, self.clock, self.jitter)

    def capacity(self) -> int:
        """As an upstream's: below zero where each replica has more than its limit."""
        free = sum(replica.capacity() for replica in self.replicas)
        return free or -min((replica.in_flight - replica.limit for replica in self.replicas), default=0)

    def acquire(
        self,
        tenant: str | Tenant = "x",
        priority: Priority = "default",
        cost: float = 100,
        timeout: float | None = None,
        sequences: int = 1,
        session: str | None = None,
    ) -> Slot:
        owner = Tenant(tenant) if isinstance(tenant, str) else tenant
        now = self.clock()
        return self.admission.acquire(
            self.served, owner, priority, cost, lambda now: self.capacity(), now, timeout, sequences, session
        )

    def assign(self, slot: Slot) -> Slot:
        """Assigns an admitted request to the replica with the most capacity."""
        slot.assign(max(self.replicas, key=FakeReplica.capacity))
        return slot

    def wake_waiters(self) -> None:
        self.admission.wake_waiters(self.served.id)

    @property
    def load(self) -> int:
        return self.admission.load(self.served.id)

    @property
    def queued(self) -> int:
        return self.admission.queued(self.served.id)
