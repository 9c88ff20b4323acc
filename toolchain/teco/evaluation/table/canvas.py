"""A drawing of lines, dots and text, as SVG or PNG. No plotting library is needed for a plot.

Coordinates are pixels from the top-left corner, y downwards. Colours are roles: the SVG has one
set of them for light and one for dark pages, and its own background under both; the PNG is light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np

Role = Literal["ink", "muted", "grid", "point", "baseline"]
Anchor = Literal["start", "middle", "end"]

BACKGROUND = ("#ffffff", "#0d1117")
COLOURS: dict[Role, tuple[str, str]] = {
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9198a1"),
    "grid": ("#d8dee4", "#30363d"),
    "point": ("#0969da", "#58a6ff"),
    "baseline": ("#bc4c00", "#f0883e"),
}
"""Role -> its colour on light and on dark."""

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
_EM = 0.6
"""Width of a character in heights of the font: of a wide sans, so that estimates err upwards."""

_PNG_SCALE = 2


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles share area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    role: Role
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A filled circle; ``title`` is shown by a pointer over it."""

    x: float
    y: float
    radius: float
    role: Role
    title: str = ""


@dataclass(frozen=True)
class Text:
    """One line of text on its baseline (x, y); ``halo`` keeps lines behind it off its letters."""

    x: float
    y: float
    text: str
    size: float
    role: Role = "ink"
    anchor: Anchor = "start"
    bold: bool = False
    halo: bool = False

    @property
    def box(self) -> Box:
        """What it covers, about."""
        width = text_width(self.text, self.size)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left, self.y - 0.8 * self.size, left + width, self.y + 0.25 * self.size)


Shape = Line | Dot | Text


@dataclass
class Drawing:
    """Shapes on a page of ``width`` x ``height`` pixels; later ones lie on top."""

    width: int
    height: int
    title: str
    shapes: list[Shape] = field(default_factory=list[Shape])


def text_width(text: str, size: float) -> float:
    """Width of a text in pixels, an estimate that errs upwards."""
    return _EM * size * len(text)


def to_svg(drawing: Drawing) -> bytes:
    """The drawing as a file of its own: no script, no font, nothing to load."""
    d = drawing
    light = "".join(_rule(role, pair[0]) for role, pair in COLOURS.items())
    dark = "".join(_rule(role, pair[1]) for role, pair in COLOURS.items())
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {d.width} {d.height}" '
        f'width="{d.width}" height="{d.height}" role="img">',
        f"<title>{escape(d.title)}</title>",
        f"<style>text{{font-family:{FONT}}}.back{{fill:{BACKGROUND[0]}}}{light}"
        f".halo{{stroke:{BACKGROUND[0]};stroke-width:3px;paint-order:stroke;stroke-linejoin:round}}"
        f"@media (prefers-color-scheme:dark){{.back{{fill:{BACKGROUND[1]}}}"
        f".halo{{stroke:{BACKGROUND[1]}}}{dark}}}</style>",
        f'<rect class="back" width="{d.width}" height="{d.height}" rx="6"/>',
        *(_svg(shape) for shape in d.shapes),
        "</svg>",
    ]
    return ("\n".join(out) + "\n").encode()


def _rule(role: Role, colour: str) -> str:
    return f".{role}{{fill:{colour}}}line.{role}{{stroke:{colour}}}"


def _svg(shape: Shape) -> str:
    if isinstance(shape, Line):
        dash = ' stroke-dasharray="5 4"' if shape.dashed else ""
        return (
            f'<line class="{shape.role}" x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" '
            f'x2="{shape.x2:.1f}" y2="{shape.y2:.1f}" stroke-width="{shape.width:g}"{dash}/>'
        )
    if isinstance(shape, Dot):
        title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        return (
            f'<circle class="{shape.role}" cx="{shape.x:.1f}" cy="{shape.y:.1f}" '
            f'r="{shape.radius:g}">{title}</circle>'
        )
    weight = ' font-weight="600"' if shape.bold else ""
    classes = f"{shape.role} halo" if shape.halo else shape.role
    return (
        f'<text class="{classes}" x="{shape.x:.1f}" y="{shape.y:.1f}" '
        f"font-size={quoteattr(f'{shape.size:g}')} text-anchor={quoteattr(shape.anchor)}{weight}>"
        f"{escape(shape.text)}</text>"
    )


