"""`Idempotency-Key`: a finished response is kept for a while, and a repeated request gets it without generating."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from service.errors import ApiError, ErrorCode
from service.observability.record import Record
from service.relay.tee import Tee
from service.server.asgi import Headers, Send, ServerExtension, respond

Key = tuple[str, str]  # the tenant's id, and the key that it chose
Run = Callable[[Send, ServerExtension | None], Awaitable[None]]

REPLAYED = (b"idempotent-replayed", b"true")
OVERHEAD = 2 * 2**10  # approximate bytes of memory per entry, beside its body
LONGEST_RETRY_AFTER = 30.0  # seconds


class Running(NamedTuple):
    """A request that is running, and since when (monotonic seconds)."""

    fingerprint: bytes
    since: float


@dataclass
class CachedAnswer:
    """A complete, successful response; `record` is that of the request for which it was generated."""

    fingerprint: bytes
    headers: Headers
    body: bytes
    record: Record
    expires: float

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return OVERHEAD + len(self.body)


class IdempotencyCache:
    """The responses to requests with an `Idempotency-Key`, kept for replay.

    `ttl` is how many seconds a response is kept after its last use. `largest` bounds one response and `total` all of
    them, in bytes, copies of running ones included; the least recently used are evicted first.
    """

    def __init__(
        self, clock: Callable[[], float], ttl: float = 600.0, largest: int = 4 * 2**20, total: int = 64 * 2**20
    ) -> None:
        self._clock, self._ttl, self._largest, self._total = clock, ttl, largest, total
        self._running: dict[Key, Running] = {}
        self._cached: OrderedDict[Key, CachedAnswer] = OrderedDict()  # least recently used first
        self.size = 0  # bytes, about

    async def answer(
        self, key: Key, fingerprint: bytes, run: Run, record: Record, send: Send, extra: ServerExtension | None = None
    ) -> None:
        """Replays the response of the key; without one, `run` sends the response, which is kept if it succeeds.

        Raises ApiError if the key was used for another request (422) or for one that is still running (409), and what
        `run` raises.
        """
        self.expire()
        running, cached = self._running.get(key), self._cached.get(key)
        known = running or cached
        if known and known.fingerprint != fingerprint:
            message = "This Idempotency-Key was used for another request. Use a new key for each request."
            raise ApiError(ErrorCode.IDEMPOTENCY_CONFLICT, message)
        if running:
            # Its end is unknown. Waiting as long again as it has run so far takes few attempts, and at most twice the
            # time.
            elapsed = self._clock() - running.since
            message = "The first request with this Idempotency-Key is still running. Ask again when it has ended."
            retry_after = min(elapsed, LONGEST_RETRY_AFTER)
            raise ApiError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, message, retry_after=retry_after)
        if cached:
            await self._replay(key, cached, record, send)
        else:
            await self._run(key, fingerprint, run, record, Tee(send, extra, self._reserve))

    def expire(self) -> None:
        """Evicts expired responses."""
        now = self._clock()
        while self._cached and next(iter(self._cached.values())).expires <= now:
            self._evict()

    async def _run(self, key: Key, fingerprint: bytes, run: Run, record: Record, tee: Tee) -> None:
        self._running[key] = Running(fingerprint, self._clock())
        try:
            await run(tee.send, tee.extra)
        finally:
            del self._running[key]
            self.size -= len(tee.body or b"")
        if tee.body is None or not tee.complete or tee.status != 200 or record.outcome != "complete":
            return
        origin = replace(record, output_times=[])
        headers = [row for row in tee.headers if b"ratelimit-" not in row[0]]  # they tell of that moment
        answer = CachedAnswer(fingerprint, headers, bytes(tee.body), origin, self._clock() + self._ttl)
        if self._make_room(answer.size):
            self._cached[key] = answer
            self.size += answer.size

    async def _replay(self, key: Key, cached: CachedAnswer, record: Record, send: Send) -> None:
        cached.expires = self._clock() + self._ttl
        self._cached.move_to_end(key)
        origin, record.replayed = cached.record, True
        record.model, record.variant, record.family = origin.model, origin.variant, origin.family
        record.route_reason, record.replica, record.finish_reason = (
            origin.route_reason,
            origin.replica,
            origin.finish_reason,
        )
        await respond(send, 200, cached.body, (*cached.headers, REPLAYED))

    def _reserve(self, copied: int, more: int) -> bool:
        """Grants `more` bytes to the copy of a running response, or reclaims the `copied` ones."""
        granted = copied + more <= self._largest and self._make_room(more)
        self.size += more if granted else -copied
        return granted

    def _make_room(self, size: int) -> bool:
        while self.size + size > self._total and self._cached:
            self._evict()
        return self.size + size <= self._total

    def _evict(self) -> None:
        self.size -= self._cached.popitem(last=False)[1].size
