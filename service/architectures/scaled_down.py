"""The same structure in small: everything that changes how a network computes stays, only sizes shrink."""

from service.architectures.registry import Architecture
from service.architectures.shape import Shape

HEAD = 32  # the smallest size of a head that every attention kernel has
CONTEXT = 1024  # positions
VOCABULARY = 2048
WINDOW = 24  # tokens; shorter than a test prompt, so that it cuts something off
EXPERT = 64  # inner size of one expert: there may be many
INNER = 4  # largest ratio of the inner size to the hidden size


def small(architecture: Architecture, shape: Shape, context: int | None) -> Shape | None:
    """`shape` with small sizes, or None where it is not known well enough. It goes with a context of `CONTEXT`.

    Kept: how heads share keys and values (up to 8 to one), heads that are wider or narrower than the hidden size, how
    layers take turns in sliding, the number of experts, rotary scaling in proportion to the context, ties, the
    vocabulary's remainder to a multiple of 64.
    """
    heads, groups, hidden = shape.num_attention_heads, shape.num_key_value_heads, shape.hidden_size
    layers, inner, vocabulary = shape.num_hidden_layers, shape.intermediate_size, shape.vocab_size
    if not (heads and hidden and layers and inner and vocabulary and context):
        return None
    changed: dict[str, object] = {}
    if architecture.attention == "latent":
        heads, groups = 4, shape.num_key_value_heads and 4
        width = heads * HEAD
    else:
        heads, groups = _heads(heads, groups or heads)
        width = heads * HEAD
        changed["head_dim"] = HEAD
        if shape.head_dim:
            width = _width(width, hidden / (shape.num_attention_heads or 1) / shape.head_dim)
    changed |= {"num_attention_heads": heads, "num_key_value_heads": groups, "hidden_size": width}
    in_experts = "moe_intermediate_size" if shape.moe_intermediate_size else "intermediate_size"
    changed["intermediate_size"] = _inner(width, inner / hidden)
    if shape.num_local_experts:
        changed[in_experts] = EXPERT
    changed["num_hidden_layers"] = max(
        2, 2 * (shape.sliding_window_pattern or 0), 2 * (shape.first_k_dense_replace or 0)
    )
    changed["vocab_size"] = VOCABULARY + vocabulary % 64
    if shape.sliding_window:
        changed["sliding_window"] = WINDOW if shape.sliding_window < context else 2 * CONTEXT
    scaling = shape.rope_scaling
    if scaling and scaling.original_max_position_embeddings:
        original = max(8, CONTEXT * scaling.original_max_position_embeddings // context)
        changed["rope_scaling"] = scaling.model_copy(update={"original_max_position_embeddings": original})
    return Shape.model_validate({**shape.model_dump(), **changed})


def token(identifier: int, vocabulary: int, small_vocabulary: int) -> int:
    """A special token's id in the small vocabulary: as far from its beginning or its end as in the large one."""
    from_end = vocabulary - identifier
    return identifier if identifier < from_end else max(0, small_vocabulary - from_end)


def _heads(heads: int, groups: int) -> tuple[int, int]:
    ratio = heads // groups
    if ratio == 1:
        return 4, 4
    kept = ratio if ratio <= 8 else 7 + (ratio + 1) % 2
    return (kept, 1) if groups == 1 else (2 * kept, 2)


def _width(heads: int, ratio: float) -> int:
    """The hidden size for heads of that width together; never the same where it was not."""
    width = max(HEAD, round(heads * ratio / HEAD) * HEAD)
    return width if ratio == 1 or width != heads else heads + (HEAD if ratio > 1 else -HEAD)


def _inner(width: int, ratio: float) -> int:
    return max(HEAD, round(width * min(ratio, INNER) / HEAD) * HEAD)
