"""Budgets that all gateways count together, in Redis: reserved in one step for each request, corrected behind it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from service.admission.budgets import (
    DAY,
    MINUTE,
    TOLERANCE,
    BudgetState,
    Counts,
    Wall,
    day_of,
    tightest,
    until_midnight,
    used_part,
)
from service.admission.rate_limits import OverLimitError, longest
from service.auth.tenants import Tenant
from service.errors import ApiError, ErrorCode

TIMEOUT = 1.0  # seconds for one answer of Redis; a request with budgets waits no longer than about twice this
RETRY_AFTER = 2.0  # seconds
RETRY = 0.5  # seconds until corrections that could not be booked are tried again
MAX_CORRECTIONS = 10_000  # keys whose corrections wait while Redis is away
Answer = asyncio.Future[tuple[bool, list[float]]]
# All budgets of one request at once, all of them or none, behind what is owed of each. A key holds what is used of its
# budget, which becomes less by `rate` per second, and when that was; the clock is that of Redis.
RESERVE = """
local time = redis.call('TIME')
local now, granted, used = time[1] + time[2] / 1000000, 1, {}
for i, key in ipairs(KEYS) do
  local size, rate, amount = tonumber(ARGV[5 * i - 4]), tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2])
  local saved = redis.call('HMGET', key, 'used', 'at')
  local since = math.max(0, now - tonumber(saved[2] or now))
  used[i] = math.max(0, tonumber(saved[1] or 0) + tonumber(ARGV[5 * i - 1]) - since * rate)
  if math.min(amount, size) > size - used[i] + TOLERANCE then granted = 0 end
