"""Conditions that make a benchmark fail: ``p99_ms>40``, ``psnr_drop>0.3``.

A row fails where its figure fulfils the condition. It also fails where the figure was not measured,
and so does a file that did not run: nothing passes because it was not looked at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne

from teco.benchmark.record.record import Record, Row
from teco.core.errors import USAGE, TecoError

MIB = 2**20

_Get = Callable[[Row], float | None]


def _host(name: str) -> _Get:
    return lambda row: None if row.latency is None else getattr(row.latency.host.summary, name)


def _device(name: str) -> _Get:
    def get(row: Row) -> float | None:
        timed = None if row.latency is None else row.latency.device
        return None if timed is None else getattr(timed.summary, name)

    return get


def _memory(name: str) -> _Get:
    def get(row: Row) -> float | None:
        value = None if row.memory is None else getattr(row.memory, name)
        return None if value is None else value / MIB

    return get


def _playback(name: str) -> _Get:
    return lambda row: None if row.playback is None else getattr(row.playback, name)


def _quality(name: str) -> _Get:
    return lambda row: None if row.quality is None else row.quality.means.get(name)


def _distance(name: str) -> _Get:
    return lambda row: None if row.distance is None else getattr(row.distance, name)


SPEED: Mapping[str, _Get] = {
    "p50_ms": _host("p50"),
    "p90_ms": _host("p90"),
    "p99_ms": _host("p99"),
    "mean_ms": _host("mean"),
    "jitter_ms": _host("jitter"),
    "outliers": _host("outliers"),
    "fps": _host("fps"),
    "device_p50_ms": _device("p50"),
    "device_p90_ms": _device("p90"),
    "device_p99_ms": _device("p99"),
    "load_ms": lambda row: None if row.latency is None else row.latency.load_ms,
    "first_ms": lambda row: None if row.latency is None else row.latency.first_ms,
    "peak_mib": _memory("peak"),
    "private_mib": _memory("private"),
    "device_mib": _memory("device"),
    "file_mib": lambda row: row.artifact.bytes / MIB,
}
"""Always measured."""

CLIPS: Mapping[str, _Get] = {
    "growth_mib": _memory("growth_per_1000"),
    "end_to_end_fps": lambda row: None if row.end_to_end is None else row.end_to_end.fps,
    "late": _playback("late"),
    "dropped": _playback("dropped"),
    "roofline": lambda row: None if row.roofline is None else row.roofline.share,
}
"""Not with ``--latency-only``."""

QUALITY: Mapping[str, _Get] = {
    **{name: _quality(name) for name in ("psnr", "ssim", "lpips", "tof", "tlp", "flicker")},
    "psnr_drop": _distance("psnr_drop"),
    "max_steps": _distance("max_steps"),
}
"""With a clip only."""

FIELDS: Mapping[str, _Get] = {**SPEED, **CLIPS, **QUALITY}

FORMER = {"pipeline_fps": "end_to_end_fps"}
"""Names that fields had before, which still work."""

_OPERATORS = {">": gt, ">=": ge, "<": lt, "<=": le, "==": eq, "!=": ne}
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Condition:
    """``field operator limit``.

    Attributes:
        text: as the user wrote it.
        field: one of :data:`FIELDS`.
        operator: as written.
        limit: a number.
    """

    text: str
    field: str
    operator: str
    limit: float

    def failures(self, record: Record, kind: str | None = None) -> tuple[str, ...]:
        """A sentence for each row that fails, and for each file that no row ran.

        Args:
            record: of the benchmark.
            kind: of the artifacts that are judged, "engine" and so on; None for all.
        """
        found = [
            f"{one.artifact.file}: {self.field} was not measured: {one.why}"
            for one in record.static
            if kind in (None, one.artifact.kind)
        ]
        for row in record.rows:
            if kind not in (None, row.artifact.kind):
                continue
            value = FIELDS[self.field](row)
            if value is None:
                why = f": {row.notes[0]}" if row.notes else ""
                found.append(f"{row.key}: {self.field} was not measured{why}")
            elif _OPERATORS[self.operator](value, self.limit):
                found.append(f"{row.key}: {self.field} is {value:.4g}, fails {self.text}")
        return tuple(found)


def parse(text: str, *, clip: bool = True, latency_only: bool = False) -> Condition:
    """A condition of its text.

    Args:
        text: such as ``p99_ms>40``.
        clip: whether quality will be measured.
        latency_only: whether only single steps will be timed.

    Raises:
        TecoError: it is no condition, names an unknown field, or one that this run does not
            measure; exit code 2.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise TecoError(
            f"--fail-if {text!r} is no condition, expected FIELD OPERATOR NUMBER",
            hint="for example --fail-if 'p99_ms>40'",
            exit_code=USAGE,
        )
    field, operator, limit = match.groups()
    field = FORMER.get(field, field)
    if field not in FIELDS:
        near = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.4)
        raise TecoError(
            f"--fail-if knows no field {field!r}" + (f", the nearest is {near[0]}" if near else ""),
            hint=f"fields: {', '.join(FIELDS)}",
            exit_code=USAGE,
        )
    if field in QUALITY and not clip:
        raise TecoError(
            f"--fail-if {text!r} needs a clip to measure quality on",
            hint="add --clip CLIP",
            exit_code=USAGE,
        )
    if field in CLIPS and latency_only:
        raise TecoError(
            f"--fail-if {text!r} needs what --latency-only leaves out",
            hint="leave --latency-only out",
            exit_code=USAGE,
        )
    return Condition(text.strip(), field, operator, float(limit))
