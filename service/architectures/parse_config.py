"""Reads a `config.json` back into a shape: what it says, and nothing that it does not."""

from typing import Any

from pydantic import ValidationError

from service.architectures.config import SPELLINGS, UNDIVIDED
from service.architectures.registry import Architecture
from service.architectures.shape import RopeScaling, Shape

# Other spellings that published configurations use for the same thing.
ALSO = {
    "num_local_experts": ("num_experts", "n_routed_experts"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("ffn_hidden_size", "n_inner"),
}
SCALINGS = {"su": "longrope", "default": None}


class ReadingError(Exception):
    """A configuration that describes no network we could serve; the message says what is wrong with it."""


def architecture_of(config: dict[str, Any]) -> str:
    """The class that a `config.json` names; it may be one that we do not know."""
    named = config.get("architectures")
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        raise ReadingError("config.json names no class in 'architectures'")
    # Falcon's first snapshots carry the name of the code that came with them.
    return {"RWForCausalLM": "FalconForCausalLM"}.get(named[0], named[0])


def context_of(config: dict[str, Any]) -> int | None:
    """How many positions the configuration declares."""
    text = _text(config)
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        if isinstance(length := text.get(key), int) and length > 0:
            return length
    return None


def shape_of(config: dict[str, Any], architecture: Architecture) -> Shape:
    """The sizes in `config` that a network of this architecture has; raises ReadingError where they cannot be."""
    text = _text(config)
    sizes = {key: value for key in architecture.keys if (value := _size(text, key, architecture)) is not None}
    rope = text.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope) if isinstance(rope, dict) else {}
    if "rope_theta" in architecture.keys and isinstance(
        theta := text.get("rope_theta", rope.get("rope_theta")), int | float
    ):
        sizes["rope_theta"] = theta
    _add_window(sizes, text, architecture)
    _add_heads(sizes, text, architecture)
    sizes.pop("rope_scaling", None)
    if scaling := _scaling(text.get("rope_scaling") or rope, text):
        sizes["rope_scaling"] = scaling
    try:
        return Shape(**sizes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ReadingError(f"config.json: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a multimodal configuration that describes the text decoder, or all of it."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _size(text: dict[str, Any], key: str, architecture: Architecture) -> Any:
    own = SPELLINGS.get(architecture.model_type, {}).get(key, key)
    for spelling in (own, key, *ALSO.get(key, ())):
        if text.get(spelling) is not None:
            return text[spelling]
    return None


def _add_window(sizes: dict[str, Any], text: dict[str, Any], architecture: Architecture) -> None:
    if text.get("use_sliding_window") is False:
        sizes.pop("sliding_window", None)
    kinds = text.get("layer_types")
    if "sliding_window_pattern" in architecture.keys and isinstance(kinds, list) and "full_attention" in kinds:
        sizes["sliding_window_pattern"] = kinds.index("full_attention") + 1


def _add_heads(sizes: dict[str, Any], text: dict[str, Any], architecture: Architecture) -> None:
    """What the class derives from other sizes when it is not written."""
    heads, hidden = sizes.get("num_attention_heads"), sizes.get("hidden_size")
    if architecture.model_type == "falcon" and text.get("multi_query") and not text.get("new_decoder_architecture"):
        sizes["num_key_value_heads"] = 1
    if architecture.attention == "latent" or not (isinstance(heads, int) and heads):
        return
    sizes.setdefault("num_key_value_heads", heads)
    if architecture.model_type in UNDIVIDED or "head_dim" not in sizes:
        sizes["head_dim"] = hidden // heads if isinstance(hidden, int) and hidden % heads == 0 else None
    if architecture.model_type in ("falcon", "gpt2") and isinstance(hidden, int):
        sizes.setdefault("intermediate_size", 4 * hidden)


def _scaling(written: Any, text: dict[str, Any]) -> RopeScaling | None:
    if not isinstance(written, dict):
        return None
    kind = written.get("rope_type", written.get("type"))
    kind = SCALINGS.get(str(kind), kind)
    if kind is None:
        return None
    original = written.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
    fields = {key: written[key] for key in RopeScaling.model_fields if written.get(key) is not None}
    try:
        return RopeScaling(**{**fields, "rope_type": kind, "original_max_position_embeddings": original})
    except ValidationError:
        raise ReadingError(f"config.json: rope_scaling of kind '{kind}' is not one that we know") from None
