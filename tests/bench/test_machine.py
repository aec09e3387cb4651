"""The card under test, as a program called nvidia-smi tells of it."""

from pathlib import Path

import pytest

from bench.gpu import machine
from bench.gpu.machine import Card
from service.planner.gpus import load
from tests.support.fleets import ROOT

GPUS = load(ROOT / "deploy/gpus.yaml")
GIB = 2**30


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_card_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in *name,driver_version,memory.total*) echo "NVIDIA H200, 580.1, 143771"; '
    install(tmp_path, monkeypatch, f"{script} echo 'NVIDIA H200, 580.1, 143771';; *memory.used*) echo 512;; esac")
    assert machine.card() == Card("NVIDIA H200", "580.1", 143771 * 2**20, 2)
    assert machine.memory_in_use() == 512 * 2**20
    told = machine.describe(machine.card(), rehearsal=False)
    assert (told["card"], told["driver"], told["cards"], told["rehearsal"]) == ("NVIDIA H200", "580.1", 2, False)
    assert told["vllm"] != "not installed"


@pytest.mark.parametrize("script", ["exit 9", ""])
def test_without_a_card_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    install(tmp_path, monkeypatch, script)
    assert machine.card() is None
    assert machine.memory_in_use() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert machine.card() is None
    assert machine.describe(None, rehearsal=True)["card"] is None


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA H200", 140.4, "H200"),
        ("NVIDIA H100 80GB HBM3", 79.6, "H100"),
        ("NVIDIA A100-SXM4-80GB", 80.0, "A100-80"),
        ("NVIDIA A100-SXM4-40GB", 40.0, "A100-40"),
        ("Tesla T4", 15.0, "T4"),
        ("NVIDIA L40S", 45.0, "L40S"),
        ("NVIDIA H100 PCIe", 79.6, None),  # another memory, and so another bandwidth, than the file's
        ("NVIDIA H100 NVL", 94.0, None),
        ("NVIDIA GeForce RTX 4090", 24.0, None),
    ],
)
def test_only_the_very_card_of_the_file_has_its_bounds(name: str, gib: float, known: str | None) -> None:
    found = machine.known(Card(name, "1", int(gib * GIB), 1), GPUS)
    assert (found.name if found else None) == known


def test_an_unknown_card_is_good_for_its_memory() -> None:
    assumed = machine.assumed(Card("NVIDIA GeForce RTX 4090", "1", 24 * GIB, 1))
    assert 23 * GIB < assumed.memory < 24 * GIB
    assert assumed.tflops_16bit is None


def test_a_folder_is_named_after_the_card() -> None:
    assert Card("NVIDIA H100 80GB HBM3", "1", 1, 1).slug == "nvidia-h100-80gb-hbm3"
