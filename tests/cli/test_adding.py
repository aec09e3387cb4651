"""`roundhouse add`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner, Result

from service.catalog import catalog
from service.cli.__main__ import main
from tests.support.fleets import ROOT
from tests.weights import hub as hubs
from tests.weights.hub import Hub

CODE = ROOT / "models/pebble/pebble-code"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small catalogue, which ROUNDHOUSE_MODELS names."""
    catalogue = tmp_path / "catalogue"
    catalogue.mkdir()
    for name in ("pebble.yaml", "tasks.yaml"):
        shutil.copy(ROOT / "models" / name, catalogue)
    for name in ("pebble", "templates"):
        (catalogue / name).symlink_to(ROOT / "models" / name)
    monkeypatch.setenv("ROUNDHOUSE_MODELS", str(catalogue))
    return catalogue


def add(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["add", *arguments])


def test_dry_run_shows_the_entry_and_writes_nothing(folder: Path) -> None:
    result = add(str(CODE), "--id", "mine", "--family", "ours", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "id: mine" in result.output
    assert "licence: not in the files" in result.output
    assert not (folder / "ours.yaml").exists()


def test_no_proof_writes_the_entry_without_comparing(folder: Path) -> None:
    result = add(str(CODE), "--id", "mine", "--family", "ours", "--no-proof")
    assert result.exit_code == 0, result.output
    assert "Engine output not compared: --no-proof." in result.output
    assert catalog.load(folder).models["mine"].path == str(CODE)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub with a chat model, which HF_ENDPOINT names."""
    chat = ROOT / "models/pebble/pebble-chat"
    with hubs.running() as hub:
        hub.add("acme/Harbour-1m-chat", {path.name: path.read_bytes() for path in chat.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub
    huggingface_hub.close_session()


def test_only_metadata_files_of_a_repository_are_downloaded(folder: Path, hub: Hub) -> None:
    result = add("acme/Harbour-1m-chat", "--no-proof")
    assert result.exit_code == 0, result.output
    found = catalog.load(folder).models["harbour-1m-chat"]
    assert (found.hub, found.variant, found.parameters, found.context) == ("acme/Harbour-1m-chat", "chat", 918656, 1024)
    assert sorted(hub.fetched()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_gated_repository_error_names_hf_token(folder: Path, hub: Hub) -> None:
    hub.gated.add("acme/Harbour-1m-chat")
    result = add("acme/Harbour-1m-chat", "--no-proof")
    assert result.exit_code == 1
    assert "HF_TOKEN" in result.output
    assert not (folder / "harbour.yaml").exists()


@pytest.mark.engine
def test_small_weights_are_compared_themselves(folder: Path) -> None:
    result = add(str(CODE), "--id", "mine", "--family", "ours")
    assert result.exit_code == 0, result.output
    assert "The engine's output matches transformers." in result.output
    assert "mine" in catalog.load(folder).models


@pytest.mark.slow
def test_model_that_the_engine_cannot_run_is_not_added(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken-base"
    shutil.copytree(CODE, broken)
    (broken / "config.json").write_text((CODE / "config.json").read_text().replace('"silu"', '"no-such-function"'))
    result = add(str(broken), "--family", "ours")
    assert result.exit_code == 1
    assert "the model was not added" in result.output
    assert "no-such-function" in result.output
    assert not (folder / "ours.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "'nowhere' is neither a folder nor a hub repository"),
        ([str(ROOT / "docs")], "has no config.json"),
        ([str(CODE), "--id", "pebble-chat"], "'pebble-chat' is not unique"),
        (
            [str(CODE), "--id", "x", "--family", "ours", "--variant", "base", "--template", "llama-2.jinja"],
            "leave out --template",
        ),
    ],
)
def test_error_names_the_problem(folder: Path, arguments: list[str], problem: str) -> None:
    result = add(*arguments, "--no-proof")
    assert result.exit_code == 1
    assert problem in result.output
    assert "Traceback" not in result.output
