"""Bundles: what is packed arrives, in parts no larger than wished, and nothing else ever gets out of one."""

import ast
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli.packing import Size
from service.weights import manifest, unbundle
from service.weights.bundle import Parts
from service.weights.unbundle import BundleError, Joined
from tests.weights.conftest import Repository, Shell
from tests.weights.tiny import REPOSITORY, TINY

WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.fixture
def packed(shell: Shell, repository: Repository, tmp_path: Path) -> Path:
    """The index of a bundle with a model, a wheel with its lock file, and a folder, in parts of 4 kB."""
    assert shell("pull", TINY, "--from", repository("mirror")).exit_code == 0
    repository("wheels", {WHEEL: b"wheel" * 100, "notes.txt": b""})
    (repository("extra", {"a/run.sh": b"#!/bin/sh\n", "b.txt": b"b" * 5000}) / "a/run.sh").chmod(0o755)
    (tmp_path / "cpu.lock").write_text("tiny==1.0\n")
    result = shell(
        "bundle", tmp_path / "out/site", "--model", TINY, "--wheels", tmp_path / "cpu.lock", "--wheel-dir",
        tmp_path / "wheels", "--include", tmp_path / "extra", "--part-size", "4k",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert hashlib.sha256((tmp_path / "out/site.json").read_bytes()).hexdigest() in result.output
    return tmp_path / "out/site.json"


def index_of(packed: Path) -> Any:
    return json.loads(packed.read_text())


def test_parts_are_no_larger_than_wished_and_described(packed: Path) -> None:
    index = index_of(packed)
    parts = [packed.with_name(part["name"]) for part in index["parts"]]
    assert [path.name for path in parts] == [f"site.{number:03}" for number in range(len(parts))]
    assert set(packed.parent.iterdir()) == {packed, packed.with_name("unbundle.py"), *parts}
    assert len(parts) >= 5
    assert all(path.stat().st_size == 4000 for path in parts[:-1])
    for path, part in zip(parts, index["parts"], strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]
    assert index["models"] == [TINY]
    weights = index["files"][f"weights/{TINY}/model.safetensors"]
    assert weights["sha256"] == hashlib.sha256(REPOSITORY["model.safetensors"]).hexdigest()


def check(destination: Path, store: Path) -> None:
    """What was packed is there."""
    assert manifest.verify(store / TINY, full=True) == []
    assert (destination / "wheels" / WHEEL).read_bytes() == b"wheel" * 100
    assert (destination / "wheels/cpu.lock").read_text() == "tiny==1.0\n"
    assert (destination / "include/extra/b.txt").read_bytes() == b"b" * 5000
    assert os.access(destination / "include/extra/a/run.sh", os.X_OK)
    assert not os.access(destination / "include/extra/b.txt", os.X_OK)
    assert not list(destination.rglob("notes.txt"))
    assert not [path for path in (*destination.iterdir(), *store.iterdir()) if path.name.startswith(".unbundle")]


def test_what_is_packed_arrives(shell: Shell, packed: Path, tmp_path: Path) -> None:
    shell.monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "there"))
    result = shell("unbundle", packed, tmp_path / "site")
    assert result.exit_code == 0, result.output
    check(tmp_path / "site", tmp_path / "there")
    wheels = tmp_path / "site/wheels"
    assert f"pip install --no-index --no-deps --find-links {wheels} -r {wheels}/cpu.lock" in result.output
    assert shell("verify", TINY).exit_code == 0
    assert shell("unbundle", packed, tmp_path / "site").exit_code == 0, "once more changes nothing"
    check(tmp_path / "site", tmp_path / "there")


