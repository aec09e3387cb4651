"""Who may enter now: a bound on the requests in flight for each model, and an honest wait for those refused."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import unavailable
from service.fleet import Served

SMOOTHING = 0.1  # weight of the newest request in the running mean of durations


class Admission:
    """Counts the requests in flight by model and refuses those over the fleet's `max_in_flight`."""

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}
        self._mean_duration: dict[str, float] = {}

    def load(self, model_id: str) -> int:
        """Requests of this model being answered now."""
        return self._in_flight.get(model_id, 0)

    @contextmanager
    def enter(self, served: Served) -> Iterator[None]:
        """Holds a place while a request is answered; raises 503 `overloaded` when all are taken."""
        taken, places = self.load(served.id), served.max_in_flight * served.replicas
        if taken >= places:
            wait = retry_after(self._mean_duration.get(served.id, 1.0), places)
            raise unavailable(
                f"'{served.id}' has {taken} requests in hand, its limit. Try again later.", "overloaded", wait
            )
        self._in_flight[served.id] = taken + 1
        try:
            yield
        finally:
            self._in_flight[served.id] -= 1

    def ended(self, served: Served, duration: float) -> None:
        """Learns how long an answer took, in seconds."""
        mean = self._mean_duration.get(served.id, duration)
        self._mean_duration[served.id] = mean + SMOOTHING * (duration - mean)


def retry_after(mean_duration: float, places: int) -> float:
    """Seconds until a place is likely free: `places` requests of `mean_duration` seconds end one after another."""
    return mean_duration / max(1, places)
