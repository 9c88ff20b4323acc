"""A benchmark in a terminal: a table that fills while it runs, and the answer at its end.

While steps are timed the screen is drawn between them only: no thread refreshes it. Where standard
error is no terminal, progress is told in lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from teco.benchmark.measure.candidates import BenchCandidate
from teco.benchmark.record.record import Record, Row
from teco.benchmark.report.answer import answer, grouped_warnings, main_metric, mark, verdict
from teco.benchmark.report.columns import Column, TableRow, column, entries, measured
from teco.benchmark.report.markdown import conditions, not_run, shared_speed
from teco.benchmark.report.render import WIDTH, plain_text
from teco.core.text import printable
from teco_models.variant import SCALE

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table

SPEED = ("p50", "p90", "p99", "jitter", "fps", "device", "end_to_end", "in_time", "share", "peak")
QUALITY = ("psnr", "ssim", "lpips", "tof", "tlp", "flicker", "float32", "drift", "pre_roll")
OTHER = ("ratio", "load", "first")
WHILE_IT_RUNS = ("p50", "p99", "fps", "peak")

EVERY = 0.5
"""Seconds between two redraws at least."""

SAID = 10.0
"""Seconds between two lines on the same work, where there is no terminal."""

_HEADS = {
    "jitter": "jitter", "device": "GPU", "end_to_end": "end to\nend fps", "in_time": "in time",
    "share": "limit", "peak": "MiB", "psnr": "PSNR", "tof": "tOF", "tlp": "tLP",
    "flicker": "flick", "float32": "f32", "drift": "drift", "pre_roll": "pre-\nroll",
    "ratio": "x fastest",
}  # fmt: skip
"""Shorter than the columns' own titles: they share 100 columns with nine others. The lines below
the tables say the units."""

PREFIX = f"teco-x{SCALE}-"
"""Of most models' names; tables do without, and say so."""


def answer_text(record: Record, *, details: bool = False) -> str:
    """The answer, its table and one line on how far to trust them; at most 100 columns wide.

    "" where nothing ran and there is nothing to say of what did not.

    Args:
        record: what was measured.
        details: every column, what did not run, every warning and note as well.
    """
    if not record.rows and not record.static:
        return ""
    found = answer(record)
    parts = [_paragraph(found.sentence)] if record.rows else []
    if found.columns:
        verdicts = {e.key: (verdict(e, found.lines), mark(e)) for e in found.lines}
        table = plain_text(table_of(found.lines, found.columns, verdicts=verdicts))
        parts.append(f"{table.rstrip()}\n\n")
    parts += [_paragraph(f"Not run: {s.artifact.file}: {s.why}") for s in record.static]
    if record.rows:
        more = "" if details else ", see --details"
        parts.append(_paragraph(f"{found.doubts}{more}."))
    parts.append(_paragraph(" ".join(conditions(record))))
    return "".join(parts + (_details(record) if details else []))


def _details(record: Record) -> list[str]:
    """Speed and memory, then quality, then what they are of, what did not run and warnings."""
    lines = entries(record)
    rows = [e for e in lines if e.row is not None]
    tables = [(rows, SPEED), (lines, QUALITY), (rows, OTHER)]
    shown = [(some, measured(some, keys)) for some, keys in tables]
    parts = [plain_text(table_of(some, columns)) for some, columns in shown if columns]
    notes = [_explained(record), shared_speed(record)]
    notes += [f"{r.row} against {r.against}: {r.verdict}: {r.why}." for r in record.ratios]
    notes += [f"Not run: {what}: {why}." for what, why in not_run(record, static=False)]
    notes += [
        f"{row.key}: {note}" for row in record.rows if not row.measured_as for note in row.notes
    ]
    c = record.conditions
    noise = "".join(f"; the same candidate twice: {n.ratio - 1:+.1%}" for n in record.noise)
    notes.append(f"{c.pinning}; reading the clock takes {c.timer_overhead_ns:.0f} ns{noise}.")
    notes += [
        f"Warning, {group}: {text}."
        for group, texts in grouped_warnings(record).items()
        for text in texts
    ]
    return parts + [_paragraph(note) for note in notes]


def _explained(record: Record) -> str:
    parts = ["milliseconds a step"] if any(row.latency for row in record.rows) else []
    if any(row.artifact.name.startswith(PREFIX) for row in record.rows):
        parts.insert(0, f"names without {PREFIX}")
    if any(row.end_to_end for row in record.rows):
        parts.append("end to end: decoded, enlarged and encoded at once")
    if played := [row.playback for row in record.rows if row.playback]:
        parts.append(f"in time: % of frames played at {played[0].rate:g} a second")
    if any(row.roofline for row in record.rows):
        parts.append("limit: % of what this machine's multiply-adds and memory allow")
    if any(row.distance for row in record.rows):
        parts.append("f32: dB of the worst frame against the float32 step")
    if any(row.quality and row.quality.drift for row in record.rows):
        parts.append("drift: dB lost in 100 frames")
    if any(row.quality and row.quality.cold_start for row in record.rows):
        parts.append("pre-roll: frames to run after a reset before one is shown")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _paragraph(text: str) -> str:
    """Text in lines; "" for none."""
    import textwrap

    lines = textwrap.wrap(printable(text), WIDTH, break_long_words=False)
    return "".join(f"{line}\n" for line in lines)


