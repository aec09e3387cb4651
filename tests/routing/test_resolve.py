"""Every case of docs/routing.md, and the laws that hold whatever is asked."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.fleet.fleet import Fleet
from service.fleet.schema import RESERVED
from service.protocol.generation import Need
from service.routing.resolve import PREFERENCES, automatic, resolve
from tests.routing.cases import CASES, CONDITIONS, FLEETS, Case, Refusal, document
from tests.support import fleets
from tests.support.fleets import CATALOG, ROOT


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fleet]:
    return {name: fleets.load(tmp_path_factory.mktemp(name), text) for name, text in FLEETS.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.fleet}: {case.requested} for {case.need.kind}")
def test_case(case: Case, served: dict[str, Fleet]) -> None:
    fleet = served[case.fleet]
    if isinstance(case.expected, str):
        target = resolve(case.requested, case.need, fleet, CATALOG)
        assert (target.name, target.reason) == (case.expected, case.why)
        assert case.need.kind in target.served.capabilities
    else:
        refuses(case, case.expected, fleet)


def refuses(case: Case, expected: Refusal, fleet: Fleet) -> None:
    with pytest.raises(ApiError) as caught:
        resolve(case.requested, case.need, fleet, CATALOG)
    error = caught.value
    assert (error.status, error.code, error.param) == (expected.status, expected.code, "model")
    offer = re.search(r"(?:Use|Did you mean) (.+)", error.message)
    assert tuple(re.findall(r"'([^']+)'", offer[1] if offer else "")) == expected.offers, error.message
    if not offer:
        assert re.search(r"No model served here can do that|Served here: '|Tasks are: ", error.message)


def test_there_are_many_cases_and_no_two_alike() -> None:
    assert len(CASES) >= 60
    assert len({(case.fleet, case.requested, case.need) for case in CASES}) == len(CASES)


def test_the_cases_cover_every_word_of_the_rules() -> None:
    asked = {case.requested for case in CASES}
    assert asked >= set(RESERVED)
    assert asked >= {f"task:{task}" for task in CATALOG.tasks}
    assert {case.need.kind for case in CASES} == set(PREFERENCES)
    assert {case.need for case in CASES if case.requested == "auto"} == {need for _, need in CONDITIONS}
    assert {case.fleet for case in CASES} == set(FLEETS)


def test_the_document_is_up_to_date() -> None:
    assert (ROOT / "docs" / "routing.md").read_text(encoding="utf-8") == document() + "\n", (
        "run: python -m tests.routing.cases > docs/routing.md"
    )


SAID = st.sampled_from([(), ("```",)])
NEEDS = st.builds(Need, st.sampled_from(sorted(PREFERENCES)), st.integers(1, 3), st.booleans(), SAID)
WORDS = sorted({case.requested for case in CASES})


@given(st.sampled_from(sorted(FLEETS)), st.sampled_from(WORDS) | st.text(min_size=1, max_size=128), NEEDS)
def test_a_target_fits_and_a_refusal_is_a_4xx_about_the_model(
    served: dict[str, Fleet], fleet: str, requested: str, need: Need
) -> None:
    try:
        target = resolve(requested, need, served[fleet], CATALOG)
    except ApiError as error:
        assert error.status in (400, 404)
        assert error.param == "model"
    else:
        assert need.kind in target.served.capabilities
        assert target.reason.isprintable() and target.reason.isascii()


@given(NEEDS)
def test_auto_tries_every_variant_that_the_request_would(need: Need) -> None:
    assert set(automatic(need)[1]) == set(PREFERENCES[need.kind])


@pytest.mark.parametrize("name", sorted(FLEETS))
def test_an_id_leads_to_itself_or_nowhere(served: dict[str, Fleet], name: str) -> None:
    for one in served[name].served:
        for kind in PREFERENCES:
            try:
                target = resolve(one.id, Need(kind), served[name], CATALOG)
            except ApiError as error:
                assert error.code == "unsupported_for_model"
                assert kind not in one.capabilities
            else:
                assert target.served is one


@pytest.mark.parametrize("reordered", ["llama-2-7b-chat", "llama-2-13b-chat"])
def test_the_first_of_several_sizes_answers(tmp_path: Path, reordered: str) -> None:
    others = {"llama-2-7b-chat", "llama-2-13b-chat"} - {reordered}
    text = "models:\n" + "".join(f"  - model: {name}\n" for name in (reordered, *others))
    assert resolve("llama-2", Need("chat"), fleets.load(tmp_path, text), CATALOG).name == reordered
