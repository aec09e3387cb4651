"""`roundhouse plan`."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli import planning
from service.cli.__main__ import main
from service.config.settings import VARIABLES, Settings
from service.planner import gpus
from service.planner.gpus import load
from service.planner.quantization import forms, unknown
from tests.support.fleets import CATALOG, ROOT

(PLAN,) = planning.COMMANDS
GPUS = load(ROOT / "deploy/gpus.yaml")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from the environment, a terminal wide enough for every table, and our files read once."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(planning, "settings_and_catalog", lambda: (Settings(), CATALOG))
    monkeypatch.setattr(gpus, "load", lambda file: GPUS if file == planning.GPUS else load(file))


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(PLAN, [str(word) for word in words])


def record(*words: str | Path) -> Any:
    """What the command tells a program."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


# One model of each network, and those of which something is unknown.
KINDS = {(model.architecture, tuple(unknown(model))): model.id for model in CATALOG.models.values()}


@pytest.mark.parametrize("name", KINDS.values())
def test_every_kind_of_model_has_a_plan(name: str) -> None:
    words = [name] if CATALOG.models[name].opening_context else [name, "--context", "2048"]
    result = run(*words, "--price", "2", "--api-price", "1")
    assert result.exit_code == 0, result.output
    for gpu in GPUS:
        assert any(line.startswith(gpu + " ") for line in result.output.splitlines())
    rows = record(*words)["rows"]
    assert {(row["gpu"], row["form"]) for row in rows} == {
        (gpu, form) for gpu in GPUS for form in forms(CATALOG.models[name])
    }


def test_a_plan_prints_what_it_says_to_programs() -> None:
    words = ("llama-2-13b-chat", "--gpu", "H100", "--quantization", "fp8")
    (row,) = record(*words)["rows"]
    line = next(line for line in run(*words).output.splitlines() if line.startswith("H100"))
    assert f"{row['weight_bytes'] / 1e9:.1f}" in line
    assert f"{row['blocks']:,}" in line.split()
    assert str(int(row["requests"])) in line.split()
    assert f"{row['tokens_per_second_at_most']['alone']:,.0f}" in line.split()


def test_what_is_assumed_is_printed() -> None:
    output = " ".join(run("llama-2-7b", "--price", "2", "--gpu", "L4", "--gpu", "A10G").output.split())
    assert "gpu_memory_utilization 0.92" in output
    assert "upper bounds" in output
    assert "groups of 128 weights" in output
    assert "fp8 on A10G keeps weights in 8 bits" in output
    assert "at your price of $2 for a GPU and hour" in output


def test_the_context_changes_what_fits() -> None:
    short, long = (record("llama-3.1-8b-instruct", "--context", str(size), "--gpu", "h100") for size in (4096, 65536))
    assert short["need"]["token"] == long["need"]["token"]
    assert short["rows"][0]["requests"] == pytest.approx(16 * long["rows"][0]["requests"])


def test_without_a_context_it_is_what_vllm_opens_with() -> None:
    assert record("phi-3-mini-128k-instruct")["context"] == 4096
    assert record("phi-3-mini-128k-instruct", "--context", "131072")["context"] == 131072


def test_options_are_the_engines() -> None:
    words = ("llama-2-7b", "--gpu", "H100", "--quantization", "gptq")
    plain, small, half, two = (
        record(*words, *more)["rows"][0]
        for more in ((), ("--gpu-memory-utilization", "0.5"), ("--kv-cache-dtype", "fp8"), ("--tensor-parallel", "2"))
    )
    assert small["cache_bytes"] < plain["cache_bytes"]
    assert half["blocks"] in (2 * plain["blocks"], 2 * plain["blocks"] + 1)
    assert two["gpus"] == 2
    assert plain["gpus"] == 1


def test_prices_are_the_users_own() -> None:
    words = ("llama-2-7b-chat", "--gpu", "H100", "--quantization", "bf16", "--price")
    cheap, dear = (record(*words, price, "--api-price", "1")["rows"][0]["dollars_per_million"] for price in ("1", "3"))
    assert dear["own"] == pytest.approx(3 * cheap["own"])
    assert dear["break_even"] == pytest.approx(3 * cheap["break_even"])
    assert cheap["api"] == dear["api"] == 1
    assert record("llama-2-7b-chat", "--gpu", "H100")["rows"][0]["dollars_per_million"] is None


def test_a_model_that_vllm_refuses_says_why_and_what_would_run_it() -> None:
    output = " ".join(run("grok-1").output.split())
    assert "The pinned vLLM does not run it: vLLM removed its Grok-1 classes" in output
    assert CATALOG.models["grok-1"].note
    assert " ".join(CATALOG.models["grok-1"].note.split()) in output


def test_unknown_sizes_are_named() -> None:
    result = run("phi-3-small-8k-instruct", "--gpu", "L4")
    assert result.exit_code == 0
    assert "unknown   vocab_size, tie_word_embeddings" in result.output
    assert "KV cache  131,072 bytes" in result.output


