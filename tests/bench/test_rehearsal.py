"""The whole kit on real vLLM: two networks in small on the CPU, every kind of measurement."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import report, results
from bench.gpu.experiments import scaled_down
from service.config.paths import ROOT
from tests.support.fleets import CATALOG

MINUTES = 10.0  # it takes less than three on two idle cores, but machines are shared
SPLIT = "llama-2-7b-chat+split"


@pytest.mark.engine
def test_the_kit_from_the_first_engine_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    folder = tmp_path / "results" / "rehearsal"
    command = [str(ROOT / "bench/gpu/run"), "--rehearse", "--minutes", str(MINUTES), "--out", str(folder)]
    # The other setups differ by a flag each, and test_run.py has them with stand-ins.
    command += ["--only", SPLIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    found = {one.experiment: one for one in results.read_results(folder)}

    # A slow machine leaves the least valuable for another run, and says which.
    left = re.search(r"left for another run, for want of time: (.*)", done.stderr)
    rest = left[1].split(", ") if left else []
    assert {*found, *rest} == {one.id for one in scaled_down(CATALOG) if one.setup.name == SPLIT}
    needed = ("start", "short", "long", "shared", "batching", "bounds", "prefix", "chunked", "split")
    assert {f"{SPLIT}/{one}": found[f"{SPLIT}/{one}"].reason for one in needed} == {
        f"{SPLIT}/{one}": None for one in needed
    }
    for engine in found[f"{SPLIT}/start"].figures["engines"]:
        assert engine["kv_blocks"] == engine["kv_blocks_for_its_bytes"], "the planner counts blocks as vLLM does"
    for measure in ("short", "long", "shared"):
        for row in found[f"{SPLIT}/{measure}"].figures["loads"]:
            assert row["direct"]["tokens"] == row["service"]["tokens"] > 0
    if theirs := found.get(f"{SPLIT}/vllm-bench"):
        assert theirs.reason is None
        assert {row["via"] for row in theirs.figures["loads"] if row["tokens_per_s"] > 0} == {"direct", "service"}

    report.main(["--results", str(folder.parent), "--page", str(tmp_path / "gpu.md")])
    page = (tmp_path / "gpu.md").read_text()
    assert "Its figures say nothing about any GPU." in page
    assert list((folder / "plots").glob("*.png"))
