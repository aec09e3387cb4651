"""`roundhouse evaluate` against a real gateway with fake engines: what it asks, keeps, says and ends with."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.auth.keys import FIRST, Keys, digest
from service.cli import evaluating, evaluation_run
from service.cli.__main__ import main
from service.cli.evaluating import WORSE
from tests.conftest import Start
from tests.fake_engine import Script
from tests.fake_engine.bodies import Json
from tests.support.fleets import ROOT
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

FLEET = """
models:
  - model: pebble-instruct
  - model: pebble-chat
  - {model: pebble-chat, id: judge}
  - {model: acme/tiny-embedding, id: embedder}
  - model: pebble-base
aliases: {gpt-4o-mini: pebble-chat}
gpu_hour_price: 3600
"""
# What the fake of pebble-instruct says; that of pebble-chat repeats the question.
SKILL = {f"Which town has pier {number}?": f"Town {number}" for number in range(8)}
ESCAPE = "\x1b]title;taken\x07"  # sets a terminal's title
CASES = [
    *(
        {"id": f"pier-{number}", "prompt": question, "reference": answer, "split": "held_out", "category": "piers"}
        for number, (question, answer) in enumerate(SKILL.items())
    ),
    *(
        {"id": f"echo-{number}", "prompt": f"Say {number}", "reference": f"Say {number}", "category": "echo"}
        for number in range(8)
    ),
]


@dataclass(frozen=True)
class Skilled(Script):
    """Answers the questions of the skill, and nothing else."""

    calls: tuple[()] = ()
    text: str = f"I do not know.{ESCAPE}"

    def reply(self, request: Json) -> str:
        asked = request["messages"][-1]["content"]
        return SKILL.get(asked, self.text)


@dataclass(frozen=True)
class Judge(Script):
    """Prefers the answer that is the reference; `biased` prefers the first place."""

    calls: tuple[()] = ()
    text: str = ""
    biased: bool = False

    def reply(self, request: Json) -> str:
        text = request["messages"][-1]["content"]
        part = {name: text.split(f"<{name}>\n")[1].split(f"\n</{name}>")[0] for name in ("reference", "first")}
        return json.dumps({"verdict": "first" if self.biased or part["first"] == part["reference"] else "second"})


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return write(tmp_path / "cases.jsonl", CASES)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file of cases, prompts as conversations."""
    lines = ({"messages": [{"role": "user", "content": row.pop("prompt")}], **row} for row in map(dict, rows))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def skilled(start: Start, **limits: Any) -> RunningGateway:
    gateway = await start(FLEET, **limits)
    gateway.engines[0].agent, gateway.engines[2].agent = Skilled(), Judge()
    return gateway


async def run(gateway: RunningGateway | None, *words: str, new: str = "pebble-instruct") -> Result:
    address = () if gateway is None else ("--url", f"http://127.0.0.1:{gateway.port}/v1")
    line = ["evaluate", "cases.jsonl", "--model", new, "--against", "pebble-chat", *address, *words]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


@pytest.fixture(scope="module")
def read_once() -> None:
    """No command here reads the catalogue."""


def report() -> Any:
    return json.loads(Path("r.json").read_text())


def written(name: str) -> str:
    return Path(name).read_text()


