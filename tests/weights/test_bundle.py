"""Bundles: parts of bounded size that standard tools and `roundhouse unbundle` unpack, safely."""

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli.packing import Size
from service.weights import bundle, manifest
from service.weights.bundle import SUMS, Item, PartWriter
from service.weights.store import Store, WeightsError
from service.weights.unbundle import unpack
from tests.weights.conftest import Repository, Shell
from tests.weights.tiny import TINY

WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.fixture
def packed(shell: Shell, repository: Repository, tmp_path: Path) -> Path:
    """The folder of a bundle with a model, a wheel with its lock file, and a folder, in parts of 4 kB."""
    assert shell("pull", TINY, "--from", repository("mirror")).exit_code == 0
    repository("wheels", {WHEEL: b"wheel" * 100, "notes.txt": b""})
    (repository("extra", {"a/run.sh": b"#!/bin/sh\n", "b.txt": b"b" * 5000}) / "a/run.sh").chmod(0o755)
    (tmp_path / "cpu.lock").write_text("tiny==1.0\n")
    result = shell(
        "bundle", tmp_path / "out/site", "--model", TINY, "--wheels", tmp_path / "cpu.lock", "--wheel-dir",
        tmp_path / "wheels", "--include", tmp_path / "extra", "--part-size", "4k",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert hashlib.sha256((tmp_path / "out" / SUMS).read_bytes()).hexdigest() in result.output
    return tmp_path / "out"


def names_in(folder: Path) -> set[str]:
    """What the archive of a bundle contains."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in parts_in(folder)))) as archive:
        return set(archive.getnames())


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar.part-*"))


def run(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True, check=False)


def check(destination: Path, store: Path) -> None:
    """What was packed is there."""
    assert manifest.verify(store / TINY, full=True) == []
    assert (destination / "wheels" / WHEEL).read_bytes() == b"wheel" * 100
    assert (destination / "wheels/cpu.lock").read_text() == "tiny==1.0\n"
    assert (destination / "include/extra/b.txt").read_bytes() == b"b" * 5000
    assert os.access(destination / "include/extra/a/run.sh", os.X_OK)
    assert not os.access(destination / "include/extra/b.txt", os.X_OK)
    assert not list(destination.rglob("notes.txt"))


def test_parts_are_numbered_and_no_larger_than_asked_for(packed: Path) -> None:
    parts = parts_in(packed)
    assert [path.name for path in parts] == [f"site.tar.part-{number:04}" for number in range(len(parts))]
    assert set(packed.iterdir()) == {packed / SUMS, *parts}
    assert len(parts) >= 5
    assert all(path.stat().st_size == 4000 for path in parts[:-1])
    assert 0 < parts[-1].stat().st_size <= 4000


def test_coreutils_and_tar_unpack_it(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    done = run(packed, f"sha256sum -c {SUMS} && cat site.tar.part-* | tar x -C {tmp_path / 'site'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{path.name}: OK" for path in parts_in(packed)]
    check(tmp_path / "site", tmp_path / "site/weights")


def test_sha256sum_names_what_is_damaged_or_missing(packed: Path) -> None:
    parts_in(packed)[0].unlink()
    flip(parts_in(packed)[0])
    done = run(packed, f"LC_ALL=C sha256sum -c {SUMS}")
    assert done.returncode == 1
    assert {"site.tar.part-0000: FAILED open or read", "site.tar.part-0001: FAILED"} <= set(done.stdout.splitlines())


def test_unbundle_puts_models_into_the_store_and_the_rest_elsewhere(shell: Shell, packed: Path, tmp_path: Path) -> None:
    shell.monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "there"))
    for _ in range(2):  # again, nothing changes
        result = shell("unbundle", packed, tmp_path / "site")
        assert result.exit_code == 0, result.output
        check(tmp_path / "site", tmp_path / "there")
        assert {path.name for path in (tmp_path / "site").iterdir()} == {"wheels", "include"}
        assert not [path for path in (tmp_path / "there/.partial").iterdir() if path.is_dir()]
    wheels = tmp_path / "site/wheels"
    assert f"pip install --no-index --no-deps --find-links {wheels} -r {wheels}/cpu.lock" in result.output
    assert shell("verify", TINY).exit_code == 0


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "site.tar.part-0001 is missing"),
        (lambda path: path.write_bytes(b""), "site.tar.part-0001 has SHA-256 "),
        (flip, "site.tar.part-0001 has SHA-256 "),
    ],
)
def test_nothing_is_unpacked_if_a_part_is_missing_or_damaged(
    shell: Shell, packed: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(packed / "site.tar.part-0001")
    result = shell("unbundle", packed, tmp_path / "site")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "site").exists()


def test_the_order_of_the_sums_does_not_matter(packed: Path, tmp_path: Path) -> None:
    lines = (packed / SUMS).read_text().splitlines(keepends=True)
    (packed / SUMS).write_text("".join(reversed(lines)))
    unpack(packed, tmp_path / "site", Store(tmp_path / "there"))
    check(tmp_path / "site", tmp_path / "there")


def test_every_missing_part_is_named(shell: Shell, packed: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        (packed / f"site.tar.part-000{number}").unlink()
    result = shell("unbundle", packed, tmp_path / "site")
    assert "site.tar.part-0000 is missing\nsite.tar.part-0002 is missing" in result.output


def forged(folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A bundle with right sums that somebody else made."""
    folder.mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (folder / "bad.tar.part-0000").write_bytes(stream.getvalue())
    (folder / SUMS).write_text(f"{hashlib.sha256(stream.getvalue()).hexdigest()}  bad.tar.part-0000\n")
    return folder


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../up"), "../up, which leads out of its folder"),
        (member("/abs"), "/abs, which leads out of its folder"),
        (member("weights/../../up"), "weights/../../up, which leads out of its folder"),
        (member("weights/a/b/../../../../up"), "which leads out of its folder"),
        (member("a", tarfile.SYMTYPE, "/etc"), "a, which is not a regular file"),
        (member("a", tarfile.SYMTYPE, "b"), "a, which is not a regular file"),
        (member("a", tarfile.LNKTYPE, "good"), "a, which is not a regular file"),
        (member("a", tarfile.FIFOTYPE), "a, which is not a regular file"),
        (member("weights/a/b/c"), "weights of a/b are invalid: roundhouse-manifest.json cannot be read"),
        (member("weights/.partial/b/c"), "'.partial/b' is not a repository id"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_unsafe_archives_are_refused(tmp_path: Path, bad: tarfile.TarInfo, message: str) -> None:
    folder = forged(tmp_path / "in", (member("good"), b"good"), (bad, b""))
    with pytest.raises(WeightsError, match=message.replace("(", r"\(")):
        unpack(folder, tmp_path / "site", Store(tmp_path / "store"))
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder}
    assert written <= {"good"}
    assert not list(Store(tmp_path / "store").all_pulled())


def test_only_models_go_to_the_store(tmp_path: Path) -> None:
    folder = forged(tmp_path / "in", (member("weights/notes.txt"), b"notes"))
    assert unpack(folder, tmp_path / "site", Store(tmp_path / "store")) == ([], 1)
    assert (tmp_path / "site/weights/notes.txt").read_bytes() == b"notes"


def test_weights_that_differ_from_their_manifest_replace_nothing(
    shell: Shell, repository: Repository, tmp_path: Path
) -> None:
    shell("pull", TINY, "--from", repository("mirror"))
    items = bundle.of_weights(shell.store.directory(TINY))
    flip(shell.store.directory(TINY) / "config.json")
    bundle.pack(tmp_path / "out/x", items, 10**6)
    (tmp_path / "there" / TINY).mkdir(parents=True)
    with pytest.raises(WeightsError, match=f"weights of {TINY} are invalid: config.json has SHA-256"):
        unpack(tmp_path / "out", tmp_path / "site", Store(tmp_path / "there"))
    assert list((tmp_path / "there" / TINY).iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "\n", "x", f"{'0' * 64}  a.txt", f"{'0' * 64}  ../a.tar.part-0000", f"{'0' * 63}  a.tar.part-0000", "\0"],
)
def test_sums_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / SUMS).write_text(text)
    with pytest.raises(WeightsError, match="does not list the parts of a bundle"):
        unpack(tmp_path, tmp_path / "site", Store(tmp_path / "store"))


