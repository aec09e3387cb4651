"""`roundhouse list`, `roundhouse show` and docs/models.md."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from service.catalog.model import Model
from service.cli import model_details, reference
from service.cli.__main__ import main
from service.cli.catalogue import MARKS
from service.config.settings import VARIABLES
from tests.support.fleets import CATALOG, ROOT

MODELS = list(CATALOG.models.values())


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from the environment, and a terminal of 80 columns."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def listed(*options: str) -> list[dict[str, Any]]:
    result = run("list", "--json", *options)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def shown(model_id: str) -> str:
    """The output of `show`, without line breaks."""
    result = run("show", model_id)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


# list


def test_list_shows_every_model_untruncated_in_80_columns() -> None:
    result = run("list")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    assert "…" not in result.stdout
    for model in MODELS:
        (line,) = (line for line in lines if model.id in line.split())
        assert model_details.kind(model) in line
        assert model_details.amount(model.parameters) in line.split()
    for family in CATALOG.families.values():
        assert any(line.startswith(f"{family.title}  {family.licence.name or ''}".rstrip()) for line in lines)
    assert f"{len(MODELS)} of {len(MODELS)} models." in result.stdout


def test_list_marks() -> None:
    lines = run("list").stdout.splitlines()
    for model_id, mark in (
        ("llama-2-7b-chat", "gated"),
        ("solar-10.7b-instruct-v1.0", "non-commercial"),
        ("orca-2-7b", "non-commercial"),
        ("zephyr-7b-alpha", "licence unknown"),
        ("grok-1", "not in vLLM"),
        ("code-llama-7b", "infill"),
        ("qwen3.5-27b", "vision"),
    ):
        (line,) = (line for line in lines if model_id in line.split())
        assert mark in line
    for mark, meaning in MARKS.items():
        assert any(line.removeprefix("marks").split() == [*mark.split(), *meaning.split()] for line in lines)


def test_list_shows_the_tasks_of_each_variant() -> None:
    text = " ".join(run("list").stdout.split())
    assert "suited for code code-completion" in text
    assert "code instruct code-completion, code-refactoring, code-explanation, code-chat" in text
    assert "chat dialogue, support, social" in text


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ((), lambda model: True),
        (("--family", "zephyr"), lambda model: CATALOG.family_of[model.id] == "zephyr"),
        (("--variant", "embedding"), lambda model: model.variant == "embedding"),
        (("--task", "code-explanation"), lambda model: model.specialty == "instruct"),
        (("--task", "extraction"), lambda model: model.variant == "instruct"),
        (("--commercial",), lambda model: CATALOG.licence(model).commercial is True),
        (
            ("--variant", "chat", "--commercial"),
            lambda model: model.variant == "chat" and CATALOG.licence(model).commercial is True,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_list_filters(options: tuple[str, ...], chosen: Any) -> None:
    ids = [row["id"] for row in listed(*options)]
    assert ids == [model.id for model in MODELS if chosen(model)]
    assert ids
    table = run("list", *options).stdout
    assert [model.id for model in MODELS if f" {model.id} " in table] == ids


def test_commercial_filter_leaves_out_non_commercial_and_unknown_licences() -> None:
    ids = {row["id"] for row in listed("--commercial")}
    assert not {"solar-10.7b-instruct-v1.0", "orca-2-7b", "orca-2-13b", "zephyr-7b-alpha"} & ids
    assert {"solar-10.7b-v1.0", "zephyr-7b-beta", "llama-2-7b"} <= ids


@pytest.mark.parametrize(
    ("options", "problem", "code"),
    [
        (("--family", "lama"), "--family: 'lama' is unknown. Choose from bert, bge,", 2),
        (("--task", "coding"), "--task: 'coding' is unknown. Choose from classification, code-chat,", 2),
        (("--variant", "vision"), "'vision' is not one of", 2),
        (("--family", "bge", "--variant", "chat"), "no model matches all of these options", 1),
    ],
)
def test_list_rejects_wrong_options(options: tuple[str, ...], problem: str, code: int) -> None:
    result = run("list", *options)
    assert result.exit_code == code
    assert problem in result.stderr
    assert not result.stdout


# show


@pytest.mark.parametrize(
    "model", [family.models[-1] for family in CATALOG.families.values()], ids=lambda model: model.id
)
def test_show_prints_all_details_in_80_columns(model: Model) -> None:
    result = run("show", model.id)
    assert result.exit_code == 0, result.output
    assert all(cell_len(line) <= 80 for line in result.stdout.splitlines())
    text = " ".join(result.stdout.split())
    for _, detail in model_details.rows(CATALOG, model):
        # Words that are longer than their column are folded.
        assert detail.replace(" ", "") in text.replace(" ", "")
    assert model.hub is None or model.hub in text.replace(" ", "")


def test_show_accepts_hub_ids_of_models_and_copies() -> None:
    assert shown("meta-llama/Llama-2-7b-chat-hf") == shown("llama-2-7b-chat")
    copied = shown("TheBloke/Llama-2-7B-Chat-AWQ")
    assert "weights TheBloke/Llama-2-7B-Chat-AWQ, a copy quantised with awq" in copied
    assert "to serve 'model: TheBloke/Llama-2-7B-Chat-AWQ' in a fleet file" in copied
    assert "access unknown" in copied


@pytest.mark.parametrize(
    ("model_id", "detail"),
    [
        ("solar-10.7b-instruct-v1.0", "licence CC-BY-NC-4.0: commercial use is NOT allowed. Not for commercial use."),
        ("orca-2-7b", "licence Microsoft Research License: commercial use is NOT allowed. For research only;"),
        ("orca-2-7b", 'engine dtype: "bfloat16"'),
        ("zephyr-7b-alpha", "licence The licence of alpha is not known; beta's is MIT."),
        ("llama-2-7b", "access gated: accept the terms on the hub"),
        ("code-llama-7b", "access not gated"),
        ("grok-1", "vLLM not supported: "),
        ("phi-3-mini-128k-instruct", "131,072 tokens; vLLM's default is 4,096, more with max_model_len"),
        ("code-llama-34b", "up to 100,000 with max_model_len and VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"),
        ("gemma-3-4b-it", "sliding window of 1,024 in 5 of 6 layers"),
        ("mistral-7b-v0.1", "sliding window of 4,096 in all layers"),
        ("falcon-7b-instruct", 'stops at token 11, "\\nUser"'),
        ("mixtral-8x7b-instruct-v0.1", "system messages: merged into the first user message"),
        ("qwen3-8b", "template from the weights, or chatml.jinja if they have none"),
        ("gpt-oss-20b", "template vLLM's own format"),
        ("gemma-4-31b-it", "supports chat, completion, vision"),
        ("qwen3-8b", 'unless a request says otherwise; chat_template_kwargs {"enable_thinking": false} changes that'),
        ("qwen3-4b-instruct-2507", "thinks never"),
        ("gpt-oss-20b", "unless a request says otherwise; reasoning_effort: low, medium, high"),
        ("bge-reranker-v2-m3", "supports rerank"),
        ("kimi-k2-instruct", "1.0T parameters"),
        ("starcoder2-7b", "Starcoder2ForCausalLM, through vLLM's transformers backend"),
        ("bge-small-en-v1.5", "suited for -"),
        ("llama-2-13b-chat", "requested as llama-2-13b-chat, llama-2, llama-2-13b, chat, task:dialogue, task:support,"),
        ("llama-2-70b-chat", "unknown revision, gated"),
        ("pebble-chat", "weights embedded, in models/pebble/pebble-chat"),
    ],
)
def test_show(model_id: str, detail: str) -> None:
    assert detail in shown(model_id)


def test_show_does_not_offer_unsupported_models() -> None:
    assert "in a fleet file" not in shown("grok-1")
    assert "in a fleet file" in shown("mixtral-8x7b-v0.1")


def test_known_facts_are_not_listed_as_unknown() -> None:
    assert " unknown " not in shown("pebble-chat")
    assert model_details.unknowns(CATALOG, CATALOG.models["code-llama-7b"]) == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("llama-2-13b-caht", "Did you mean llama-2-13b-chat or "),
        ("xyzzy", "'roundhouse list' shows all models."),
    ],
)
def test_show_suggests_models_for_an_unknown_name(name: str, advice: str) -> None:
    result = run("show", name)
    assert result.exit_code == 2
    assert f"the catalogue has no model '{name}'. {advice}" in result.stderr
    assert not result.stdout


# JSON


def test_json_has_every_entry_and_derived_fields() -> None:
    rows = listed()
    assert [row["id"] for row in rows] == [model.id for model in MODELS]
    for data, model in zip(rows, MODELS, strict=True):
        for key, value in model.model_dump(mode="json", exclude={"licence", "gated"}).items():
            assert data[key] == value
        assert data["family"] == CATALOG.family_of[model.id]
        assert data["licence"]["name"] == CATALOG.licence(model).name
        assert data["tasks"] == CATALOG.tasks_of(model)
        assert data["requested_as"][0] == model.id
        assert set(data["capabilities"]) == model.capabilities
        assert bool(data["refused"]) == (model.id in ("bert-base-uncased", "grok-1", "phi-3-small-8k-instruct"))


def test_list_and_show_give_the_same_json() -> None:
    for row in listed("--family", "phi-3"):
        assert row == json.loads(run("show", row["id"], "--json").stdout)


def test_invalid_catalogue_is_reported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("family: b\n")
    monkeypatch.setenv("ROUNDHOUSE_MODELS", str(tmp_path))
    for words in (("list",), ("show", "x")):
        result = run(*words)
        assert result.exit_code == 2
        assert f"{tmp_path}/a.yaml:1: title: is missing" in result.stderr


# docs/models.md


def test_models_md_is_up_to_date() -> None:
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == reference.document(CATALOG) + "\n", (
        "run: python -m service.cli.reference > docs/models.md"
    )


def test_models_md_has_every_model() -> None:
    rows = {line.split("`")[1]: line for line in reference.document(CATALOG).splitlines() if line.startswith("| `")}
    assert set(rows) == set(CATALOG.models)
    for model in MODELS:
        cells = [cell.strip() for cell in rows[model.id].strip("|").split("|")]
        assert len(cells) == reference.HEAD.splitlines()[0].strip("|").count("|") + 1
        assert cells[1] == (model.hub or "embedded")
        non_commercial = model.licence is not None and model.licence.commercial is False
        assert ("no commercial use" in cells[-1]) == non_commercial


def test_models_md_kv_cache_per_token() -> None:
    rows = {line.split("`")[1]: line for line in reference.document(CATALOG).splitlines() if line.startswith("| `")}
    for model_id, cache in (
        ("llama-2-13b", "800 KiB"),
        ("phi-3-mini-4k-instruct", "384 KiB"),
        ("falcon-7b", "8 KiB"),
        ("deepseek-coder-v2-lite-base", "30 KiB"),
        ("bert-base-uncased", "-"),
    ):
        assert f"| {cache} |" in rows[model_id]
