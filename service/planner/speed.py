"""Upper bounds of throughput: decoding is bound by memory bandwidth or arithmetic, prefill by arithmetic.

This is the roofline model, with the vendor's peak figures and no other losses; real engines stay below it.
"""

from dataclasses import dataclass

from service.catalog.model import Model
from service.catalog.names import POOLING
from service.planner.blocks import layers, token_bytes
from service.planner.memory import Demand, Fit, batch_limits
from service.planner.quantization import Parts, parts, read_bytes


@dataclass(frozen=True)
class Speed:
    """Upper bounds in tokens per second, for requests of the planned context.

    `alone`: output of a single stream. `each` and `together`: output of one of `batch` concurrent streams, and of all.
    `prefill`: prompt tokens. None if a figure is unknown, or if the model generates no text.
    """

    batch: int
    alone: float | None
    each: float | None
    together: float | None
    prefill: float | None


def speed(model: Model, fit: Fit, demand: Demand, users: int | None = None) -> Speed | None:
    """The bounds for `users` concurrent streams, or for as many as fit; None if a size is unknown or nothing fits."""
    found = parts(model)
    if found is None or model.network is None or fit.why:
        return None
    prefill = _prefill(model, found, fit, demand)
    if model.network.attention == "encoder" or model.variant in POOLING:
        return Speed(0, None, None, None, prefill)
    capacity = max(1, int(fit.requests or 1))
    batch = min(capacity, users or capacity, batch_limits(fit.gpu)[1])
    each = _decode(model, found, fit, demand, batch)
    return Speed(batch, _decode(model, found, fit, demand, 1), each, each * batch, prefill)


def _decode(model: Model, found: Parts, fit: Fit, demand: Demand, batch: int) -> float:
    """Tokens per second of each of `batch` streams: one over the time of a decode step.

    A step takes at least (weights read + KV cache read) / memory bandwidth, and at least 2 x active parameters x batch
    / FLOPs (one multiplication and one addition per parameter and token).
    """
    weights = read_bytes(model, fit.form, fit.degree, batch) or 0.0
    memory_time = (weights + batch * _kv_cache_bytes(model, fit, demand)) / fit.gpu.bandwidth
    flops = _flops(fit)
    compute_time = 2 * found.active * batch / (flops * fit.degree) if flops else 0.0
    return 1 / max(memory_time, compute_time)


def _kv_cache_bytes(model: Model, fit: Fit, demand: Demand) -> int:
    """Bytes of KV cache that each GPU reads for the next token of one request."""
    assert model.network is not None, "speed() has checked it"
    full, sliding = layers(model.network, model.shape)
    window = min(model.shape.sliding_window or 0, demand.context)
    tokens = full * demand.context + sliding * window
    return tokens * token_bytes(model.network, model.shape, demand.kv_bytes, fit.degree)


def _prefill(model: Model, found: Parts, fit: Fit, demand: Demand) -> float | None:
    """Prompt tokens per second: FLOPs / operations per token."""
    flops = _flops(fit)
    if not flops:
        return None
    # The LM head is only needed for the last token of a prompt.
    dense = 2 * (found.active - found.head)
    return flops * fit.degree / (dense + _attention_flops(model, demand.context))


def _attention_flops(model: Model, context: int) -> float:
    """Operations of attention (QK^T and the product with V) per prompt token, averaged over the prompt.

    4 x heads x head size x tokens attended to, summed over the layers; a causal layer attends to half the prompt on
    average.
    """
    shape, network = model.shape, model.network
    assert network is not None, "speed() has checked it"
    size = shape.head_dim or 0
    if network.attention == "latent":
        size = ((shape.qk_nope_head_dim or 0) + (shape.qk_rope_head_dim or 0) + (shape.v_head_dim or 0)) // 2
    attended = 0.0
    for layer in range(shape.num_hidden_layers or 0):
        if network.attention == "encoder":
            attended += context
        elif shape.sliding(layer):
            attended += min(shape.sliding_window or 0, context / 2)
        else:
            attended += context / 2
    return 4 * (shape.num_attention_heads or 0) * size * attended


def _flops(fit: Fit) -> float | None:
    """Peak operations per second of one GPU for this form; 4-bit weights are multiplied in 16 bits."""
    in_fp8 = fit.form == "fp8" and fit.gpu.fp8 == "arithmetic"
    tflops = fit.gpu.tflops_fp8 if in_fp8 else fit.gpu.tflops_16bit
    return tflops * 1e12 if tflops else None
