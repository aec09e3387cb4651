"""Reloading the fleet file while the service runs."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from service.config import file_watch
from service.config.strict_yaml import ConfigError
from service.fleet.fleet import Fleet
from service.fleet.reload import Reload, needs_restart
from tests.support import fleets
from tests.support.waiting import until

FIRST = (
    "models: [{model: pebble-chat}, {model: pebble-base, min_replicas: 2}, "
    "{model: acme/x-chat, id: far, addresses: ['a:1']}]"
)
CHANGED = FIRST.replace("]}]", "], max_queued: 9}]")


class WatchedFile:
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
        await self.reload.poll()
        await self.reload.poll()


@pytest.fixture
def watched(tmp_path: Path) -> WatchedFile:
    return WatchedFile(tmp_path)


async def test_an_unchanged_file_is_not_read(watched: WatchedFile) -> None:
    for _ in range(3):
        await watched.reload.poll()
    assert (watched.applied, watched.reports) == ([], [])


async def test_a_changed_file_is_applied_once(watched: WatchedFile) -> None:
    await watched.write(CHANGED)
    await watched.reload.poll()
    assert [one["far"].max_queued for one in watched.applied] == [9]
    assert watched.reports == [[]]


async def test_bounds_of_requests_change_while_engines_run(watched: WatchedFile) -> None:
    await watched.write(f"{FIRST}\nrequest_bounds: {{n: 3}}")
    assert watched.reports == [[]]
    assert [one.request_bounds.n for one in watched.applied] == [3]


async def test_a_file_that_is_still_being_written_is_not_read(watched: WatchedFile) -> None:
    watched.path.write_text(FIRST[:40])
    await watched.reload.poll()
    watched.path.write_text(CHANGED)
    await watched.reload.poll()
    assert watched.reports == []
    await watched.reload.poll()
    assert len(watched.applied) == 1


@pytest.mark.parametrize("text", ["", "models: []", "models: [{model: pebble-chat, x: 1}]", "{", "\0"])
async def test_an_invalid_file_is_rejected_with_file_and_line(text: str, watched: WatchedFile) -> None:
    await watched.write(text)
    assert watched.applied == []
    (problems,) = watched.reports
    assert problems and all(problem.startswith(f"{watched.path}:") for problem in problems)
    await watched.write(CHANGED)
    assert len(watched.applied) == 1
    assert watched.reports[1:] == [[]]


LONG = "x" * 300
# What a value can hold that the file system, or a process, does not take: the entry's keys, and the key that is named.
IMPOSSIBLE = [
    (f"model: pebble-chat, weights: ./{LONG}", "models[0].weights: "),
    (f"model: pebble-chat, chat_template: ./{LONG}", "models[0].chat_template: "),
    (f"model: ./{LONG}, variant: chat, id: a", "models[0].model: "),
    (f"model: pebble-chat, adapters: [{{id: x, path: ./{LONG}}}]", "models[0].adapters[0].path: "),
    ("model: ~nosuchuser/model, variant: chat, id: a", "models[0].model: ~nosuchuser/model: "),
    ("model: pebble-chat, weights: ~nosuchuser/model", "models[0].weights: ~nosuchuser/model: "),
    ('model: pebble-chat, weights: "./a\\0b"', "models[0].weights: "),
    ('model: pebble-chat, weights: "./a\\ud800b"', "models[0].weights: "),
    ('model: pebble-chat, engine: {tokenizer: "a\\0b"}', "models[0].engine.tokenizer: "),
    ('model: pebble-chat, env: {A: "a\\0b"}', "models[0].env.A: "),
    ("model: pebble-chat, env: {A=B: c}", "models[0].env: 'A=B' cannot"),
    ("model: pebble-chat, env: {VLLM_CPU_KVCACHE_SPACE: '0.5'}", "models[0].env: VLLM_CPU_KVCACHE_SPACE is a whole"),
    ("model: pebble-chat, !!map x: 1", "models[0]: 'x' is no valid map"),
    ("model: pebble-chat, weights: ./ring", "models[0].weights: "),
]


@pytest.mark.parametrize(("entry", "problem"), IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
async def test_an_impossible_value_is_named_at_start_and_at_a_reload_and_mended(
    entry: str, problem: str, watched: WatchedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "POLL_INTERVAL", 0.005)
    (watched.folder / "ring").symlink_to("ring")
    text = f"models:\n  - {{{entry}}}"
    at_start = watched.folder / "at_start.yaml"
    at_start.write_text(text)
    with pytest.raises(ConfigError) as raised:
        fleets.read(at_start)
    assert raised.value.problems[0].startswith(f"{at_start}:2: {problem}")
    watching = asyncio.create_task(watched.reload.watch())
    watched.path.write_text(text)
    await until(lambda: bool(watched.reports))
    assert watched.reports[0][0].startswith(f"{watched.path}:2: {problem}")
    watched.path.write_text(CHANGED)
    await until(lambda: len(watched.applied) == 1, "the mended file to be applied")
    assert watched.reports[-1] == []
    watching.cancel()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")], ids=str)
async def test_weights_that_cannot_be_looked_at_are_named(
    error: OSError, watched: WatchedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def failing(path: Path, **options: bool) -> os.stat_result:
        if path.name == "locked":
            raise error
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    await watched.write("models: [{model: pebble-chat, weights: ./locked}]")
    (problems,) = watched.reports
    assert problems == [f"{watched.path}:1: models[0].weights: ./locked: {error.strerror}"]


async def test_a_file_that_vanishes_and_returns(watched: WatchedFile) -> None:
    watched.path.unlink()
    await watched.reload.poll()
    await watched.reload.poll()
    assert watched.applied == []
    assert "cannot be read" in watched.reports[0][0]
    await watched.write(CHANGED)
    assert len(watched.applied) == 1


async def test_a_switched_symbolic_link_is_a_change(tmp_path: Path) -> None:
    """As a mounted ConfigMap is updated: the file is a link through a folder that is itself replaced."""
    for name, text in (("one", FIRST), ("two", CHANGED)):
        (tmp_path / name).mkdir()
        fleets.write(tmp_path / name, text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "fleet.yaml").symlink_to("..data/fleet.yaml")
    path, applied = tmp_path / "fleet.yaml", list[Fleet]()
    reload = Reload(path, fleets.read(path), partial(fleets.read, path), applied.append, lambda _: None)
    await reload.poll()
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    await reload.poll()
    await reload.poll()
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
async def test_what_only_the_gateway_uses_may_change(change: tuple[str, str], watched: WatchedFile) -> None:
    text = change[1].join(FIRST.rsplit(change[0], 1))
    assert text != FIRST
    await watched.write(text)
    assert (watched.reports, len(watched.applied)) == ([[]], 1)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "min_replicas: 2",
            "min_replicas: 3",
            "'pebble-base' changes 'min_replicas', 'max_replicas', with which its engines were started",
        ),
        (
            "pebble-chat}",
            "pebble-chat, engine: {block_size: 16}}",
            "'pebble-chat' changes 'engine', with which its engines were started",
        ),
        (
            "pebble-chat}",
            "pebble-chat, env: {A: b}}",
            "'pebble-chat' changes 'env', with which its engines were started",
        ),
        (
            "pebble-chat}",
            "pebble-chat, addresses: ['a:2']}",
            "'pebble-chat' moves from an engine of this service to 'addresses'",
        ),
        ("pebble-chat}", "pebble-code}", "'pebble-code' needs a new engine"),
        ("models", "startup: sequential\nmodels", "'startup' takes effect only when the service starts"),
        ("models", "auth: none\nmodels", "'auth' takes effect only when the service starts"),
    ],
)
async def test_what_engines_were_started_with_may_not_change(
    before: str, after: str, problem: str, watched: WatchedFile
) -> None:
    await watched.write(FIRST.replace(before, after))
    assert watched.applied == []
    ((reported,),) = watched.reports
    assert reported.startswith(f"{watched.path}: {problem}")
    assert reported.endswith(": restart the service to apply the file")


def test_an_unchanged_fleet_needs_no_restart(tmp_path: Path) -> None:
    assert needs_restart(fleets.load(tmp_path, FIRST), fleets.load(tmp_path, FIRST)) == []
