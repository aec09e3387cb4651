"""The network classes of the catalogue's models: how each is built, and whether the pinned vLLM serves it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

DECODER = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor")
WINDOW = ("sliding_window",)
EXPERTS = ("num_local_experts", "num_experts_per_tok")
LATENT = (
    "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "kv_lora_rank", "qk_rope_head_dim",
    "qk_nope_head_dim", "v_head_dim",
)  # fmt: skip
COMPRESSED_QUERIES = ("q_lora_rank",)


@dataclass(frozen=True)
class Architecture:
    """How a network class of transformers is built; for a multimodal class, its text decoder, of class `text_class`.

    `model_type` is the decoder's, as in `config.json`. `sizes` are the fields of Shape that it has. `attention` decides
    the KV cache: keys and values per head, one latent vector per layer (MLA), or none (an encoder). With `qk_norm`
    queries and keys are normalised, each head by itself or (`qk_norm_of_all_heads`) all together. An encoder has
    `token_types`, and `outputs` scores if it classifies; learned positions begin after `position_offset` unused ones.
    `backend` is the implementation that vLLM uses. `refused` is the reason why the pinned vLLM does not serve the
    class; `removed` means that vLLM has dropped it.
    """

    model_type: str
    sizes: tuple[str, ...]
    attention: Literal["heads", "latent", "encoder"] = "heads"
    gated_feed_forward: bool = True
    norms_per_layer: int = 2
    norm_bias: bool = False
    qkv_bias: bool = False
    attention_output_bias: bool = False
    feed_forward_bias: bool = False
    qk_norm: bool = False
    qk_norm_of_all_heads: bool = False
    attention_sinks: bool = False
    learned_positions: bool = False
    position_offset: int = 0
    token_types: int = 2
    outputs: int = 0
    backend: Literal["native", "transformers"] = "native"
    text_class: str | None = None
    refused: str | None = None
    removed: bool = False

    def positions(self, context: int) -> int:
        """The number of learned positions for texts of up to `context` tokens; 0 if it learns none."""
        return context + self.position_offset if self.learned_positions else 0


_LLAMA = Architecture("llama", DECODER + ROPE)
_GPT2 = Architecture(
    "gpt2", DECODER, gated_feed_forward=False, norm_bias=True, qkv_bias=True, attention_output_bias=True,
    feed_forward_bias=True, learned_positions=True,
)  # fmt: skip
_BERT = replace(
    _GPT2, model_type="bert", attention="encoder", sizes=tuple(key for key in DECODER if key != "tie_word_embeddings")
)
_XLM_ROBERTA = replace(_BERT, model_type="xlm-roberta", position_offset=2, token_types=1)
_DEEPSEEK_V3 = Architecture("deepseek_v3", DECODER + ROPE + EXPERTS + LATENT + COMPRESSED_QUERIES, attention="latent")
_FALCON = Architecture("falcon", DECODER + ROPE, gated_feed_forward=False, norms_per_layer=1, norm_bias=True)
_GEMMA_3 = Architecture(
    "gemma3_text", (*DECODER, *ROPE, *WINDOW, "sliding_window_pattern", "rope_local_base_freq"),
    norms_per_layer=4, qk_norm=True,
)  # fmt: skip
_GROK = Architecture(
    "grok-1", DECODER + ROPE + EXPERTS, norms_per_layer=4,
    refused="vLLM removed its Grok-1 classes after 0.24; the published checkpoint is JAX, without a config.json",
    removed=True,
)  # fmt: skip

# By the class name, which `architecture` in the catalogue and `architectures` in `config.json` give.
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "LlamaForCausalLM": _LLAMA,
        "MistralForCausalLM": Architecture("mistral", DECODER + ROPE + WINDOW),
        "MixtralForCausalLM": Architecture("mixtral", DECODER + ROPE + WINDOW + EXPERTS),
        "Phi3ForCausalLM": Architecture("phi3", DECODER + ROPE + WINDOW),
        "Phi3SmallForCausalLM": Architecture(
            "phi3small", DECODER + ROPE,
            refused="vLLM removed Phi3SmallForCausalLM after 0.9.2",
            removed=True,
        ),
        "FalconForCausalLM": _FALCON,
        "GPT2LMHeadModel": _GPT2,
        "BertModel": _BERT,
        "BertForMaskedLM": replace(
            _BERT,
            refused="for this class vLLM offers only masked-token scores on /pooling, no /v1/embeddings; weights saved "
            "again with transformers' BertModel can be served",
        ),
        "XLMRobertaModel": _XLM_ROBERTA,
        "XLMRobertaForSequenceClassification": replace(_XLM_ROBERTA, outputs=1),
        "Grok1ModelForCausalLM": _GROK,
        "Qwen2ForCausalLM": Architecture("qwen2", DECODER + ROPE + WINDOW, qkv_bias=True),
        "Qwen3ForCausalLM": Architecture("qwen3", DECODER + ROPE + WINDOW, qk_norm=True),
        "Qwen3MoeForCausalLM": Architecture(
            "qwen3_moe", (*DECODER, *ROPE, *WINDOW, *EXPERTS, "moe_intermediate_size"), qk_norm=True
        ),
        "Gemma3ForCausalLM": _GEMMA_3,
        "Gemma3ForConditionalGeneration": replace(_GEMMA_3, text_class="Gemma3ForCausalLM"),
        "Mistral3ForConditionalGeneration": Architecture(
            "mistral", DECODER + ROPE + WINDOW, text_class="MistralForCausalLM"
        ),
        # The text decoder of Ministral 3, whose own class is Mistral3ForConditionalGeneration too.
        "Ministral3ForCausalLM": Architecture("ministral3", DECODER + ROPE + WINDOW),
        "GptOssForCausalLM": Architecture(
            "gpt_oss", (*DECODER, *ROPE, *WINDOW, *EXPERTS, "sliding_window_pattern"),
            qkv_bias=True, attention_output_bias=True, feed_forward_bias=True, attention_sinks=True,
        ),
        "DeepseekV2ForCausalLM": Architecture("deepseek_v2", DECODER + ROPE + EXPERTS + LATENT, attention="latent"),
        "DeepseekV3ForCausalLM": _DEEPSEEK_V3,
        "KimiK25ForConditionalGeneration": replace(_DEEPSEEK_V3, text_class="DeepseekV3ForCausalLM"),
        "Glm4MoeLiteForCausalLM": replace(_DEEPSEEK_V3, model_type="glm4_moe_lite"),
        "Glm4MoeForCausalLM": Architecture(
            "glm4_moe", (*DECODER, *ROPE, *EXPERTS, "moe_intermediate_size", "n_shared_experts",
                         "first_k_dense_replace", "use_qk_norm"),
            qkv_bias=True, qk_norm=True,
        ),
        "MiniMaxM2ForCausalLM": Architecture(
            "minimax_m2", DECODER + ROPE + EXPERTS, qk_norm=True, qk_norm_of_all_heads=True
        ),
        "Olmo3ForCausalLM": Architecture(
            "olmo3", (*DECODER, *ROPE, *WINDOW, "sliding_window_pattern"), qk_norm=True, qk_norm_of_all_heads=True,
            backend="transformers",
        ),
        "SmolLM3ForCausalLM": Architecture(
            "smollm3", (*DECODER, *ROPE, "no_rope_layer_interval"), backend="transformers"
        ),
        "Starcoder2ForCausalLM": replace(
            _GPT2, model_type="starcoder2", sizes=DECODER + ROPE + WINDOW, learned_positions=False,
            backend="transformers",
        ),
    }
)  # fmt: skip
