"""The `config.json` that describes a network of a given shape to transformers and to vLLM."""

from typing import Any

from service.architectures.registry import Architecture
from service.architectures.shape import RopeScaling, Shape

# Where a class spells a size otherwise.
SPELLINGS = {
    "gpt2": {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
    },
    "falcon": {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
    "deepseek_v2": {"num_local_experts": "n_routed_experts"},
}  # fmt: skip
# What the class can do both ways and its published models do one way.
HABITS: dict[str, dict[str, Any]] = {
    "bert": {"type_vocab_size": 2, "hidden_act": "gelu"},
    "deepseek_v2": {"q_lora_rank": None, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
                    "norm_topk_prob": False, "scoring_func": "softmax", "routed_scaling_factor": 1.0},
    "falcon": {"bias": False, "alibi": False, "parallel_attn": True},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False, "attention_bias": False},
    "qwen3_moe": {"use_sliding_window": False, "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
                  "norm_topk_prob": True},
    "starcoder2": {"use_bias": True, "norm_type": "layer_norm", "hidden_act": "gelu_pytorch_tanh"},
}  # fmt: skip
YARN = {"beta_fast": 32.0, "beta_slow": 1.0}
# Classes that say of each layer whether it slides; the others slide in all of them.
LAYERED = ("gemma3_text", "gpt_oss")
# Classes that divide the hidden size by the number of heads themselves.
UNDIVIDED = ("bert", "falcon", "gpt2")


def config(name: str, architecture: Architecture, shape: Shape, context: int) -> dict[str, Any]:
    """The configuration of a network of class `name` for `context` positions; what the shape does not know is left out.

    A multimodal class is described as its text decoder alone.
    """
    kind = architecture.model_type
    spellings = SPELLINGS.get(kind, {})
    sizes = {key: value for key in architecture.keys if (value := getattr(shape, key)) is not None}
    sizes["max_position_embeddings"] = context
    for key in ("rope_scaling", "sliding_window_pattern", *(("head_dim",) if kind in UNDIVIDED else ())):
        sizes.pop(key, None)
    fields: dict[str, Any] = {"architectures": [architecture.text_class or name], "model_type": kind}
    fields |= {spellings.get(key, key): value for key, value in sizes.items()} | HABITS.get(kind, {})
    if shape.rope_scaling:
        fields["rope_scaling"] = _scaling(shape.rope_scaling, shape, context)
        if shape.rope_scaling.rope_type == "longrope":
            fields["original_max_position_embeddings"] = shape.rope_scaling.original_max_position_embeddings
    if kind in LAYERED:
        layers = range(shape.num_hidden_layers or 0)
        fields["layer_types"] = ["sliding_attention" if shape.sliding(layer) else "full_attention" for layer in layers]
    if kind == "falcon":
        fields["multi_query"] = True
        fields["new_decoder_architecture"] = shape.num_key_value_heads != 1
    if kind == "gemma3_text":
        fields["query_pre_attn_scalar"] = shape.head_dim
    return fields


def _scaling(scaling: RopeScaling, shape: Shape, context: int) -> dict[str, Any]:
    fields: dict[str, Any] = {key: value for key, value in scaling.model_dump().items() if value is not None}
    original = scaling.original_max_position_embeddings
    if scaling.rope_type == "yarn":
        original = original or int(context / (scaling.factor or 1))
        fields |= {**YARN, "original_max_position_embeddings": original}
        if scaling.mscale:
            fields["mscale_all_dim"] = scaling.mscale
    if scaling.rope_type == "longrope":
        del fields["original_max_position_embeddings"]
        pairs = int((shape.head_dim or 0) * (shape.partial_rotary_factor or 1)) // 2
        # Stand-ins for the published factors: none at short range, growing with the wavelength at long range.
        reach = context / (original or context)
        fields["short_factor"] = [1.0] * pairs
        fields["long_factor"] = [reach ** (pair / max(1, pairs - 1)) for pair in range(pairs)]
    return fields