def to_png(drawing: Drawing) -> bytes:
    """The drawing as a PNG of twice its size, on white."""
    import cv2

    scale, shift = _PNG_SCALE, 4  # OpenCV takes fractions of a pixel as integers shifted left
    page = np.empty((drawing.height * scale, drawing.width * scale, 3), np.uint8)
    page[:] = _bgr(BACKGROUND[0])

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * scale * 2**shift), round(y * scale * 2**shift)

    for shape in drawing.shapes:
        colour = _bgr(COLOURS[shape.role][0])
        if isinstance(shape, Line):
            for x1, y1, x2, y2 in _dashes(shape) if shape.dashed else [_ends(shape)]:
                thickness = max(1, round(shape.width * scale))
                cv2.line(page, at(x1, y1), at(x2, y2), colour, thickness, cv2.LINE_AA, shift=shift)
        elif isinstance(shape, Dot):
            radius = round(shape.radius * scale * 2**shift)
            cv2.circle(page, at(shape.x, shape.y), radius, colour, -1, cv2.LINE_AA, shift=shift)
        else:
            _write(page, shape, colour)
    done, coded = cv2.imencode(".png", page)
    assert done  # an 8-bit picture in memory can always be made a PNG
    return coded.tobytes()


def _write(page: Any, text: Text, colour: tuple[int, int, int]) -> None:
    """Text with OpenCV's own outline font where it has one (5.0), else with its stroke font."""
    import cv2

    library: Any = cv2
    size, room = text.size * _PNG_SCALE, text_width(text.text, text.size * _PNG_SCALE)
    if hasattr(library, "FontFace"):
        face, weight, pixels = library.FontFace("sans"), 600 if text.bold else 400, round(size)
        _, _, width, _ = library.getTextSize((1, 1), text.text, (0, 0), face, pixels, weight)

        def put(at: tuple[int, int], ink: tuple[int, int, int]) -> None:
            library.putText(page, text.text, at, ink, face, pixels, weight)
    else:
        font, thickness = cv2.FONT_HERSHEY_SIMPLEX, 2 if text.bold else 1
        (natural, _), _ = cv2.getTextSize(text.text, font, 1.0, thickness)
        scale = min(size / 30, room / max(natural, 1))  # its capitals are 21 high at scale 1
        width = natural * scale

        def put(at: tuple[int, int], ink: tuple[int, int, int]) -> None:
            cv2.putText(page, text.text, at, font, scale, ink, thickness, cv2.LINE_AA)

    slack = {"start": 0.0, "middle": (room - width) / 2, "end": room - width}[text.anchor]
    x, y = round(text.box.left * _PNG_SCALE + slack), round(text.y * _PNG_SCALE)
    if text.halo:
        for dx, dy in ((-2, 0), (2, 0), (0, -2), (0, 2), (-2, -2), (2, 2), (-2, 2), (2, -2)):
            put((x + dx, y + dy), _bgr(BACKGROUND[0]))
    put((x, y), colour)


def _ends(line: Line) -> tuple[float, float, float, float]:
    return line.x1, line.y1, line.x2, line.y2


def _dashes(line: Line) -> list[tuple[float, float, float, float]]:
    """A line in pieces of 5 with gaps of 4."""
    length = float(np.hypot(line.x2 - line.x1, line.y2 - line.y1)) or 1.0
    dx, dy = (line.x2 - line.x1) / length, (line.y2 - line.y1) / length
    starts = np.arange(0, length, 9)
    return [
        (line.x1 + dx * s, line.y1 + dy * s, line.x1 + dx * e, line.y1 + dy * e)
        for s, e in ((float(s), float(min(s + 5, length))) for s in starts)
    ]


def _bgr(colour: str) -> tuple[int, int, int]:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return b, g, r
