"""What a benchmark says, in the order in which people ask: the terminal, Markdown and the page
begin with this.

First the answer in a sentence, then a verdict for each row, then one line on how far to trust them.
All of it follows from the record: its ratios and their verdicts, by
:mod:`teco.measurement.statistics`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from teco.benchmark.record.record import Record
from teco.benchmark.report.columns import TITLES, Column, TableRow, column, entries, measured
from teco.measurement.records import Ratio
from teco_calibration.metrics.quality import UNITS, Metric

BASELINE = "onnxruntime"
"""The runtime that everyone has: the fastest row is told against it too, on the same model."""

MAIN_METRICS: tuple[Metric, ...] = ("lpips", "psnr", *UNITS)
"""The first of these that was measured stands for quality."""

Confidence = Literal["low", "fair", "high"]

GROUPS = {
    "busy": "busy machine", "throttled": "throttled", "clock": "clock", "wide": "noise",
    "outliers": "times vary", "drift": "times drift", "unstable": "not settled",
    "few": "few samples",
}  # fmt: skip
"""Code of a warning -> its group, in the order of the line."""

WIDE = 0.25
"""Of a ratio: an interval that reaches further from it is told by its ends. It is one of
logarithms, so that wide ones reach further up than down."""

DISTURBED = ("busy", "throttled")
"""Of these warnings one makes all figures doubtful."""

OF_TAILS = ("few",)
"""These concern p99 alone, which the answer does not show."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a record says.

    Attributes:
        headline: the fastest row, its time, and how many times faster it is, in a sentence.
        rest: how far it is from float32, and who has the best quality, in sentences.
        lines: of the table: fastest first, what was not timed next, interpolations last.
        columns: of the table, a verdict beside them.
        confidence: in the times.
        doubts: what makes it less than high, and what did not run, in a line.
    """

    headline: str
    rest: str
    lines: tuple[TableRow, ...]
    columns: tuple[Column, ...]
    confidence: Confidence
    doubts: str

    @property
    def sentence(self) -> str:
        """All of the answer."""
        return f"{self.headline} {self.rest}".strip()


def answer(record: Record) -> Answer:
    """The answer of a record."""
    found = entries(record)
    lines = sorted(found, key=lambda e: (e.row is None, e.host.p50 if e.host else math.inf))
    metric = main_metric(lines)
    memory = "gpu_memory" if any(column("gpu_memory").value(e) for e in lines) else "peak"
    keys = ("p50", "fps", *((metric,) if metric else ()), memory)
    rest = [_float32(lines), _quality(lines, metric)]
    stopped = f"Incomplete, {record.stopped or 'it was interrupted'}. "
    confidence = confidence_of(record)
    return Answer(
        headline=("" if record.complete else stopped) + _headline(lines),
        rest=" ".join(part for part in rest if part),
        lines=tuple(lines),
        columns=tuple(measured(lines, keys)),
        confidence=confidence,
        doubts=_doubts(record, confidence),
    )


def main_metric(lines: Sequence[TableRow]) -> Metric | None:
    """The one that stands for quality."""
    found = {m for e in lines if e.quality for m in e.quality.means}
    return next((m for m in MAIN_METRICS if m in found), None)


# --- verdicts ----------------------------------------------------------------------------------


def with_interval(ratio: Ratio) -> str:
    """How many times as long it takes: ``2.0 ± 0.1``, or ``2.0 (1.1 to 3.9)`` where that is wide.

    It is no narrower than the 99% interval; where there is none, the ratio stands alone.
    """
    if not ratio.has_interval:
        return f"{ratio.ratio:.1f}"
    half = max(ratio.high - ratio.ratio, ratio.ratio - ratio.low)
    if half > WIDE * ratio.ratio:
        low, high = _outwards(ratio.low, math.floor), _outwards(ratio.high, math.ceil)
        return f"{_outwards(ratio.ratio, round)} ({low} to {high})"
    most = 2 if ratio.ratio < 10 else 1
    digits = min(most, max(0, 1 - math.floor(math.log10(half))))
    middle = round(ratio.ratio, digits)
    half = max(ratio.high - middle, middle - ratio.low)
    half = math.ceil(half * 10**digits - 1e-6) / 10**digits
    return f"{middle:.{digits}f} ± {half:.{digits}f}"


def _outwards(value: float, rounded: Callable[[float], int]) -> str:
    """A number in about two digits."""
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{rounded(value * 10**digits) / 10**digits:.{digits}f}"


def verdict(e: TableRow, lines: Sequence[TableRow]) -> str:
    """A row's place beside the fastest one; "-" where nothing was compared."""
    if e.is_fastest:
        return "fastest" if not _rivals(lines) else "fastest, not proven"
    if e.ratio is None:
        return "-"
    times = with_interval(e.ratio)
    match e.ratio.verdict:
        case "slower":
            return f"{times} times slower"
        case "equal":
            return "as fast"
        case "faster":
            return f"takes {times} of the time"
        case _:
            return f"undecided, {times} times"


def mark(e: TableRow) -> str:
    """How far a row's frames are from float32, where it is further than rounding; "" else."""
    if e.row is None:
        return ""
    if (distance := e.row.distance) is not None:
        far = not distance.is_rounding
        return f"\u2260 float32: {distance.max_steps} of 255" if far else ""
    return f"{e.row.precision}, not compared with float32" if e.row.precision != "fp32" else ""


