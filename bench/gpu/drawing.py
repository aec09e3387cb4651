"""A picture of lines, boxes and words, as SVG and as PNG: enough for a plot, and no library beyond Pillow."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
SCALE = 2  # pixels of the PNG for each unit
FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Line:
    """Straight pieces through `points`."""

    points: tuple[Point, ...]
    colour: str
    width: float = 1.0

    def svg(self) -> str:
        """Its element."""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)
        return f'<polyline points="{points}" fill="none" stroke="{self.colour}" stroke-width="{self.width:g}"/>'


@dataclass(frozen=True)
class Box:
    """A filled box with its upper left corner at `at`."""

    at: Point
    size: Point
    colour: str

    def svg(self) -> str:
        """Its element."""
        (x, y), (width, height) = self.at, self.size
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{self.colour}"/>'


@dataclass(frozen=True)
class Words:
    """Text whose `anchor` stands at `at`, its middle at that height."""

    at: Point
    text: str
    anchor: Anchor = "start"
    size: float = 12.0
    colour: str = "#222222"

    def svg(self) -> str:
        """Its element."""
        x, y = self.at
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{self.size:g}" fill="{self.colour}" '
            f'text-anchor="{self.anchor}" dominant-baseline="central">{escape(self.text)}</text>'
        )


@dataclass
class Picture:
    """What is drawn, in order. Sizes are in units, from the upper left corner."""

    width: int
    height: int
    marks: list[Line | Box | Words] = field(default_factory=list)

    def svg(self) -> str:
        """The picture as SVG."""
        rows = [mark.svg() for mark in self.marks]
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
        head += f'viewBox="0 0 {self.width} {self.height}" font-family="{FONT}">'
        return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *rows, "</svg>", ""])

    def png(self, path: Path) -> None:
        """Writes the picture as PNG."""
        image = Image.new("RGB", (self.width * SCALE, self.height * SCALE), "#ffffff")
        brush = ImageDraw.Draw(image)
        for mark in self.marks:
            if isinstance(mark, Line):
                points = [(x * SCALE, y * SCALE) for x, y in mark.points]
                brush.line(points, fill=mark.colour, width=round(mark.width * SCALE), joint="curve")
            elif isinstance(mark, Box):
                (x, y), (width, height) = mark.at, mark.size
                brush.rectangle([x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE], fill=mark.colour)
            else:
                font = ImageFont.load_default(mark.size * SCALE)
                x, y = mark.at
                anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.anchor]
                brush.text((x * SCALE, y * SCALE), mark.text, fill=mark.colour, font=font, anchor=anchor)
        image.save(path, optimize=True)
