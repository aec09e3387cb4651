"""How many requests may be asked again at the same time, so that retries cannot bury engines that struggle already."""

LEAST = 3
SHARE = 0.1


class RetryBudget:
    """Bounds the second attempts that run at the same time: a share of the requests in flight, and always a few."""

    def __init__(self, least: int = LEAST, share: float = SHARE) -> None:
        self._least, self._share = least, share
        self.running = 0

    def take(self, in_flight: int) -> bool:
        """Whether one more may run now, with so many requests in flight; if so, give it back when it has ended."""
        if self.running >= max(self._least, int(in_flight * self._share)):
            return False
        self.running += 1
        return True

    def give_back(self) -> None:
        """One that was taken has ended."""
        self.running -= 1
