"""What one replica can take: given, or from the planner's bounds."""

from dataclasses import dataclass
from typing import Self

from service.planner.plan import Row

EFFICIENCY = 0.55  # of the planner's bounds; measured on an H100: 0.55 of prefill, 0.67 of decoding (docs/gpu.md)


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of a request, read and written."""

    prompt: float
    output: float


@dataclass(frozen=True)
class Capacity:
    """One replica, for requests of an average size.

    `requests_per_second` is what it serves when full, `concurrency` how many it runs at a time, so a request that runs
    takes concurrency / requests_per_second seconds (Little's law). `first_token_seconds` of those pass before the first
    token. `prompt_rate` and `output_rate` are tokens a second of the whole replica, where known: a request of another
    size then takes another time.
    """

    requests_per_second: float
    concurrency: int
    first_token_seconds: float = 0.0
    gpus: int = 1
    prompt_rate: float | None = None
    output_rate: float | None = None

    @classmethod
    def of_plan(cls, row: Row, size: Size, efficiency: float = EFFICIENCY) -> Self:
        """What the plan's row says, at `efficiency` of its bounds; raises ValueError if it says nothing."""
        speed, fit = row.speed, row.fit
        if row.why or fit is None:
            raise ValueError(f"{row.form} on {row.gpu.name}: {row.why}")
        if speed is None or not speed.together or not speed.prefill:
            raise ValueError(f"{row.form} on {row.gpu.name}: its speed is unknown, or it generates no text")
        prompt_rate, output_rate = efficiency * speed.prefill, efficiency * speed.together
        busy = size.prompt / prompt_rate + size.output / output_rate
        return cls(1 / busy, speed.batch, size.prompt / prompt_rate, fit.degree, prompt_rate, output_rate)

    @property
    def seconds(self) -> float:
        """How long a request of the average size runs in a full replica."""
        return self.concurrency / self.requests_per_second

    def times(self, size: Size | None) -> tuple[float, float]:
        """Seconds that a request runs, and those of them before its first token."""
        if size is None or not self.prompt_rate or not self.output_rate:
            return self.seconds, self.first_token_seconds
        reading = size.prompt / self.prompt_rate
        return (reading + size.output / self.output_rate) * self.concurrency, reading
