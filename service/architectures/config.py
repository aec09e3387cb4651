"""Writes the `config.json` from which transformers and vLLM build a network of a given shape."""

from typing import Any

from service.architectures.registry import Architecture
from service.architectures.shape import RopeScaling, Shape

# Per model type: sizes whose `config.json` key differs from the name in `Shape`.
SIZE_KEYS = {
    "gpt2": {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
    },
    "falcon": {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
    "deepseek_v2": {"num_local_experts": "n_routed_experts"},
    "deepseek_v3": {"num_local_experts": "n_routed_experts"},
    "glm4_moe": {"num_local_experts": "n_routed_experts"},
    "glm4_moe_lite": {"num_local_experts": "n_routed_experts"},
}  # fmt: skip
# Per model type: options of the class that all of its published models set to the same value.
FIXED_OPTIONS: dict[str, dict[str, Any]] = {
    "bert": {"type_vocab_size": 2, "hidden_act": "gelu"},
    "deepseek_v2": {"q_lora_rank": None, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
                    "norm_topk_prob": False, "scoring_func": "softmax", "routed_scaling_factor": 1.0},
    "deepseek_v3": {"moe_layer_freq": 1, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
                    "num_nextn_predict_layers": 0},
    "glm4_moe": {"attention_bias": True, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
                 "num_nextn_predict_layers": 0},
    "glm4_moe_lite": {"n_group": 1, "topk_group": 1, "norm_topk_prob": True, "topk_method": "noaux_tc",
                      "num_nextn_predict_layers": 0},
    "minimax_m2": {"use_qk_norm": True, "qk_norm_type": "per_layer", "scoring_func": "sigmoid",
                   "use_routing_bias": True},
    "xlm-roberta": {"type_vocab_size": 1, "hidden_act": "gelu", "position_embedding_type": "absolute"},
    "falcon": {"bias": False, "alibi": False, "parallel_attn": True},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False, "attention_bias": False},
    "qwen3_moe": {"use_sliding_window": False, "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
                  "norm_topk_prob": True},
    "starcoder2": {"use_bias": True, "norm_type": "layer_norm", "hidden_act": "gelu_pytorch_tanh"},
}  # fmt: skip
YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}
# Model types whose configuration lists the attention type of every layer.
WITH_LAYER_TYPES = ("gemma3_text", "gpt_oss", "olmo3")
# Model types whose class computes the head size as hidden size / heads and has no key for it.
DERIVED_HEAD_DIM = ("bert", "falcon", "gpt2", "xlm-roberta")


def config(name: str, architecture: Architecture, shape: Shape, context: int) -> dict[str, Any]:
    """The `config.json` of a network of class `name` with `context` positions. Pure.

    Unknown sizes are left out. A multimodal class is described as its text decoder alone.
    """
    model_type = architecture.model_type
    size_keys = SIZE_KEYS.get(model_type, {})
    sizes = {key: value for key in architecture.sizes if (value := getattr(shape, key)) is not None}
    sizes["max_position_embeddings"] = architecture.positions(context) or context
    for key in ("rope_scaling", "sliding_window_pattern", *(("head_dim",) if model_type in DERIVED_HEAD_DIM else ())):
        sizes.pop(key, None)
    fields: dict[str, Any] = {"architectures": [architecture.text_class or name], "model_type": model_type}
    fields |= {size_keys.get(key, key): value for key, value in sizes.items()} | FIXED_OPTIONS.get(model_type, {})
    if shape.rope_scaling:
        fields["rope_scaling"] = _rope_scaling(shape.rope_scaling, shape, context)
        if shape.rope_scaling.rope_type == "longrope":
            fields["original_max_position_embeddings"] = shape.rope_scaling.original_max_position_embeddings
    if model_type in WITH_LAYER_TYPES:
        layers = range(shape.num_hidden_layers or 0)
        fields["layer_types"] = ["sliding_attention" if shape.sliding(layer) else "full_attention" for layer in layers]
    if model_type == "falcon":
        fields["multi_query"] = True
        fields["new_decoder_architecture"] = shape.num_key_value_heads != 1
    if model_type == "minimax_m2" and shape.head_dim:
        fields["rotary_dim"] = int(shape.head_dim * (shape.partial_rotary_factor or 1))
    if architecture.outputs:
        fields["num_labels"] = architecture.outputs
    if model_type == "gemma3_text":
        fields["query_pre_attn_scalar"] = shape.head_dim
    return fields


def _rope_scaling(scaling: RopeScaling, shape: Shape, context: int) -> dict[str, Any]:
    fields: dict[str, Any] = {key: value for key, value in scaling.model_dump().items() if value is not None}
    original = scaling.original_max_position_embeddings
    if scaling.rope_type == "yarn":
        original = original or int(context / (scaling.factor or 1))
        fields = {**YARN_DEFAULTS, **fields, "original_max_position_embeddings": original}
        if scaling.mscale:
            fields["mscale_all_dim"] = scaling.mscale
    if scaling.rope_type == "longrope":
        del fields["original_max_position_embeddings"]
        pairs = int((shape.head_dim or 0) * (shape.partial_rotary_factor or 1)) // 2
        # The published factors are only in the weights' own file. These stand in for them: no scaling for short texts,
        # scaling that grows with the wavelength for long ones.
        extension = context / (original or context)
        fields["short_factor"] = [1.0] * pairs
        fields["long_factor"] = [extension ** (pair / max(1, pairs - 1)) for pair in range(pairs)]
    return fields
