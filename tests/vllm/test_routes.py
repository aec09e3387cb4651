"""The list of other servers' routes, over which tests of the gateway walk, has all of what is installed."""

import subprocess
import sys

import pytest
import yaml

from tests.support.fleets import ROOT


@pytest.mark.slow
def test_the_list_has_every_route_of_the_installed_servers() -> None:
    """Of any release: what another one has no more does no harm. Importing vLLM takes 20 s of a core."""
    command = [sys.executable, "-m", "tests.vllm.routes"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300).stdout.decode()
    listed = yaml.safe_load((ROOT / "tests/golden/routes.yaml").read_text(encoding="utf-8"))
    installed = yaml.safe_load(printed)
    assert installed.keys() == listed.keys()
    for server, found in installed.items():
        assert len(found["routes"]) > 5
        unknown = set(found["routes"]) - set(listed[server]["routes"])
        assert not unknown, "run: python -m tests.vllm.routes > tests/golden/routes.yaml"
