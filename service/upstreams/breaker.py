"""A circuit breaker for one replica: pure, with the time passed in."""

from dataclasses import dataclass

BASE_EJECTION = 1.0  # seconds of the first ejection; each further one in a row lasts twice as long
MAX_EJECTION = 60.0  # seconds
TOLERATED_FAILURES = 2  # failures in a row that do not eject yet


@dataclass
class Breaker:
    """Counts a replica's failures in a row and ejects it for a while. Times are seconds of a monotonic clock.

    *Closed* it lets all requests through. *Ejected* (open) it lets none through until `retry_at`. After that it is
    *half-open*: it lets one trial request through, and the next one when that has succeeded, which closes the breaker,
    or has had no outcome by `trial_until`, an ejection time later. A failure while half-open doubles the ejection time.
    """

    failures: int = 0
    ejections: int = 0
    retry_at: float = 0.0
    trial_until: float = 0.0

    @property
    def closed(self) -> bool:
        """Whether it lets all requests through."""
        return not self.ejections

    def usable(self, now: float) -> bool:
        """Whether it lets a request through now."""
        return not self.ejections or (now >= self.retry_at and now >= self.trial_until)

    def trial_due(self, before: float, now: float) -> bool:
        """Whether it began to let a trial request through after `before` and until `now`."""
        return not self.closed and before < max(self.retry_at, self.trial_until) <= now

    def record_request(self, now: float) -> None:
        """A request is sent there; in the half-open state it is the trial request."""
        if self.ejections:
            self.trial_until = now + self._ejection_time()

    def record_failure(self, now: float, refused: bool = False) -> None:
        """A request failed. A refused connection, or a failure while half-open, ejects at once."""
        if self.ejections and now < self.retry_at:
            return  # sent before the ejection, so it says nothing new
        self.failures += 1
        if refused or self.ejections or self.failures > TOLERATED_FAILURES:
            self.ejections += 1
            self.retry_at, self.trial_until = now + self._ejection_time(), 0.0

    def record_success(self) -> None:
        """A response began: closes the breaker and resets its counts."""
        self.failures = self.ejections = 0

    def _ejection_time(self) -> float:
        return min(MAX_EJECTION, BASE_EJECTION * 2.0 ** min(self.ejections - 1, 16))
