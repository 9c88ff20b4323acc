"""The columns of a benchmark's tables: one list for the terminal, Markdown and HTML.

A cell shows a number of the record, rounded, and never one that the record does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from teco.benchmark.record.quality import Quality
from teco.benchmark.record.record import EndToEnd, Memory, Playback, Record, Row
from teco.measurement.records import Latency, Ratio, Summary
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, UNITS, Metric

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A line of a table: a row of the record, or an interpolation, which has a quality only.

    Attributes:
        key: of the row, or the name of the interpolation.
        model: name.
        runtime: name, "" for an interpolation.
        row: None for an interpolation.
        quality: None where there is no clip.
        ratio: against the fastest row; None for that row and where nothing was compared.
        is_fastest: whether the others are compared with it.
    """

    key: str
    model: str
    runtime: str
    row: Row | None
    quality: Quality | None
    ratio: Ratio | None = None
    is_fastest: bool = False

    @property
    def latency(self) -> Latency | None:
        return self.row.latency if self.row else None

    @property
    def host(self) -> Summary | None:
        return self.latency.host.summary if self.latency else None

    @property
    def end_to_end(self) -> EndToEnd | None:
        return self.row.end_to_end if self.row else None

    @property
    def playback(self) -> Playback | None:
        return self.row.playback if self.row else None

    @property
    def memory(self) -> Memory | None:
        return self.row.memory if self.row else None


def entries(record: Record) -> list[TableRow]:
    """All lines of a record's tables, in its order, interpolations last."""
    ratios = {r.row: r for r in record.ratios}
    fastest = {r.against for r in record.ratios}
    lines = [
        TableRow(
            key=row.key, model=row.artifact.name, runtime=row.runtime, row=row,
            quality=row.quality, ratio=ratios.get(row.measured_as or row.key),
            is_fastest=(row.measured_as or row.key) in fastest,
        )
        for row in record.rows
    ]  # fmt: skip
    return lines + [
        TableRow(key=q.method, model=q.method, runtime="", row=None, quality=q)
        for q in record.interpolations
    ]


Value = float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of every entry.

    Attributes:
        key: names it.
        group: what it is about.
        title: short, with its unit.
        meaning: in a sentence, for the report.
        digits: after the point.
        better: which way is better; None where neither is.
        value: an entry's number; None where it was not measured, inf for a PSNR without an error.
    """

    key: str
    group: str
    title: str
    meaning: str
    digits: int
    better: Literal["high", "low"] | None
    value: Callable[[TableRow], Value]

    def text(self, entry: TableRow) -> str:
        """The cell; milliseconds below 10 get a digit more."""
        value = self.value(entry)
        fine = self.title.endswith(" ms") and value is not None and abs(value) < 10
        return number(value, self.digits + fine)

    def best(self, lines: Sequence[TableRow]) -> set[str]:
        """Keys of the entries whose cell says the best number; none where all say the same."""
        found = {e.key: v for e in lines if (v := self.value(e)) is not None}
        texts = {e.key: self.text(e) for e in lines if e.key in found}
        if self.better is None or len(set(texts.values())) < 2:
            return set()
        pick = max if self.better == "high" else min
        best = texts[pick(found, key=found.__getitem__)]
        return {key for key, text in texts.items() if text == best}


def number(value: Value, digits: int) -> str:
    """``-`` for what was not measured, ``equal`` for a PSNR without an error, else the number."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "equal"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _of(name: str) -> Callable[[TableRow], Value]:
    return lambda e: None if e.host is None else float(getattr(e.host, name))


def _mean(metric: Metric) -> Callable[[TableRow], Value]:
    def value(e: TableRow) -> Value:
        if e.quality is None or metric not in e.quality.means:
            return None
        mean = e.quality.means[metric]
        return math.inf if mean is None else mean

    return value


def _device(e: TableRow) -> Value:
    latency = e.latency
    return None if latency is None or latency.device is None else latency.device.summary.p50


def _ratio(e: TableRow) -> Value:
    return 1.0 if e.is_fastest else e.ratio and e.ratio.ratio


def _in_time(e: TableRow) -> Value:
    return None if e.playback is None else 100 * e.playback.shown / max(1, e.playback.frames)


def _peak(e: TableRow) -> Value:
    return None if e.memory is None or e.memory.peak is None else e.memory.peak / MIB


def _device_memory(e: TableRow) -> Value:
    return None if e.memory is None or e.memory.device is None else e.memory.device / MIB


def _share(e: TableRow) -> Value:
    return None if e.row is None or e.row.roofline is None else 100 * e.row.roofline.share


def _float32(e: TableRow) -> Value:
    if e.row is None or e.row.distance is None:
        return None
    worst = e.row.distance.min_psnr
    return math.inf if worst is None else worst


def _drift(e: TableRow) -> Value:
    return None if e.quality is None or e.quality.drift is None else e.quality.drift.per_100


def _pre_roll(e: TableRow) -> Value:
    if e.quality is None or e.quality.cold_start is None:
        return None
    frames = e.quality.cold_start.pre_roll
    return None if frames is None else float(frames)


