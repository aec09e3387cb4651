"""The list of what there is to measure, for each card of the file."""

import pytest

from bench.gpu.experiments import REFERENCE, SHAPES, on_card, scaled_down
from bench.gpu.measures import MEASURES
from bench.gpu.schedule import expected
from service.planner.gpus import load
from service.planner.memory import Demand, fit
from tests.support.fleets import CATALOG, ROOT

GPUS = load(ROOT / "deploy/gpus.yaml")


@pytest.mark.parametrize("name", GPUS)
def test_every_shape_is_measured_or_said_not_to_fit(name: str) -> None:
    found, unfit = on_card(CATALOG, GPUS[name])
    served = {subject.model.id for one in found for subject in one.setup.subjects}
    left_out = {one.model for one in unfit}
    assert set(SHAPES) <= served | left_out
    assert not served & left_out
    assert all(one.why for one in unfit)
    for one in found:
        for subject in one.setup.subjects:
            planned = fit(subject.model, GPUS[name], subject.form, 1, Demand(subject.context))
            assert planned
            assert planned.why is None, f"{one.id}: {planned.why}"
            assert subject.context <= (subject.model.context or 0)


def test_on_an_h200_all_of_them_fit_and_everything_is_measured() -> None:
    found, unfit = on_card(CATALOG, GPUS["H200"])
    assert unfit == []
    assert {one.measure for one in found} == set(MEASURES)
    forms = {subject.model.id: subject.form for one in found for subject in one.setup.subjects if "+" not in one.id}
    assert forms.pop("llama-2-70b-chat") == "fp8"
    assert set(forms.values()) == {"bf16"}
    assert {one.setup.name for one in found if one.setup.name.startswith(f"{REFERENCE}+")} == {
        f"{REFERENCE}+{one}" for one in ("no-prefix-cache", "no-chunked-prefill", "fp8", "split", "sleep")
    }


def test_names_are_unique_and_one_name_is_one_setup() -> None:
    found, _ = on_card(CATALOG, GPUS["H200"])
    assert len({one.id for one in found}) == len(found)
    assert len({one.setup.name for one in found}) == len({id(one.setup) for one in found})


def test_a_small_card_says_what_does_not_fit() -> None:
    why = {one.model: one.why for one in on_card(CATALOG, GPUS["T4"])[1]}
    assert "room for" in why["llama-2-70b-chat"]


def test_the_head_to_head_of_the_reference_comes_before_anything_else() -> None:
    found, _ = on_card(CATALOG, GPUS["H200"])
    plan = experiments_in(25.0)
    assert plan[:2] == [f"{REFERENCE}/start", f"{REFERENCE}/short"]
    assert len(plan) < len(found), "half an hour is not enough for all, and the rest is left"


def experiments_in(minutes: float) -> list[str]:
    return [one.id for one in expected(on_card(CATALOG, GPUS["H200"])[0], (), minutes)]


def test_the_rehearsal_tries_every_measure_on_two_models() -> None:
    found = scaled_down(CATALOG)
    assert {one.measure for one in found} == set(MEASURES)
    assert len({subject.model.id for one in found for subject in one.setup.subjects}) == 2
    assert all((subject.model.parameters or 0) < 5e6 for one in found for subject in one.setup.subjects)