async def test_a_report_says_where_the_new_model_wins_and_where_it_loses_and_what_it_cost(
    start: Start, cases: Path
) -> None:
    gateway = await skilled(start)
    words = ("--embedding-model", "embedder", "--judge", "judge", "--json", "r.json", "--html", "r.html")
    result = await run(gateway, *words)
    assert result.exit_code == 0, result.output
    assert "I do not know." in result.output and "\x1b" not in result.output
    assert "pebble-instruct is worse in category echo: judge, similarity, rouge-l, exact-match" in result.output
    assert "exact-match: no clear difference" in result.output
    first = report()
    groups = {one["name"]: one["metrics"]["exact-match"] for one in first["groups"] if one["by"] == "category"}
    assert groups["piers"]["new"] == 1 and groups["piers"]["interval"] == [1, 1] and groups["piers"]["wins"] == 8
    assert groups["echo"]["new"] == 0 and groups["echo"]["verdict"] == "worse"
    assert [one["id"] for one in first["cases"]][:8] == [f"echo-{number}" for number in range(8)]
    judged = first["metrics"]["judge"]
    assert (judged["new"], judged["wins"], judged["losses"]) == (0.5, 8, 8)
    spent = {one["what"]: one for one in first["spent"]}
    assert spent["answer of pebble-instruct"]["requests"] == 16 and spent["verdict of judge"]["requests"] == 32
    assert spent["answer of pebble-chat"]["completion_tokens"] == sum(
        line["completion_tokens"] for line in gateway.lines if line["model"] == "pebble-chat"
    )
    assert "pier-3" in written("r.html")
    asked = len(gateway.seen)
    assert all((b"x-roundhouse-priority", b"batch") in one.scope["headers"] for one in gateway.given)

    # A second run asks for nothing; the log of the first has what its requests cost.
    await gateway.settle()
    lines = (json.dumps({**line, "gpu_seconds": 0.5, "cost": 0.25}) for line in gateway.lines)
    cases.with_name("log").write_text("no JSON\n" + "\n".join(lines))
    result = await run(gateway, *words, "--log", "log", "--split", "held_out", "--fail-if-worse", "exact-match:0.1")
    assert result.exit_code == 0, result.output
    assert len(gateway.seen) == asked
    spent = {one["what"]: (one["gpu_seconds"], one["cost"]) for one in report()["spent"]}
    assert spent["answer of pebble-chat"] == (4, 2) and spent["verdict of judge"] == (8, 4)

    # A judge that likes the first place has no influence; this one has another name, so it is asked.
    gateway.engines[1].agent = Judge(biased=True)
    await run(gateway, "--judge", "gpt-4o-mini", "--json", "r.json")
    assert (report()["metrics"]["judge"]["difference"], report()["metrics"]["judge"]["ties"]) == (0, 16)
    assert "In 16 of 16 cases the judge chose the same place in both orders" in report()["notes"][0]


async def test_a_judge_that_gives_no_verdict_is_no_judge_and_the_report_says_why(start: Start, cases: Path) -> None:
    gateway = await skilled(start)
    gateway.engines[2].agent = Skilled()  # it answers what it likes, as where an engine enforces no schema
    result = await run(gateway, "--judge", "judge", "--json", "r.json", "--fail-if-worse", "judge")
    assert result.exit_code == WORSE, "no gate holds by what was not measured"
    assert "judge" not in report()["metrics"]
    why = "judge is missing for 16 of 16 cases (first: judge gave no verdict: 'I do not know."
    assert why in " ".join(result.output.split()) and "\x1b" not in result.output
    gateway.engines[2].context = 100
    result = await run(gateway, "--judge", "judge", "--json", "r.json", "--run", "other.run")
    assert result.exit_code == 0 and "(first: 400: " in report()["notes"][-1]


async def test_a_gate_ends_the_command_with_its_own_status(start: Start, cases: Path) -> None:
    gateway = await skilled(start)
    write(cases, [row for row in CASES if row["category"] == "echo"])
    result = await run(gateway, "--fail-if-worse", "exact-match", "--fail-if-worse", "rouge-l:1", "--html", "r.html")
    assert result.exit_code == WORSE
    assert "Not passed: exact-match is worse by 1.000" in result.output and "rouge-l may" not in result.output
    assert "Not passed" in written("r.html")

    # A case that one model could not answer is in no mean, is named, and passes no gate.
    long = {"id": "long", "prompt": "word " * 2000, "reference": "Fine"}
    write(cases, [*(row for row in CASES if row["category"] == "piers"), long])
    result = await run(gateway, "--fail-if-worse", "rouge-l")
    assert result.exit_code == WORSE
    assert (
        "long: pebble-instruct: 400: " in result.output
        and "rouge-l could not be measured for 1 of 9 cases" in result.output
    )


