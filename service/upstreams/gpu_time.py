"""GPU time of one model's engines: busy or idle, and what each request has of it. Pure."""


class GpuTime:
    """Counts the seconds of `gpus` GPUs; those of a busy moment are shared equally by the requests that run then.

    `busy` and `idle` are GPU seconds so far. All times are monotonic seconds. The share is what one request would have
    had that ran all the time, so that a request's part is the difference of two readings, whatever came and went.
    """

    def __init__(self) -> None:
        self.busy = self.idle = 0.0
        self._gpus, self._running, self._share, self._at = 0.0, 0, 0.0, 0.0

    def use(self, gpus: float, now: float) -> None:
        """From now on so many GPUs are held, by engines that run or start."""
        self.change(0, now)
        self._gpus = gpus

    def change(self, requests: int, now: float) -> float:
        """So many requests more run from now on, or fewer; returns the share of one that ran all the time until now."""
        seconds = (now - self._at) * self._gpus
        self._at = now
        if not self._running:
            self.idle += seconds
        else:
            self.busy += seconds
            self._share += seconds / self._running
        self._running += requests
        return self._share
