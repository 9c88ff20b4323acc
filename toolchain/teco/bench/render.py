"""Reports as text that fits 100 columns, with or without colour."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from teco.bench.gate import Judged
from teco.bench.report import BenchReport
from teco.evaluate import Row
from teco_calibration.quality import HIGHER_IS_BETTER, UNITS, Metric

_DIGITS: dict[str, int] = {"psnr": 2, "ssim": 4, "lpips": 4, "tof": 4, "tlp": 3}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Left-aligned first column, right-aligned others; plain text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=100, no_color=True, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note)
    return out.getvalue()


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return "equal" if math.isinf(value) else f"{value:.{digits}f}"


def quality_table(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    """One line per method; folder averages beside frame averages where there are several clips."""
    clips = rows[0].clips
    header = ["method"]
    for metric in metrics:
        arrow = "↑" if metric in HIGHER_IS_BETTER else "↓"
        header.append(f"{UNITS_SHORT.get(metric, metric)} {arrow}")
    body: list[list[str]] = []
    averages = [("frame average", False)] + ([("folder average", True)] if clips > 1 else [])
    for row in rows:
        for label, folder in averages:
            means = row.folder_average if folder else row.frame_average
            name = row.method if clips == 1 else f"{row.method} ({label})"
            body.append([name, *(_number(means.get(m), _DIGITS.get(m, 3)) for m in metrics)])
    frames = f"{rows[0].frames} frames of {clips} clip{'s' if clips > 1 else ''} counted"
    both = "frame and folder average are the same for one clip" if clips == 1 else ""
    window = rows[0].per_clip[0].window
    where = f"window {window.width}x{window.height}"
    return _table(header, body, [", ".join(x for x in (frames, where, both) if x)])


UNITS_SHORT = {
    m: f"{m.upper() if m != 'tof' else 'tOF'}{' ' + u if u else ''}" for m, u in UNITS.items()
}


def bench_table(report: BenchReport) -> str:
    """Latency and memory, then quality, then what to know about them."""
    header = ("model", "runtime", "p50 ms", "p90 ms", "p99 ms", "fps", "peak MiB", "load s")
    body = [
        (
            c.model,
            c.runtime,
            f"{c.p50 * 1e3:.1f}",
            f"{c.p90 * 1e3:.1f}",
            f"{c.p99 * 1e3:.1f}",
            f"{c.fps:.2f}",
            f"{c.peak_bytes / 2**20:.0f}" if c.peak_bytes else "-",
            f"{c.load_seconds:.2f}",
        )
        for c in report.candidates
    ]
    m = report.machine
    notes = [
        f"one step at {report.size} (LR), {report.threads} threads, "
        f"{len(report.candidates[0].samples)} interleaved samples each; {m.cpu}, {m.cores} cores",
    ]
    text = _table(header, body, notes)
    if report.quality:
        metrics: list[Metric] = [m for m in UNITS if m in report.quality[0].frame_average]
        text += quality_table(report.quality, metrics)
    if report.gate:
        text += gate_table(report.gate)
    return text


def gate_table(gate: Sequence[Judged]) -> str:
    """One line per candidate, and why where one was not accepted."""
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
