"""`Idempotency-Key`: requests with one key share one answer, running or recent, so that asking again costs nothing."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from service.errors import ApiError, ErrorCode
from service.observability.record import Record
from service.server.asgi import CancelOnDisconnect, ClientDisconnectedError, Message, Receive, Send

Key = tuple[str, str]  # the tenant's id, and the key that it chose
Run = Callable[[Receive, Send], Coroutine[Any, Any, None]]

REPLAYED = (b"x-roundhouse-replayed", b"true")
PIECE = 64 * 2**10  # bytes that a listener is sent at once, and that the foremost one may be behind the generation
ENTRY = 2 * 2**10  # bytes that an answer costs beside its body, about


class Signal:
    """Something that happens again and again, and those who wait for the next time; smaller than asyncio's Event."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def next(self) -> None:
        """Waits until it happens."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def tell(self) -> None:
        """It happens."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


@dataclass(eq=False)
class Listener:
    """A client that waits for an answer, and how many bytes of the body it has taken."""

    position: int = 0


class Answer:
    """One answer and who listens to it. The body is held once, and each listener takes it at its own pace."""

    def __init__(self, fingerprint: bytes, record: Record) -> None:
        self.fingerprint, self.record = fingerprint, record
        self.head: Message | None = None
        self.body = bytearray()
        self.dropped = 0  # bytes of the body's beginning that are no longer held
        self.complete = self.ended = False
        self.error: BaseException | None = None
        self.expires = 0.0
        self.listeners: list[Listener] = []
        self.task: asyncio.Task[None] | None = None
        self._grown, self._taken = Signal(), Signal()

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return ENTRY + len(self.body)

    @property
    def successful(self) -> bool:
        """Whether it came whole and says what was asked for."""
        status = self.head["status"] if self.head else 0
        return self.complete and not self.error and 200 <= status < 300 and self.record.outcome == "complete"

    def add(self, message: Message) -> int:
        """Takes the next message of the answer; returns by how many bytes the body grew."""
        data: bytes = b""
        if message["type"] == "http.response.start":
            self.head = {**message, "headers": list(message["headers"])}
        else:
            data = message.get("body", b"")
            self.body += data
            self.complete = not message.get("more_body", False)
        self._grown.tell()
        return len(data)

    def end(self, error: BaseException | None) -> None:
        """No more of it will come: that was all, or this error is why it is not."""
        self.ended, self.error = True, error
        # The first client's record will say what became of that client; the others ask what became of the answer.
        first = self.record
        self.record = Record(first.request_id, first.endpoint, first.started, outcome=first.outcome, code=first.code)
        _describe(self.record, first)
        self._grown.tell()

    def shorten(self, limit: int) -> int:
        """Drops what every listener has taken, and of the rest what is over `limit` bytes; returns how many bytes.

        What the foremost listener still needs is never dropped.
        """
        positions = [listener.position for listener in self.listeners] or [self._end]
        start = min(max(positions), max(min(positions), self._end - limit))
        count = max(0, start - self.dropped)
        del self.body[:count]
        self.dropped += count
        return count

    async def room(self) -> None:
        """Waits while the answer is too far ahead of its foremost listener."""
        while self.listeners and not self.complete:
            if self._end - max(listener.position for listener in self.listeners) <= PIECE:
                return
            await self._taken.next()

    async def play(self, listener: Listener, send: Send, patience: float, joined: bool) -> None:
        """Sends the whole answer to one listener as it comes; raises what went wrong with it."""
        while not self.head and not self.ended:
            await self._grown.next()
        if self.head:
            headers = [*self.head["headers"], *([REPLAYED] if joined else [])]
            await send({**self.head, "headers": headers})
        while True:
            start = listener.position - self.dropped
            if start < 0:
                raise ApiError(
                    ErrorCode.TIMEOUT, "The answer was too long to be kept for a client that takes it so slowly."
                )
            piece = bytes(self.body[start : start + PIECE])
            last = self.complete and listener.position + len(piece) == self._end
            if piece or last:
                try:
                    async with asyncio.timeout(patience):
                        await send({"type": "http.response.body", "body": piece, "more_body": not last})
                except TimeoutError:
                    text = f"The client took nothing of its answer for {patience:g} s."
                    raise ApiError(ErrorCode.TIMEOUT, text) from None
                listener.position += len(piece)
                self._taken.tell()
            elif self.ended:
                if self.error:
                    raise self.error
                return
            else:
                await self._grown.next()
            if last:
                return

    @property
    def _end(self) -> int:
        return self.dropped + len(self.body)


