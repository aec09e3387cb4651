"""The dashboards in deploy/grafana are those that build.py makes of panels.py, and complete."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deploy.queries import DASHBOARDS, rules
from tests.support.each import each
from tests.support.fleets import ROOT

FILES = sorted(DASHBOARDS.glob("*.json"))
BUILT = """
import json
from deploy.grafana.build import DASHBOARDS, text
print(json.dumps({one.name: text(one) for one in DASHBOARDS}))
"""
SECTIONS = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")


def test_the_dashboards_are_current() -> None:
    done = subprocess.run([sys.executable, "-c", BUILT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {file.stem: file.read_text(encoding="utf-8") for file in FILES}


@each("file", FILES, ids=lambda file: file.stem)
def test_a_dashboard_is_complete(file: Path) -> None:
    board: Any = json.loads(file.read_text(encoding="utf-8"))
    assert board["uid"] == f"roundhouse-{file.stem}"
    assert "roundhouse" in board["tags"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in (one for one in board["panels"] if one["type"] != "row"):
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used = {name for name in ("model", "tenant", "replica") if f"${name}" in target["expr"]}
            assert used <= set(names), panel["title"]


@each("rule", [rule for _, rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: Any) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    titles = [line[3:] for line in SECTIONS.splitlines() if line.startswith("## ")]
    slugs = {"".join(c for c in title.lower() if c.isalnum() or c in " -_").replace(" ", "-") for title in titles}
    assert page == "runbook.md"
    assert section in slugs
    assert f"`{rule['alert']}`" in (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
