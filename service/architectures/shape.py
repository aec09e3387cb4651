"""The sizes of a network, named as in transformers' `config.json`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.config.strict_yaml import Frozen


class RopeScaling(Frozen):
    """How rotary position embeddings (RoPE) are extended to a longer context.

    `original_max_position_embeddings` is the context before the extension, in tokens. The per-dimension factors of
    `longrope` are only in the weights' own `config.json`.
    """

    rope_type: Literal["linear", "llama3", "yarn", "longrope"]
    factor: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    llama_4_scaling_beta: PositiveFloat | None = None
    original_max_position_embeddings: PositiveInt | None = None


class Shape(Frozen):
    """The sizes of a network; null means unknown, or that the architecture has no such size.

    `sliding_window_pattern` N means that every Nth layer has full attention and the others attend to the last
    `sliding_window` tokens; with a window and no pattern, every layer has sliding-window attention. Every
    `no_rope_layer_interval`th layer has no rotary positions. `use_qk_norm` is for classes that leave it to the
    configuration. `intermediate_size`
    is the feed-forward size of dense layers, and of each expert if there is no `moe_intermediate_size`.
    """

    hidden_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    vocab_size: PositiveInt | None = None
    tie_word_embeddings: bool | None = None

    rope_theta: PositiveFloat | None = None
    rope_scaling: RopeScaling | None = None
    rope_local_base_freq: PositiveFloat | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    sliding_window: PositiveInt | None = None
    sliding_window_pattern: Annotated[int, Field(ge=2)] | None = None
    no_rope_layer_interval: Annotated[int, Field(ge=2)] | None = None
    use_qk_norm: bool | None = None

    num_local_experts: PositiveInt | None = None
    num_experts_per_tok: PositiveInt | None = None
    moe_intermediate_size: PositiveInt | None = None
    n_shared_experts: PositiveInt | None = None
    first_k_dense_replace: PositiveInt | None = None

    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt | None = None
    qk_rope_head_dim: PositiveInt | None = None
    qk_nope_head_dim: PositiveInt | None = None
    v_head_dim: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "Shape":
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads and kv_heads and heads % kv_heads:
            raise ValueError(f"{heads} attention heads cannot share {kv_heads} key-value heads evenly")
        experts, experts_per_token = self.num_local_experts, self.num_experts_per_tok
        if (experts is None) != (experts_per_token is None):
            raise ValueError("give both 'num_local_experts' and 'num_experts_per_tok', or neither")
        if experts and experts_per_token and experts_per_token > experts:
            raise ValueError(f"{experts_per_token} experts per token are more than the {experts} experts")
        if self.sliding_window_pattern and not self.sliding_window:
            raise ValueError("a 'sliding_window_pattern' needs a 'sliding_window'")
        return self

    @property
    def expert_size(self) -> int | None:
        """The feed-forward size of one expert."""
        return self.moe_intermediate_size or self.intermediate_size

    def sliding(self, layer: int) -> bool:
        """Whether the layer with this index, from 0, has sliding-window attention."""
        if self.sliding_window is None:
            return False
        return self.sliding_window_pattern is None or (layer + 1) % self.sliding_window_pattern != 0
