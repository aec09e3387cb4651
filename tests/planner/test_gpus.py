"""The table of GPUs in deploy/gpus.yaml."""

from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.planner import gpus
from service.planner.gpus import GIB
from tests.support.fleets import ROOT

KNOWN = gpus.load(ROOT / "deploy/gpus.yaml")
ROW = """\
  - {name: X1, usable_gib: 10, bandwidth_gb_per_s: 100, bf16: true, mxfp4: true, per_node: 8, interconnect: none,
     source: nowhere}
"""


def test_common_gpus_are_in_the_file() -> None:
    wanted = {"T4", "L4", "A10G", "A100-40", "A100-80", "L40S", "H100", "H200", "B200", "MI300X"}
    assert set(KNOWN) >= wanted


@pytest.mark.parametrize("gpu", KNOWN.values(), ids=lambda gpu: gpu.name)
def test_every_gpu_is_plausible_and_names_its_source(gpu: gpus.Gpu) -> None:
    assert gpu.source
    assert 8 * GIB < gpu.memory < 512 * GIB
    assert 1e11 < gpu.bandwidth < 2e13
    # A figure in the wrong unit would put the ratio of FLOPs to bandwidth far outside what any GPU has.
    assert gpu.tflops_16bit is None or 50 < gpu.tflops_16bit * 1e12 / gpu.bandwidth < 1000
    assert (gpu.fp8 == "arithmetic") == (gpu.tflops_fp8 is not None)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("h100", "H100"), ("A100 80GB", "A100-80"), ("a100-40g", "A100-40"), ("NVIDIA L4", "L4"),
     ("amd instinct mi300x", "MI300X")],
)  # fmt: skip
def test_find_accepts_common_spellings(spelling: str, name: str) -> None:
    found = gpus.find(spelling, KNOWN)
    assert found
    assert found.name == name


@pytest.mark.parametrize("name", ["A100", "H1000", "", "L40"])
def test_find_rejects_ambiguous_and_unknown_names(name: str) -> None:
    assert gpus.find(name, KNOWN) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gpus:\n" + ROW + ROW, "gpus.yaml:4: gpus[1].name: 'X1' is defined twice"),
        ("gpus:\n" + ROW.replace("100,", "-1,"), "gpus[0].bandwidth_gb_per_s"),
        ("gpus:\n" + ROW.replace("bf16", "bf61"), "gpus.yaml:2: gpus[0].bf61: unknown key"),
        ("gpus: []\n", "gpus.yaml:1: gpus"),
    ],
)
def test_mistake_names_line_and_key(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        gpus.load(path)
    assert problem in str(error.value)
