"""How the differences of one metric are distributed, as SVG. Pure.

The colours are the page's: the picture is a part of it and has no background of its own.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from service.evaluation.statistics import Comparison, signed

WIDTH, HEIGHT = 420, 120  # of the plot
LEFT, TOP, BOTTOM = 34, 8, 34
BINS = 21  # odd, so that the one in the middle holds the ties
RANGES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def draw(differences: Sequence[float], found: Comparison) -> str:
    """Bars of the differences (new less old), left of 0 what was lost; below them the mean and its interval."""
    most = max((abs(one) for one in differences), default=0.0)
    reach = next((one for one in RANGES if most <= one + 1e-9), math.ceil(most))
    counts = binned(differences, reach)
    tallest = max(counts) or 1
    said = (
        f"{found.metric}: {found.losses} losses, {found.ties} ties, {found.wins} wins; mean {signed(found.difference)}"
    )
    parts = [
        f'<svg class="histogram" viewBox="0 0 {LEFT + WIDTH + 14} {TOP + HEIGHT + BOTTOM}" role="img" '
        f'aria-label="{escape(said)}">',
        f'<path class="axis" d="M{LEFT} {TOP + HEIGHT}H{LEFT + WIDTH}"/>',
        f'<text class="scale" x="{LEFT - 5}" y="{TOP + 9}" text-anchor="end">{tallest}</text>',
        *_bars(counts, tallest, reach),
        f'<path class="zero" d="M{_x(0, reach):.1f} {TOP}V{TOP + HEIGHT}"/>',
        *_mean(found, reach),
    ]
    for value in (-reach, -reach / 2, 0, reach / 2, reach):
        text = f"{value:+.3g}" if value else "0"
        parts.append(
            f'<text class="scale" x="{_x(value, reach):.1f}" y="{TOP + HEIGHT + 30}" text-anchor="middle">{text}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def binned(differences: Sequence[float], reach: float) -> list[int]:
    """How many differences each of `BINS` equal bins holds, from -reach to reach."""
    counts = [0] * BINS
    for one in differences:
        counts[min(BINS - 1, max(0, round((one / reach + 1) / 2 * (BINS - 1))))] += 1
    return counts


def _bars(counts: Sequence[int], tallest: int, reach: float) -> Iterator[str]:
    step = WIDTH / BINS
    for number, count in enumerate(counts):
        if not count:
            continue
        middle = (2 * number / (BINS - 1) - 1) * reach
        kind = "tie" if number == BINS // 2 else "win" if number > BINS // 2 else "loss"
        high = max(1.5, HEIGHT * count / tallest)
        yield (
            f'<rect class="{kind}" x="{LEFT + number * step + 1:.1f}" y="{TOP + HEIGHT - high:.1f}" '
            f'width="{step - 2:.1f}" height="{high:.1f}"><title>{middle:+.3g}: {count}</title></rect>'
        )


def _mean(found: Comparison, reach: float) -> Iterator[str]:
    y = TOP + HEIGHT + 10
    if found.interval:
        low, high = (_x(one, reach) for one in found.interval)
        yield f'<path class="interval" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>'
    yield f'<circle class="mean" cx="{_x(found.difference, reach):.1f}" cy="{y}" r="4"/>'


def _x(value: float, reach: float) -> float:
    """Where a difference stands: its bin's middle, and between two bins in proportion."""
    return LEFT + WIDTH / BINS * ((value / reach + 1) / 2 * (BINS - 1) + 0.5)
