"""Every PromQL query in deploy/, and the names of metrics and labels in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from service.autoscaling import queries
from tests.support.fleets import ROOT

NAMESPACE = "llm"  # of the gateway: on a cluster Prometheus adds it to what it scrapes
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARDS = ROOT / "deploy/grafana/dashboards"
WINDOW = re.compile(r"\[(?:\d+[smhd]|\$__\w+)\]")
VARIABLE = re.compile(r"\$(?!__)\w+")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w.:$])([a-zA-Z_:][\w:]*)(?![\w:(])\s*(?:\{([^}]*)\})?(?!\s*\()")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
COMPARISON = re.compile(r"(==|!=|>=|<=|(?<!=)>|<)\s*(?=[\d(])")
WORDS = {"and", "or", "unless", "bool", "offset", "by", "on", "without", "ignoring"}


@dataclass(frozen=True)
class Query:
    """A query and where it stands. An `alert` returns nothing where all is well."""

    place: str
    text: str
    alert: bool = False

    def selectors(self) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
        """Each metric's name with its matchers: label, operator, value."""
        rest = WINDOW.sub("", GROUPING.sub("", self.text))
        for name, matchers in SELECTOR.findall(rest):
            if name not in WORDS:
                yield name, MATCHER.findall(matchers)

    def grouping(self) -> set[str]:
        """The labels that results are grouped and matched by."""
        return {label.strip() for labels in GROUPING.findall(self.text) for label in labels.split(",")}

    def asked(self, window: str) -> str:
        """The query as a test asks it: over a short window, of everything, and of an alert whether it fires."""
        text = VARIABLE.sub(".*", WINDOW.sub(f"[{window}]", self.text))
        return COMPARISON.sub(r"\1 bool ", text) if self.alert else text


def shown() -> Iterator[Query]:
    """Those of the panels, and of the variables: what a variable lists is a metric that has the label."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        board: Any = json.loads(file.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Query(f"{file.stem}: {panel['title']}", target["expr"])
        for variable in board["templating"]["list"]:
            if found := re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["query"]):
                yield Query(f"{file.stem}: ${variable['name']}", "count by ({1}) ({0})".format(*found.groups()))


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule, with the name of its file."""
    for file in sorted((PROMETHEUS / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            yield from ((file.name, rule) for rule in group["rules"])


def ruled() -> Iterator[Query]:
    """Those of recording rules and alerts."""
    for file, rule in rules():
        yield Query(f"{file}: {rule.get('alert') or rule['record']}", rule["expr"], "alert" in rule)


def scaled() -> Iterator[Query]:
    """Those of the autoscaler, of one model."""
    yield Query("autoscaler: load", queries.load("pebble-chat", NAMESPACE, 30, 4))
    yield Query("autoscaler: in_flight", queries.in_flight("pebble-chat", NAMESPACE))
    yield Query("autoscaler: demand", queries.demand("pebble-chat", NAMESPACE))
    yield Query("autoscaler: kv_cache", queries.kv_cache("pebble-chat", NAMESPACE))


QUERIES = [*shown(), *ruled(), *scaled()]
