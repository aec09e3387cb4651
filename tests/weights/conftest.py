"""A hub, a store, and the command line that uses both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner, Result

from service.cli.__main__ import main
from service.config.settings import VARIABLES
from service.weights.store import Store
from tests.support.fleets import ROOT
from tests.weights import hub as hubs
from tests.weights.hub import Hub
from tests.weights.tiny import REPOSITORY, TINY


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub that has one tiny model."""
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    with hubs.running() as hub:
        hub.add(TINY, dict(REPOSITORY))
        yield hub
    huggingface_hub.close_session()


@dataclass(frozen=True)
class Shell:
    """The `roundhouse` command with a store of its own."""

    store: Store
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *words: str | Path) -> Result:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), "no traceback reaches a user"
        return result


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the catalogue: reading all of it for each command would take most of the time of these tests."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama-2.yaml", "pebble.yaml", "tasks.yaml", "templates", "pebble"):
        (folder / name).symlink_to(ROOT / "models" / name)
    return folder


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Shell:
    """The command line, with nothing from the environment but a store."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROUNDHOUSE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("ROUNDHOUSE_MODELS", str(models))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Shell(Store(tmp_path / "store"), monkeypatch)


@pytest.fixture
def online(shell: Shell, hub: Hub) -> Shell:
    """The command line, with HF_ENDPOINT set to the test's hub."""
    shell.monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return shell


Repository = Callable[..., Path]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Writes a repository's files into a folder."""

    def write(folder: str, files: dict[str, bytes] = REPOSITORY) -> Path:
        for name, data in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / folder

    return write
