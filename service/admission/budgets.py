"""What a tenant may use in a minute, as token buckets, and in a day of UTC, as counters. Pure."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

MINUTE = 60.0
DAY = 86400.0
TOLERANCE = 1e-6  # of an amount: summed fractions may fall short of it by rounding

Counts = Literal["requests", "tokens"]
Names = Mapping[Counts, tuple[bytes, bytes, bytes]]  # of the headers that tell limit, remaining and reset
OPENAI_NAMES: Names = MappingProxyType(
    {
        "requests": (
            b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests"
        ),
        "tokens": (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"),
    }
)  # fmt: skip
ANTHROPIC_NAMES: Names = MappingProxyType(
    {
        "requests": (
            b"anthropic-ratelimit-requests-limit", b"anthropic-ratelimit-requests-remaining",
            b"anthropic-ratelimit-requests-reset",
        ),
        "tokens": (
            b"anthropic-ratelimit-tokens-limit", b"anthropic-ratelimit-tokens-remaining",
            b"anthropic-ratelimit-tokens-reset",
        ),
    }
)  # fmt: skip
Wall = Callable[[], float]  # Unix seconds


class BudgetState(msgspec.Struct, frozen=True, gc=False):
    """One budget as its tenant is told it: the limit, what remains of it, and the seconds until all of it does."""

    counts: Counts
    limit: int
    remaining: float
    reset: float


class TokenBucket:
    """A token bucket that holds at most `size` and refills by `size` per minute. Times are monotonic seconds.

    `level` is negative while more has been consumed than was available, which happens when a request takes more tokens
    than estimated.
    """

    def __init__(self, size: float, now: float) -> None:
        self.size = self.level = size
        self._refilled_at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is available; an amount larger than the bucket is available when it is full."""
        if now > self._refilled_at:
            self._refill(now)
        missing = (amount if amount < self.size else self.size) - self.level
        return missing / self.size * MINUTE if missing > TOLERANCE else 0.0

    def consume(self, amount: float) -> None:
        """Takes `amount` out, available or not; a negative amount is put back."""
        level = self.level - amount
        self.level = level if level < self.size else self.size

    def resize(self, size: float, now: float) -> None:
        """Changes the size, and with it the refill rate, from now on."""
        if now > self._refilled_at:
            self._refill(now)
        self.size, self.level = size, min(size, self.level)

    def left(self, now: float) -> float:
        """The level at that time."""
        passed, size = now - self._refilled_at, self.size
        level = self.level + passed * size / MINUTE if passed > 0 else self.level
        return level if level < size else size

    def reset(self, left: float) -> float:
        """Seconds until it is full, of which so much is left."""
        return (self.size - left) / self.size * MINUTE

    def _refill(self, now: float) -> None:
        self.level, self._refilled_at = self.left(now), now


class DayBudget:
    """What is left of `size` until midnight UTC, when all of it is there again. `wall` is in Unix seconds."""

    def __init__(self, size: float, wall: Wall) -> None:
        self.size, self._used, self._wall = size, 0.0, wall
        self._begin(wall())

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is available; a larger amount than the budget is available when it is unused."""
        missing = (amount if amount < self.size else self.size) - self.left()
        return until_midnight(self._wall()) if missing > TOLERANCE else 0.0

    def left(self) -> float:
        """What is left; negative while more was consumed than there was."""
        return self.size - self._used if 0 <= self._wall() - self._began < DAY else self.size

    def reset(self, left: float) -> float:
        """Seconds until nothing is used, of which so much is left."""
        return until_midnight(self._wall()) if left < self.size else 0.0

    def consume(self, amount: float) -> int:
        """Takes `amount` out, available or not; returns the day that it is of."""
        unix = self._wall()
        if not 0 <= unix - self._began < DAY:
            self._used = 0.0
            self._begin(unix)
        self._used += amount
        return self._day

    def correct(self, amount: float, day: int) -> None:
        """Takes `amount` more out of what was consumed on that day, or puts it back if it is negative."""
        if day == self._day:
            self._used = max(0.0, self._used + amount)

    def resize(self, size: float) -> None:
        """Changes the size; what was used stays used."""
        self.size = size

    def _begin(self, unix: float) -> None:
        self._day = day_of(unix)
        self._began = self._day * DAY


def day_of(unix: float) -> int:
    """The days since 1970, of UTC."""
    return int(unix // DAY)


def until_midnight(unix: float) -> float:
    """Seconds until the next day of UTC begins."""
    return DAY - unix % DAY


def used_part(part: float) -> float:
    """A part of a budget as it is shown: more than all of it, or less than nothing, is not."""
    return min(1.0, max(0.0, part))


def tightest(states: Iterable[BudgetState]) -> list[BudgetState]:
    """Of the budgets for requests, and of those for tokens, the one with the least remaining."""
    found: dict[Counts, BudgetState] = {}
    for state in states:
        known = found.get(state.counts)
        if known is None or state.remaining < known.remaining:
            found[state.counts] = state
    return list(found.values())


def openai_headers(states: Iterable[BudgetState]) -> list[tuple[bytes, bytes]]:
    """The headers by which OpenAI's API tells them: whole numbers, and a span such as `6m0s` until the reset."""
    headers: list[tuple[bytes, bytes]] = []
    for state in states:
        limit, remaining, reset = OPENAI_NAMES[state.counts]
        left = int(state.remaining) if state.remaining > 0 else 0
        headers += ((limit, b"%d" % state.limit), (remaining, b"%d" % left), (reset, span(state.reset).encode()))
    return headers


def anthropic_headers(states: Iterable[BudgetState], unix: float) -> list[tuple[bytes, bytes]]:
    """The headers by which Anthropic's API tells them: whole numbers, and the time of the reset in RFC 3339."""
    headers: list[tuple[bytes, bytes]] = []
    for state in states:
        limit, remaining, reset = ANTHROPIC_NAMES[state.counts]
        left = int(state.remaining) if state.remaining > 0 else 0
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix + state.reset + 0.999)).encode()
        headers += ((limit, b"%d" % state.limit), (remaining, b"%d" % left), (reset, at))
    return headers


def span(seconds: float) -> str:
    """A duration as OpenAI's headers write it: `0s`, `20ms`, `8.64s`, `6m0s`, `23h59m1s`."""
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{int(seconds * 1000 + 0.5) / 1000:g}s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60}m{rest % 60}s" if hours else f"{rest // 60}m{rest % 60}s"
