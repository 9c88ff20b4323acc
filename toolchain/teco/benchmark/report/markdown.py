"""A record as Markdown, for a README: the answer, its table and conditions, the rest folded."""

from __future__ import annotations

import html
from collections.abc import Sequence

from teco.benchmark.record.record import Record
from teco.benchmark.report.answer import answer, grouped_warnings, mark, verdict
from teco.benchmark.report.columns import Column, TableRow, entries, measured

SPEED = (
    "p50", "p90", "p99", "jitter", "fps", "device", "end_to_end", "in_time", "share", "peak",
    "gpu_memory",
)  # fmt: skip
QUALITY = ("psnr", "ssim", "lpips", "tof", "tlp", "flicker", "float32", "drift", "pre_roll")


def markdown(record: Record) -> str:
    """The answer, its table with the best of each column in bold, and the rest folded."""
    found = answer(record)
    lines = entries(record)
    rows = [e for e in lines if e.row is not None]
    judged = [e for e in lines if e.quality is not None]
    warnings = [
        f"- {_plain(group)}: {_plain(text)}"
        for group, texts in grouped_warnings(record).items()
        for text in texts
    ]
    missing = [f"- not run: {_plain(what)}: {_plain(why)}" for what, why in not_run(record)]
    every = [_table(rows, measured(rows, SPEED)), _table(judged, measured(judged, QUALITY))]
    parts = [
        f"**{_plain(found.headline)}** {_plain(found.rest)}".strip(),
        _table(found.lines, found.columns, found.lines),
        _folded(_plain(found.doubts), "\n".join([*warnings, *missing])),
        _plain(" ".join(conditions(record))),
        _folded("Every figure", _plain(shared_speed(record)), *every),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    """Words of the record, of which Markdown makes no HTML, in one line."""
    return html.escape(" ".join(text.split()), quote=False)


def _folded(title: str, *parts: str) -> str:
    """What opens below a line; the line alone where there is nothing below it."""
    inside = "\n\n".join(part for part in parts if part)
    if not inside:
        return f"{title}."
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def _table(
    lines: Sequence[TableRow], columns: Sequence[Column], judged: Sequence[TableRow] = ()
) -> str:
    """A table, with verdicts where it is the answer's; "" without columns."""
    if not columns:
        return ""
    best = {c.key: c.best(lines) for c in columns}
    text = [
        "| model | runtime | "
        + " | ".join(c.title for c in columns)
        + (" | verdict |" if judged else " |"),
        "|---|---|" + "---:|" * len(columns) + ("---|" if judged else ""),
    ]
    for e in lines:
        cells = [f"**{c.text(e)}**" if e.key in best[c.key] else c.text(e) for c in columns]
        if judged:
            cells.append(_plain("; ".join(filter(None, (verdict(e, judged), mark(e))))))
        # What stands between backticks is shown as it is.
        code = "`" not in e.model
        name = f"`{' '.join(e.model.split())}`" if code else _plain(e.model)
        shown = (cell.replace("|", "\\|") for cell in (name, _plain(e.runtime), *cells))
        text.append("| " + " | ".join(shown) + " |")
    return "\n".join(text)


def conditions(record: Record) -> list[str]:
    """Where, how and on what the figures were measured, in sentences."""
    sizes = ", ".join(dict.fromkeys(row.size for row in record.rows))
    c, m = record.conditions, record.machine
    threads = f"{c.threads} thread{'s' if c.threads != 1 else ''}"
    found = [f"One step from {sizes} (LR), {threads}; {m.cpu}, {m.cores} cores."] if sizes else []
    if m.gpus:
        found.append(f"GPU: {', '.join(m.gpus)}.")
    if (clip := record.clip) is not None:
        name = "real" if clip.degradation == "real" else clip.degradation.upper()
        how = f"degraded ({name})" if not clip.truth else "as given"
        shrunk = f", shrunk to 1/{clip.shrink:g}" if clip.shrink != 1 else ""
        found.append(
            f"Quality on {clip.name}{shrunk}, {clip.width}x{clip.height}, {clip.frames} frames, "
            f"{how}; official definitions, frame average."
        )
    found.append(f"Measured {record.created[:10]}.")
    return found


def shared_speed(record: Record) -> str:
    """Which models show the speed of another one; "" where each was measured itself."""
    names = {row.key: row.artifact.name for row in record.rows}
    pairs = {
        row.artifact.name: names[row.measured_as] for row in record.rows if row.measured_as in names
    }
    told = ", ".join(f"{name} as {other}" for name, other in pairs.items())
    return told and f"Same graph, other weights, so speed and memory measured once: {told}."


def not_run(record: Record, *, static: bool = True) -> list[tuple[str, str]]:
    """(what, why) of what was asked for and did not run; sentences without their full stop.

    Args:
        record: of the run.
        static: artifacts that no runtime here runs, too.
    """
    found = [
        (f"{u.model} on {u.runtime}" if u.model else u.runtime, u.why) for u in record.unavailable
    ]
    found += [(s.artifact.name, s.why) for s in record.static if static]
    return [(what, why.rstrip(".")) for what, why in found]
