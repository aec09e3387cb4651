"""The run folder is made, or it is said why it cannot be used."""

import os
from pathlib import Path

import pytest

from service.config import run_dir
from service.config.strict_yaml import ConfigError
from service.engine import state


def test_a_folder_that_does_not_exist_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = run_dir.prepare(tmp_path / "a/b")
    assert path == tmp_path / "a/b"
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "e0.json").touch()
    tmp_path.chmod(0o750)
    assert run_dir.prepare(tmp_path) == tmp_path
    assert tmp_path.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "e0.json").exists()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=f"ROUNDHOUSE_RUN_DIR: other users can write to {tmp_path}"):
        run_dir.prepare(tmp_path)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the service run in other folders."""
    monkeypatch.chdir(tmp_path)
    assert run_dir.prepare(Path("run")) == tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file", "cannot be made: File exists"),
        ("file/run", "cannot be made: Not a directory"),
        ("x" * 300, "cannot be made: File name too long"),
        ("x" * 100, "is too long for the sockets in it: choose a path of at most 96 bytes"),
        ("locked", "cannot be written by this user"),
    ],
)
def test_what_cannot_be_used_is_refused(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    if name == "locked":
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError) as raised:
        run_dir.prepare(tmp_path / name)
    (found,) = raised.value.problems
    assert found.startswith("environment: ROUNDHOUSE_RUN_DIR: ")
    assert problem in found


def test_the_bound_is_that_of_the_longest_socket() -> None:
    path = Path("/" + "x" * (run_dir.MAX_BYTES - 1))
    assert len(os.fsencode(state.socket_path(path, 9999))) == 107
