"""Where a request waits: its tenant's limits first, then a slot or the queue of its model."""

from collections.abc import Callable

from service.admission.gate import Admission
from service.admission.rate_limits import Booking, OverLimitError
from service.admission.slots import Slot
from service.errors import ApiError
from service.relay.answer_headers import with_budgets
from service.relay.call import Call
from service.relay.refusals import full_before_its_turn, not_ready
from service.relay.response_writer import ResponseWriter

OUTLASTS = 30.0  # seconds for which an engine that shares memory may fail at a stretch before those that wait for it do


class Entrance:
    """Admits requests; `heartbeat` is the seconds between two comments to a stream that waits."""

    def __init__(self, admission: Admission, heartbeat: float, clock: Callable[[], float]) -> None:
        self._admission, self._heartbeat, self._clock = admission, heartbeat, clock

    async def enter(self, call: Call, before: Slot | None = None) -> Slot:
        """A slot, held or queued for, after what the request reserves of budgets that all gateways share.

        It waits for nothing where there are none. `before` is the released slot of a model in whose place this one
        answers: what it was charged is put back. Raises ApiError; a 429 of a tenant's limits tells the state of its
        budgets.
        """
        shared, booking = self._admission.shared, None
        if before:
            before.give_back()
        try:
            if shared and call.tenant.has_budgets:
                booking = await shared.reserve(call.tenant, max(1.0, call.cost))
            slot = self._acquire_slot(call, booking)
        except ApiError as error:
            if booking:
                booking.correct(-1, -max(1.0, call.cost))
            if isinstance(error, OverLimitError):
                raise with_budgets(error, call.dialect) from None
            call.upstream.arrival_count += 1  # more capacity would have served it
            if call.served.part and not call.upstream.usable(self._clock()):
                raise full_before_its_turn(call.upstream) from None
            raise
        call.upstream.arrival_count += 1
        return slot

    async def wait(self, call: Call, slot: Slot, writer: ResponseWriter) -> None:
        """Waits until the request is admitted; a stream gets comments meanwhile, which say what it waits for."""
        interval, failing_since = call.options.sse_heartbeat_interval or self._heartbeat, None
        try:
            while not await slot.wait_admitted(interval):
                now = self._clock()
                failed = call.upstream.condition()[0] == "failed"
                failing_since = (failing_since or now) if failed else None
                if failing_since and (not call.served.part or now - failing_since >= OUTLASTS):
                    raise not_ready(call.upstream, now)
                if call.record.streamed:
                    await writer.comment(call.waits_for(slot.position))
        except ApiError:
            if call.upstream.condition()[0] != "ready":
                raise not_ready(call.upstream, self._clock()) from None
            raise

    def _acquire_slot(self, call: Call, booking: Booking | None) -> Slot:
        """A slot, held or queued for; raises ApiError if the model is not ready and will not be in time."""
        now, upstream = self._clock(), call.upstream
        remaining = call.deadline - now
        timeout = call.timeouts.queue
        if call.storing and call.in_background:
            timeout = call.timeouts.unstreamed.total
        if call.served.part and not call.served.min_replicas:
            timeout = max(timeout, call.timeouts.activation)  # its engine may have to make room before it is admitted
        if call.adapter and upstream.usable(now) and not upstream.candidates(now, None, call.adapter):
            raise not_ready(upstream, now, call.adapter)
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
            upstream.capacity,
            now,
            timeout if timeout < remaining else max(0.001, remaining),
            call.sequences or 1,
            call.session,
            booking,
        )
