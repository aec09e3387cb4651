"""The adapters of a running engine: loaded, replaced and unloaded on its socket as the gateways want them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.engine import adapter_lists, adapters
from service.engine.adapters import EngineAdapters, Loaded, Steps, steps
from service.transport.pool import ConnectionPool
from service.weights import manifest
from service.weights.digests import sha256
from service.weights.manifest import File, Manifest
from tests.fake_engine import FakeEngine
from tests.support import fleets
from tests.support.adapters import write_adapter
from tests.support.each import each
from tests.support.waiting import patience, until


@each(
    ("wanted", "folders", "reasons", "due", "expected"),
    [
        ({}, {}, {}, True, ([], [])),
        ({"a": "/1"}, {}, {}, False, ([], ["a"])),
        ({"a": "/1"}, {"a": "/1"}, {"a": None}, True, ([], [])),
        ({}, {"a": "/1"}, {"a": None}, False, (["a"], [])),
        ({"a": "/2"}, {"a": "/1"}, {"a": None}, False, (["a"], ["a"])),
        ({"a": "/1"}, {"a": "/1"}, {"a": "broken"}, False, ([], [])),
        ({"a": "/1"}, {"a": "/1"}, {"a": "broken"}, True, ([], ["a"])),
        ({"a": "/2"}, {"a": "/1"}, {"a": "broken"}, False, ([], ["a"])),
        ({"a": "/1", "b": "/2"}, {"b": "/2", "c": "/3"}, {"b": None, "c": None}, False, (["c"], ["a"])),
    ],
)
def test_what_is_loaded_and_unloaded(
    wanted: dict[str, str], folders: dict[str, str], reasons: Loaded, due: bool, expected: tuple[list[str], list[str]]
) -> None:
    assert steps(wanted, folders, reasons, due) == Steps(*expected)


def test_what_any_live_gateway_wants(tmp_path: Path) -> None:
    assert adapter_lists.wanted(tmp_path, "m") is None, "no gateway yet: those of the engine's own start"
    adapter_lists.write(tmp_path, os.getpid(), {"m": {"a": "/1"}})
    adapter_lists.write(tmp_path, os.getppid(), {"m": {"b": "/2"}, "n": {"c": "/3"}})
    assert adapter_lists.wanted(tmp_path, "m") == {"a": "/1", "b": "/2"}, "one that has not reloaded yet counts too"
    assert adapter_lists.wanted(tmp_path, "other") == {}
    adapter_lists.write(tmp_path, os.getpid(), {})
    adapter_lists.write(tmp_path, os.getppid(), {"m": "x"})  # type: ignore[dict-item]
    assert adapter_lists.wanted(tmp_path, "m") == {}


class Running:
    """A fake engine, what keeps its adapters, and what that published."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        served = fleets.only(folder, "model: pebble-chat\nadapters: [{id: own, path: ./own}]")
        self.run_dir, self.engine = folder, engine
        self.published: list[Loaded] = []
        self.kept = EngineAdapters(
            replace(served), folder, str(folder / "e.sock"), ConnectionPool(), self.published.append, lambda: False
        )

    def want(self, **adapters: Path) -> None:
        wanted = {"pebble-chat": {id: str(path) for id, path in adapters.items()}}
        adapter_lists.write(self.run_dir, os.getpid(), wanted)

    async def until_loaded(self, **adapters: Path) -> None:
        wanted = {id: str(path) for id, path in adapters.items()}
        await until(lambda: self.engine.adapters == wanted, f"{wanted}, not {self.engine.adapters}")


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(adapters, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(adapters, "SETTLE", 0.01)
    async with FakeEngine("pebble-chat", lora=True).listen(tmp_path / "e.sock") as engine:
        one = Running(tmp_path, engine)
        yield one
        await one.kept.close()


async def test_adapters_follow_the_fleet_without_a_restart(running: Running, tmp_path: Path) -> None:
    tone, late = (write_adapter(tmp_path / name, "pebble-chat") for name in ("tone", "late"))
    await running.kept.start()
    await running.until_loaded(own=tmp_path / "own")
    assert running.published == [{"own": None}]
    running.kept.follow()
    running.want(own=tmp_path / "own", tone=tone)
    await running.until_loaded(own=tmp_path / "own", tone=tone)
    running.want(tone=late)
    await running.until_loaded(tone=late)
    await until(lambda: running.published[-1] == {"tone": None}, "the last state")
    (tmp_path / f"a{os.getpid()}.json").unlink()
    assert not running.kept._steps(), "a gateway that ends takes no adapter with it"
    assert {} in running.published, "while it is replaced nobody sends it requests"
    await running.kept.close()
    running.engine.adapters.clear()
    await running.kept.start()
    assert running.published[-1] == {"tone": None}, "an engine that has started anew gets them again"


async def test_one_that_fails_takes_no_other_down_and_is_tried_again(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.want(gone=tmp_path / "gone", fine=write_adapter(tmp_path / "fine", "pebble-chat"))
    await running.kept.start()
    assert running.published[-1] == {
        "gone": f"the engine refused it: No adapter found for {tmp_path / 'gone'}",
        "fine": None,
    }
    write_adapter(tmp_path / "gone", "pebble-chat")
    monkeypatch.setattr(adapters, "RETRY_INTERVAL", 0.0)
    running.kept.follow()
    await until(lambda: running.published[-1] == {"gone": None, "fine": None}, "another attempt")
    running.want(fine=tmp_path / "fine")
    await running.until_loaded(fine=tmp_path / "fine")


async def test_an_adapter_that_differs_from_its_manifest_is_not_loaded(running: Running, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "pulled", "pebble-chat")
    names = ("adapter_config.json", "adapter_model.safetensors")
    files = {name: File(size=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in names}
    manifest.write(
        folder, Manifest(model="a", repository="acme/a", revision=None, source="here", made_by="a test", files=files)
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": 1}))
    running.want(pulled=folder)
    await running.kept.start()
    reason = running.published[-1]["pulled"]
    assert reason and reason.startswith(f"it is not what was pulled: {folder}/adapter_config.json has ")
    assert running.engine.adapters == {}


async def test_an_engine_that_does_not_answer(running: Running) -> None:
    running.engine.die("kill")
    async with asyncio.timeout(patience()):
        await running.kept.start()
    assert str(running.published[-1]["own"]).startswith("the engine did not answer: ")


async def test_on_the_cpu_an_engine_takes_no_more_than_leave_its_last_slot_empty(
    running: Running, tmp_path: Path
) -> None:
    folders = {f"a{number}": write_adapter(tmp_path / f"a{number}", "pebble-chat") for number in range(17)}
    running.want(**folders)
    await running.kept.start()
    published = running.published[-1]
    assert [id for id, reason in published.items() if reason is None] == [f"a{number}" for number in range(16)]
    assert "its engine has loaded 16 adapters since it started" in str(published["a16"])
    assert len(running.engine.adapters) == 16
