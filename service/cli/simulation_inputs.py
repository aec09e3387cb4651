"""What `roundhouse simulate` was asked: its options as a load, a replica's capacity, and runs."""

import gzip
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from service.autoscaling import trace, traffic
from service.autoscaling.autoscaler import Autoscaler, Fixed, Keda, Spec, Zero
from service.autoscaling.capacity import Capacity, Size
from service.autoscaling.demand import HEADROOM, Drain
from service.autoscaling.measured import Measured
from service.autoscaling.policies import COLD_STARTS, DOWN_WINDOW, POLICIES, UP, down
from service.autoscaling.simulation import Arrival, Simulation, Site
from service.autoscaling.trace import Request
from service.autoscaling.traffic import Burst, Phase
from service.cli import planning
from service.cli.configured import refused, settings_and_catalog
from service.planner import gpus
from service.planner.memory import UTILIZATION, Demand
from service.planner.plan import plan
from service.planner.quantization import FORMATS, forms

SAMPLES = 600  # of a run
FIRST = 300.0  # seconds from whose arrivals the replicas at the beginning are taken
KEDA_POLLING = 15.0
KEDA_FAILURES = 3


def parsed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option whose text `parse` reads: its ValueError says what is wrong with the option."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


@dataclass(frozen=True)
class Given:
    """The options. Durations are seconds."""

    name: str | None
    logs: tuple[Path, ...]
    served: str | None
    trace: Path | None
    steps: tuple[Phase, ...] | None
    daily: tuple[float, float] | None
    burst: Burst | None
    duration: float
    seed: int
    even: bool
    prompt_tokens: int
    output_tokens: int
    gpu: str | None
    quantization: str | None
    tensor_parallel: int | None
    efficiency: float
    requests_per_second: float | None
    service_seconds: float | None
    concurrency: int | None
    first_token_seconds: float
    gpus: int
    kv_cache: float
    numbers: tuple[int, ...]
    policies: tuple[str, ...]
    min_replicas: int
    max_replicas: int
    initial_replicas: int | None
    cold_start: float
    sync: float
    drain: float
    scale_down_window: float | None
    scale_down_pods: int
    cooldown: float | None
    blind: tuple[float, float] | None
    fallback: int
    max_queued: int
    queue_timeout: float
    ttft: float
    price: float | None

    def refuse_load(self, why: str) -> None:
        """Raises ValueError where a load was given."""
        if self.logs or self.trace or self.steps or self.daily or self.burst or self.numbers or self.policies:
            raise ValueError(f"{why}: leave out the load, --replicas and --policy")


@dataclass(frozen=True)
class Load:
    """The requests, of a log or file, or their rate a second; and the seconds it goes on, if made."""

    requests: tuple[Request, ...]
    rate: traffic.Rate | None
    until: float | None

    def arrivals(self, capacity: Capacity, given: Given) -> tuple[list[Arrival], float]:
        """The arrivals, and when the simulation ends: for requests that happened, when the last has had its time."""
        if self.rate and self.until:
            chance = None if given.even else random.Random(given.seed)
            found = list(traffic.made(self.rate, self.until, capacity.times(size_of(given)), chance))
            if not found:
                raise ValueError("the load has no request: give a higher rate, or let it go on for longer")
            return found, self.until
        as_measured = not (given.gpu or given.requests_per_second or given.service_seconds)
        found = trace.arrivals(self.requests, capacity, as_measured=as_measured)
        return found, found[-1].at + max(one.seconds for one in found)


def size_of(given: Given) -> Size:
    """The tokens of a made request."""
    return Size(given.prompt_tokens, given.output_tokens)


def load_of(given: Given) -> Load:
    """The one load that was given; raises ValueError."""
    kinds = [bool(given.logs), bool(given.trace), given.steps is not None, given.daily is not None]
    if sum(kinds) != 1:
        raise ValueError("give one load: --log, --trace, --steps or --daily; or --need, for what rates need")
    if given.logs or given.trace:
        if given.burst:
            raise ValueError("--burst is for made traffic: --steps or --daily")
        requests = _logged(given) if given.logs else _traced(given.trace)
        return Load(tuple(requests), None, None)
    if given.steps is not None:
        rate, until = traffic.stepped(given.steps), sum(one.seconds for one in given.steps)
    else:
        assert given.daily is not None, "one of the four was given"
        rate, until = traffic.daily(*given.daily), given.duration
    if not until:
        raise ValueError("--duration must be more than 0")
    return Load((), traffic.with_burst(rate, given.burst) if given.burst else rate, until)


def _logged(given: Given) -> list[Request]:
    found: dict[str, list[Request]] = {}
    for path in given.logs:
        with _lines(path) as lines:
            for model, request in trace.read_log(lines):
                found.setdefault(model, []).append(request)
    if not found:
        names = ", ".join(map(str, given.logs))
        raise ValueError(f'{names}: no requests; they are the lines of a gateway\'s log that have "event":"request"')
    wanted = given.served or (given.name if given.name in found or len(found) > 1 else next(iter(found)))
    if wanted not in found:
        counts = Counter({model: len(requests) for model, requests in found.items()}).most_common()
        known = ", ".join(f"{model} ({count:,} requests)" for model, count in counts)
        what = f"no requests for '{wanted}'" if wanted else "requests for several models: choose one with --model"
        raise ValueError(f"the log has {what}; it has {known}")
    return found[wanted]


