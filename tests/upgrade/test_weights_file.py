"""Changing the weights of a fleet file: nothing else of it changes, and no reader ever finds half of it."""

from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.upgrade import progress
from service.upgrade.progress import Progress
from service.upgrade.weights_file import WeightsFile, with_weights
from tests.support import fleets

FLEET = """\
# Served to everyone.
models:
  - {model: pebble-chat, aliases: [support], weight: 100}   # the old one
  - model: pebble-instruct
    aliases: [support]
    weight:   0 # the new one
  - model: pebble-base
"""


@pytest.fixture
def file(tmp_path: Path) -> WeightsFile:
    return WeightsFile(fleets.write(tmp_path, FLEET), fleets.read)


def test_only_the_numbers_change(file: WeightsFile) -> None:
    file.path.chmod(0o640)
    file.write({"pebble-chat": 75, "pebble-instruct": 25})
    assert file.path.read_text() == FLEET.replace("weight: 100", "weight: 75").replace("weight:   0", "weight:   25")
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert file.read().shares == {"support": {"pebble-chat": 75, "pebble-instruct": 25}}
    assert [one.name for one in file.path.parent.iterdir()] == [file.path.name]


@pytest.mark.parametrize(
    ("text", "weights", "problem"),
    [
        (FLEET, {"pebble-base": 5}, "7: models[2].weight: is missing"),
        (
            FLEET,
            {"pebble-chat": 0},
            "3: models[0].weight: the weights of the models under the alias",
        ),
        (FLEET.replace("chat,", "chat, gpu: 1,"), {"pebble-chat": 5}, "3: models[0].gpu: unknown key"),
    ],
)
def test_a_file_that_would_not_be_valid_stays(tmp_path: Path, text: str, weights: dict[str, int], problem: str) -> None:
    file = WeightsFile(fleets.write(tmp_path, text), fleets.read)
    with pytest.raises(ConfigError) as caught:
        file.write(weights)
    assert f"{file.path}:{problem}" in str(caught.value)
    assert file.path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == [file.path.name]


def test_the_weight_of_an_entry_that_is_merged_is_not_changed_for_others() -> None:
    text = "base: &b {weight: 5}\nmodels:\n  - {<<: *b, model: pebble-chat}\n"
    with pytest.raises(ConfigError, match=r"x:3: models\[0\]\.weight: is missing"):
        with_weights(text, {("models", 0): 7}, Path("x"))


def test_adapters_have_weights_of_their_own(tmp_path: Path) -> None:
    text = """\
models:
  - model: pebble-chat
    weight: 1
    adapters: [{id: old, path: ./old, aliases: [desk], weight: 99}, {id: new, path: ./new, aliases: [desk], weight: 0}]
"""
    file = WeightsFile(fleets.write(tmp_path, text), fleets.read)
    file.write({"old": 60, "new": 39})
    assert file.path.read_text() == text.replace("weight: 99", "weight: 60").replace("weight: 0", "weight: 39")


def test_a_symbolic_link_stays_one(file: WeightsFile) -> None:
    link = file.path.with_name("link.yaml")
    link.symlink_to(file.path)
    WeightsFile(link, fleets.read).write({"pebble-chat": 99, "pebble-instruct": 1})
    assert link.is_symlink() and file.read()["pebble-instruct"].weight == 1


def test_two_upgrades_do_not_change_one_file(file: WeightsFile) -> None:
    with (
        file.locked(),
        pytest.raises(ConfigError, match="another upgrade"),
        WeightsFile(file.path, fleets.read).locked(),
    ):
        pass
    with file.locked():
        pass


def test_progress_is_read_as_it_was_written_and_nonsense_is_refused(file: WeightsFile) -> None:
    assert progress.read(file.path) is None
    begun = Progress("pebble-chat", "pebble-instruct", 100, (5, 100))
    progress.write(file.path, begun)
    assert progress.read(file.path) == begun
    progress.path_of(file.path).write_text("{}")
    with pytest.raises(ConfigError, match="does not say how far an upgrade is"):
        progress.read(file.path)
    progress.end(file.path)
    progress.end(file.path)
    assert [one.name for one in file.path.parent.iterdir()] == [file.path.name]
