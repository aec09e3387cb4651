"""What fits on GPUs: the ways to divide a model among them, and the KV cache that is left beside its weights."""

from dataclasses import dataclass

from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.model import Model
from service.planner.blocks import Blocks, blocks
from service.planner.gpus import GIB, Gpu
from service.planner.quantization import GROUP, Form, weight_bytes

# What vLLM 0.32 does unless told otherwise.
UTILIZATION = 0.92
BLOCK_SIZE = 16  # tokens
LATENT_BLOCK_SIZE = 64  # tokens; the kernels for latent attention want larger ones
ASYNCHRONOUS = 2  # batches that are under way at once
# (usable GiB from which on, batch limit in tokens, sequences in a batch); an A100 counts as a small one.
BATCHES = ((160, 16384, 1024), (70, 8192, 1024), (0, 2048, 256))

# Estimates of what an engine uses besides weights and KV cache, on each GPU. vLLM measures it when it starts.
RUNTIME_BYTES = GIB  # CUDA context, libraries, communication buffers, allocator slack
GRAPH_BYTES = GIB // 2  # captured CUDA graphs
HIDDEN_COPIES = 4  # activations as wide as the model that are alive at once, per token
INNER_COPIES = 3  # those as wide as the feed-forward layer
LOGIT_BYTES = 8  # a float32 logit and its sorted copy


@dataclass(frozen=True)
class Demand:
    """What is asked of a model's memory, whichever GPU it is on. `context` is in tokens, prompt and answer together."""

    context: int
    kv_bytes: int = 2
    utilization: float = UTILIZATION


@dataclass(frozen=True)
class Fit:
    """A model in `form` on `degree` GPUs of one kind. Bytes are those of each GPU.

    `blocks` is None for a model without a KV cache; `why` says what is wrong where it does not fit.
    """

    gpu: Gpu
    form: Form
    degree: int
    weights: int
    overhead: int
    cache: int
    blocks: Blocks | None
    why: str | None = None

    @property
    def requests(self) -> float | None:
        """How many requests of the asked context its cache holds, as vLLM counts; None without a cache."""
        return self.blocks.requests if self.blocks else None


def batch_limits(gpu: Gpu) -> tuple[int, int]:
    """vLLM's defaults for this GPU: tokens in one step, sequences in one step."""
    size = 0.0 if gpu.name.startswith("A100") else gpu.usable_gib
    return next((tokens, sequences) for least, tokens, sequences in BATCHES if size >= least)


def degrees(model: Model, form: Form, most: int) -> list[int]:
    """The tensor-parallel degrees up to `most` that vLLM can divide the model by."""
    return [degree for degree in range(1, most + 1) if why_indivisible(model, form, degree) is None]


def why_indivisible(model: Model, form: Form, degree: int) -> str | None:
    """Why vLLM cannot divide the model among `degree` GPUs, or None where it can or the sizes are unknown."""
    shape = model.shape
    if degree == 1:
        return None
    if shape.num_attention_heads and shape.num_attention_heads % degree:
        return f"{shape.num_attention_heads} attention heads cannot be divided by {degree}"
    groups = shape.num_key_value_heads
    if groups and max(groups, degree) % min(groups, degree):
        return f"{groups} key-value heads cannot be shared by {degree} GPUs"
    inner = shape.expert_size
    if inner and inner % degree:
        return f"a feed-forward size of {inner} cannot be divided by {degree}"
    if inner and form == "int4" and inner // degree % GROUP:
        return f"a feed-forward size of {inner} divided by {degree} cuts through groups of {GROUP} weights"
    return None


def fit(model: Model, gpu: Gpu, form: Form, degree: int, demand: Demand) -> Fit | None:
    """What is left of `degree` GPUs beside the weights; None where the model's sizes are not known well enough."""
    network, weights = model.network, weight_bytes(model, form, degree)
    if network is None or weights is None:
        return None
    overhead = overhead_bytes(network, model.shape, gpu, degree)
    cache = int(gpu.memory * demand.utilization) - weights - overhead
    if cache <= 0:
        budget = int(gpu.memory * demand.utilization) - overhead
        lacking = f"weights of {weights / 1e9:.1f} GB on each GPU, room for {max(0, budget) / 1e9:.1f} GB"
        return Fit(gpu, form, degree, weights, overhead, max(0, cache), None, lacking)
    held = blocks(
        model,
        cache,
        block_size(network),
        demand.context,
        kv_bytes=demand.kv_bytes,
        tensor_parallel=degree,
        in_flight=ASYNCHRONOUS * batch_limits(gpu)[0],
    )
    # vLLM keeps one block back, and does not start where a single request of the whole context would not fit.
    short = held is not None and held.number - 1 < held.each
    why = f"{cache / 1e9:.1f} GB beside the weights hold no request of {demand.context:,} tokens" if short else None
    return Fit(gpu, form, degree, weights, overhead, cache, held, why)


def smallest(model: Model, gpu: Gpu, form: Form, demand: Demand, users: int = 1) -> Fit | None:
    """The smallest number of GPUs of a node that hold `users` requests, or else the largest, with why not."""
    last: Fit | None = None
    for degree in degrees(model, form, gpu.per_node):
        last = fit(model, gpu, form, degree, demand) or last
        if last and last.why is None and (last.requests is None or last.requests >= users):
            return last
    return last


def block_size(network: Architecture) -> int:
    """Tokens in a block of vLLM's on a GPU."""
    return LATENT_BLOCK_SIZE if network.attention == "latent" else BLOCK_SIZE


def overhead_bytes(network: Architecture, shape: Shape, gpu: Gpu, degree: int) -> int:
    """An estimate of what each GPU needs besides weights and KV cache, in bytes."""
    tokens, sequences = batch_limits(gpu)
    inner = (shape.expert_size or 0) * ((shape.num_experts_per_tok or 1) + (shape.n_shared_experts or 0))
    wide = HIDDEN_COPIES * (shape.hidden_size or 0) + INNER_COPIES * inner / degree
    logits = 0 if network.attention == "encoder" else sequences * (shape.vocab_size or 0) * LOGIT_BYTES
    return int(RUNTIME_BYTES + GRAPH_BYTES + tokens * wide * 2 + logits)
