"""The conformance cases, and which models each covers."""

from service.conformance.cases import Case, cases
from tests.support.each import each
from tests.support.fleets import CATALOG

FOUND, SKIPPED = cases(CATALOG)


def test_every_model_has_a_case_or_is_skipped() -> None:
    covered = [model for case in FOUND for model in case.models]
    assert sorted([*covered, *(entry.model for entry in SKIPPED)]) == sorted(CATALOG.models)


def test_every_architecture_that_vllm_runs_has_a_case() -> None:
    run = (model for model in CATALOG.models.values() if model.network and not model.network.refused)
    needed = {model.architecture for model in run if model.variant != "reranker"}
    assert {case.model.architecture for case in FOUND} == needed


def test_unsupported_models_are_skipped_with_the_reason() -> None:
    why = {entry.model: entry.why for entry in SKIPPED}
    assert "removed its Grok-1 classes" in why["grok-1"]
    assert "Phi3SmallForCausalLM" in why["phi-3-small-8k-instruct"]
    assert "scores" in why["bge-reranker-v2-m3"]
    assert "architecture" in why["qwen3.5-4b"]
    assert all(why.values())


def test_models_share_a_case_only_if_they_have_one_structure() -> None:
    case_of = {model: case.name for case in FOUND for model in case.models}
    assert case_of["llama-2-7b"] == case_of["llama-2-13b-chat"]
    assert case_of["llama-2-7b"] != case_of["llama-2-70b"]  # grouped-query attention
    assert case_of["mistral-7b-v0.1"] != case_of["mistral-7b-instruct-v0.3"]  # sliding window


def test_cases_of_given_models_only() -> None:
    found, skipped = cases(CATALOG, ["llama-2-7b", "grok-1"])
    assert [case.models for case in found] == [("llama-2-7b",)]
    assert [entry.model for entry in skipped] == ["grok-1"]


@each("case", FOUND, ids=lambda case: case.name)
def test_scaled_down_model_is_a_valid_entry(case: Case) -> None:
    model = case.scaled_down()
    assert type(model).model_validate(model.model_dump()) == model
    assert model.hub is None and model.revision is None
    assert all(token < (case.shape.vocab_size or 0) for token in (*model.tokens.eos, model.tokens.bos or 0))
