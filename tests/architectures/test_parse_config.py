"""A `config.json` read back gives the shape it was written from, and nothing it does not say."""

from typing import Any

import pytest

from service.architectures.config import config
from service.architectures.parse_config import ReadingError, architecture_of, context_of, shape_of
from service.architectures.registry import ARCHITECTURES
from service.catalog.model import Model
from tests.support.fleets import CATALOG

DESCRIBED = [model for model in CATALOG.models.values() if model.network and model.context]
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096, "rope_theta": 10000.0,
}  # fmt: skip


def read(fields: dict[str, Any]) -> dict[str, Any]:
    """The known sizes of a configuration."""
    return shape_of(fields, ARCHITECTURES[architecture_of(fields)]).model_dump(exclude_none=True)


@pytest.mark.parametrize("model", DESCRIBED, ids=lambda model: model.id)
def test_what_was_written_is_read_back(model: Model) -> None:
    assert model.network and model.context
    fields = config(model.architecture or "", model.network, model.shape, model.context)
    assert context_of(fields) == model.context
    found, meant = read(fields), model.shape.model_dump(exclude_none=True)
    scaling = meant.get("rope_scaling")
    if scaling and scaling["rope_type"] == "yarn":
        scaling.setdefault("original_max_position_embeddings", int(model.context / scaling["factor"]))
    if model.network.attention != "latent":
        meant.setdefault("num_key_value_heads", meant["num_attention_heads"])
        meant.setdefault("head_dim", meant["hidden_size"] // meant["num_attention_heads"])
    assert found == meant


def test_what_is_not_written_stays_unknown() -> None:
    found = read(LLAMA)
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
def test_spellings_of_other_years(more: dict[str, Any], expected: dict[str, Any]) -> None:
    found = read(LLAMA | more)
    assert {key: found[key] for key in expected} == expected


def test_a_window_that_is_switched_off_is_none() -> None:
    fields = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32768}
    assert read(fields)["sliding_window"] == 32768
    assert "sliding_window" not in read({**fields, "use_sliding_window": False})


def test_falcon_with_one_key_value_head_whatever_its_configuration_counts() -> None:
    fields = {
        "architectures": ["RWForCausalLM"], "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "num_kv_heads": 71, "vocab_size": 65024, "multi_query": True, "new_decoder_architecture": False,
    }  # fmt: skip
    found = read(fields)
    assert (found["num_key_value_heads"], found["head_dim"], found["intermediate_size"]) == (1, 64, 4 * 4544)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "names no class in 'architectures'"),
        ({"architectures": []}, "names no class"),
        (LLAMA | {"num_key_value_heads": 5}, "32 attention heads cannot share 5"),
        (LLAMA | {"hidden_size": "wide"}, "hidden_size: Input should be"),
        (LLAMA | {"rope_scaling": {"type": "magic"}}, "rope_scaling of kind 'magic'"),
    ],
)
def test_says_what_is_wrong(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ReadingError, match=problem):
        read(fields)