def test_a_folder_without_a_bundle(shell: Shell, tmp_path: Path) -> None:
    result = shell("unbundle", tmp_path, tmp_path / "site")
    assert result.exit_code == 1
    assert f"{SUMS} cannot be read: No such file or directory" in result.output


def test_a_part_that_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar.part-0000").write_bytes(b"text")
    (tmp_path / SUMS).write_text(f"{hashlib.sha256(b'text').hexdigest()}  x.tar.part-0000\n")
    with pytest.raises(WeightsError, match="cannot be unpacked: "):
        unpack(tmp_path, tmp_path / "site", Store(tmp_path / "store"))


def test_a_full_disk_is_reported_before_anything_is_written(shell: Shell, packed: Path, tmp_path: Path) -> None:
    shell.monkeypatch.setattr("service.weights.store.DISK_RESERVE", 10**18)
    shell.monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "there"))
    for result in (
        shell("unbundle", packed, tmp_path / "site"),
        shell("bundle", tmp_path / "out2/x", "--include", packed),
    ):
        assert result.exit_code == 1
        assert "not enough disk space in " in result.output
    assert not [path for name in ("site", "there", "out2") for path in (tmp_path / name).rglob("*") if path.is_file()]


def test_damaged_weights_are_not_packed(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    shell("pull", TINY, "--from", repository("mirror"))
    flip(shell.store.directory(TINY) / "model.safetensors")
    result = shell("bundle", tmp_path / "out/x", "--model", TINY)
    assert result.exit_code == 1
    assert "differs from its manifest: model.safetensors has SHA-256" in result.output
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_parts_behind(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))

    def fail(count: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WeightsError, match="No space left on device"):
        bundle.pack(tmp_path / "out/x", [Item("x", tmp_path / "x")], 1000, fail)
    assert list((tmp_path / "out").iterdir()) == []


