"""Quality of models on clips with a ground truth, beside bicubic and bilinear interpolation.

Everything that compares with a truth runs through here (``teco eval``, ``teco table``, the bench):
a :class:`Method` enlarges the low-resolution frames of a clip, and a :class:`QualityMeter` compares
what comes out with the truth by the official definitions (:mod:`teco_calibration.metrics.quality`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.log import Progress, no_progress
from teco.core.names import did_you_mean
from teco.core.pixels import Pixels
from teco.inference.stream import Stream
from teco.runtimes.base import Session
from teco.video.clips import open_source
from teco_calibration.codec import parse, through
from teco_calibration.degrade import (
    Filter,
    Interpolation,
    baseline,
    crop_to_multiple,
    degrade,
    shrink_by_area,
)
from teco_calibration.metrics.best_shift import BestShift
from teco_calibration.metrics.quality import (
    OFFICIAL_METRICS,
    UNITS,
    Lpips,
    Metric,
    SequenceQuality,
    SequenceResult,
    average,
)
from teco_models.variant import SCALE, Degradation, check_size

BASELINES: dict[Degradation, tuple[Interpolation, ...]] = {
    "bd": ("bicubic", "bilinear"),
    "bi": ("bicubic", "bilinear"),
    "real": ("bicubic", "lanczos"),
}
"""Interpolations that stand beside the networks: of "real", what players do with ordinary clips."""

Pairs = Iterable[tuple[Pixels, Pixels]]
"""(truth, low-resolution frame) of a clip in order, uint8 (s h, s w, 3) and (h, w, 3) RGB."""

Enlarge = Callable[[Iterable[Pixels]], Iterator[Pixels]]
"""Low-resolution frames in order -> as many enlarged ones in order; it may look ahead."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How clips are prepared and compared.

    Attributes:
        degradation: ``"bd"``, ``"bi"`` or ``"real"``.
        filter: of "real", what shrinks; where the frames then lie is measured besides.
        shrink: area-average the clip to 1/shrink of its size first, because compressed video is no
            ground truth at its own size; 1 takes it as it is.
        max_frames: of each clip.
        metrics: which to compute.
        recurrent: False zeroes the state before each frame.
        scene_cuts: reset the recurrence at cuts.
        reverse_warm_up: see :class:`teco.inference.stream.Stream`.
        baselines: also measure bicubic and bilinear, for "real" bicubic and Lanczos.
        codec: what the low-resolution frames go through, such as ``"x264:23"``
            (:func:`teco_calibration.codec.parse`); "" for none.
        scale: of the model: what the clips are made smaller by.
    """

    degradation: Degradation = "bd"
    filter: Filter = "lanczos"
    shrink: float = 1.0
    max_frames: int | None = None
    metrics: tuple[Metric, ...] = OFFICIAL_METRICS
    recurrent: bool = True
    scene_cuts: bool = True
    reverse_warm_up: int = 0
    baselines: bool = True
    codec: str = ""
    scale: int = SCALE

    def without_recurrence(self) -> EvaluateOptions:
        """The same with the state zeroed before every frame, and no baselines."""
        return replace(self, recurrent=False, baselines=False, scene_cuts=False, reverse_warm_up=0)


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
                hint=f"{did_you_mean(name, UNITS)}metrics: {', '.join(UNITS)}",
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
        method: model name, "bicubic", "bilinear" or "lanczos".
        frame_average: metric -> mean over all frames of all clips.
        folder_average: metric -> mean of the clips' own means.
        frames: frames that counted.
        clips: sequences.
        per_clip: the sequences' full results, in the order of the clips.
        best_shifts: of each clip, how far right of and below the truth the frames lie, pixels; ()
            where that was not measured.
        codec: what the low-resolution frames went through; "" for none.
    """

    method: str
    frame_average: dict[str, float]
    folder_average: dict[str, float]
    frames: int
    clips: int
    per_clip: tuple[SequenceResult, ...]
    best_shifts: tuple[tuple[float, float], ...] = ()
    codec: str = ""

    @property
    def best_shift(self) -> tuple[float, float] | None:
        """The largest of the clips' shifts; None where it was not measured."""
        return max(self.best_shifts, key=lambda s: abs(s[0]) + abs(s[1]), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, every frame's value included."""
        shifts = {"best_shifts": [list(s) for s in self.best_shifts]} if self.best_shifts else {}
        return {
            "method": self.method,
            "codec": self.codec,
            **shifts,
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


def truth_size(clip: str | Path, shrink: float, scale: int = SCALE) -> tuple[int, int]:
    """(width, height) of a clip's truth after shrinking and cropping to multiples of the scale.

    Raises:
        TecoError: ``shrink`` is below 1.
        ClipError: the clip cannot be read.
        ModelError: what is left makes less than 8x8 at LR.
    """
    if not shrink >= 1:
        raise TecoError(
            f"--shrink is {shrink:g}, expected 1 or more",
            hint="a truth can only be made smaller",
            exit_code=USAGE,
        )
    with open_source(clip) as source:
        height, width = round(source.height / shrink), round(source.width / shrink)
    check_size(height // scale, width // scale)
    return width // scale * scale, height // scale * scale


def truth_frames(
    clip: str | Path, shrink: float, max_frames: int | None, scale: int = SCALE
) -> Iterator[Pixels]:
    """Ground-truth frames of a clip, shrunk, and cropped to multiples of the scale at bottom and
    right.

    Raises:
        ClipError: the clip cannot be read.
    """
    with open_source(clip, max_frames=max_frames) as source:
        for frame in source:
            pixels = shrink_by_area(frame.pixels, shrink)
            yield np.ascontiguousarray(crop_to_multiple(pixels, scale))


def degraded_pairs(
    clip: str | Path,
    degradation: Degradation,
    shrink: float,
    max_frames: int | None,
    *,
    filter: Filter = "lanczos",
    codec: str = "",
    scale: int = SCALE,
) -> Iterator[tuple[Pixels, Pixels]]:
    """(truth, low-resolution frame made from it) of each frame of a clip.

    Args:
        clip, degradation, shrink, max_frames, filter, codec, scale: see :class:`EvaluateOptions`.
    """

    def clean() -> Iterator[tuple[Pixels, Pixels]]:
        for truth in truth_frames(clip, shrink, max_frames, scale):
            yield truth, degrade(truth, degradation, filter, scale)

    if not codec:
        return clean()
    # A codec wants the whole clip; its LR frames are a sixteenth of it, the truth is read again.
    small = np.stack([low for _, low in clean()])
    h, w = small.shape[1:3]
    # Its 4:2:0 wants even sides: an odd one is continued by a pixel, which is cut off again.
    even = np.pad(small, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    lr = np.ascontiguousarray(through(even, *parse(codec))[:, :h, :w])
    return ((truth, low) for (truth, _), low in zip(clean(), lr, strict=True))


def count_frames(clips: Iterable[str | Path], max_frames: int | None) -> int | None:
    """Frames of all clips, each cut to ``max_frames``; None where a container does not tell."""
    total = 0
    for clip in clips:
        with open_source(clip, max_frames=max_frames) as source:
            if source.count is None:
                return None
            total += source.count if max_frames is None else min(source.count, max_frames)
    return total


@dataclass(frozen=True)
class Method:
    """One way to enlarge clips.

    Attributes:
        name: to show.
        start: gives the enlargement of one clip. It is asked for each clip anew, so that none sees
            the state that another left.
    """

    name: str
    start: Callable[[], Enlarge]


def interpolation(
    which: Interpolation, degradation: Degradation, name: str = "", scale: int = SCALE
) -> Method:
    """An interpolation, placed as the degradation places its pixels."""
    one = baseline(which, degradation, scale)
    return Method(name or which, lambda: lambda frames: map(one, frames))


def network(
    name: str,
    session: Session,
    *,
    scene_cuts: bool = True,
    reverse_warm_up: int = 0,
    recurrent: bool = True,
) -> Method:
    """A model; the options are those of :class:`teco.inference.stream.Stream`."""
    return Method(
        name,
        lambda: (
            Stream(
                session, scene_cuts=scene_cuts, reverse_warm_up=reverse_warm_up, recurrent=recurrent
            ).run
        ),
    )


def enlarged(enlarge: Enlarge, pairs: Pairs) -> Iterator[tuple[Pixels, Pixels]]:
    """(truth, enlarged frame) of each frame; holds the truths of what ``enlarge`` holds."""
    inside: deque[Pixels] = deque()

    def inputs() -> Iterator[Pixels]:
        for truth, low in pairs:
            inside.append(truth)
            yield low

    for frame in enlarge(inputs()):
        yield inside.popleft(), frame


class QualityMeter:
    """Measures methods on clips, with one LPIPS network for all.

    Args:
        metrics: to compute.
        progress: told the frames that are done, over all clips and methods.
        total: frames of all together; None where that is not known.
        shifts: also measure where frames lie beside their truth.
        lpips: of another meter, to hold its network once.
    """

    def __init__(
        self,
        metrics: tuple[Metric, ...],
        progress: Progress = no_progress,
        total: int | None = None,
        *,
        shifts: bool = False,
        lpips: Lpips | None = None,
    ) -> None:
        self._shifts = shifts
        self._metrics = metrics
        self._progress = progress
        self._total = total
        self._done = 0
        wanted = bool({"lpips", "tlp"} & set(metrics))
        self.lpips = (lpips or Lpips()) if wanted else None

    def clip(
        self,
        enlarge: Enlarge,
        pairs: Pairs,
        see: Callable[[int, Pixels], None] = lambda n, frame: None,
        place: BestShift | None = None,
    ) -> SequenceResult:
        """One method on one clip.

        Args:
            enlarge: the method.
            pairs: the clip.
            see: shown each enlarged frame and its number, to keep or to compare it.
            place: given each frame and its truth.
        """
        quality = SequenceQuality(self._metrics, lpips=self.lpips)
        for n, (truth, frame) in enumerate(enlarged(enlarge, pairs)):
            quality.add(truth, frame)
            if place is not None:
                place.add(truth, frame)
            see(n, frame)
            self._done += 1
            self._progress(self._done, self._total)
        return quality.result()

    def row(self, method: Method, clips: Iterable[Pairs]) -> QualityRow:
        """One method on some clips, with both averages."""
        sequences: list[SequenceResult] = []
        places: list[BestShift] = []
        for pairs in clips:
            place = BestShift() if self._shifts else None
            sequences.append(self.clip(method.start(), pairs, place=place))
            places += [place] if place else []
        means = average(sequences)
        return QualityRow(
            method=method.name,
            frame_average={str(k): v for k, v in means.frame_average.items()},
            folder_average={str(k): v for k, v in means.folder_average.items()},
            frames=means.frames,
            clips=means.sequences,
            per_clip=tuple(sequences),
            best_shifts=tuple(place.result() for place in places),
        )


def evaluate(
    session: Session,
    model_name: str,
    clips: Sequence[str],
    options: EvaluateOptions,
    progress: Progress = no_progress,
) -> list[QualityRow]:
    """Measure a model, and the interpolations beside it, on clips.

    Args:
        session: the model.
        model_name: of its row.
        clips: video files or folders, each a sequence.
        options: how.
        progress: told the frames that are done, of all methods together.

    Raises:
        TecoError, ClipError, ModelError: a clip cannot be used, or LPIPS has no backbone.
    """
    o = options
    real = o.degradation == "real"
    methods = [
        network(
            model_name, session,
            scene_cuts=o.scene_cuts, reverse_warm_up=o.reverse_warm_up, recurrent=o.recurrent,
        ),
        *(
            interpolation(name, o.degradation, scale=o.scale)
            for name in BASELINES[o.degradation]
            if o.baselines
        ),
    ]  # fmt: skip
    frames = count_frames(clips, o.max_frames)
    total = None if frames is None else frames * len(methods)
    meter = QualityMeter(o.metrics, progress, total, shifts=real)

    def pairs() -> Iterator[Pairs]:
        return (
            degraded_pairs(
                clip,
                o.degradation,
                o.shrink,
                o.max_frames,
                filter=o.filter,
                codec=o.codec,
                scale=o.scale,
            )
            for clip in clips
        )

    rows = [meter.row(method, pairs()) for method in methods]
    return [replace(row, codec=o.codec) for row in rows]
