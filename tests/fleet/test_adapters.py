"""Adapters of the fleet file: found, checked against their base, and the room that engines have for them."""

import shutil
from pathlib import Path

import pytest

from service.catalog.engine_args import EngineValue
from service.config.strict_yaml import ConfigError
from service.fleet import fleet
from service.fleet.adapters import Adapter, Room, room
from service.fleet.reload import needs_restart
from service.weights.mirror import Mirror
from service.weights.pull import PullRequest, pull
from service.weights.store import Store
from tests.support import fleets
from tests.support.adapters import Q_PROJ, write_adapter
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT

TRIAGE = ROOT / "models/pebble/adapters/pebble-triage"


def problems(folder: Path, text: str, store: Path | None = None) -> list[str]:
    file = folder / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        fleet.load(file, CATALOG, store)
    return [problem.removeprefix(f"{file}:") for problem in raised.value.problems]


def served_with(adapter: str, **keys: str) -> str:
    more = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    return f"models:\n  - model: pebble-instruct\n    adapters:\n      - {{id: a, {adapter}}}\n{more}"


def test_an_adapter_has_names_of_its_own(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", "pebble-instruct")
    text = served_with("path: ./a, variant: chat, family: desk, aliases: [helper]")
    (tmp_path / "fleet.yaml").write_text(text)
    loaded = fleet.load(tmp_path / "fleet.yaml", CATALOG)
    expected = Adapter("a", str(tmp_path / "a"), 8, "chat", "desk", ("helper",))
    assert loaded.served[0].adapters == (expected,)
    assert loaded.aliases == {"helper": "a"}


@each(
    ("config", "problem"),
    [
        ({"base": "pebble-chat"}, "adapter_config.json:9: base_model_name_or_path: is 'pebble-chat', and this entry"),
        ({"base": "/home/me/out/checkpoint-9"}, "say so with 'base: /home/me/out/checkpoint-9'"),
        ({"modules": {Q_PROJ: (64, 128)}}, "has 64 inputs and 128 outputs, and that of 'pebble-instruct' has 128"),
        ({"modules": {Q_PROJ: (128, 64)}}, "has 128 inputs and 64 outputs"),
        ({"modules": {Q_PROJ.replace("0", "4"): (128, 128)}}, "is no layer of 'pebble-instruct'"),
        ({"modules": {Q_PROJ.replace("q_proj", "qkv"): (128, 128)}}, "is no layer of 'pebble-instruct'"),
        ({"rank": 64, "engine": "{max_lora_rank: 32}"}, "'a' has rank 64, more than the 32 of 'max_lora_rank'"),
        ({"use_dora": True}, "use_dora: asks for DoRA"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    tmp_path: Path, config: dict[str, object], problem: str
) -> None:
    engine = config.pop("engine", None)
    write_adapter(tmp_path / "a", **{"base": "pebble-instruct", **config})  # type: ignore[arg-type]
    text = served_with("path: ./a", **({"engine": str(engine)} if engine else {}))
    (found,) = problems(tmp_path, text)
    assert found.startswith("3: models[0].adapters" if engine else "4: models[0].adapters[0].path: ")
    assert problem in found


def test_a_base_may_have_another_name_where_the_fleet_file_says_so(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", "/home/me/out/checkpoint-9")
    file = tmp_path / "fleet.yaml"
    file.write_text(served_with("path: ./a, base: /home/me/out/checkpoint-9"))
    assert fleet.load(file, CATALOG).served[0].adapters[0].rank == 8
    (found,) = problems(tmp_path, served_with("path: ./a, base: another"))
    assert "is '/home/me/out/checkpoint-9', and 'base' says 'another'" in found


def test_where_weights_are_not_on_disk_the_shape_of_the_catalogue_is_compared(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", "meta-llama/Llama-2-7b-hf", {Q_PROJ: (5120, 5120)})
    (found,) = problems(tmp_path, "models: [{model: llama-2-7b, adapters: [{id: a, path: ./a}]}]")
    assert "has 5120 inputs and 5120 outputs, and that of 'llama-2-7b' has 4096 and 4096" in found


@each(
    ("adapter", "problem"),
    [
        ("hub: desk", "4: models[0].adapters[0].hub: 'desk' is no repository (organisation/name); a folder is a"),
        ("hub: acme/other", "4: models[0].adapters[0].hub: acme/other has not been pulled: run 'roundhouse pull"),
        ("hub: acme/tone, path: ./a", "4: models[0].adapters[0].hub: give 'path' or 'hub', not both"),
        (f"hub: acme/tone, revision: {'b' * 40}", "4: models[0].adapters[0].revision: "),
        ("aliases: [x]", "4: models[0].adapters[0].path: is missing; or give 'hub'"),
        ("path: ./gone", "4: models[0].adapters[0].path: "),
    ],
)
def test_a_place_where_no_adapter_is(tmp_path: Path, adapter: str, problem: str) -> None:
    (found,) = problems(tmp_path, served_with(adapter), pulled(tmp_path))
    assert found.startswith(problem)


def test_a_pulled_adapter_is_served_from_where_it_was_pulled_to(tmp_path: Path) -> None:
    store = pulled(tmp_path)
    file = tmp_path / "fleet.yaml"
    file.write_text(served_with("hub: acme/tone"))
    (found,) = fleet.load(file, CATALOG, store).served[0].adapters
    assert (found.path, found.rank) == (str(store / "acme/tone"), 8)


def pulled(folder: Path) -> Path:
    """A folder of weights into which an adapter was pulled, with its manifest."""
    write_adapter(folder / "mirror/acme/tone", "pebble-instruct")
    store = folder / "store"
    pull(PullRequest("acme/tone", "tone"), Mirror(folder / "mirror", "acme/tone"), Store(store))
    return store


def test_room_for_adapters() -> None:
    many = [Adapter(f"a{number}", "/a", 24) for number in range(40)]
    assert room([], {}, cpu=False) is None
    assert room([], {"max_loras": 1}, cpu=False) == Room(1, 16, 64)
    assert room(many, {}, cpu=False) == Room(8, 32, 80)
    settings: dict[str, EngineValue] = {"max_loras": 100, "max_lora_rank": 64, "max_cpu_loras": 120}
    assert room(many, settings, cpu=False) == Room(100, 64, 120)


def test_on_the_cpu_the_last_slot_stays_empty() -> None:
    many = [Adapter(f"a{number}", "/a", 8) for number in range(40)]
    few, all_of_them = room(many[:2], {}, cpu=True), room(many, {}, cpu=True)
    assert few and all_of_them
    assert (few.max_loras, few.most_loads, few.why_not(many[:16])) == (17, 16, None)
    assert few.why_not(many[:17]) == "17 adapters need a 'max_loras' of 18 or more on the CPU"
    assert (all_of_them.max_loras, all_of_them.why_not(many)) == (41, None)
    assert few.settings == {"enable_lora": True, "max_loras": 17, "max_lora_rank": 16, "max_cpu_loras": 64}


@pytest.mark.parametrize(
    ("started", "new", "problem"),
    [
        ("adapters: [{id: a, path: ./a}]", "adapters: []", None),
        ("adapters: [{id: a, path: ./a}]", "adapters: [{id: b, path: ./b}, {id: a, path: ./b}]", None),
        ("engine: {max_loras: 2}", "adapters: [{id: a, path: ./a}]\nengine: {max_loras: 2}", None),
        ("min_replicas: 1", "adapters: [{id: a, path: ./a}]", "were started without room for any"),
        ("adapters: [{id: a, path: ./a}]", "adapters: [{id: a, path: ./wide}]", "more than the 16 of 'max_lora_rank'"),
    ],
)
def test_which_adapters_need_a_restart(tmp_path: Path, started: str, new: str, problem: str | None) -> None:
    before = fleets.load(tmp_path, entry(started))
    text = entry(new)
    fleets.write(tmp_path, text)
    write_adapter(tmp_path / "wide", "pebble-chat", rank=32)
    after = fleets.read(tmp_path / "fleet.yaml")
    found = needs_restart(before, after)
    assert bool(found) is bool(problem), found
    assert problem is None or problem in found[0]
    without = fleets.load(
        tmp_path, entry("adapters: []") if "max_loras" not in new else entry("engine: {max_loras: 2}")
    )
    assert bool(needs_restart(without, after, before)) is bool(problem), "the room is that of the start"


def entry(keys: str) -> str:
    return "models:\n  - model: pebble-chat\n" + "".join(f"    {line}\n" for line in keys.splitlines())


@pytest.mark.parametrize("name", ["pebble-triage", "pebble-reply"])
def test_the_adapters_of_this_repository_fit_their_base(tmp_path: Path, name: str) -> None:
    shutil.copytree(TRIAGE.with_name(name), tmp_path / name)
    file = tmp_path / "fleet.yaml"
    file.write_text(served_with(f"path: ./{name}"))
    assert fleet.load(file, CATALOG).served[0].adapters[0].rank in (8, 16)


SHARED = """
shares: {machine: {memory: 8GiB}}
models:
  - model: pebble-chat
    share: machine
    memory: 2GiB
"""


def test_the_room_for_adapters_is_part_of_a_shared_memory(tmp_path: Path) -> None:
    adapters = "    adapters: [{id: a, path: ./a}, {id: b, path: ./b}, {id: c, path: ./c}]\n"
    plain, started = fleets.load(tmp_path, SHARED), fleets.load(tmp_path, SHARED + adapters)
    before, after = (one.served[0].part for one in (plain, started))
    assert before and after
    layers = 4 * (4 * 256 + 3 * 512) + 2 * (512 + 128)
    assert after.overhead - before.overhead == before.cache - after.cache == 17 * 16 * 2 * layers
    assert not needs_restart(started, plain), "adapters go without a restart there too"
