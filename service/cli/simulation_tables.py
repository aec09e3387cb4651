"""Simulations as a person reads them and as a program does."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from service.autoscaling.capacity import Capacity
from service.autoscaling.measured import Measured, Sample
from service.autoscaling.picture import ticks
from service.autoscaling.policies import POLICIES
from service.autoscaling.sizing import Need
from service.autoscaling.traffic import seconds_of
from service.cli.plan_tables import console

if TYPE_CHECKING:
    from service.cli.simulation_inputs import Given

SHARES = (0.5, 0.95, 0.99)
MOMENTS = 13  # steps of replicas over time, at most


def rates_of(text: str) -> tuple[float, ...]:
    """`10,100` → requests a second; raises ValueError."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"'{text}' is not requests a second, separated by commas, such as 10,100") from None
    if not all(0 < rate < 1e6 for rate in rates):
        raise ValueError(f"'{text}': requests a second are more than 0 and less than a million")
    return rates


def span_of(text: str) -> tuple[float, float]:
    """`10m:5m` → from when, and for how many seconds; raises ValueError."""
    start, colon, lasts = text.partition(":")
    if not colon:
        raise ValueError(f"'{text}' is not FROM:DURATION, such as 10m:5m")
    return seconds_of(start), seconds_of(lasts)


def print_runs(runs: Mapping[str, Measured], capacity: Capacity, fewest: int | None, given: "Given") -> None:
    """The runs side by side: their results, and their replicas over time."""
    out = console()
    some = next(iter(runs.values()))
    out.print(
        f"{some.arrived:,} requests in {_time(some.seconds)}, {some.arrived / some.seconds:.3g} a second; "
        f"a replica {_replica(capacity, given)}",
        highlight=False,
    )
    out.print()
    out.print(_results(runs, capacity, given))
    out.print()
    out.print(_over_time(runs))
    if fewest is not None:
        out.print()
        out.print(
            f"The fewest replicas, always there, that have 95 % of the first tokens within {given.ttft:g} s and refuse "
            f"at most one request in a thousand: {fewest}.",
            highlight=False,
        )
    out.print()
    for name in runs:
        if name in POLICIES:
            out.print(f"{name}: {POLICIES[name].summary}.", style="dim", highlight=False)
    out.print(
        "'refused': the queue was full, or the wait too long. Replicas are those with GPUs, starting and draining ones "
        "too. Waiting is exact for a load that is spread evenly over the ready replicas.",
        style="dim",
        highlight=False,
    )


def _results(runs: Mapping[str, Measured], capacity: Capacity, given: "Given") -> Table:
    table = _table(
        "", "peak", "mean", "most queued", "refused", "TTFT p50", "p95", "p99", f"in {given.ttft:g} s", "GPU-hours"
    )
    if given.price is not None:
        table.add_column("cost", justify="right")
    for name, run in runs.items():
        hours = run.gpu_hours(capacity.gpus)
        table.add_row(
            name, f"{run.peak_replicas:,}", f"{run.replica_seconds / run.seconds:,.1f}", f"{run.peak_queued:,}",
            _part(run.refused, run.arrived), *(_seconds(one) for one in run.ttft(*SHARES)),
            f"{run.within(given.ttft):.1%}", f"{hours:,.1f}",
            *([f"${hours * given.price:,.2f}"] if given.price is not None else []),
        )  # fmt: skip
    return table


def _over_time(runs: Mapping[str, Measured]) -> Table:
    """Ready replicas, those that start, and the queue, at a few moments."""
    some = next(iter(runs.values()))
    table = _table("at", "requests/s", *runs)
    rates = dict(some.rates())
    moments = _moments(some)
    places = [min(len(some.samples) - 1, round(at / some.step)) for at in moments]
    for at, earlier, later in zip(moments, [0, *places], places, strict=False):
        between = [rates[some.samples[number].at] for number in range(earlier + 1, later + 1)]
        rate = sum(between) / len(between) if between else 0.0
        table.add_row(
            _time(at), f"{rate:.3g}" if between else "",
            *(_moment(run.samples[later]) for run in runs.values()),
        )  # fmt: skip
    return table


