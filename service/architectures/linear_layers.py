"""The sizes of the linear layers of a decoder, by its shape: what a LoRA adapter may change, and what that costs."""

from dataclasses import dataclass
from typing import Literal

from service.architectures.shape import Shape


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer that stands `count` times in the network; sizes of its `inputs` and `outputs`.

    `split` is what tensor parallelism divides among the GPUs of what an adapter adds to it.
    """

    name: str
    inputs: int
    outputs: int
    count: int
    split: Literal["inputs", "outputs", "nothing"]


def linear_layers(shape: Shape) -> list[LinearLayer] | None:
    """The layers that an engine gives room for adapters; None where a size is unknown.

    They are named as in Llama. Attention with a latent vector (MLA) has others, which are not known here.
    """
    hidden, layers, heads = shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads
    inner, vocabulary = shape.expert_size, shape.vocab_size
    if not (hidden and layers and heads and inner and vocabulary) or shape.kv_lora_rank:
        return None
    head = shape.head_dim or hidden // heads
    queries, keys = heads * head, (shape.num_key_value_heads or heads) * head
    experts = layers * (shape.num_local_experts or 1)
    return [
        LinearLayer("q_proj", hidden, queries, layers, "outputs"),
        LinearLayer("k_proj", hidden, keys, layers, "outputs"),
        LinearLayer("v_proj", hidden, keys, layers, "outputs"),
        LinearLayer("o_proj", queries, hidden, layers, "inputs"),
        LinearLayer("gate_proj", hidden, inner, experts, "outputs"),
        LinearLayer("up_proj", hidden, inner, experts, "outputs"),
        LinearLayer("down_proj", inner, hidden, experts, "inputs"),
        LinearLayer("embed_tokens", vocabulary, hidden, 1, "nothing"),
        LinearLayer("lm_head", hidden, vocabulary, 1, "nothing"),
    ]
