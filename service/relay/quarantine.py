"""Requests that engines die of: who was there at two deaths is refused for a while, before it kills a third one."""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from service.errors import ApiError, ErrorCode, whole_seconds

WINDOW = 600.0  # seconds
MOST = 4096
ENOUGH = 3  # deaths that convict everyone who was at all of them
FEW = 4  # as many convict each other by two deaths; a larger crowd is one of clients that asked again together
LARGEST_PARSED = 64 * 2**10  # bytes; a larger body counts as it is written


def fingerprint(path: str, body: bytes) -> bytes:
    """What two requests share that ask the same of the same path, however their JSON is written."""
    text = body
    if len(body) <= LARGEST_PARSED:
        with suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(path.encode() + b"\0" + text, digest_size=16).digest()


Death = tuple[str, int]  # a replica's id, and in which of its lives: the number of its restarts


@dataclass(frozen=True)
class Mark:
    """The last deaths that a request was there at, in order, and when the last one was."""

    deaths: tuple[Death, ...]
    at: float


class Quarantine:
    """Remembers at which deaths each request was running, by its fingerprint; pure, with the clock passed in.

    Many requests run when an engine dies and one of them is to blame. The others are asked again and succeed, which
    clears them. Where many come again together with the guilty one, two deaths tell nothing yet, so there it takes
    three. Falsy while there is nobody to suspect: then no fingerprint is needed.
    """

    def __init__(self, clock: Callable[[], float], window: float = WINDOW, most: int = MOST) -> None:
        self._clock, self._window, self._most = clock, window, most
        self._marks: OrderedDict[bytes, Mark] = OrderedDict()  # the oldest death first
        self._crowds: Counter[tuple[Death, ...]] = Counter()  # how many requests were at the same deaths

    def __bool__(self) -> bool:
        if self._marks:
            self._forget()
        return bool(self._marks)

    def died(self, fingerprint: bytes, replica: str, life: int) -> None:
        """The request was running when that replica died in that life, the number of its restarts.

        A death counts once, however many requests of this fingerprint report it.
        """
        self._forget()
        before = self._marks.get(fingerprint)
        earlier = before.deaths if before else ()
        if (replica, life) in earlier:
            return
        self._clear(fingerprint)
        deaths = (*earlier, (replica, life))[-ENOUGH:]
        self._marks[fingerprint] = Mark(deaths, self._clock())
        self._crowds[deaths] += 1
        if len(self._marks) > self._most:
            self._clear(next(iter(self._marks)))

    def check(self, fingerprint: bytes) -> None:
        """Raises 422 `request_quarantined` if engines died of this request."""
        self._forget()
        mark = self._marks.get(fingerprint)
        if not mark or len(mark.deaths) < 2:
            return
        if len(mark.deaths) < ENOUGH and self._crowds[mark.deaths] > FEW:
            return
        seconds = mark.at + self._window - self._clock()
        raise ApiError(
            ErrorCode.REQUEST_QUARANTINED,
            f"Engines died {len(mark.deaths)} times while this request was running. "
            f"It is refused for another {whole_seconds(seconds)} s.",
            retry_after=seconds,
        )

    def succeeded(self, fingerprint: bytes) -> None:
        """The request was answered: it is no poison."""
        self._clear(fingerprint)

    def _forget(self) -> None:
        oldest = self._clock() - self._window
        while self._marks:
            fingerprint = next(iter(self._marks))
            if self._marks[fingerprint].at > oldest:
                return
            self._clear(fingerprint)

    def _clear(self, fingerprint: bytes) -> None:
        mark = self._marks.pop(fingerprint, None)
        if mark:
            self._crowds[mark.deaths] -= 1
            if not self._crowds[mark.deaths]:
                del self._crowds[mark.deaths]
