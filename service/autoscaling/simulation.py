"""A model's replicas under a load, event by event: requests arrive, wait, run; replicas start, and are taken away.

Requests that arrive together and are of one size are one event, so the time that a simulation takes grows with the
moments at which something happens, and not with requests or replicas.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import NamedTuple

from service.autoscaling.autoscaler import Autoscaler
from service.autoscaling.demand import KV_CACHE_TARGET, Seen
from service.autoscaling.measured import Measured, Sample

FOREVER = math.inf


class Arrival(NamedTuple):
    """`number` requests that arrive `at` a second of the simulation.

    Each runs for `seconds`, of which `first` pass before its first token.
    """

    at: float
    number: int
    seconds: float
    first: float


@dataclass(frozen=True)
class Site:
    """Where requests are served.

    `concurrency` is the requests that run in a replica at a time. A replica is ready `cold_start` seconds after it was
    ordered, and its KV cache is used to `kv_cache` when it is full. At most `max_queued` requests wait, each
    `queue_seconds` at most. `metrics_delay` is how old the numbers are that an autoscaler gets, and `rate_window` the
    time over which arrivals are counted; metrics are missing from `blind[0]` to `blind[1]`. All in seconds.
    """

    concurrency: int
    cold_start: float = 120.0
    max_queued: float = FOREVER
    queue_seconds: float = FOREVER
    initial: int = 1
    kv_cache: float = KV_CACHE_TARGET
    rate_window: float = 60.0
    metrics_delay: float = 15.0
    blind: tuple[float, float] = (FOREVER, FOREVER)


@dataclass
class State:
    """The present moment of a simulation."""

    now: float = 0.0
    ready: int = 0
    starting: deque[tuple[float, int]] = field(default_factory=deque)
    queue: deque[Arrival] = field(default_factory=deque)
    ends: list[tuple[float, int]] = field(default_factory=list)
    queued: int = 0
    running: int = 0

    @property
    def ordered(self) -> int:
        """Replicas that are ready or starting."""
        return self.ready + sum(count for _, count in self.starting)


class Simulation:
    """One run of an autoscaler over arrivals, which `run` returns measured."""

    def __init__(self, site: Site, autoscaler: Autoscaler, step: float = 5.0) -> None:
        self._site = site
        self._autoscaler = autoscaler
        self._state = State(ready=site.initial)
        self._measured = Measured(step)
        self._seen: deque[tuple[float, int, Seen]] = deque()  # what was counted at each synchronization
        self._arrived = 0

    def run(self, arrivals: Iterable[Arrival], until: float, *, most_refused: float = FOREVER) -> Measured:
        """Measures from 0 to `until` seconds, or to a sample at which more than `most_refused` requests were refused.

        `arrivals` are in the order of time.
        """
        state, measured, coming = self._state, self._measured, iter(arrivals)
        arrival = next(coming, None)
        due, sample = 0.0, 0.0
        while True:
            ends = state.ends[0][0] if state.ends else FOREVER
            starts = state.starting[0][0] if state.starting else FOREVER
            comes = arrival.at if arrival else FOREVER
            at = min(ends, starts, comes, due, sample)
            if at >= until:
                break
            measured.pass_time(at - state.now, self._held())
            state.now = at
            if ends <= at:
                state.running -= heappop(state.ends)[1]
            elif starts <= at:
                state.ready += state.starting.popleft()[1]
            elif arrival and comes <= at:
                self._arrive(arrival)
                arrival = next(coming, None)
            elif due <= at:
                self._scale()
                due = at + self._autoscaler.period
            else:
                self._sample()
                sample = at + measured.step
                if measured.refused > most_refused:
                    return measured
            if state.queue:
                self._expire()
                self._start()
        measured.pass_time(until - state.now, self._held())
        measured.left = state.queued + state.running
        return measured

    def _held(self) -> int:
        """Replicas that hold GPUs: those ordered, and those taken away whose requests still run."""
        state, concurrency = self._state, self._site.concurrency
        ready = state.ready if state.running <= state.ready * concurrency else -(-state.running // concurrency)
        return ready + sum(count for _, count in state.starting) if state.starting else ready

    def _arrive(self, arrival: Arrival) -> None:
        """Requests run at once where there is room, else wait where there is room for that."""
        state, site = self._state, self._site
        self._arrived += arrival.number
        self._measured.arrived += arrival.number
        free = state.ready * site.concurrency - state.running
        if not state.queue and arrival.number <= free:
            self._admit(arrival, arrival.number)
            return
        fits = int(min(arrival.number, site.max_queued - state.queued + max(0, free)))
        self._measured.refused += arrival.number - fits
        if fits:
            state.queue.append(arrival._replace(number=fits))
            state.queued += fits

    def _expire(self) -> None:
        state = self._state
        oldest = state.now - self._site.queue_seconds
        while state.queue and state.queue[0].at < oldest:
            count = state.queue.popleft().number
            state.queued -= count
            self._measured.refused += count

    def _start(self) -> None:
        state = self._state
        free = state.ready * self._site.concurrency - state.running
        while free > 0 and state.queue:
            first = state.queue[0]
            count = min(free, first.number)
            if count == first.number:
                state.queue.popleft()
            else:
                state.queue[0] = first._replace(number=first.number - count)
            state.queued -= count
            free -= count
            self._admit(first, count)
        self._measured.peak_queued = max(self._measured.peak_queued, state.queued)

    def _admit(self, arrival: Arrival, count: int) -> None:
        """So many of the requests run from now on."""
        state = self._state
        heappush(state.ends, (state.now + arrival.seconds, count))
        state.running += count
        self._measured.first_token(state.now - arrival.at + arrival.first, count)

    def _scale(self) -> None:
        state, site = self._state, self._site
        seen = self._look()
        blind = site.blind[0] <= state.now < site.blind[1]
        current = state.ordered
        wanted = self._autoscaler.replicas(state.now, None if blind else seen, current)
        if wanted > current:
            state.starting.append((state.now + site.cold_start, wanted - current))
        else:
            self._take_away(current - wanted)
        self._measured.peak_replicas = max(self._measured.peak_replicas, state.ordered)

    def _take_away(self, count: int) -> None:
        """Kubernetes removes replicas that are not ready first, the newest of them first."""
        state = self._state
        while count and state.starting:
            at, starting = state.starting.pop()
            gone = min(count, starting)
            count -= gone
            if starting > gone:
                state.starting.append((at, starting - gone))
        state.ready -= count

    def _look(self) -> Seen:
        """What the metrics say: the newest numbers that are old enough, the replicas as they are."""
        state, site = self._state, self._site
        kv_cache = site.kv_cache * state.running / site.concurrency
        self._seen.append((state.now, self._arrived, Seen(0.0, state.queued, state.running, kv_cache)))
        shown = [one for one in self._seen if one[0] <= state.now - site.metrics_delay]
        at, arrived, seen = shown[-1] if shown else (state.now - site.metrics_delay, 0, Seen())
        before = [one[1] for one in shown if one[0] <= at - site.rate_window]
        rate = (arrived - (before[-1] if before else 0)) / site.rate_window
        while len(self._seen) > 1 and self._seen[1][0] <= at - site.rate_window:
            self._seen.popleft()
        return replace(seen, arrivals=rate, ready=state.ready, ordered=state.ordered)

    def _sample(self) -> None:
        state = self._state
        self._measured.samples.append(
            Sample(state.now, self._arrived, state.ordered, state.ready, state.queued, state.running)
        )
