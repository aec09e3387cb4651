"""Parameter counts, compared with published ones; test_config.py compares them with transformers."""

import pytest

from service.architectures.parameters import count_parameters, missing_sizes
from service.architectures.registry import ARCHITECTURES
from service.architectures.shape import Shape
from service.catalog.model import Model
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

COUNTED = [
    model
    for model in CATALOG.models.values()
    if model.network and model.parameters and not missing_sizes(model.network, model.shape, model.context)
]


@each("model", COUNTED, ids=by_id)
def test_count_equals_parameters_of_the_catalogue(model: Model) -> None:
    assert model.network
    assert count_parameters(model.network, model.shape, model.context) == model.parameters


@pytest.mark.parametrize(
    ("name", "shape", "context", "total", "active"),
    [
        pytest.param(
            "MixtralForCausalLM",
            Shape(
                hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                intermediate_size=14336, vocab_size=32000, tie_word_embeddings=False, num_local_experts=8,
                num_experts_per_tok=2,
            ),
            None, 46_702_792_704, 12_879_925_248, id="mixture of experts",
        ),
        pytest.param(
            "GPT2LMHeadModel",
            Shape(
                hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, head_dim=64,
                intermediate_size=3072, vocab_size=50257, tie_word_embeddings=True,
            ),
            1024, 124_439_808, 124_439_808, id="learned positions",
        ),
    ],
)  # fmt: skip
def test_total_and_active_count(name: str, shape: Shape, context: int | None, total: int, active: int) -> None:
    assert count_parameters(ARCHITECTURES[name], shape, context) == total
    assert count_parameters(ARCHITECTURES[name], shape, context, active=True) == active


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "tie_word_embeddings", "num_key_value_heads"])
def test_missing_size_is_named_and_gives_no_count(key: str) -> None:
    model = CATALOG.models["llama-2-7b"]
    assert model.network
    shape = model.shape.model_copy(update={key: None})
    assert count_parameters(model.network, shape, model.context) is None
    assert missing_sizes(model.network, shape, model.context) == [key]


def test_learned_positions_need_the_context() -> None:
    shape = Shape(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
        intermediate_size=64, vocab_size=100, tie_word_embeddings=True,
    )  # fmt: skip
    assert missing_sizes(ARCHITECTURES["GPT2LMHeadModel"], shape, None) == ["context"]
