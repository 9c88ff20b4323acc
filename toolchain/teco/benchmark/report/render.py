"""Reports as text that fits 100 columns, with or without colour."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from teco.benchmark.record.compare import Comparison
from teco.benchmark.record.gate import GateResult
from teco.benchmark.report.answer import with_interval
from teco.core.text import printable
from teco.evaluation.quality import QualityRow
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, UNITS, Metric

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100

_DIGITS: dict[str, int] = {"psnr": 2, "ssim": 4, "lpips": 4, "tof": 4, "tlp": 3}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Left-aligned first column, right-aligned others; plain text."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*row)
    return plain_text(table, *notes)


def plain_text(*parts: RenderableType) -> str:
    """Tables and sentences without colour, in :data:`WIDTH` columns."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False
    )
    for part in parts:
        console.print(part)
    return "".join(f"{printable(line).rstrip()}\n" for line in out.getvalue().split("\n"))


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return "equal" if math.isinf(value) else f"{value:.{digits}f}"


def quality_table(rows: Sequence[QualityRow], metrics: Sequence[Metric]) -> str:
    """One line per method; folder averages beside frame averages where there are several clips."""
    clips = rows[0].clips
    header = ["method"]
    coded = any(row.codec for row in rows)
    if coded:
        header.append("codec")
    for metric in metrics:
        arrow = "↑" if metric in HIGHER_IS_BETTER else "↓"
        header.append(f"{UNITS_SHORT.get(metric, metric)} {arrow}")
    shifted = any(row.best_shift is not None for row in rows)
    if shifted:
        header.append("best shift px")
    body: list[list[str]] = []
    # Clips of as many frames have one average, and one line.
    same = all(len({r.frames for r in row.per_clip}) == 1 for row in rows)
    averages = [("frame average", False)] + ([] if same else [("folder average", True)])
    for row in rows:
        for label, folder in averages:
            means = row.folder_average if folder else row.frame_average
            name = row.method if same else f"{row.method} ({label})"
            cells = [row.codec or "none"] if coded else []
            cells += [_number(means.get(m), _DIGITS.get(m, 3)) for m in metrics]
            if shifted:
                shift = row.best_shift
                cells.append("-" if shift is None else f"{shift[0]:g}, {shift[1]:g}")
            body.append([name, *cells])
    frames = f"{rows[0].frames} frames of {clips} clip{'s' if clips > 1 else ''} counted"
    both = "frame and folder average are the same" if same else ""
    window = rows[0].per_clip[0].window
    where = f"window {window.width}x{window.height}"
    return _table(header, body, [", ".join(x for x in (frames, where, both) if x)])


UNITS_SHORT = {
    m: f"{m.upper() if m != 'tof' else 'tOF'}{' ' + u if u else ''}" for m, u in UNITS.items()
}


def comparison_table(found: Comparison) -> str:
    """Two records compared: the answer, one line per row that both have, then what else differs."""
    header = ("candidate", "before ms", "after ms", "ratio", "99% interval", "verdict")
    body: list[tuple[str, ...]] = []
    notes: list[str] = []
    for pair in found.pairs:
        ratio = pair.ratio
        body.append(
            (
                pair.key,
                _number(pair.before_ms, 2),
                _number(pair.after_ms, 2),
                _number(ratio and ratio.ratio, 3),
                f"{ratio.low:.3f} to {ratio.high:.3f}" if ratio and ratio.has_interval else "-",
                "not timed" if ratio is None else ratio.verdict,
            )
        )
        if ratio is not None and ratio.verdict == "undecided":
            notes.append(f"{pair.key}: {ratio.why}")
        notes += [f"{pair.key}: {change}" for change in pair.changes]
    for keys, which in ((found.only_before, "before"), (found.only_after, "after")):
        notes += [f"only in the record {which}: {key}" for key in keys]
    for one in found.differences:
        mark = "incomparable" if one.incomparable else "differs"
        notes.append(f"{mark}: {one.what}: {one.before} | {one.after}")
    first = [_compared(found)]
    if found.incomparable:
        first.append(
            "These runs differ in more than what was compared: a ratio says which machine with "
            "which software is faster, not what a change of the model did."
        )
    return plain_text(*first).rstrip() + "\n" + _table(header, body, notes)


def _compared(found: Comparison) -> str:
    """How many candidates became faster and slower, and which changed most."""
    ratios = [pair.ratio for pair in found.pairs if pair.ratio is not None]
    if not ratios:
        return "No candidate was timed in both."
    counts = Counter(ratio.verdict for ratio in ratios)
    told = [f"{counts[v]} {word}" for v, word in _VERDICTS.items() if v in counts]
    changed = [ratio for ratio in ratios if ratio.verdict in ("faster", "slower")]
    text = f"Of {len(ratios)} candidate{'s' * (len(ratios) != 1)} after: {', '.join(told)}"
    if not changed:
        return f"{text}."
    most = max(changed, key=lambda ratio: abs(math.log(ratio.ratio)))
    return f"{text}; most: {most.row} takes {with_interval(most)} times as long."


_VERDICTS: Mapping[str, str] = {
    "faster": "faster", "slower": "slower", "equal": "as fast", "undecided": "undecided",
}  # fmt: skip


def gate_table(gate: Sequence[GateResult]) -> str:
    """One line per candidate, and why where one was refused; "" for none."""
    if not gate:
        return ""
    header = ("model", "runtime", "bounds", "gate", "worst dB", "max steps", "within one")
    body: list[tuple[str, ...]] = []
    notes: list[str] = []
    for one in gate:
        if one.note:
            notes.append(f"{one.model} on {one.runtime}: {one.note}")
        if (verdict := one.verdict) is None:
            body.append((one.model, one.runtime, "-", "not judged", "-", "-", "-"))
            continue
        numbers = verdict.numbers
        worst, share = numbers.worst_psnr, numbers.within_one
        body.append(
            (
                one.model,
                one.runtime,
                verdict.bounds.name,
                "accepted" if verdict.accepted else "refused",
                "equal" if worst is None else f"{worst:.1f}",
                str(max(numbers.max_steps, default=0)),
                "-" if share is None else f"{share:.2%}",
            )
        )
        if not verdict.accepted:
            notes += [f"{one.model} on {one.runtime}: {reason}" for reason in verdict.reasons]
    references = ", ".join(sorted({one.reference for one in gate if one.reference}))
    if references:
        notes.insert(0, f"the temporal gate, beside the float32 step on {references}")
    return _table(header, body, notes)
