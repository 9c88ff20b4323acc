"""The table as text of 100 columns and as Markdown, from one list of grids."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from teco.evaluation.table.published import (
    BD_CONDITIONS,
    STUDY_BLOCKS_NOTE,
    STUDY_CONDITIONS,
    STUDY_NOTE,
    STUDY_ROWS,
    Published,
    rows_for,
)
from teco.evaluation.table.report import (
    SHOWN,
    Average,
    Entrant,
    MethodResult,
    SetResult,
    TableReport,
)
from teco_calibration.degrade import BD_SIGMA
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, UNITS, Metric
from teco_models import zoo
from teco_models.variant import Degradation

DIGITS: dict[str, int] = {"psnr": 2, "ssim": 4, "lpips": 4, "tof": 4, "tlp": 3, "flicker": 3}
NAMES: dict[str, str] = {
    "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "tof": "tOF", "tlp": "tLP",
    "flicker": "flicker",
}  # fmt: skip

_SET_METRICS: tuple[Metric, ...] = ("psnr", "lpips", "tof", "tlp")
_STUDY_METRICS: tuple[Metric, ...] = ("psnr", "lpips", "tof")


@dataclass(frozen=True)
class Grid:
    """One table, ready to show.

    Attributes:
        title: what it is of.
        header: columns; the first ``left`` of them are words, the others numbers.
        rows: as many cells each as the header has.
        notes: sentences below it.
        left: left-aligned columns.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    left: int = 1


def as_text(report: TableReport) -> str:
    """All grids for a terminal or a file, plain, 100 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=100, no_color=True, highlight=False, markup=False)
    for i, grid in enumerate(grids(report)):
        if i:
            console.print()
        console.print(grid.title)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for n, name in enumerate(grid.header):
            words = n < grid.left
            # Units below names: narrow columns leave room for the methods'.
            table.add_column(
                name if words else name.replace(" ", "\n", 1),
                justify="left" if words else "right",
                no_wrap=not words,
                overflow="fold",
            )
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        for note in grid.notes:
            console.print(note)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(lines) + "\n"


def as_markdown(report: TableReport, plot: str | None = None) -> str:
    """All grids as Markdown that can be pasted into a README.

    Args:
        report: what was measured.
        plot: link to the plot, shown first.
    """
    parts: list[str] = []
    if plot is not None:
        parts.append(f"![Quality against cost]({plot.replace(' ', '%20')})")
    for grid in grids(report):
        lines = [
            _line(grid.header),
            _line(["---" if n < grid.left else "---:" for n in range(len(grid.header))]),
            *(_line(row) for row in grid.rows),
        ]
        parts.append(f"**{_escape(grid.title)}**")
        parts.append("\n".join(lines))
        parts.append("\n".join(f"- {_escape(note)}" for note in grid.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|*_<`":
        text = text.replace(mark, f"\\{mark}")
    return text


def grids(report: TableReport) -> list[Grid]:
    """What there is to show: per set ours, then what is published on it; the study's table last."""
    found: list[Grid] = []
    for one in report.sets:
        found.append(_ours(one, report))
        if report.options.published and rows_for(one.clips.kind):
            found.append(_published_on(one, report))
    if report.options.published:
        found.append(_study(report))
    return found


# --- ours ------------------------------------------------------------------------------------


def _ours(one: SetResult, report: TableReport) -> Grid:
    o = report.options
    timed = any(entrant.timing is not None for entrant in report.entrants)
    runtimes = {entrant.runtime for entrant in report.entrants}
    header = ["method", "params M", "GMAC", *(heading(m) for m in o.metrics)]
    header += ["ms"] * timed + ["runtime"] * (len(runtimes) > 1)
    rows: list[tuple[str, ...]] = []
    for judged in one.methods:
        e = judged.entrant
        cells = [judged.row.method, _params(e), "-" if e is None else _gmac(e.gmac)]
        cells += [number(judged.value(m, o.average), m) for m in o.metrics]
        if timed:
            cells.append("-" if e is None or e.milliseconds is None else f"{e.milliseconds:.1f}")
        if len(runtimes) > 1:
            cells.append("-" if e is None else e.runtime)
        rows.append(tuple(cells))
    return Grid(one.clips.name, tuple(header), tuple(rows), _notes(one, report, timed))