class Once:
    """The answers to requests with a key: each is generated once, for all who ask while it runs or soon after.

    `ttl` is how long a whole, successful answer is kept after it was last asked for, in seconds; `largest` how much of
    one answer may be held and `total` how much of all of them, in bytes. While everything is full, running answers hold
    only what their listeners still need. `patience` is how long a client may take nothing, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        patience: float,
        ttl: float = 600.0,
        largest: int = 4 * 2**20,
        total: int = 64 * 2**20,
    ) -> None:
        self._clock, self._patience, self._ttl, self._largest, self._total = clock, patience, ttl, largest, total
        self._running: dict[Key, Answer] = {}
        self._kept: OrderedDict[Key, Answer] = OrderedDict()  # those asked for last are last
        self.held = 0  # bytes, about

    async def answer(
        self, key: Key, fingerprint: bytes, run: Run, record: Record, receive: Receive, send: Send
    ) -> None:
        """Answers with what this key stands for; only where it stands for nothing yet, `run` generates it.

        `run` fills the record of the request that came first, which lasts until the generation has ended, also if that
        client left while others listen. The others' records have no tokens: those are counted once. Raises the error
        that `run` raised, to everyone who listens, or a 409 or 422 if the key stands for what cannot be shared.
        """
        self.expire()
        answer = self._running.get(key) or self._kept.get(key)
        if answer is None:
            await self._first(key, Answer(fingerprint, record), run, receive, send)
            return
        if answer.fingerprint != fingerprint:
            text = "This Idempotency-Key stands for another request. Use a new key for each request."
            raise ApiError(ErrorCode.IDEMPOTENCY_CONFLICT, text)
        if answer.dropped:
            raise ApiError(
                ErrorCode.IDEMPOTENCY_IN_PROGRESS,
                "The answer that this Idempotency-Key stands for is still being generated, and too long to be joined. "
                "Ask again when it has ended.",
            )
        if key in self._kept:
            answer.expires = self._clock() + self._ttl
            self._kept.move_to_end(key)
        try:
            await self._listen(key, answer, receive, send, joined=True)
            record.outcome, record.code = answer.record.outcome, answer.record.code
        finally:
            _describe(record, answer.record)

    def expire(self) -> None:
        """Forgets answers that are too old."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).expires <= now:
            self._forget_oldest()

    async def _first(self, key: Key, answer: Answer, run: Run, receive: Receive, send: Send) -> None:
        """Generates the answer in a task of its own, because others may listen when this client has left."""
        self._running[key] = answer
        self.held += answer.size
        record = answer.record
        answer.task = task = asyncio.create_task(run(_nobody_leaves, self._sender(answer)))
        task.add_done_callback(lambda task: self._ended(key, answer, task))
        try:
            try:
                await self._listen(key, answer, receive, send, joined=False)
            finally:
                await asyncio.wait([task])
        except ClientDisconnectedError:
            record.code = None  # what failed after this client had left is what others saw
            raise
        if answer.error:
            raise answer.error

    async def _listen(self, key: Key, answer: Answer, receive: Receive, send: Send, *, joined: bool) -> None:
        """Plays the answer to one client; when the last one leaves, there is no more reason to generate it."""
        listener = Listener()
        answer.listeners.append(listener)
        try:
            with CancelOnDisconnect(receive):
                await answer.play(listener, send, self._patience, joined)
        finally:
            answer.listeners.remove(listener)
            if answer.task and not answer.listeners and not answer.complete:
                answer.task.cancel()
                if self._running.get(key) is answer:
                    del self._running[key]

    def _sender(self, answer: Answer) -> Send:
        async def send(message: Message) -> None:
            self.held += answer.add(message)
            while self.held > self._total and self._kept:
                self._forget_oldest()
            limit = self._largest if self.held <= self._total else PIECE
            if answer.dropped or len(answer.body) > limit:
                self.held -= answer.shorten(limit)
            await answer.room()

        return send

    def _ended(self, key: Key, answer: Answer, task: "asyncio.Task[None]") -> None:
        """Keeps the answer if it is worth it: whole, successful, not too large, and nobody gave it up."""
        given_up = ApiError(ErrorCode.UPSTREAM_ERROR, "The answer was given up before it was complete.")
        answer.end(given_up if task.cancelled() else task.exception())
        answer.task = None
        current = self._running.get(key) is answer
        if current:
            del self._running[key]
        if current and answer.successful and not answer.dropped and len(answer.body) <= self._largest:
            answer.expires = self._clock() + self._ttl
            self._kept[key] = answer
        else:
            self.held -= answer.size

    def _forget_oldest(self) -> None:
        _, answer = self._kept.popitem(last=False)
        self.held -= answer.size


async def _nobody_leaves() -> Message:
    """What a generation hears of its client: nothing, because who listens may change. It is cancelled instead."""
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await never


def _describe(record: Record, other: Record) -> None:
    """Says of a request what holds for all that share its answer. Times, attempts and tokens are the first one's."""
    record.requested, record.streamed, record.finish_reason = other.requested, other.streamed, other.finish_reason
    record.model, record.variant, record.family = other.model, other.variant, other.family
    record.route_reason, record.replica = other.route_reason, other.replica
