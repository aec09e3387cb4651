"""Plots: values over categories, as lines or as bars, from zero."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from bench.gpu.drawing import Box, Line, Picture, Words

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 64, 70  # margins around the plot
COLOURS = ("#1f5fa8", "#d1622b", "#3a8f4d", "#7b4fa3", "#8a8a8a")
GRID, FRAME = "#e4e4e4", "#888888"
LONG = 13  # letters: longer names of categories take turns in two rows

Series = Mapping[str, Sequence[float | None]]


def chart(
    kind: Literal["lines", "bars"], title: str, across: str, up: str, categories: Sequence[str], series: Series
) -> Picture:
    """One plot. Every series has a value for each category, or None where there is none."""
    picture = Picture(WIDTH, HEIGHT)
    top = _ceiling([value for values in series.values() for value in values if value is not None])
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(categories))

    def height(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    _frame(picture, title, across, up, top)
    for index, name in enumerate(categories):
        row = index % 2 * 14 if max(map(len, categories)) > LONG else 0
        picture.marks.append(Words((LEFT + slot * (index + 0.5), HEIGHT - BOTTOM + 14 + row), name, "middle", 11))
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = LEFT + 150 * number
        picture.marks += [Box((at, 40), (12, 8), colour), Words((at + 17, 44), name, size=12)]
        if kind == "bars":
            breadth = slot * 0.7 / len(series)
            for index, value in enumerate(values):
                if value is not None:
                    x = LEFT + slot * (index + 0.15) + breadth * number
                    low = height(0)
                    picture.marks.append(Box((x, height(value)), (breadth * 0.92, low - height(value)), colour))
        else:
            points = [(LEFT + slot * (index + 0.5), height(value))
                      for index, value in enumerate(values) if value is not None]  # fmt: skip
            picture.marks.append(Line(tuple(points), colour, 2.2))
            picture.marks += [Box((x - 3, y - 3), (6, 6), colour) for x, y in points]
    return picture


def _frame(picture: Picture, title: str, across: str, up: str, top: float) -> None:
    picture.marks.append(Words((LEFT, 18), title, size=15))
    for step in range(6):
        value = top * step / 5
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * step / 5
        picture.marks.append(Line(((LEFT, y), (WIDTH - RIGHT, y)), GRID if step else FRAME))
        picture.marks.append(Words((LEFT - 8, y), f"{value:,.4g}" if value < 1000 else f"{value:,.0f}", "end", 11))
    picture.marks.append(Words((LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 18), across, "middle", 12))
    picture.marks.append(Words((WIDTH - RIGHT, 44), up, "end", 12, "#555555"))


def _ceiling(values: Sequence[float]) -> float:
    """The end of the scale: 1, 2, 2.5 or 5 times a power of ten, no less than any value."""
    most = max(values, default=0.0)
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if step * power >= most * 0.9999)
