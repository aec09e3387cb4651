"""The models that grant a wish, in their order."""

from dataclasses import replace

import pytest

from service.catalog.catalog import Catalog
from service.catalog.model import Family, Licence, Model
from service.planner.ranking import GRADES, READABLE, Choice, rank
from service.planner.wish import EXAMPLES, read
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG

BASE = CATALOG.models["llama-2-7b-chat"]


def ranked(text: str, catalog: Catalog = CATALOG) -> dict[str, Choice]:
    """The choices for a wish by the model's id, in their order."""
    return {choice.model.id: choice for choice in rank(read(text, catalog.tasks, KNOWN), catalog)}


def only(*models: Model, terms: Licence | None = None) -> Catalog:
    """A catalogue of these models alone."""
    family = Family(family="made", title="Made", licence=terms or Licence(), models=models)
    return replace(
        CATALOG,
        families={"made": family},
        models={model.id: model for model in models},
        family_of={model.id: "made" for model in models},
    )


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_order_is_as_it_says(text: str) -> None:
    wish = read(text, CATALOG.tasks, KNOWN)
    choices = rank(wish, CATALOG)
    keys = [(GRADES.index(choice.grade), -(choice.parameters or 0)) for choice in choices]
    assert keys == sorted(keys)
    assert {choice.model.id for choice in choices} == {
        model.id for model in CATALOG.models.values() if wish.task.suited(model)
    }
    for choice in choices:
        assert choice.why or choice.grade == "grants"
        if choice.grade == "grants" and choice.held is not None:
            assert choice.held >= wish.users
            assert choice.speed
            assert choice.speed.each is None or choice.speed.each >= READABLE


def test_who_follows_instructions_converses_too() -> None:
    variants = {choice.model.variant for choice in ranked("chat, H100").values()}
    assert variants == {"chat", "instruct"}


def test_the_most_exact_form_that_grants_the_wish_is_taken() -> None:
    few, many, named = (
        ranked(text, only(BASE))[BASE.id] for text in ("chat, L4", "chat, 4 users, L4", "chat, L4, int4")
    )
    assert few.fit
    assert many.fit
    assert named.fit
    assert (few.grade, few.fit.form) == ("grants", "bf16")
    assert (many.grade, many.fit.form) == ("grants", "fp8")
    assert named.fit.form == "int4"


def test_too_many_users_crowd_a_model_in_its_roomiest_form() -> None:
    found = ranked("chat, 500 users, L4", only(BASE))[BASE.id]
    assert found.grade == "crowded"
    assert found.fit
    assert found.fit.form == "int4"
    assert found.why == f"holds {found.held} of 500 users"


def test_more_gpus_hold_more_users() -> None:
    one, four = (ranked(f"chat, 500 users, {cards} L4", only(BASE))[BASE.id] for cards in ("one", "four"))
    assert (four.held or 0) > 3 * (one.held or 0)


def test_a_slow_model_comes_after_faster_smaller_ones() -> None:
    large = CATALOG.models["llama-2-70b-chat"]
    wish = read("chat, 4k, one user, one MI300X, bf16", CATALOG.tasks, KNOWN)
    slow = replace(wish, gpu=wish.gpu.model_copy(update={"bandwidth_gb_per_s": 500.0}))
    swift, slowed = (rank(one, only(BASE, large)) for one in (wish, slow))
    assert [(choice.model, choice.grade) for choice in swift] == [(large, "grants"), (BASE, "grants")]
    assert [(choice.model, choice.grade) for choice in slowed] == [(BASE, "grants"), (large, "slow")]
    assert "tokens/s for each user" in (slowed[1].why or "")


@pytest.mark.parametrize(
    ("changed", "text", "why"),
    [
        ({}, "chat, 8k, H100", "its context is 4,096 tokens"),
        ({"context": None}, "chat, H100", "its context is unknown"),
        ({"architecture": "Phi3SmallForCausalLM"}, "chat, H100", "vLLM removed Phi3SmallForCausalLM after 0.9.2"),
        ({"architecture": None}, "chat, H100", "its shape is unknown: architecture"),
        ({}, "chat, H100, mxfp4", "its weights come as bf16, fp8, int4 only"),
        ({"dtype": "mxfp4"}, "chat, T4", "vLLM's MXFP4 kernels need a newer GPU than T4"),
        ({"licence": Licence(name="Free of charge", commercial=False)}, "chat, H100, commercial",
         "its licence forbids commercial use (Free of charge)"),
        ({"licence": Licence()}, "chat, H100, commercial", "its licence is unknown"),
    ],
)  # fmt: skip
def test_says_what_is_out_of_the_question(changed: dict[str, object], text: str, why: str) -> None:
    model = BASE.model_copy(update=changed)
    found = ranked(text, only(model))[model.id]
    assert (found.grade, found.why) == ("unfit", why)


def test_says_how_much_is_lacking() -> None:
    found = ranked("chat, T4", only(CATALOG.models["llama-2-70b-chat"]))["llama-2-70b-chat"]
    assert found.grade == "unfit"
    assert "int4: weights of 36." in (found.why or "")


def test_embedding_models_are_ranked_too() -> None:
    found = ranked("embedding, 512 tokens, L4")
    assert found
    assert any(choice.grade == "grants" for choice in found.values())
