"""Write small SVG drawings without a library, with the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

INK, FAINT, GRID = "#24292f", "#6e7781", "#e5e8eb"
BLUE, ORANGE, GREEN, GREY = "#0969da", "#bc4c00", "#1a7f37", "#8c959f"

Points = Sequence[tuple[float, float]]


@dataclass
class Drawing:
    """A drawing on a white card, readable on dark pages too.

    Attributes:
        width: In pixels.
        height: In pixels.
        title: For screen readers.
    """

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, size: int = 12, fill: str = INK, anchor: str = ""
    ) -> None:
        """Draw words on the baseline y; anchor is start, middle or end."""
        attribute = f' text-anchor="{anchor}"' if anchor else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}"{attribute}>'
            f"{escape(words)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none"
    ) -> None:
        """Draw a rectangle."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"'
            f' fill="{fill}" stroke="{stroke}"/>'
        )

    def line(self, points: Points, stroke: str, width: float = 1.0, dashes: str = "") -> None:
        """Draw straight lines from point to point."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{stroke}"'
            f' stroke-width="{width}"{dashed}/>'
        )

    def content(self) -> str:
        """Return the content of the file."""
        size = f'width="{self.width}" height="{self.height}"'
        view = f'viewBox="0 0 {self.width} {self.height}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img"'
            ' font-family="system-ui, sans-serif">'
        )
        card = f'<rect {size} rx="6" fill="#ffffff" stroke="{GRID}"/>'
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title>", card, *self.parts, "</svg>\n"]
        )


@dataclass(frozen=True)
class Axes:
    """A coordinate system in a drawing.

    Attributes:
        drawing: To draw on.
        left: Of the area, in pixels.
        top: In pixels.
        width: In pixels.
        height: In pixels.
        x: Least and greatest number from left to right.
        y: Least and greatest number from bottom to top.
    """

    drawing: Drawing
    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel position of two numbers."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def frame(self, title: str, xs: Sequence[float], ys: Sequence[float], form: str = "g") -> None:
        """Draw the grid with its numbers and a title."""
        draw = self.drawing
        draw.text(self.left, self.top - 10, title, size=13)
        for y in ys:
            pixel = self.at(self.x[0], y)[1]
            draw.line([(self.left, pixel), (self.left + self.width, pixel)], GRID)
            draw.text(self.left - 6, pixel + 4, f"{y:{form}}", size=11, fill=FAINT, anchor="end")
        for x in xs:
            pixel = self.at(x, self.y[0])[0]
            below = self.top + self.height + 16
            draw.text(pixel, below, f"{x:,g}", size=11, fill=FAINT, anchor="middle")

    def curve(self, points: Points, stroke: str, width: float = 1.6, dashes: str = "") -> None:
        """Draw numbers as a line."""
        self.drawing.line([self.at(*point) for point in points], stroke, width, dashes)
