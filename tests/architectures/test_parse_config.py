"""Parsing a `config.json` gives the shape that it was written from, and nothing that it does not say."""

from typing import Any

import pytest

from service.architectures.config import config
from service.architectures.parse_config import ModelConfigError, parse_architecture, parse_context, parse_shape
from service.architectures.registry import ARCHITECTURES
from service.catalog.model import Model
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

WITH_NETWORK = [
    model for model in CATALOG.models.values() if model.network and model.context and model.shape.num_attention_heads
]
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096, "rope_theta": 10000.0,
}  # fmt: skip


def parsed(fields: dict[str, Any]) -> dict[str, Any]:
    """The sizes that are parsed from a configuration, without the unknown ones."""
    return parse_shape(fields, ARCHITECTURES[parse_architecture(fields)]).model_dump(exclude_none=True)


@each("model", WITH_NETWORK, ids=by_id)
def test_parsing_a_written_config_gives_the_same_shape(model: Model) -> None:
    assert model.network and model.context
    fields = config(model.architecture or "", model.network, model.shape, model.context)
    assert parse_context(fields) == model.context
    expected = model.shape.model_dump(exclude_none=True)
    scaling = expected.get("rope_scaling")
    if scaling and scaling["rope_type"] == "yarn":
        scaling.setdefault("original_max_position_embeddings", int(model.context / scaling["factor"]))
    if model.network.attention != "latent":
        expected.setdefault("num_key_value_heads", expected["num_attention_heads"])
        expected.setdefault("head_dim", expected["hidden_size"] // expected["num_attention_heads"])
    assert parsed(fields) == expected


def test_positions_before_the_text_are_not_part_of_the_context() -> None:
    assert parse_context({"architectures": ["XLMRobertaModel"], "max_position_embeddings": 8194}) == 8192
    assert parse_context({"architectures": ["SomethingElse"], "max_position_embeddings": 8194}) == 8194


def test_absent_sizes_stay_unknown() -> None:
    found = parsed(LLAMA)
    assert found["num_key_value_heads"] == 32  # the class derives these two
    assert found["head_dim"] == 128
    assert "tie_word_embeddings" not in found
    assert "rope_scaling" not in found


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}, "rope_theta": None}, {}),
        ({"text_config": {"hidden_size": 64, "head_dim": 2}}, {"hidden_size": 64, "head_dim": 2}),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8.0}},
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
    ],
)
def test_keys_of_other_transformers_versions(more: dict[str, Any], expected: dict[str, Any]) -> None:
    found = parsed(LLAMA | more)
    assert {key: found[key] for key in expected} == expected


def test_disabled_sliding_window_is_left_out() -> None:
    fields = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32768}
    assert parsed(fields)["sliding_window"] == 32768
    assert "sliding_window" not in parsed({**fields, "use_sliding_window": False})


def test_falcon_with_multi_query_has_one_kv_head() -> None:
    fields = {
        "architectures": ["RWForCausalLM"], "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "num_kv_heads": 71, "vocab_size": 65024, "multi_query": True, "new_decoder_architecture": False,
    }  # fmt: skip
    found = parsed(fields)
    assert (found["num_key_value_heads"], found["head_dim"], found["intermediate_size"]) == (1, 64, 4 * 4544)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "names no class in 'architectures'"),
        ({"architectures": []}, "names no class"),
        (LLAMA | {"num_key_value_heads": 5}, "32 attention heads cannot share 5"),
        (LLAMA | {"hidden_size": "wide"}, "hidden_size: Input should be"),
        (LLAMA | {"rope_scaling": {"type": "magic"}}, "rope_scaling of type 'magic'"),
    ],
)
def test_error_names_the_problem(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelConfigError, match=problem):
        parsed(fields)
