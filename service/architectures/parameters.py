"""How many weights a network has, counted from its shape."""

from service.architectures.registry import Architecture
from service.architectures.shape import Shape

COUNTED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
LATENT = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
TOKEN_TYPES = 2  # of every BERT in the catalogue


def missing(architecture: Architecture, shape: Shape, context: int | None) -> list[str]:
    """The sizes that the count needs and the shape does not tell."""
    needed = [key for key in COUNTED if key in architecture.keys]
    if architecture.attention == "latent":
        needed = [key for key in (*needed, *LATENT) if key not in ("head_dim", "num_key_value_heads")]
    if "num_local_experts" in architecture.keys:
        needed.append("num_local_experts")
    absent = [key for key in needed if getattr(shape, key) is None]
    return [*absent, "context"] if architecture.learned_positions and context is None else absent


def parameters(architecture: Architecture, shape: Shape, context: int | None, active: bool = False) -> int | None:
    """The number of weights, or None where the shape does not tell; `active` counts what one token passes through.

    `context` is the number of learned positions, where the architecture learns them. A multimodal class is counted
    without its vision tower.
    """
    if missing(architecture, shape, context):
        return None
    hidden, layers, vocabulary = _known(shape.hidden_size), _known(shape.num_hidden_layers), _known(shape.vocab_size)
    dense = shape.first_k_dense_replace or 0 if shape.num_local_experts else layers
    norm = hidden * (2 if architecture.norm_bias else 1)
    total = layers * (_attention(architecture, shape) + _norms(architecture, shape) * norm)
    total += dense * _feed_forward(architecture, hidden, _known(shape.intermediate_size))
    total += (layers - dense) * _mixture(architecture, shape, active) if dense < layers else 0
    total += vocabulary * hidden
    if architecture.learned_positions:
        total += _known(context) * hidden
    if architecture.attention == "encoder":
        # Token types, the normalisation after the embeddings, and the pooler.
        return total + TOKEN_TYPES * hidden + norm + hidden * hidden + hidden
    return total + norm + (0 if shape.tie_word_embeddings else vocabulary * hidden)


def _known(value: int | None) -> int:
    assert value is not None, "missing() was asked"
    return value


def _norms(architecture: Architecture, shape: Shape) -> int:
    # Falcon's new decoder (grouped queries) normalises attention and feed-forward apart; the old one shares.
    return 2 if architecture.model_type == "falcon" and shape.num_key_value_heads != 1 else architecture.norms


def _attention(architecture: Architecture, shape: Shape) -> int:
    hidden, heads = _known(shape.hidden_size), _known(shape.num_attention_heads)
    if architecture.attention == "latent":
        rank, rotary = _known(shape.kv_lora_rank), _known(shape.qk_rope_head_dim)
        plain, value = _known(shape.qk_nope_head_dim), _known(shape.v_head_dim)
        queries = hidden * heads * (plain + rotary)
        compressed = hidden * (rank + rotary) + rank
        return queries + compressed + rank * heads * (plain + value) + heads * value * hidden
    size, groups = _known(shape.head_dim), _known(shape.num_key_value_heads)
    total = (hidden + architecture.query_bias) * (heads + 2 * groups) * size
    total += heads * size * hidden + (hidden if architecture.output_bias else 0)
    return total + (2 * size if architecture.head_norm else 0) + (heads if architecture.sinks else 0)


def _feed_forward(architecture: Architecture, hidden: int, inner: int) -> int:
    into = 2 if architecture.gated else 1
    biases = into * inner + hidden if architecture.feed_forward_bias else 0
    return (into + 1) * hidden * inner + biases


def _mixture(architecture: Architecture, shape: Shape, active: bool) -> int:
    hidden, count = _known(shape.hidden_size), _known(shape.num_local_experts)
    used = _known(shape.num_experts_per_tok) if active else count
    router = (hidden + architecture.feed_forward_bias) * count
    experts = used + (shape.n_shared_experts or 0)
    return router + experts * _feed_forward(architecture, hidden, _known(shape.expert_size))
