"""`roundhouse simulate`: replicas, queue, waiting times and cost of a load, before anything is bought."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from service.autoscaling import picture, sizing, traffic
from service.autoscaling.autoscaler import SYNC
from service.autoscaling.capacity import EFFICIENCY
from service.autoscaling.demand import DRAIN_SECONDS, KV_CACHE_TARGET
from service.autoscaling.policies import COLD_STARTS, DOWN_WINDOW, POLICIES
from service.cli import simulation_tables as tables
from service.cli.simulation_inputs import Given, Load, load_of, parsed, replica_of, runs_of, site_of
from service.planner.quantization import FORMATS

AnyFunction = Callable[..., Any]
DURATION = parsed(traffic.seconds_of)
EXAMPLE = "roundhouse simulate --steps 2:10m,20:20m,2:30m --requests-per-second 2 --concurrency 32"
FILE = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)


def duration(name: str, default: str | None, help: str) -> Callable[[AnyFunction], AnyFunction]:
    """An option that is a duration."""
    return click.option(
        name, metavar="DURATION", type=DURATION, default=default, show_default=default is not None, help=help
    )


@click.command(epilog=f"Example:\n\n\b\n  {EXAMPLE}\n\ndocs/scaling.md explains it.")
@click.argument("name", metavar="[MODEL]", required=False)
@click.option("--log", "logs", multiple=True, type=FILE, help="A gateway's log of requests; several are put together.")
@click.option("--model", "served", help="The model's id in the log, if there are several and it is not MODEL.")
@click.option(
    "--trace", type=FILE, help="Arrivals as CSV or JSON lines: time, prompt_tokens, completion_tokens, seconds."
)
@click.option(
    "--steps",
    metavar="STEPS",
    type=parsed(traffic.phases_of),
    help="Made traffic: requests/s and how long: 10:150s,2:5m.",
)
@click.option(
    "--daily",
    metavar="LEAST:MOST",
    type=parsed(traffic.daily_of),
    help="Made traffic: requests/s at 4:00 and at 16:00.",
)
@click.option(
    "--burst", metavar="BURST", type=parsed(traffic.burst_of), help="More requests/s, how long, how often: 50:30s:10m."
)
@duration("--duration", "1d", "How long a daily curve goes on.")
@click.option(
    "--need", metavar="RATES", type=parsed(tables.rates_of), help="How many replicas these requests/s need: 10,100."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of made traffic: the same number, the same requests."
)
@click.option("--even", is_flag=True, help="Made traffic comes evenly, not at random.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=1000, show_default=True, help="Of a made request.")
@click.option("--output-tokens", type=click.IntRange(1), default=250, show_default=True, help="Of a made request.")
@click.option("--gpu", metavar="NAME", help="MODEL's capacity as `roundhouse plan` says, on this GPU.")
@click.option("--quantization", type=click.Choice(list(FORMATS)), help="The form of the weights, if not the published.")
@click.option("--tensor-parallel", type=click.IntRange(1), help="GPUs of a replica, if not the fewest that hold MODEL.")
@click.option(
    "--efficiency", type=click.FloatRange(0, 1, min_open=True), default=EFFICIENCY, show_default=True,
    help="The share of the plan's bounds that is reached.",
)  # fmt: skip
@click.option("--requests-per-second", type=click.FloatRange(0, min_open=True), help="What a replica serves, measured.")
@click.option(
    "--service-seconds", type=click.FloatRange(0, min_open=True), help="Or how long a request runs in a full one."
)
@click.option("--concurrency", type=click.IntRange(1), help="Requests that a replica runs at a time.")
@click.option(
    "--first-token-seconds",
    type=click.FloatRange(0),
    default=0.0,
    help="Of those that a request runs; the log knows them.",
)
@click.option(
    "--gpus", type=click.IntRange(1), default=1, show_default=True, help="Of a replica whose capacity is given."
)
@click.option(
    "--kv-cache", type=click.FloatRange(0, 1), default=KV_CACHE_TARGET, show_default=True,
    help="How full the KV cache of a full replica is.",
)  # fmt: skip
@click.option(
    "--replicas", "numbers", multiple=True, type=click.IntRange(1), help="So many, always. Several are compared."
)
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(list(POLICIES)), help="Scaled so. Several are compared."
)
@click.option("--min-replicas", type=click.IntRange(0), default=1, show_default=True)
@click.option("--max-replicas", type=click.IntRange(1), default=64, show_default=True)
@click.option("--initial-replicas", type=click.IntRange(0), help="When it begins, if not what the first minutes need.")
@duration("--cold-start", "120s", "From the order of a replica to ready.")
@duration("--sync", f"{SYNC:g}s", "How often Kubernetes looks.")
@duration("--drain", f"{DRAIN_SECONDS:g}s", "Within which a queue shall be gone.")
@duration(
    "--scale-down-window",
    None,
    f"Before replicas are removed, if not {DOWN_WINDOW:g} s or {COLD_STARTS:g} cold starts.",
)
@click.option(
    "--scale-down-pods", type=click.IntRange(1), default=1, show_default=True, help="Removed at most in two minutes."
)
@duration("--cooldown", None, f"KEDA's, before the step to 0 replicas, if not {COLD_STARTS:g} cold starts.")
@click.option(
    "--blind", metavar="FROM:DURATION", type=parsed(tables.span_of), help="Metrics are missing so long: 10m:5m."
)
@click.option(
    "--fallback", type=click.IntRange(0), default=0, help="At least so many replicas when KEDA has no metrics."
)
@click.option("--max-queued", type=click.IntRange(0), default=512, show_default=True, help="As in the fleet file.")
@duration("--queue-timeout", "10s", "As the setting of that name.")
@duration("--ttft", "2s", "Within which 95 % of first tokens shall come.")
@click.option("--price", type=click.FloatRange(0), help="Dollars of a GPU and hour: the fleet file's gpu_hour_price.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture there, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def simulate(
    name: str | None, need: tuple[float, ...] | None, picture: Path | None, as_json: bool, **options: Any
) -> None:
    """Say what becomes of a load: replicas, queue, waiting times, GPU-hours.

    The load is a gateway's own log, a file, or made. A replica's capacity is MODEL's on a GPU, or given, or what the
    log's requests took. With --replicas their number is fixed, with --policy an autoscaler's.
    """
    given = Given(name=name, **options)
    try:
        if need:
            _size(given, need, as_json)
        else:
            _run(given, picture, as_json)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _size(given: Given, rates: tuple[float, ...], as_json: bool) -> None:
    given.refuse_load("--need makes its own traffic")
    capacity = replica_of(given, Load((), None, None))
    site = site_of(given, capacity)
    needs = [sizing.need(rate, capacity, site, given.ttft, given.seed) for rate in rates]
    if as_json:
        click.echo(json.dumps(tables.need_records(needs, capacity, given), indent=2))
    else:
        tables.print_needs(needs, capacity, given)


def _run(given: Given, path: Path | None, as_json: bool) -> None:
    load = load_of(given)
    capacity = replica_of(given, load)
    arrivals, until = load.arrivals(capacity, given)
    runs = runs_of(given, capacity, arrivals, until)
    fewest = None
    if given.numbers:
        site = site_of(given, capacity)
        known = dict(zip(dict.fromkeys(given.numbers), runs.values(), strict=False))  # the fixed numbers come first
        fewest = sizing.fewest_replicas(arrivals, until, capacity, site, given.ttft, known)[0]
    if path:
        try:
            path.write_text(picture.draw(runs), encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--picture {path}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(tables.run_records(runs, capacity, fewest, given), indent=2))
    else:
        tables.print_runs(runs, capacity, fewest, given)


COMMANDS = (simulate,)
