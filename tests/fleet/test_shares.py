"""Shares of a fleet file: the part of each engine, what it becomes on its command line, and what is refused."""

import math
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.config.strict_yaml import ConfigError, Document
from service.engine.argv import argv, environment
from service.engine.command import Command, child_environment
from service.engine.memory_check import required_memory
from service.fleet.reload import needs_restart
from service.fleet.schema import FleetFile
from service.fleet.shares import assigned_cards, too_large, too_many_asleep
from service.planner.memory import GRAPH_BYTES, RUNTIME_BYTES
from service.sharing.parts import CONTEXT_BYTES, PROCESSES_BYTES, Share
from tests.support import fleets
from tests.support.each import each

GIB = 2**30
CPU = """
shares: {ram: {memory: 6GiB, turn: 30}}
models:
  - {model: pebble-chat, share: ram, keep: always, max_in_flight: 8}
  - {model: pebble-code, share: ram, keep: warm, memory: 3GiB}
  - model: pebble-instruct
"""
CARDS = """
shares: {pair: {memory: 80GiB, gpus: [2, 0]}}
models:
  - {model: llama-2-7b-chat, gpus: 1}
  - {model: llama-2-13b-chat, share: pair, keep: warm, memory: 40GiB}
  - {model: code-llama-7b, share: pair, max_in_flight: 4}
  - {model: llama-2-7b, gpus: 2}
"""


def flags_of(served: object) -> list[str]:
    return argv(served, ["vllm"], Path("/x.sock"), 20.0)  # type: ignore[arg-type]