def table_of(
    lines: Sequence[TableRow],
    columns: Sequence[Column],
    *,
    verdicts: Mapping[str, tuple[str, str]] | None = None,
    pending: bool = False,
) -> Table:
    """A table of some columns.

    Args:
        lines: its lines; those without any figure are left out.
        columns: what it shows.
        verdicts: key of a line -> what stands in a last column, and a mark below it.
        pending: keep lines that are still to be filled.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not pending:
        lines = [e for e in lines if any(c.value(e) is not None for c in columns)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("runtime", overflow="fold")
    for c in columns:
        short = c.title if verdicts is not None else _HEADS.get(c.key, c.title.removesuffix(" ms"))
        table.add_column(short, justify="right", no_wrap=True)
    if verdicts is not None:
        table.add_column("verdict", overflow="fold")
    best = {c.key: c.best(lines) for c in columns}
    for e in lines:
        cells = [Text(c.text(e), "bold" if e.key in best[c.key] else "") for c in columns]
        if verdicts is not None:
            cells.append(Text("\n".join(filter(None, verdicts[e.key]))))
        name = e.model if verdicts is not None else e.model.removeprefix(PREFIX)
        table.add_row(Text(name), Text(e.runtime), *cells)
    return table


def bench_progress(
    candidates: Sequence[BenchCandidate], stream: TextIO | None = None
) -> LiveTable | Lines:
    """Shows a run on a stream, as a context: :class:`teco.benchmark.progress.BenchProgress`.

    Args:
        candidates: in the order of the table.
        stream: where; None for standard error.
    """
    where: TextIO = stream or sys.stderr
    return LiveTable(candidates, where) if where.isatty() else Lines(where)


class Lines:
    """A run in lines: each phase, and now and then how far it is and how long it will take."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Nothing is held."""

    def phase(self, what: str) -> None:
        """Something else begins."""
        self._what, self._began = what, time.monotonic()
        self._last = self._began
        self._say(what)

    def advance(self, what: str, done: int, total: int | None) -> None:
        """So many of its steps are done."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._last = what, now, now
        elif now - self._last >= SAID:
            self._last = now
            left = ""
            if total and 0 < done < total:
                left = f", {(now - self._began) * (total - done) / done:.0f} s left"
            self._say(f"{what}: {done}{f' of {total}' if total else ''}{left}")

    def row(self, row: Row) -> None:
        """Rows come together at the end."""

    def _say(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


class LiveTable:
    """A run on a terminal: a table that fills in, and a bar with the time left."""

    def __init__(self, candidates: Sequence[BenchCandidate], stream: TextIO) -> None:
        self._entries = {
            one.key: TableRow(
                key=one.key, model=one.model.name, runtime=one.runtime.name, row=None, quality=None
            )
            for one in candidates
        }
        self._stream = stream
        self._latest = ""
        self._drawn = 0.0
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._what = ""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(file=self._stream, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=20),
            MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )  # fmt: skip
        # No thread draws: it would take the processor from what is timed.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._live is not None
        self._live.stop()

    def phase(self, what: str) -> None:
        """Something else begins."""
        self._begin(what)
        self._draw(at_once=True)

    def advance(self, what: str, done: int, total: int | None) -> None:
        """So many of its steps are done."""
        assert self._bar is not None
        if what != self._what:
            self._begin(what)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        self._draw()

    def row(self, row: Row) -> None:
        """A row as far as it is known."""
        self._entries[row.key] = TableRow(
            key=row.key, model=row.artifact.name, runtime=row.runtime, row=row,
            quality=row.quality,
        )  # fmt: skip
        self._latest = row.key
        self._draw()

    def _begin(self, what: str) -> None:
        assert self._bar is not None
        self._what = what
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(what, total=None)

    def _draw(self, *, at_once: bool = False) -> None:
        from rich.console import Group

        assert self._live is not None
        assert self._bar is not None
        now = time.monotonic()
        if not at_once and now - self._drawn < EVERY:
            return
        self._drawn = now
        room = max(3, self._live.console.size.height - 6)
        lines = list(self._entries.values())
        columns = [column(key) for key in WHILE_IT_RUNS]
        metric = main_metric(lines)
        columns += [column(metric)] if metric else []
        table = table_of(self._shown(lines, room), columns, pending=True)
        self._live.update(Group(table, self._bar), refresh=True)

    def _shown(self, lines: list[TableRow], room: int) -> list[TableRow]:
        """As many as fit, the one that was filled last among them."""
        names = [e.key for e in lines]
        last = names.index(self._latest) + 1 if self._latest in names else 0
        first = max(0, min(len(lines) - room, last - room // 2 - 1))
        return lines[first : first + room]
