"""deploy/compose.yaml: what it names exists, ports and keys agree, and only the gateway reaches an engine."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.auth import keys_file
from service.auth.keys import digest
from service.config.settings import VARIABLES, Settings
from service.fleet import fleet
from tests.deploy.queries import PROMETHEUS
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT

DEPLOY = ROOT / "deploy"
WRITTEN = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", WRITTEN))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENGINES = {name: one for name, one in SERVICES.items() if name.startswith("engine-")}
PROFILES = ("cpu", "gpu", "gpus")
# The keys of a service that the compose specification has, of which these are used.
KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "init", "networks",
    "ports", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size", "stop_grace_period", "tmpfs",
    "volumes",
}  # fmt: skip


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@each("name", SERVICES)
def test_a_service_has_no_rights_and_names_what_there_is(name: str) -> None:
    service = SERVICES[name]
    assert service.keys() <= KEYS
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["image"].endswith(":latest") and ":" in service["image"]
    assert set(service["networks"]) <= COMPOSE["networks"].keys()
    assert set(service.get("depends_on", ())) <= SERVICES.keys()
    for one in service.get("secrets", ()):
        assert (one if isinstance(one, str) else one["source"]) in COMPOSE["secrets"]
    for volume in service.get("volumes", ()):
        if volume["type"] == "bind":
            assert volume["read_only"] and (DEPLOY / volume["source"]).exists()
        else:
            assert volume["source"] in COMPOSE["volumes"]
    environment = service.get("environment", {})
    assert {key for key in environment if key.startswith("ROUNDHOUSE_")} <= VARIABLES.keys()
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@each("profile", PROFILES)
def test_a_profile_starts_the_engines_of_its_fleet_file(profile: str) -> None:
    """And no others: what the gateway is told and what runs cannot disagree."""
    loaded = fleet.load(DEPLOY / f"compose/{profile}.yaml", CATALOG)
    started = {name: one for name, one in ENGINES.items() if one["profiles"] == [profile]}
    assert {name: one["command"][2] for name, one in started.items()} == {
        address.rpartition(":")[0]: served.id for served in loaded.served for address in served.addresses
    }
    assert {address.rpartition(":")[2] for served in loaded.served for address in served.addresses} == {"8000"}
    taken: list[str] = []
    for one in started.values():
        assert one["command"] == ["engine", "--model", one["command"][2], "--host", "0.0.0.0"]
        devices = one.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        ids = [device for reserved in devices for device in reserved["device_ids"]]
        assert len(ids) == loaded[one["command"][2]].gpus
        taken += ids
    assert len(taken) == len(set(taken))


def test_only_the_gateway_reaches_an_engine() -> None:
    assert COMPOSE["networks"]["engines"] == {"internal": True}
    assert {name for name, one in SERVICES.items() if "engines" in one["networks"]} == {"gateway", *ENGINES}
    assert all(one["networks"] == ["engines"] and "ports" not in one for one in ENGINES.values())


def test_everyone_drains_and_engines_after_the_gateway() -> None:
    gateway = SERVICES["gateway"]
    assert gateway["depends_on"] == {name: {"condition": "service_started", "required": False} for name in ENGINES}
    for one in (gateway, *ENGINES.values()):
        assert seconds(one["stop_grace_period"]) > int(one["environment"]["ROUNDHOUSE_DRAIN_TIMEOUT"])


def test_prometheus_has_the_configuration_of_a_host_but_for_the_address() -> None:
    here, there = (DEPLOY / "compose/prometheus.yml").read_text(), (PROMETHEUS / "prometheus.yml").read_text()
    assert yaml.safe_load(here) == yaml.safe_load(there.replace("127.0.0.1:3000", "gateway:3000"))
    assert "PROMETHEUS_URL" in SERVICES["grafana"]["environment"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_secrets_are_made_once_and_the_gateway_takes_them(tmp_path: Path) -> None:
    program = shutil.copy(DEPLOY / "compose/make-secrets", tmp_path)
    for _ in range(2):
        subprocess.run([program], check=True, capture_output=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {f"./compose/secrets/{name}" for name in made} == {one["file"] for one in COMPOSE["secrets"].values()}
    assert all((tmp_path / "secrets" / name).stat().st_mode & 0o777 == 0o400 for name in made)
    settings = Settings(api_key_file=tmp_path / "secrets/api-key", keys=tmp_path / "secrets/keys.yaml")
    keys = keys_file.load(settings, False)
    assert keys and len(keys) == 2
    assert keys[digest(made["metrics-key"].encode())].endpoints == {"metrics"}
    subprocess.run([program], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
