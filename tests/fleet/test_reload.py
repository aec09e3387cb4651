"""The fleet file changed while the service runs."""

from functools import partial
from pathlib import Path

import pytest

from service.fleet.fleet import Fleet
from service.fleet.reload import Reload, needs_restart
from tests.support import fleets

FIRST = (
    "models: [{model: pebble-chat}, {model: pebble-base, min_replicas: 2}, "
    "{model: acme/x-chat, id: far, addresses: ['a:1']}]"
)
NEXT = FIRST.replace("]}]", "], max_queued: 9}]")


class Reloading:
    """A watched fleet file, what was applied from it, and what was reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = fleets.write(folder, FIRST)
        self.fleet = fleets.load(folder, FIRST)
        self.reports: list[list[str]] = []
        self.applied: list[Fleet] = []
        load = partial(fleets.read, self.path)
        self.reload = Reload(self.path, self.fleet, load, self.applied.append, self.reports.append)

    async def write(self, text: str) -> None:
        self.path.write_text(text)
        await self.reload.look()
        await self.reload.look()


@pytest.fixture
def reloading(tmp_path: Path) -> Reloading:
    return Reloading(tmp_path)


async def test_an_unchanged_file_is_not_read(reloading: Reloading) -> None:
    for _ in range(3):
        await reloading.reload.look()
    assert (reloading.applied, reloading.reports) == ([], [])


async def test_a_changed_file_is_applied_once(reloading: Reloading) -> None:
    await reloading.write(NEXT)
    await reloading.reload.look()
    assert [one["far"].max_queued for one in reloading.applied] == [9]
    assert reloading.reports == [[]]


async def test_a_file_that_is_still_being_written_waits(reloading: Reloading) -> None:
    reloading.path.write_text(FIRST[:40])
    await reloading.reload.look()
    reloading.path.write_text(NEXT)
    await reloading.reload.look()
    assert reloading.reports == []
    await reloading.reload.look()
    assert len(reloading.applied) == 1


@pytest.mark.parametrize("text", ["", "models: []", "models: [{model: pebble-chat, x: 1}]", "{", "\0"])
async def test_a_broken_file_changes_nothing_and_says_where(text: str, reloading: Reloading) -> None:
    await reloading.write(text)
    assert reloading.applied == []
    (problems,) = reloading.reports
    assert problems and all(problem.startswith(f"{reloading.path}:") for problem in problems)
    await reloading.write(NEXT)
    assert len(reloading.applied) == 1
    assert reloading.reports[1:] == [[]]


async def test_a_file_that_vanishes_and_returns(reloading: Reloading) -> None:
    reloading.path.unlink()
    await reloading.reload.look()
    await reloading.reload.look()
    assert reloading.applied == []
    assert "cannot be read" in reloading.reports[0][0]
    await reloading.write(NEXT)
    assert len(reloading.applied) == 1


async def test_a_link_that_is_switched_is_a_change(tmp_path: Path) -> None:
    """As a mounted ConfigMap is updated: the file is a link through a folder that is itself replaced."""
    for name, text in (("one", FIRST), ("two", NEXT)):
        (tmp_path / name).mkdir()
        fleets.write(tmp_path / name, text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "fleet.yaml").symlink_to("..data/fleet.yaml")
    path, applied = tmp_path / "fleet.yaml", list[Fleet]()
    reload = Reload(path, fleets.read(path), partial(fleets.read, path), applied.append, lambda _: None)
    await reload.look()
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    await reload.look()
    await reload.look()
    assert [one["far"].max_queued for one in applied] == [9]


@pytest.mark.parametrize(
    "change",
    [
        ("pebble-chat}", "pebble-chat, policy: round_robin}"),
        ("pebble-chat}", "pebble-chat, aliases: [gpt-4o]}"),
        ("pebble-chat}", "pebble-chat, timeouts: {queue: 1}, max_in_flight: 3}"),
        ("['a:1']", "['b:1', 'c:2']"),
        ("{model: pebble-chat}, ", ""),
        ("}]", "}, {model: pebble-code, addresses: ['d:1']}]\ntenants: {acme: {weight: 2}}"),
    ],
)
async def test_what_the_gateway_alone_decides_may_change(change: tuple[str, str], reloading: Reloading) -> None:
    text = change[1].join(FIRST.rsplit(change[0], 1))
    assert text != FIRST
    await reloading.write(text)
    assert (reloading.reports, len(reloading.applied)) == ([[]], 1)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "min_replicas: 2",
            "min_replicas: 3",
            "'pebble-base' has other engines with this 'min_replicas', 'max_replicas'",
        ),
        (
            "pebble-chat}",
            "pebble-chat, engine: {block_size: 16}}",
            "'pebble-chat' has other engines with this 'engine'",
        ),
        ("pebble-chat}", "pebble-chat, env: {A: b}}", "'pebble-chat' has other engines with this 'env'"),
        ("pebble-chat}", "pebble-chat, addresses: ['a:2']}", "'pebble-chat' ran here and is to run elsewhere"),
        ("pebble-chat}", "pebble-code}", "'pebble-code' needs an engine here that does not run yet"),
        ("models", "startup: sequential\nmodels", "'startup' takes effect when the service starts"),
    ],
)
async def test_what_engines_were_started_with_may_not(before: str, after: str, said: str, reloading: Reloading) -> None:
    await reloading.write(FIRST.replace(before, after))
    assert reloading.applied == []
    ((problem,),) = reloading.reports
    assert problem.startswith(f"{reloading.path}: {said}")


def test_the_same_fleet_needs_no_restart(tmp_path: Path) -> None:
    assert needs_restart(fleets.load(tmp_path, FIRST), fleets.load(tmp_path, FIRST)) == []
