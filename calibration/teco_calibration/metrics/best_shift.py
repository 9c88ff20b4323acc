"""By how much a sequence lies off its truth.

A network that was trained for another shrinking answers in another place, and no distance between
frames says that it is so.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
_Plane = npt.NDArray[np.float32]

REACH = 2.5
"""Farthest shift that is looked for, pixels."""

_EVERY, _MOST = 5, 6
"""Frames that are looked at: every fifth, six at most; a shift is the same in all of them."""


class BestShift:
    """Collects frames, then says how far the output lies right of and below its truth."""

    def __init__(self) -> None:
        self._seen = 0
        self._pairs: list[tuple[_Plane, _Plane]] = []

    def add(self, truth: Pixels, output: Pixels) -> None:
        """The next frame and its truth, uint8 (H, W, 3) RGB of one size."""
        # The first two are left out, as by the official rule, where there are others.
        if self._seen % _EVERY == 2 and len(self._pairs) < _MOST:
            self._pairs.append((_luma(truth), _luma(output)))
        elif not self._pairs and self._seen < 2:
            self._last = (_luma(truth), _luma(output))
        self._seen += 1

    def result(self) -> tuple[float, float]:
        """(right, down) in pixels, to a quarter; (0, 0) where the output lies in its place.

        Found by moving the output by that much left and up: the place where it fits best.
        """
        pairs = self._pairs or [self._last]
        steps = np.arange(-REACH, REACH + 0.25, 0.5)
        coarse = min(product(steps, steps), key=lambda d: (_error(pairs, *d), _length(d)))
        near = [(coarse[0] + x, coarse[1] + y) for x, y in product((-0.25, 0.0, 0.25), repeat=2)]
        right, down = min(near, key=lambda d: (_error(pairs, *d), _length(d)))
        return float(right), float(down)


def _luma(frame: Pixels) -> _Plane:
    import cv2

    # Blurred, because moving by a part of a pixel blurs a little, and what is noisy would then fit
    # best where it does not lie.
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.5), np.float32)


def _length(shift: tuple[float, float]) -> float:
    return abs(shift[0]) + abs(shift[1])


def _error(pairs: list[tuple[_Plane, _Plane]], right: float, down: float) -> float:
    """Mean squared difference once the output is moved left and up by that much."""
    import cv2

    move = np.array([[1, 0, right], [0, 1, down]], np.float32)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    total = 0.0
    for truth, output in pairs:
        h, w = truth.shape
        edge = min(16, h // 4, w // 4)
        moved = cv2.warpAffine(output, move, (w, h), flags=how, borderMode=cv2.BORDER_REPLICATE)
        difference = (moved - truth)[edge : h - edge, edge : w - edge]
        total += float(np.mean(difference * difference, dtype=np.float64))
    return total
