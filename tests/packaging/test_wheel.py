"""The installed wheel, in an empty folder outside the checkout."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from bench.processes import free_port
from service.engine import state
from service.evaluation import page
from service.gateway.console.page import FOLDER
from tests.packaging import LIMIT
from tests.support.fleets import CATALOG, ROOT
from tests.support.services import wait_for
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "service", "models", "deploy")
STAND_IN = f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable} -m tests.support.stand_in"


@dataclass(frozen=True)
class Installed:
    """A folder with the installed package, beside an empty one that its command runs in."""

    folder: Path
    elsewhere: Path

    @property
    def data(self) -> Path:
        return self.folder / "service/bundled"

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self.folder / "bin/roundhouse")]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the checkout, and nothing that is set where the tests run."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ROUNDHOUSE_", "PYTHON"))}
        return {**kept, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.command, *words], cwd=self.elsewhere, env=self.environment, capture_output=True, text=True,
            check=False, timeout=LIMIT,
        )  # fmt: skip


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel that this source makes, built and installed without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, copy = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", folder / "site", wheel)
    shutil.rmtree(folder / "source")
    (folder / "empty").mkdir()
    return Installed(folder / "site", folder / "empty")


def test_it_has_every_file_of_the_data(installed: Installed) -> None:
    here = [*(ROOT / "models").glob("*.*"), *(ROOT / "models/templates").iterdir(), ROOT / "deploy/gpus.yaml"]
    here += [*(ROOT / "models/pebble").glob("*/*.*"), *(ROOT / "deploy/fleets").iterdir()]
    for path in here:
        assert (installed.data / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    for path in [*FOLDER.iterdir(), *page.FOLDER.iterdir()]:
        assert (installed.folder / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_it_has_every_module_and_nothing_else(installed: Installed) -> None:
    modules = {path.relative_to(installed.folder) for path in installed.folder.rglob("*.py")}
    assert modules == {path.relative_to(ROOT) for path in (ROOT / "service").rglob("*.py")}
    beside = {path.name for path in installed.folder.iterdir()}
    assert {name for name in beside if not name.endswith(".dist-info")} == {"bin", "service"}
    assert next(installed.folder.glob("*.dist-info/licenses/LICENSE")).read_text().count("Apache License") > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("list",), f"{len(CATALOG.models)} of {len(CATALOG.models)} models"),
        (("show", "pebble-chat"), "embedded, in models/pebble/pebble-chat"),
        (("plan", "llama-2-13b-chat", "--gpu", "L40S"), "L40S"),
        (("check",), "{data}/deploy/fleets/pebble.yaml: 4 models, nothing wrong."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_works_without_a_checkout(installed: Installed, words: tuple[str, ...], expected: str) -> None:
    done = installed.run(*words)
    assert done.returncode == 0, done.stderr
    assert expected.replace("{data}", str(installed.data)) in done.stdout
    assert not list(installed.elsewhere.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bundle", "x", "--project"), "does not contain the project's source"),
        (("add", "{data}/models/pebble/pebble-chat", "--id", "mine", "--no-proof"), "export ROUNDHOUSE_MODELS="),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_needs_a_checkout_says_so(installed: Installed, words: tuple[str, ...], message: str) -> None:
    done = installed.run(*(word.replace("{data}", str(installed.data)) for word in words))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def serving(installed: Installed, folder: Path, **environment: str) -> Iterator[str]:
    """`roundhouse serve` in `folder` with stand-ins for vLLM, as soon as all models are ready; yields its address."""
    port, log = free_port(), folder.with_suffix(".log")
    given = installed.environment | {"ROUNDHOUSE_ENGINE_PROGRAM": STAND_IN, **environment}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*installed.command, "serve", "--port", str(port)], cwd=folder, env=given, stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            rows = httpx.get(f"{url}/v1/models", verify=False).json()["data"]
        except httpx.TransportError:
            return False
        return all(row["state"] == "ready" for row in rows)

    try:
        wait_for(is_ready, LIMIT, f"all models ready ({log})")
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


DECOYS = ("service/__init__.py", "models.py", "click.py", "bentoml.py", "circus.py", "uvicorn.py")


def test_it_serves_the_embedded_models_from_a_folder_full_of_the_user_s_modules(
    installed: Installed, tmp_path: Path
) -> None:
    """Its own catalogue and weights, whatever lies where it is started; a relative path is one of that folder."""
    home = tmp_path / "home"
    for name in DECOYS:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("raise SystemExit('a module of the user was imported')\n")
    (home / "run").mkdir()
    (home / "fleet.json").write_text(json.dumps({"models": [{"model": "pebble-chat"}]}))
    with serving(installed, home, ROUNDHOUSE_FLEET="fleet.json", ROUNDHOUSE_RUN_DIR="run") as url:
        request = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=request, timeout=PATIENCE)
        assert answer.status_code == 200
        assert answer.headers["x-roundhouse-model"] == "pebble-chat"
        engine = state.read(home / "run", 0)
        assert engine and engine.pid
        command = psutil.Process(engine.pid).cmdline()
        assert command[command.index("--model") + 1] == str(installed.data / "models/pebble/pebble-chat")
