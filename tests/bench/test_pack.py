"""Offline carriage: what a target lacks, packed in small parts, installed there by a bare Python into one folder."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from bench.gpu import pack
from bench.gpu.lacking import LockError, installed, lacking
from service.weights.store import WeightsError

PIP_LIST = json.dumps([{"name": "Torch", "version": "2.11.0+cu130"}, {"name": "numpy", "version": "2.3.5"}])
LOCK = """
# made by a tool
torch==2.11.0
numpy==2.4.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
tomli==2.0 ; python_version < "3.11"
uvloop==0.22.1 ; sys_platform != "win32"  # why
nvidia-nccl-cu13==2.30
"""


def wheel(folder: Path, name: str, version: str, filling: int = 0) -> Path:
    """A wheel with one module that says its version, and some bytes that cannot be compressed."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n".encode(),
        f"{name}_data.bin": b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(filling // 32)),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in files.items():
            archive.writestr(inside, data)
    return path


@pytest.fixture
def packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The folder of a bundle with the two of three packages that a target lacks."""
    for name, version, filling in (("tiny_one", "1.0", 40_000), ("tiny_two", "2.5", 0), ("tiny_there", "3.0", 0)):
        wheel(tmp_path / "wheels", name, version, filling)
    (tmp_path / "all.lock").write_text("tiny-one==1.0\ntiny-two==2.5\ntiny-there==3.0\n")
    there = [{"name": "tiny-there", "version": "3.0"}, {"name": "tiny-two", "version": "2.4"}]
    (tmp_path / "there.json").write_text(json.dumps(there))
    (tmp_path / "wheels/tiny_there-3.0-py3-none-any.whl").unlink()
    pack.main([
        str(tmp_path / "out/kit"), "--lock", str(tmp_path / "all.lock"), "--target", str(tmp_path / "there.json"),
        "--wheel-dir", str(tmp_path / "wheels"), "--part-size", "300kB",
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "2 packages of all.lock are lacking there." in said
    assert hashlib.sha256((tmp_path / "out/SHA256SUMS").read_bytes()).hexdigest() in said
    return tmp_path / "out"


def install(folder: Path, destination: Path) -> "subprocess.CompletedProcess[str]":
    """What is typed there: a bare, isolated Python, elsewhere than in this project."""
    command = [sys.executable, "-I", str(folder / "install.py"), str(destination)]
    return subprocess.run(command, cwd=destination.parent, capture_output=True, text=True, check=False)


def test_what_is_packed_is_installed_there_and_nothing_else_is_touched(packed: Path, tmp_path: Path) -> None:
    before = installed_here()
    parts = sorted(packed.glob("kit.tar.part-*"))
    assert len(parts) > 5
    assert max(part.stat().st_size for part in parts) <= 300_000
    there = tmp_path / "there"
    done = install(packed, there)
    assert done.returncode == 0, done.stderr
    assert f"PYTHON={there}/python {there}/project/bench/gpu/run" in done.stdout
    program = "import sys, tiny_one, tiny_two; print(tiny_one.VERSION, tiny_two.VERSION, tiny_one.__file__)"
    command = [str(there / "python"), "-c", program]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["1.0", "2.5", str(there / "site/tiny_one.py")]
    assert installed_here() == before
    assert {path.name for path in there.iterdir()} == {"site", "project", "wheels", "python"}
    kit, environment = str(there / "project/bench/gpu/run"), {"PYTHON": str(there / "python"), "PATH": "/usr/bin:/bin"}
    help_ = subprocess.run([kit, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert "--minutes" in help_.stdout


def installed_here() -> str:
    command = [sys.executable, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_second_installation_takes_the_place_of_the_first(packed: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert install(packed, tmp_path / "there").returncode == 0
    assert (tmp_path / "there/site/tiny_two.py").read_text() == "VERSION = '2.5'\n"


def test_a_compressed_bundle_without_some_files_is_installed_as_well(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "tiny_one", "1.0", 40_000)
    wheel(tmp_path / "wheels", "tiny_two", "2.5", 40_000)
    needed = ["tiny-one==1.0", "tiny-two==2.5"]
    parts = pack.pack(
        tmp_path / "out/kit", needed, tmp_path / "wheels", 20_000, False, exclude=["tiny_one_data*"], compress=True
    )
    assert [part.name for part in parts][:2] == ["kit.tar.xz.part-0000", "kit.tar.xz.part-0001"]
    assert max(part.stat().st_size for part in parts) <= 20_000
    there = tmp_path / "there"
    done = install(tmp_path / "out", there)
    assert done.returncode == 0, done.stderr
    assert (there / "site/tiny_two_data.bin").stat().st_size == 40_000
    assert not (there / "site/tiny_one_data.bin").exists()
    record = (there / "site/tiny_one-1.0.dist-info/RECORD").read_text()
    assert "tiny_one.py" in record and "tiny_one_data.bin" not in record


def test_a_bundle_is_not_compressed_over_another(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "tiny_one", "1.0")
    (tmp_path / "kit.tar.part-0000").touch()
    with pytest.raises(WeightsError, match="use an empty folder"):
        pack.pack(tmp_path / "kit", ["tiny-one==1.0"], tmp_path / "wheels", 10**6, False, compress=True)


@pytest.mark.parametrize("carried", [True, False])
def test_vllm_does_without_flashinfer_where_it_is_not_carried(tmp_path: Path, carried: bool) -> None:
    wheel(tmp_path / "wheels", "tiny_one", "1.0")
    pack.pack(tmp_path / "out/kit", ["tiny-one==1.0"], tmp_path / "wheels", 10**6, project=False)
    if carried:
        (tmp_path / "there/site/flashinfer").mkdir(parents=True)
    assert install(tmp_path / "out", tmp_path / "there").returncode == 0
    assert ("VLLM_USE_FLASHINFER_SAMPLER=0" in (tmp_path / "there/python").read_text()) is not carried
    assert list((tmp_path / "there/site/__pycache__").glob("tiny_one.*.pyc")), "modules are compiled beforehand"


def test_a_damaged_part_installs_nothing(packed: Path, tmp_path: Path) -> None:
    part = packed / "kit.tar.part-0002"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    done = install(packed, tmp_path / "there")
    assert done.returncode == 1
    assert "kit.tar.part-0002: FAILED" in done.stdout
    assert "Nothing was unpacked" in done.stderr
    assert not (tmp_path / "there/site").exists()


def test_a_missing_wheel_ends_with_what_pip_says(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "tiny_one", "1.0")
    pack.pack(tmp_path / "out/kit", ["tiny-one==1.0", "gone==1"], tmp_path / "wheels", 10**6, project=False)
    done = install(tmp_path / "out", tmp_path / "there")
    assert done.returncode == 1
    assert "pip could not install the wheels" in done.stderr


@pytest.mark.parametrize(
    ("have", "keep", "python", "needed"),
    [
        ({}, (), "3.12", ["torch==2.11.0", "numpy==2.4.0", "uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
        (PIP_LIST, (), "3.12", ["numpy==2.4.0", "uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
        (PIP_LIST, (), "3.10", ["numpy==2.4.0", "tomli==2.0", "uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
        (PIP_LIST, ("NumPy",), "3.12", ["uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
        ("nvidia_nccl_cu13==2.28\nnumpy==2.4.0\n", ("nvidia-*",), "3.12", ["torch==2.11.0", "uvloop==0.22.1"]),
        (PIP_LIST, ("nvidia-*",), "3.12", ["numpy==2.4.0", "uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
        ("torch @ file:///x\n# a note\n-e .", (), "3.12",
         ["torch==2.11.0", "numpy==2.4.0", "uvloop==0.22.1", "nvidia-nccl-cu13==2.30"]),
    ],
)  # fmt: skip
def test_what_a_target_lacks(have: str | dict[str, str], keep: tuple[str, ...], python: str, needed: list[str]) -> None:
    there = installed(have) if isinstance(have, str) else {}
    assert lacking(LOCK, there, python, keep) == needed


@pytest.mark.parametrize(("lock", "problem"), [("torch", "not pinned"), ("a==1 b", "no pinned package")])
def test_a_lock_that_pins_nothing_is_refused(lock: str, problem: str) -> None:
    with pytest.raises(LockError, match=problem):
        lacking(lock, {}, "3.12")


def test_a_list_of_something_else_is_refused() -> None:
    with pytest.raises(LockError, match="pip list --format json"):
        installed('[{"a": 1}]')


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    (tmp_path / "all.lock").write_text("tiny==1\n")
    (tmp_path / "there.txt").write_text("tiny==1\n")
    with pytest.raises(SystemExit, match="every package already"):
        pack.main([str(tmp_path / "kit"), "--lock", str(tmp_path / "all.lock"), "--target", str(tmp_path / "there.txt"),
                   "--no-project"])  # fmt: skip


def test_platforms_are_all_that_a_system_of_that_age_takes() -> None:
    found = pack.platforms(28, "x86_64")
    assert found[0] == "manylinux_2_28_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"} <= set(found)
    assert "manylinux_2_31_x86_64" not in found


def test_the_project_comes_along(packed: Path) -> None:
    parts = sorted(packed.glob("kit.tar.part-*"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        files = set(archive.getnames())
    assert {"project/bench/gpu/run.py", "project/service/gateway/service.py", "project/deploy/gpus.yaml"} <= files
