"""A model on every GPU in every form: whether it fits, what it holds, how fast it can be, what it costs."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.catalog.model import Model
from service.planner import blocks, quantization
from service.planner.cost import Cost, Prices, cost
from service.planner.gpus import Gpu
from service.planner.memory import Demand, Fit, fit, smallest, why_indivisible
from service.planner.quantization import Form, forms, parts, published_bytes, weight_bytes, why_not
from service.planner.speed import Speed, speed


@dataclass(frozen=True)
class MemoryRequirement:
    """What a model needs on whatever GPU. Bytes; None is unknown, and `unknown` names the sizes that are missing.

    `active` are the parameters that one token makes use of, where that is not all of them. `token` and `request` are of
    the KV cache: one more token where every layer keeps it, and a whole request.
    """

    parameters: int | None
    active: int | None
    published: int | None
    weights: dict[Form, int | None]
    token: int | None
    request: int | None
    unknown: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One GPU and form. `why` says what is in the way, where something is."""

    gpu: Gpu
    form: Form
    fit: Fit | None
    speed: Speed | None
    cost: Cost | None
    why: str | None


def memory_requirement(model: Model, demand: Demand) -> MemoryRequirement:
    """What the model needs for one request of the asked context."""
    found = parts(model)
    network = model.network
    unknown = (*quantization.unknown(model), *blocks.missing(model))
    token = request = None
    if network and not blocks.missing(model):
        full, sliding = blocks.layers(network, model.shape)
        each = blocks.token_bytes(network, model.shape, demand.kv_bytes)
        token = each * (full + sliding)
        request = each * (full * demand.context + sliding * min(model.shape.sliding_window or 0, demand.context))
    return MemoryRequirement(
        parameters=found.total if found else model.parameters,
        active=round(found.lookup + found.active) if found and found.experts else None,
        published=published_bytes(model),
        weights={form: weight_bytes(model, form) for form in forms(model)},
        token=token,
        request=request,
        unknown=tuple(dict.fromkeys(unknown)),
        remarks=tuple(_remarks(model)),
    )


def plan(
    model: Model,
    gpus: Iterable[Gpu],
    demand: Demand,
    wanted: Iterable[Form] | None = None,
    *,
    degree: int | None = None,
    users: int | None = None,
    prices: Prices | None = None,
) -> list[Row]:
    """A row for every GPU and form (`wanted`, or all that the model has).

    `degree` fixes the number of GPUs; without it the smallest that holds `users` requests, or one, is taken.
    """
    known = [form for form in (wanted or forms(model)) if form in forms(model)]
    return [
        row_of(model, gpu, form, demand, degree=degree, users=users, prices=prices or Prices())
        for gpu in gpus
        for form in known
    ]


def row_of(
    model: Model, gpu: Gpu, form: Form, demand: Demand, *, degree: int | None, users: int | None, prices: Prices
) -> Row:
    """The row of one GPU and form."""
    why = why_not(form, gpu) or _no_cache(gpu, demand) or (why_indivisible(model, form, degree) if degree else None)
    if why:
        return Row(gpu, form, None, None, None, why)
    found = fit(model, gpu, form, degree, demand) if degree else smallest(model, gpu, form, demand, users or 1)
    if found is None:
        return Row(gpu, form, None, None, None, "the size of its weights is unknown")
    bound = speed(model, found, demand, users)
    why = found.why or ("vLLM does not run it" if model.network and model.network.refused else None)
    if why is None and users and found.requests is not None and found.requests < users:
        why = f"holds {int(found.requests)} of {users}"
    return Row(gpu, form, found, bound, cost(found, bound, demand, prices) if bound else None, why)


def _no_cache(gpu: Gpu, demand: Demand) -> str | None:
    if demand.kv_bytes == 1 and gpu.fp8 != "arithmetic":
        return f"{gpu.name} has no fp8 arithmetic, and so perhaps no fp8 cache"
    return None


def _remarks(model: Model) -> Iterable[str]:
    network = model.network
    if network and network.refused:
        yield f"The pinned vLLM does not run it: {network.refused}."
    if network and network.text_class and network.text_class != model.architecture:
        yield "It also sees images; its vision tower is not counted."
    if model.dtype == "float32":
        yield "Its weights are published in float32, twice what an engine keeps of them."
    if model.note:
        yield model.note
    for copy in model.copies:
        yield f"As {copy.quantization}: {copy.hub}."
    if "int4" in forms(model) and not any(copy.quantization in ("awq", "gptq") for copy in model.copies):
        yield "int4 needs an AWQ or GPTQ copy, and the catalogue knows none; fp8 vLLM makes itself when it loads."
