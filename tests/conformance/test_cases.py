"""Which structures are proven, and for which models each stands."""

import pytest

from service.conformance.cases import Case, cases
from tests.support.fleets import CATALOG

FOUND, UNPROVEN = cases(CATALOG)


def test_every_model_is_proven_or_said_not_to_be() -> None:
    proven = [model for case in FOUND for model in case.models]
    refused = [one.model for one in UNPROVEN]
    assert sorted(proven + refused) == sorted(CATALOG.models)


def test_every_architecture_that_vllm_runs_has_a_case() -> None:
    needed = {model.architecture for model in CATALOG.models.values() if model.network and not model.network.refused}
    assert {case.model.architecture for case in FOUND} == needed


def test_what_vllm_does_not_run_is_listed_with_the_reason() -> None:
    why = {one.model: one.why for one in UNPROVEN}
    assert "removed its Grok-1 classes" in why["grok-1"]
    assert "Phi3SmallForCausalLM" in why["phi-3-small-8k-instruct"]
    assert all(why.values())


def test_models_of_one_structure_share_a_case_and_others_do_not() -> None:
    case_of = {model: case.name for case in FOUND for model in case.models}
    assert case_of["llama-2-7b"] == case_of["llama-2-13b-chat"]
    assert case_of["llama-2-7b"] != case_of["llama-2-70b"]  # grouped queries
    assert case_of["mistral-7b-v0.1"] != case_of["mistral-7b-instruct-v0.3"]  # a window


def test_only_the_models_asked_for_are_taken() -> None:
    found, unproven = cases(CATALOG, ["llama-2-7b", "grok-1"])
    assert [case.models for case in found] == [("llama-2-7b",)]
    assert [one.model for one in unproven] == ["grok-1"]


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_the_model_in_small_is_a_model_of_the_catalogue(case: Case) -> None:
    little = case.scaled_down()
    assert type(little).model_validate(little.model_dump()) == little
    assert little.hub is None and little.revision is None
    assert all(one < (case.shape.vocab_size or 0) for one in (*little.tokens.eos, little.tokens.bos or 0))
