"""Admission of engine starts: enough free memory, and the limit on parallel starts."""

import os
from pathlib import Path

import psutil

from service.engine import state
from service.fleet.schema import KV_CACHE_SPACE
from service.fleet.served_model import ServedModel
from service.fleet.shares import weights_on_disk
from service.sharing.parts import PROCESSES_BYTES

GIB = 2**30
DEFAULT_KV_CACHE_SPACE = 4  # GiB


def required_memory(served: ServedModel) -> int:
    """Bytes of memory that an engine without a GPU takes: processes, weights and KV cache."""
    if served.part:
        return served.part.memory
    size = weights_on_disk(served.weights)
    cache = served.env.get(KV_CACHE_SPACE, "")
    return PROCESSES_BYTES + size + (int(cache) if cache.isdecimal() else DEFAULT_KV_CACHE_SPACE) * GIB


def shortage(served: ServedModel) -> str | None:
    """Why there is too little memory for this engine; None if there is enough. vLLM itself checks a GPU's memory."""
    free, required = psutil.virtual_memory().available, required_memory(served)
    if served.gpus or free >= required:
        return None
    return (
        f"not enough memory for another engine: it needs about {required / GIB:.1f} GiB and {free / GIB:.1f} GiB are "
        "free. Serve fewer models or replicas, or lower VLLM_CPU_KVCACHE_SPACE in the fleet file."
    )


def may_start_now(served: ServedModel, order: int, run_dir: Path, startup: str, engines: int) -> bool:
    """Whether engine number `order` of `engines` may start, given the state files of those before it.

    `startup` is the fleet's setting; with `auto`, cores and free memory limit how many engines start in parallel.
    """
    free = psutil.virtual_memory().available
    max_parallel = state.parallel_starts(startup, os.cpu_count() or 1, free, required_memory(served))
    earlier = [state.read(run_dir, other) for other in range(order)]
    return state.may_start(order, earlier, max_parallel, engines)
