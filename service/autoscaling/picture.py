"""Simulations as a picture: requests a second, replicas and queue over time, as SVG."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from service.autoscaling.measured import Measured

Line = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 120  # of a panel's plot
LEFT, TOP, GAP, RIGHT = 56, 22, 38, 28
POINTS = 300  # of a line at most
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # told apart by everyone
SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def draw(runs: Mapping[str, Measured]) -> str:
    """An SVG file with a line for each run, whose names make the legend."""
    some = next(iter(runs.values()))
    until = some.seconds or 1.0
    panels: list[tuple[str, dict[str, Line]]] = [
        ("requests a second", {"arrivals": thinned(list(some.rates()))}),
        ("replicas: ordered (thin), ready", {}),
        ("requests waiting", {name: _line(run, lambda one: one.queued) for name, run in runs.items()}),
    ]
    for name, run in runs.items():
        panels[1][1][name] = _line(run, lambda one: one.ready)
    thin = [_line(run, lambda one: one.ordered) for run in runs.values()]
    legend_top = TOP + len(panels) * (HEIGHT + GAP)
    height = legend_top + 16 * len(runs) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, (title, lines) in enumerate(panels):
        top = TOP + number * (HEIGHT + GAP)
        parts += _panel(title, lines, thin if number == 1 else [], top, until, bare=number == 0)
    for number, name in enumerate(runs):
        y = legend_top + 16 * number
        parts.append(f'<rect x="{LEFT}" y="{y - 5}" width="18" height="3" fill="{_colour(number)}"/>')
        parts.append(f'<text x="{LEFT + 24}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    title: str, lines: dict[str, Line], thin: list[Line], top: float, until: float, *, bare: bool
) -> Iterator[str]:
    most = max((value for line in (*lines.values(), *thin) for _, value in line), default=0.0) or 1.0
    yield f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(title)}</text>'
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        yield f'<path d="M{LEFT} {y:g}H{LEFT + WIDTH}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{most * share:.4g}</text>'
    for at, text in ticks(until):
        x = LEFT + WIDTH * at / until
        yield f'<text x="{x:.1f}" y="{top + HEIGHT + 14}" text-anchor="middle">{text}</text>'
    for width, several in ((0.7, thin), (1.6, list(lines.values()))):
        for number, line in enumerate(several):
            colour = "#666666" if bare else _colour(number)
            path = _path([(LEFT + WIDTH * at / until, top + HEIGHT * (1 - value / most)) for at, value in line])
            yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def ticks(until: float, most: int = 8) -> list[tuple[float, str]]:
    """Round moments for the axis of time, `most` steps at most, and their labels."""
    size, unit = next((one for one in SPANS if until >= 2 * one[0]), SPANS[-1])
    steps = [step * size for step in (1, 2, 5, 10, 15, 30, 60, 100, 200, 500, 1000) if until / (step * size) <= most]
    step = steps[0] if steps else until
    return [(number * step, f"{number * step / size:g} {unit}") for number in range(int(until / step) + 1)]


def thinned(line: Line) -> Line:
    """The line with `POINTS` points at most: of neighbours the highest, so that no peak is lost."""
    size = -(-len(line) // POINTS)
    if size < 2:
        return line
    return [(line[at][0], max(value for _, value in line[at : at + size])) for at in range(0, len(line), size)]


def _line(run: Measured, value: Callable[..., float]) -> Line:
    return thinned([(one.at, value(one)) for one in run.samples])


def _path(points: Line) -> str:
    """Steps: a value holds until the next one, and points that change nothing are left out."""
    if not points:
        return ""
    parts, last = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"], points[0][1]
    for x, y in points[1:]:
        if y != last:
            parts.append(f"H{x:.1f}V{y:.1f}")
            last = y
    return "".join([*parts, f"H{points[-1][0]:.1f}"])


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
