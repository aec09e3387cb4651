"""Every case of docs/routing.md, and properties of resolving any name."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from service.errors import ApiError
from service.fleet.fleet import Fleet
from service.fleet.schema import RESERVED
from service.protocol.generation import Kind, Requirements
from service.protocol.requests import Message
from service.routing.resolve import PREFERENCES, auto_variants, resolve
from tests.routing.cases import CASES, CONDITIONS, FLEETS, Case, ExpectedError, document
from tests.support import fleets
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fleet]:
    return {name: fleets.load(tmp_path_factory.mktemp(name), text) for name, text in FLEETS.items()}


@each("case", CASES, ids=lambda case: f"{case.fleet}: {case.requested} for {case.requirements.kind}")
def test_case(case: Case, served: dict[str, Fleet]) -> None:
    fleet = served[case.fleet]
    if isinstance(case.expected, str):
        target = resolve(case.requested, case.requirements, fleet, CATALOG)
        assert (target.name, target.reason) == (case.expected, case.reason)
        assert case.requirements.kind in {*target.served.capabilities, "tokens"}
    else:
        check_error(case, case.expected, fleet)


def check_error(case: Case, expected: ExpectedError, fleet: Fleet) -> None:
    with pytest.raises(ApiError) as caught:
        resolve(case.requested, case.requirements, fleet, CATALOG)
    error = caught.value
    assert (error.status, error.code, error.param) == (expected.status, expected.code, "model")
    match = re.search(r"(?:Use|Did you mean) (.+)", error.message)
    suggestions = tuple(re.findall(r"'([^']+)'", match[1] if match else ""))
    assert suggestions == expected.suggestions, error.message
    if not match:
        assert re.search(r"No model served here (can|does)|Served here: '|Tasks are: ", error.message)


def test_there_are_many_cases_and_no_duplicates() -> None:
    assert len(CASES) >= 60
    assert len({(case.fleet, case.requested, str(case.requirements)) for case in CASES}) == len(CASES)


def test_the_cases_cover_every_rule() -> None:
    requested = {case.requested for case in CASES}
    assert requested >= set(RESERVED)
    assert requested >= {f"task:{task}" for task in CATALOG.tasks}
    assert {case.requirements.kind for case in CASES} == set(PREFERENCES)
    assert {str(structs.replace(case.requirements, vision=False)) for case in CASES if case.requested == "auto"} == {
        str(requirements) for _, requirements in CONDITIONS
    }
    assert {case.fleet for case in CASES} == set(FLEETS)


def test_the_document_is_up_to_date() -> None:
    assert (ROOT / "docs" / "routing.md").read_text(encoding="utf-8") == document() + "\n", (
        "run: python -m tests.routing.cases > docs/routing.md"
    )


CONTENTS = st.sampled_from([(), ("```",)])
TURNS = st.lists(st.just(Message("user")), min_size=1, max_size=3)
NEEDS = st.builds(Requirements, st.sampled_from(sorted(PREFERENCES)), TURNS, st.booleans(), CONTENTS,
                  st.booleans())  # fmt: skip
WORDS = sorted({case.requested for case in CASES})


@given(st.sampled_from(sorted(FLEETS)), st.sampled_from(WORDS) | st.text(min_size=1, max_size=128), NEEDS)
def test_any_name_is_resolved_to_a_model_that_fits_or_to_a_4xx(
    served: dict[str, Fleet], fleet: str, requested: str, requirements: Requirements
) -> None:
    try:
        target = resolve(requested, requirements, served[fleet], CATALOG)
    except ApiError as error:
        assert error.status in (400, 404)
        assert error.param == "model"
    else:
        needed = {requirements.kind, *(["vision"] if requirements.vision else [])}
        assert needed <= {*target.served.capabilities, "tokens"}
        assert target.reason.isprintable() and target.reason.isascii()


@given(NEEDS)
def test_auto_tries_every_variant_that_supports_the_request(requirements: Requirements) -> None:
    assert set(auto_variants(requirements)[1]) == set(PREFERENCES[requirements.kind])


@pytest.mark.parametrize("name", sorted(FLEETS))
def test_an_id_is_resolved_to_that_model_or_an_error(served: dict[str, Fleet], name: str) -> None:
    for served_model in served[name].served:
        for kind in PREFERENCES:
            try:
                target = resolve(served_model.id, Requirements(kind), served[name], CATALOG)
            except ApiError as error:
                assert error.code == "unsupported_for_model"
                assert kind not in served_model.capabilities
            else:
                assert target.served is served_model


@pytest.mark.parametrize(
    ("name", "kind", "because"),
    [
        ("bge-reranker-v2-m3", "chat", "a conversation: it gives relevance scores only. Use 'gpt-oss-20b'."),
        ("bge-reranker-v2-m3", "embedding", "embeddings: it gives relevance scores only. Use 'bge-m3'."),
        ("gpt-oss-20b", "rerank", "reranking: it gives no relevance scores. Use 'bge-reranker-v2-m3', 'qwen3-reranker"),
        ("bge-m3", "rerank", "reranking: it gives no relevance scores. Use 'bge-reranker-v2-m3'."),
    ],
)
def test_what_a_reranker_cannot_do(served: dict[str, Fleet], name: str, kind: Kind, because: str) -> None:
    with pytest.raises(ApiError) as caught:
        resolve(name, Requirements(kind), served["judges"], CATALOG)
    assert f"cannot serve {because}" in caught.value.message


@pytest.mark.parametrize("first", ["llama-2-7b-chat", "llama-2-13b-chat"])
def test_the_first_of_several_sizes_is_chosen(tmp_path: Path, first: str) -> None:
    others = {"llama-2-7b-chat", "llama-2-13b-chat"} - {first}
    text = "models:\n" + "".join(f"  - model: {name}\n" for name in (first, *others))
    assert resolve("llama-2", Requirements("chat"), fleets.load(tmp_path, text), CATALOG).name == first