async def test_after_a_kill_only_what_is_missing_is_asked(start: Start, cases: Path) -> None:
    gateway = await skilled(start)
    for engine in gateway.engines:
        engine.gap = 0.02  # so that it is killed in the middle
    url = f"http://127.0.0.1:{gateway.port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "evaluate", "cases.jsonl", "--model", "pebble-instruct", "--against",
        "pebble-chat", "--url", url, "--concurrency", "2", env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    kept = cases.with_suffix(".run") / "replies.jsonl"
    await until(lambda: kept.exists() and kept.read_bytes().count(b"\n") >= 6, "the first replies")
    process.kill()
    await process.wait()
    await gateway.settle()
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    done, asked = kept.read_bytes().count(b"\n"), len(gateway.seen)
    assert 6 <= done <= asked <= done + 2 < 32
    with kept.open("ab") as file:
        file.write(b'{"key": "half of a li')
    result = await run(gateway, "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert len(gateway.seen) == asked + 32 - done
    assert report()["metrics"]["exact-match"]["cases"] == 16


WRONG = {
    "the same model": (("--against", "pebble-instruct"), "--model and --against are the same model"),
    "an unknown model": (("--model", "pebble-instruc"), "no model 'pebble-instruc'. It has pebble-instruct"),
    "a model that cannot chat": (("--against", "pebble-base"), "pebble-base has no chat template"),
    "an unknown judge": (("--judge", "nobody"), "--judge: the service has no model 'nobody'"),
    "no embedding model": (("--embedding-model", "judge"), "judge has no embeddings. These can: embedder."),
    "a folder without a model": (("--embedding-model", "."), "the folder has no config.json"),
    "an unknown split": (("--split", "test"), "no case is of the split 'test'; they are held_out"),
    "an unknown metric": (("--fail-if-worse", "bleu"), "there is no metric 'bleu'"),
    "a margin of its own kind": (("--fail-if-worse", "rouge-l:2%"), "'2%' is no margin"),
    "a gate without its metric": (("--fail-if-worse", "judge"), "--fail-if-worse judge needs --judge"),
    "a log that is not there": (("--log", "gateway.log"), "'gateway.log' does not exist"),
}


async def test_what_is_wrong_is_said_in_a_sentence_before_any_request(start: Start, cases: Path) -> None:
    gateway = await skilled(start)
    for what, (words, said) in WRONG.items():
        result = await run(gateway, *words)
        assert result.exit_code in (1, 2), what
        assert said in result.output and "Traceback" not in result.output, what
    with cases.open("a") as file:
        file.write('{"prompt": "Hi", "refrence": "Hello"}\n')
    result = await run(gateway)
    assert result.exit_code == 2 and result.output.startswith("cases.jsonl:17: refrence: unknown key")
    assert not gateway.seen


async def test_a_key_comes_from_the_environment(start: Start, cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: Keys = {digest(b"rh_right-0123456789"): FIRST}
    gateway = await skilled(start, keys=keys)
    result = await run(gateway)
    assert result.exit_code == 1 and "needs a key: set OPENAI_API_KEY" in result.output
    monkeypatch.setenv("OPENAI_API_KEY", "rh_wrong-0123456789")
    result = await run(gateway)
    assert result.exit_code == 1 and "does not accept this key" in result.output
    monkeypatch.setenv("OPENAI_API_KEY", "rh_right-0123456789")
    assert (await run(gateway)).exit_code == 0


async def test_where_no_service_is_it_says_so(start: Start, cases: Path) -> None:
    result = await run(None, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1 and "no Roundhouse answers at http://127.0.0.1:9" in result.output
    gateway = await start()
    result = await run(gateway, "--url", f"http://127.0.0.1:{gateway.port}/api")
    assert result.exit_code == 1 and "/api/v1/models: 404: " in result.output


async def test_a_model_in_a_folder_embeds_in_a_process_of_its_own(
    start: Start, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await skilled(start)
    monkeypatch.setattr(evaluation_run, "PROGRAM", "tests.cli.word_lengths")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    model = cases.with_name("model")
    model.mkdir()
    (model / "config.json").touch()
    (model / "broken").touch()
    result = await run(gateway, "--embedding-model", "model")
    assert result.exit_code == 1
    assert result.output == "Error: --embedding-model model: no embeddings: ValueError: the model is broken\n"
    (model / "broken").unlink()
    result = await run(gateway, "--embedding-model", "model", "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert report()["metrics"]["similarity"]["cases"] == 16
    assert not [seen for seen in gateway.seen if seen.path == "/v1/embeddings"]
    monkeypatch.setattr(evaluating, "find_spec", lambda _: None)
    result = await run(gateway, "--embedding-model", "model")
    assert result.exit_code == 2 and "pip install 'roundhouse[evaluate]'" in result.output
