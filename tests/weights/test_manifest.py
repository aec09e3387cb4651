"""The manifest: every difference is found and named, and verifying unchanged files again is cheap."""

import json
import os
from pathlib import Path

import pytest

from service.weights import digests, hash_cache, manifest
from service.weights.manifest import MANIFEST, File, Manifest, ManifestError, Problem
from tests.weights.conftest import Repository
from tests.weights.tiny import COMMIT, REPOSITORY, TINY


@pytest.fixture
def directory(repository: Repository) -> Path:
    """A directory with a manifest that is right."""
    folder = repository("weights", REPOSITORY | {"1_Pooling/config.json": b"{}"})
    files = {
        name: File(size=(folder / name).stat().st_size, sha256=digests.sha256(folder / name))
        for name in manifest.files(folder)
    }
    said = Manifest(model="tiny", repository=TINY, revision=COMMIT, source="test", made_by="test", files=files)
    manifest.write(folder, said)
    return folder


def test_what_is_written_is_read(directory: Path) -> None:
    found = manifest.read(directory)
    assert (found.repository, found.revision) == (TINY, COMMIT)
    assert found.files.keys() == REPOSITORY.keys() | {"1_Pooling/config.json"}
    assert found.size == sum(map(len, REPOSITORY.values())) + 2
    assert manifest.exists(directory)
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_nothing_differs(directory: Path) -> None:
    assert manifest.verify(directory) == []


@pytest.mark.parametrize("is_known", [False, True], ids=["first time", "after a good verification"])
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda directory: (directory / "config.json").unlink(), "config.json is missing"),
        (lambda directory: (directory / "config.json").write_bytes(b""), "config.json has 0 bytes instead of "),
        (lambda directory: flip(directory / "model.safetensors"), "model.safetensors has SHA-256 "),
        (lambda directory: flip(directory / "1_Pooling" / "config.json"), "1_Pooling/config.json has SHA-256 "),
        (lambda directory: (directory / "extra.safetensors").touch(), "extra.safetensors is not in the manifest"),
        (lambda directory: (directory / "modeling.py").touch(), "modeling.py is not in the manifest"),
        (lambda directory: (directory / "1_Pooling" / "x.py").touch(), "1_Pooling/x.py is not in the manifest"),
        (lambda directory: directory_instead(directory / "config.json"), "config.json "),
        (lambda directory: (directory / MANIFEST).unlink(), f"{MANIFEST} cannot be read: No such file or directory"),
        (lambda directory: (directory / MANIFEST).write_text("{"), f"{MANIFEST} is not a valid manifest: "),
    ],
)  # fmt: skip
def test_what_differs_is_named(directory: Path, harm: object, problem: str, is_known: bool) -> None:
    if is_known:
        assert manifest.verify(directory) == []
    assert callable(harm)
    harm(directory)
    (found,) = manifest.verify(directory)
    assert str(found).startswith(problem)
    assert manifest.verify(directory, full=True) == [found]


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_problems_come_in_the_order_of_names(directory: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        flip(directory / name)
    (directory / "LICENSE").unlink()
    assert [problem.file for problem in manifest.verify(directory)] == ["LICENSE", "config.json", "tokenizer.json"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []

    def counting(path: Path, advance: digests.ProgressCallback) -> str:
        names.append(path.name)
        return digests.sha256(path, advance)

    monkeypatch.setattr(manifest, "sha256", counting)
    return names


def test_a_second_verification_hashes_nothing(directory: Path, hashed: list[str]) -> None:
    assert manifest.verify(directory) == []
    assert len(hashed) == len(REPOSITORY) + 1
    hashed.clear()
    assert manifest.verify(directory) == []
    assert hashed == []
    assert manifest.verify(directory, full=True) == []
    assert len(hashed) == len(REPOSITORY) + 1


def test_only_what_was_touched_is_hashed_again(directory: Path, hashed: list[str]) -> None:
    manifest.verify(directory)
    hashed.clear()
    (directory / "config.json").touch()
    assert manifest.verify(directory) == []
    assert hashed == ["config.json"]


def test_what_is_wrong_is_hashed_again_and_the_rest_is_not(directory: Path, hashed: list[str]) -> None:
    flip(directory / "model.safetensors")
    assert manifest.verify(directory)
    hashed.clear()
    assert manifest.verify(directory)
    assert hashed == ["model.safetensors"]


def test_a_change_with_the_old_mtime_is_found(directory: Path) -> None:
    manifest.verify(directory)
    path = directory / "model.safetensors"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [problem.file for problem in manifest.verify(directory)] == ["model.safetensors"]


def test_a_cached_hash_of_other_content_is_not_used(directory: Path) -> None:
    manifest.verify(directory)
    known = manifest.read(directory)
    files = known.files | {"config.json": File(size=known.files["config.json"].size, sha256="0" * 64)}
    manifest.write(directory, known.model_copy(update={"files": files}))
    assert [problem.file for problem in manifest.verify(directory)] == ["config.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config.json": 3}', '{"config.json": [1]}', '{"config.json": null}'])
def test_an_invalid_cache_is_ignored(directory: Path, text: str, hashed: list[str]) -> None:
    (directory / hash_cache.CACHE_FILE).write_text(text)
    assert manifest.verify(directory) == []
    assert len(hashed) == len(REPOSITORY) + 1


def test_where_nothing_can_be_written_each_verification_hashes(
    directory: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    for _ in range(2):
        hashed.clear()
        assert manifest.verify(directory) == []
        assert len(hashed) == len(REPOSITORY) + 1


def test_every_byte_is_reported(directory: Path) -> None:
    for _ in range(2):  # hashed, then cached
        reported: list[int] = []
        assert manifest.verify(directory, advance=reported.append) == []
        assert sum(reported) == manifest.read(directory).size


def test_the_callback_can_end_the_verification(directory: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.verify(directory, advance=interrupt)
    assert not (directory / hash_cache.CACHE_FILE).exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "./a", "", ".", "a\\b", "a\0"])
def test_a_manifest_cannot_lead_out_of_its_directory(directory: Path, name: str) -> None:
    written = json.loads((directory / MANIFEST).read_text())
    written["files"][name] = written["files"]["config.json"]
    (directory / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(ManifestError, match="is not a path inside the directory"):
        manifest.read(directory)


@pytest.mark.parametrize(
    ("key", "value"), [("format", 2), ("revision", "main"), ("files", []), ("more", 1), ("repository", None)]
)
def test_an_invalid_manifest(directory: Path, key: str, value: object) -> None:
    written = json.loads((directory / MANIFEST).read_text()) | {key: value}
    (directory / MANIFEST).write_text(json.dumps(written))
    (problem,) = manifest.verify(directory)
    assert problem.file == MANIFEST
    assert problem.what.startswith(f"is not a valid manifest: {key}")


def test_a_problem_is_a_sentence() -> None:
    assert str(Problem("a.json", "is missing")) == "a.json is missing"


def test_a_git_blob_id(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert digests.git_blob_id(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
