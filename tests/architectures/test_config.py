"""From each `config.json` that we write, transformers builds a network with the expected number of parameters."""

from typing import Any

import pytest

from service.architectures import scaled_down
from service.architectures.config import config
from service.architectures.parameters import count_parameters
from service.architectures.registry import Architecture
from service.architectures.shape import RopeScaling, Shape
from service.catalog.model import Model
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

# One model of each network class, for each set of sizes and options that it is built from: building is slow.
DISTINCT = {
    (model.architecture, tuple(model.shape.model_dump(exclude_none=True)), model.shape.tie_word_embeddings,
     model.shape.use_qk_norm, model.shape.num_key_value_heads == 1): model
    for model in CATALOG.models.values()
    if model.network and not model.network.refused and count_parameters(model.network, model.shape, model.context)
}  # fmt: skip


def config_of(model: Model, shape: Shape, context: int) -> dict[str, Any]:
    assert model.network
    return config(model.architecture or "", model.network, shape, context)


def parameters_in_transformers(fields: dict[str, Any], network: Architecture) -> int:
    """The number of parameters of the network that transformers builds; no memory is allocated for them."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    encoder = AutoModelForSequenceClassification if network.outputs else AutoModel
    auto = encoder if network.attention == "encoder" else AutoModelForCausalLM
    with torch.device("meta"):
        built = auto.from_config(AutoConfig.for_model(**fields, pad_token_id=0))
    return sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.slow
@each("model", DISTINCT.values(), ids=by_id)
def test_transformers_builds_a_network_with_as_many_parameters_as_counted(model: Model) -> None:
    assert model.network and model.context
    small = scaled_down.scale_down(model.network, model.shape, model.context)
    assert small
    for shape, context in ((model.shape, model.context), (small, scaled_down.CONTEXT)):
        counted = count_parameters(model.network, shape, context)
        assert parameters_in_transformers(config_of(model, shape, context), model.network) == counted


def test_config_names_the_class_of_the_text_decoder() -> None:
    for model in CATALOG.models.values():
        if model.network and not model.network.refused:
            fields = config_of(model, model.shape, model.context or 1)
            assert fields["architectures"] == [model.network.text_class or model.architecture]


def test_layer_types_follow_the_sliding_window_pattern() -> None:
    model = CATALOG.models["gemma-3-4b-it"]
    layer_types = config_of(model, model.shape, 1024)["layer_types"]
    assert layer_types[:6] == ["sliding_attention"] * 5 + ["full_attention"]
    assert len(layer_types) == model.shape.num_hidden_layers


def test_longrope_has_a_factor_for_each_pair_of_dimensions() -> None:
    model = CATALOG.models["phi-3-mini-128k-instruct"]
    scaling = config_of(model, model.shape, 131072)["rope_scaling"]
    assert len(scaling["long_factor"]) == len(scaling["short_factor"]) == (model.shape.head_dim or 0) // 2
    assert scaling["long_factor"][-1] == 131072 / 4096


def test_yarn_derives_an_unknown_original_context_from_its_factor() -> None:
    model = CATALOG.models["deepseek-coder-v2-lite-base"]
    shape = model.shape.model_copy(update={"rope_scaling": RopeScaling(rope_type="yarn", factor=40.0)})
    assert config_of(model, shape, 163840)["rope_scaling"]["original_max_position_embeddings"] == 4096


def test_yarn_scales_the_attention_of_all_dimensions_alike() -> None:
    model = CATALOG.models["deepseek-coder-v2-lite-base"]
    scaling = config_of(model, model.shape, 163840)["rope_scaling"]
    assert model.shape.rope_scaling
    assert scaling["mscale"] == scaling["mscale_all_dim"] == model.shape.rope_scaling.mscale


def test_minimax_rotates_a_part_of_each_head() -> None:
    model = CATALOG.models["minimax-m2"]
    assert (model.shape.head_dim, model.shape.partial_rotary_factor) == (128, 0.5)
    assert config_of(model, model.shape, 1024)["rotary_dim"] == 64