def _traced(path: Path | None) -> list[Request]:
    assert path is not None, "one of the four was given"
    read: Callable[[IO[str]], Iterator[Request]] = trace.read_csv
    if path.suffixes[:1] in ([".jsonl"], [".json"]):
        read = trace.read_jsonl
    try:
        with _lines(path) as lines:
            found = list(read(lines))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not found:
        raise ValueError(f"{path}: no requests")
    return found


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    """A file's lines, `-` for standard input; a name that ends in .gz is unpacked."""
    try:
        if str(path) == "-":
            yield sys.stdin
        elif path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
                yield file
        else:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield file
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def replica_of(given: Given, load: Load) -> Capacity:
    """What a replica can take; raises ValueError where the options do not say it, or say it twice."""
    ways = [given.gpu, given.requests_per_second, given.service_seconds]
    if sum(one is not None for one in ways) > 1:
        raise ValueError("say once what a replica can take: --gpu, --requests-per-second or --service-seconds")
    if given.gpu is not None:
        return _planned(given, load)
    if given.concurrency is None:
        raise ValueError(
            "say what a replica can take: MODEL and --gpu; or --concurrency with --requests-per-second or "
            "--service-seconds; or --concurrency alone, where the requests of a log or file say how long they ran"
        )
    seconds = given.service_seconds or trace.mean_seconds(load.requests)
    if given.requests_per_second is not None:
        seconds = given.concurrency / given.requests_per_second
    if not seconds:
        raise ValueError("how long a request runs is unknown: give --requests-per-second or --service-seconds")
    first = [one.first for one in load.requests if one.first is not None]
    mean = sum(first) / len(first) if first else given.first_token_seconds
    return Capacity(given.concurrency / seconds, given.concurrency, mean, given.gpus)


def _planned(given: Given, load: Load) -> Capacity:
    if given.name is None:
        raise ValueError("--gpu is for a MODEL of the catalogue: name it")
    _, catalog = settings_and_catalog()
    with refused():
        known = gpus.load(planning.GPUS)
    model, gpu = planning.find_model(given.name, catalog), planning.find_gpu(str(given.gpu), known)
    form = FORMATS[given.quantization] if given.quantization else forms(model)[0]
    if form not in forms(model):
        raise ValueError(f"the weights of {model.id} come as {', '.join(forms(model))} only")
    size = trace.mean_size(load.requests) or size_of(given)
    demand = Demand(int(size.prompt + size.output), 2, UTILIZATION)
    (row,) = plan(model, [gpu], demand, [form], degree=given.tensor_parallel, users=given.concurrency)
    return Capacity.of_plan(row, size, given.efficiency)


def site_of(given: Given, capacity: Capacity) -> Site:
    """Where the requests are served."""
    start, lasts = given.blind or (float("inf"), 0.0)
    return Site(
        capacity.concurrency, given.cold_start, given.max_queued, given.queue_timeout, kv_cache=given.kv_cache,
        blind=(start, start + lasts),
    )  # fmt: skip


def runs_of(given: Given, capacity: Capacity, arrivals: list[Arrival], until: float) -> dict[str, Measured]:
    """A simulation for each number of replicas and each policy, by name; raises ValueError."""
    if given.min_replicas > given.max_replicas:
        raise ValueError(f"--min-replicas {given.min_replicas} is more than --max-replicas {given.max_replicas}")
    if given.sync < 1 or given.drain < 1:
        raise ValueError(f"{'--sync' if given.sync < 1 else '--drain'} must be a second or more")
    site, step = site_of(given, capacity), max(1.0, until / SAMPLES)
    scalers: dict[str, tuple[int, Autoscaler]] = {
        f"{number} replica{'s' if number > 1 else ''}": (number, Fixed(number)) for number in given.numbers
    }
    settled_after = COLD_STARTS * given.cold_start
    window = max(DOWN_WINDOW, settled_after) if given.scale_down_window is None else given.scale_down_window
    cooldown = settled_after if given.cooldown is None else given.cooldown
    begin = given.initial_replicas if given.initial_replicas is not None else _initial(given, capacity, arrivals, until)
    for name in given.policies or (() if given.numbers else ("load",)):
        signals = POLICIES[name].signals(capacity, Drain(given.drain, given.max_replicas / 2))
        removed = down(given.scale_down_pods, window)
        spec = Spec(signals, given.min_replicas, given.max_replicas, UP, removed, sync=given.sync)
        zero = Zero(KEDA_POLLING, cooldown, cooldown, KEDA_FAILURES, given.fallback, "currentReplicasIfHigher")
        scalers[name] = (begin, Keda(spec, zero))
    return {
        name: Simulation(replace(site, initial=initial), scaler, step).run(arrivals, until)
        for name, (initial, scaler) in scalers.items()
    }


def _initial(given: Given, capacity: Capacity, arrivals: list[Arrival], until: float) -> int:
    first = min(FIRST, until)
    rate = sum(one.number for one in arrivals if one.at < first) / first
    found = -int(-rate // (HEADROOM * capacity.requests_per_second))
    return min(max(found, given.min_replicas), given.max_replicas)
