"""The Bento: its files are a checkout's, its packages those of a run-time lock."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.evaluation import page
from service.gateway.console.page import FOLDER
from tests.packaging import LIMIT
from tests.support.fleets import ROOT

pytestmark = pytest.mark.slow

FILES = {"cpu": "bentofile.yaml", "cuda": "deploy/bento/cuda.yaml"}


def written(device: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / FILES[device]).read_text())
    return read


@pytest.mark.parametrize("device", FILES)
def test_it_takes_a_run_time_lock(device: str) -> None:
    assert written(device)["python"] == {"requirements_txt": f"requirements/{device}.lock", "lock_packages": False}


def test_the_two_differ_in_their_packages_alone() -> None:
    cpu, cuda = written("cpu"), written("cuda")
    assert cpu.pop("docker") == {"system_packages": ["libnuma1"], "setup_script": "deploy/bento/cpu-setup"}
    # Another index is named at the time of the image's build, and left out of the image.
    indexes = [one for one in cpu["envs"] if one["name"].startswith("UV_")]
    assert {one["name"] for one in indexes} == {"UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY"}
    assert {one["stage"] for one in indexes} == {"build"}
    cpu["envs"] = [one for one in cpu["envs"] if one not in indexes]
    assert cpu | {"python": None} == cuda | {"python": None}


def test_it_is_built_and_its_files_are_enough(tmp_path: Path) -> None:
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    tag = done.stdout.strip().rpartition("__tag__:")[2].replace(":", "/")
    built = tmp_path / "home/bentos" / tag
    requirements = (built / "env/python/requirements.txt").read_text()
    assert "--hash=sha256:" in requirements and "pytest" not in requirements
    assert "uv pip uninstall torchvision" in next((built / "env/docker").glob("script__*")).read_text()

    for path in [*FOLDER.iterdir(), *page.FOLDER.iterdir()]:
        assert (built / "src" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()

    moved = shutil.move(built / "src", tmp_path / "src")
    command = [sys.executable, "-m", "service.cli", "check"]
    done = subprocess.run(
        command, cwd=moved, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert f"{moved}/deploy/fleets/pebble.yaml: 4 models, nothing wrong." in done.stdout, done.stderr
