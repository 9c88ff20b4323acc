"""Quality against cost, one panel for PSNR and one for LPIPS, one row of panels for each set.

Cost runs along a logarithmic axis: the median milliseconds of a step where they were measured,
else its GMAC. A panel's title says which way of its quality is better. matplotlib draws it, which
the extra ``plot`` installs.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teco.core.errors import USAGE, TecoError
from teco.core.machine import require_extra
from teco.core.names import common_prefix
from teco.evaluation.table.report import TableReport
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

PLOTTED: tuple[Metric, ...] = ("psnr", "lpips")
SUFFIXES = (".svg", ".png")

_TITLES: dict[str, str] = {"psnr": "PSNR in dB", "lpips": "LPIPS"}
_INK, _MUTED, _GRID, _POINT, _BASELINE = "#1f2328", "#59636e", "#d8dee4", "#0969da", "#bc4c00"

# Lengths are points, of which a figure of 72 dots an inch has one to a dot.
_WIDTH, _HEIGHT = 470, 320
"""Of a panel with its axes."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 46
_RADIUS = 4.5
_LABEL, _TICK = 11.5, 11.0
_GAP = 4.0
"""Between a dot and its label."""
_REACH = (0.0, 12.0, 24.0, 38.0, 54.0, 72.0)
"""Further distances that a label is tried at; from the second on a line leads to its dot."""
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7))
"""Where a label is tried around its dot, in this order."""


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
    """Raise TecoError where no plot can be made: nothing that is plotted is measured, or matplotlib
    is not installed (exit code 3).
    """
    if not set(PLOTTED) & set(metrics):
        raise TecoError(
            f"a plot shows PSNR and LPIPS, and neither is measured ({', '.join(metrics)})",
            hint="add psnr to --metrics, or leave --plot out",
            exit_code=USAGE,
        )
    require_extra("matplotlib", "plot", "a plot")


def plot(report: TableReport, suffix: str) -> bytes:
    """The picture as a file's bytes.

    Args:
        report: what was measured.
        suffix: ``.svg`` or ``.png``, which has twice as many pixels.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    # Text stays text, and one report gives one file, byte for byte.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "teco"}):
        metadata = {"Date": None} if suffix == ".svg" else {}
        draw(report).savefig(file, format=suffix[1:], dpi=144, metadata=metadata)
    return file.getvalue()


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


def draw(report: TableReport) -> Figure:
    """The panels on a page, with what they are of below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = panels(report)
    width = _WIDTH * max(len(row) for row in rows)
    note = _footer(report, width)
    below = 18 * (note.count("\n") + 1) + 10
    height = _HEIGHT * len(rows) + below
    figure = Figure((width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)  # measures text
    for r, row in enumerate(rows):
        bottom = below + _HEIGHT * (len(rows) - 1 - r) + _BOTTOM
        for c, panel in enumerate(row):
            across, upwards = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
            place = (c * _WIDTH + _LEFT) / width, bottom / height, across / width, upwards / height
            _panel(figure.add_axes(place), panel)
    figure.text(_LEFT / width, 10 / height, note, fontsize=_TICK, color=_MUTED, linespacing=1.4)
    return figure


def _footer(report: TableReport, width: float) -> str:
    """How the figures were found, in lines that fit below the panels."""
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
    room = int((width - _LEFT - _RIGHT) / (0.6 * _TICK))
    return textwrap.fill(" ".join(sentences), room)


# --- one panel -------------------------------------------------------------------------------


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=13, fontweight="bold", color=_INK)
    axes.set_xlabel(panel.x_label, fontsize=_TICK, color=_MUTED)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    for _, y in panel.lines:
        axes.axhline(y, color=_BASELINE, linewidth=1.5, linestyle=(0, (3.3, 2.7)))
    axes.scatter(
        [p.x for p in panel.points], [p.y for p in panel.points],
        s=(2 * _RADIUS) ** 2, color=_POINT, linewidths=0, zorder=3,
    )  # fmt: skip
    _set_ranges(axes, panel)
    axes.tick_params(labelsize=_TICK, labelcolor=_MUTED, color=_MUTED, left=False)
    _label(axes, panel)


