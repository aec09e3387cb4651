"""Guardrails around a call: its request, its whole response, or its stream. There is no other way past them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.auth.tenants import Tenant
from service.errors import ApiError, ErrorCode
from service.guardrails.judge import Asker, Judge
from service.guardrails.stream_endings import CONTENT_FILTER
from service.guardrails.stream_gate import StreamGate
from service.guardrails.texts import JUDGED, context_of, request_text, response_texts, smallest_window
from service.guardrails.verdicts import Block
from service.protocol.streams import BrokenStreamError
from service.relay.call import Call
from service.relay.response_writer import ResponseWriter
from service.relay.upstream_response import UpstreamResponse
from service.server.asgi import Headers
from service.transport.pool import TransportError


class _BlockedError(Exception):
    """A stream was blocked, and has been ended."""


class Guarding:
    """Has requests and responses judged by the guardrails of their model."""

    def __init__(self, judge: Judge, clock: Callable[[], float]) -> None:
        self._judge, self._clock = judge, clock

    async def check_request(self, call: Call) -> None:
        """Raises ApiError: 400 if a guardrail blocks the request, 503 if one cannot judge it."""
        steps = call.served.guardrails.input
        if call.path not in JUDGED:
            return
        for step in steps:
            async with self._within(call):
                block = await self._judge.check([step], [request_text(call.body, step.scope)], "input", _asker(call))
            if block:
                raise _blocked(f"The request was blocked by {block}. Change it.", call.request.prompt_field)

    async def check_response(self, call: Call, body: bytes) -> None:
        """Raises ApiError: 400 if a guardrail blocks the whole response, 503 if one cannot judge it."""
        if block := await self._check_texts(call, response_texts(body), context_of(call.body)):
            raise _blocked(f"The answer was blocked by {block}. Change the request.")

    def judges_response(self, call: Call) -> bool:
        """Whether the response must be judged."""
        return bool(call.served.guardrails.output) and call.path in JUDGED

    async def forward(
        self, call: Call, response: UpstreamResponse, outgoing: Callable[[bytes], bytes], writer: ResponseWriter,
        headers: Headers,
    ) -> bool:  # fmt: skip
        """Forwards a stream in pieces that were judged; returns whether it was blocked, and ended therefore.

        Raises what broke the stream, when what came before that has been judged and sent. Raises ApiError 503.
        """
        assert response.watcher
        gate = StreamGate(call.dialect, smallest_window(call.served.guardrails.output))
        asked = context_of(call.body)
        writer.next_sequence_number = gate.next_sequence_number
        feed, clock, redact = response.watcher.feed, self._clock, call.redact

        def hold(raw: bytes) -> bool:
            gate.take(redact(feed(raw, clock())))
            return not gate.full

        async def judge() -> None:
            if await self._pass(call, asked, response, gate, outgoing, writer, headers):
                raise _BlockedError

        try:
            gate.take(response.buffered)
            if gate.full:
                await judge()
            try:
                if last := await response.exchange.stream_to(hold, judge):
                    hold(last)
            except (TransportError, BrokenStreamError) as error:
                if isinstance(error, BrokenStreamError):
                    gate.take(error.passed)
                    error.passed = b""
                await judge()
                raise
            await judge()
        except _BlockedError:
            return True
        return False

    async def _pass(
        self, call: Call, asked: str, response: UpstreamResponse, gate: StreamGate, outgoing: Callable[[bytes], bytes],
        writer: ResponseWriter, headers: Headers,
    ) -> bool:  # fmt: skip
        """Has what is held judged, and sends it, or the end of the stream in its place; returns whether it is that."""
        block = await self._check_texts(call, gate.texts(), asked)
        if block:
            response.exchange.close()  # upon which the engine stops generating
            call.record.finish_reason = CONTENT_FILTER
        events = outgoing(gate.end_blocked() if block else gate.release())
        await writer.open(headers)
        if events:
            await writer.send_events(events)
        return block is not None

    async def _check_texts(self, call: Call, texts: list[str], asked: str) -> Block | None:
        steps = call.served.guardrails.output
        if not texts:
            return None
        async with self._within(call):
            return await self._judge.check(steps, texts, "output", _asker(call), asked)

    @asynccontextmanager
    async def _within(self, call: Call) -> AsyncIterator[None]:
        """The time that the request has left: each piece of a long text has that of its step, one after the other."""
        try:
            async with asyncio.timeout(call.deadline - self._clock()):
                yield
        except TimeoutError:
            raise ApiError(ErrorCode.TIMEOUT, "The request timed out while guardrails judged it.") from None


def _asker(call: Call) -> Asker:
    # Without the tenant's limits: what the operator has judged is not the tenant's to pay.
    record, tenant = call.record, Tenant(call.tenant.id, call.tenant.weight)
    return Asker(record.request_id, tenant, call.priority, record.key, record.trace)


def _blocked(message: str, param: str | None = None) -> ApiError:
    return ApiError(ErrorCode.CONTENT_FILTER, message, param)
