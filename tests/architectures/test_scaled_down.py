"""A scaled-down network keeps the structure of the full one."""

import pytest

from service.architectures import scaled_down
from service.architectures.shape import Shape
from service.catalog.model import Model
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

SCALED_DOWN = {
    model.id: shape
    for model in CATALOG.models.values()
    if model.network and (shape := scaled_down.scale_down(model.network, model.shape, model.context))
}
KEPT = (
    "num_local_experts", "num_experts_per_tok", "tie_word_embeddings", "rope_theta", "sliding_window_pattern",
    "kv_lora_rank", "partial_rotary_factor", "n_shared_experts", "first_k_dense_replace",
)  # fmt: skip
every_model = each("model", [CATALOG.models[model_id] for model_id in SCALED_DOWN], ids=by_id)


def query_heads_per_kv_head(shape: Shape) -> int:
    assert shape.num_attention_heads and shape.num_key_value_heads
    return shape.num_attention_heads // shape.num_key_value_heads


@every_model
def test_structure_is_kept(model: Model) -> None:
    full, small = model.shape, SCALED_DOWN[model.id]
    for key in KEPT:
        assert getattr(small, key) == getattr(full, key)
    assert (small.sliding_window is None) == (full.sliding_window is None)
    assert small.vocab_size and full.vocab_size
    assert small.vocab_size % 64 == full.vocab_size % 64
    if full.rope_scaling:
        assert small.rope_scaling
        assert small.rope_scaling.rope_type == full.rope_scaling.rope_type


@every_model
def test_ratio_of_query_heads_to_kv_heads_is_kept_up_to_8(model: Model) -> None:
    if model.shape.num_key_value_heads is None:
        return
    full, small = query_heads_per_kv_head(model.shape), query_heads_per_kv_head(SCALED_DOWN[model.id])
    assert small == full if full <= 8 else small in (7, 8) and small % 2 == full % 2
    assert (SCALED_DOWN[model.id].num_key_value_heads == 1) == (model.shape.num_key_value_heads == 1)


@every_model
def test_network_is_small(model: Model) -> None:
    small = SCALED_DOWN[model.id]
    assert (small.hidden_size or 0) <= 512
    assert (small.num_hidden_layers or 0) <= 12


@every_model
def test_heads_fill_the_hidden_size_only_if_they_did_before(model: Model) -> None:
    def fill(shape: Shape) -> bool | None:
        if not shape.head_dim or not shape.num_attention_heads:
            return None
        return shape.num_attention_heads * shape.head_dim == shape.hidden_size

    assert fill(SCALED_DOWN[model.id]) == fill(model.shape)


@pytest.mark.parametrize(
    ("token_id", "vocab_size", "expected"),
    [(2, 32000, 2), (32007, 32064, 1991), (11, 65024, 11), (200002, 201088, 962)],
)
def test_special_token_keeps_its_distance_from_the_nearer_end(token_id: int, vocab_size: int, expected: int) -> None:
    assert scaled_down.scale_token_id(token_id, vocab_size, 2048) == expected


def test_unknown_shape_cannot_be_scaled_down() -> None:
    model = CATALOG.models["llama-2-7b"]
    assert model.network
    assert scaled_down.scale_down(model.network, Shape(), model.context) is None
