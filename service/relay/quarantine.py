"""Poison requests: one that was in flight at two engine crashes is refused for a while, before it causes a third."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from service.errors import ApiError, ErrorCode, whole_seconds

WINDOW = 600.0  # seconds
MOST = 4096  # fingerprints
CRASHES = 2  # within the window; then the request is refused
LARGEST_PARSED = 64 * 2**10  # bytes; a larger body counts as it is written


def fingerprint(path: str, body: bytes) -> bytes:
    """What two requests share that ask the same of the same path, however their JSON is written."""
    text = body
    if len(body) <= LARGEST_PARSED:
        with suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(path.encode() + b"\0" + text, digest_size=16).digest()


Crash = tuple[str, int]  # a replica's id, and its incarnation: how often it had been restarted before


@dataclass(frozen=True)
class Suspicion:
    """The last crashes, two at most, at which a request was in flight, and when the newest one was seen."""

    crashes: tuple[Crash, ...]
    at: float


class Quarantine:
    """Remembers by its fingerprint at which crashes each request was in flight; pure, with the clock passed in.

    When an engine crashes, one of the requests in it may be the cause. The others are sent again and succeed, which
    clears them; the cause is in flight at the next crash, too. `suspects` has the oldest crash first; while it is
    empty, no fingerprint is needed. Durations are in seconds; `most` bounds how many fingerprints are remembered.
    """

    def __init__(self, clock: Callable[[], float], window: float = WINDOW, most: int = MOST) -> None:
        self._clock, self._window, self._most = clock, window, most
        self.suspects: OrderedDict[bytes, Suspicion] = OrderedDict()

    def crashed(self, fingerprint: bytes, replica: str, incarnation: int) -> None:
        """The request was in flight when that incarnation of the replica crashed.

        A crash counts once, however many requests with this fingerprint report it.
        """
        self._forget()
        before = self.suspects.get(fingerprint)
        earlier = before.crashes if before else ()
        if (replica, incarnation) in earlier:
            return
        self.suspects[fingerprint] = Suspicion((*earlier, (replica, incarnation))[-CRASHES:], self._clock())
        self.suspects.move_to_end(fingerprint)
        if len(self.suspects) > self._most:
            self.suspects.popitem(last=False)

    def check(self, fingerprint: bytes) -> None:
        """Raises 422 `request_quarantined` if the request was in flight at two crashes."""
        self._forget()
        suspicion = self.suspects.get(fingerprint)
        if suspicion and len(suspicion.crashes) >= CRASHES:
            seconds = suspicion.at + self._window - self._clock()
            raise ApiError(
                ErrorCode.REQUEST_QUARANTINED,
                "Two engines crashed while this request was in flight. "
                f"It is refused for another {whole_seconds(seconds)} s.",
                retry_after=seconds,
            )

    def succeeded(self, fingerprint: bytes) -> None:
        """The request was answered: it does not crash engines."""
        self.suspects.pop(fingerprint, None)

    def _forget(self) -> None:
        oldest = self._clock() - self._window
        while self.suspects and next(iter(self.suspects.values())).at <= oldest:
            self.suspects.popitem(last=False)
