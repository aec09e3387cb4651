"""vLLM's own load tool: what it is asked, and how its figures come back."""

import pytest

from bench.gpu.streams import LoadError, Workload
from bench.gpu.vllm_tool import Job, run

NOISY = "tests.bench.noisy_tool"
SHORT = Workload("short", prompt=128, answer=128)


def job(model: str = "m") -> Job:
    return Job("direct", "127.0.0.1:9", model, "weights", 8, 32, SHORT, 1)


async def test_figures_are_found_whatever_is_printed_on_standard_output() -> None:
    found = await run([job(), job()], NOISY)
    assert [(one["streams"], one["via"], one["requests"], one["tokens_per_s"]) for one in found] == [
        (8, "direct", 30, 30.0)
    ] * 2
    assert found[0]["ttft_ms"]["p50"] == 7.0


async def test_figures_of_the_jobs_before_a_crash_are_kept() -> None:
    assert len(await run([job(), job("broken")], NOISY)) == 1


async def test_a_tool_that_does_not_work_says_why() -> None:
    with pytest.raises(LoadError, match="does not work here: ImportError: no such tool"):
        await run([job("broken")], NOISY)


def test_it_is_asked_for_as_many_requests_as_the_load_has() -> None:
    arguments = job().arguments()
    assert arguments[arguments.index("--num-prompts") + 1] == "32"
    assert arguments[arguments.index("--max-concurrency") + 1] == "8"
