"""Draws the dashboards without a Grafana: each panel's queries, asked of a Prometheus, as one SVG per dashboard.

python -m deploy.grafana.draw http://127.0.0.1:9090 docs/images --minutes 10
"""

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from deploy.grafana.panels import DASHBOARDS, Dashboard, Panel

WIDTH, MARGIN, GAP, HEADER = 1200, 16, 12, 34
SERIES, STAT = (3, 196), (6, 84)  # panels beside each other, height of one
LEFT, TOP, BOTTOM, LEGEND = 46, 30, 18, 14  # around the curves; height of a line of the legend
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16")
SHOWN = 4  # lines of a legend; the rest is counted
POINTS = 120  # of a curve
STYLE = """text{font:12px system-ui,sans-serif;fill:#1f2937}.page{fill:#f3f4f6}.panel{fill:#fff;stroke:#d1d5db}
.row{font-size:15px;font-weight:600}.title{font-weight:600}.small{font-size:10px;fill:#6b7280}.figure{font-size:24px}
.grid{stroke:#e5e7eb}.bound{stroke:#ef4444;stroke-dasharray:4 3}
@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.page{fill:#111217}.panel{fill:#181b1f;stroke:#30343b}
.small{fill:#9ca3af}.grid{stroke:#2a2e35}}"""

Ask = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Curve:
    """One series of a panel: seconds since the epoch, and values; those that are no number are left out."""

    legend: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Span:
    """The time that is drawn, in seconds since the epoch."""

    start: float
    end: float

    @property
    def step(self) -> int:
        return max(1, round((self.end - self.start) / POINTS))


def draw(board: Dashboard, ask: Ask, span: Span, rate_window: str) -> str:
    """The SVG of a dashboard; `ask` returns the series that a range query has."""
    parts, y = [], MARGIN + 24
    for title, panels in board.rows.items():
        parts.append(f'<text class="row" x="{MARGIN}" y="{y + 18}">{escape(title)}</text>')
        y += HEADER
        for shape, group in (
            (STAT, [panel for panel in panels if panel.kind == "stat"]),
            (SERIES, [panel for panel in panels if panel.kind == "series"]),
        ):
            columns, height = shape
            columns = 4 if columns < 4 and len(group) == 4 else columns
            width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
            for number, panel in enumerate(group):
                row, column = divmod(number, columns)
                place = f"translate({MARGIN + column * (width + GAP):.0f} {y + row * (height + GAP)})"
                curves = [
                    curve
                    for legend, query in panel.queries.items()
                    for curve in curves_of(legend, ask(prepared(query, board, span, rate_window)))
                ]
                parts.append(f'<g transform="{place}">{"".join(_panel(panel, curves, span, width, height))}</g>')
            y += math.ceil(len(group) / columns) * (height + GAP)
    head = f'<text class="row" x="{MARGIN}" y="{MARGIN + 12}">{escape(board.title)}</text>'
    size = f'viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(board.title)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        f"<style>{STYLE}</style>"
        f'<rect class="page" width="{WIDTH}" height="{y}"/>{head}{"".join(parts)}</svg>\n'
    )


def prepared(query: str, board: Dashboard, span: Span, rate_window: str) -> str:
    """The query with all values of the dashboard's variables, as Grafana sends it for "All"."""
    query = query.replace("$__rate_interval", rate_window).replace("$__range", f"{round(span.end - span.start)}s")
    for name in board.variables:
        query = query.replace(f"${name}", ".*")
    return query


