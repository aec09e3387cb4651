"""`POST /v1/moderations`, answered by the guards of the fleet."""

from collections.abc import Callable
from typing import Any

from service.auth.keys import Key, caller_of
from service.auth.tenants import effective_priority
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
    """Judges texts for clients; the tenant's limits hold for each of them that a guard model is asked about."""

    def __init__(self, judge: Judge, preparation: Callable[[], Preparation]) -> None:
        self._judge, self._preparation = judge, preparation

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
        asker = Asker(record.request_id, caller.tenant, effective_priority(caller.tenant, options.priority))
        verdicts: list[Verdict] = []
        for text in inputs:
            asked = [await self._judge.verdict(step, piece, "moderation", asker) for piece in pieces(text, step.window)]
            verdicts.append(merged(asked))
        results = [result(verdict, step.format) for verdict in verdicts]
        return {"id": f"modr-{record.request_id}", "model": step.model or step.name, "results": results}