def _moments(run: Measured) -> list[float]:
    """Round moments, spread evenly."""
    return [at for at, _ in ticks(run.seconds, MOMENTS)]


def _moment(sample: Sample) -> str:
    starting = f"+{sample.ordered - sample.ready}" if sample.ordered > sample.ready else ""
    return f"{sample.ready}{starting}" + (f", {sample.queued} wait" if sample.queued else "")


def print_needs(needs: Iterable[Need], capacity: Capacity, given: "Given") -> None:
    """What each rate needs."""
    out = console()
    out.print(f"A replica {_replica(capacity, given)}.", highlight=False)
    out.print()
    table = _table("requests/s", "replicas", "TTFT p95", "with headroom", "GPUs")
    if given.price is not None:
        table.add_column("an hour", justify="right")
    for one in needs:
        gpus = one.ordered * capacity.gpus
        table.add_row(
            f"{one.rate:,g}", f"{one.fewest:,}", _seconds(one.measured.ttft(0.95)[0]), f"{one.ordered:,}", f"{gpus:,}",
            *([f"${gpus * given.price:,.2f}"] if given.price is not None else []),
        )  # fmt: skip
    out.print(table)
    out.print()
    out.print(
        f"'replicas': the fewest that have 95 % of the first tokens within {given.ttft:g} s at a steady rate, and "
        "refuse at most one request in a thousand. 'with headroom': those that the autoscaler's formula keeps, so that "
        "one more is there in time; GPUs and dollars are theirs.",
        style="dim",
        highlight=False,
    )


def need_records(needs: Iterable[Need], capacity: Capacity, given: "Given") -> dict[str, Any]:
    """What each rate needs, for a program."""
    return {
        "replica": _capacity_record(capacity),
        "needs": [
            {
                "requests_per_second": one.rate,
                "replicas": one.fewest,
                "replicas_with_headroom": one.ordered,
                "gpus": one.ordered * capacity.gpus,
                "cost_per_hour": None if given.price is None else one.ordered * capacity.gpus * given.price,
                "ttft_p95_s": one.measured.ttft(0.95)[0],
            }
            for one in needs
        ],
    }


def run_records(runs: Mapping[str, Measured], capacity: Capacity, fewest: int | None, given: "Given") -> dict[str, Any]:
    """The runs for a program; `samples` are lists in the order of their first."""
    return {
        "replica": _capacity_record(capacity),
        "fewest_replicas": fewest,
        "runs": {name: _run_record(run, capacity, given) for name, run in runs.items()},
    }


def _run_record(run: Measured, capacity: Capacity, given: "Given") -> dict[str, Any]:
    hours = run.gpu_hours(capacity.gpus)
    return {
        "seconds": run.seconds,
        "requests": run.arrived,
        "refused": run.refused,
        "unfinished": run.left,
        "peak_replicas": run.peak_replicas,
        "peak_queued": run.peak_queued,
        "replica_seconds": run.replica_seconds,
        "gpu_hours": hours,
        "cost": None if given.price is None else hours * given.price,
        "ttft_s": dict(zip(("p50", "p95", "p99"), run.ttft(*SHARES), strict=True)),
        "in_time": run.within(given.ttft),
        "samples": [Sample._fields, *run.samples],
    }


def _capacity_record(capacity: Capacity) -> dict[str, Any]:
    return {
        "requests_per_second": capacity.requests_per_second,
        "concurrency": capacity.concurrency,
        "seconds": capacity.seconds,
        "first_token_seconds": capacity.first_token_seconds,
        "gpus": capacity.gpus,
    }


def _replica(capacity: Capacity, given: "Given") -> str:
    gpus = f"{capacity.gpus} {given.gpu or 'GPU'}{'s' if capacity.gpus > 1 and not given.gpu else ''}"
    if given.gpu:
        gpus = f"{capacity.gpus} x {given.gpu}"
    return (
        f"serves {capacity.requests_per_second:.3g} a second, {capacity.concurrency} at a time, "
        f"each for {capacity.seconds:.3g} s ({gpus}, ready after {given.cold_start:g} s)"
    )


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"


def _part(count: int, of: int) -> str:
    share = f"{count / of:.1%}" if count >= of / 1000 else "< 0.1%"
    return f"{count:,}" + (f" ({share})" if count else "")
