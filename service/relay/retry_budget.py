"""A bound on concurrent retries, so that they cannot multiply the load of engines that already struggle."""

MIN_CONCURRENT = 3  # retries that are always allowed
SHARE = 0.1  # of the requests in flight that may be retries


class RetryBudget:
    """Bounds the retries that run at the same time to a share of the requests in flight, and at least a few."""

    def __init__(self, min_concurrent: int = MIN_CONCURRENT, share: float = SHARE) -> None:
        self._min_concurrent, self._share = min_concurrent, share
        self.running = 0

    def acquire(self, in_flight: int) -> bool:
        """Whether one more retry may run, with `in_flight` requests in flight; if so, `release` it at its end."""
        if self.running >= max(self._min_concurrent, int(in_flight * self._share)):
            return False
        self.running += 1
        return True

    def release(self) -> None:
        """Ends a retry that was acquired."""
        self.running -= 1
