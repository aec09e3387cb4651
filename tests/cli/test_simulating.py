"""`roundhouse simulate`."""

import gzip
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli import simulating, simulation_inputs
from service.config.settings import Settings
from tests.autoscaling.test_trace import line
from tests.support.fleets import CATALOG

(SIMULATE,) = simulating.COMMANDS
REPLICA = "--requests-per-second 2 --concurrency 32"
STEPS = f"--steps 2:5m,6:10m {REPLICA}"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal, and our catalogue read once."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(simulation_inputs, "settings_and_catalog", lambda: (Settings(), CATALOG))


def run(words: str) -> Result:
    return CliRunner().invoke(SIMULATE, words.split())


def record(words: str) -> Any:
    """What the command tells a program."""
    result = run(f"{words} --json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of ten minutes: two requests a second for `llama`, each ran 8 s and waited 2, and a few for `mistral`."""
    lines = []
    for second in range(600):
        moment = f"2026-11-20T09:{second // 60:02}:{second % 60:02}Z"
        lines += [line().replace("2026-11-20T09:30:00Z", moment)] * 2
    lines += ["a line of something else", line(model="mistral")]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_log_says_whether_one_more_replica_is_needed(log: Path) -> None:
    found = record(f"--log {log} --model llama --concurrency 4 --replicas 3 --replicas 5 --price 2")
    # 2 a second x 8 s are 16 at a time: four replicas of four.
    assert found["replica"]["seconds"] == 8.0
    assert found["fewest_replicas"] == 4
    few, many = found["runs"]["3 replicas"], found["runs"]["5 replicas"]
    assert few["refused"] > 0.2 * few["requests"]
    assert (many["requests"], many["refused"], many["ttft_s"]["p99"], many["in_time"]) == (1200, 0, 1.0, 1.0)
    assert many["gpu_hours"] == pytest.approx(5 * 607 / 3600, rel=0.01)
    again = record(
        f"--log {log} --model llama --concurrency 4 --replicas 5 --replicas 5 --policy queue --max-replicas 1"
    )
    assert again["fewest_replicas"] == 4
    assert many["cost"] == pytest.approx(2 * many["gpu_hours"])


def test_a_log_may_be_packed_or_come_in_parts(log: Path, tmp_path: Path) -> None:
    lines = log.read_text().splitlines()
    words = f"--log {log} --model llama --concurrency 4 --replicas 5 --json"
    piped = CliRunner().invoke(SIMULATE, words.replace(str(log), "-").split(), input=log.read_text())
    assert piped.output == run(words).output
    packed, rest = tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl"
    packed.write_bytes(gzip.compress("\n".join(lines[:300]).encode()))
    rest.write_text("\n".join(lines[300:]))
    assert record(f"--log {packed} --log {rest} --model llama --concurrency 4 --replicas 5") == record(
        f"--log {log} --model llama --concurrency 4 --replicas 5"
    )


def test_policies_and_numbers_stand_side_by_side_and_the_picture_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    result = run(f"{STEPS} --policy load --policy queue --replicas 4 --price 2 --picture {path}")
    assert result.exit_code == 0, result.output
    names = [row.split("  ")[0] for row in result.output.splitlines()]
    assert {"load", "queue", "4 replicas"} <= set(names)
    assert "cost" in result.output
    assert (
        "The fewest replicas, always there, that have 95 % of the first tokens within 2 s and refuse at most one "
        in result.output
    )
    texts = {one.text for one in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}
    assert {"load", "queue", "4 replicas"} <= texts


def test_the_cap_holds_and_the_cold_start_counts() -> None:
    found = record(f"{STEPS} --policy load --max-replicas 2")["runs"]["load"]
    assert found["peak_replicas"] == 2
    slow, quick = (record(f"{STEPS} --policy load --cold-start {one}")["runs"]["load"] for one in ("5m", "10s"))
    assert slow["refused"] > quick["refused"]


def test_a_model_scaled_to_zero_is_woken() -> None:
    found = record(f"--steps 0:10m,1:10m {REPLICA} --min-replicas 0 --queue-timeout 5m --cold-start 60s")["runs"][
        "load"
    ]
    fields, *samples = found["samples"]
    ready = [dict(zip(fields, one, strict=True)) for one in samples]
    assert {one["ordered"] for one in ready if 400 < one["at"] < 590} == {0}
    assert ready[-1]["ready"] >= 1
    assert found["refused"] == 0
    assert 60 < found["ttft_s"]["p95"] < 120


def test_missing_metrics_and_a_fallback() -> None:
    runs = [record(f"{STEPS} --blind 4m:8m --fallback {number}")["runs"]["load"] for number in (1, 4)]
    assert runs[0]["refused"] > runs[1]["refused"]


def test_rates_need_replicas() -> None:
    found = record(f"--need 10,20 {REPLICA} --gpus 2 --price 3")["needs"]
    assert [one["replicas_with_headroom"] for one in found] == [6, 12]
    assert [one["gpus"] for one in found] == [12, 24]
    assert found[0]["cost_per_hour"] == 36.0
    assert "with headroom" in run(f"--need 10 {REPLICA} --price 3").output


def test_the_plan_says_what_a_replica_can_take() -> None:
    half, whole = (record(f"llama-2-7b-chat --gpu H100 --need 5 --efficiency {share}")["replica"] for share in (0.5, 1))
    assert whole["requests_per_second"] == pytest.approx(2 * half["requests_per_second"])
    result = run("llama-2-70b-chat --gpu H100 --need 5")
    assert "2 x H100" in result.output


def test_a_file_of_arrivals(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("time,completion_tokens\n" + "\n".join(f"{second},{100 + second}" for second in range(100)))
    found = record(f"llama-2-7b-chat --trace {path} --gpu L40S --replicas 1")["runs"]["1 replica"]
    assert found["requests"] == 100


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "give one load: --log, --trace, --steps or --daily; or --need"),
        ("--steps 2:5m --daily 1:2", "give one load"),
        ("--steps 2:5m", "say what a replica can take: MODEL and --gpu; or --concurrency with"),
        ("--steps 2:5m --concurrency 8", "how long a request runs is unknown: give --requests-per-second or"),
        ("--steps 2:5m --gpu H100", "--gpu is for a MODEL of the catalogue: name it"),
        ("llama-2-7b-chat --steps 2:5m --gpu H1000", "no GPU 'H1000' is known; known are T4"),
        ("llama-2-7b-chatt --steps 2:5m --gpu H100", "the catalogue has no model 'llama-2-7b-chatt'. Did you mean"),
        ("llama-2-70b-chat --steps 2:5m --gpu L4 --tensor-parallel 1", "bf16 on L4: weights of"),
        (f"--steps 2:5m --gpu H100 {REPLICA}", "say once what a replica can take"),
        (f"{STEPS} --min-replicas 3 --max-replicas 2", "--min-replicas 3 is more than --max-replicas 2"),
        (f"--need 10 {STEPS}", "--need makes its own traffic: leave out the load, --replicas and --policy"),
        (f"--need 0,10 {REPLICA}", "requests a second are more than 0 and less than a million"),
        (f"--need ten {REPLICA}", "'ten' is not requests a second"),
        (f"--steps 0:5m {REPLICA}", "the load has no request"),
        (f"--steps 2:5m {REPLICA} --blind 5m", "'5m' is not FROM:DURATION"),
        (f"--daily 1:2 --duration 0s {REPLICA}", "--duration must be more than 0"),
        ("--log missing.jsonl --concurrency 8", "'missing.jsonl' does not exist"),
        (f"--steps 2:5m {REPLICA} --picture no/such/folder.svg", "--picture no/such/folder.svg: No such file"),
        (f"--steps 2:5m {REPLICA} --sync 0s", "--sync must be a second or more"),
    ],
)
def test_what_cannot_be_simulated_is_said(words: str, why: str) -> None:
    result = run(words)
    assert result.exit_code == 2
    assert why in result.output


def test_what_is_wrong_with_a_file_is_said(log: Path, tmp_path: Path) -> None:
    known = "it has llama (1,200 requests), mistral (1 requests)"
    assert (
        f"requests for several models: choose one with --model; {known}" in run(f"--log {log} --concurrency 4").output
    )
    assert f"no requests for 'llama-3'; {known}" in run(f"--log {log} --model llama-3 --concurrency 4").output
    empty, wrong, binary = tmp_path / "empty.csv", tmp_path / "wrong.csv", tmp_path / "log.gz"
    empty.write_text("time\n")
    wrong.write_text("time\nnoon\n")
    binary.write_bytes(b"\x00\xff")
    assert f"{empty}: no requests" in run(f"--trace {empty} {REPLICA}").output
    assert f"{wrong}: line 2: 'noon' is neither seconds nor a date" in run(f"--trace {wrong} {REPLICA}").output
    assert (
        f"{empty}: no requests; they are the lines of a gateway's log that have"
        in run(f"--log {empty} {REPLICA}").output
    )
    assert f"{binary}: Not a gzipped file" in run(f"--log {binary} {REPLICA}").output
