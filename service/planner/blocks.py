"""KV cache blocks: how many a cache has, and how many requests they hold.

The arithmetic is that of vLLM's cache planning, `vllm.v1.core.kv_cache_utils`; a test compares the two.
"""

from dataclasses import dataclass

from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.model import Model

REQUIRED = ("num_hidden_layers", "num_key_value_heads", "head_dim")
REQUIRED_LATENT = ("num_hidden_layers", "kv_lora_rank", "qk_rope_head_dim")
# vLLM puts full-attention and sliding-window layers in one group each, padding the smaller one, if the larger has less
# than this many times its layers; otherwise it splits the larger one into groups of the smaller one's size.
MAX_GROUP_RATIO = 1.5


@dataclass(frozen=True)
class Blocks:
    """A KV cache of `number` blocks, which holds `requests` requests of the planned context at once.

    `per_request` is the number of blocks of one request. `tokens` is what vLLM logs as the size of the cache: requests
    times context.
    """

    number: int
    per_request: int
    requests: float
    tokens: int


def missing(model: Model) -> list[str]:
    """The sizes that the KV cache depends on and the model's shape does not give."""
    network = model.network
    if network is None:
        return ["architecture"]
    if network.attention == "encoder":
        return []
    needed = REQUIRED_LATENT if network.attention == "latent" else REQUIRED
    return [key for key in needed if getattr(model.shape, key) is None]


def token_bytes(network: Architecture, shape: Shape, kv_bytes: int = 2, tensor_parallel: int = 1) -> int:
    """Bytes of KV cache per token and layer, on each of `tensor_parallel` GPUs; no size may be `missing`.

    Keys and values: 2 x KV heads x head size x `kv_bytes`; latent attention: (KV rank + RoPE size) x `kv_bytes`.
    `kv_bytes` is the size of one element: 2, or 1 for an fp8 cache.
    """
    if network.attention == "encoder":
        return 0
    if network.attention == "latent":
        # All heads share one latent vector, so it is replicated on every GPU.
        return ((shape.kv_lora_rank or 0) + (shape.qk_rope_head_dim or 0)) * kv_bytes
    # With more GPUs than KV heads, the heads are replicated: each GPU has at least one.
    heads = max(1, (shape.num_key_value_heads or 0) // tensor_parallel)
    return 2 * heads * (shape.head_dim or 0) * kv_bytes


def layers(network: Architecture, shape: Shape) -> tuple[int, int]:
    """The number of layers with full attention, and of those with sliding-window attention."""
    if network.attention == "encoder":
        return 0, 0
    count = shape.num_hidden_layers or 0
    sliding = sum(shape.sliding(layer) for layer in range(count))
    return count - sliding, sliding


def blocks(
    model: Model,
    cache_bytes: int,
    block_size: int,
    context: int,
    *,
    kv_bytes: int = 2,
    tensor_parallel: int = 1,
    in_flight: int = 0,
) -> Blocks | None:
    """A cache of `cache_bytes` on each GPU in blocks of `block_size` tokens, for requests of `context` tokens.

    `in_flight` is the number of tokens that vLLM may have scheduled at once: `max_num_batched_tokens`, or twice that
    with asynchronous scheduling. None for a model without a KV cache, or if a size is `missing`.
    """
    network, shape = model.network, model.shape
    if network is None or missing(model) or network.attention == "encoder":
        return None
    full, sliding = layers(network, shape)
    page = block_size * token_bytes(network, shape, kv_bytes, tensor_parallel)
    # The layers of a group share a block table, and a block has a page for every layer of its group. All groups take
    # blocks from one pool, so a block has the size that the largest group needs.
    full_groups, sliding_groups = _groups(full, sliding)
    pages = max(_group_size(full, full_groups), _group_size(sliding, sliding_groups))
    number = cache_bytes // (pages * page)
    # A window may begin within a block, hence one more. Blocks before the window are only freed after the step that
    # moves past them, so tokens in flight count too.
    window = min((shape.sliding_window or 0) - 1 + in_flight, context)
    per_request = full_groups * _ceil_div(context, block_size) + sliding_groups * (_ceil_div(window, block_size) + 1)
    return Blocks(number, per_request, number / per_request, number * context // per_request)


def _groups(full: int, sliding: int) -> tuple[int, int]:
    """The number of KV cache groups of full-attention layers, and of sliding-window layers."""
    if not full or not sliding:
        return int(full > 0), int(sliding > 0)
    fewer, more = sorted((full, sliding))
    size = more if more < MAX_GROUP_RATIO * fewer else fewer
    return _ceil_div(full, size), _ceil_div(sliding, size)


def _group_size(layers: int, groups: int) -> int:
    return _ceil_div(layers, groups) if groups else 0


def _ceil_div(amount: int, unit: int) -> int:
    return -(-amount // unit)