def _rivals(lines: Sequence[TableRow]) -> list[TableRow]:
    """Rows that may be as fast as the fastest, or faster."""
    return [e for e in lines if e.ratio and e.ratio.verdict in ("undecided", "faster")]


# --- the sentences -----------------------------------------------------------------------------


def _headline(lines: Sequence[TableRow]) -> str:
    timed = [e for e in lines if e.host is not None]
    if not timed:
        return "Nothing was timed."
    fastest = next((e for e in timed if e.is_fastest), timed[0])
    ms = f"{column('p50').text(fastest)} ms"
    if not any(e.ratio for e in timed):
        fps = column("fps").text(fastest)
        return f"{fastest.key}: {ms} a step, {fps} frames a second; nothing was compared."
    rivals = [_name(e, fastest) for e in _rivals(lines)]
    equal = [_name(e, fastest) for e in timed if e.ratio and e.ratio.verdict == "equal"]
    slower = [e for e in timed if e.ratio and e.ratio.verdict == "slower"]
    told = slower[:1] if not rivals else []
    told += [
        e for e in slower
        if e.runtime == BASELINE and e.model == fastest.model and e not in told
    ]  # fmt: skip
    text = f"{'Fastest, not proven' if rivals else 'Fastest'}: {fastest.key}, {ms}"
    for e in told:
        assert e.ratio is not None
        text += f", {with_interval(e.ratio)} times faster than {_name(e, fastest)}"
    if equal:
        text += f"; {_listed(equal)} {'is' if len(equal) == 1 else 'are'} as fast"
    return f"{text}; {_listed(rivals)} may be as fast." if rivals else f"{text}."


def _float32(lines: Sequence[TableRow]) -> str:
    """What the fastest row computes in, where that is not float32."""
    fastest = next((e for e in lines if e.is_fastest), None)
    if fastest is None or fastest.row is None or not mark(fastest):
        return ""
    distance = fastest.row.distance
    how = f"It computes in {fastest.row.precision}, not compared with float32 (--clip does that)"
    if distance is not None:
        how = f"Its frames differ from float32 by up to {distance.max_steps} of 255"
    same = next(
        (
            e for e in lines
            if e.host and e.row and e.row.precision == "fp32" and e.model == fastest.model
            and not mark(e)
        ),
        None,
    )  # fmt: skip
    if same is None:
        return f"{how}."
    return f"{how}; in float32 {_name(same, fastest)} takes {column('p50').text(same)} ms."


def _quality(lines: Sequence[TableRow], metric: Metric | None) -> str:
    if metric is None:
        return ""
    shown = column(metric)
    rows = [e for e in lines if e.row is not None and shown.value(e) is not None]
    if not rows:
        return ""
    best = shown.best(rows)
    first = next((e for e in rows if e.key in best), rows[0])
    one_model = len({e.model for e in rows}) == 1
    names = [e.runtime if one_model else e.key for e in rows if e.key in best]
    who = f"Best {TITLES[metric]}: {_listed(names)}, " if names else f"{TITLES[metric]}: "
    bicubic = next((e for e in lines if e.row is None and shown.value(e) is not None), None)
    beside = f" ({bicubic.model} {shown.text(bicubic)})" if bicubic else ""
    return f"{who}{shown.text(first)}{beside}."


def _name(e: TableRow, beside: TableRow) -> str:
    """As short as it can be beside another row: what both share is left out."""
    if e.model == beside.model and e.runtime != beside.runtime:
        return e.runtime
    return e.model if e.runtime == beside.runtime and e.model != beside.model else e.key


def _listed(names: Sequence[str]) -> str:
    """Two names, or one and how many more."""
    if len(names) > 2:
        return f"{names[0]} and {len(names) - 1} more"
    return " and ".join(names)


# --- doubts ------------------------------------------------------------------------------------


def confidence_of(record: Record) -> Confidence:
    """How far the times and their order can be trusted, from the record's warnings and ratios."""
    codes = {w.code for w in record.warnings}
    timed = any(row.latency for row in record.rows)
    if not timed or not record.complete or codes & set(DISTURBED):
        return "low"
    return "fair" if codes - set(OF_TAILS) or _open(record) else "high"


def _open(record: Record) -> int:
    """Comparisons that decided nothing, or that have no interval to decide by."""
    return sum(r.verdict == "undecided" or not r.has_interval for r in record.ratios)


def grouped_warnings(record: Record) -> dict[str, list[str]]:
    """Group -> its sentences, in the order of :data:`GROUPS`; later codes name their own."""
    order = [*GROUPS, *(w.code for w in record.warnings)]
    return {
        GROUPS.get(code, code): texts
        for code in dict.fromkeys(order)
        if (texts := [w.text for w in record.warnings if w.code == code])
    }


def _doubts(record: Record, confidence: Confidence) -> str:
    counts = Counter({group: len(texts) for group, texts in grouped_warnings(record).items()})
    total = counts.total()
    groups = ", ".join(f"{group} {count}" for group, count in counts.items())
    text = f"{total} warning{'s' * (total != 1)} ({groups})" if total else "no warnings"
    if not any(row.latency for row in record.rows):
        text = f"nothing was timed, {text}"
    if count := _open(record):
        text += f", {count} comparison{'s' * (count != 1)} undecided"
    missing = len(record.unavailable) + len(record.static)
    return f"Confidence {confidence}: {text}" + (f"; {missing} not run" if missing else "")
