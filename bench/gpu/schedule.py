"""What to measure next: the most value for each minute, within the minutes that are left. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from service.catalog.engine_args import EngineValue
from service.catalog.model import Model
from service.planner.quantization import Form


@dataclass(frozen=True)
class Subject:
    """A model on the card: `model` as it runs there, its weights' form, and the context in tokens it is served with."""

    model: Model
    form: Form
    context: int


@dataclass(frozen=True)
class Setup:
    """One start of the service: which models, with which further engine settings and variables.

    `minutes` is an estimate of the time until all its engines are ready. `retries` is how often an engine may fail to
    start before the setup counts as failed; where one engine waits for another to make room it may.
    """

    name: str
    subjects: tuple[Subject, ...]
    minutes: float
    engine: dict[str, EngineValue] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    retries: int = 0


@dataclass(frozen=True)
class Experiment:
    """One measurement of a setup. `minutes` without the setup's start; `value` is in no unit, more is better."""

    setup: Setup
    measure: str
    minutes: float
    value: float

    @property
    def id(self) -> str:
        """Its name, and where its result lies: `llama-2-7b-chat/short`."""
        return f"{self.setup.name}/{self.measure}"


def cost(one: Experiment, running: str | None) -> float:
    """Its minutes, with the start of its setup unless that is the one running."""
    return one.minutes + (0.0 if one.setup.name == running else one.setup.minutes)


def choose(
    experiments: Iterable[Experiment], done: Collection[str], left: float, running: str | None
) -> Experiment | None:
    """The experiment to do next, or None where nothing fits into the `left` minutes.

    `done` are the ids of those that have a result already, `running` the name of the setup whose engines are ready.
    """
    fitting = [one for one in experiments if one.id not in done and cost(one, running) <= left]
    # What shares a start shares its cost: a setup is worth what all that still fits of it yields for its minutes.
    return max(fitting, key=lambda one: (_worth(one, fitting, left, running), one.value / max(one.minutes, 1e-9)),
               default=None)  # fmt: skip


def _worth(one: Experiment, fitting: list[Experiment], left: float, running: str | None) -> float:
    """The best value per minute of this experiment together with others of its setup."""
    siblings = sorted(
        (other for other in fitting if other.setup.name == one.setup.name),
        key=lambda other: (other.id != one.id, -other.value / max(other.minutes, 1e-9)),
    )
    minutes = cost(one, running) - one.minutes
    best = value = 0.0
    for other in siblings:
        minutes, value = minutes + other.minutes, value + other.value
        if minutes <= left:
            best = max(best, value / max(minutes, 1e-9))
    return best


def expected(experiments: Iterable[Experiment], done: Collection[str], minutes: float) -> list[Experiment]:
    """What would be done within `minutes` if every estimate were right, in order."""
    known = list(experiments)
    finished, order, left, running = set(done), list[Experiment](), minutes, None
    while one := choose(known, finished, left, running):
        left -= cost(one, running)
        running = one.setup.name
        finished.add(one.id)
        order.append(one)
    return order
