"""The proof itself: on real engines, and that it notices what is wrong."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.conformance import run
from service.conformance.cases import Case, cases
from tests.engine.test_supervisor import PROGRAM
from tests.support.fleets import CATALOG

FOUND, _ = cases(CATALOG)
FIRST = next(case for case in FOUND if "llama-2-7b" in case.models)
# One of each a day, since each takes an engine; tests/cli/test_adding.py has a Llama on one in every run.
DAY = datetime.now(UTC).toordinal()
TODAY = FOUND[DAY % len(FOUND)]
GONE = ("grok-1", "phi-3-small-8k-instruct")[DAY % 2]
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.mark.engine
@pytest.mark.parametrize("case", [TODAY], ids=lambda case: case.name)
async def test_the_engine_gives_the_tokens_that_transformers_gives(case: Case, tmp_path: Path) -> None:
    built: list[str] = []
    await run.build({case.name: run.scaled_down(case)}, tmp_path, built.append)
    assert built == [case.name]
    verdict = await run.run(case, tmp_path, ENVIRONMENT, Settings())
    assert (verdict.outcome, verdict.detail) == ("equal", "")
    assert verdict.weight_bytes == pytest.approx(4 * (case.scaled_down().parameters or 0), rel=0.01)
    if case.network.attention != "encoder":
        planned = run.planned(case.scaled_down(), verdict)
        assert planned
        assert planned.number == pytest.approx(verdict.blocks, rel=0.02)


async def test_an_engine_that_does_not_start_is_refused_with_its_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = FIRST
    _pretend_built(case, tmp_path, {"tokens": [[1], [2]]})
    environment = {**ENVIRONMENT, "STAND_IN": "broken"}
    verdict = await run.run(case, tmp_path, environment, Settings(engine_program=PROGRAM))
    assert verdict.outcome == "refused"
    assert "ValueError: the weights are broken" in verdict.detail


async def test_an_engine_that_answers_otherwise_does_not_pass(tmp_path: Path) -> None:
    case, deep = FIRST, tmp_path / ("deep" * 30)
    _pretend_built(case, deep, {"tokens": [[1], [2]]})
    verdict = await run.run(case, deep, ENVIRONMENT, Settings(engine_program=PROGRAM))
    assert verdict.outcome == "different"


@pytest.mark.engine
@pytest.mark.parametrize("model", [GONE])
async def test_what_the_engine_has_no_more_is_refused_in_its_own_words(model: str, tmp_path: Path) -> None:
    said = await run.refusal(CATALOG.models[model], tmp_path, ENVIRONMENT, Settings())
    assert f"{CATALOG.models[model].architecture} was supported in vLLM until" in said


async def test_what_transformers_cannot_build_is_refused_without_an_engine(tmp_path: Path) -> None:
    _pretend_built(FIRST, tmp_path, {"error": "no such thing"})
    verdict = await run.run(FIRST, tmp_path, {}, Settings(engine_program="/nowhere"))
    assert (verdict.outcome, verdict.detail) == ("refused", "no such thing")


def _pretend_built(case: Case, folder: Path, reference: dict[str, object]) -> None:
    (folder / case.name).mkdir(parents=True)
    (folder / case.name / "reference.json").write_text(json.dumps(reference))


@pytest.mark.parametrize(
    ("tokens", "expected", "difference"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 5, 3], "1 of 3 tokens are equal, then [2] came for [5]"),
        ([1, 2], [1, 2, 3], "2 of 3 tokens are equal, then [] came for [3]"),
        ([], [1], "0 of 1 tokens are equal, then [] came for [1]"),
    ],
)
def test_says_where_tokens_part(tokens: list[int], expected: list[int], difference: str | None) -> None:
    assert run.token_difference(tokens, expected) == difference


def test_vectors_may_differ_by_rounding_only() -> None:
    assert run.vector_difference([2.0, 0.0], [1.0, 0.0]) is None
    assert run.vector_difference([1.0, 0.1], [1.0, 0.0]) == "the vectors' cosine is 0.9950"


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_prompts_reach_past_the_small_window_and_stay_in_the_vocabulary(case: Case) -> None:
    long, _ = run.prompts(case.shape.vocab_size or 1)
    assert len(long) > 24
    assert len(set(long)) > 20
    assert max(long) < (case.shape.vocab_size or 0)


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_the_engine_gets_the_catalogues_own_settings(case: Case) -> None:
    one = run.served(case.scaled_down(), Path("weights"), {})
    kept = {key: value for key, value in case.model.engine.items() if key not in run.OF_CONVERSATIONS}
    assert one.engine == {**kept, **run.SETTINGS, "max_model_len": run.LENGTH}
    assert one.chat_template is None
