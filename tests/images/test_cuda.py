"""The image for NVIDIA GPUs: built by the Dockerfile's very steps, and what of it runs where there is no GPU.

`make image-test-cuda` runs it: it takes packages of four gigabytes, 50 GB of disk and half an hour.
"""

import json
import os
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.processes import free_port
from service.config.paths import ROOT
from service.engine.process import NO_GPU
from tests.images import build, contents
from tests.images.container import running
from tests.packaging.test_locks import lock

ASKED = "IMAGE_TEST_CUDA"
REASON = build.missing() or (
    None if os.environ.get(ASKED) else f"it takes gigabytes: make image-test-cuda, or {ASKED}=1"
)
pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.timeout(7200),
]


@pytest.fixture(scope="module")
def image() -> str:
    return build.build("engine")


class Run:
    """What a container of the image wrote, and its exit status."""

    def __init__(
        self, image: str, folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None,
        read_only: Sequence[Path] = (), entrypoint: Sequence[str] = (), writable: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        with running(image, folder / "run", words, environment or {}, read_only, writable or {}, entrypoint) as one:
            self.status, self.log = one.end(), one.log.read_text()


def test_what_it_says_and_holds(image: str) -> None:
    contents.check(image, "cuda")
    with build.mounted(image) as root:
        installed, whole = contents.size(root / "opt/roundhouse"), contents.size(root)
    print(f"engine: {installed / 1e9:.1f} GB installed, {whole / 1e9:.1f} GB with Debian")


@pytest.mark.parametrize(("words", "shown"), [(["--version"], "roundhouse 0."), (["engine", "--help"], "--model")])
def test_the_command_runs(image: str, folder: Path, words: list[str], shown: str) -> None:
    run = Run(image, folder, words)
    assert run.status == 0 and shown in run.log


def test_its_health_check_fails_without_an_engine(image: str, folder: Path) -> None:
    _, *check = build.configuration(image)["Healthcheck"]["Test"]
    run = Run(
        image, folder, [str(free_port()) if word.isdecimal() else word for word in check[1:]], entrypoint=check[:1]
    )
    assert run.status == 1 and "no answer" in run.log


def modules(image: str, folder: Path, *words: str) -> dict[str, Any]:
    """What modules.py prints in the image."""
    program = Path(__file__).with_name("modules.py")
    run = Run(image, folder, [str(program), *words], read_only=[program.parent], entrypoint=["python"])
    assert run.status == 0, run.log
    found: dict[str, Any] = json.loads(run.log.splitlines()[-1])
    return found


def test_what_is_compiled_in_vllm_lacks_the_driver_and_nothing_else(image: str, folder: Path) -> None:
    found = modules(image, folder)
    assert found["cuda"] and not found["available"] and found["platform"] == "UnspecifiedPlatform"
    assert found["release"] == lock("cuda")["vllm"]
    lacking = {name: why for name, why in found["libraries"].items() if why}
    assert {"_C_stable_libtorch.abi3.so", "_vllm_fa2_C.abi3.so", "_vllm_fa3_C.abi3.so"} <= lacking.keys()
    assert all(why.startswith("libcuda.so.1: cannot open shared object file") for why in lacking.values()), lacking


def test_what_is_compiled_in_vllm_loads_beside_a_driver(image: str, folder: Path) -> None:
    """A stub of one: so that every other library and symbol is there."""
    libraries = modules(image, folder, "stub")["libraries"]
    assert libraries and not any(libraries.values()), libraries


def test_its_vllm_reads_every_command_as_it_is_meant(image: str, folder: Path) -> None:
    """By the very tests of the build for CPUs: what the image lacks of pytest is this Python's, which must be 3.11."""
    packages = Path(sysconfig.get_path("purelib")).resolve()
    program = (
        f"import sys; sys.path.append({str(packages)!r}); import pytest, vllm; "
        "assert vllm.__file__.startswith('/opt/roundhouse/'); sys.exit(pytest.main(sys.argv[1:]))"
    )
    words = [f"--rootdir={ROOT}", "-p", "no:cacheprovider", str(ROOT / "tests/vllm/test_arguments.py")]
    # Without a device vLLM does not even make its parser.
    run = Run(image, folder, words, {"VLLM_TARGET_DEVICE": "cpu"}, [ROOT, packages], ["python", "-c", program])
    assert run.status == 0 and " passed" in run.log, run.log


@pytest.mark.parametrize("gpus", [1, 0])
def test_without_a_gpu_it_ends_and_says_what_to_do(image: str, folder: Path, home: Path, gpus: int) -> None:
    """As after `docker run` without `--gpus all`; with 0, as where a fleet file says nothing, the engine is forked."""
    config = folder / "config"
    config.mkdir()
    fleet = config / "fleet.yaml"
    fleet.write_text(json.dumps({"models": [{"model": "pebble-chat", "gpus": gpus, "addresses": ["engine:8000"]}]}))
    words = ["engine", "--model", "pebble-chat", "--port", str(free_port())]
    run = Run(image, folder, words, {"ROUNDHOUSE_FLEET": str(fleet)}, [config], writable={"/home/roundhouse": home})
    assert run.status == 1
    (failed,) = (line for line in run.log.splitlines() if "  failed, " in line)
    assert NO_GPU in failed
    assert run.log.count("importing vLLM after") == 1
    print(failed)
