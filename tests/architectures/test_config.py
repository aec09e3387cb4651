"""The `config.json` we write describes the network we mean: transformers builds one with as many weights."""

from typing import Any

import pytest

from service.architectures import scaled_down
from service.architectures.config import config
from service.architectures.parameters import parameters
from service.architectures.shape import RopeScaling, Shape
from service.catalog.model import Model
from tests.support.fleets import CATALOG

DESCRIBED = {
    (model.architecture, repr(model.shape)): model
    for model in CATALOG.models.values()
    if model.network and not model.network.refused and parameters(model.network, model.shape, model.context)
}


def described(model: Model, shape: Shape, context: int) -> dict[str, Any]:
    assert model.network
    return config(model.architecture or "", model.network, shape, context)


def weights_in(fields: dict[str, Any], encoder: bool) -> int:
    """How many weights the network has that transformers makes of a configuration; none are allocated."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    with torch.device("meta"):
        network = (AutoModel if encoder else AutoModelForCausalLM).from_config(
            AutoConfig.for_model(**fields, pad_token_id=0)
        )
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("model", DESCRIBED.values(), ids=lambda model: model.id)
def test_transformers_builds_a_network_of_that_many_weights(model: Model) -> None:
    assert model.network and model.context
    encoder = model.network.attention == "encoder"
    shape = scaled_down.small(model.network, model.shape, model.context)
    assert shape
    for one, context in ((model.shape, model.context), (shape, scaled_down.CONTEXT)):
        counted = parameters(model.network, one, context)
        assert weights_in(described(model, one, context), encoder) == counted


def test_names_the_class_of_the_text_decoder() -> None:
    for model in CATALOG.models.values():
        if model.network and not model.network.refused:
            fields = described(model, model.shape, model.context or 1)
            assert fields["architectures"] == [model.network.text_class or model.architecture]


def test_layers_that_slide_are_listed_one_by_one() -> None:
    model = CATALOG.models["gemma-3-4b-it"]
    kinds = described(model, model.shape, 1024)["layer_types"]
    assert kinds[:6] == ["sliding_attention"] * 5 + ["full_attention"]
    assert len(kinds) == model.shape.num_hidden_layers


def test_long_rope_has_a_factor_for_each_pair_of_dimensions() -> None:
    model = CATALOG.models["phi-3-mini-128k-instruct"]
    scaling = described(model, model.shape, 131072)["rope_scaling"]
    assert len(scaling["long_factor"]) == len(scaling["short_factor"]) == (model.shape.head_dim or 0) // 2
    assert scaling["long_factor"][-1] == 131072 / 4096


def test_yarn_without_a_known_original_length_takes_what_its_factor_implies() -> None:
    model = CATALOG.models["deepseek-coder-v2-lite-base"]
    shape = model.shape.model_copy(update={"rope_scaling": RopeScaling(rope_type="yarn", factor=40.0)})
    assert described(model, shape, 163840)["rope_scaling"]["original_max_position_embeddings"] == 4096
