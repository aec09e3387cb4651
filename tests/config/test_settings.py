"""What the environment may set."""

from dataclasses import Field, FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from service.config.paths import ROOT
from service.config.settings import PREFIX, Settings
from service.config.strict_yaml import ConfigError

ROWS = fields(Settings)
TEXTS = {"int": "7", "float": "7.5", "str": "text", "Path": "a/b", "Path | None": "a/b"}


def variable(name: str) -> str:
    return PREFIX + name.upper()


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environ({"HOME": "/root"}) == Settings()
    assert Settings().fleet == ROOT / "deploy/fleets/pebble.yaml"
    assert Settings().fleet.is_file() and Settings().models.is_dir()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_can_be_set_and_says_what_it_is(row: Field[Any]) -> None:
    kind = str(row.type)
    value = getattr(Settings.from_environ({variable(row.name): TEXTS[kind]}), row.name)
    assert value == {"int": 7, "float": 7.5, "str": "text"}.get(kind, Path("a/b"))
    assert isinstance(value, type(row.default)) or row.default is None
    assert row.metadata["help"]


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert Settings.from_environ({"ROUNDHOUSE_WEIGHTS": "~/weights"}).weights == Path("/home/ada/weights")
    assert Settings().weights.is_absolute()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_empty_variable_is_an_unset_one(row: Field[Any]) -> None:
    assert Settings.from_environ({variable(row.name): ""}) == Settings()


@pytest.mark.parametrize("row", [row for row in ROWS if row.type in ("int", "float")], ids=lambda row: row.name)
def test_a_number_is_a_number(row: Field[Any]) -> None:
    with pytest.raises(ConfigError, match=f"environment: {variable(row.name)}: 'soon' is not a number"):
        Settings.from_environ({variable(row.name): "soon"})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({"ROUNDHOUSE_FLEAT": "x", "ROUNDHOUSE_PORT": "x", "ROUNDHOUSE_MAX_BODY": "1.5"})
    unknown, *numbers = caught.value.problems
    assert unknown.startswith("environment: ROUNDHOUSE_FLEAT: no such setting; known are ROUNDHOUSE_BODY_TIMEOUT, ")
    assert all(variable(row.name) in unknown for row in ROWS)
    assert len(numbers) == 2


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf"])
def test_a_number_must_be_above_zero(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ROUNDHOUSE_IDLE_TIMEOUT: .* must be above zero"):
        Settings.from_environ({"ROUNDHOUSE_IDLE_TIMEOUT": text})