def test_the_page_begins_with_a_fleet_that_can_be_served(tmp_path: Path) -> None:
    """Its models take turns: the one that is always there has room for one of the others beside it, not for both."""
    example = (fleets.ROOT / "docs/sharing.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    always, *others = (one.part.memory for one in fleets.load(tmp_path, example).served if one.part)
    assert always + max(others) <= 76 * GIB < always + sum(others)


def test_on_the_cpu_the_part_is_processes_weights_and_cache(tmp_path: Path) -> None:
    always, stated, alone = fleets.load(tmp_path, CPU).served
    assert always.part
    weights = sum(file.stat().st_size for file in Path(always.weights).glob("*.safetensors"))
    request, spare = (
        2 * 2**20,
        256 * 2**11,
    )  # Pebble has 2 KiB for each token: 4 layers of 4 heads of 32, twice, 16 bits
    assert (always.part.weights, always.part.overhead) == (weights, PROCESSES_BYTES)
    assert always.part.cache == 8 * request + spare
    assert (always.min_replicas, always.max_replicas, always.part.keep) == (1, 1, "always")
    assert always.part.share == Share("ram", 6 * GIB, (), 30.0)
    assert required_memory(always) == always.part.memory
    assert stated.part
    assert (stated.part.memory, stated.part.keep, stated.part.asleep) == (3 * GIB, "cold", 0)
    assert stated.stays_cold and not always.stays_cold
    assert (stated.min_replicas, stated.scale_down_after) == (0, math.inf)
    assert alone.part is None
    flags = flags_of(stated)
    assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(stated.part.cache)
    assert not {"--gpu-memory-utilization", "--enable-sleep-mode"} & {*flags}
    assert "--kv-cache-memory-bytes" not in flags_of(alone)


def test_a_part_is_not_overruled_by_the_variable_of_the_cpu_build(tmp_path: Path) -> None:
    _, stated, alone = fleets.load(tmp_path, CPU + "env: {VLLM_CPU_KVCACHE_SPACE: 5}\n").served
    around = {"VLLM_CPU_KVCACHE_SPACE": "7"}
    assert "VLLM_CPU_KVCACHE_SPACE" not in child_environment(stated, around)
    assert child_environment(alone, around)["VLLM_CPU_KVCACHE_SPACE"] == "5"


def test_on_cards_the_part_is_a_fraction_and_may_sleep(tmp_path: Path) -> None:
    fleet = fleets.load(tmp_path, CARDS)
    _, warm, cold, _ = fleet.served
    assert warm.part and cold.part
    assert (warm.gpus, warm.part.memory, warm.part.asleep) == (2, 40 * GIB, RUNTIME_BYTES + GRAPH_BYTES + CONTEXT_BYTES)
    assert warm.gpus_held == 1.0
    flags = flags_of(warm)
    assert flags[flags.index("--gpu-memory-utilization") + 1] == "0.5"
    assert flags[flags.index("--tensor-parallel-size") + 1] == "2"
    assert "--enable-sleep-mode" in flags
    assert "--enable-sleep-mode" not in flags_of(cold)
    # The routes for sleeping are among those for development, which no other engine has.
    assert [environment(one)["VLLM_SERVER_DEV_MODE"] for one in fleet.served] == ["0", "1", "0", "0"]


def test_cards_are_assigned_around_those_that_are_shared(tmp_path: Path) -> None:
    fleet = fleets.load(tmp_path, CARDS)
    cards = [assigned_cards(fleet.served, order) for order in range(4)]
    assert cards == [(1,), (2, 0), (2, 0), (3, 4)]
    command = Command(fleet.served[1], 1, tmp_path, Settings(run_dir=tmp_path), tmp_path / "e1.sock", cards[1])
    seen = command.environment({"CUDA_VISIBLE_DEVICES": "7"}, "x")
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("2,0", "PCI_BUS_ID")
    assert assigned_cards(fleets.load(tmp_path, CPU).served, 0) is None


def test_the_weights_of_all_that_sleep_fit_the_machine(tmp_path: Path) -> None:
    served = fleets.load(tmp_path, CARDS.replace("max_in_flight: 4", "keep: warm, max_in_flight: 4")).served
    assert too_many_asleep(served, 100 * GIB) is None
    refused = too_many_asleep(served, 16 * GIB)
    assert refused
    assert "llama-2-13b-chat 24.2 GiB + code-llama-7b 12.6 GiB = 36.8 GiB are more than its 16.0 GiB" in refused


def test_a_changed_part_needs_a_restart(tmp_path: Path) -> None:
    before, after = fleets.load(tmp_path, CPU), fleets.load(tmp_path, CPU.replace("6GiB", "7GiB"))
    assert all("'part'" in problem for problem in needs_restart(before, after))
    assert len(needs_restart(before, after)) == 2


def fleet(entry: str, shares: str = "ram: {memory: 4GiB}", more: str = "") -> str:
    return f"shares: {{{shares}}}\nmodels:\n  - {{model: pebble-chat{entry}}}\n{more}"


REFUSED = [
    (fleet("", "ram: {gpus: 0}"), "fleet.yaml:1: shares.ram.memory: is missing"),
    (fleet("", "ram: {memory: 4}"), "fleet.yaml:1: shares.ram.memory: is no size: write it with its unit, as 20GiB"),
    (fleet("", "ram: {memory: 4GiB, gpus: [0, 0]}"), "fleet.yaml:1: shares.ram.gpus: names a card twice"),
    (fleet("", "a: {memory: 4GiB, gpus: [1]}, b: {memory: 1GiB, gpus: [0, 1]}"), "GPU 1 is in share 'a' already"),
    (fleet("", "a: {memory: 4GiB}, b: {memory: 1GiB}"), "shares.b: share 'a' has this machine's memory already"),
    (fleet(", keep: warm"), "fleet.yaml:3: models[0].keep: needs 'share'"),
    (fleet(", memory: 2GiB"), "fleet.yaml:3: models[0].memory: needs 'share'"),
    (fleet(", share: rom"), "models[0].share: 'rom' is not one of the 'shares' of this file: 'ram'"),
    (fleet(", share: ram, gpus: 1"), "models[0].gpus: beside 'share': the share says on which cards"),
    (fleet(", share: ram, min_replicas: 0"), "models[0].min_replicas: beside 'share': 'keep' says when"),
    (fleet(", share: ram, max_replicas: 2"), "models[0].max_replicas: beside 'share': a model of a share has one"),
    (fleet(", share: ram, engine: {gpu_memory_utilization: 0.5}"), "engine: 'gpu_memory_utilization' follows"),
    (fleet(", share: ram, env: {VLLM_CPU_KVCACHE_SPACE: 1}"), "models[0].env: 'VLLM_CPU_KVCACHE_SPACE' follows"),
    (fleet(", share: ram, memory: 1GiB"), "models[0].memory: 1.00 GiB leave 0 MiB for the KV cache beside weights"),
    (fleet(", share: ram, memory: 5GiB"), "it takes 5.00 GiB and can never be there: share 'ram' has 4.00 GiB"),
    (
        fleet(", share: ram, memory: 2GiB, keep: always", more="  - {model: pebble-code, share: ram, memory: 3GiB}"),
        "fleet.yaml:4: models[1].share: it takes 3.00 GiB and can never be there: share 'ram' has 4.00 GiB - "
        "pebble-chat 2.00 GiB = 2.00 GiB. What helps: ",
    ),
    (fleet("", more="  - {model: acme/what-7b-chat, share: ram}"), "share: the size of its weights is unknown"),
]  # fmt: skip


@each(("text", "expected"), REFUSED)
def test_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        fleets.load(tmp_path, text)
    assert expected in str(refused.value)


def test_what_does_not_fit_is_shown_with_all_that_shares_it(tmp_path: Path) -> None:
    text = fleet(", share: ram, memory: 2GiB, keep: always", more="  - {model: pebble-code, share: ram, memory: 3GiB}")
    with pytest.raises(ConfigError) as refused:
        fleets.load(tmp_path, text)
    _, head, first, second, together = str(refused.value).splitlines()
    assert head == "share ram: 4.00 GiB of this machine's memory, turns of 120 s while others wait"
    assert first.split()[:3] == ["pebble-chat", "2.00", "GiB"]
    assert second.split()[:3] == ["pebble-code", "3.00", "GiB"]
    assert together == "  together 5.00 GiB, which do not fit at once"


def test_a_share_larger_than_what_it_is_of(tmp_path: Path) -> None:
    text = fleet("", "ram: {memory: 4GiB}, card: {memory: 80GiB, gpus: [0]}, far: {memory: 1GiB, gpus: [5]}")
    document = Document(fleets.write(tmp_path, text))
    file = document.read(FleetFile)
    found = list(too_large(document, file, {None: 3 * GIB, 0: 79 * GIB}))
    assert [problem.partition("fleet.yaml:1: ")[2] for problem in found] == [
        "shares.ram.memory: 4.00 GiB are more than the 3.00 GiB that this machine has",
        "shares.card.memory: 80.0 GiB are more than the 79.0 GiB that GPU 0 has",
        "shares.far.gpus: there is no GPU 5 on this machine",
    ]
    # On a machine without cards nothing is known of them: the file may be meant for another.
    assert not list(too_large(document, file, {None: 9 * GIB}))