def _set_ranges(axes: Axes, panel: Panel) -> None:
    """A logarithmic range of cost and a linear one of quality, with room for labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    costs = [p.x for p in panel.points] or [1.0, 10.0]
    room = max(1.15, (max(costs) / min(costs)) ** 0.12)
    low, high = min(costs) / room, max(costs) * room
    if high / low < 2:  # so that several round numbers lie inside
        middle = math.sqrt(low * high)
        low, high = middle / 1.5, middle * 1.5
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    round_numbers = (1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=round_numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    qualities = [p.y for p in panel.points] + [y for _, y in panel.lines]
    low, high = min(qualities, default=0.0), max(qualities, default=1.0)
    spread = max(high - low, abs(high) * 0.02, 1e-6)
    axes.set_ylim(low - 0.15 * spread, high + 0.15 * spread)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _label(axes: Axes, panel: Panel) -> None:
    """Names beside lines and dots."""
    area: Bbox = axes.get_window_extent()
    taken: list[Bbox] = []
    for label, value in panel.lines:
        x, y = area.x1 - 4, axes.transData.transform((1, value))[1]
        width, height = _size(axes, label)
        above, below = (
            _box(x - width / 2, y + side * (3 + height / 2), width, height) for side in (1, -1)
        )
        place = below if above.count_overlaps(taken) else above
        taken += [_box((area.x0 + area.x1) / 2, y, area.width, 3), place]
        _write(axes, label, place, (x, y), _BASELINE)
    dots = [tuple(axes.transData.transform((p.x, p.y))) for p in panel.points]
    sizes = [_size(axes, p.label) for p in panel.points]
    for point, dot, place in zip(panel.points, dots, places(sizes, dots, area, taken), strict=True):
        _write(axes, point.label, place.box, dot, _INK, leader=place.far)


@dataclass(frozen=True)
class LabelPlace:
    """Where a label lies, and whether it is so far from its dot that a line has to lead there."""

    box: Bbox
    far: bool


def places(
    sizes: Sequence[tuple[float, float]],
    dots: Sequence[tuple[float, float]],
    area: Bbox,
    taken: Sequence[Bbox] = (),
) -> list[LabelPlace]:
    """Labels beside their dots so that none covers another, a dot, or what is taken.

    Greedy, from the dots with most neighbours: each label takes the nearest free place around its
    dot, and where there is none the one that covers least.

    Args:
        sizes: (width, height) of each label.
        dots: (x, y) of each dot.
        area: labels stay inside.
        taken: boxes that are not to be covered.
    """
    busy = [*taken, *(_box(x, y, 2 * _RADIUS + 2, 2 * _RADIUS + 2) for x, y in dots)]

    def cost(place: LabelPlace) -> int:
        b = place.box
        inside = b.x0 >= area.x0 and b.x1 <= area.x1 and b.y0 >= area.y0 and b.y1 <= area.y1
        return b.count_overlaps(busy) + (0 if inside else 10)

    found: dict[int, LabelPlace] = {}
    crowd = [sum(math.dist(a, b) < 80 for b in dots) for a in dots]
    for i in sorted(range(len(dots)), key=lambda i: (-crowd[i], dots[i])):
        found[i] = min(_around(*dots[i], *sizes[i]), key=cost)
        busy.append(found[i].box)
    return [found[i] for i in range(len(dots))]


def _around(x: float, y: float, width: float, height: float) -> Iterator[LabelPlace]:
    """The nearest places for a label first."""
    for reach in _REACH:
        distance = _RADIUS + _GAP + reach
        for dx, dy in _SIDES:
            middle_x = x + dx * distance + (dx > 0) * width / 2 - (dx < 0) * width / 2
            middle_y = y + dy * distance + (dy > 0) * height / 2 - (dy < 0) * height / 2
            yield LabelPlace(_box(middle_x, middle_y, width, height), reach > 0)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """A box around its middle."""
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _size(axes: Axes, text: str) -> tuple[float, float]:
    """Of a label, as it will be drawn."""
    drawn = axes.text(0, 0, text, fontsize=_LABEL, parse_math=False)
    extent = drawn.get_window_extent()
    drawn.remove()
    return extent.width, extent.height


def _write(
    axes: Axes, text: str, box: Bbox, at: tuple[float, float], colour: str, *, leader: bool = False
) -> None:
    """A label in its box, tied to what it names so that it stays there at any resolution."""
    line: Any = {"arrowstyle": "-", "color": _MUTED, "linewidth": 0.75, "shrinkA": 0, "shrinkB": 0}
    x, y = axes.transData.inverted().transform(at)
    axes.annotate(
        text, (x, y),
        xytext=(box.x0 - at[0], box.y0 - at[1]), textcoords="offset points", va="bottom",
        fontsize=_LABEL, color=colour, parse_math=False, arrowprops=line if leader else None,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0}, zorder=4,
    )  # fmt: skip
