"""Parameter counts, computed from the shape of a network as its transformers class builds it."""

from service.architectures.registry import Architecture
from service.architectures.shape import Shape

REQUIRED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
REQUIRED_LATENT = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")


def missing_sizes(architecture: Architecture, shape: Shape, context: int | None) -> list[str]:
    """The sizes that `count_parameters` needs and `shape` does not give."""
    needed = [key for key in REQUIRED if key in architecture.sizes]
    if architecture.attention == "latent":
        needed = [key for key in (*needed, *REQUIRED_LATENT) if key not in ("head_dim", "num_key_value_heads")]
    needed += [key for key in ("num_local_experts", "q_lora_rank", "use_qk_norm") if key in architecture.sizes]
    absent = [key for key in needed if getattr(shape, key) is None]
    return [*absent, "context"] if architecture.learned_positions and context is None else absent


def count_parameters(architecture: Architecture, shape: Shape, context: int | None, active: bool = False) -> int | None:
    """The number of parameters; None if a size is missing. `active` counts only the experts that one token uses.

    `context` is the number of learned positions, for architectures that learn them. A multimodal class is counted
    without its vision tower. Pure.
    """
    if missing_sizes(architecture, shape, context):
        return None
    hidden, layers, vocabulary = _known(shape.hidden_size), _known(shape.num_hidden_layers), _known(shape.vocab_size)
    dense = shape.first_k_dense_replace or 0 if shape.num_local_experts else layers
    norm = hidden * (2 if architecture.norm_bias else 1)
    total = layers * (_attention(architecture, shape) + _norms(architecture, shape) * norm)
    total += dense * _feed_forward(architecture, hidden, _known(shape.intermediate_size))
    total += (layers - dense) * _mixture_of_experts(architecture, shape, active) if dense < layers else 0
    total += vocabulary * hidden
    total += architecture.positions(context or 0) * hidden
    if architecture.attention == "encoder":
        # Token type embeddings, the norm after the embeddings, and the pooler or the classifier, which begins like one.
        scores = architecture.outputs * (hidden + 1)
        return total + architecture.token_types * hidden + norm + hidden * hidden + hidden + scores
    return total + norm + (0 if shape.tie_word_embeddings else vocabulary * hidden)


def _known(value: int | None) -> int:
    assert value is not None, "missing_sizes() was checked before"
    return value


def _norms(architecture: Architecture, shape: Shape) -> int:
    # Falcon's new decoder (grouped-query) has one norm each for attention and feed-forward; in the old one they share.
    new_falcon = architecture.model_type == "falcon" and shape.num_key_value_heads != 1
    return 2 if new_falcon else architecture.norms_per_layer


def _attention(architecture: Architecture, shape: Shape) -> int:
    hidden, heads = _known(shape.hidden_size), _known(shape.num_attention_heads)
    if architecture.attention == "latent":
        rank, rope = _known(shape.kv_lora_rank), _known(shape.qk_rope_head_dim)
        nope, value = _known(shape.qk_nope_head_dim), _known(shape.v_head_dim)
        compression = shape.q_lora_rank or 0
        queries = (compression or hidden) * heads * (nope + rope) + compression * (hidden + 1)
        compressed = hidden * (rank + rope) + rank
        return queries + compressed + rank * heads * (nope + value) + heads * value * hidden
    size, kv_heads = _known(shape.head_dim), _known(shape.num_key_value_heads)
    total = (hidden + architecture.qkv_bias) * (heads + 2 * kv_heads) * size
    total += heads * size * hidden + (hidden if architecture.attention_output_bias else 0)
    normalised = architecture.qk_norm and shape.use_qk_norm is not False
    norm = (heads + kv_heads) * size if architecture.qk_norm_of_all_heads else 2 * size
    return total + (norm if normalised else 0) + (heads if architecture.attention_sinks else 0)


def _feed_forward(architecture: Architecture, hidden: int, inner: int) -> int:
    up_projections = 2 if architecture.gated_feed_forward else 1
    biases = up_projections * inner + hidden if architecture.feed_forward_bias else 0
    return (up_projections + 1) * hidden * inner + biases


def _mixture_of_experts(architecture: Architecture, shape: Shape, active: bool) -> int:
    hidden, count = _known(shape.hidden_size), _known(shape.num_local_experts)
    routed = _known(shape.num_experts_per_tok) if active else count
    router = (hidden + architecture.feed_forward_bias) * count
    experts = routed + (shape.n_shared_experts or 0)
    return router + experts * _feed_forward(architecture, hidden, _known(shape.expert_size))
