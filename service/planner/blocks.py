"""How many blocks vLLM cuts a KV cache into, and how many requests they hold: the arithmetic of its cache manager."""

from dataclasses import dataclass

from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.model import Model

HEADS = ("num_hidden_layers", "num_key_value_heads", "head_dim")
LATENT = ("num_hidden_layers", "kv_lora_rank", "qk_rope_head_dim")
# vLLM lets the rarer kind of layer fill up to the size of the commoner one when that wastes less than half.
NEARLY_EVEN = 1.5


@dataclass(frozen=True)
class Blocks:
    """A KV cache as vLLM divides it: `number` of blocks, `requests` of the asked context that they hold together.

    `tokens` is what vLLM logs as the cache's size: the requests times the context. `each` is the blocks of one request.
    """

    number: int
    each: int
    requests: float
    tokens: int


def missing(model: Model) -> list[str]:
    """The sizes that the KV cache's arithmetic needs and the model's shape does not tell."""
    network = model.network
    if network is None:
        return ["architecture"]
    if network.attention == "encoder":
        return []
    needed = LATENT if network.attention == "latent" else HEADS
    return [key for key in needed if getattr(model.shape, key) is None]


def token_bytes(network: Architecture, shape: Shape, kv_bytes: int = 2, tensor_parallel: int = 1) -> int:
    """Bytes that one layer keeps of one token on each of `tensor_parallel` GPUs; `missing` must be empty.

    `kv_bytes` is the size of one cached number: 2, or 1 for an fp8 cache.
    """
    if network.attention == "encoder":
        return 0
    if network.attention == "latent":
        # One latent vector serves all heads, so every GPU keeps all of it.
        return _known(shape.kv_lora_rank, shape.qk_rope_head_dim) * kv_bytes
    # Where there are more GPUs than heads, each GPU still keeps a whole head: the heads are repeated.
    heads = max(1, (shape.num_key_value_heads or 0) // tensor_parallel)
    return 2 * heads * (shape.head_dim or 0) * kv_bytes


def layers(network: Architecture, shape: Shape) -> tuple[int, int]:
    """How many layers keep every token, and how many keep the sliding window only."""
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
    """The cache of `cache_bytes` on each GPU in blocks of `block_size` tokens, for requests of `context` tokens.

    `in_flight` is how many tokens vLLM may have scheduled at once: its batch limit `max_num_batched_tokens`, twice
    that with asynchronous scheduling. None for a model that keeps no KV cache, or whose `missing` is not empty.
    """
    network, shape = model.network, model.shape
    if network is None or missing(model) or network.attention == "encoder":
        return None
    full, sliding = layers(network, shape)
    page = block_size * token_bytes(network, shape, kv_bytes, tensor_parallel)
    # Layers of one kind share a block table. A block is a page for every layer of a group, and groups of both kinds
    # draw from one pool, so a block is as large as the largest group.
    full_groups, sliding_groups = _groups(full, sliding)
    width = max(_shared(full, full_groups), _shared(sliding, sliding_groups))
    number = cache_bytes // (width * page)
    # A window may begin within a block, hence one more; and blocks behind it are only freed after their step.
    window = min((shape.sliding_window or 0) - 1 + in_flight, context)
    each = full_groups * _up(context, block_size) + sliding_groups * (_up(window, block_size) + 1)
    return Blocks(number, each, number / each, number * context // each)


def _groups(full: int, sliding: int) -> tuple[int, int]:
    """Into how many groups of about the same size vLLM sorts the layers of each kind."""
    if not full or not sliding:
        return int(full > 0), int(sliding > 0)
    fewer, more = sorted((full, sliding))
    size = more if more < NEARLY_EVEN * fewer else fewer
    return _up(full, size), _up(sliding, size)


def _shared(count: int, groups: int) -> int:
    return _up(count, groups) if groups else 0


def _up(amount: int, unit: int) -> int:
    return -(-amount // unit)


def _known(*sizes: int | None) -> int:
    return sum(size or 0 for size in sizes)
