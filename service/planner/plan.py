"""The plan for a model: memory, concurrent requests, throughput bounds and cost, for each GPU and form of weights."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.catalog.model import Model
from service.planner import blocks, quantization
from service.planner.adapters import adapter_bytes
from service.planner.cost import Cost, Prices, cost
from service.planner.gpus import Gpu
from service.planner.memory import Demand, Fit, fit, smallest, why_indivisible
from service.planner.quantization import Form, forms, parts, published_bytes, weight_bytes, why_not
from service.planner.speed import Speed, speed


@dataclass(frozen=True)
class MemoryRequirement:
    """What a model needs on any GPU. Bytes; None means unknown, and `unknown` names the sizes that are missing.

    `active` is the number of parameters that one token uses, for a mixture of experts. `published` is the size of the
    published weights. `token` and `request` are KV cache: of one token that all layers keep, and of a whole request.
    `adapters` is the room for LoRA adapters on a single GPU.
    """

    parameters: int | None
    active: int | None
    published: int | None
    weights: dict[Form, int | None]
    token: int | None
    request: int | None
    adapters: int | None
    unknown: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """The plan for one GPU and form. `why` is the reason if the model cannot be served that way; None if it can."""

    gpu: Gpu
    form: Form
    fit: Fit | None
    speed: Speed | None
    cost: Cost | None
    why: str | None


def memory_requirement(model: Model, demand: Demand) -> MemoryRequirement:
    """What the model needs for one request of `demand.context` tokens.

    KV cache of a request = bytes per token and layer x (full-attention layers x context + sliding-window layers x the
    smaller of window and context).
    """
    found = parts(model)
    network = model.network
    unknown = (*quantization.unknown(model), *blocks.missing(model))
    token = request = None
    if network and not blocks.missing(model):
        full, sliding = blocks.layers(network, model.shape)
        per_layer = blocks.token_bytes(network, model.shape, demand.kv_bytes)
        window = min(model.shape.sliding_window or 0, demand.context)
        token = per_layer * (full + sliding)
        request = per_layer * (full * demand.context + sliding * window)
    return MemoryRequirement(
        parameters=found.total if found else model.parameters,
        active=round(found.lookup + found.active) if found and found.experts else None,
        published=published_bytes(model),
        weights={form: weight_bytes(model, form) for form in forms(model)},
        token=token,
        request=request,
        adapters=adapter_bytes(model.shape, demand.adapters, demand.adapter_rank),
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
    """A row for every GPU and every form of the weights that the model has, among `wanted` if given.

    `degree` fixes the tensor-parallel degree; without it, the fewest GPUs that hold `users` requests (or one) are used.
    """
    available = [form for form in (wanted or forms(model)) if form in forms(model)]
    return [
        row_of(model, gpu, form, demand, degree=degree, users=users, prices=prices or Prices())
        for gpu in gpus
        for form in available
    ]


def row_of(
    model: Model, gpu: Gpu, form: Form, demand: Demand, *, degree: int | None, users: int | None, prices: Prices
) -> Row:
    """The row of one GPU and form."""
    why = (
        why_not(form, gpu)
        or _why_no_fp8_cache(gpu, demand)
        or (why_indivisible(model, form, degree) if degree else None)
    )
    if why:
        return Row(gpu, form, None, None, None, why)
    found = fit(model, gpu, form, degree, demand) if degree else smallest(model, gpu, form, demand, users or 1)
    if found is None:
        what = "its architecture" if model.network is None else "the size of the weights"
        if demand.adapters and adapter_bytes(model.shape, 1, 1) is None:
            what = "the size of its linear layers, which adapters change,"
        return Row(gpu, form, None, None, None, f"{what} is unknown")
    bound = speed(model, found, demand, users)
    why = found.why or ("vLLM does not run it" if model.network and model.network.refused else None)
    if why is None and users and found.requests is not None and found.requests < users:
        why = f"holds {int(found.requests)} of {users}"
    return Row(gpu, form, found, bound, cost(found, bound, demand, prices) if bound else None, why)


def _why_no_fp8_cache(gpu: Gpu, demand: Demand) -> str | None:
    if demand.kv_bytes == 1 and gpu.fp8 != "arithmetic":
        return f"{gpu.name} has no fp8 arithmetic, so vLLM may not support an fp8 cache"
    return None


def _remarks(model: Model) -> Iterable[str]:
    network = model.network
    if network and network.refused:
        yield f"The pinned vLLM does not run it: {network.refused}."
    if network and network.text_class and network.text_class != model.architecture:
        yield "It also takes images; its vision tower is not counted."
    if model.dtype == "float32":
        yield "Its weights are published in float32, twice the size that they have in an engine."
    if model.note:
        yield model.note
    for copy in model.copies:
        yield f"Quantised with {copy.quantization}: {copy.hub}."
    if "int4" in forms(model) and not any(copy.quantization in ("awq", "gptq", "w4a16") for copy in model.copies):
        yield "int4 needs an AWQ or GPTQ copy, which the catalogue lacks; fp8 needs none, vLLM quantises while loading."
