"""The list of other servers' routes, over which tests of the gateway walk, is that of what is installed."""

import subprocess
import sys

import pytest

from tests.support.fleets import ROOT


@pytest.mark.slow
def test_the_list_of_routes_is_that_of_the_installed_servers() -> None:
    """Importing vLLM takes 20 s of a core."""
    command = [sys.executable, "-m", "tests.vllm.routes"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300).stdout.decode()
    written = (ROOT / "tests/golden/routes.yaml").read_text(encoding="utf-8")
    assert printed == written, "run: python -m tests.vllm.routes > tests/golden/routes.yaml"
