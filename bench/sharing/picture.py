"""A day on one card as a picture: when each model was there, loaded and left, and what was asked of it. SVG."""

from collections.abc import Sequence
from html import escape

from bench.sharing.simulation import Job, World
from service.autoscaling.picture import COLOURS, ticks

WIDTH, ROW, BAR, LEFT, TOP, RIGHT = 760, 54, 14, 92, 24, 20
SLICES = 288  # of the time, for the requests


def draw(names: Sequence[str], jobs: Sequence[Job], world: World, until: float) -> str:
    """One row for each model: its requests as a curve, and below them a bar while it is in memory."""
    height = TOP + ROW * len(names) + 52
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    bottom = TOP + ROW * len(names)
    for at, text in ticks(until):
        x = LEFT + WIDTH * at / until
        parts.append(f'<path d="M{x:.1f} {TOP - 8}V{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{text}</text>')
    for number, name in enumerate(names):
        colour, floor = COLOURS[number % len(COLOURS)], TOP + ROW * (number + 1) - BAR - 4
        parts.append(f'<text x="{LEFT - 8}" y="{floor + BAR - 3}" text-anchor="end">{escape(name)}</text>')
        counts = [0] * SLICES
        for job in jobs:
            if job.model == number:
                counts[min(SLICES - 1, int(job.at / until * SLICES))] += 1
        most = max(counts) or 1
        points = "".join(f"L{LEFT + WIDTH * (slot + 0.5) / SLICES:.1f} {floor - 2 - 26 * count / most:.1f}"
                         for slot, count in enumerate(counts))  # fmt: skip
        parts.append(f'<path d="M{LEFT} {floor - 2}{points}" fill="none" stroke="{colour}" stroke-width="1"/>')
        for order, place, since, to in world.timeline:
            if order == number:
                x, width = LEFT + WIDTH * since / until, max(0.4, WIDTH * (to - since) / until)
                shade = colour if place == "in" else "#999999"
                parts.append(f'<rect x="{x:.2f}" y="{floor}" width="{width:.2f}" height="{BAR}" fill="{shade}"/>')
    text = "curve: requests; bar: in memory, grey while it is loaded or makes room"
    parts.append(f'<text x="{LEFT}" y="{bottom + 34}">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])
