"""Pulling from a directory: a mirror, a repository's own folder, another store."""

from pathlib import Path

import pytest

from service.weights import manifest
from tests.weights.conftest import Repository, Shell
from tests.weights.tiny import AUTO_MAP, COMMIT, OTHER, REPOSITORY, TAKEN, TINY

LLAMA = "meta-llama/Llama-2-70b-chat-hf"


@pytest.mark.parametrize("layout", [f"mirror/{TINY}", "mirror"], ids=["organisation/name", "the repository itself"])
@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
def test_a_mirror_gives_the_same_as_the_hub(
    shell: Shell, repository: Repository, tmp_path: Path, layout: str, links: bool
) -> None:
    origin = repository(layout, REPOSITORY | {"pytorch_model.bin": b"\x80\x04."})
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        shell.monkeypatch.setattr("os.link", refuse)
    result = shell("pull", TINY, "--from", tmp_path / "mirror")
    assert result.exit_code == 0, result.output
    directory = shell.store.directory(TINY)
    assert set(manifest.files(directory)) == TAKEN
    assert (directory / "model.safetensors").read_bytes() == REPOSITORY["model.safetensors"]
    assert (directory / "model.safetensors").samefile(origin / "model.safetensors") == links
    found = manifest.read(directory)
    assert (found.repository, found.revision, found.source) == (TINY, None, f"directory {origin}")
    assert manifest.verify(directory, full=True) == []
    assert "revision unknown: the source has no commit" in result.output


def test_the_catalogues_id_leads_into_the_mirror(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    repository(f"mirror/{LLAMA}")
    assert shell("pull", "llama-2-70b-chat", "--from", tmp_path / "mirror").exit_code == 0
    assert shell.store.pulled(LLAMA)


def test_symbolic_links_of_a_hub_snapshot_are_followed(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    origin = repository(f"mirror/{TINY}")
    (origin / "model.safetensors").rename(tmp_path / "blob")
    (origin / "model.safetensors").symlink_to("../../../blob")
    assert shell("pull", TINY, "--from", tmp_path / "mirror").exit_code == 0
    assert not (shell.store.directory(TINY) / "model.safetensors").is_symlink()


def test_another_store_gives_its_revision_and_is_verified(online: Shell, tmp_path: Path) -> None:
    assert online("pull", TINY).exit_code == 0
    online.monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "second"))
    assert online("pull", TINY, "--from", online.store.folder).exit_code == 0
    assert manifest.read(tmp_path / "second" / TINY).revision == COMMIT
    result = online("pull", TINY, "--from", online.store.folder, "--revision", OTHER)
    assert result.exit_code == 1
    assert f"has revision {COMMIT} and not {OTHER}" in result.output

    weights = online.store.directory(TINY) / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1] + b"\xff")
    online.monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "third"))
    result = online("pull", TINY, "--from", online.store.folder)
    assert result.exit_code == 1
    assert "model.safetensors has SHA-256" in result.output
    assert not (tmp_path / "third" / TINY).exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "contains neither acme/Tiny-1m-chat nor a repository's own files (config.json)"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "its weights are pickle files only (pytorch_model.bin)"),
        ({"config.json": b"{}"}, "it has no *.safetensors file in its top-level directory"),
        (REPOSITORY | {"config.json": AUTO_MAP}, "the 'auto_map' of config.json names modeling_tiny.TinyForCausalLM"),
        (REPOSITORY | {"config.json": b"{"}, "config.json is not valid JSON"),
        (REPOSITORY | {"model.safetensors": b"version https"}, "model.safetensors claims a header of"),
        (REPOSITORY | {manifest.MANIFEST: b"{}"}, "is not a valid manifest: model: Field required"),
    ],
)
def test_the_same_rules_hold(shell: Shell, repository: Repository, files: dict[str, bytes], message: str) -> None:
    folder = repository("mirror", files)
    folder.mkdir(exist_ok=True)
    result = shell("pull", TINY, "--from", folder)
    assert result.exit_code == 1
    assert message in result.output
    assert list(shell.store.all_pulled()) == []


def test_the_mirrors_own_files_are_never_changed(shell: Shell, repository: Repository) -> None:
    folder = repository("mirror", REPOSITORY | {"config.json": AUTO_MAP})
    assert shell("pull", TINY, "--from", folder, "--without-code").exit_code == 0
    assert (folder / "config.json").read_bytes() == AUTO_MAP
    assert b"auto_map" not in (shell.store.directory(TINY) / "config.json").read_bytes()


def test_a_corrected_mirror_is_pulled_from_the_beginning(shell: Shell, repository: Repository) -> None:
    folder = repository("mirror", REPOSITORY | {"model.safetensors": REPOSITORY["model.safetensors"] + b"\0"})
    assert shell("pull", TINY, "--from", folder).exit_code == 1
    corrected = {"model.safetensors": REPOSITORY["model.safetensors"], "tokenizer.json": b'{"version": "1.1"}'}
    for name, data in corrected.items():
        (folder / name).unlink()
        (folder / name).write_bytes(data)
    assert shell("pull", TINY, "--from", folder).exit_code == 0
    assert all((shell.store.directory(TINY) / name).read_bytes() == data for name, data in corrected.items())
