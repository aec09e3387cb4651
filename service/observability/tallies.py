"""What finished requests add to the metrics, kept in plain numbers until there are many or somebody reads them.

To put one number into a metric takes as long as to put a hundred there, and most of what a request brings is alike.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.observability.record import Record

# So many requests of a kind, or gaps between their outputs, are counted at once: no longer than a long stream takes.
MOST_REQUESTS, MOST_GAPS = 64, 2048


class Kind(NamedTuple):
    """What requests have in common that are counted together, as in `Record`. `found_by` is how the reason begins."""

    model: str
    variant: str
    endpoint: str
    status: int
    outcome: str
    code: str | None
    attempts: int
    found_by: str


@dataclass(slots=True)
class Tally:
    """What requests of one kind have brought: seconds and tokens of those that have any, and sums of what is rare."""

    durations: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    ttfts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tpots: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)
    cached: int = 0
    lost: int = 0
    wasted: int = 0


@dataclass(slots=True)
class TenantTally:
    """What a tenant's requests of one outcome have brought; the tokens are those of requests to models."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    gpu_seconds: float = 0.0
    cost: float = 0.0


class Tallies:
    """Adds up the records of finished requests."""

    def __init__(self) -> None:
        self._kinds: defaultdict[tuple[Any, ...], Tally] = defaultdict(Tally)
        self._tenants: defaultdict[tuple[str, str], TenantTally] = defaultdict(TenantTally)

    def add(self, record: Record) -> tuple[Kind, Tally] | None:
        """Adds a record. Returns what there is of its kind when that is much: it is not here any longer then."""
        started, outcome = record.started, record.outcome
        kind = (
            record.model, record.variant, record.endpoint, record.status, outcome, record.code, record.attempts,
            record.route_reason.partition(" ")[0],
        )  # fmt: skip
        tally = self._kinds[kind]
        tally.durations.append((record.ended or started) - started)
        prompt, completion = record.prompt_tokens, record.completion_tokens
        if record.admitted is not None:
            tally.waits.append(record.admitted - started)
        if prompt:
            tally.prompts.append(prompt)
        if completion:
            tally.completions.append(completion)
        if record.streamed and (times := record.output_times):
            tally.ttfts.append(times[0] - started)
            if (tpot := record.tpot) is not None:
                tally.tpots.append(tpot)
            if len(times) > 1:
                tally.gaps += record.gaps
        tally.cached += record.cached_tokens
        tally.lost += record.lost_tokens
        if outcome in ("failed", "cancelled"):
            tally.wasted += record.generated_tokens
        if record.tenant:
            of_tenant = self._tenants[record.tenant, outcome]
            of_tenant.requests += 1
            of_tenant.prompt_tokens += prompt
            of_tenant.completion_tokens += completion
            of_tenant.gpu_seconds += record.gpu_seconds
            of_tenant.cost += record.cost
        if len(tally.durations) < MOST_REQUESTS and len(tally.gaps) < MOST_GAPS:
            return None
        return Kind._make(kind), self._kinds.pop(kind)

    def take_kinds(self) -> Iterator[tuple[Kind, Tally]]:
        """All kinds, which are not here any longer."""
        kinds, self._kinds = self._kinds, defaultdict(Tally)
        return ((Kind._make(kind), tally) for kind, tally in kinds.items())

    def take_tenants(self) -> Iterator[tuple[tuple[str, str], TenantTally]]:
        """What there is of each tenant and outcome, which is not here any longer."""
        tenants, self._tenants = self._tenants, defaultdict(TenantTally)
        return iter(tenants.items())
