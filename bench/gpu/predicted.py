"""The planner's predictions for what the kit measures."""

from typing import Any

from bench.gpu.schedule import Setup, Subject
from service.planner.blocks import blocks
from service.planner.gpus import Gpu
from service.planner.memory import UTILIZATION, Demand, Fit, fit
from service.planner.speed import speed


def cache(
    subject: Subject, setup: Setup, gpu: Gpu | None, cache_bytes: int | None, block_size: int | None
) -> dict[str, Any]:
    """The planned number of KV cache blocks: from the card alone, and from the cache size that vLLM reports.

    None where the card is unknown, or the engine reports none.
    """
    found = _fit(subject, setup, gpu, subject.context)
    planned = found.blocks.number if found and found.blocks else None
    given = blocks(subject.model, cache_bytes, block_size, subject.context) if cache_bytes and block_size else None
    return {
        "planned_kv_blocks": planned,
        "planned_kv_bytes": found.cache if found else None,
        "planned_weight_bytes": found.weights if found else None,
        "kv_blocks_for_its_bytes": given.number if given else None,
    }


def decode(subject: Subject, setup: Setup, gpu: Gpu | None, streams: int, context: int) -> float | None:
    """The upper bound of tokens per second for all `streams` together, at a context of `context` tokens."""
    found = _fit(subject, setup, gpu, context)
    bound = speed(subject.model, found, Demand(context), streams) if found else None
    return round(bound.together, 1) if bound and bound.together and bound.batch == streams else None


def prefill(subject: Subject, setup: Setup, gpu: Gpu | None, prompt: int) -> float | None:
    """The upper bound of tokens per second while a prompt of `prompt` tokens is read."""
    found = _fit(subject, setup, gpu, prompt)
    bound = speed(subject.model, found, Demand(prompt)) if found else None
    return round(bound.prefill, 1) if bound and bound.prefill else None


def _fit(subject: Subject, setup: Setup, gpu: Gpu | None, context: int) -> Fit | None:
    share = setup.engine.get("gpu_memory_utilization", UTILIZATION)
    assert isinstance(share, int | float)
    return fit(subject.model, gpu, subject.form, 1, Demand(context, utilization=share)) if gpu else None