def bare(packed: Path, destination: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Unpacks with nothing but Python: no installed packages, no repository."""
    command = [sys.executable, "-I", "-S", str(packed.with_name("unbundle.py")), str(packed), str(destination), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=packed.parent)


def test_a_bare_python_can_unpack(packed: Path, tmp_path: Path) -> None:
    result = bare(packed, tmp_path / "site")
    assert result.returncode == 0, result.stderr
    check(tmp_path / "site", tmp_path / "site/weights")
    assert f"ROUNDHOUSE_WEIGHTS={tmp_path}/site/weights" in result.stdout
    assert bare(packed, tmp_path / "site", "--weights", str(tmp_path / "store2")).returncode == 0
    check(tmp_path / "site", tmp_path / "store2")


def test_unbundle_needs_no_more_than_an_old_python() -> None:
    source = Path(unbundle.__file__).read_text()
    parsed = ast.parse(source, feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(parsed) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
    assert "from __future__ import annotations" in source, "'X | None' is no expression before 3.10"


def harm(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (Path.unlink, "site.001 is missing"),
        (lambda path: path.write_bytes(b""), "site.001 has 0 bytes instead of 4000"),
        (harm, "site.001 has SHA-256 "),
    ],
)
def test_a_part_that_is_missing_or_wrong_is_named_and_nothing_is_unpacked(
    shell: Shell, packed: Path, tmp_path: Path, do: Callable[[Path], object], message: str
) -> None:
    do(packed.with_name("site.001"))
    result = shell("unbundle", packed, tmp_path / "site")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "site").exists()
    alone = bare(packed, tmp_path / "site")
    assert alone.returncode == 1
    assert message in alone.stderr
    assert "Traceback" not in alone.stderr


def test_every_missing_part_is_named(packed: Path, tmp_path: Path) -> None:
    packed.with_name("site.000").unlink()
    packed.with_name("site.002").unlink()
    with pytest.raises(BundleError) as caught:
        unbundle.unpack(packed, tmp_path / "site")
    assert str(caught.value) == "site.000 is missing\nsite.002 is missing"


def forged(folder: Path, members: list[tuple[tarfile.TarInfo, bytes]], files: dict[str, bytes], **more: Any) -> Path:
    """A bundle whose parts and index agree with each other, made by somebody who means harm."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (folder / "bad.000").write_bytes(stream.getvalue())

    def described(data: bytes) -> dict[str, object]:
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    index = {
        "format": 1, "models": [], "parts": [{"name": "bad.000", **described(stream.getvalue())}],
        "files": {name: described(data) for name, data in files.items()}, **more,
    }  # fmt: skip
    (folder / "bad.json").write_text(json.dumps(index))
    return folder / "bad.json"


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "files", "message"),
    [
        ([(member("../up"), b"x")], {}, "the bundle holds ../up, which its index does not name as a file"),
        ([(member("/abs"), b"x")], {}, "which its index does not name as a file"),
        ([(member("../up"), b"x")], {"../up": b"x"}, "'../up' leads out of its folder"),
        ([(member("/abs"), b"x")], {"/abs": b"x"}, "'/abs' leads out of its folder"),
        ([(member("weights/../../up"), b"x")], {"weights/../../up": b"x"}, "leads out of its folder"),
        (
            [(member("a", tarfile.SYMTYPE, "/etc"), b"")],
            {"a": b""},
            "the bundle holds a, which its index does not name",
        ),
        ([(member("a", tarfile.LNKTYPE, "b"), b"")], {"a": b""}, "the bundle holds a, which its index does not name"),
        ([(member("a", tarfile.FIFOTYPE), b"")], {"a": b""}, "the bundle holds a, which its index does not name"),
        ([(member("a"), b"x"), (member("a"), b"x")], {"a": b"x"}, "the bundle holds a, which its index does not name"),
        ([(member("a"), b"y")], {"a": b"x"}, "a has SHA-256 "),
        ([(member("a"), b"x")], {"a": b"x", "b": b""}, "the bundle lacks b, which its index names"),
    ],
)
def test_nothing_gets_out_that_the_index_does_not_name(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], files: dict[str, bytes], message: str
) -> None:
    path = forged(tmp_path, members, files)
    with pytest.raises(BundleError, match=message.replace("(", r"\(")):
        unbundle.unpack(path, tmp_path / "site")
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and one.name not in ("bad.000", "bad.json")]


@pytest.mark.parametrize("model", ["../..", "", ".", "acme/other", "acme"])
def test_a_model_must_have_files(tmp_path: Path, model: str) -> None:
    (tmp_path / "store/acme/other").mkdir(parents=True)
    (tmp_path / "store/acme/other/mine").touch()
    path = forged(tmp_path, [(member("a"), b"")], {"a": b""}, models=[model])
    with pytest.raises(BundleError, match="it names no files of the model"):
        unbundle.unpack(path, tmp_path / "site", tmp_path / "store")
    assert (tmp_path / "store/acme/other/mine").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "parts": 3}', '{"format": 1, "parts": [], "files": []}',
     '{"format": 1, "parts": [{"name": "a/b", "size": 1, "sha256": "0"}], "files": {}, "models": []}'],
)  # fmt: skip
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BundleError, match=r"x\.json (is no index of a bundle|has format 2)"):
        unbundle.unpack(tmp_path / "x.json", tmp_path / "site")


