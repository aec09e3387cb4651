"""The network classes that the catalogue's models need: how each is built, and whether the pinned vLLM runs it."""

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


@dataclass(frozen=True)
class Architecture:
    """One network class of transformers; a multimodal one stands for its text decoder, whose own class is `text_class`.

    `model_type` is the decoder's, as in `config.json`. `keys` are the sizes it has, a subset of Shape's. `attention` is
    how it caches: keys and values per head, one latent vector per layer, or nothing (an encoder). `norms` counts a
    layer's normalisations. `refused` says why the pinned vLLM does not serve it; `removed`: it knows the class no more.
    """

    model_type: str
    keys: tuple[str, ...]
    attention: Literal["heads", "latent", "encoder"] = "heads"
    gated: bool = True
    norms: int = 2
    norm_bias: bool = False
    query_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    head_norm: bool = False
    sinks: bool = False
    learned_positions: bool = False
    backend: Literal["native", "transformers"] = "native"
    text_class: str | None = None
    refused: str | None = None
    removed: bool = False


_LLAMA = Architecture("llama", DECODER + ROPE)
_GPT2 = Architecture(
    "gpt2", DECODER, gated=False, norm_bias=True, query_bias=True, output_bias=True, feed_forward_bias=True,
    learned_positions=True,
)  # fmt: skip
_BERT = replace(
    _GPT2, model_type="bert", attention="encoder", keys=tuple(key for key in DECODER if key != "tie_word_embeddings")
)
_FALCON = Architecture("falcon", DECODER + ROPE, gated=False, norms=1, norm_bias=True)
_GEMMA_3 = Architecture(
    "gemma3_text", (*DECODER, *ROPE, *WINDOW, "sliding_window_pattern", "rope_local_base_freq"), norms=4, head_norm=True
)
_GROK = Architecture(
    "grok-1", DECODER + ROPE + EXPERTS, norms=4,
    refused="vLLM removed its Grok-1 classes after 0.24; the published checkpoint is JAX, without a config.json",
    removed=True,
)  # fmt: skip

# A model names one of these as its `architecture`.
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
            refused="vLLM has no /v1/embeddings for this class, only scores of masked words on /pooling; weights saved "
            "once more as transformers' BertModel give embeddings",
        ),
        "Grok1ModelForCausalLM": _GROK,
        "Qwen2ForCausalLM": Architecture("qwen2", DECODER + ROPE + WINDOW, query_bias=True),
        "Qwen3ForCausalLM": Architecture("qwen3", DECODER + ROPE + WINDOW, head_norm=True),
        "Qwen3MoeForCausalLM": Architecture(
            "qwen3_moe", (*DECODER, *ROPE, *WINDOW, *EXPERTS, "moe_intermediate_size"), head_norm=True
        ),
        "Gemma3ForCausalLM": _GEMMA_3,
        "Gemma3ForConditionalGeneration": replace(_GEMMA_3, text_class="Gemma3ForCausalLM"),
        "Mistral3ForConditionalGeneration": Architecture(
            "mistral", DECODER + ROPE + WINDOW, text_class="MistralForCausalLM"
        ),
        "GptOssForCausalLM": Architecture(
            "gpt_oss", (*DECODER, *ROPE, *WINDOW, *EXPERTS, "sliding_window_pattern"),
            query_bias=True, output_bias=True, feed_forward_bias=True, sinks=True,
        ),
        "DeepseekV2ForCausalLM": Architecture("deepseek_v2", DECODER + ROPE + EXPERTS + LATENT, attention="latent"),
        "Starcoder2ForCausalLM": replace(
            _GPT2, model_type="starcoder2", keys=DECODER + ROPE + WINDOW, learned_positions=False,
            backend="transformers",
        ),
    }
)  # fmt: skip
