"""What an engine takes of the memory that it shares: weights, processes and KV cache, in bytes. Pure."""

import math
from dataclasses import dataclass
from typing import Literal

from service.catalog.model import Model
from service.planner.gpus import GIB, Gpu
from service.planner.memory import GRAPH_BYTES, RUNTIME_BYTES, Demand, overhead_bytes
from service.planner.plan import memory_requirement
from service.planner.quantization import FORMATS, forms, weight_bytes

Keep = Literal["always", "warm", "cold"]
PROCESSES_BYTES = int(1.2 * GIB)  # of the three processes of an engine without a GPU, beside weights and KV cache
UNKNOWN_BYTES = 2 * GIB  # beside weights and KV cache on a card, for a network that the planner does not know
CONTEXT_BYTES = GIB // 2  # of the CUDA context, which an engine has beside all that vLLM allocates
BLOCK = 128  # tokens of vLLM's largest blocks, to which each request is rounded up
SPARE_BLOCKS = 2  # one that vLLM keeps for itself, and one for what is rounded


class PartError(Exception):
    """An engine's part cannot be told, or is impossible: `key` is the key of the model's entry that says so."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


@dataclass(frozen=True)
class Share:
    """A memory that engines share: `memory` bytes of each of the cards `gpus`, or of the machine where there are none.

    While others wait, an engine that has been there for `turn` seconds makes room for them.
    """

    name: str
    memory: int
    gpus: tuple[int, ...] = ()
    turn: float = 120.0


@dataclass(frozen=True)
class Part:
    """What one engine takes of `share`, in bytes of each card; `cache` is its KV cache, for `requests` of the context.

    `keep` says what becomes of it while others need the room, and `asleep` is what it takes while it sleeps there:
    0 for an engine that is stopped instead.
    """

    share: Share
    keep: Keep
    weights: int
    overhead: int
    cache: int
    requests: float | None = None
    asleep: int = 0

    @property
    def memory(self) -> int:
        """All of it."""
        return self.weights + self.overhead + self.cache


def part_of(
    model: Model, share: Share, keep: Keep, *, on_disk: int, stated: int | None, context: int | None, requests: int,
    quantization: str | None, adapters: int = 0,
) -> Part:  # fmt: skip
    """The part of an engine: `stated` bytes in all, or else a KV cache for `requests` of `context` tokens.

    `on_disk` are the bytes of its weights there, 0 where they are not on this machine; `adapters` those of its room for
    adapters. Raises PartError.
    """
    degree = max(1, len(share.gpus))
    weights = _weights(model, degree, on_disk, quantization)
    overhead = _overhead(model, share, degree) + adapters
    request = request_bytes(model, context, degree)
    if stated is None:
        if weights is None or request is None:
            what = "the size of its weights" if weights is None else "what a request takes of its KV cache"
            raise PartError(
                "share", f"{what} is unknown: say with 'memory' how much of share '{share.name}' it may have"
            )
        cache, held = _cache(model, request, requests, degree), float(requests)
    else:
        weights = weights or 0
        cache, held = stated - weights - overhead, 0.0
        least = _cache(model, request or 0, 1, degree)
        if cache < max(least, 1):
            raise PartError(
                "memory",
                f"{gib(stated)} leave {gib(max(0, cache))} for the KV cache beside weights of {gib(weights)} and "
                f"{gib(overhead)} for its processes, and one request of its context takes {gib(least)}. What helps: "
                f"{at_least(weights + overhead + max(least, 1))} or more, or a smaller 'max_model_len'",
            )
        held = cache / request if request else 0.0
    asleep = RUNTIME_BYTES + GRAPH_BYTES + CONTEXT_BYTES if keep == "warm" and share.gpus else 0
    return Part(share, keep, weights, overhead, cache, held or None, asleep)


def request_bytes(model: Model, context: int | None, degree: int = 1) -> int | None:
    """The KV cache of one request of the whole `context` on each of `degree` cards; None where a size is unknown."""
    if context is None:
        return None
    found = memory_requirement(model, Demand(-(-context // BLOCK) * BLOCK)).request
    heads = model.shape.num_key_value_heads or 1
    return None if found is None else -(-found // min(degree, heads))


def gib(size: float) -> str:
    """`1610612736` → `1.50 GiB`, `4194304` → `4 MiB`."""
    if size < GIB // 10:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / GIB:.{2 if size < 10 * GIB else 1}f} GiB"


def at_most(size: int) -> str:
    """No more than so many bytes, as a fleet file says it: `1.5GiB`."""
    return f"{math.floor(size / GIB * 10) / 10:g}GiB" if size >= GIB else f"{size // 2**20}MiB"


def at_least(size: int) -> str:
    """No fewer than so many bytes, as a fleet file says it."""
    return f"{math.ceil(size / GIB * 10) / 10:g}GiB"


def _weights(model: Model, degree: int, on_disk: int, quantization: str | None) -> int | None:
    if on_disk:
        return -(-on_disk // degree)
    form = FORMATS.get(quantization or "", forms(model)[0])
    return weight_bytes(model, form, degree)


def _overhead(model: Model, share: Share, degree: int) -> int:
    if not share.gpus:
        return PROCESSES_BYTES
    if model.network is None:
        return UNKNOWN_BYTES
    card = Gpu(
        name="SHARE", usable_gib=share.memory / GIB, bandwidth_gb_per_s=1, bf16=True, mxfp4=True,
        per_node=degree, interconnect="", source="",
    )  # fmt: skip
    return overhead_bytes(model.network, model.shape, card, degree) + CONTEXT_BYTES


def _cache(model: Model, request: int, requests: int, degree: int) -> int:
    """The bytes of a KV cache for so many requests of `request` bytes, with vLLM's own blocks."""
    spare = request_bytes(model, SPARE_BLOCKS * BLOCK, degree) or 0
    return request * requests + spare
