"""CONTRIBUTING.md: the commands that it gives work, and what it names is there."""

import re
import shlex

import pytest
from click.testing import CliRunner

from service.cli.__main__ import main
from tests.support.each import each
from tests.support.fleets import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# A name is said to be in a file as "`NAME` in `path/to/file.py`".
NAMED = re.findall(r"`(\w+)`\s+in\s+`([\w/.]+\.py)`", PAGE)
FOLDERS = r"(?<![\w./])(?:service|tests|models|docs|requirements|deploy)/"
PATHS = sorted(set(re.findall(FOLDERS + r"[\w./-]*\w/?(?![\w<])", PAGE)))
COMMANDS = re.findall(r"^ *(roundhouse .+)$", PAGE, re.MULTILINE)


@each("path", PATHS)
def test_a_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@each(("name", "path"), NAMED, ids=lambda text: text)
def test_a_name_is_in_its_file(name: str, path: str) -> None:
    assert re.search(rf"^\s*(?:(?:async )?def |class )?{name}\b", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for words in re.findall(r"`?make ([a-z0-9 -]+)", PAGE) for word in words.split()[:1]}
    assert {"install", "test", "test-fast", "docs", "lock"} <= named <= targets


def test_it_names_what_a_newcomer_adds() -> None:
    assert len(NAMED) > 12 and len(PATHS) > 30 and len(COMMANDS) > 3
