"""Quality of a model on clips with a ground truth, beside bicubic and bilinear.

The clip is the truth: it is degraded here, upscaled, and compared by the official definitions
(:mod:`teco_calibration.metrics.quality`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.pixels import Pixels
from teco.inference.stream import Stream
from teco.runtimes.base import Session
from teco.video.clips import open_source
from teco_calibration.degrade import baseline, crop_to_multiple, degrade, shrink_by_area
from teco_calibration.metrics.quality import (
    OFFICIAL_METRICS,
    UNITS,
    Lpips,
    Metric,
    SequenceQuality,
    SequenceResult,
    average,
)
from teco_models.variant import SCALE, check_size

BASELINES: tuple[Literal["bicubic", "bilinear"], ...] = ("bicubic", "bilinear")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How clips are prepared and compared.

    Attributes:
        degradation: ``"bd"`` or ``"bi"``; the model's own.
        shrink: area-average the clip to 1/shrink of its size first, because compressed video is no
            ground truth at its own size; 1 takes it as it is.
        max_frames: of each clip.
        metrics: which to compute.
        recurrent: False zeroes the state before each frame.
        scene_cuts: reset the recurrence at cuts.
        warm_up: see :class:`teco.inference.stream.Stream`.
        baselines: also judge bicubic and bilinear.
    """

    degradation: Literal["bd", "bi"] = "bd"
    shrink: float = 1.0
    max_frames: int | None = None
    metrics: tuple[Metric, ...] = OFFICIAL_METRICS
    recurrent: bool = True
    scene_cuts: bool = True
    warm_up: int = 0
    baselines: bool = True

    def without_recurrence(self) -> EvaluateOptions:
        """The same with the state zeroed before every frame, and no baselines."""
        return replace(self, recurrent=False, baselines=False, scene_cuts=False, warm_up=0)


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """``"psnr,ssim"`` -> metric names.

    Raises:
        TecoError: one is unknown, or needs what is not installed.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names or ("",):
        if name not in UNITS:
            raise TecoError(
                f"there is no metric called {name!r}",
                hint=f"metrics: {', '.join(UNITS)}",
                exit_code=USAGE,
            )
    if {"lpips", "tlp"} & set(names) and (reason := Lpips.why_unavailable()):
        raise TecoError(
            reason, hint="or leave them out: --metrics psnr,ssim,tof", exit_code=MACHINE
        )
    return cast("tuple[Metric, ...]", names)


@dataclass(frozen=True)
class QualityRow:
    """One method over all clips.

    Attributes:
        method: model name, "bicubic" or "bilinear".
        frame_average: metric -> mean over all frames of all clips.
        folder_average: metric -> mean of the clips' own means.
        frames: frames that counted.
        clips: sequences.
        per_clip: the sequences' full results, in the order of the clips.
    """

    method: str
    frame_average: dict[str, float]
    folder_average: dict[str, float]
    frames: int
    clips: int
    per_clip: tuple[SequenceResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, every frame's value included."""
        return {
            "method": self.method,
            "frames": self.frames,
            "clips": self.clips,
            "frame_average": self.frame_average,
            "folder_average": self.folder_average,
            "per_clip": [
                {
                    "first": r.first,
                    "frames": r.frames,
                    "window": r.window._asdict(),
                    "values": {str(k): list(v) for k, v in r.values.items()},
                    "notes": list(r.notes),
                }
                for r in self.per_clip
            ],
        }


def truth_size(clip: str | Path, shrink: float) -> tuple[int, int]:
    """(width, height) of a clip's truth after shrinking and cropping to multiples of 4.

    Raises:
        TecoError: ``shrink`` is below 1.
        ClipError: the clip cannot be read.
        ModelError: what is left is smaller than 32x32, which makes less than 8x8 at LR.
    """
    if not shrink >= 1:
        raise TecoError(
            f"--shrink is {shrink:g}, expected 1 or more",
            hint="a truth can only be made smaller",
            exit_code=USAGE,
        )
    with open_source(clip) as source:
        height, width = round(source.height / shrink), round(source.width / shrink)
    check_size(height // SCALE, width // SCALE)
    return width // SCALE * SCALE, height // SCALE * SCALE


def truth_frames(clip: str | Path, shrink: float, max_frames: int | None) -> Iterator[Pixels]:
    """Ground-truth pictures of a clip, shrunk, and cropped to multiples of 4 at bottom and right.

    Raises:
        ClipError: the clip cannot be read.
    """
    with open_source(clip, max_frames=max_frames) as source:
        for frame in source:
            pixels = shrink_by_area(frame.pixels, shrink)
            yield np.ascontiguousarray(crop_to_multiple(pixels, SCALE))


def evaluate(
    session: Session,
    model_name: str,
    clips: list[str],
    options: EvaluateOptions,
    report: Callable[[str, int], None] = lambda clip, frame: None,
) -> list[QualityRow]:
    """Judge a model, and the interpolations with it, on clips.

    Args:
        session: the model.
        model_name: of its row.
        clips: video files or folders, each a sequence.
        options: how.
        report: told the clip and the number of frames done.

    Raises:
        TecoError, ClipError, ModelError: a clip cannot be used, or LPIPS has no backbone.
    """
    o = options
    lpips = Lpips() if {"lpips", "tlp"} & set(o.metrics) else None
    results: dict[str, list[SequenceResult]] = {}
    for clip in clips:
        stream = Stream(session, scene_cuts=o.scene_cuts, warm_up=o.warm_up, recurrent=o.recurrent)
        for method, result in _judge(stream, model_name, clip, o, lpips, report).items():
            results.setdefault(method, []).append(result)
    return [row_of(method, sequences) for method, sequences in results.items()]


def _judge(
    stream: Stream,
    model_name: str,
    clip: str,
    o: EvaluateOptions,
    lpips: Lpips | None,
    report: Callable[[str, int], None],
) -> dict[str, SequenceResult]:
    """One sequence: method -> result, the model first."""
    methods = [model_name, *(BASELINES if o.baselines else ())]
    judges = {m: SequenceQuality(o.metrics, lpips=lpips) for m in methods}
    # (truth, degraded) of frames inside the stream, no more than it looks ahead.
    inside: deque[tuple[Pixels, Pixels]] = deque()

    def degraded() -> Iterator[Pixels]:
        for truth in truth_frames(clip, o.shrink, o.max_frames):
            lr = degrade(truth, o.degradation)
            inside.append((truth, lr))
            yield lr

    for done, picture in enumerate(stream.run(degraded()), start=1):
        truth, lr = inside.popleft()
        judges[model_name].add(truth, picture)
        if o.baselines:
            for name in BASELINES:
                judges[name].add(truth, baseline(name, o.degradation)(lr))
        report(clip, done)
    return {method: judge.result() for method, judge in judges.items()}


def row_of(method: str, sequences: list[SequenceResult]) -> QualityRow:
    """A method's results on some clips as one row of a table, with both averages."""
    means = average(sequences)
    return QualityRow(
        method=method,
        frame_average={str(k): v for k, v in means.frame_average.items()},
        folder_average={str(k): v for k, v in means.folder_average.items()},
        frames=means.frames,
        clips=means.sequences,
        per_clip=tuple(sequences),
    )