def _notes(one: SetResult, report: TableReport, timed: bool) -> tuple[str, ...]:
    """The conditions of a set's numbers."""
    o, row, size = report.options, one.methods[0].row, "{}x{}".format(*report.options.size)
    clips = f"{row.clips} clip{'s' if row.clips > 1 else ''}"
    seen = sum(result.seen for result in row.per_clip)
    other = "folder" if o.average == "frame" else "frame"
    average = (
        "frame and folder average are the same for one clip"
        if row.clips == 1
        else f"{o.average} average shown, the {other} average is in the JSON record"
    )
    notes = [f"{row.frames} of {seen} frames of {clips} count; {average}."]
    made = [m.degradation for m in one.methods]
    kinds: list[Degradation] = [k for k in SHOWN if k in made]
    if o.inputs == "given":
        notes.append(f"Inputs: the {' and '.join(SHOWN[k] for k in kinds)} pictures of the set.")
    else:
        how: dict[Degradation, str] = {
            "bd": f"BD (Gaussian sigma {BD_SIGMA:g}, every fourth pixel, reflect padding)",
            "bi": "BI (bicubic with antialiasing)",
            "real": f"as ordinary clips are (Lanczos, then {o.codec or 'no codec'})",
        }
        unused = any(set(clip.given) & set(kinds) for clip in one.clips.clips)
        notes.append(
            f"Inputs made here from the truth: {' and '.join(how[k] for k in kinds)}"
            + ("; those that lie beside it were not used (--inputs given)." if unused else ".")
        )
    if len(kinds) > 1:
        notes.append(
            f"{' and '.join(SHOWN[k] for k in kinds)} models take different inputs: compare each "
            "with its own bicubic."
        )
    if o.shrink != 1:
        notes.append(f"Truth area-averaged to 1/{o.shrink:g} of its size first.")
    if o.max_frames is not None:
        notes.append(f"At most {o.max_frames} frames of each clip.")
    if report.entrants:
        what = f"GMAC of one step at {size} (LR)"
        if timed:
            first = report.entrants[0].timing
            samples = 0 if first is None else first.latency.host.summary.count
            runtimes = dict.fromkeys(entrant.runtime for entrant in report.entrants)
            m = report.machine
            threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
            what += (
                f"; ms: median of {samples} interleaved steps at that size on "
                f"{', '.join(runtimes)}, {threads}, {m.cpu or 'unknown processor'}"
                + "".join(f", {gpu}" for gpu in m.gpus)
            )
        notes.append(what + ".")
    return (*notes, *report.left_out, *one.notes())


# --- published -------------------------------------------------------------------------------


def _published_on(one: SetResult, report: TableReport) -> Grid:
    rows: list[tuple[str, ...]] = []
    sources: list[str] = []
    for published in rows_for(one.clips.kind):
        if published.source not in sources:
            sources.append(published.source)
        mark = f"[{sources.index(published.source) + 1}]"
        rows.append(_published_row(f"{published.method} {mark}", published, _SET_METRICS))
        average = published.average or report.options.average
        rows += [
            _our_row(judged.row.method, published, judged, average, _SET_METRICS)
            for judged in _like(published, one)
        ]
    notes = [f"[{n}] {source}" for n, source in enumerate(sources, start=1)]
    averages = [p.method for p in rows_for(one.clips.kind) if p.average == "frame"]
    notes.append(
        f"Published: {BD_CONDITIONS}; frame average where the source says so "
        f"({', '.join(averages)}), the others do not say."
    )
    notes += [*_other_networks(report, rows_for(one.clips.kind)), *_differences(report)]
    return Grid(
        f"{one.clips.kind}: published figures, and ours of as many blocks",
        ("method", "whose", "params M", *(heading(m) for m in _SET_METRICS)),
        tuple(rows), tuple(notes), left=2,
    )  # fmt: skip


