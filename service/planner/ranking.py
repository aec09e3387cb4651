"""Which models of the catalogue meet given requirements, best first, and why the others do not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.catalog.catalog import Catalog
from service.catalog.model import Licence, Model, Task
from service.catalog.names import Variant
from service.planner import blocks, quantization
from service.planner.gpus import Gpu
from service.planner.memory import Demand, Fit, degrees, fit
from service.planner.quantization import Form, forms, parts, why_not
from service.planner.speed import Speed, speed

READABLE = 10.0  # tokens per second that one user needs to read along

Grade = Literal["meets", "slow", "crowded", "unfit"]
# The better the grade, the earlier. Among equals the larger model comes first: what is known of quality here is size.
GRADES: tuple[Grade, ...] = ("meets", "slow", "crowded", "unfit")


# Which variants can do another one's work: a model that follows instructions converses too.
SUBSTITUTES: Mapping[Variant, tuple[Variant, ...]] = MappingProxyType(
    {"chat": ("chat", "instruct"), "instruct": ("instruct", "chat")}
)


@dataclass(frozen=True)
class Requirements:
    """What is asked for: models for `task`, which was called `subject`, on `gpu_count` of `gpu`.

    `context` is in tokens; `users` are requests at the same time. `form` None leaves the quantization open.
    `commercial` rules out licences that are not known to allow commercial use.
    """

    subject: str
    task: Task
    gpu: Gpu
    gpu_count: int = 1
    context: int = 4096
    users: int = 1
    form: Form | None = None
    commercial: bool = False


@dataclass(frozen=True)
class RankedModel:
    """A model in its best form: `replicas` engines of it, each on `fit.degree` GPUs, share the users.

    `grade`: it `meets` the requirements; or holds every user, but is `slow`; or is too `crowded` to hold every user;
    or is `unfit`. In all but the first case `why` gives the reason.
    """

    model: Model
    grade: Grade
    parameters: int | None = None
    active: int | None = None
    fit: Fit | None = None
    speed: Speed | None = None
    replicas: int = 0
    why: str | None = None

    @property
    def held(self) -> int | None:
        """How many requests all engines hold together; None for a model without a KV cache."""
        return int(self.fit.requests) * self.replicas if self.fit and self.fit.requests is not None else None


def task_of(variant: Variant) -> Task:
    """The task of a variant: what it and its substitutes do."""
    return Task(about=variant, suits=SUBSTITUTES.get(variant, (variant,)))


def rank(required: Requirements, catalog: Catalog) -> list[RankedModel]:
    """Every model that is made for the task, best first."""
    suited = (model for model in catalog.models.values() if required.task.suited(model))
    return sorted((_grade(required, model, catalog.licence(model)) for model in suited), key=_order)


def _order(ranked: RankedModel) -> tuple[int, int, float]:
    swift = ranked.speed.each or 0.0 if ranked.speed else 0.0
    return GRADES.index(ranked.grade), -(ranked.parameters or 0), -swift


def _shortfall(ranked: RankedModel) -> tuple[int, float]:
    """How far a model is from what is required: its grade, and within it how few it holds or how slowly."""
    if ranked.grade == "crowded":
        return GRADES.index(ranked.grade), -(ranked.held or 0)
    swift = ranked.speed.each if ranked.speed else None
    return GRADES.index(ranked.grade), -swift if ranked.grade == "slow" and swift else 0.0


def _grade(required: Requirements, model: Model, terms: Licence) -> RankedModel:
    if why := _ruled_out(required, model, terms):
        return RankedModel(model, "unfit", why=why)
    found = parts(model)
    assert found is not None, "models of unknown size are ruled out"
    active = round(found.lookup + found.active) if found.experts else None
    tried = [ranked for form in _forms(required, model) if (ranked := _best(required, model, form))]
    if not tried:
        return RankedModel(model, "unfit", found.total, active, why=_why_nothing_fits(required, model))
    # Forms come with the most exact first, so the most exact of those that do equally well is taken.
    best = min(tried, key=_shortfall)
    return RankedModel(model, best.grade, found.total, active, best.fit, best.speed, best.replicas, best.why)


def _ruled_out(required: Requirements, model: Model, terms: Licence) -> str | None:
    """What forbids the model whatever the memory."""
    if model.network and model.network.refused:
        return model.network.refused
    if unknown := [*quantization.unknown(model), *blocks.missing(model)]:
        return f"its shape is unknown: {', '.join(dict.fromkeys(unknown))}"
    longest = max(model.context or 0, model.longest or 0)
    if longest < required.context:
        return f"its context is {longest:,} tokens" if longest else "its context is unknown"
    if required.commercial and not terms.commercial:
        return f"its licence forbids commercial use ({terms.name})" if terms.name else "its licence is unknown"
    if required.form and required.form not in forms(model):
        return f"its weights come as {', '.join(forms(model))} only"
    return None


def _forms(required: Requirements, model: Model) -> Iterable[Form]:
    wanted = (required.form,) if required.form else forms(model)
    return (form for form in wanted if form in forms(model) and why_not(form, required.gpu) is None)


def _best(required: Requirements, model: Model, form: Form) -> RankedModel | None:
    """The best way to divide the GPUs among engines of this form; None where no engine fits."""
    demand = Demand(required.context)
    ways = []
    for degree in degrees(model, form, required.gpu_count):
        found = fit(model, required.gpu, form, degree, demand)
        if found and found.why is None:
            ways.append(_way(required, model, found, required.gpu_count // degree, demand))
    return min(ways, key=_order, default=None)


def _way(required: Requirements, model: Model, found: Fit, replicas: int, demand: Demand) -> RankedModel:
    users = -(-required.users // replicas)
    bound = speed(model, found, demand, users)
    if found.requests is not None and int(found.requests) < users:
        why = f"holds {int(found.requests) * replicas} of {required.users} users"
        return RankedModel(model, "crowded", fit=found, speed=bound, replicas=replicas, why=why)
    if bound and bound.each is not None and bound.each < READABLE:
        why = f"at most {bound.each:.1f} tokens/s for each user"
        return RankedModel(model, "slow", fit=found, speed=bound, replicas=replicas, why=why)
    return RankedModel(model, "meets", fit=found, speed=bound, replicas=replicas)


def _why_nothing_fits(required: Requirements, model: Model) -> str:
    """What the most compressed form lacks on the most GPUs that the model can be divided among."""
    known = list(_forms(required, model))
    if not known:
        return why_not(required.form or forms(model)[0], required.gpu) or "no form of it runs there"
    found = fit(
        model, required.gpu, known[-1], degrees(model, known[-1], required.gpu_count)[-1], Demand(required.context)
    )
    assert found is not None and found.why, "nothing fitted"
    return f"{known[-1]}: {found.why}"
