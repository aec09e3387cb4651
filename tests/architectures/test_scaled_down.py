"""A network in small keeps the structure of the large one."""

import pytest

from service.architectures import scaled_down
from service.architectures.shape import Shape
from service.catalog.model import Model
from tests.support.fleets import CATALOG

SHRUNK = {
    model.id: shape
    for model in CATALOG.models.values()
    if model.network and (shape := scaled_down.small(model.network, model.shape, model.context))
}
KEPT = (
    "num_local_experts", "num_experts_per_tok", "tie_word_embeddings", "rope_theta", "sliding_window_pattern",
    "kv_lora_rank", "partial_rotary_factor", "n_shared_experts", "first_k_dense_replace",
)  # fmt: skip
every_model = pytest.mark.parametrize("model", [CATALOG.models[one] for one in SHRUNK], ids=lambda model: model.id)


def ratio(shape: Shape) -> int:
    assert shape.num_attention_heads and shape.num_key_value_heads
    return shape.num_attention_heads // shape.num_key_value_heads


@every_model
def test_keeps_what_changes_how_a_network_computes(model: Model) -> None:
    shape, little = model.shape, SHRUNK[model.id]
    for key in KEPT:
        assert getattr(little, key) == getattr(shape, key)
    assert (little.sliding_window is None) == (shape.sliding_window is None)
    assert little.vocab_size and shape.vocab_size
    assert little.vocab_size % 64 == shape.vocab_size % 64
    if shape.rope_scaling:
        assert little.rope_scaling
        assert little.rope_scaling.rope_type == shape.rope_scaling.rope_type


@every_model
def test_heads_share_keys_and_values_as_before(model: Model) -> None:
    if model.shape.num_key_value_heads is None:
        return
    large, little = ratio(model.shape), ratio(SHRUNK[model.id])
    assert little == large if large <= 8 else little in (7, 8) and little % 2 == large % 2
    assert (SHRUNK[model.id].num_key_value_heads == 1) == (model.shape.num_key_value_heads == 1)


@every_model
def test_is_small(model: Model) -> None:
    little = SHRUNK[model.id]
    assert (little.hidden_size or 0) <= 512
    assert (little.num_hidden_layers or 0) <= 12


@every_model
def test_heads_stay_wider_or_narrower_than_the_hidden_size(model: Model) -> None:
    def fills(shape: Shape) -> bool | None:
        if not shape.head_dim or not shape.num_attention_heads:
            return None
        return shape.num_attention_heads * shape.head_dim == shape.hidden_size

    assert fills(SHRUNK[model.id]) == fills(model.shape)


@pytest.mark.parametrize(
    ("identifier", "vocabulary", "expected"),
    [(2, 32000, 2), (32007, 32064, 1991), (11, 65024, 11), (200002, 201088, 962)],
)
def test_special_tokens_stay_as_far_from_the_nearer_end(identifier: int, vocabulary: int, expected: int) -> None:
    assert scaled_down.token(identifier, vocabulary, 2048) == expected


def test_a_shape_that_is_not_known_has_no_small_one() -> None:
    model = CATALOG.models["llama-2-7b"]
    assert model.network
    assert scaled_down.small(model.network, Shape(), model.context) is None
