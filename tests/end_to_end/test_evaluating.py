"""`roundhouse evaluate` on the real Pebbles: each wins what it was made for, and the report says so."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli.__main__ import main
from tests.evaluation.pebble_cases import FILE
from tests.support.services import Service

pytestmark = pytest.mark.engine
EVERY = 3  # of the cases, so that each category has at least eight but the last


def test_pebble_instruct_wins_its_skills_and_loses_pebble_chats(pebble: Service, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(FILE.read_text().splitlines(keepends=True)[::EVERY]))
    words = ("--url", pebble.url, "--run", str(tmp_path / "run"), "--json", str(tmp_path / "r.json"))
    models = ("--model", "pebble-instruct", "--against", "pebble-chat")
    result = CliRunner().invoke(main, ["evaluate", str(cases), *models, *words])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    verdicts = {one["name"]: one["metrics"]["exact-match"]["verdict"] for one in report["groups"]}
    assert verdicts == {"extract": "better", "classify": "better", "recall": "worse", "small talk": "too few"}
    assert all(one["completion_tokens"] for one in report["spent"]) and not report["missing"]
