"""How far one sequence of pictures is from another that should be the same, in 8-bit steps.

For a candidate beside its float32 reference: both are outputs, neither is the truth. Steps are
1/255 of full range; PSNR is over R, G and B of whole pictures, peak 255.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError
from teco_calibration.metrics.drift import Drift, measure_drift

Pixels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
"""(256,): how many values are 0, 1, 2, ... steps apart."""

_SQUARES = np.arange(256, dtype=np.float64) ** 2


def step_counts(a: Pixels, b: Pixels) -> Counts:
    """How many values of two pictures, uint8 (H, W, 3), are how many steps apart.

    Raises:
        ClipError: they differ in size.
    """
    if a.shape != b.shape:
        raise ClipError(
            f"pictures of {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]} have no distance"
        )
    return np.bincount((np.maximum(a, b) - np.minimum(a, b)).ravel(), minlength=256)


def mean_square(counts: Counts) -> float:
    """Mean squared difference in steps^2, over all values."""
    return float(counts @ _SQUARES / counts.sum())


@dataclass(frozen=True, kw_only=True)
class Distance:
    """What was found.

    Attributes:
        frames: compared.
        psnr: dB of each frame; None where it equals the other.
        rms: root mean square difference of each frame, in steps.
        max_steps: largest difference of any value in each frame.
        within_one: share of all values that are at most one step apart.
        drift: of :attr:`rms`; None of few frames.
    """

    frames: int
    psnr: tuple[float | None, ...]
    rms: tuple[float, ...]
    max_steps: tuple[int, ...]
    within_one: float
    drift: Drift | None

    @property
    def worst_psnr(self) -> float | None:
        """Of the frame that is furthest away; None where every frame equals the other."""
        return min((p for p in self.psnr if p is not None), default=None)

    @property
    def largest(self) -> int:
        """Largest difference of any value in any frame, in steps."""
        return max(self.max_steps)


class Distances:
    """Takes pairs in order; memory grows by a few numbers a frame."""

    def __init__(self) -> None:
        self.rms: list[float] = []
        self.psnr: list[float | None] = []
        self.max_steps: list[int] = []
        self._counts = np.zeros(256, np.int64)

    def add(self, a: Pixels, b: Pixels) -> None:
        """The next pair, uint8 (H, W, 3)."""
        self.add_counts(step_counts(a, b))

    def add_counts(self, counts: Counts) -> None:
        """The next pair by what :func:`step_counts` says of it."""
        square = mean_square(counts)
        self.rms.append(math.sqrt(square))
        # Rounded to what anyone reads: these lists are most of a verdict in a manifest.
        self.psnr.append(round(10 * math.log10(255**2 / square), 4) if square else None)
        self.max_steps.append(int(counts.nonzero()[0][-1]))
        self._counts += counts

    @property
    def within_one(self) -> float:
        return float(self._counts[:2].sum() / self._counts.sum())

    def result(self, places: Sequence[Hashable] | None = None) -> Distance:
        """What was found.

        Args:
            places: as :func:`teco_calibration.metrics.drift.measure_drift` takes them; None where
                no frame shows what another one did.

        Raises:
            ClipError: nothing was added.
        """
        if not self.rms:
            raise ClipError("there are no pictures to compare")
        frames = range(len(self.rms))
        return Distance(
            frames=len(self.rms),
            psnr=tuple(self.psnr),
            rms=tuple(self.rms),
            max_steps=tuple(self.max_steps),
            within_one=self.within_one,
            drift=measure_drift(frames, self.rms, frames if places is None else places),
        )