def test_too_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_PARTS", 3)
    (tmp_path / "x").write_bytes(bytes(5000))
    with pytest.raises(WeightsError, match="3 parts of 1000 bytes are too few; choose a larger --part-size"):
        bundle.pack(tmp_path / "out/x", [Item("x", tmp_path / "x")], 1000)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Nothing to pack"),
        (("--model", TINY), 1, "has not been pulled"),
        (("--model", "pebble-chat"), 1, "is embedded"),
        (("--wheel-dir", "{folder}/empty"), 1, "contains no wheels"),
        (("--include", "{folder}/x", "--include", "{folder}/empty/../x"), 1, "2 files would be include/x"),
        (("--include", "{folder}/x", "--part-size", "much"), 2, "'much' is not a size"),
        (("--include", "{folder}/x", "--part-size", "10"), 2, "a part must have at least 1000 bytes"),
    ],
)
def test_what_cannot_be_packed(shell: Shell, tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x").touch()
    result = shell("bundle", tmp_path / "out", *(word.replace("{folder}", str(tmp_path)) for word in words))
    assert result.exit_code == code
    assert message in result.output
    assert not parts_in(tmp_path)


@pytest.mark.parametrize("left", ["site.tar.part-0009", SUMS])
def test_no_bundle_is_overwritten_or_mixed_with_another(shell: Shell, tmp_path: Path, left: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).touch()
    result = shell("bundle", tmp_path / "out/site", "--include", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{left} exists already: use an empty folder for each bundle" in result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == [left]


def test_the_same_files_make_the_same_bundle(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    folder = repository("extra")
    for name in ("one/x", "two/x"):
        assert shell("bundle", tmp_path / name, "--include", folder, "--part-size", "2kB").exit_code == 0
        (folder / "config.json").touch()
    assert (tmp_path / "one" / SUMS).read_bytes() == (tmp_path / "two" / SUMS).read_bytes()


def test_the_project_is_the_files_under_version_control(shell: Shell, tmp_path: Path) -> None:
    result = shell("bundle", tmp_path / "out/x", "--project", "--part-size", "60M")
    assert result.exit_code == 0, result.output
    files = names_in(tmp_path / "out")
    assert {
        "project/pyproject.toml",
        "project/requirements/cpu.lock",
        "project/service/gateway/service.py",
    } <= files
    assert not [name for name in files if "/.venv/" in name or "__pycache__" in name]


def test_the_project_without_version_control(
    shell: Shell, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("pyproject.toml", "service/a.py", "service/__pycache__/a.pyc", "junk")
    folder = repository("source", dict.fromkeys(files, b""))
    monkeypatch.setattr("service.cli.packing.ROOT", folder)
    assert shell("bundle", tmp_path / "out/x", "--project").exit_code == 0
    assert names_in(tmp_path / "out") == {"project/pyproject.toml", "project/service/a.py"}
    (folder / "pyproject.toml").unlink()
    result = shell("bundle", tmp_path / "y", "--project")
    assert result.exit_code == 1
    assert "does not contain the project's source" in result.output


@pytest.mark.slow
def test_wheels_are_downloaded_by_pip(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of wheels: pip's own configuration says where from."""
    (tmp_path / "index").mkdir()
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "index" / WHEEL, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    lock = tmp_path / "cpu.lock"
    lock.write_text("tiny==1.0\n")
    result = shell("bundle", tmp_path / "out/x", "--wheels", lock)
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "out") == {f"wheels/{WHEEL}", "wheels/cpu.lock"}
    lock.write_text("absent==1.0\n")
    result = shell("bundle", tmp_path / "y", "--wheels", lock)
    assert result.exit_code == 1
    assert "pip could not download all wheels" in result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [("60M", 60_000_000), ("500MB", 500_000_000), ("2G", 2_000_000_000), ("1.5 GiB", 3 * 2**29), ("64k", 64_000),
     ("1000", 1000), ("1t", 10**12), ("4KiB", 4096)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000])
def test_parts_together_are_the_stream(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * 10
    with PartWriter(tmp_path / "x", size) as parts:
        for begin in range(0, len(data), 300):
            parts.write(data[begin : begin + 300])
    paths = list(parts.written)
    assert all(path.stat().st_size <= size for path in paths)
    assert len(paths) == -(-len(data) // size)
    assert b"".join(path.read_bytes() for path in sorted(paths)) == data
    assert parts.written == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
