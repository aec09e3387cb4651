"""What a running engine says of its load and its progress: a few figures of vLLM's own metrics."""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """One look at an engine, at the clock's second `at`.

    `running` and `waiting` are requests, `kv_usage` is the used part of the KV cache from 0 to 1, `tokens` counts all
    that were read and written since the engine began.
    """

    at: float
    running: int
    waiting: int
    kv_usage: float
    tokens: float

    @property
    def progress(self) -> tuple[int, int, float, float]:
        """The engine core reports these at each step, so a change means that it works."""
        return self.running, self.waiting, self.kv_usage, self.tokens


def parse(text: bytes, at: float) -> EngineStats | None:
    """The reading in a page of metrics; None where the page has none. Counts are summed over the engine's cores.

    A page has a hundred kilobytes and is read every second, so it is searched rather than parsed.
    """
    page = b"\n" + text
    try:
        running = list(_values(page, b"num_requests_running"))
        waiting = sum(_values(page, b"num_requests_waiting"))
        usages = list(_values(page, b"kv_cache_usage_perc"))
        tokens = sum(_values(page, b"prompt_tokens_total")) + sum(_values(page, b"generation_tokens_total"))
    except ValueError:
        return None
    if not running:
        return None
    # An encoder has no KV cache.
    usage = sum(usages) / len(usages) if usages else 0.0
    return EngineStats(at, int(sum(running)), int(waiting), usage, tokens)


def _values(page: bytes, name: bytes) -> Iterator[float]:
    """The values of a metric, one for each set of labels; raises ValueError for what is no finite number."""
    start = b"\nvllm:" + name
    at = page.find(start)
    while at >= 0:
        end = page.find(b"\n", at + 1)
        line = page[at : end if end >= 0 else len(page)]
        if line[len(start) :].startswith((b"{", b" ")):  # else it is another metric whose name begins so
            value = float(line.rsplit(b" ", 1)[1])
            if not math.isfinite(value):
                raise ValueError(f"{value} counts nothing")
            yield value
        at = page.find(start, at + len(line))