TITLES: dict[Metric, str] = {
    "psnr": "PSNR-Y", "ssim": "SSIM", "lpips": "LPIPS", "tof": "tOF", "tlp": "tLP",
    "flicker": "flicker",
}  # fmt: skip
_DIGITS: dict[Metric, int] = {
    "psnr": 2, "ssim": 4, "lpips": 4, "tof": 3, "tlp": 3, "flicker": 3,
}  # fmt: skip
_MEANINGS: dict[Metric, str] = {
    "psnr": "peak signal-to-noise ratio of luma on the truth, mean over the frames that count",
    "ssim": "structural similarity of luma",
    "lpips": "perceptual distance, v0.1 on AlexNet",
    "tof": "difference of the motion in the output from that in the truth",
    "tlp": "difference of the change from frame to frame, by LPIPS, from that of the truth",
    "flicker": "mean change of the error from one frame to the next",
}


def _quality(metric: Metric) -> Column:
    unit = UNITS[metric].replace("8-bit steps", "steps")
    return Column(
        key=metric,
        group="Quality",
        title=TITLES[metric] + (f" {unit}" if unit else ""),
        meaning=_MEANINGS[metric],
        digits=_DIGITS[metric],
        better="high" if metric in HIGHER_IS_BETTER else "low",
        value=_mean(metric),
    )


def _column(
    key: str,
    group: str,
    title: str,
    digits: int,
    better: Literal["high", "low"] | None,
    value: Callable[[TableRow], Value],
    meaning: str,
) -> Column:
    return Column(
        key=key, group=group, title=title, meaning=meaning, digits=digits, better=better,
        value=value,
    )  # fmt: skip


_T, _E, _P, _L, _M, _Q, _S = (
    "Latency", "End to end", "Playback", "Limit", "Memory", "Quality", "Start",
)  # fmt: skip
COLUMNS: tuple[Column, ...] = (
    _column("p50", _T, "p50 ms", 1, "low", _of("p50"),
            "median time of a step, frames copied to where it is computed and back"),
    _column("p90", _T, "p90 ms", 1, "low", _of("p90"), "nine of ten steps took no longer"),
    _column("p99", _T, "p99 ms", 1, "low", _of("p99"), "99 of 100 steps took no longer"),
    _column("jitter", _T, "jitter ms", 1, "low", _of("jitter"),
            "mean difference of a step from the one measured before"),
    _column("fps", _T, "fps", 1, "high", _of("fps"), "throughput, steps a second: 1000 / p50"),
    _column("device", _T, "GPU ms", 2, "low", _device,
            "median device time of the network, by GPU events"),
    _column("ratio", _T, "x fastest", 2, "low", _ratio,
            "how many times as long as the fastest row, by blocks measured in turns"),
    _column("end_to_end", _E, "end to end fps", 1, "high",
            lambda e: e.end_to_end.fps if e.end_to_end else None,
            "frames a second from file to file: decoding, step and encoding overlapped"),
    _column("in_time", _P, "in time %", 0, "high", _in_time,
            "share of the clip's frames that a player got in time at the clip's rate"),
    _column("share", _L, "of limit %", 0, "high", _share,
            "share of what this machine's multiply-adds and memory allow, both measured"),
    _column("peak", _M, "peak MiB", 0, "low", _peak,
            "largest resident memory of a process that runs this and nothing else"),
    _column("gpu_memory", _M, "GPU MiB", 0, "low", _device_memory, "memory taken of the GPU"),
    *(_quality(metric) for metric in UNITS),
    _column("float32", _Q, "float32 dB", 1, None, _float32,
            "PSNR of the worst frame against the float32 step of the same weights; above 58 the "
            "frames differ by rounding"),
    _column("drift", _Q, "drift dB", 3, None, _drift,
            "PSNR lost on the truth in 100 recurrent frames that show the same"),
    _column("pre_roll", _Q, "pre-roll", 0, None, _pre_roll,
            "frames to run and drop after a reset or a seek"),
    _column("load", _S, "load ms", 0, "low",
            lambda e: e.latency.load_ms if e.latency else None, "opening the model"),
    _column("first", _S, "first ms", 0, "low",
            lambda e: e.latency.first_ms if e.latency else None,
            "the first step, which allocates, plans and may compile"),
)  # fmt: skip


def measured(lines: Sequence[TableRow], keys: Sequence[str] = ()) -> list[Column]:
    """The columns of these keys, or all, that at least one entry has a number for."""
    columns = [column(key) for key in keys] or COLUMNS
    return [c for c in columns if any(c.value(e) is not None for e in lines)]


def column(key: str) -> Column:
    """The column of that key.

    Raises:
        KeyError: there is none.
    """
    for one in COLUMNS:
        if one.key == key:
            return one
    raise KeyError(key)


def pareto_front(lines: Sequence[TableRow], metric: Metric) -> list[str]:
    """Keys of the rows that no other row beats in both median and quality, fastest first.

    Of rows that are equal in both, the first stays.
    """
    better = metric in HIGHER_IS_BETTER
    cost, quality = column("p50"), column(metric)
    points = [
        (time, -value if better else value, n, e.key)
        for n, e in enumerate(lines)
        if (time := cost.value(e)) is not None and (value := quality.value(e)) is not None
    ]
    front: list[str] = []
    least = math.inf
    for _, badness, _, key in sorted(points):
        if badness < least:
            front.append(key)
            least = badness
    return front
