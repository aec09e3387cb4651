"""`POST /v1/moderations`, answered by the guards of the fleet."""

import asyncio
from collections.abc import Callable
from typing import Any

from service.auth.keys import Key, caller_of
from service.auth.tenants import effective_priority
from service.errors import ApiError, ErrorCode
from service.fleet.guardrail import Guardrail
from service.guardrails.judge import Asker, Judge
from service.guardrails.moderation import guard_for, inputs_of, merged, result
from service.guardrails.texts import pieces
from service.guardrails.verdicts import Verdict
from service.observability.record import Record
from service.protocol import request_headers
from service.protocol.generation import MODERATIONS
from service.protocol.moderations import ModerationRequest
from service.relay.preparation import Preparation
from service.server.asgi import Headers


class Moderations:
    """Judges texts for clients; the tenant's limits hold for each of them that a guard model is asked about.

    A request has `total_timeout` seconds for all its texts.
    """

    def __init__(self, judge: Judge, preparation: Callable[[], Preparation], total_timeout: float) -> None:
        self._judge, self._preparation, self._total_timeout = judge, preparation, total_timeout

    async def answer(self, body: bytes, headers: Headers, record: Record, key: Key) -> dict[str, Any]:
        """The answer to one request; raises ApiError."""
        options, preparation = request_headers.parse_headers(headers), self._preparation()
        parsed = preparation.parse(MODERATIONS, body)
        request = parsed.request
        assert isinstance(request, ModerationRequest)
        caller = caller_of(key, options.tenant, preparation.fleet.tenants)
        record.requested, record.tenant = request.model or "", caller.tenant.id
        inputs = inputs_of(request)
        step = guard_for(request.model, preparation.fleet, caller.models)
        if step.model:
            served = preparation.fleet[step.model]
            record.model, record.variant, record.family = served.id, served.variant, served.family
        priority = effective_priority(caller.tenant, options.priority)
        asker = Asker(record.request_id, caller.tenant, priority, key.id, record.trace)
        try:
            async with asyncio.timeout(min(options.timeout or self._total_timeout, self._total_timeout)):
                verdicts = [await self._verdict(step, text, asker) for text in inputs]
        except TimeoutError:
            text = "The request timed out while its texts were judged. Send fewer at a time."
            raise ApiError(ErrorCode.TIMEOUT, text) from None
        results = [result(verdict, step.format) for verdict in verdicts]
        return {"id": f"modr-{record.request_id}", "model": step.model or step.name, "results": results}

    async def _verdict(self, step: Guardrail, text: str, asker: Asker) -> Verdict:
        """The verdict on one text, of which a long one is judged in pieces."""
        asked = [await self._judge.verdict(step, piece, "moderation", asker) for piece in pieces(text, step.window)]
        return merged(asked)
