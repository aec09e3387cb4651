"""How fast a model can be at best: what the memory can deliver and the processors can multiply, nothing lost."""

from dataclasses import dataclass

from service.catalog.model import Model
from service.planner.blocks import layers, token_bytes
from service.planner.memory import Demand, Fit, batch_limits
from service.planner.quantization import Parts, parts, read_bytes


@dataclass(frozen=True)
class Speed:
    """Upper bounds in tokens per second, for requests that are as long as the asked context.

    `alone`: one stream. `each` and `together`: one of `batch` streams, and all of them. `prefill`: prompt tokens.
    None where a figure is unknown, or the model writes no text.
    """

    batch: int
    alone: float | None
    each: float | None
    together: float | None
    prefill: float | None


def speed(model: Model, fit: Fit, demand: Demand, users: int | None = None) -> Speed | None:
    """The bounds for `users` streams, or as many as fit; None where the model's sizes are not known well enough."""
    found = parts(model)
    if found is None or model.network is None or fit.why:
        return None
    prefill = _prefill(model, found, fit, demand)
    if model.network.attention == "encoder" or model.variant == "embedding":
        return Speed(0, None, None, None, prefill)
    held = max(1, int(fit.requests or 1))
    batch = min(held, users or held, batch_limits(fit.gpu)[1])
    each = _decode(model, found, fit, demand, batch)
    return Speed(batch, _decode(model, found, fit, demand, 1), each, each * batch, prefill)


def _decode(model: Model, found: Parts, fit: Fit, demand: Demand, batch: int) -> float:
    """Tokens per second of each of `batch` streams."""
    weights = read_bytes(model, fit.form, fit.degree, batch) or 0.0
    memory = (weights + batch * _cached(model, fit, demand)) / fit.gpu.bandwidth
    flops = _flops(fit)
    compute = 2 * found.active * batch / (flops * fit.degree) if flops else 0.0
    return 1 / max(memory, compute)


def _cached(model: Model, fit: Fit, demand: Demand) -> int:
    """Bytes of one request's cache that each GPU reads for its next token."""
    assert model.network is not None, "speed() was asked"
    full, sliding = layers(model.network, model.shape)
    window = min(model.shape.sliding_window or 0, demand.context)
    tokens = full * demand.context + sliding * window
    return tokens * token_bytes(model.network, model.shape, demand.kv_bytes, fit.degree)


def _prefill(model: Model, found: Parts, fit: Fit, demand: Demand) -> float | None:
    flops = _flops(fit)
    if not flops:
        return None
    # The head is only needed for a prompt's last token.
    dense = 2 * (found.active - found.head)
    return flops * fit.degree / (dense + _attention_flops(model, demand.context))


def _attention_flops(model: Model, context: int) -> float:
    """Operations of the attention itself for one token of a prompt, on average over the prompt."""
    shape, network = model.shape, model.network
    assert network is not None, "speed() was asked"
    size = shape.head_dim or 0
    if network.attention == "latent":
        size = ((shape.qk_nope_head_dim or 0) + (shape.qk_rope_head_dim or 0) + (shape.v_head_dim or 0)) // 2
    seen = 0.0
    for layer in range(shape.num_hidden_layers or 0):
        if network.attention == "encoder":
            seen += context
        elif shape.sliding(layer):
            seen += min(shape.sliding_window or 0, context / 2)
        else:
            seen += context / 2
    return 4 * (shape.num_attention_heads or 0) * size * seen


def _flops(fit: Fit) -> float | None:
    """Operations per second of one GPU on weights of this form: what is kept in 4 bits is multiplied in 16."""
    arithmetic = fit.form == "fp8" and fit.gpu.fp8 == "arithmetic"
    tera = fit.gpu.tflops_fp8 if arithmetic else fit.gpu.tflops_16bit
    return tera * 1e12 if tera else None