@pytest.mark.parametrize(
    "line",
    [
        planning.EXAMPLE.removeprefix("roundhouse plan "),
        "--task code-completion --context 16384 --users 20 --gpu l40s --gpu-count 2 --quantization awq",
        "--task summarization --context 32768 --users 8 --gpu A100-80 --gpu-count 4 --commercial",
        "--variant embedding --context 512 --gpu L4",
    ],
)
def test_without_a_model_the_catalogue_is_ranked(line: str) -> None:
    words = line.split()
    result = run(*words)
    assert result.exit_code == 0, result.output
    models = record(*words)
    assert models
    positions = [result.output.index(f" {one['model']} ") for one in models if one["grade"] != "unfit"]
    assert positions == sorted(positions)
    for one in models:
        assert one["model"] in result.output
        assert one["grade"] == "meets" or one["why"] in result.output
        if one["licence"]["commercial"] is False and one["grade"] != "unfit":
            assert f"not for commercial use ({one['licence']['name']})" in result.output


def test_each_option_of_a_ranking_counts() -> None:
    """What is asked for is what the ranking is of: its first line says so."""
    words = ("--task", "ner", "--gpu", "h100", "--gpu-count", "4", "--context", "2048", "--users", "9")
    suits = " or ".join(CATALOG.tasks["ner"].suits)
    assert run(*words).output.startswith(f"ner: {suits} models for 9 users with 2,048 tokens each, on 4 x H100\n")
    assert run("--variant", "base", "--gpu", "L4").output.startswith(
        "base: base models for one user with 4,096 tokens each, on 1 x L4\n"
    )
    assert {one["form"] for one in record(*words, "--quantization", "awq")} == {"int4", None}


def test_a_licence_that_forbids_commercial_use_is_remarked_or_ruled_out() -> None:
    words = ("--variant", "instruct", "--gpu", "H100")
    assert "not for commercial use" in run(*words).output
    output = run(*words, "--commercial").output
    assert "not for commercial use" not in output
    assert "its licence forbids commercial use" in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            (),
            "give a MODEL; or, to rank the catalogue, a --variant (base, chat, instruct, code, embedding, reranker, "
            "guard) or a --task",
        ),
        ((), f"({', '.join(CATALOG.tasks)}), as in\n  {planning.EXAMPLE}"),
        (("--gpu", "H100"), "give a MODEL; or, to rank the catalogue,"),
        (("--variant", "chat", "--task", "ner", "--gpu", "L4"), "give --task or --variant, not both"),
        (("--task", "poetry", "--gpu", "L4"), f"there is no task 'poetry'; tasks are {', '.join(CATALOG.tasks)}"),
        (("--variant", "chit", "--gpu", "L4"), "'chit' is not one of 'base', 'chat'"),
        (("--variant", "chat"), f"rank the models on one GPU: give --gpu once; known are {', '.join(GPUS)}"),
        (("--variant", "chat", "--gpu", "L4", "--gpu", "T4"), "give --gpu once"),
        (("--variant", "chat", "--gpu", "A100"), f"no GPU 'A100' is known; known are {', '.join(GPUS)}"),
        (("--variant", "chat", "--gpu", "L4", "--gpu-count", "0"), "--gpu-count"),
        (("--variant", "chat", "--gpu", "L4", "--api-price", "1"), "--api-price plans a single model: give a MODEL"),
        (("--variant", "chat", "--gpu", "L4", "--tensor-parallel", "2"), "--tensor-parallel plans a single model"),
        (("llama-2-7b", "--task", "ner"), "--task ranks the catalogue: leave out MODEL"),
        (("llama-2-7b", "--gpu-count", "1"), "--gpu-count ranks the catalogue: leave out MODEL"),
        (("llama-2-7b", "--commercial"), "--commercial ranks the catalogue: leave out MODEL"),
        (("lama-2-7b",), "the catalogue has no model 'lama-2-7b'. Did you mean llama-2-7b"),
        (("llama-2-7b", "--gpu", "H1000"), "no GPU 'H1000' is known; known are T4, L4"),
        (("llama-2-7b", "--context", "8192"), "llama-2-7b takes 4,096 tokens at most, not 8,192"),
        (("llama-2-7b", "--api-price", "1"), "--api-price is compared with --price"),
        (("llama-2-7b", "--users", "0"), "--users"),
        (("gpt-oss-20b", "--quantization", "awq"), "the weights of gpt-oss-20b come as mxfp4 only"),
    ],
)
def test_a_wrong_question_is_refused(words: tuple[str, ...], complaint: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not result.stdout


def test_a_wrong_table_of_gpus_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text("gpus:\n  - name: x1\n")
    result = run("llama-2-7b", "--gpus", path)
    assert result.exit_code == 2
    assert f"{path}:2: gpus[0].name" in result.stderr


def test_another_table_of_gpus_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    text = (ROOT / "deploy/gpus.yaml").read_text()
    path.write_text(text.replace("name: H200", "name: H2000"))
    assert "H2000" in run("llama-2-7b", "--gpus", path).output


def test_it_is_a_command_of_roundhouse_and_reads_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("ROUNDHOUSE_MODELS", str(ROOT / "deploy/fleets"))
    result = CliRunner().invoke(main, ["plan", "llama-2-7b"])
    assert result.exit_code == 2
    assert str(ROOT / "deploy/fleets") in result.stderr
