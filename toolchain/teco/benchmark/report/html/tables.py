"""The report's tables: HTML that reads well without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from teco.benchmark.record.gate import GateResult
from teco.benchmark.record.record import Record
from teco.benchmark.report.answer import Answer, mark, verdict
from teco.benchmark.report.columns import MIB, Column, TableRow, column, measured, number
from teco.page.document import table


def verdicts(found: Answer) -> str:
    """The answer's table: a few columns, and the place of each row beside the fastest."""
    best = {c.key: c.best(found.lines) for c in found.columns}
    ratio = column("ratio")
    body = ""
    for e in found.lines:
        note = mark(e)
        told = escape(verdict(e, found.lines)) + (f"<small>{escape(note)}</small>" if note else "")
        last = f'<td data-key="verdict" data-value="{_plain(ratio.value(e))}">{told}</td>'
        body += _line(e, found.columns, best, last)
    return (
        f'<table id="answer" class="figures"><thead><tr>{_heads(found.columns)}'
        '<th scope="col" data-key="verdict"><button type="button">verdict</button></th></tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def summary(lines: Sequence[TableRow]) -> str:
    """Every figure of every entry; ``data-value`` holds the number as the record has it."""
    columns = measured(lines)
    best = {c.key: c.best(lines) for c in columns}
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(list(some))}">{escape(group)}</th>'
        for group, some in groupby(columns, key=lambda c: c.group)
    )
    body = "".join(_line(e, columns, best) for e in lines)
    return (
        '<table id="summary" class="figures"><thead>'
        f'<tr class="groups"><td></td>{groups}</tr>'
        f"<tr>{_heads(columns)}</tr></thead><tbody>{body}</tbody></table>"
    )


def _heads(columns: Sequence[Column]) -> str:
    """Headings that sort."""
    name = '<th scope="col" data-key="name"><button type="button">model, runtime</button></th>'
    return name + "".join(
        f'<th scope="col" data-key="{c.key}" title="{escape(c.meaning)}"><button type="button">'
        f"{_broken(c.title)}</button></th>"
        for c in columns
    )


def _broken(title: str) -> str:
    """A title with its unit on a line of its own."""
    name, _, unit = title.rpartition(" ")
    return f"{escape(name)}<small>{escape(unit)}</small>" if name else escape(title)


def _line(e: TableRow, columns: Sequence[Column], best: dict[str, set[str]], last: str = "") -> str:
    precision = e.row.precision if e.row else ""
    shared = "speed shared" if e.row and e.row.measured_as else ""
    about = " · ".join(x for x in (e.runtime or "interpolation", precision, shared) if x)
    cells = "".join(_cell(e, c, e.key in best[c.key]) for c in columns)
    return (
        f'<tr data-row="{escape(e.key)}"><th scope="row"><b>{escape(e.model)}</b>'
        f"<small>{escape(about)}</small></th>{cells}{last}</tr>"
    )


def _plain(value: float | None) -> str:
    """A number as the script reads it."""
    return "" if value is None else "Infinity" if math.isinf(value) else repr(float(value))


def _end(ms: float) -> str:
    """An end of an interval, in about three digits."""
    return number(ms, 0 if ms >= 100 else 1 if ms >= 10 else 2)


def _cell(e: TableRow, c: Column, best: bool) -> str:
    plain = _plain(c.value(e))
    kind = ' class="best"' if best else ""
    under = ""
    if c.key == "p50" and e.host is not None:
        under = f"<small>{_end(e.host.low)}\u2013{_end(e.host.high)}</small>"
    return f'<td data-key="{c.key}" data-value="{plain}"{kind}>{escape(c.text(e))}{under}</td>'


def meanings(lines: Sequence[TableRow]) -> str:
    """What each column is."""
    return (
        "<dl>"
        + "".join(
            f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}"
            + ({"high": "; higher is better", "low": "; lower is better"}.get(c.better or "", ""))
            + "</dd>"
            for c in measured(lines)
        )
        + "</dl>"
    )


def distances(record: Record) -> str:
    """How far each row is from the float32 step."""
    rows: list[list[str]] = []
    for row in record.rows:
        if (d := row.distance) is None:
            continue
        worst = "equal" if d.min_psnr is None else f"{d.min_psnr:.1f} dB"
        grows = "-" if d.drift is None else f"{d.drift.per_100:+.3f} steps RMS"
        share = int(d.within_one * 1e4) / 1e2  # rounded down: 100 means all
        rows.append(
            [row.key, d.reference, str(d.frames), worst, str(d.max_steps), f"{share:g}%", grows]
        )
    header = ("row", "float32 step on", "frames", "worst frame", "largest difference, steps of 255",
              "values within one step", "growth in 100 frames")  # fmt: skip
    return table(header, rows, "Distance from the float32 step of the same weights")


