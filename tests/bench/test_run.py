"""The kit as its user starts it, with stand-ins for vLLM: results as they come, reasons of failures, a second run."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.gpu import results
from bench.gpu.results import Result
from service.config.paths import ROOT
from tests.support.services import PATIENCE, descendants_of, wait_for

STAND_IN = f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable} -m tests.support.stand_in"
SPLIT, SLEEP, PLAIN = (f"llama-2-7b-chat+{one}" for one in ("split", "sleep", "no-prefix-cache"))


class Kit:
    """Runs of the kit into one folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("ROUNDHOUSE_ENGINE_PROGRAM", STAND_IN)
        monkeypatch.setenv("PYTHON", sys.executable)

    def __call__(self, *arguments: str) -> str:
        command = [str(ROOT / "bench/gpu/run"), "--rehearse", "--out", str(self.folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    def found(self) -> dict[str, Result]:
        return {one.experiment: one for one in results.read_results(self.folder)}


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    return Kit(tmp_path / "results", monkeypatch)


def test_each_result_is_kept_and_a_second_run_does_only_the_rest(kit: Kit) -> None:
    said = kit("--minutes", "3", "--only", "split/short", "--only", "split/chunked", "--only", "split/start")
    assert "3 results in" in said
    found = kit.found()
    assert set(found) == {f"{SPLIT}/{one}" for one in ("start", "short", "chunked")}
    short = found[f"{SPLIT}/short"]
    assert short.outcome == "measured", short.reason
    assert short.where["rehearsal"]
    assert short.where["card"] is None
    assert short.command.startswith("bench/gpu/run --rehearse --out")
    assert len(short.engines) == 2
    assert "--load-format" in short.engines[0]
    assert not [word for words in short.engines for word in words if str(ROOT) in word and "=" not in word]
    for row in short.figures["loads"]:
        assert row["direct"]["tokens"] == row["service"]["tokens"] == row["streams"] * 2 * 16
        assert row["ratio"] > 0
        assert row["gateway_cpu_s_per_million"] >= 0
    assert [engine["model"] for engine in found[f"{SPLIT}/start"].figures["engines"]] == [
        "llama-2-7b-chat", "phi-3-mini-4k-instruct",
    ]  # fmt: skip

    said = kit("--minutes", "3", "--only", "split/short", "--only", "sleep")
    assert kit.found()[f"{SPLIT}/short"] == short, "it was there already"
    slept = kit.found()[f"{SLEEP}/sleep"]
    assert (slept.outcome, slept.reason) == ("measured", None)  # the kit gives it the routes for that
    assert slept.figures["first_sleep_s"] >= 0
    assert "1 results in" in said


def test_an_engine_that_does_not_start_is_a_result_with_its_own_reason(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_ENGINE_PROGRAM", STAND_IN.replace("env ", "env STAND_IN=broken ", 1))
    said = kit("--minutes", "2", "--only", PLAIN)
    found = kit.found()
    assert set(found) == {f"{PLAIN}/prefix", f"{PLAIN}/start", f"{PLAIN}/restart"}
    for one in found.values():
        assert one.outcome == "failed"
        assert one.reason
        assert "ValueError: the weights are broken" in one.reason
        assert "--no-enable-prefix-caching" in one.engines[0]
    assert "3 of them failures" in said
    assert "0 results in" in kit("--minutes", "2", "--only", PLAIN), "what failed is not tried again unasked"
    monkeypatch.setenv("ROUNDHOUSE_ENGINE_PROGRAM", STAND_IN)
    kit("--minutes", "2", "--only", f"{PLAIN}/start", "--again")
    assert kit.found()[f"{PLAIN}/start"].outcome == "measured"
    assert kit.found()[f"{PLAIN}/prefix"].outcome == "failed"


def test_a_kit_that_is_killed_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_ENGINE_PROGRAM", STAND_IN)
    command = [sys.executable, "-m", "bench.gpu.run", "--rehearse", "--only", f"{PLAIN}/start", "--minutes", "5"]
    with tempfile.TemporaryDirectory(prefix="kit-") as name:  # short: BentoML's own sockets lie there too
        monkeypatch.setenv("TMPDIR", name)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: list(Path(name).glob("rh-gpu-*/*-0.log")), PATIENCE, "an engine")
            (folder,) = Path(name).glob("rh-gpu-*")
            assert len(descendants_of(folder)) > 2
        finally:
            process.kill()
            process.wait()
        wait_for(lambda: not descendants_of(folder), PATIENCE, "the end of all that it started")


def test_what_does_not_fit_is_left_and_said(kit: Kit) -> None:
    said = kit("--minutes", "0.1")
    assert "0 results in" in said
    assert f"left for another run, for want of time: {SPLIT}/start" in said
    assert not kit.folder.exists() or not list(kit.folder.iterdir())


def test_the_list_starts_nothing(kit: Kit) -> None:
    listed = kit("--list", "--minutes", "9")
    assert f"{SPLIT}/short" in listed
    assert not kit.folder.exists()


def test_without_a_card_there_is_nothing_to_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = [sys.executable, "-m", "bench.gpu.run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nvidia-smi shows no card here" in done.stderr
    assert "--rehearse" in done.stderr


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"x\.json is no result of the kit"):
        results.read_results(tmp_path)
