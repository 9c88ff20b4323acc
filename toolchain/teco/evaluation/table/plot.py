"""Quality against cost, one panel for PSNR and one for LPIPS, one row of panels for each set.

Cost runs along a logarithmic axis: the median milliseconds of a step where they were measured,
else its GMAC. A panel's title says which way of its quality is better.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from teco.core.errors import USAGE, TecoError
from teco.core.names import common_prefix
from teco.evaluation.table.canvas import (
    Box,
    Dot,
    Drawing,
    Line,
    Shape,
    Text,
    text_width,
    to_png,
    to_svg,
)
from teco.evaluation.table.report import TableReport
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, Metric

PLOTTED: tuple[Metric, ...] = ("psnr", "lpips")
SUFFIXES = (".svg", ".png")

_TITLES: dict[str, str] = {"psnr": "PSNR in dB", "lpips": "LPIPS"}
_WIDTH, _HEIGHT = 470, 320
"""Of a panel with its axes."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 46
_RADIUS = 4.5
_LABEL, _TICK = 11.5, 11.0
_GAP = 4.0
"""Between a dot and its label."""
_REACH = (0.0, 12.0, 24.0, 38.0, 54.0, 72.0)
"""Further distances that a label is tried at; from the second on a line leads to its dot."""


@dataclass(frozen=True)
class Point:
    """One network: its label, its full name, cost and quality."""

    label: str
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x_label: below it.
        points: of networks.
        lines: (label, y) of what has no cost of its own: bicubic.
    """

    title: str
    x_label: str
    points: tuple[Point, ...]
    lines: tuple[tuple[str, float], ...]


def check(metrics: Sequence[Metric]) -> None:
    """Raise TecoError where none of the metrics is one that is plotted."""
    if not set(PLOTTED) & set(metrics):
        raise TecoError(
            f"a plot shows PSNR and LPIPS, and neither is measured ({', '.join(metrics)})",
            hint="add psnr to --metrics, or leave --plot out",
            exit_code=USAGE,
        )


def plot(report: TableReport, suffix: str) -> bytes:
    """The picture as a file's bytes.

    Args:
        report: what was measured.
        suffix: ``.svg`` or ``.png``.
    """
    drawing = draw(report)
    return to_png(drawing) if suffix == ".png" else to_svg(drawing)


def panels(report: TableReport) -> list[list[Panel]]:
    """Per set, the panels of what was measured."""
    metrics = [m for m in PLOTTED if m in report.options.metrics]
    timed = all(e.timing is not None for e in report.entrants) and bool(report.entrants)
    h, w = report.options.size
    x_label = f"{'ms' if timed else 'GMAC'} a step at {h}x{w} (LR), logarithmic"
    prefix = common_prefix([e.name for e in report.entrants])
    found: list[list[Panel]] = []
    for one in report.sets:
        row: list[Panel] = []
        for metric in metrics:
            points: list[Point] = []
            lines: list[tuple[str, float]] = []
            for judged in one.methods:
                y, e = judged.value(metric, report.options.average), judged.entrant
                if y is None or not math.isfinite(y):
                    continue
                if e is not None:
                    x = e.milliseconds if timed and e.milliseconds else e.gmac
                    points.append(Point(e.name.removeprefix(prefix), e.name, x, y))
                elif judged.row.method.startswith("bicubic"):
                    lines.append((judged.row.method, y))
            way = "higher" if metric in HIGHER_IS_BETTER else "lower"
            title = f"{one.clips.name}: {_TITLES[metric]}, {way} is better"
            row.append(Panel(title, x_label, tuple(points), tuple(lines)))
        found.append(row)
    return found


def draw(report: TableReport) -> Drawing:
    """The panels on a page, with what they are of below."""
    rows = panels(report)
    width = _WIDTH * max(len(row) for row in rows)
    notes = _footer(report, width)
    height = _HEIGHT * len(rows) + 18 * len(notes) + 10
    drawing = Drawing(width, height, "Quality against cost")
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            drawing.shapes += _panel(panel, c * _WIDTH, r * _HEIGHT)
    for n, note in enumerate(notes):
        y = _HEIGHT * len(rows) + 18 * n + 12
        drawing.shapes.append(Text(_LEFT, y, note, 11, "muted"))
    return drawing


def _footer(report: TableReport, width: int) -> list[str]:
    o = report.options
    sentences = [f"{o.average.capitalize()} averages."]
    prefix = common_prefix([e.name for e in report.entrants])
    if prefix:
        sentences.append(f"Names without {prefix.rstrip('-')}.")
    if any(e.timing is not None for e in report.entrants):
        runtimes = ", ".join(dict.fromkeys(e.runtime for e in report.entrants))
        threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
        sentences.append(f"Median on {runtimes}, {threads}, {report.machine.cpu}.")
    if o.shrink != 1:
        sentences.append(f"Truth shrunk to 1/{o.shrink:g}.")
    if o.max_frames is not None:
        sentences.append(f"At most {o.max_frames} frames of each clip.")
    room = int((width - _LEFT - _RIGHT) / text_width("x", 11))
    return textwrap.wrap(" ".join(sentences), room)


# --- one panel -------------------------------------------------------------------------------


def _panel(panel: Panel, left: float, top: float) -> list[Shape]:
    area = Box(left + _LEFT, top + _TOP, left + _WIDTH - _RIGHT, top + _HEIGHT - _BOTTOM)
    shapes: list[Shape] = [Text(area.left, top + 20, panel.title, 13, "ink", bold=True)]

    low, high = _cost_range([p.x for p in panel.points])
    x_of = _log_scale(low, high, area.left, area.right)
    y_low, y_high, step = _quality_range([p.y for p in panel.points] + [y for _, y in panel.lines])

    def y_of(value: float) -> float:
        return area.bottom - (value - y_low) / (y_high - y_low) * (area.bottom - area.top)

    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    for n in range(round((y_high - y_low) / step) + 1):
        value = y_low + n * step
        y = y_of(value)
        shapes.append(Line(area.left, y, area.right, y, "grid"))
        shapes.append(Text(area.left - 7, y + 4, f"{value:.{decimals}f}", _TICK, "muted", "end"))
    shapes.append(Line(area.left, area.bottom, area.right, area.bottom, "muted"))
    for value in log_ticks(low, high):
        x = x_of(value)
        shapes.append(Line(x, area.bottom, x, area.bottom + 4, "muted"))
        shapes.append(Text(x, area.bottom + 17, f"{value:g}", _TICK, "muted", "middle"))
    middle = (area.left + area.right) / 2
    shapes.append(Text(middle, area.bottom + 35, panel.x_label, _TICK, "muted", "middle"))

    taken: list[Box] = []
    for label, value in panel.lines:
        y = y_of(value)
        shapes.append(Line(area.left, y, area.right, y, "baseline", 1.5, dashed=True))
        taken.append(Box(area.left, y - 1.5, area.right, y + 1.5))
        above = Text(area.right - 4, y - 5, label, _LABEL, "baseline", "end", halo=True)
        below = Text(area.right - 4, y + 13, label, _LABEL, "baseline", "end", halo=True)
        text = below if any(above.box.meets(box) for box in taken[:-1]) else above
        shapes.append(text)
        taken.append(text.box)
    dots = [(x_of(p.x), y_of(p.y)) for p in panel.points]
    labels, leaders = place_labels([p.label for p in panel.points], dots, area, taken)
    shapes += leaders
    shapes += [
        Dot(x, y, _RADIUS, "point", f"{p.name}: {p.y:.4g} at {p.x:.4g}")
        for p, (x, y) in zip(panel.points, dots, strict=True)
    ]
    return [*shapes, *labels]


def place_labels(
    labels: Sequence[str],
    dots: Sequence[tuple[float, float]],
    area: Box,
    taken: Sequence[Box] = (),
) -> tuple[list[Text], list[Line]]:
    """Labels beside their dots so that none covers another, a dot, or what is taken.

    Greedy, from the dots with most neighbours: each label takes the nearest free place around its
    dot, and where there is none the one that covers least.

    Args:
        labels: texts.
        dots: their points, in pixels.
        area: labels stay inside.
        taken: boxes that are not to be covered.

    Returns:
        The texts, in the order given, and the lines that lead from dots to far labels.
    """
    r = _RADIUS + 1
    circles = [Box(x - r, y - r, x + r, y + r) for x, y in dots]
    busy = list(taken)
    texts: dict[int, Text] = {}
    leaders: list[Line] = []
    crowd = [sum(math.dist(a, b) < 80 for b in dots) for a in dots]
    for i in sorted(range(len(dots)), key=lambda i: (-crowd[i], dots[i])):
        x, y = dots[i]
        best: tuple[float, Text, float] | None = None
        for reach in _REACH:
            for text in _around(labels[i], x, y, _RADIUS + _GAP + reach):
                box = text.box
                hits = sum(box.meets(other) for other in [*busy, *circles])
                cost = hits + (0 if box.inside(area) else 10)
                if best is None or cost < best[0]:
                    best = cost, text, reach
            if best is not None and best[0] == 0:
                break
        assert best is not None
        _, text, reach = best
        texts[i] = text
        busy.append(text.box)
        if reach > 0:
            box = text.box
            end_x = min(max(x, box.left), box.right)
            end_y = min(max(y, box.top), box.bottom)
            leaders.append(Line(x, y, end_x, end_y, "muted", 0.75))
    return [texts[i] for i in range(len(dots))], leaders


def _around(label: str, x: float, y: float, distance: float) -> list[Text]:
    """Places for a label around a point: right, left, above, below, then the corners."""
    d, c = distance, 0.7 * distance
    middle = 0.28 * _LABEL  # from the baseline to the middle of the letters
    above, below = -0.25 * _LABEL, 0.8 * _LABEL

    def at(dx: float, dy: float, anchor: str) -> Text:
        assert anchor in ("start", "middle", "end")
        return Text(x + dx, y + dy, label, _LABEL, "ink", anchor, halo=True)

    return [
        at(d, middle, "start"),
        at(-d, middle, "end"),
        at(0, -d + above, "middle"),
        at(0, d + below, "middle"),
        at(c, -c + above, "start"),
        at(c, c + below, "start"),
        at(-c, -c + above, "end"),
        at(-c, c + below, "end"),
    ]


# --- scales ----------------------------------------------------------------------------------


def _log_scale(low: float, high: float, left: float, right: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: left + math.log(value / low) / span * (right - left)


def _cost_range(values: Sequence[float]) -> tuple[float, float]:
    """The range of a logarithmic axis with room for labels at both ends."""
    if not values:
        return 1.0, 10.0
    low, high = min(values), max(values)
    room = max(1.15, (high / low) ** 0.12)
    low, high = low / room, high * room
    if high / low < 2:  # so that at least one round number lies inside
        middle = math.sqrt(low * high)
        low, high = middle / 1.5, middle * 1.5
    return low, high


def _quality_range(values: Sequence[float]) -> tuple[float, float, float]:
    """(low, high, step) of a linear axis: round numbers, with room around the values."""
    if not values:
        return 0.0, 1.0, 0.2
    low, high = min(values), max(values)
    spread = max(high - low, abs(high) * 0.02, 1e-6)
    step = _round_up(spread * 1.25 / 5)
    bottom = math.floor((low - 0.1 * spread) / step)
    top = math.ceil((high + 0.1 * spread) / step)
    return bottom * step, top * step, step


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a range: 1, 2, 5, or more where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(ticks) >= 3:
            break
    return ticks