def _study(report: TableReport) -> Grid:
    rows: list[tuple[str, ...]] = []
    tested = [one for one in report.sets if one.clips.kind in ("Vid4", "ToS3")]
    for published in STUDY_ROWS:
        rows.append(_published_row(published.method, published, _STUDY_METRICS))
        for one in tested:
            rows += [
                _our_row(
                    f"{judged.row.method} on {one.clips.kind}",
                    published, judged, report.options.average, _STUDY_METRICS,
                )
                for judged in _like(published, one)
            ]  # fmt: skip
        if not tested:
            # Parameters do not depend on the clips; the figures would not be comparable.
            rows += [
                (e.name, _whose(published, e), _params(e), *("-" for _ in _STUDY_METRICS))
                for e in report.entrants
                if published.is_like(e.variant)
            ]
    notes = [f"Published: {STUDY_ROWS[0].source}.", f"Its conditions: {STUDY_CONDITIONS}."]
    notes += [STUDY_BLOCKS_NOTE, STUDY_NOTE]
    notes += [*_other_networks(report, STUDY_ROWS), *_differences(report)]
    return Grid(
        "The study's table 3 as published, and ours of as many blocks",
        ("method", "whose", "params M", *(heading(m) for m in _STUDY_METRICS)),
        tuple(rows), tuple(notes), left=2,
    )  # fmt: skip


def _like(published: Published, one: SetResult) -> list[MethodResult]:
    return [j for j in one.methods if j.entrant and published.is_like(j.entrant.variant)]


def _published_row(name: str, published: Published, metrics: Sequence[Metric]) -> tuple[str, ...]:
    params = "-" if published.params_m is None else f"{published.params_m:g}"
    cells = [
        "-" if (v := published.values.get(m)) is None
        else f"{v:.{2 if m == 'psnr' else published.digits}f}"
        for m in metrics
    ]  # fmt: skip
    return (name, "published", params, *cells)


def _our_row(
    name: str,
    published: Published,
    judged: MethodResult,
    average: Average,
    metrics: Sequence[Metric],
) -> tuple[str, ...]:
    assert judged.entrant is not None
    cells = (number(judged.value(m, average), m) for m in metrics)
    return (name, _whose(published, judged.entrant), _params(judged.entrant), *cells)


def _whose(published: Published, entrant: Entrant) -> str:
    """What stands beside a published row: its network trained by us, or another one."""
    return "ours, other net" if published.differs_from(entrant.variant) else "ours"


def _other_networks(report: TableReport, published: Sequence[Published]) -> list[str]:
    """In what the networks that are marked as others differ from the published ones."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for entrant in report.entrants:
        like = [row for row in published if row.is_like(entrant.variant)]
        if like and (differs := like[0].differs_from(entrant.variant)):
            reasons.setdefault(differs, []).append(entrant.name)
    found = [
        f"Other networks than the published, with {', '.join(differs)} besides: {', '.join(names)}."
        for differs, names in reasons.items()
    ]
    if any(entrant.spec == entry.name for entrant in report.entrants for entry in zoo.entries()):
        found.append("Shipped networks were trained on other clips than REDS (their cards say).")
    return found


def _differences(report: TableReport) -> list[str]:
    """What keeps ours from being compared with the published figures, beyond the training."""
    o = report.options
    found: list[str] = []
    if o.shrink != 1:
        found.append(f"--shrink {o.shrink:g}")
    if o.max_frames is not None:
        found.append(f"--frames {o.max_frames}")
    if not found:
        return []
    return [f"Not comparable: ours were measured with {' and '.join(found)}, published ones whole."]


# --- cells -----------------------------------------------------------------------------------


def heading(metric: Metric) -> str:
    """A metric's name, unit, and which way is better: ``PSNR dB ↑``."""
    arrow = "↑" if metric in HIGHER_IS_BETTER else "↓"
    return " ".join(part for part in (NAMES[metric], UNITS[metric], arrow) if part)


def number(value: float | None, metric: str) -> str:
    """A figure with its metric's digits; ``-`` where there is none, ``equal`` for no error."""
    if value is None:
        return "-"
    return "equal" if math.isinf(value) else f"{value:.{DIGITS[metric]}f}"


def _params(entrant: Entrant | None) -> str:
    return "-" if entrant is None else f"{entrant.params / 1e6:.3f}"


def _gmac(gmac: float) -> str:
    """Four significant digits: networks differ by a factor of a thousand."""
    return f"{gmac:.1f}" if gmac >= 10 else f"{gmac:.2f}" if gmac >= 1 else f"{gmac:.3g}"
