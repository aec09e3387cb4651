"""What an engine's error means for the client. Where the engine does not say it, it is asked again in another way."""

import json
from collections.abc import Callable

from service.engine.probe import fetch
from service.errors import ApiError
from service.protocol.parse_body import with_fields
from service.protocol.streams import BrokenStreamError
from service.protocol.token_count import tokenize_request
from service.protocol.upstream_errors import Rejected, engine_error, reason, too_long, upstream_error
from service.relay.call import Call
from service.transport.pool import ConnectionPool, Deadlines, TransportError, post_request
from service.upstreams.replica import Replica

COUNT_TIMEOUT = 10.0  # seconds for counting the tokens of a prompt
COUNTING = Deadlines(1.0, COUNT_TIMEOUT, COUNT_TIMEOUT, COUNT_TIMEOUT)


class ErrorTranslator:
    """Makes our errors of engines' errors, and notes the engines' reasons in the record."""

    def __init__(self, transport: ConnectionPool, clock: Callable[[], float]) -> None:
        self._transport, self._clock = transport, clock

    async def translate(self, call: Call, replica: Replica, status: int, body: bytes) -> ApiError:
        """The error for a response with this status; asks the engine for the length of a prompt that is too long."""
        rejected = Rejected(call.request, call.body)
        call.record.reason = reason(body, rejected)
        tokens = None
        if status == 400 and rejected.request.anthropic and (found := too_long(engine_error(body).message)):
            tokens = found.tokens if found.tokens and not found.least else await self._count(call, replica, rejected)
        return upstream_error(status, body, call.served, rejected, tokens)

    async def of_stream(
        self, call: Call, replica: Replica, error: BrokenStreamError | TransportError
    ) -> ApiError | None:
        """The error for a stream that ended before any output, if the engine has rejected the request.

        In the Messages API vLLM mangles its reason, and in the Responses API it closes the connection instead, so the
        same request is sent once more without streaming.
        """
        if isinstance(error, BrokenStreamError):
            if not error.rejected:
                return None
            data = error.event[error.event.find(b"data:") + len(b"data:") :]
            if call.dialect == "openai":
                return await self.translate(call, replica, error.status or 400, data)
        elif call.dialect != "responses" or await self._transport.refuses(replica.address):
            return None
        status, body = await self._ask_unstreamed(call, replica)
        if status in (400, 413, 422):
            return await self.translate(call, replica, status, body)
        return await self.translate(call, replica, 400, b"") if isinstance(error, BrokenStreamError) else None

    async def _ask_unstreamed(self, call: Call, replica: Replica) -> tuple[int, bytes]:
        """Status and body of the response to the same request without streaming, 0 if there is none."""
        fields: dict[str, object] = {"stream": False}
        if call.dialect == "responses":
            fields["max_output_tokens"] = 1  # here it is not known whether the request is at fault
        request, remaining = post_request(call.path, with_fields(call.payload, fields)), call.deadline - self._clock()
        try:
            return await fetch(self._transport, replica.address, request, call.timeouts.unstreamed, remaining)
        except TransportError:
            return 0, b""

    async def _count(self, call: Call, replica: Replica, rejected: Rejected) -> int | None:
        """How many tokens the prompt has, as its engine counts them; None where that cannot be found out."""
        fields = rejected.fields and tokenize_request(rejected.fields, call.target.name)
        if not fields:
            return None
        request = post_request("/tokenize", json.dumps(fields).encode())
        try:
            status, body = await fetch(
                self._transport, replica.address, request, COUNTING, call.deadline - self._clock()
            )
            count = json.loads(body)["count"] if status == 200 else None
        except (TransportError, ValueError, KeyError, TypeError):
            return None
        return count if isinstance(count, int) else None
