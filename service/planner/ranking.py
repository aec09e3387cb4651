"""Which models of the catalogue grant a wish, best first, and why the others do not."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from service.catalog.catalog import Catalog
from service.catalog.model import Licence, Model
from service.planner import blocks, quantization
from service.planner.memory import Demand, Fit, degrees, fit
from service.planner.quantization import Form, forms, parts, why_not
from service.planner.speed import Speed, speed
from service.planner.wish import Wish

READABLE = 10.0  # tokens per second that one user needs to read along

Grade = Literal["grants", "slow", "crowded", "unfit"]
# The better the grade, the earlier. Among equals the larger model comes first: what is known of quality here is size.
GRADES: tuple[Grade, ...] = ("grants", "slow", "crowded", "unfit")


@dataclass(frozen=True)
class Choice:
    """A model for a wish, in its best form: `copies` engines of it, each on `fit.degree` GPUs, share the users.

    `grade`: it grants the wish; or holds everybody, but `slow`; or is too `crowded` to hold everybody; or is `unfit`,
    and `why` says what is in the way.
    """

    model: Model
    grade: Grade
    parameters: int | None = None
    active: int | None = None
    fit: Fit | None = None
    speed: Speed | None = None
    copies: int = 0
    why: str | None = None

    @property
    def held(self) -> int | None:
        """How many requests all engines hold together; None for a model without a KV cache."""
        return int(self.fit.requests) * self.copies if self.fit and self.fit.requests is not None else None


def rank(wish: Wish, catalog: Catalog) -> list[Choice]:
    """Every model that does the wish's task well, best first."""
    made = (model for model in catalog.models.values() if wish.task.suited(model))
    return sorted((_choose(wish, model, catalog.licence(model)) for model in made), key=_order)


def _order(choice: Choice) -> tuple[int, int, float]:
    swift = choice.speed.each or 0.0 if choice.speed else 0.0
    return GRADES.index(choice.grade), -(choice.parameters or 0), -swift


def _shortfall(choice: Choice) -> tuple[int, float]:
    """How far a choice is from the wish: its grade, and within it how few it holds or how slowly."""
    if choice.grade == "crowded":
        return GRADES.index(choice.grade), -(choice.held or 0)
    swift = choice.speed.each if choice.speed else None
    return GRADES.index(choice.grade), -swift if choice.grade == "slow" and swift else 0.0


def _choose(wish: Wish, model: Model, terms: Licence) -> Choice:
    if why := _ruled_out(wish, model, terms):
        return Choice(model, "unfit", why=why)
    found = parts(model)
    assert found is not None, "models of unknown size are ruled out"
    active = round(found.lookup + found.active) if found.experts else None
    tried = [choice for form in _forms(wish, model) if (choice := _best(wish, model, form))]
    if not tried:
        return Choice(model, "unfit", found.total, active, why=_why_nothing_fits(wish, model))
    # Forms come with the most exact first, so the most exact of those that grant the wish is taken.
    best = min(tried, key=_shortfall)
    return Choice(model, best.grade, found.total, active, best.fit, best.speed, best.copies, best.why)


def _ruled_out(wish: Wish, model: Model, terms: Licence) -> str | None:
    """What forbids the model whatever the memory."""
    if model.network and model.network.refused:
        return model.network.refused
    if unknown := [*quantization.unknown(model), *blocks.missing(model)]:
        return f"its shape is unknown: {', '.join(dict.fromkeys(unknown))}"
    longest = max(model.context or 0, model.longest or 0)
    if longest < wish.context:
        return f"its context is {longest:,} tokens" if longest else "its context is unknown"
    if wish.commercial and not terms.commercial:
        return f"its licence forbids commercial use ({terms.name})" if terms.name else "its licence is unknown"
    if wish.form and wish.form not in forms(model):
        return f"its weights come as {', '.join(forms(model))} only"
    return None


def _forms(wish: Wish, model: Model) -> Iterable[Form]:
    wanted = (wish.form,) if wish.form else forms(model)
    return (form for form in wanted if form in forms(model) and why_not(form, wish.gpu) is None)


def _best(wish: Wish, model: Model, form: Form) -> Choice | None:
    """The best way to divide the wish's GPUs among engines of this form; None where no engine fits."""
    demand = Demand(wish.context)
    ways = []
    for degree in degrees(model, form, wish.cards):
        found = fit(model, wish.gpu, form, degree, demand)
        if found and found.why is None:
            ways.append(_way(wish, model, found, wish.cards // degree, demand))
    return min(ways, key=_order, default=None)


def _way(wish: Wish, model: Model, found: Fit, copies: int, demand: Demand) -> Choice:
    users = -(-wish.users // copies)
    bound = speed(model, found, demand, users)
    if found.requests is not None and int(found.requests) < users:
        why = f"holds {int(found.requests) * copies} of {wish.users} users"
        return Choice(model, "crowded", fit=found, speed=bound, copies=copies, why=why)
    if bound and bound.each is not None and bound.each < READABLE:
        why = f"at most {bound.each:.1f} tokens/s for each user"
        return Choice(model, "slow", fit=found, speed=bound, copies=copies, why=why)
    return Choice(model, "grants", fit=found, speed=bound, copies=copies)


def _why_nothing_fits(wish: Wish, model: Model) -> str:
    """What the most compressed form lacks on the most GPUs that the model can be divided among."""
    known = list(_forms(wish, model))
    if not known:
        return why_not(wish.form or forms(model)[0], wish.gpu) or "no form of it runs there"
    found = fit(model, wish.gpu, known[-1], degrees(model, known[-1], wish.cards)[-1], Demand(wish.context))
    assert found is not None and found.why, "nothing fitted"
    return f"{known[-1]}: {found.why}"
