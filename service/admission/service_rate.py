"""The measured rate at which sequences end, and the `Retry-After` computed from it. Pure: time is passed in."""

from service.errors import whole_seconds

WINDOW = 64  # completed sequences that the estimate rests on at least; older ones lose weight exponentially
WINDOW_PER_SLOT = 4  # and at least so many for each that runs, because those of a burst complete together
MAX_WAIT = 60.0  # seconds: the longest wait to tell a client, by then the service has recovered or been repaired
DEFAULT_WAIT = 10.0  # seconds, where no rate can be computed because nothing runs, such as while engines start
JITTER = 0.5  # part of the wait that may be added to it, so that rejected clients do not all retry at once


class ServiceRate:
    """Estimates how many sequences of one model complete per second. Times are monotonic seconds.

    Completions are counted per second and running sequence, each of which holds a slot. So idle time does not lower the
    estimate, a burst after it starts with the rate known from before, and engines that hang lower it while nothing
    completes.
    """

    def __init__(self, now: float) -> None:
        self._observed_at = now
        # The prior for a model never measured is one request per second and slot; the first completions outweigh it.
        self._completed = self._slot_seconds = 0.1
        self._count = 0

    def observe(self, now: float, slots: int) -> None:
        """Notes that `slots` slots were held until now."""
        if now > self._observed_at:
            self._slot_seconds += slots * (now - self._observed_at)
            self._observed_at = now

    def complete(self, now: float, slots: int, sequences: int = 1) -> None:
        """Notes that `slots` slots were held until now and that the `sequences` in some of them have completed."""
        self.observe(now, slots)
        self._count += sequences
        self._completed += sequences
        if self._completed > 2 * WINDOW and self._completed > 2 * WINDOW_PER_SLOT * slots:
            self._completed /= 2
            self._slot_seconds /= 2

    def is_measured(self, slots: int) -> bool:
        """Whether at least one sequence per slot has completed: the first few of a burst say too little."""
        return self._count >= slots > 0

    def rate(self, slots: int) -> float:
        """Sequences completed per second while `slots` slots are held."""
        return slots * self._completed / self._slot_seconds


def retry_after(position: int, rate: float, jitter: float) -> float:
    """Whole seconds, at least 1, until `position` slots have been released at `rate` per second.

    `jitter`, from 0 to 1, scales what is added to spread the retries.
    """
    wait = position / rate if rate > 0 else DEFAULT_WAIT
    least = whole_seconds(min(wait, MAX_WAIT))
    return float(least + int(jitter * (1 + JITTER * least)))
