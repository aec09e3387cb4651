"""Running conformance cases: on real engines, and with engines that fail or give different output."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.architectures.parameters import count_parameters
from service.architectures.scaled_down import CONTEXT, SLIDING_WINDOW
from service.config.settings import Settings
from service.conformance import run
from service.conformance.cases import Case, cases
from service.engine import evidence
from tests.engine.test_supervisor import PROGRAM
from tests.support.each import each
from tests.support.fleets import CATALOG

FOUND, _ = cases(CATALOG)
FIRST = next(case for case in FOUND if "llama-2-7b" in case.models)
# One case per day, since each starts an engine; tests/cli/test_adding.py runs a Llama every time.
DAY = datetime.now(UTC).toordinal()
# Those that are known not to give the same tokens on vLLM's CPU build; docs/add-a-model.md says how they differ.
UNEQUAL = {"glm-4.7-flash", "minimax-m2", "ministral-3-8b-instruct-2512"}
# Those that nobody has run yet; `roundhouse prove` runs them.
UNTRIED = {
    "codestral-22b-v0.1", "gpt-oss-safeguard-20b", "kimi-k2-thinking", "kimi-k2.5",
    "ministral-3-3b-instruct-2512", "olmo-3-32b-think", "qwen3-1.7b", "qwen3-4b", "qwen3-14b",
    "qwen3-coder-30b-a3b-instruct", "qwen3-coder-480b-a35b-instruct", "qwen3-embedding-4b", "qwen3-embedding-8b",
}  # fmt: skip
EQUAL = [case for case in FOUND if case.name not in UNEQUAL | UNTRIED]
CASE_OF_THE_DAY = EQUAL[DAY % len(EQUAL)]
REMOVED_MODEL = ("grok-1", "phi-3-small-8k-instruct")[DAY % 2]
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def counts(case: Case) -> list[int]:
    """The parameters of the scaled-down network: two counts where nobody knows whether it ties its embeddings."""
    known = case.shape.tie_word_embeddings
    shapes = [
        case.shape.model_copy(update={"tie_word_embeddings": tied})
        for tied in ((True, False) if known is None else (known,))
    ]
    return [count_parameters(case.network, shape, CONTEXT) or 0 for shape in shapes]


@each("case", EQUAL)
def test_every_scaled_down_network_has_a_size(case: Case) -> None:
    assert all(count > 0 for count in counts(case))


@pytest.mark.engine
@pytest.mark.parametrize("case", [CASE_OF_THE_DAY], ids=lambda case: case.name)
async def test_engine_output_equals_transformers(case: Case, tmp_path: Path) -> None:
    built: list[str] = []
    await run.build_references({case.name: run.scaled_down_request(case)}, tmp_path, built.append)
    assert built == [case.name]
    verdict = await run.run(case, tmp_path, ENVIRONMENT, Settings())
    assert (verdict.outcome, verdict.detail) == ("equal", "")
    assert any(verdict.weight_bytes == pytest.approx(4 * count, rel=0.01) for count in counts(case))
    if case.network.attention != "encoder":
        planned = run.planned_blocks(case.scaled_down(), verdict)
        assert planned
        assert planned.number == pytest.approx(verdict.blocks, rel=0.02)


@pytest.mark.parametrize("slow", [False, True])
async def test_engine_that_fails_to_start_is_refused_with_its_error(
    slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left, not even of a program that had no time to keep its evidence and ends slowly."""
    if slow:
        monkeypatch.setattr(evidence, "LIMIT", 0.0)
        monkeypatch.setattr(os, "killpg", lambda group, _: os.system(f"(sleep 1; kill -9 -{group}) &"))
    case = FIRST
    _write_reference(case, tmp_path, {"tokens": [[1], [2]]})
    environment = {**ENVIRONMENT, "STAND_IN": "broken"}
    verdict = await run.run(case, tmp_path, environment, Settings(engine_program=PROGRAM))
    assert verdict.outcome == "refused"
    assert "ValueError: the weights are broken" in verdict.detail


async def test_different_output_is_reported(tmp_path: Path) -> None:
    case, deep = FIRST, tmp_path / ("deep" * 30)
    _write_reference(case, deep, {"tokens": [[1], [2]]})
    verdict = await run.run(case, deep, ENVIRONMENT, Settings(engine_program=PROGRAM))
    assert verdict.outcome == "different"


@pytest.mark.engine
@pytest.mark.parametrize("model", [REMOVED_MODEL])
async def test_removed_class_is_refused_with_the_engines_error(model: str, tmp_path: Path) -> None:
    reason = await run.removal_reason(CATALOG.models[model], tmp_path, ENVIRONMENT, Settings())
    assert f"{CATALOG.models[model].architecture} was supported in vLLM until" in reason


async def test_failed_reference_is_refused_without_starting_an_engine(tmp_path: Path) -> None:
    _write_reference(FIRST, tmp_path, {"error": "no such thing"})
    verdict = await run.run(FIRST, tmp_path, {}, Settings(engine_program="/nowhere"))
    assert (verdict.outcome, verdict.detail) == ("refused", "no such thing")


def _write_reference(case: Case, folder: Path, reference: dict[str, object]) -> None:
    (folder / case.name).mkdir(parents=True)
    (folder / case.name / "reference.json").write_text(json.dumps(reference))


@pytest.mark.parametrize(
    ("tokens", "expected", "difference"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 5, 3], "1 of 3 tokens are equal, then [2] instead of [5]"),
        ([1, 2], [1, 2, 3], "2 of 3 tokens are equal, then [] instead of [3]"),
        ([], [1], "0 of 1 tokens are equal, then [] instead of [1]"),
    ],
)
def test_token_difference(tokens: list[int], expected: list[int], difference: str | None) -> None:
    assert run.token_difference(tokens, expected) == difference


def test_vector_difference() -> None:
    assert run.vector_difference([2.0, 0.0], [1.0, 0.0]) is None
    assert run.vector_difference([1.0, 0.1], [1.0, 0.0]) == "the cosine similarity of the vectors is 0.9950"


@each("case", FOUND, ids=lambda case: case.name)
def test_prompts_exceed_the_sliding_window_and_stay_in_the_vocabulary(case: Case) -> None:
    first, _ = run.prompts(case.shape.vocab_size or 1)
    assert len(first) > SLIDING_WINDOW
    assert len(set(first)) > 20
    assert max(first) < (case.shape.vocab_size or 0)


@each("case", FOUND, ids=lambda case: case.name)
def test_engine_gets_the_settings_of_the_catalogue(case: Case) -> None:
    served = run.served_model(case.scaled_down(), Path("weights"), {})
    kept = {key: value for key, value in case.model.engine.items() if key not in run.LEFT_OUT}
    assert served.engine == {**kept, **run.ENGINE_SETTINGS, "max_model_len": run.MAX_MODEL_LEN}
    assert served.chat_template is None
