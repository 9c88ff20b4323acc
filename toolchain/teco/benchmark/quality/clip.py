"""The clip of a benchmark: low-resolution frames, each with its truth.

Either one clip, which is the truth and is degraded here, or two, where somebody else did that. Both
give the same thing: pairs of (h, w, 3) and (4h, 4w, 3) uint8 RGB, frame by frame, read
again for each candidate, so that memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.core.pixels import Pixels
from teco.evaluation.quality import truth_size
from teco.inference.scene_cuts import SceneCutDetector
from teco.video.clips import FrameSource, open_source
from teco_calibration.degrade import crop_to_multiple, degrade, shrink_by_area
from teco_models.variant import SCALE, Degradation, check_size


@dataclass(frozen=True, kw_only=True)
class TruthClip:
    """What is enlarged and what it should be; made by :func:`open_truth`.

    Attributes:
        clip: video file or folder of images. The truth itself, to be degraded, where ``truth`` is
            None; else what is enlarged.
        truth: of ``clip``, so many times as large as the scale says.
        degradation: that makes the low-resolution frames.
        shrink: area-average a truth to 1/shrink of its size first.
        max_frames: at most so many of the first ones.
        fit: (h, w) of the low-resolution frames that the truth is resized for; None leaves it.
        size: (h, w) of the low-resolution frames.
        rate: frames a second.
        scale: of the models.
    """

    clip: Path
    truth: Path | None
    degradation: Degradation
    shrink: float
    max_frames: int | None
    fit: tuple[int, int] | None
    size: tuple[int, int]
    rate: Fraction | None
    scale: int = SCALE

    def pairs(self) -> Iterator[tuple[Pixels, Pixels]]:
        """(truth, low-resolution frame) of each frame.

        Raises:
            ClipError: a clip cannot be read.
            TecoError: one of two clips ends before the other.
        """
        if self.truth is not None:
            yield from self._given(self.truth)
            return
        with open_source(self.clip, max_frames=self.max_frames) as source:
            for frame in source:
                truth = self._made_to_fit(shrink_by_area(frame.pixels, self.shrink))
                yield truth, degrade(truth, self.degradation, scale=self.scale)

    def _made_to_fit(self, pixels: Pixels) -> Pixels:
        if self.fit is None:
            return np.ascontiguousarray(crop_to_multiple(pixels, self.scale))
        return resize_to_cover(pixels, (self.scale * self.fit[0], self.scale * self.fit[1]))

    def _given(self, path: Path) -> Iterator[tuple[Pixels, Pixels]]:
        frames = self.max_frames
        with (
            open_source(self.clip, max_frames=frames) as low,
            open_source(path, max_frames=frames) as high,
        ):
            for n, (lr, truth) in enumerate(zip_longest(low, high)):
                if lr is None or truth is None:
                    ended, other = (low, high) if lr is None else (high, low)
                    raise TecoError(
                        f"{ended.name} has {n} frames, and {other.name} has more",
                        hint="a truth needs a frame for each frame of the clip; --frames "
                        f"{n} takes the first {n} of both",
                        exit_code=USAGE,
                    )
                yield truth.pixels, lr.pixels


def open_truth(
    clip: Path,
    *,
    truth: Path | None = None,
    degradation: Degradation = "bd",
    shrink: float = 1.0,
    max_frames: int | None = None,
    fit: tuple[int, int] | None = None,
    scale: int = SCALE,
) -> TruthClip:
    """Look at the clip, or both, before anything is measured.

    Two clips are read to their end, because containers do not always know their number of frames.

    Args:
        clip, truth, degradation, shrink, max_frames, fit, scale: as of :class:`TruthClip`.

    Raises:
        TecoError: the truth has another number of frames or is not as large as it must be; or it
            was asked to change the size of a pair of clips.
        ClipError: one cannot be read.
        ModelError: frames smaller than 8x8.
    """
    if truth is None:
        width, height = truth_size(clip, shrink, scale)
        size = (height // scale, width // scale) if fit is None else fit
        with open_source(clip) as source:
            rate = source.rate
    else:
        if shrink != 1 or fit is not None:
            option = "--shrink" if shrink != 1 else "--fit"
            raise TecoError(
                f"{option} changes the size of a truth, and --truth gives one that has its clip",
                hint=f"leave {option} or --truth out",
                exit_code=USAGE,
            )
        with open_source(clip) as low, open_source(truth) as high:
            size, rate = (low.height, low.width), low.rate
            _check_scale(low, high, scale)
    check_size(*size)
    found = TruthClip(
        clip=clip, truth=truth, degradation=degradation, shrink=shrink, max_frames=max_frames,
        fit=fit, size=size, rate=rate, scale=scale,
    )  # fmt: skip
    if truth is not None:
        _exhaust(found.pairs())
    return found


def _check_scale(low: FrameSource, high: FrameSource, scale: int) -> None:
    expected = scale * low.width, scale * low.height
    if (high.width, high.height) != expected:
        raise TecoError(
            f"the truth {high.name} is {high.width}x{high.height}, expected "
            f"{expected[0]}x{expected[1]}: {scale} times {low.name}, which is "
            f"{low.width}x{low.height}",
            hint="leave --truth out and give the large clip alone: it is degraded then",
            exit_code=USAGE,
        )


def _exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def first_scene(
    clip: TruthClip, frames: int, crop: tuple[int, int] | None = None
) -> list[tuple[Pixels, Pixels]]:
    """Pictures before the first cut, and their truths: (h, w, 3) and (s h, s w, 3) of each frame.

    Args:
        clip: with its truth.
        frames: to read at most, however many the clip itself is cut to.
        crop: (h, w) of the middle that is taken, at most; None for whole frames.
    """
    detector = SceneCutDetector()
    scene: list[tuple[Pixels, Pixels]] = []
    for truth, lr in replace(clip, max_frames=frames).pairs():
        if detector.is_cut(lr):
            break
        h, w = lr.shape[:2]
        height, width = (h, w) if crop is None else (min(h, crop[0]), min(w, crop[1]))
        top, left = (h - height) // 2, (w - width) // 2
        low = lr[top : top + height, left : left + width]
        s = clip.scale
        high = truth[s * top : s * (top + height), s * left : s * (left + width)]
        scene.append((np.ascontiguousarray(low), np.ascontiguousarray(high)))
    return scene


def resize_to_cover(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Scale (H, W, 3) uint8 until it covers ``size`` (height, width), and cut the middle out.

    Its shape stays; down by area, up by cubic convolution.
    """
    import cv2

    height, width = size
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    h, w = (
        max(least, round(side * scale)) for side, least in zip(pixels.shape[:2], size, strict=True)
    )
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(pixels, (w, h), interpolation=way), np.uint8)
    top, left = (h - height) // 2, (w - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])
