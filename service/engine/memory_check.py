"""Whether there is memory for another engine, and whether it may start now."""

import os
from pathlib import Path

import psutil

from service.engine import state
from service.fleet.served_model import ServedModel

GIB = 2**30
BASE_NEED = int(1.2 * GIB)  # what three vLLM processes take beside weights and KV cache


def need(served: ServedModel) -> int:
    """Bytes of memory that an engine without a GPU will take: processes, weights, KV cache."""
    weights = Path(served.weights)
    size = sum(file.stat().st_size for file in weights.glob("*.safetensors")) if weights.is_dir() else 0
    return BASE_NEED + size + int(served.env.get("VLLM_CPU_KVCACHE_SPACE", "4")) * GIB


def shortage(served: ServedModel) -> str | None:
    """Why there is no room for this engine, if there is none. A GPU's memory is vLLM's own business."""
    free, wanted = psutil.virtual_memory().available, need(served)
    if served.gpus or free >= wanted:
        return None
    return (
        f"no memory for another engine: it needs about {wanted / GIB:.1f} GiB and {free / GIB:.1f} GiB are free. "
        "Serve fewer models or replicas, or lower VLLM_CPU_KVCACHE_SPACE in the fleet file."
    )


def is_its_turn(served: ServedModel, order: int, run_dir: Path, start: str, engines: int) -> bool:
    """Whether the engines before number `order` of `engines` are through, as far as cores and memory demand it."""
    free = psutil.virtual_memory().available
    at_once = state.parallel_starts(start, os.cpu_count() or 1, free, need(served))
    earlier = [state.read(run_dir, other) for other in range(order)]
    return state.may_start(order, earlier, at_once, engines)
