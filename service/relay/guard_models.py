"""Asks a served guard as any request is run: prepared, admitted to a slot or queued, dispatched with a retry."""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from service.admission.slots import Slot
from service.auth.keys import Caller
from service.errors import ApiError, ErrorCode
from service.guardrails.classifier import Classifiers
from service.guardrails.judge import Asker, Judge
from service.observability.ledger import Ledger
from service.observability.ledger_file import GUARDRAIL
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.protocol.generation import PATHS
from service.protocol.request_headers import RequestOptions
from service.relay.call import Call
from service.relay.dispatch import Dispatcher
from service.relay.preparation import Preparation
from service.transport.pool import ConnectionPool

CHAT = PATHS["/v1/chat/completions"]
MOST_TOKENS = 128  # of a verdict
WAIT = 60.0  # seconds between two looks at the queue


class GuardModels:
    """The guards of the fleet. `enter` gives a request its slot, `metrics` count what guards read and wrote, and the
    `ledger` has a line of each call."""

    def __init__(
        self, dispatcher: Dispatcher, enter: Callable[[Call], Awaitable[Slot]], preparation: Callable[[], Preparation],
        metrics: Metrics | None, clock: Callable[[], float], ledger: Ledger | None = None,
    ) -> None:  # fmt: skip
        self._dispatcher, self._enter, self._preparation = dispatcher, enter, preparation
        self._metrics, self._clock, self._ledger = metrics or Metrics(), clock, ledger

    def judge(self, transport: ConnectionPool, keys: Mapping[str, str]) -> Judge:
        """What judges by these guards, and by classifiers, which get their `keys` by the names of their steps."""
        return Judge(self.ask, Classifiers(transport, keys), self._metrics.observe_guardrail, self._clock)

    async def ask(self, model: str, messages: list[dict[str, Any]], time_limit: float, asker: Asker) -> str:
        """What the guard says about the conversation, within `time_limit` seconds; raises ApiError."""
        call = self._call(model, messages, time_limit, asker)
        with await self._enter(call) as slot:
            while slot.is_queued and not await slot.wait_admitted(WAIT):
                pass
            self._begin(call)
            gpu_time = call.upstream.gpu_time
            gpu_time.change(1, self._clock())
            try:
                return await self._answer(call, slot)
            finally:
                now = self._clock()
                call.report_usage(slot, now)
                gpu_time.change(-1, now)
                self._metrics.count_guard_tokens(model, call.record)
                if self._ledger:
                    self._ledger.end(call.record)

    def _begin(self, call: Call) -> None:
        """A line of the ledger that is the tenant's, whether or not its limits count the call."""
        call.record.admitted, call.record.outcome = self._clock(), "cancelled"  # unless it comes to an end
        if self._ledger:
            self._ledger.begin(call.record, call.prompt_estimate, call.output_estimate)

    async def _answer(self, call: Call, slot: Slot) -> str:
        try:
            response = await self._dispatcher.dispatch(call, slot)
        except ApiError as error:
            call.record.status = error.status
            call.record.fail(error)
            raise
        self._dispatcher.finish(response)
        self._dispatcher.completed(call)
        call.record.status, call.record.outcome = 200, "complete"
        return said(response.buffered)

    def _call(self, model: str, messages: list[dict[str, Any]], time_limit: float, asker: Asker) -> Call:
        body = json.dumps({"model": model, "messages": messages, "max_tokens": MOST_TOKENS, "temperature": 0}).encode()
        id, asking = f"{asker.request_id}-{secrets.token_hex(4)}", asker.tenant.id
        record = Record(id, GUARDRAIL, self._clock(), tenant=asking, key=asker.key, trace=asker.trace)
        preparation = self._preparation()
        options = RequestOptions(priority=asker.priority, timeout=time_limit)
        return preparation.call(CHAT, body, preparation.parse(CHAT, body), options, Caller(asker.tenant), record)


def said(body: bytes) -> str:
    """The text of a whole chat completion; raises ApiError for one without any."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise ApiError(ErrorCode.UPSTREAM_ERROR, "it said nothing")
    return content
