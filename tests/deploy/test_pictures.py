"""The dashboards drawn without a Grafana."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from deploy.grafana.draw import Span, ceiling, curves_of, draw, prepared, written
from deploy.grafana.panels import DASHBOARDS, FLEET, Dashboard
from tests.deploy.queries import VARIABLE

SPAN = Span(1_000_000, 1_000_600)
SERIES: dict[str, Any] = {
    "metric": {"model": "a <b>", "kind": "prompt"},
    "values": [[1_000_000, "1"], [1_000_300, "NaN"], [1_000_600, "1500"]],
}


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_every_panel_is_drawn_from_its_queries(board: Dashboard) -> None:
    asked: list[str] = []

    def ask(query: str) -> list[dict[str, Any]]:
        asked.append(query)
        return [SERIES]

    picture = ET.fromstring(draw(board, ask, SPAN, "1m"))
    panels = [panel for row in board.rows.values() for panel in row]
    assert len(asked) == sum(len(panel.queries) for panel in panels)
    texts = [text for text in picture.itertext() if text.strip()]
    for panel in panels:
        assert texts.count(panel.title) >= 1
    assert not [query for query in asked if VARIABLE.search(query) or "$" in query]
    assert "no data" not in texts


def test_a_panel_without_series_says_so() -> None:
    assert "no data" in draw(FLEET, lambda query: [], SPAN, "1m")


def test_what_is_no_number_is_left_out_and_labels_are_escaped() -> None:
    (curve,) = curves_of("{{model}} {{kind}}", [SERIES])
    assert (curve.legend, curve.points) == ("a <b> prompt", ((1_000_000, 1.0), (1_000_600, 1500.0)))
    assert not re.search("<b>", draw(FLEET, lambda query: [SERIES], SPAN, "1m"))


def test_variables_stand_for_all_and_windows_for_the_span() -> None:
    query = 'increase(x{model=~"$model"}[$__range]) / rate(y[$__rate_interval])'
    assert prepared(query, FLEET, SPAN, "2m") == 'increase(x{model=~".*"}[600s]) / rate(y[2m])'


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "percentunit", "25 %"), (0.0042, "s", "4.2 ms"), (12, "s", "12 s"), (0, "s", "0 s"),
        (1500, "short", "1.5 k"), (2.5, "reqps", "2.5/s"), (1000, "s", "1000 s"), (15, "percentunit", "1500 %"),
        (3e-5, "s", "30 µs"),
    ],
)  # fmt: skip
def test_values_are_written_with_their_unit(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


@pytest.mark.parametrize(("value", "end"), [(0, 1), (0.3, 0.5), (1, 1), (1.1, 2), (60, 100), (7000, 10_000)])
def test_an_axis_ends_at_a_round_number(value: float, end: float) -> None:
    assert ceiling(value) == pytest.approx(end)
