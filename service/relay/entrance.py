"""Where a request waits: its tenant's limits first, then a slot or the queue of its model."""

from collections.abc import Callable

from service.admission.gate import Admission
from service.admission.rate_limits import Booking, OverLimitError
from service.admission.slots import Slot
from service.errors import ApiError
from service.relay.answer_headers import with_budgets
from service.relay.call import Call
from service.relay.refusals import not_ready
from service.relay.response_writer import ResponseWriter


class Entrance:
    """Admits requests; `heartbeat` is the seconds between two comments to a stream that waits."""

    def __init__(self, admission: Admission, heartbeat: float, clock: Callable[[], float]) -> None:
        self._admission, self._heartbeat, self._clock = admission, heartbeat, clock

    async def enter(self, call: Call) -> Slot:
        """A slot, held or queued for, after what the request reserves of budgets that all gateways share.

        It waits for nothing where there are none. Raises ApiError; a 429 of a tenant's limits tells the state of its
        budgets.
        """
        shared, booking = self._admission.shared, None
        try:
            if shared and call.tenant.has_budgets:
                booking = await shared.reserve(call.tenant, max(1.0, call.cost))
            return self._acquire_slot(call, booking)
        except ApiError as error:
            if booking:
                booking.correct(-1, -max(1.0, call.cost))
            if isinstance(error, OverLimitError):
                raise with_budgets(error, call.dialect) from None
            raise

    async def wait(self, call: Call, slot: Slot, writer: ResponseWriter) -> None:
        """Waits until the request is admitted; a stream gets comments meanwhile, which say what it waits for."""
        interval = call.options.sse_heartbeat_interval or self._heartbeat
        try:
            while not await slot.wait_admitted(interval):
                if call.upstream.condition()[0] == "failed":
                    raise not_ready(call.upstream, self._clock())
                if call.record.streamed:
                    await writer.comment(call.waits_for(slot.position))
        except ApiError:
            if call.upstream.condition()[0] != "ready":
                raise not_ready(call.upstream, self._clock()) from None
            raise

    def _acquire_slot(self, call: Call, booking: Booking | None) -> Slot:
        """A slot, held or queued for; raises ApiError if the model is not ready and will not be in time."""
        now, upstream = self._clock(), call.upstream
        timeout = call.timeouts.unstreamed.total if call.in_background else call.timeouts.queue
        if not upstream.usable(now):
            condition, _ = upstream.condition()
            if call.served.min_replicas == 0 and condition != "failed":
                timeout = call.timeouts.activation
            elif condition != "ready":
                raise not_ready(upstream, now)
        return self._admission.acquire(
            call.served,
            call.tenant,
            call.priority,
            call.cost,
            lambda: upstream.capacity(self._clock()),
            now,
            max(0.001, min(timeout, call.deadline - now)),
            max(1, call.sequences),
            call.session,
            booking,
        )
