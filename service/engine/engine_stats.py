"""An engine's load and progress, read from vLLM's Prometheus metrics."""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """One sample of an engine's metrics, taken at `at`, in seconds of a monotonic clock.

    `running` and `waiting` count requests, `kv_usage` is the used fraction of the KV cache (0 to 1), and `tokens` is
    the number of prompt and generated tokens since the engine started. `deferred` of the waiting ones do not wait for
    capacity but for something of their own, such as an adapter. `finished` counts requests since the engine started.
    An engine that does not report the last two leaves them 0.
    """

    at: float
    running: int
    waiting: int
    kv_usage: float
    tokens: float
    deferred: int = 0
    finished: int = 0

    @property
    def progress(self) -> tuple[int, int, float, float]:
        """What the engine core updates at each scheduler step: a change between two samples means that it works."""
        return self.running, self.waiting, self.kv_usage, self.tokens


def parse(text: bytes, at: float) -> EngineStats | None:
    """The sample in a page of vLLM's metrics; None if the page has none. Counts are summed over the engine's cores.

    A page has a hundred kilobytes and is fetched every second, so the few metrics are searched for, not all parsed.
    """
    page = b"\n" + text
    try:
        running = list(_values(page, b"num_requests_running"))
        waiting = sum(_values(page, b"num_requests_waiting"))
        usages = list(_values(page, b"kv_cache_usage_perc"))
        tokens = sum(_values(page, b"prompt_tokens_total")) + sum(_values(page, b"generation_tokens_total"))
        deferred = sum(_values(page, b"num_requests_waiting_by_reason", b'reason="deferred"'))
        finished = sum(_values(page, b"request_success_total"))
        # An encoder has no KV cache.
        usage = sum(usages) / len(usages) if usages else 0.0
        counts = int(sum(running)), int(waiting), usage, tokens, int(deferred), int(finished)
        return EngineStats(at, *counts) if running else None
    except (ValueError, OverflowError):
        return None


def _values(page: bytes, name: bytes, label: bytes = b"") -> Iterator[float]:
    """The values of a metric, one for each set of labels, or of those with a `label`, `name="value"`.

    Raises ValueError for one that cannot be.
    """
    start = b"\nvllm:" + name
    at = page.find(start)
    while at >= 0:
        end = page.find(b"\n", at + 1)
        line = page[at : end if end >= 0 else len(page)]
        # Otherwise `name` is only a prefix of another metric's name.
        if line[len(start) :].startswith((b"{", b" ")) and label in line:
            value = float(line.rsplit(b" ", 1)[-1])
            if not 0 <= value < math.inf:
                raise ValueError(f"{value} is no count and no fraction")
            yield value
        at = page.find(start, at + len(line))
