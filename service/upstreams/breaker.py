"""Whether a replica that fails gets requests: pure, with the time passed in."""

from dataclasses import dataclass

EJECTION = 1.0  # seconds a replica rests after its first ejection; doubled at each further one in a row
LONGEST_EJECTION = 60.0
TOLERATED = 2  # failures in a row that do not eject yet


@dataclass
class Breaker:
    """Counts a replica's failures in a row and ejects it for a while. Times are seconds of a monotonic clock.

    After its rest the replica is on trial: it gets one request, and another one only when that one has succeeded, which
    forgives everything, or has said nothing for as long as the rest was. A failure on trial doubles the rest.
    """

    failures: int = 0
    ejections: int = 0
    retry_at: float = 0.0
    tried_until: float = 0.0

    @property
    def closed(self) -> bool:
        """Whether it lets all requests through."""
        return not self.ejections

    def usable(self, now: float) -> bool:
        """Whether it lets a request through now."""
        return not self.ejections or (now >= self.retry_at and now >= self.tried_until)

    def reopened(self, before: float, now: float) -> bool:
        """Whether it began to let a request through between two times."""
        return not self.closed and before < max(self.retry_at, self.tried_until) <= now

    def asked(self, now: float) -> None:
        """Takes note of a request that goes there."""
        if self.ejections:
            self.tried_until = now + self._ejection_time()

    def failed(self, now: float, refused: bool = False) -> None:
        """Takes note of a failure; one that was `refused` a connection, or was on trial, ejects at once."""
        if self.ejections and now < self.retry_at:
            return  # sent before the ejection, and part of the same trouble
        self.failures += 1
        if refused or self.ejections or self.failures > TOLERATED:
            self.ejections += 1
            self.retry_at, self.tried_until = now + self._ejection_time(), 0.0

    def succeeded(self) -> None:
        """Forgives everything."""
        self.failures = self.ejections = 0

    def _ejection_time(self) -> float:
        return min(LONGEST_EJECTION, EJECTION * 2.0 ** min(self.ejections - 1, 16))
