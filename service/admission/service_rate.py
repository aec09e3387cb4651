"""How fast places become free, as measured, and the honest wait that follows from it: pure, with the time passed in."""

from service.errors import whole_seconds

MEMORY = 64  # ends: those before the last so many count for less and less
ROUNDS = 4  # but so many of each place are remembered: the requests of a burst end together
LONGEST = 60.0  # seconds that nobody is told to wait longer than: by then a service has recovered or been repaired
UNKNOWN = 10.0  # seconds that those are told to wait who come while nothing runs, as when engines start
SPREAD = 0.5  # of the wait: by how much one answer may exceed it, so that not all who were refused come back at once


class ServiceRate:
    """Measures at what rate the requests that hold a place end. Times are monotonic seconds.

    It counts ends for each second that a place was held. So idle time says nothing, a burst after it finds the rate
    of full load known before the first of its requests has ended, and engines that hang count as slower and slower.
    """

    def __init__(self, now: float) -> None:
        self._at = now
        # What one would guess of a model never seen, a second for each request, outweighed by the first few that end.
        self._ended = self._held = 0.1
        self._count = 0

    def hold(self, now: float, places: int) -> None:
        """So many places were held until now."""
        if now > self._at:
            self._held += places * (now - self._at)
            self._at = now

    def end(self, now: float, places: int) -> None:
        """One of those who held so many places until now has ended."""
        self.hold(now, places)
        self._count += 1
        self._ended += 1.0
        if self._ended > 2 * MEMORY and self._ended > 2 * ROUNDS * places:
            self._ended /= 2
            self._held /= 2

    def knows(self, places: int) -> bool:
        """Whether it has seen enough for so many places: the first of many that began together say too little."""
        return self._count >= places > 0

    def rate(self, places: int) -> float:
        """How many end in a second while so many places are held."""
        return places * self._ended / self._held


def retry_after(position: int, rate: float, chance: float) -> float:
    """Whole seconds, at least 1, until so many places have become free; `chance`, from 0 to 1, adds to them."""
    wait = position / rate if rate > 0 else UNKNOWN
    least = whole_seconds(min(wait, LONGEST))
    return float(least + int(chance * (1 + SPREAD * least)))
