"""The software bill of materials: valid, and of the same packages as the lock."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.test_locks import ENTRY, lock
from tests.support.fleets import ROOT

FEW = 5  # packages: each takes the program a while


@pytest.mark.slow
def test_it_has_every_package_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/sbom", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    entries = [one[0] for one in ENTRY.finditer((ROOT / "requirements/gateway.lock").read_text())][:FEW]
    (tmp_path / "requirements/gateway.lock").write_text("".join(entries))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(tmp_path / "requirements/sbom"), str(tmp_path / "sbom"), "gateway"]
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True, capture_output=True)  # it is validated, too
    (written,) = (tmp_path / "sbom").iterdir()
    bill = json.loads(written.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    expected = list(lock("gateway").items())[:FEW]
    assert [(one["name"], one["version"]) for one in bill["components"]] == expected
    assert all(one["purl"].startswith("pkg:pypi/") for one in bill["components"])
    (licence,) = bill["metadata"]["component"]["licenses"]
    assert licence["license"]["id"] == "Apache-2.0"
