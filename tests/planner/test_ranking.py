"""The models that meet given requirements, in their order."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from service.catalog.catalog import Catalog
from service.catalog.model import Family, Licence, Model
from service.catalog.names import Variant
from service.planner.ranking import GRADES, READABLE, RankedModel, RankingCriteria, rank, task_of
from tests.planner.test_gpus import KNOWN
from tests.support.each import each
from tests.support.fleets import CATALOG

BASE = CATALOG.models["llama-2-7b-chat"]


def requirements(gpu: str, subject: str = "chat", **fields: Any) -> RankingCriteria:
    """What is required of models of a variant, or for a task."""
    variant = next((one for one in get_args(Variant) if one == subject), None)
    return RankingCriteria(subject, task_of(variant) if variant else CATALOG.tasks[subject], KNOWN[gpu], **fields)


def ranked(gpu: str, catalog: Catalog = CATALOG, **fields: Any) -> dict[str, RankedModel]:
    """The ranked models by their ids, in their order."""
    return {one.model.id: one for one in rank(requirements(gpu, **fields), catalog)}


def only(*models: Model, terms: Licence | None = None) -> Catalog:
    """A catalogue of these models alone."""
    family = Family(family="made", title="Made", licence=terms or Licence(), models=models)
    return replace(
        CATALOG,
        families={"made": family},
        models={model.id: model for model in models},
        family_of={model.id: "made" for model in models},
    )


@pytest.mark.parametrize(
    "required",
    [
        requirements("H100", context=8192, users=50),
        requirements("L40S", "code-completion", gpu_count=2, context=16384, users=20, form="int4"),
        requirements("A100-80", "summarization", gpu_count=4, context=32768, users=8, commercial=True),
    ],
    ids=lambda required: required.subject,
)
def test_the_order_is_as_it_says(required: RankingCriteria) -> None:
    models = rank(required, CATALOG)
    keys = [(GRADES.index(one.grade), -(one.parameters or 0)) for one in models]
    assert keys == sorted(keys)
    assert {one.model.id for one in models} == {
        model.id for model in CATALOG.models.values() if required.task.suited(model)
    }
    for one in models:
        assert one.why or one.grade == "meets"
        if one.grade == "meets" and one.held is not None:
            assert one.held >= required.users
            assert one.speed
            assert one.speed.each is None or one.speed.each >= READABLE


@each("task", CATALOG.tasks)
def test_every_task_is_ranked_among_its_own_variants(task: str) -> None:
    found = {one.model.variant for one in ranked("H100", subject=task).values()}
    assert found
    assert found <= set(CATALOG.tasks[task].suits)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_a_variant_is_ranked_with_its_substitutes(variant: Variant) -> None:
    assert {one.model.variant for one in ranked("H100", subject=variant).values()} == set(task_of(variant).suits)


def test_instruct_models_are_ranked_for_chat_too() -> None:
    assert {one.model.variant for one in ranked("H100").values()} == {"chat", "instruct"}
    assert task_of("code").suits == ("code",)


def test_the_most_exact_form_that_meets_the_requirements_is_taken() -> None:
    asked: tuple[dict[str, Any], ...] = ({}, {"users": 4}, {"form": "int4"})
    few, many, named = (ranked("L4", only(BASE), **fields)[BASE.id] for fields in asked)
    assert few.fit
    assert many.fit
    assert named.fit
    assert (few.grade, few.fit.form) == ("meets", "bf16")
    assert (many.grade, many.fit.form) == ("meets", "fp8")
    assert named.fit.form == "int4"


def test_too_many_users_crowd_a_model_in_its_smallest_form() -> None:
    found = ranked("L4", only(BASE), users=500)[BASE.id]
    assert found.grade == "crowded"
    assert found.fit
    assert found.fit.form == "int4"
    assert found.why == f"holds {found.held} of 500 users"


def test_more_gpus_hold_more_users() -> None:
    one, four = (ranked("L4", only(BASE), users=500, gpu_count=count)[BASE.id] for count in (1, 4))
    assert (four.held or 0) > 3 * (one.held or 0)


def test_a_slow_model_comes_after_faster_smaller_ones() -> None:
    large = CATALOG.models["llama-2-70b-chat"]
    fast = requirements("MI300X", form="bf16")
    slow = replace(fast, gpu=fast.gpu.model_copy(update={"bandwidth_gb_per_s": 500.0}))
    swift, slowed = (rank(one, only(BASE, large)) for one in (fast, slow))
    assert [(one.model, one.grade) for one in swift] == [(large, "meets"), (BASE, "meets")]
    assert [(one.model, one.grade) for one in slowed] == [(BASE, "meets"), (large, "slow")]
    assert "tokens/s for each user" in (slowed[1].why or "")


@pytest.mark.parametrize(
    ("changed", "gpu", "asked", "why"),
    [
        ({}, "H100", {"context": 8192}, "its context is 4,096 tokens"),
        ({"context": None}, "H100", {}, "its context is unknown"),
        ({"architecture": "Phi3SmallForCausalLM"}, "H100", {}, "vLLM removed Phi3SmallForCausalLM after 0.9.2"),
        ({"architecture": None}, "H100", {}, "its shape is unknown: architecture"),
        ({}, "H100", {"form": "mxfp4"}, "its weights come as bf16, fp8, int4 only"),
        ({"dtype": "mxfp4"}, "T4", {}, "vLLM's MXFP4 kernels need a newer GPU than T4"),
        ({"licence": Licence(name="Free of charge", commercial=False)}, "H100", {"commercial": True},
         "its licence forbids commercial use (Free of charge)"),
        ({"licence": Licence()}, "H100", {"commercial": True}, "its licence is unknown"),
    ],
)  # fmt: skip
def test_says_what_is_out_of_the_question(
    changed: dict[str, object], gpu: str, asked: dict[str, Any], why: str
) -> None:
    model = BASE.model_copy(update=changed)
    found = ranked(gpu, only(model), **asked)[model.id]
    assert (found.grade, found.why) == ("unfit", why)


def test_says_how_much_is_lacking() -> None:
    found = ranked("T4", only(CATALOG.models["llama-2-70b-chat"]))["llama-2-70b-chat"]
    assert found.grade == "unfit"
    assert "int4: weights of 36." in (found.why or "")


def test_embedding_models_are_ranked_too() -> None:
    found = ranked("L4", subject="embedding", context=512)
    assert found
    assert any(one.grade == "meets" for one in found.values())
