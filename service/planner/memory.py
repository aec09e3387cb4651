"""GPU memory: how a model can be split by tensor parallelism, and how much is left for the KV cache beside weights."""

from dataclasses import dataclass

from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.model import Model
from service.planner.adapters import adapter_bytes
from service.planner.blocks import Blocks, blocks
from service.planner.gpus import GIB, Gpu
from service.planner.quantization import GROUP, Form, weight_bytes

# vLLM 0.32's defaults.
UTILIZATION = 0.92  # gpu_memory_utilization
BLOCK_SIZE = 16  # tokens
LATENT_BLOCK_SIZE = 64  # tokens; the kernels for latent attention (MLA) need larger blocks
CONCURRENT_BATCHES = 2  # with asynchronous scheduling
# (from this many GiB, max_num_batched_tokens, max_num_seqs); vLLM gives an A100 the smallest limits.
BATCH_LIMITS = ((160, 16384, 1024), (70, 8192, 1024), (0, 2048, 256))

# What an engine uses on each GPU besides weights and KV cache; vLLM measures it at startup. The first two are from an
# H100 with Llama 2 7B and vLLM 0.25.1 (docs/gpu.md): 0.93 GiB without graphs, 0.63 of them activations by our formula.
RUNTIME_BYTES = 3 * GIB // 10  # libraries, workspaces of kernels, allocator slack
GRAPH_BYTES = 73 * GIB // 100  # captured CUDA graphs, which vLLM 0.32 sets aside
# Estimates.
COMMUNICATION_BYTES = 7 * GIB // 10  # buffers to exchange results, with several GPUs
HIDDEN_COPIES = 2  # activations of hidden size that are alive at once in a layer, per token
INNER_COPIES = 3  # activations of feed-forward size, per token
LOGIT_BYTES = 8  # a float32 logit and its sorted copy


@dataclass(frozen=True)
class Demand:
    """The load to plan for, on any GPU.

    `context` is the tokens of one request, prompt and output together; `kv_bytes` the size of a KV cache element (2, or
    1 for fp8); `utilization` vLLM's `gpu_memory_utilization`. `adapters` run at once, of `adapter_rank` at most.
    """

    context: int
    kv_bytes: int = 2
    utilization: float = UTILIZATION
    adapters: int = 0
    adapter_rank: int = 16


@dataclass(frozen=True)
class Fit:
    """A model in `form` on `degree` GPUs of one kind, split by tensor parallelism. Bytes are per GPU.

    `blocks` is None for a model without a KV cache; `why` is the reason if the model does not fit.
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
        """How many requests of the planned context the KV cache holds at once, as vLLM counts; None without a cache."""
        return self.blocks.requests if self.blocks else None


def batch_limits(gpu: Gpu) -> tuple[int, int]:
    """vLLM's default `max_num_batched_tokens` and `max_num_seqs` on this GPU."""
    size = 0.0 if gpu.name.startswith("A100") else gpu.usable_gib
    return next((tokens, sequences) for least, tokens, sequences in BATCH_LIMITS if size >= least)


def degrees(model: Model, form: Form, most: int) -> list[int]:
    """The tensor-parallel degrees up to `most` that vLLM supports for the model."""
    return [degree for degree in range(1, most + 1) if why_indivisible(model, form, degree) is None]


def why_indivisible(model: Model, form: Form, degree: int) -> str | None:
    """Why vLLM cannot split the model across `degree` GPUs; None if it can, or if the sizes are unknown."""
    shape = model.shape
    if degree == 1:
        return None
    if shape.num_attention_heads and shape.num_attention_heads % degree:
        return f"{shape.num_attention_heads} attention heads cannot be divided by {degree}"
    kv_heads = shape.num_key_value_heads
    if kv_heads and max(kv_heads, degree) % min(kv_heads, degree):
        return f"{kv_heads} key-value heads cannot be divided among {degree} GPUs"
    inner = shape.expert_size
    if inner and inner % degree:
        return f"a feed-forward size of {inner} cannot be divided by {degree}"
    if inner and form == "int4" and inner // degree % GROUP:
        return f"a feed-forward size of {inner} divided by {degree} is no multiple of the {GROUP} weights of a group"
    return None


def fit(model: Model, gpu: Gpu, form: Form, degree: int, demand: Demand) -> Fit | None:
    """How the memory of `degree` GPUs is used; None if a size that this needs is unknown.

    KV cache = utilization x GPU memory - weights - overhead, on each GPU; the overhead has room for adapters.
    """
    network, weights = model.network, weight_bytes(model, form, degree)
    if network is None or weights is None:
        return None
    adapters = adapter_bytes(model.shape, demand.adapters, demand.adapter_rank, degree)
    if adapters is None:
        return None
    overhead = overhead_bytes(network, model.shape, gpu, degree) + adapters
    cache = int(gpu.memory * demand.utilization) - weights - overhead
    if cache <= 0:
        budget = int(gpu.memory * demand.utilization) - overhead
        reason = f"weights of {weights / 1e9:.1f} GB on each GPU exceed the {max(0, budget) / 1e9:.1f} GB available"
        return Fit(gpu, form, degree, weights, overhead, max(0, cache), None, reason)
    found = blocks(
        model,
        cache,
        block_size(network),
        demand.context,
        kv_bytes=demand.kv_bytes,
        tensor_parallel=degree,
        in_flight=CONCURRENT_BATCHES * batch_limits(gpu)[0],
    )
    # vLLM reserves one block, and refuses to start if a single request of the full context does not fit.
    too_small = found is not None and found.number - 1 < found.per_request
    reason = f"a KV cache of {cache / 1e9:.1f} GB cannot hold one request of {demand.context:,} tokens"
    return Fit(gpu, form, degree, weights, overhead, cache, found, reason if too_small else None)


def smallest(model: Model, gpu: Gpu, form: Form, demand: Demand, users: int = 1) -> Fit | None:
    """The fit on the fewest GPUs of a node that hold `users` requests at once; if none does, on the most GPUs."""
    last: Fit | None = None
    for degree in degrees(model, form, gpu.per_node):
        last = fit(model, gpu, form, degree, demand) or last
        if last and last.why is None and (last.requests is None or last.requests >= users):
            return last
    return last


def block_size(network: Architecture) -> int:
    """vLLM's default block size on a GPU, in tokens."""
    return LATENT_BLOCK_SIZE if network.attention == "latent" else BLOCK_SIZE


def overhead_bytes(network: Architecture, shape: Shape, gpu: Gpu, degree: int) -> int:
    """An estimate of the bytes that each GPU needs besides weights and KV cache.

    Runtime + communication between GPUs + CUDA graphs + the larger of activations and logits of the largest batch.
    """
    tokens, sequences = batch_limits(gpu)
    inner = (shape.expert_size or 0) * ((shape.num_experts_per_tok or 1) + (shape.n_shared_experts or 0))
    activations = tokens * (HIDDEN_COPIES * (shape.hidden_size or 0) + INNER_COPIES * inner / degree) * 2
    logits = 0 if network.attention == "encoder" else sequences * (shape.vocab_size or 0) * LOGIT_BYTES
    communication = COMMUNICATION_BYTES if degree > 1 else 0
    return int(RUNTIME_BYTES + communication + GRAPH_BYTES + max(activations, logits))
