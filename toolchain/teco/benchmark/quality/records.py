"""What was measured of quality, as :mod:`teco.benchmark.record.quality` keeps it."""

from __future__ import annotations

import math

import numpy as np

from teco.benchmark.quality.clip import TruthClip
from teco.benchmark.record.quality import ClipRecord, ColdStart, DistanceRecord, Quality, Trend
from teco.core.files import sha256_of
from teco_calibration.metrics.distance import Distances
from teco_calibration.metrics.drift import Drift
from teco_calibration.metrics.quality import SequenceResult
from teco_calibration.temporal_gate.recurrence import RecurrenceReport


def clip_of(clip: TruthClip, frames: int) -> ClipRecord:
    """What the record says of a clip that was read."""
    h, w = (clip.scale * side for side in clip.size)
    fitted = "" if clip.fit is None else f"scaled to cover {w}x{h}, middle cut out"
    return ClipRecord(
        name=clip.clip.name,
        sha256=sha256_of(clip.clip) if clip.clip.is_file() else "",
        truth="" if clip.truth is None else clip.truth.name,
        width=w,
        height=h,
        frames=frames,
        rate=float(clip.rate or 0),
        degradation=clip.degradation,
        shrink=clip.shrink,
        fitted=fitted,
    )


def quality_of(
    method: str,
    runtime: str,
    result: SequenceResult,
    cold_start: ColdStart | None = None,
    drift: Trend | None = None,
    notes: tuple[str, ...] = (),
) -> Quality:
    """What was measured, as the record keeps it: a PSNR without an error is None."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return Quality(
        method=method,
        measured_on=runtime,
        seen=result.seen,
        first=result.first,
        frames=result.frames,
        window=tuple(result.window),
        values={str(m): tuple(map(finite, values)) for m, values in result.values.items()},
        means={str(m): finite(mean) for m, mean in result.means.items()},
        drift=drift,
        cold_start=cold_start,
        notes=(*result.notes, *notes),
    )


def trend_of(what: str, drift: Drift | None) -> Trend | None:
    """A drift as the record keeps it."""
    if drift is None:
        return None
    return Trend(
        of=what, per_100=drift.per_100, at_least=drift.at_least, frames=drift.frames,
        matched=drift.matched,
    )  # fmt: skip


def cold_start_of(found: RecurrenceReport) -> ColdStart:
    """A cold-start curve as the record keeps it."""

    def mean(table: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
        return tuple(float(x) for x in np.mean(np.array(table), axis=0))

    psnr, *others = found.curves
    suggestion = found.suggestion
    return ColdStart(
        psnr=mean(psnr.cold),
        settled_psnr=mean(psnr.steady),
        lpips=mean(others[0].cold) if others else (),
        settled_lpips=mean(others[0].steady) if others else (),
        starts=found.places,
        size=f"{found.height}x{found.width}",
        pre_roll=suggestion.frames,
        tolerance=suggestion.allowed,
        sentence=suggestion.sentence,
    )


def distance_of(distances: Distances, runtime: str, size: tuple[int, int]) -> DistanceRecord | None:
    """How far a candidate was from the float32 step; None where nothing was compared."""
    if not distances.rms:
        return None
    found = distances.result()
    return DistanceRecord(
        reference=runtime,
        frames=found.frames,
        size=f"{size[0]}x{size[1]}",
        max_steps=found.largest,
        within_one=found.within_one,
        psnr=found.psnr,
        min_psnr=found.worst_psnr,
        drift=trend_of("rms", found.drift),
    )
