"""`roundhouse usage`: a table, CSV and JSON of the ledger, and what it says where there is none."""

import csv
import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli.__main__ import main
from service.observability.ledger_file import DAY, LedgerFile
from service.observability.usage import since_of
from tests.observability.test_ledger import line


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    now = time.time()
    file = LedgerFile(tmp_path)
    file.write([line("a", now), line("b", now), line("c", now - 10 * DAY, tenant="u", completion=1000)])
    file.close()
    monkeypatch.setenv("ROUNDHOUSE_USAGE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["usage", *words])


def test_a_table_by_tenant_and_model_with_a_sum() -> None:
    rows = [row.split() for row in run().stdout.splitlines() if row.strip(" ─")]
    assert rows[0][:4] == ["tenant", "model", "requests", "refused"]
    assert rows[1:] == [
        ["t", "m", "2", "0", "20", "8", "10", "30", "0"],
        ["u", "m", "1", "0", "10", "4", "1,000", "1,010", "0"],
        ["all", "3", "0", "30", "12", "1,010", "1,040", "0"],
    ]


def test_json_and_csv_have_the_same_rows() -> None:
    words = ("--by", "day,key", "--since", "30d")
    rows = json.loads(run(*words, "--json").stdout)
    assert [(row["key"], row["requests"], row["total_tokens"]) for row in rows] == [("u-1", 1, 1010), ("t-1", 2, 30)]
    table = csv.DictReader(io.StringIO(run(*words, "--csv").stdout))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == list(table)


def test_since_and_tenant_leave_out_the_others() -> None:
    assert [row["tenant"] for row in json.loads(run("--since", "7d", "--json").stdout)] == ["t"]
    assert [row["tenant"] for row in json.loads(run("--tenant", "u", "--json").stdout)] == ["u"]
    assert json.loads(run("--since", "2100-01-01", "--json").stdout) == []


def test_a_moment_is_a_date_or_a_span_of_whole_days() -> None:
    now = 20_000.5 * DAY
    assert since_of("1970-01-03", now) == 2 * DAY
    assert since_of("1d", now) == 19_999 * DAY
    assert since_of("2w", now) == 19_986 * DAY
    assert since_of("24h", now) == now - DAY


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--by", "colour"), "day, tenant"),
        (("--since", "soon"), "2026-11-01"),
        (("--dir", "/nowhere"), "/nowhere"),
    ],
    ids=["by", "since", "dir"],
)
def test_what_is_wrong_is_named(words: tuple[str, str], text: str) -> None:
    result = run(*words)
    assert result.exit_code and text in result.output and "Traceback" not in result.output


def test_without_a_folder_it_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUNDHOUSE_USAGE_DIR")
    result = run()
    assert result.exit_code == 1 and "ROUNDHOUSE_USAGE_DIR" in result.output