def curves_of(legend: str, series: Sequence[Mapping[str, Any]]) -> Iterator[Curve]:
    """The curves of a query's series, named as Grafana would."""
    for one in series:
        name = legend
        for label, value in one["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        points = ((float(at), float(value)) for at, value in one["values"])
        yield Curve(name, tuple((at, value) for at, value in points if math.isfinite(value)))


def written(value: float, unit: str) -> str:
    """A value with its unit, short enough for an axis."""
    if unit == "percentunit":
        return f"{_digits(100 * value)} %"
    if unit == "s":
        factor, name = next(((f, n) for f, n in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if abs(value) >= f), (1.0, "s"))
        return f"{_digits(value / factor)} {name}"
    size, name = next(((s, n) for s, n in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if abs(value) >= s), (1.0, ""))
    return f"{_digits(value / size)}{name}{'/s' if unit == 'reqps' else ''}"


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def ceiling(value: float) -> float:
    """The end of an axis: 1, 2 or 5 times a power of ten, and no less than `value`."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _panel(panel: Panel, curves: Sequence[Curve], span: Span, width: float, height: int) -> Iterator[str]:
    yield f"<title>{escape(panel.title)}: {escape(panel.description)}</title>"
    yield f'<rect class="panel" width="{width:.0f}" height="{height}" rx="4"/>'
    yield f'<text class="title" x="10" y="19">{escape(panel.title)}</text>'
    seen = [curve for curve in curves if curve.points]
    if not seen:
        yield f'<text class="small" x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle">no data</text>'
    elif panel.kind == "stat":
        yield from _figures(panel, seen, width, height)
    else:
        yield from _plot(panel, seen, span, width, height)


def _figures(panel: Panel, curves: Sequence[Curve], width: float, height: int) -> Iterator[str]:
    share = (width - 20) / len(curves)
    for number, curve in enumerate(curves):
        x, value = 10 + number * share, curve.points[-1][1]
        yield f'<text class="figure" x="{x:.0f}" y="{height - 26}">{written(value, panel.unit)}</text>'
        yield f'<text class="small" x="{x:.0f}" y="{height - 8}">{escape(curve.legend)}</text>'


def _plot(panel: Panel, curves: Sequence[Curve], span: Span, width: float, height: int) -> Iterator[str]:
    lines = min(len(curves), SHOWN)
    right, low = width - 10, height - BOTTOM - LEGEND * lines - 4
    drawn = _stacked(curves) if panel.stacked else [curve.points for curve in curves]
    most = ceiling(max(value for points in drawn for _, value in points))

    def place(at: float, value: float) -> str:
        x = LEFT + (at - span.start) / (span.end - span.start) * (right - LEFT)
        return f"{x:.1f},{low - value / most * (low - TOP):.1f}"

    for part in (0.0, 0.5, 1.0):
        y = low - part * (low - TOP)
        yield f'<line class="grid" x1="{LEFT}" x2="{right:.0f}" y1="{y:.0f}" y2="{y:.0f}"/>'
        label = written(part * most, panel.unit)
        yield f'<text class="small" x="{LEFT - 4}" y="{y + 4:.0f}" text-anchor="end">{label}</text>'
    for at, anchor, x in ((span.start, "start", float(LEFT)), (span.end, "end", right)):
        clock = time.strftime("%H:%M", time.gmtime(at))
        yield f'<text class="small" x="{x:.0f}" y="{low + 13:.0f}" text-anchor="{anchor}">{clock}</text>'
    for bound in (panel.warning, panel.critical):
        if bound is not None and bound <= most:
            ends = (place(at, bound).split(",") for at in (span.start, span.end))
            (x1, y1), (x2, y2) = ends
            yield f'<line class="bound" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    for number, points in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(place(at, value) for at, value in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for number, curve in enumerate(curves[:SHOWN]):
        y = low + BOTTOM + LEGEND * (number + 1) - 4
        yield f'<rect x="10" y="{y - 8:.0f}" width="10" height="3" fill="{COLOURS[number % len(COLOURS)]}"/>'
        more = f" (and {len(curves) - SHOWN} more)" if number == SHOWN - 1 and len(curves) > SHOWN else ""
        last = written(curve.points[-1][1], panel.unit)
        yield f'<text class="small" x="26" y="{y - 3:.0f}">{escape(curve.legend or panel.title)}: {last}{more}</text>'


def _stacked(curves: Sequence[Curve]) -> list[tuple[tuple[float, float], ...]]:
    """The points of each curve upon those of the ones before it."""
    below: dict[float, float] = {}
    found = []
    for curve in curves:
        for at, value in curve.points:
            below[at] = below.get(at, 0.0) + value
        found.append(tuple((at, below[at]) for at, _ in curve.points))
    return found


def asking(address: str, span: Span) -> Ask:
    """Asks the Prometheus at `address` for a query's series over the span; raises `OSError` if it cannot be reached."""

    def ask(query: str) -> list[dict[str, Any]]:
        asked = {"query": query, "start": span.start, "end": span.end, "step": span.step}
        data = urllib.parse.urlencode(asked).encode()
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/v1/query_range", data, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    return ask


def main() -> None:
    """Draws all dashboards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="its address, such as http://127.0.0.1:9090")
    parser.add_argument("folder", type=Path, help="where the pictures go: dashboard-fleet.svg and so on")
    parser.add_argument("--minutes", type=float, default=60.0, help="how much of the past (60)")
    parser.add_argument("--ago", type=float, default=0.0, help="how many minutes ago it ended (0)")
    parser.add_argument("--rate", default="1m", help="the window of rates: four scrape intervals or more (1m)")
    options = parser.parse_args()
    end = time.time() - options.ago * 60
    span = Span(end - options.minutes * 60, end)
    options.folder.mkdir(parents=True, exist_ok=True)
    for board in DASHBOARDS:
        file = options.folder / f"dashboard-{board.name}.svg"
        try:
            file.write_text(draw(board, asking(options.prometheus, span), span, options.rate), encoding="utf-8")
        except OSError as error:
            parser.exit(1, f"Prometheus at {options.prometheus} cannot be asked: {error}\n")
        print(file)


if __name__ == "__main__":
    main()
