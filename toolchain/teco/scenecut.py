"""Where one shot ends and the next begins, decided frame by frame with nothing looked ahead.

The question is whether the new picture can be built from the one before it. Each frame is shrunk
to a luma sketch of 64 pixels on its long side, and its local mean is taken out, so that flashes
and fades change little. Each 16x16 block is looked up in the other sketch at every shift of up to
8 pixels (an eighth of the picture, so pans and shakes are followed); what stays unexplained, as a
share of the detail there, is about 0 in a still shot and about 1 across a cut. It is measured in
both directions, since a picture of smooth surfaces is explained by almost anything, but explains
little. A cut needs a high share that also stands out from the frames just before.

@MEASURED@
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shapes: (h, w) is the sketch, multiples of BLOCK; (n, m) = (h, w) / BLOCK blocks.
LONG_SIDE = 64
BLOCK = 16
REACH = 8
"""Largest shift looked at, sketch pixels, each way in both axes."""
SHIFTS = (2 * REACH + 1) ** 2
GAIN = 2
"""Steps of the sketch per 8-bit step of luma; detail beyond +-64 luma steps saturates."""
FLOOR = 2.0
"""Mean detail in luma steps that counts as noise: keeps flat and nearly black pictures quiet."""


@dataclass(frozen=True)
class Sketch:
    """What is kept of one frame.

    Attributes:
        detail: (h, w) luma less its local mean, GAIN steps per luma step, 128 for none.
        padded: (h + 2 REACH, w + 2 REACH) the same, edges repeated.
        amount: mean size of the detail, luma steps.
    """

    detail: NDArray[np.uint8]
    padded: NDArray[np.uint8]
    amount: float


def sketch(pixels: NDArray[np.uint8]) -> Sketch:
    """Shrink an RGB frame (H, W, 3) to what cuts are judged by."""
    import cv2

    height, width = pixels.shape[:2]
    scale = LONG_SIDE / max(height, width)
    h, w = (max(1, round(side * scale / BLOCK)) * BLOCK for side in (height, width))
    # Every step-th pixel first, at least 4x4 of them per sketch pixel: area-averaging all of a
    # large frame would cost more than everything else here.
    step = max(1, min(height // h, width // w) // 4)
    thinned = np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    small = cv2.resize(thinned, (w, h), interpolation=cv2.INTER_AREA)
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = luma - cv2.blur(luma, (BLOCK - 1, BLOCK - 1))
    detail = np.clip(fine * GAIN + 128.5, 0, 255).astype(np.uint8)
    padded = cv2.copyMakeBorder(detail, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    amount = float(cv2.absdiff(detail, np.full_like(detail, 128)).mean()) / GAIN
    return Sketch(detail, np.asarray(padded, np.uint8), amount)


def change(previous: Sketch, current: Sketch) -> float:
    """How little two sketches of one size explain each other: 0 the same, about 1 unrelated."""
    # Two scratch pictures for all that follows: fresh ones each time would triple the time.
    scratch = np.empty((2, SHIFTS, BLOCK, current.detail.shape[1]), np.uint8)
    return max(
        _unexplained(current, previous, scratch) / (current.amount + FLOOR),
        _unexplained(previous, current, scratch) / (previous.amount + FLOOR),
    )


def _unexplained(target: Sketch, source: Sketch, scratch: NDArray[np.uint8]) -> float:
    """Mean absolute difference, luma steps, of target's blocks from their best match in source."""
    import cv2

    h, w = target.detail.shape
    moved, repeated = scratch  # (SHIFTS, BLOCK, w) each
    # For OpenCV the shifts lie below one another as one tall picture, so that one area resize
    # averages the blocks of all of them.
    tall = (SHIFTS * BLOCK, w)
    best = 0.0
    for top in range(0, h, BLOCK):
        row = target.detail[top : top + BLOCK]
        band = source.padded[top : top + BLOCK + 2 * REACH]
        windows = np.lib.stride_tricks.sliding_window_view(band, row.shape)
        np.copyto(moved.reshape(windows.shape), windows)
        np.copyto(repeated, row)
        difference = cv2.absdiff(moved.reshape(tall), repeated.reshape(tall), repeated.reshape(tall))
        blocks = cv2.resize(difference, (w // BLOCK, SHIFTS), interpolation=cv2.INTER_AREA)
        best += float(blocks.min(axis=0).mean())  # blocks: (SHIFTS, m)
    return best * BLOCK / h / GAIN


class SceneCutDetector:
    """Says of each frame, given in order, whether a new shot begins with it.

    Args:
        threshold: change that a cut must exceed. Lower it when cuts are missed.
        rise: what a cut must exceed the mean of the recent changes by. Raise it when violent
            motion is taken for cuts.
        memory: how many recent changes that mean is of; it starts empty after a cut.

    Attributes:
        score: change of the last frame from the one before it; 0 for a first frame.
    """

    def __init__(self, *, threshold: float = 0.88, rise: float = 0.15, memory: int = 4) -> None:
        self.threshold = threshold
        self.rise = rise
        self.score = 0.0
        self._recent: deque[float] = deque(maxlen=memory)
        self._size: tuple[int, ...] = ()
        self._previous: Sketch | None = None

    def reset(self) -> None:
        """Forget everything: the next frame is a first frame."""
        self.score = 0.0
        self._recent.clear()
        self._previous = None

    def is_cut(self, pixels: NDArray[np.uint8]) -> bool:
        """Take the next frame, RGB (H, W, 3). A first frame, also at a new size, is no cut."""
        if pixels.shape != self._size:
            self.reset()
            self._size = pixels.shape
        previous, self._previous = self._previous, sketch(pixels)
        if previous is None:
            return False
        self.score = change(previous, self._previous)
        usual = sum(self._recent) / len(self._recent) if self._recent else 0.0
        if self.score > self.threshold and self.score > usual + self.rise:
            self._recent.clear()
            return True
        self._recent.append(self.score)
        return False
