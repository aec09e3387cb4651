"""`make mutants`: which mutants are tried, and what is said of them."""

import json
from pathlib import Path

import pytest

from tests import mutants

MODULE = "service.routing.policies"
NAMES = [f"{MODULE}.x_quick__mutmut_{number}" for number in range(40)] + [f"{MODULE}.x_slow__mutmut_1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What mutmut has left after it has run the tests once: those of `slow` took an hour."""
    stats = {
        "tests_by_mangled_function_name": {f"{MODULE}.x_quick": ["a", "b"], f"{MODULE}.x_slow": ["c"]},
        "duration_by_test": {"a": 0.5, "b": 1.0, "c": 3600.0},
    }
    (tmp_path / "mutmut-stats.json").write_text(json.dumps(stats))
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("minutes", "most"), [(0, 0), (0.1, 6), (10, 40)])
def test_the_sample_is_what_the_minutes_allow(minutes: float, most: int) -> None:
    drawn = mutants.chosen(NAMES, minutes, seed=1)
    assert len(drawn) <= most
    assert sum(0.5 + 1.5 for _ in drawn) / mutants.PROCESSES <= minutes * 60
    assert f"{MODULE}.x_slow__mutmut_1" not in drawn


def test_a_seed_gives_one_sample_in_whatever_order_the_names_come() -> None:
    assert mutants.chosen(NAMES, 1000, 1) == mutants.chosen(reversed(NAMES), 1000, 1) != mutants.chosen(NAMES, 1000, 2)
    assert sorted(mutants.chosen(NAMES, 1000, 1)) == sorted(NAMES[:-1])  # one takes too long, whatever the time


def test_what_was_found_is_read_from_all_files(folder: Path) -> None:
    (folder / "service").mkdir()
    for name, codes in (("b", {"y": 0}), ("a", {"x": None, "w": 1})):
        (folder / f"service/{name}.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    assert list(mutants.codes().items()) == [("w", 1), ("x", None), ("y", 0)]


def test_the_report_counts_by_package_and_shows_what_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    diff = "# service.routing.policies: survived\n--- a\n+++ b\n@@ -1 +1 @@\n-    a < b\n+    a <= b\n"
    monkeypatch.setattr(mutants, "mutmut", lambda *words: diff)
    codes: dict[str, int | None] = {
        f"{MODULE}.x_a__mutmut_1": 0, f"{MODULE}.x_a__mutmut_2": 1, "service.planner.cost.x_b__mutmut_1": 36,
        "service.planner.cost.x_c__mutmut_1": 33,
    }  # fmt: skip
    said = "\n".join(mutants.report(codes, 1000, 7, 15.0))
    assert "4 of 1000 mutants, drawn with seed 7" in said
    assert "| planner | 2 | 0 | 1 | 0 | 1 | 50 % |" in said
    assert "| routing | 2 | 1 | 0 | 1 | 0 | 50 % |" in said
    assert "| all | 4 | 1 | 1 | 1 | 1 | 50 % |" in said
    assert said.count("+    a <= b") == 2
    assert "x_c__mutmut_1 (no test reaches it)" in said
    assert "x_a__mutmut_2" not in said