end
local answer = {granted}
for i, key in ipairs(KEYS) do
  if granted == 1 then used[i] = used[i] + tonumber(ARGV[5 * i - 2]) end
  redis.call('HSET', key, 'used', tostring(used[i]), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', key, ARGV[5 * i])
  answer[i + 1] = tostring(used[i])
end
return answer
""".replace("TOLERANCE", f"{TOLERANCE:f}")


class SharedBudget(NamedTuple):
    """One budget of a tenant. `rate` is what comes back of it per second, and `lasts` how long its key does."""

    tenant: str
    name: str
    counts: Counts
    limit: int
    key: str
    rate: float
    lasts: int
    midnight: float  # seconds until then

    @property
    def daily(self) -> bool:
        """Whether it is that of a day, which comes back at midnight."""
        return not self.rate

    def wait(self, amount: float, used: float) -> float:
        """Seconds until `amount` is available; of an amount that is larger than all, until nothing is used."""
        missing = min(amount, self.limit) - (self.limit - used)
        if missing <= TOLERANCE:
            return 0.0
        return self.midnight if self.daily else missing / self.rate

    def state(self, used: float) -> BudgetState:
        """What its tenant is told of it."""
        reset = (self.midnight if self.daily else used / self.rate) if used > 0 else 0.0
        return BudgetState(self.counts, self.limit, self.limit - used, reset)


def budgets_of(tenant: Tenant, unix: float) -> list[SharedBudget]:
    """The tenant's budgets at that time, with their keys."""
    found = []
    counts: Counts
    for counts in ("requests", "tokens"):
        for span in ("minute", "day"):
            limit = getattr(tenant, name := f"{counts}_per_{span}")
            if limit is not None:
                which = span if span == "minute" else str(day_of(unix))
                key = f"roundhouse:{{{tenant.id}}}:{counts}:{which}"
                rate, lasts = (limit / MINUTE, 3 * MINUTE) if span == "minute" else (0.0, 2 * DAY)
                found.append(SharedBudget(tenant.id, name, counts, limit, key, rate, int(lasts), until_midnight(unix)))
    return found


class Reserved(NamedTuple):
    """What a request has reserved (see `rate_limits.Booking`)."""

    states: tuple[BudgetState, ...]
    budgets: list[SharedBudget]
    book: Callable[[SharedBudget, float], None]

    def correct(self, requests: int, tokens: float) -> None:
        """Books that much more, or less, than was reserved."""
        for budget in self.budgets:
            amount = requests if budget.counts == "requests" else tokens
            if amount:
                self.book(budget, amount)


class SharedBudgets:
    """The budgets of all tenants in the Redis at `url`, which may hold a password and is never shown.

    `on_failure` is called whenever Redis did not answer. `wall` is in Unix seconds.
    """

    def __init__(self, url: str, on_failure: Callable[[], None], wall: Wall = time.time) -> None:
        self._redis: Any = Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, decode_responses=True,
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),  # of a connection that Redis has closed
        )  # fmt: skip
        self._reserve = self._redis.register_script(RESERVE)
        self._on_failure, self._wall = on_failure, wall
        self._corrections: defaultdict[tuple[str, int], float] = defaultdict(float)  # by key and how long it lasts
        self._stirred = asyncio.Event()
        self._seen: dict[str, dict[str, tuple[float, float]]] = {}  # by tenant and key: what was used, and when

    def used(self, tenant: Tenant) -> dict[str, float]:
        """The part that is used of each of the tenant's budgets, from 0 to 1, as its last request here has seen it."""
        now, seen = self._wall(), self._seen.get(tenant.id, {})
        found = {}
        for one in budgets_of(tenant, now):
            used, at = seen.get(one.key, (0.0, now))
            found[one.name] = used_part((used - max(0.0, now - at) * one.rate) / one.limit)
        return found

    async def reserve(self, tenant: Tenant, cost: float) -> Reserved:
        """Charges a request of `cost` tokens to its tenant's budgets. Raises the 429, or 503 while Redis is away.

        In the same step the tenant's corrections are booked, so that nobody else gets what a request gives back only to
        be charged anew.
        """
        budgets = budgets_of(tenant, self._wall())
        amounts = [1 if budget.counts == "requests" else cost for budget in budgets]
        owed = [self._corrections.pop((budget.key, budget.lasts), 0.0) for budget in budgets]
        asked = asyncio.ensure_future(self._ask(budgets, amounts, owed))
        try:
            granted, used = await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(partial(self._give_back, budgets, amounts))
            raise
        except (RedisError, OSError, TimeoutError):
            self._on_failure()
            text = "The budgets of this tenant cannot be counted now. Try again in some seconds."
            raise ApiError(ErrorCode.BUDGETS_UNAVAILABLE, text, retry_after=RETRY_AFTER) from None
        self._seen[tenant.id] = {one.key: (amount, self._wall()) for one, amount in zip(budgets, used, strict=True)}
        states = tuple(tightest(budget.state(amount) for budget, amount in zip(budgets, used, strict=True)))
        if not granted:
            raise _over_limit(tenant, budgets, amounts, used, states)
        return Reserved(states, budgets, self._book)

    async def _ask(
        self, budgets: list[SharedBudget], amounts: list[float], owed: list[float]
    ) -> tuple[bool, list[float]]:
        keys, rows = [budget.key for budget in budgets], zip(budgets, amounts, owed, strict=True)
        arguments = [value for one, amount, due in rows for value in (one.limit, one.rate, amount, due, one.lasts)]
        try:
            granted, *used = await self._reserve(keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError):
            for budget, due in zip(budgets, owed, strict=True):
                self._owe(budget, due)
            raise
        return bool(granted), list(map(float, used))

    def _give_back(self, budgets: list[SharedBudget], amounts: list[float], asked: Answer) -> None:
        """The client left while Redis was asked."""
        if not asked.cancelled() and not asked.exception() and asked.result()[0]:
            for budget, amount in zip(budgets, amounts, strict=True):
                self._book(budget, -amount)

    async def watch(self) -> None:
        """For ever: books corrections as they come, and again later those for which Redis was away."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            if not await self._write_corrections():
                await asyncio.sleep(RETRY)
                self._stirred.set()

    async def close(self) -> None:
        """Books what is left, if Redis is there, and closes the connections."""
        await self._write_corrections()
        await self._redis.aclose()

    def _book(self, budget: SharedBudget, amount: float) -> None:
        seen = self._seen.get(budget.tenant, {})
        if budget.key in seen:
            used, at = seen[budget.key]
            seen[budget.key] = used + amount, at
        self._owe(budget, amount)

    def _owe(self, budget: SharedBudget, amount: float) -> None:
        key = budget.key, budget.lasts
        if amount and (key in self._corrections or len(self._corrections) < MAX_CORRECTIONS):
            self._corrections[key] += amount
            self._stirred.set()

    async def _write_corrections(self) -> bool:
        taken, self._corrections = self._corrections, defaultdict(float)
        if not taken:
            return True
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for (key, lasts), amount in taken.items():
                    pipeline.hincrbyfloat(key, "used", amount)
                    pipeline.expire(key, lasts)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError):
            self._on_failure()
            for later, amount in self._corrections.items():
                taken[later] += amount
            self._corrections = taken
            return False
        return True


def _over_limit(
    tenant: Tenant, budgets: list[SharedBudget], amounts: list[float], used: list[float],
    states: tuple[BudgetState, ...],
) -> OverLimitError:  # fmt: skip
    waits: dict[tuple[str, bool], float] = {
        (one.counts, one.daily): one.wait(amount, spent)
        for one, amount, spent in zip(budgets, amounts, used, strict=True)
    }
    minute, day = ([waits.get((counts, daily), 0.0) for counts in ("requests", "tokens")] for daily in (False, True))
    exceeded = longest(tenant, *minute, *day)
    limit, seconds = (exceeded.limit, exceeded.seconds or 0.0) if exceeded else ("its budgets", 0.0)
    return OverLimitError(tenant, limit, seconds, states)
