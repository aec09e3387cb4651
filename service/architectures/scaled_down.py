"""The same network structure scaled down: whatever changes how a network computes is kept, only sizes shrink.

Conformance runs compare these networks, with random weights, on a real engine and in transformers.
"""

from service.architectures.registry import Architecture
from service.architectures.shape import Shape

HEAD_DIM = 32  # the smallest head size that every attention kernel supports
CONTEXT = 1024  # tokens
VOCAB_SIZE = 2048
SLIDING_WINDOW = 24  # tokens; shorter than the test prompts, so that the window matters
EXPERT_SIZE = 64  # feed-forward size of one expert; small because there may be many
MAX_EXPANSION = 4  # largest ratio of feed-forward size to hidden size


def scale_down(architecture: Architecture, shape: Shape, context: int | None) -> Shape | None:
    """`shape` with small sizes, for a context of `CONTEXT` tokens; None if a size that this needs is unknown.

    Kept: the ratio of query heads to key-value heads (up to 8), whether all heads together are wider or narrower than
    the hidden size, the pattern of sliding-window layers, the number of experts, RoPE scaling in proportion to the
    context, tied embeddings, and the vocabulary size modulo 64. Pure.
    """
    heads, kv_heads, hidden = shape.num_attention_heads, shape.num_key_value_heads, shape.hidden_size
    layers, inner, vocabulary = shape.num_hidden_layers, shape.intermediate_size, shape.vocab_size
    if not (heads and hidden and layers and inner and vocabulary and context):
        return None
    changed: dict[str, object] = {}
    if architecture.attention == "latent":
        heads, kv_heads = 4, shape.num_key_value_heads and 4
        width = heads * HEAD_DIM
    else:
        heads, kv_heads = _heads(heads, kv_heads or heads)
        width = heads * HEAD_DIM
        changed["head_dim"] = HEAD_DIM
        if shape.head_dim:
            width = _hidden_size(width, hidden / (shape.num_attention_heads or 1) / shape.head_dim)
    changed |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": width}
    expert_key = "moe_intermediate_size" if shape.moe_intermediate_size else "intermediate_size"
    changed["intermediate_size"] = _feed_forward_size(width, inner / hidden)
    if shape.num_local_experts:
        changed[expert_key] = EXPERT_SIZE
    changed["num_hidden_layers"] = max(
        2, *(2 * (repeated or 0) for repeated in (
            shape.sliding_window_pattern, shape.first_k_dense_replace, shape.no_rope_layer_interval)),
    )  # fmt: skip
    changed["vocab_size"] = VOCAB_SIZE + vocabulary % 64
    if shape.sliding_window:
        changed["sliding_window"] = SLIDING_WINDOW if shape.sliding_window < context else 2 * CONTEXT
    scaling = shape.rope_scaling
    if scaling and scaling.original_max_position_embeddings:
        original = max(8, CONTEXT * scaling.original_max_position_embeddings // context)
        changed["rope_scaling"] = scaling.model_copy(update={"original_max_position_embeddings": original})
    return Shape.model_validate({**shape.model_dump(), **changed})


def scale_token_id(token_id: int, vocab_size: int, small_vocab_size: int) -> int:
    """A special token's id in the small vocabulary: at the same distance from the nearer end as in the full one."""
    from_end = vocab_size - token_id
    return token_id if token_id < from_end else max(0, small_vocab_size - from_end)


def _heads(heads: int, kv_heads: int) -> tuple[int, int]:
    ratio = heads // kv_heads
    if ratio == 1:
        return 4, 4
    kept = ratio if ratio <= 8 else 7 + (ratio + 1) % 2
    return (kept, 1) if kv_heads == 1 else (2 * kept, 2)


def _hidden_size(heads_width: int, ratio: float) -> int:
    """The hidden size at `ratio` to the width of all heads together; equal to it only if `ratio` is 1."""
    width = max(HEAD_DIM, round(heads_width * ratio / HEAD_DIM) * HEAD_DIM)
    return width if ratio == 1 or width != heads_width else heads_width + (HEAD_DIM if ratio > 1 else -HEAD_DIM)


def _feed_forward_size(hidden_size: int, ratio: float) -> int:
    return max(HEAD_DIM, round(hidden_size * min(ratio, MAX_EXPANSION) / HEAD_DIM) * HEAD_DIM)
