"""`roundhouse pull` and `verify` as they are typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.weights import manifest
from tests.support.adapters import write_adapter
from tests.support.fleets import ROOT
from tests.weights.conftest import Repository, Shell
from tests.weights.hub import Hub
from tests.weights.tiny import AUTO_MAP, COMMIT, REPOSITORY, TINY

LLAMA = "meta-llama/Llama-2-70b-chat-hf"
CODED = REPOSITORY | {"config.json": AUTO_MAP, "modeling_tiny.py": b"pass"}


def fleet(folder: Path, *models: dict[str, object]) -> Path:
    """A fleet file that serves these."""
    path = folder / "fleet.yaml"
    path.write_text(json.dumps({"models": models}))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Name models, or a fleet file"),
        ((TINY, "--fleet", "f.yaml"), "Name models, or a fleet file"),
        ((TINY, "acme/x", "--revision", "main"), "--revision needs exactly one MODEL"),
        (("--fleet", "f.yaml", "--trust-remote-code"), "set it in the fleet file"),
        ((TINY, "--trust-remote-code", "--without-code"), "cannot be combined with --without-code"),
        (
            ("lama-2-70b-chat",),
            "'lama-2-70b-chat' is neither an id of the catalogue nor organisation/name. Did you mean llama-2",
        ),
        (("../x",), "'../x' is neither an id of the catalogue"),
        ((TINY, "--from", "/nowhere"), "does not exist"),
    ],
)
def test_wrong_usage(shell: Shell, words: tuple[str, ...], message: str) -> None:
    result = shell("pull", *words)
    assert result.exit_code == 2
    assert message in result.output


def test_embedded_weights_need_no_pull(shell: Shell) -> None:
    result = shell("pull", "pebble-chat")
    assert result.exit_code == 0
    assert "pebble-chat is embedded" in result.output


def test_every_hub_model_of_a_fleet(online: Shell, hub: Hub, tmp_path: Path) -> None:
    hub.add(LLAMA, REPOSITORY)
    file = fleet(
        tmp_path, {"model": "llama-2-70b-chat"}, {"model": "llama-2-70b-chat", "id": "again"}, {"model": "pebble-chat"},
        {"model": TINY, "engine": {"revision": COMMIT}},
    )  # fmt: skip
    result = online("pull", "--fleet", file)
    assert result.exit_code == 0, result.output
    assert {manifest.read(directory).repository for directory in online.store.all_pulled()} == {LLAMA, TINY}
    assert hub.fetched().count("model.safetensors") == 2
    assert result.output.count("is not pinned") == 1
    assert "store/meta-llama" in online("check", "--fleet", file).output


def test_an_adapter_of_a_fleet_is_pulled_verified_and_served_from_there(
    online: Shell, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_adapter(tmp_path / "made", "pebble-chat")
    hub.add("acme/tone", {path.name: path.read_bytes() for path in made.iterdir()})
    file = fleet(
        tmp_path, {"model": "pebble-chat", "adapters": [{"id": "tone", "hub": "acme/tone", "revision": COMMIT}]}
    )
    result = online("pull", "--fleet", str(file))
    assert result.exit_code == 0, result.output
    assert "tone: 2 files" in result.output
    checked = online("check", "--fleet", str(file))
    assert checked.exit_code == 0, checked.output
    monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "another"))
    checked = online("check", "--fleet", str(file))
    assert checked.exit_code == 2
    assert "adapters[0].hub: acme/tone has not been pulled: run 'roundhouse pull acme/tone'" in checked.output


def test_a_fleet_with_local_weights_needs_nothing(shell: Shell, tmp_path: Path) -> None:
    result = shell("pull", "--fleet", fleet(tmp_path, {"model": "pebble-chat"}))
    assert result.exit_code == 0
    assert "there is nothing to pull" in result.output


@pytest.mark.parametrize("trusted", [True, False])
def test_the_fleet_says_whose_code_is_trusted(online: Shell, hub: Hub, tmp_path: Path, trusted: bool) -> None:
    hub.add(TINY, CODED)
    result = online("pull", "--fleet", fleet(tmp_path, {"model": TINY, "engine": {"trust_remote_code": trusted}}))
    assert result.exit_code == (0 if trusted else 1)
    assert (online.store.directory(TINY) / "modeling_tiny.py").exists() == trusted


def test_a_wrong_fleet_is_refused(shell: Shell, tmp_path: Path) -> None:
    result = shell("pull", "--fleet", fleet(tmp_path, {"model": "pebbel-chat"}))
    assert result.exit_code == 2
    assert "fleet.yaml:1: models[0].model: 'pebbel-chat' is neither an id of the catalogue" in result.output


def test_verify_without_arguments_checks_every_pull(online: Shell, hub: Hub) -> None:
    assert "Nothing has been pulled" in online("verify").output
    hub.add(LLAMA, REPOSITORY)
    online("pull", TINY, "llama-2-70b-chat")
    result = online("verify")
    assert result.exit_code == 0
    for name in (TINY, LLAMA):
        (line,) = (line for line in result.output.splitlines() if name in line)
        assert all(word in line for word in (COMMIT, " 4 ", "8.35 kB", "valid"))


@pytest.mark.parametrize("by", ["catalogue's id", "hub's id", "directory"])
def test_verify_names_what_is_wrong(online: Shell, hub: Hub, by: str) -> None:
    hub.add(LLAMA, REPOSITORY)
    online("pull", "llama-2-70b-chat")
    directory = online.store.directory(LLAMA)
    name = {"catalogue's id": "llama-2-70b-chat", "hub's id": LLAMA, "directory": str(directory)}[by]
    assert online("verify", name).exit_code == 0
    (directory / "config.json").unlink()
    (directory / "evil.py").touch()
    result = online("verify", name)
    assert result.exit_code == 1
    assert "config.json is missing" in result.output
    assert "evil.py is not in the manifest" in result.output


def test_full_verification_hashes_all(online: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    online("pull", TINY)
    online("verify")
    monkeypatch.setattr(manifest, "sha256", lambda path, advance: "0" * 64)
    assert online("verify").exit_code == 0, "an unchanged file is not hashed again"
    assert online("verify", "--full").exit_code == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (TINY, "has not been pulled into"),
        ("llama-2-70b-chat", "has not been pulled into"),
        ("/nowhere", "is not a directory"),
        ("pebble-chat", "roundhouse-manifest.json cannot be read"),
    ],
)
def test_verify_of_what_is_not_there(shell: Shell, name: str, message: str) -> None:
    result = shell("verify", name)
    assert result.exit_code == 1
    assert message in result.output


def test_real_weights_pass(shell: Shell, repository: Repository) -> None:
    result = shell("pull", "acme/pebble-chat", "--from", ROOT / "models/pebble/pebble-chat")
    assert result.exit_code == 0, result.output
    assert shell("verify").exit_code == 0


def test_only_a_pull_imports_the_hubs_client() -> None:
    """The import takes 0.3 s, and the gateway does not need it."""
    program = "import service.cli.__main__, service.engine.supervisor, sys; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
