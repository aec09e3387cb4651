"""Who may enter now: the one door to every model's places, and the budgets that are looked at there."""

from collections.abc import Callable

from service.admission.queue import Ticket
from service.admission.rate_limits import Budget, Budgets, LimitExceeded
from service.admission.service_rate import retry_after
from service.admission.slots import Capacity, Clock, Slot, SlotPool
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.errors import ApiError, ErrorCode, whole_seconds
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel


class Admission:
    """Lets requests in where a model's replicas have room and the tenant's budget allows it, and queues others.

    `chance` gives numbers from 0 to 1, which spread when those come back who were refused.
    """

    def __init__(self, settings: Settings, clock: Clock, chance: Callable[[], float]) -> None:
        self._timeout, self._clock, self._chance = settings.queue_timeout, clock, chance
        self._budgets = Budgets(settings.gateway_processes)
        self._places: dict[str, SlotPool] = {}

    def enter(
        self,
        served: ServedModel,
        tenant: Tenant,
        priority: Priority,
        cost: float,
        capacity: Capacity,
        now: float,
        timeout: float | None = None,
    ) -> Slot:
        """A place at the model's replicas, or in its queue for `timeout` seconds: by default as the fleet says.

        `cost` is the request's tokens, prompt and answer, as far as one can know. `capacity` is asked again whenever
        somebody may go in, so it looks the replicas up each time. Raises 429 where the tenant's budget does not allow
        the request, and 503 where too many wait, or it would wait longer than it may.
        """
        places = self._places.get(served.id) or self._open(served.id)
        places.capacity = capacity
        cost = cost if cost > 1.0 else 1.0
        budget = self._budgets.of(tenant, now)
        if budget and (exceeded := budget.exceeded(cost, now)):
            raise self._exceeded(budget, exceeded, places)
        if places.waiting:
            places.fill(now)  # there may be room since the last one left
        if not places.waiting and capacity() > places.unassigned:
            place = Slot(places, budget, cost)
            places.take(now)
        else:
            ticket = Ticket(tenant, priority, cost)
            if timeout is None:
                timeout = served.timeouts.queue or self._timeout
            place = Slot(places, budget, cost, ticket, now + timeout)
            places.enqueue(place, ticket, served.max_queued, now)
        if budget:
            budget.enter(cost)
        return place

    def wake_waiters(self, model_id: str | None = None) -> None:
        """Lets in whom there is room for now, as when replicas changed; without an id at every model."""
        now = self._clock()
        for places in self._places.values():
            if model_id is None or places.model_id == model_id:
                places.fill(now)

    def apply(self, fleet: Fleet) -> None:
        """Follows a changed fleet: forgets models and tenants that are gone. Whoever is in or waits stays so."""
        ids = {served.id for served in fleet.served}
        self._places = {name: one for name, one in self._places.items() if name in ids or one.held or one.waiting}
        self._budgets.keep(fleet.tenants)
        self.wake_waiters()

    def load(self, model_id: str) -> int:
        """How many requests hold a place at this model."""
        places = self._places.get(model_id)
        return places.held if places else 0

    def queued(self, model_id: str) -> int:
        """How many requests wait for a place at this model."""
        places = self._places.get(model_id)
        return len(places.waiting) if places else 0

    def demand(self, model_id: str) -> int:
        """How many requests this model has, in places and waiting."""
        return self.load(model_id) + self.queued(model_id)

    def peak_demand(self, model_id: str) -> int:
        """The most requests that this model had at once since this was last asked: none is too short to be seen."""
        places = self._places.get(model_id)
        if places is None:
            return 0
        most, places.most = places.most, places.held + len(places.waiting)
        return most

    def _open(self, model_id: str) -> SlotPool:
        return self._places.setdefault(model_id, SlotPool(model_id, self._clock, self._chance))

    def _exceeded(self, budget: Budget, exceeded: LimitExceeded, places: SlotPool) -> ApiError:
        seconds = exceeded.seconds or retry_after(1, places.service_rate.rate(budget.in_flight), self._chance())
        wait = whole_seconds(seconds)
        message = f"Tenant '{budget.tenant.id}' has used up its {exceeded.bound}. Try again in {wait} s."
        return ApiError(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=seconds)
