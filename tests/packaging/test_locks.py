"""The locks: complete, hashed, consistent with one another and with pyproject.toml."""

import re
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.fleets import ROOT

FOLDER = ROOT / "requirements"
RUN_TIME = ("gateway", "cpu", "cuda")
CLIENTS = ("clients", "clients-aider", "k8s-policy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
HASHES = r"(?P<hashes>(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
ENTRY = re.compile(r"(?P<name>[a-z0-9.-]+)==(?P<version>[^ ]+) \\\n" + HASHES)


@cache
def lock(name: str) -> dict[str, str]:
    """Package → version."""
    text = (FOLDER / f"{name}.lock").read_text()
    return {one["name"]: one["version"] for one in ENTRY.finditer(text)}


def required(*extras: str) -> list[Requirement]:
    return [Requirement(one) for one in [*PROJECT["dependencies"], *(line for name in extras for line in EXTRAS[name])]]


@pytest.mark.parametrize("name", [*RUN_TIME, "test", "build", *CLIENTS])
def test_every_line_is_a_pinned_package_with_hashes(name: str) -> None:
    """So pip checks all of them, and no address of an index is among it."""
    text = (FOLDER / f"{name}.lock").read_text()
    assert text and ENTRY.sub("", text) == ""


@pytest.mark.parametrize(
    ("extras", "locks"),
    [
        ((), ("gateway",)),
        (("cpu",), ("cpu",)),
        (("cuda",), ("cuda",)),
        (("cpu", "test", "bench"), ("cpu", "test")),
        (("cuda", "test", "bench"), ("cuda", "test")),
    ],
    ids=lambda names: "+".join(names),
)
def test_what_pyproject_requires_is_locked(extras: tuple[str, ...], locks: tuple[str, ...]) -> None:
    pinned = {name: version for one in locks for name, version in lock(one).items()}
    for one in required(*extras):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_are_locked_as_they_are_named(name: str) -> None:
    lines = [line for line in (FOLDER / f"{name}.in").read_text().splitlines() if not line.startswith("#")]
    for one in map(Requirement, lines):
        assert str(one.specifier) == f"=={lock(name)[canonicalize_name(one.name)]}", one


@pytest.mark.parametrize("name", RUN_TIME)
def test_no_tool_of_the_tests_is_installed_to_serve(name: str) -> None:
    assert not lock(name).keys() & lock("test").keys()
    assert not {"pytest", "mypy", "ruff", "hypothesis", "coverage", "mutmut"} & lock(name).keys()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_gateway_alone_runs_on_the_same_releases(name: str) -> None:
    assert lock("gateway").items() <= lock(name).items()


def test_a_gateway_alone_has_no_engine() -> None:
    assert not [name for name in lock("gateway") if re.match("vllm|torch|transformers|triton|nvidia-cu", name)]


def test_the_cpu_lock_leaves_out_what_has_no_cpu_build() -> None:
    assert not {"torchvision", "torchaudio", "torchcodec"} & lock("cpu").keys()


def test_torch_for_cpus_may_be_any_of_pytorch_s_builds_for_linux() -> None:
    lines = [line.split() for line in (FOLDER / "torch-cpu.sha256").read_text().splitlines()]
    text = (FOLDER / "cpu.lock").read_text()
    (entry,) = (one for one in ENTRY.finditer(text) if one["name"] == "torch")
    assert re.findall("[0-9a-f]{64}", entry["hashes"]) == [digest for digest, _ in lines]
    assert {file.split("-")[1] for _, file in lines} == {entry["version"]}
    for python in ("cp311", "cp312", "cp313", "cp314"):
        assert {file.rsplit("_", 2)[-1] for _, file in lines if f"-{python}-" in file} == {"64.whl", "aarch64.whl"}


def test_images_are_built_with_the_releases_of_the_tests() -> None:
    assert {"cyclonedx-bom", "setuptools"} <= lock("build").keys()
    assert lock("build").items() <= lock("test").items() | lock("cpu").items()
