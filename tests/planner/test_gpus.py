"""The table of GPUs."""

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


def test_has_the_gpus_that_people_ask_about() -> None:
    wanted = {"T4", "L4", "A10G", "A100-40", "A100-80", "L40S", "H100", "H200", "B200", "MI300X"}
    assert set(KNOWN) >= wanted


@pytest.mark.parametrize("gpu", KNOWN.values(), ids=lambda gpu: gpu.name)
def test_every_row_is_plausible_and_says_where_it_is_from(gpu: gpus.Gpu) -> None:
    assert gpu.source
    assert 8 * GIB < gpu.memory < 512 * GIB
    assert 1e11 < gpu.bandwidth < 2e13
    # A unit slip would put a card's ratio of arithmetic to memory far outside of what any has.
    assert gpu.tflops_16bit is None or 50 < gpu.tflops_16bit * 1e12 / gpu.bandwidth < 1000
    assert (gpu.fp8 == "arithmetic") == (gpu.tflops_fp8 is not None)


@pytest.mark.parametrize(
    ("said", "name"),
    [("h100", "H100"), ("A100 80GB", "A100-80"), ("a100-40g", "A100-40"), ("NVIDIA L4", "L4"),
     ("amd instinct mi300x", "MI300X")],
)  # fmt: skip
def test_a_gpu_is_found_as_people_write_it(said: str, name: str) -> None:
    found = gpus.find(said, KNOWN)
    assert found
    assert found.name == name


@pytest.mark.parametrize("said", ["A100", "H1000", "", "L40"])
def test_an_unclear_name_is_no_gpu(said: str) -> None:
    assert gpus.find(said, KNOWN) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gpus:\n" + ROW + ROW, "gpus.yaml:4: gpus[1].name: 'X1' stands here twice"),
        ("gpus:\n" + ROW.replace("100,", "-1,"), "gpus[0].bandwidth_gb_per_s"),
        ("gpus:\n" + ROW.replace("bf16", "bf61"), "gpus.yaml:2: gpus[0].bf61: unknown key"),
        ("gpus: []\n", "gpus.yaml:1: gpus"),
    ],
)
def test_a_wrong_table_is_refused_with_line_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        gpus.load(path)
    assert complaint in str(refusal.value)
