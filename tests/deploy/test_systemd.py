"""deploy/systemd/roundhouse.service: systemd takes it, it drains, and it may do little."""

import shutil
import subprocess

import pytest

from service.config.settings import VARIABLES
from service.engine.supervisor import EXIT_TIMEOUT
from tests.support.fleets import ROOT

UNIT = ROOT / "deploy/systemd/roundhouse.service"
WHERE = shutil.which("systemd-analyze")


def settings() -> dict[str, list[str]]:
    """The values of each key of [Service], in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_it_drains_and_is_hardened() -> None:
    found = settings()
    environment = dict(one.split("=", 1) for one in found["Environment"])
    assert {name for name in environment if name.startswith("ROUNDHOUSE_")} <= VARIABLES.keys()
    assert float(found["TimeoutStopSec"][0]) > float(environment["ROUNDHOUSE_DRAIN_TIMEOUT"]) + EXIT_TIMEOUT
    expected = {"KillMode": "mixed", "DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes",
                "CapabilityBoundingSet": ""}  # fmt: skip
    assert {key: found[key] for key in expected} == {key: [value] for key, value in expected.items()}


@pytest.mark.skipif(WHERE is None, reason="systemd is not installed")
def test_systemd_takes_it() -> None:
    done = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "is not executable: No such file" not in line]
    assert complaints == []