def cold_starts(lines: Sequence[TableRow]) -> str:
    """The pre-roll that each cold-start curve suggests."""
    rows: dict[str, list[str]] = {}
    for e in lines:
        if e.quality is None or (cold := e.quality.cold_start) is None:
            continue
        first = cold.settled_psnr[0] - cold.psnr[0]
        frames = "not reached" if cold.pre_roll is None else str(cold.pre_roll)
        rows[f"{e.quality.method} on {e.quality.measured_on}"] = [
            f"{first:.2f} dB", frames, f"{cold.tolerance:.2f} dB", str(len(cold.starts)), cold.size,
        ]  # fmt: skip
    header = ("frames of", "missing on a first frame", "pre-roll frames", "may be missing",
              "resets", "LR size run")  # fmt: skip
    return table(header, [[name, *cells] for name, cells in rows.items()], "Suggested pre-roll")


def ratios(record: Record) -> str:
    """Every row against the fastest, with the verdict."""
    rows = [
        [r.row, f"{r.ratio:.3f}", f"{r.low:.3f} to {r.high:.3f}" if r.has_interval else "-",
         r.verdict, r.why]
        for r in record.ratios
    ]  # fmt: skip
    against = record.ratios[0].against if record.ratios else ""
    header = ("row", "ratio of medians", "interval, 99%", "verdict", "why")
    return table(header, rows, f"Against {against}")


def memory(record: Record) -> str:
    """Of each row's own process."""

    def mib(value: int | None) -> str:
        return "-" if value is None else f"{value / MIB:.0f}"

    rows = [
        [row.key, mib(m.peak), mib(m.private), mib(m.base), mib(m.device), mib(m.weights),
         mib(m.activations),
         "-" if m.growth_per_1000 is None else f"{m.growth_per_1000 / MIB:.2f}"]
        for row in record.rows if (m := row.memory) is not None
    ]  # fmt: skip
    header = ("row", "peak", "private", "before opening", "on the GPU", "weights", "activations",
              "growth in 1,000 frames")  # fmt: skip
    return table(header, rows, "Memory of a process of its own, MiB")


def playback(record: Record) -> str:
    """What became of each row's frames when they were played."""
    rows: list[list[str]] = []
    for row in record.rows:
        if (p := row.playback) is None or row.measured_as:
            continue
        late = [ms for ms in p.late_ms if ms > 0]
        rows.append(
            [row.key, f"{p.rate:g}", str(p.frames), str(p.shown), str(p.late), str(p.dropped),
             f"{max(late):.0f} ms" if late else "-"]
        )  # fmt: skip
    header = ("row", "frames a second", "played", "in time", "late", "left to bicubic",
              "latest by")  # fmt: skip
    return table(header, rows, "Played at the clip's rate")


def gate(record: Record) -> str:
    """The temporal gate's verdicts, each with its reasons."""
    rows: list[list[str]] = []
    for data in record.gate:
        one = GateResult.from_dict(data)
        name, note = f"{one.model} on {one.runtime}", one.note or "-"
        if (verdict := one.verdict) is None:
            rows.append([name, "-", "not judged", "-", "-", note])
            continue
        n = verdict.numbers
        rows.append(
            [name, verdict.bounds.name, "accepted" if verdict.accepted else "refused",
             "equal" if n.worst_psnr is None else f"{n.worst_psnr:.1f} dB",
             str(max(n.max_steps, default=0)),
             note if verdict.accepted else "; ".join([*verdict.reasons, *filter(None, [one.note])])]
        )  # fmt: skip
    header = ("row", "bounds", "verdict", "worst frame", "largest difference, steps of 255", "why")
    return table(header, rows, "Beside the float32 step, over a sequence and across cuts")


def static(record: Record) -> str:
    """What did not run, and what can be said of it all the same."""
    rows = [
        [s.artifact.name, s.size, f"{s.macs / 1e9:.1f}", f"{s.artifact.bytes / MIB:.1f}",
         f"{s.weights / MIB:.1f}", f"{s.activations / MIB:.0f}",
         s.artifact.proof or s.artifact.precision, s.why]
        for s in record.static
    ]  # fmt: skip
    header = ("file", "LR size", "GMAC", "file MiB", "weights MiB", "activations MiB", "precision",
              "why it was not run")  # fmt: skip
    return table(header, rows, "Not run here: what the files say")


def unavailable(record: Record) -> str:
    """Runtimes that cannot run here."""
    rows = [
        [f"{u.model} on {u.runtime}" if u.model else u.runtime, u.why] for u in record.unavailable
    ]
    return table(("not run", "why"), rows, "What cannot run here")


def ceilings(record: Record) -> str:
    """What this machine was seen to do."""
    rows = [
        [c.kind, c.library, c.device, c.precision or "-",
         f"{2 * c.value / 1e9:.1f} GFLOP/s" if c.kind == "gemm" else f"{c.value / 1e9:.1f} GB/s",
         c.method]
        for c in record.ceilings
    ]  # fmt: skip
    header = ("limit", "measured with", "device", "precision", "best", "how")
    return table(header, rows, "Measured limits of this machine")
