"""The Dockerfile: its rules, and that what it copies is there. `make image-test` carries it out."""

import re
import tomllib
from fnmatch import fnmatch

import pytest
import yaml

from service.cli.__main__ import main
from tests.images import build
from tests.support.each import each
from tests.support.fleets import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.M)).splitlines()
    if line
]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PRODUCTS = ("gateway", "engine", "engine-cpu")


def stages() -> dict[str, list[list[str]]]:
    """The instructions of each stage, with those of the stage that it builds upon."""
    found: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for word, rest in INSTRUCTIONS:
        if word == "FROM":
            base, _, name = rest.split()
            current = found[name] = list(found.get(base, ()))
        current.append([word, rest])
    return found


@each("target", PRODUCTS)
def test_an_image_runs_as_a_numbered_user_with_a_health_check_and_labels(target: str) -> None:
    stage = stages()[target]
    words = {one[0]: one[1] for one in stage}
    assert words["USER"] == "65532:65532"
    assert words["ENTRYPOINT"] == '["roundhouse"]'
    assert re.search(r'CMD \["python", "-m", "service.cli.healthy", "\d+", "/\w+"\]', words["HEALTHCHECK"])
    assert re.match(r'\["(\w+)"', words["CMD"])[1] in main.commands  # type: ignore[index]
    labels = " ".join(rest for word, rest in stage if word == "LABEL")
    for name in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert "/usr/share/roundhouse/sbom.json" in labels
    lock = {"gateway": "gateway", "engine": "cuda", "engine-cpu": "cpu"}[target]
    assert ["COPY", f"--from=bills /bills/{lock}.json /usr/share/roundhouse/sbom.json"] in stage
    packages = stages()[f"{target}-packages"]
    assert any(f"--require-hashes -r requirements/{lock}.lock" in rest for _, rest in packages)


def test_the_engine_for_gpus_is_that_for_cpus_with_other_packages_and_sees_the_gpus() -> None:
    """So `make image-test`, which does not build the one, tries the rest of it with the other."""
    found = stages()
    cpus = [
        [word, rest.replace("engine-cpu", "engine").replace("cpu.", "cuda.")]
        for word, rest in [*found["engine-cpu-packages"], *found["engine-cpu"]]
    ]
    shown = ["ENV", "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    assert [*found["engine-packages"], *found["engine"]] == [*cpus, shown]


def test_each_image_is_built_on_the_debian_that_it_is_tested_on() -> None:
    gateway, engine = (build.DEBIAN.format(build.RELEASES[name]) for name in ("gateway", "engine-cpu"))
    assert ["ARG", f"BASE={engine}"] in INSTRUCTIONS
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    named = {
        service["build"]["target"]: service["build"].get("args") for service in services.values() if "build" in service
    }
    assert named == {"gateway": {"BASE": gateway}, "engine": None, "engine-cpu": None}
    for page in (TEXT, (ROOT / "docs/containers.md").read_text()):
        assert f"docker build --target gateway --build-arg BASE={gateway}" in page


def test_what_runs_an_image_names_it_as_it_is_built() -> None:
    page, compose = (ROOT / "docs/containers.md").read_text(), (ROOT / "deploy/compose.yaml").read_text()
    services = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", compose))["services"].values()
    built = dict(re.findall(r"^docker build --target (\S+) .*--tag (\S+) \.$", page, re.M))
    assert built == {target: f"roundhouse/{target}:{VERSION}" for target in PRODUCTS}
    assert {one["build"]["target"]: one["image"] for one in services if "build" in one} == built


@each("target", PRODUCTS)
def test_the_setuid_bits_of_debian_are_taken_away(target: str) -> None:
    assert any("-perm /6000 -exec chmod ug-s" in rest for word, rest in stages()[target] if word == "RUN")


def test_the_gateway_leaves_out_what_packages_test_themselves_with() -> None:
    assert "-name tests -o -name test" in stages()["gateway-packages"][-1][1]


def test_nothing_secret_and_nothing_that_moves() -> None:
    assert not re.search(r"(?i)(api_?key|token|password)\s*=", TEXT)
    assert "curl" not in TEXT and ":latest" not in TEXT and "ADD" not in {word for word, _ in INSTRUCTIONS}
    installs = [rest for word, rest in INSTRUCTIONS if word == "RUN" and "pip" in rest and " install " in rest]
    assert installs and all("--require-hashes" in one or "--no-index" in one or "venv" in one for one in installs)
    for one in (rest for word, rest in INSTRUCTIONS if word == "RUN" and "apt-get install" in rest):
        assert "--no-install-recommends" in one and "rm -rf /var/lib/apt/lists/*" in one
    assert set(re.findall(r"^ARG VERSION=(.+)$", TEXT, re.M)) == {VERSION}


@pytest.mark.parametrize(
    "name", ["service/cli/engine.py", "models/zephyr.yaml", "models/pebble/pebble-chat/config.json"]
)
def test_the_build_gets_what_a_wheel_is_made_of(name: str) -> None:
    assert sent(name)


@pytest.mark.parametrize("name", [".git/config", ".env", "tests/conftest.py", "deploy/compose/secrets/api-key"])
def test_the_build_gets_nothing_else(name: str) -> None:
    assert not sent(name)


def sent(name: str) -> bool:
    """Whether .dockerignore lets the file into a build: the last rule that fits it or a folder above it decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = name.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    allowed = True
    for rule in lines:
        pattern = rule.removeprefix("!")
        if any(fnmatch(path, pattern) and path.count("/") == pattern.count("/") for path in above):
            allowed = rule.startswith("!")
    return allowed