def test_a_full_disk_is_told_before_anything_is_unpacked(packed: Path, tmp_path: Path) -> None:
    index = index_of(packed)
    index["files"][f"weights/{TINY}/model.safetensors"]["size"] = 2**60
    packed.write_text(json.dumps(index))
    with pytest.raises(BundleError, match=r"has room for .* GB, and 1152921504\.6 GB are needed"):
        unbundle.unpack(packed, tmp_path / "site")


def test_harmed_weights_are_not_packed(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    shell("pull", TINY, "--from", repository("mirror"))
    harm(shell.store.place(TINY) / "model.safetensors")
    result = shell("bundle", tmp_path / "out/x", "--model", TINY)
    assert result.exit_code == 1
    assert "model.safetensors is not what was pulled; 'roundhouse verify' tells more" in result.output
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Nothing to pack"),
        (("--model", TINY), 1, "has not been pulled"),
        (("--model", "pebble-chat"), 1, "is embedded"),
        (("--wheel-dir", "{folder}/empty"), 1, "holds no wheels"),
        (("--include", "{folder}/x", "--include", "{folder}/empty/../x"), 1, "2 files would be include/x"),
        (("--include", "{folder}/x", "--part-size", "much"), 2, "'much' is no size"),
        (("--include", "{folder}/x", "--part-size", "10"), 2, "a part must have at least 1000 bytes"),
    ],
)
def test_what_cannot_be_packed(shell: Shell, tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x").touch()
    result = shell("bundle", tmp_path / "out", *(word.replace("{folder}", str(tmp_path)) for word in words))
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "out.json").exists()


def test_no_bundle_is_overwritten(shell: Shell, packed: Path, tmp_path: Path) -> None:
    result = shell("bundle", packed.with_suffix(""), "--include", packed)
    assert result.exit_code == 1
    assert "exists already" in result.output
    unbundle.unpack(packed, tmp_path / "site")


def test_the_same_files_make_the_same_bundle(shell: Shell, repository: Repository, tmp_path: Path) -> None:
    folder = repository("extra")
    for name in ("one/x", "two/x"):
        assert shell("bundle", tmp_path / name, "--include", folder, "--part-size", "2kB").exit_code == 0
        (folder / "config.json").touch()
    assert (tmp_path / "one/x.json").read_bytes() == (tmp_path / "two/x.json").read_bytes()


def test_the_project_is_what_version_control_knows(shell: Shell, tmp_path: Path) -> None:
    result = shell("bundle", tmp_path / "x", "--project", "--part-size", "60M")
    assert result.exit_code == 0, result.output
    files = json.loads((tmp_path / "x.json").read_text())["files"]
    assert {
        "project/pyproject.toml",
        "project/requirements/cpu.lock",
        "project/service/gateway/service.py",
    } <= files.keys()
    assert not [name for name in files if "/.venv/" in name or "__pycache__" in name]


def test_the_project_without_version_control(
    shell: Shell, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("pyproject.toml", "service/a.py", "service/__pycache__/a.pyc", "junk")
    folder = repository("source", dict.fromkeys(files, b""))
    monkeypatch.setattr("service.cli.packing.ROOT", folder)
    assert shell("bundle", tmp_path / "x", "--project").exit_code == 0
    assert index_of(tmp_path / "x.json")["files"].keys() == {"project/pyproject.toml", "project/service/a.py"}
    (folder / "pyproject.toml").unlink()
    result = shell("bundle", tmp_path / "y", "--project")
    assert result.exit_code == 1
    assert "is not the project's source" in result.output


def test_wheels_come_by_pip(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of wheels: pip reads its sources from its own configuration."""
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
    result = shell("bundle", tmp_path / "x", "--wheels", lock)
    assert result.exit_code == 0, result.output
    assert index_of(tmp_path / "x.json")["files"].keys() == {f"wheels/{WHEEL}", "wheels/cpu.lock"}
    lock.write_text("absent==1.0\n")
    result = shell("bundle", tmp_path / "y", "--wheels", lock)
    assert result.exit_code == 1
    assert "pip could not fetch all wheels" in result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [("60M", 60_000_000), ("500MB", 500_000_000), ("2G", 2_000_000_000), ("1.5 GiB", 3 * 2**29), ("64k", 64_000),
     ("1000", 1000), ("1t", 10**12), ("4KiB", 4096)],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000])
def test_a_stream_in_parts_is_the_same_stream(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * 10
    with Parts(tmp_path / "x", size) as parts:
        for begin in range(0, len(data), 300):
            parts.write(data[begin : begin + 300])
    paths = [tmp_path / part["name"] for part in parts.written]
    assert all(path.stat().st_size <= size for path in paths)
    assert len(paths) == -(-len(data) // size)
    with Joined(paths) as joined:
        assert joined.read() == data
