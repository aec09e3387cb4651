"""`roundhouse add`."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner, Result

from service.catalog import catalog
from service.cli.__main__ import main
from service.cli.upgrading import upgrade
from service.upgrade import rollout
from tests.support import fleets
from tests.support.adapters import write_adapter
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


REPLY = ROOT / "models/pebble/adapters/pebble-reply"


@pytest.fixture
def fleet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet file that ROUNDHOUSE_FLEET names."""
    file = tmp_path / "fleet.yaml"
    file.write_text("models:\n  - model: pebble-chat\n  - model: pebble-instruct  # the desk\n\n# names\naliases: {}\n")
    monkeypatch.setenv("ROUNDHOUSE_FLEET", str(file))
    return file


def test_an_adapter_is_written_into_the_fleet_file_under_its_base(fleet_file: Path) -> None:
    shown = add(str(REPLY), "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "Adapter of rank 16, under 'pebble-instruct'" in shown.output
    assert "adapters" not in fleet_file.read_text()
    result = add(str(REPLY), "--id", "desk", "--variant", "instruct")
    assert result.exit_code == 0, result.output
    text = f"{{id: desk, variant: instruct, path: {REPLY}}}"
    assert f"  - model: pebble-instruct  # the desk\n    adapters: [{text}]\n\n# names" in fleet_file.read_text()
    assert sorted(fleet_file.parent.iterdir()) == [fleet_file]
    again = add(str(REPLY), "--id", "desk")
    assert again.exit_code == 1
    assert "'desk' is already the id or alias of another model" in again.output


def test_an_adapter_that_fits_no_model_is_refused_with_the_reasons(fleet_file: Path, tmp_path: Path) -> None:
    before = fleet_file.read_text()
    folder = write_adapter(tmp_path / "tone", "llama-2-7b")
    result = add(str(folder))
    assert result.exit_code == 1
    assert f"it fits no model of {fleet_file}:" in result.output
    assert "base_model_name_or_path: is 'llama-2-7b', and this entry serves 'pebble-instruct'" in result.output
    assert fleet_file.read_text() == before
    assert "an adapter has the specialty and the template" in add(str(folder), "--template", "x").output
    assert "--fleet is for the folder of an adapter" in add(str(CODE), "--fleet", str(fleet_file)).output
    (folder / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in add(str(folder)).output


PAGE = (ROOT / "docs/fine-tunes.md").read_text(encoding="utf-8")


def blocks(language: str, section: str) -> list[str]:
    """The blocks of code of a section of docs/fine-tunes.md, without its comments."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [re.sub(r" +#.*", "", found) for found in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def test_the_commands_of_the_page_of_fine_tunes_serve_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("models", "deploy"):
        (tmp_path / name).symlink_to(ROOT / name)
    fleet_text, added, _ = blocks("bash", "Serve it")
    prepared, _, serve = fleet_text.strip().rpartition("\n")
    assert serve == "roundhouse serve --fleet fleet.yaml"
    subprocess.run(["bash", "-ec", prepared], check=True)
    for line in added.splitlines():
        result = CliRunner().invoke(main, shlex.split(line.removeprefix("roundhouse ")))
        assert result.exit_code == 0, result.output
    (entry,) = blocks("yaml", "Serve it")
    assert Path("fleet.yaml").read_text().startswith(entry)
    (served,) = fleets.read(tmp_path / "fleet.yaml").served
    assert served.adapters[0].id == "my-tone" and served.engine["enforce_eager"]


def test_the_next_release_of_an_adapter_as_the_page_has_it_can_take_its_traffic(tmp_path: Path) -> None:
    (entry,), (command,) = blocks("yaml", "Replace it"), blocks("bash", "Replace it")
    old, new = command.split()[2:4]
    begun = rollout.check(fleets.load(tmp_path, entry), old, new, (5, 25, 50, 100))
    assert (begun.old, begun.new, begun.total) == ("my-tone", "my-tone-2", 100)
    assert upgrade.make_context("upgrade", command.split()[2:]).params["agreement"] == 0
