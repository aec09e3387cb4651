"""The manifest: what differs from it is found and named, and finding nothing twice is cheap."""

import json
import os
from pathlib import Path

import pytest

from service.weights import digests, manifest, stamp
from service.weights.manifest import MANIFEST, File, Manifest, ManifestError, Problem
from tests.weights.conftest import Repository
from tests.weights.tiny import COMMIT, REPOSITORY, TINY


@pytest.fixture
def place(repository: Repository) -> Path:
    """A directory with a manifest that is right."""
    folder = repository("weights", REPOSITORY | {"1_Pooling/config.json": b"{}"})
    files = {
        name: File(size=(folder / name).stat().st_size, sha256=digests.sha256(folder / name))
        for name in manifest.files(folder)
    }
    said = Manifest(model="tiny", repository=TINY, revision=COMMIT, source="test", made_by="test", files=files)
    manifest.write(folder, said)
    return folder


def test_what_is_written_is_read(place: Path) -> None:
    found = manifest.read(place)
    assert (found.repository, found.revision) == (TINY, COMMIT)
    assert found.files.keys() == REPOSITORY.keys() | {"1_Pooling/config.json"}
    assert found.size == sum(map(len, REPOSITORY.values())) + 2
    assert manifest.exists(place)
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_nothing_differs(place: Path) -> None:
    assert manifest.verify(place) == []


@pytest.mark.parametrize("is_known", [False, True], ids=["first time", "after a good verification"])
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda place: (place / "config.json").unlink(), "config.json is missing"),
        (lambda place: (place / "config.json").write_bytes(b""), "config.json has 0 bytes instead of "),
        (lambda place: flip(place / "model.safetensors"), "model.safetensors has SHA-256 "),
        (lambda place: flip(place / "1_Pooling" / "config.json"), "1_Pooling/config.json has SHA-256 "),
        (lambda place: (place / "extra.safetensors").touch(), "extra.safetensors is not in the manifest"),
        (lambda place: (place / "modeling.py").touch(), "modeling.py is not in the manifest"),
        (lambda place: (place / "1_Pooling" / "x.py").touch(), "1_Pooling/x.py is not in the manifest"),
        (lambda place: directory_instead(place / "config.json"), "config.json "),
        (lambda place: (place / MANIFEST).unlink(), f"{MANIFEST} cannot be read: No such file or directory"),
        (lambda place: (place / MANIFEST).write_text("{"), f"{MANIFEST} is no manifest: "),
    ],
)  # fmt: skip
def test_what_differs_is_named(place: Path, harm: object, problem: str, is_known: bool) -> None:
    if is_known:
        assert manifest.verify(place) == []
    assert callable(harm)
    harm(place)
    (found,) = manifest.verify(place)
    assert str(found).startswith(problem)
    assert manifest.verify(place, full=True) == [found]


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_problems_come_in_the_order_of_names(place: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        flip(place / name)
    (place / "LICENSE").unlink()
    assert [problem.file for problem in manifest.verify(place)] == ["LICENSE", "config.json", "tokenizer.json"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []

    def counting(path: Path, advance: digests.Advance) -> str:
        names.append(path.name)
        return digests.sha256(path, advance)

    monkeypatch.setattr(manifest, "sha256", counting)
    return names


def test_a_second_verification_hashes_nothing(place: Path, hashed: list[str]) -> None:
    assert manifest.verify(place) == []
    assert len(hashed) == len(REPOSITORY) + 1
    hashed.clear()
    assert manifest.verify(place) == []
    assert hashed == []
    assert manifest.verify(place, full=True) == []
    assert len(hashed) == len(REPOSITORY) + 1


def test_only_what_was_touched_is_hashed_again(place: Path, hashed: list[str]) -> None:
    manifest.verify(place)
    hashed.clear()
    (place / "config.json").touch()
    assert manifest.verify(place) == []
    assert hashed == ["config.json"]


def test_what_is_wrong_is_hashed_again_and_the_rest_is_not(place: Path, hashed: list[str]) -> None:
    flip(place / "model.safetensors")
    assert manifest.verify(place)
    hashed.clear()
    assert manifest.verify(place)
    assert hashed == ["model.safetensors"]


def test_a_change_that_hides_behind_old_times_is_found(place: Path) -> None:
    manifest.verify(place)
    path = place / "model.safetensors"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [problem.file for problem in manifest.verify(place)] == ["model.safetensors"]


def test_a_stamp_for_another_content_is_not_believed(place: Path) -> None:
    manifest.verify(place)
    known = manifest.read(place)
    files = known.files | {"config.json": File(size=known.files["config.json"].size, sha256="0" * 64)}
    manifest.write(place, known.model_copy(update={"files": files}))
    assert [problem.file for problem in manifest.verify(place)] == ["config.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config.json": 3}', '{"config.json": [1]}', '{"config.json": null}'])
def test_a_broken_stamp_is_none(place: Path, text: str, hashed: list[str]) -> None:
    (place / stamp.STAMP).write_text(text)
    assert manifest.verify(place) == []
    assert len(hashed) == len(REPOSITORY) + 1


def test_where_nothing_can_be_written_each_verification_hashes(
    place: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    for _ in range(2):
        hashed.clear()
        assert manifest.verify(place) == []
        assert len(hashed) == len(REPOSITORY) + 1


def test_every_byte_is_told(place: Path) -> None:
    for _ in range(2):  # hashed, then believed
        told: list[int] = []
        assert manifest.verify(place, advance=told.append) == []
        assert sum(told) == manifest.read(place).size


def test_whoever_is_told_can_end_it(place: Path) -> None:
    def enough(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.verify(place, advance=enough)
    assert not (place / stamp.STAMP).exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "./a", "", ".", "a\\b", "a\0"])
def test_a_manifest_cannot_lead_out_of_its_directory(place: Path, name: str) -> None:
    written = json.loads((place / MANIFEST).read_text())
    written["files"][name] = written["files"]["config.json"]
    (place / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(ManifestError, match="is not a path inside the directory"):
        manifest.read(place)


@pytest.mark.parametrize(
    ("key", "value"), [("format", 2), ("revision", "main"), ("files", []), ("more", 1), ("repository", None)]
)
def test_a_manifest_that_is_none(place: Path, key: str, value: object) -> None:
    written = json.loads((place / MANIFEST).read_text()) | {key: value}
    (place / MANIFEST).write_text(json.dumps(written))
    (problem,) = manifest.verify(place)
    assert problem.file == MANIFEST
    assert problem.what.startswith(f"is no manifest: {key}")


def test_a_problem_is_a_sentence() -> None:
    assert str(Problem("a.json", "is missing")) == "a.json is missing"


def test_git_knows_a_file_by_this_id(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert digests.git_blob(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
