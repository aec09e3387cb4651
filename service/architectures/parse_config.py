"""Parses a published `config.json` into architecture, context length and shape. Pure; nothing is guessed."""

from typing import Any

from pydantic import ValidationError

from service.architectures.config import DERIVED_HEAD_DIM, SIZE_KEYS, YARN_DEFAULTS
from service.architectures.registry import ARCHITECTURES, Architecture
from service.architectures.shape import RopeScaling, Shape

# Other keys that published configurations use for the same size.
ALIASES = {
    "num_local_experts": ("num_experts", "n_routed_experts"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("ffn_hidden_size", "n_inner"),
}
ROPE_TYPE_ALIASES = {"su": "longrope", "default": None}


class ModelConfigError(Exception):
    """A `config.json` that describes no network we could serve; the message says what is wrong with it."""


def parse_architecture(config: dict[str, Any]) -> str:
    """The class that a `config.json` names, which need not be one of `ARCHITECTURES`.

    Raises ModelConfigError if it names none.
    """
    names = config.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise ModelConfigError("config.json names no class in 'architectures'")
    # Falcon's first revisions name the class in the code that they were published with.
    return {"RWForCausalLM": "FalconForCausalLM"}.get(names[0], names[0])


def parse_context(config: dict[str, Any]) -> int | None:
    """The longest text that the configuration declares, in tokens; None if it declares none."""
    text = _text_config(config)
    network = next((ARCHITECTURES[name] for name in config.get("architectures") or () if name in ARCHITECTURES), None)
    unused = network.position_offset if network else 0
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        if isinstance(length := text.get(key), int) and length > unused:
            return length - unused
    return None


def parse_shape(config: dict[str, Any], architecture: Architecture) -> Shape:
    """The sizes in `config` that a network of this architecture has.

    Raises ModelConfigError if they contradict each other or have the wrong type.
    """
    text = _text_config(config)
    sizes = {key: value for key in architecture.sizes if (value := _size(text, key, architecture)) is not None}
    rope = text.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope) if isinstance(rope, dict) else {}
    if "rope_theta" in architecture.sizes and isinstance(
        theta := text.get("rope_theta", rope.get("rope_theta")), int | float
    ):
        sizes["rope_theta"] = theta
    _add_sliding_window(sizes, text, architecture)
    _add_heads(sizes, text, architecture)
    sizes.pop("rope_scaling", None)
    if scaling := _rope_scaling(text.get("rope_scaling") or rope, text):
        sizes["rope_scaling"] = scaling
    try:
        return Shape(**sizes)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ModelConfigError(f"config.json: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a multimodal model's text decoder; the whole of any other."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _size(text: dict[str, Any], key: str, architecture: Architecture) -> Any:
    own = SIZE_KEYS.get(architecture.model_type, {}).get(key, key)
    for alias in (own, key, *ALIASES.get(key, ())):
        if text.get(alias) is not None:
            return text[alias]
    return None


def _add_sliding_window(sizes: dict[str, Any], text: dict[str, Any], architecture: Architecture) -> None:
    if text.get("use_sliding_window") is False:
        sizes.pop("sliding_window", None)
    layer_types = text.get("layer_types")
    if (
        "sliding_window_pattern" in architecture.sizes
        and isinstance(layer_types, list)
        and "full_attention" in layer_types
    ):
        sizes["sliding_window_pattern"] = layer_types.index("full_attention") + 1


def _add_heads(sizes: dict[str, Any], text: dict[str, Any], architecture: Architecture) -> None:
    """Adds the sizes that the class derives from others when the configuration leaves them out."""
    heads, hidden = sizes.get("num_attention_heads"), sizes.get("hidden_size")
    if architecture.model_type == "falcon" and text.get("multi_query") and not text.get("new_decoder_architecture"):
        sizes["num_key_value_heads"] = 1
    if architecture.attention == "latent" or not (isinstance(heads, int) and heads):
        return
    sizes.setdefault("num_key_value_heads", heads)
    if architecture.model_type in DERIVED_HEAD_DIM or "head_dim" not in sizes:
        sizes["head_dim"] = hidden // heads if isinstance(hidden, int) and hidden % heads == 0 else None
    if architecture.model_type in ("falcon", "gpt2") and isinstance(hidden, int):
        sizes.setdefault("intermediate_size", 4 * hidden)


def _rope_scaling(written: Any, text: dict[str, Any]) -> RopeScaling | None:
    if not isinstance(written, dict):
        return None
    rope_type = written.get("rope_type", written.get("type"))
    rope_type = ROPE_TYPE_ALIASES.get(str(rope_type), rope_type)
    if rope_type is None:
        return None
    original = written.get("original_max_position_embeddings", text.get("original_max_position_embeddings"))
    fields = {key: value for key in RopeScaling.model_fields
              if (value := written.get(key)) is not None and value != YARN_DEFAULTS.get(key)}  # fmt: skip
    try:
        return RopeScaling(**{**fields, "rope_type": rope_type, "original_max_position_embeddings": original})
    except ValidationError:
        raise ModelConfigError(f"config.json: rope_scaling of type '{rope_type}' is not supported") from None
