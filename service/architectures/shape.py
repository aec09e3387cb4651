"""The sizes of a network, named as in `config.json`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.config.strict_yaml import Frozen


class RopeScaling(Frozen):
    """How rotary positions are stretched; `original_max_position_embeddings` is the length before, in tokens.

    The per-dimension factors of `longrope` are only in the weights' own `config.json`.
    """

    rope_type: Literal["linear", "llama3", "yarn", "longrope"]
    factor: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    original_max_position_embeddings: PositiveInt | None = None


class Shape(Frozen):
    """What a network is made of; null means unknown, or that the architecture has no such thing.

    `sliding_window_pattern` N means that every Nth layer attends to everything and the others to `sliding_window`
    tokens; with a window and no pattern every layer slides. `intermediate_size` is that of the dense layers and, where
    there is no `moe_intermediate_size`, of each expert.
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

    num_local_experts: PositiveInt | None = None
    num_experts_per_tok: PositiveInt | None = None
    moe_intermediate_size: PositiveInt | None = None
    n_shared_experts: PositiveInt | None = None
    first_k_dense_replace: PositiveInt | None = None

    kv_lora_rank: PositiveInt | None = None
    qk_rope_head_dim: PositiveInt | None = None
    qk_nope_head_dim: PositiveInt | None = None
    v_head_dim: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Shape":
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads and groups and heads % groups:
            raise ValueError(f"{heads} attention heads cannot share {groups} key-value heads evenly")
        experts, chosen = self.num_local_experts, self.num_experts_per_tok
        if (experts is None) != (chosen is None):
            raise ValueError("give both 'num_local_experts' and 'num_experts_per_tok', or neither")
        if experts and chosen and chosen > experts:
            raise ValueError(f"{chosen} experts per token cannot be chosen among {experts}")
        if self.sliding_window_pattern and not self.sliding_window:
            raise ValueError("a 'sliding_window_pattern' needs a 'sliding_window'")
        return self

    @property
    def expert_size(self) -> int | None:
        """The inner size of one expert."""
        return self.moe_intermediate_size or self.intermediate_size

    def sliding(self, layer: int) -> bool:
        """Whether the layer with this number, from 0, attends to the window only."""
        if self.sliding_window is None:
            return False
        return self.sliding_window_pattern is None or (layer + 1) % self.sliding_window_pattern != 0
