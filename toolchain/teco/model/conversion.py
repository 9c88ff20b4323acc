"""Between Y'CbCr and RGB, as numbers that a model with plane ports is given with every frame.

Whoever drives such a model (``layout`` NV12 or I420 in its stream contract) computes them here, or
as here: from the two shares of a matrix and the range, in float64, rounded to float32 once.
:func:`exact_rgb` and :func:`exact_planes` do in float64 on the host what the graph does, chroma's
filters included (:mod:`teco_models.deploy.chroma`); the graph is held against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.pixels import Pixels
from teco.core.planes import Layout, chroma_of, frame_size, planes_of, with_chroma
from teco_models.deploy.chroma import (
    BEFORE,
    DOWN_ACROSS,
    DOWN_DOWN,
    UP_ACROSS,
    UP_DOWN,
    UP_REACH,
)

SHARES = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
"""Matrix -> the shares of red and of blue in luma (H.273's Kr and Kb)."""


@dataclass(frozen=True)
class Conversion:
    """What the graph's inputs ``to_rgb`` and ``from_rgb`` are given.

    Attributes:
        to_rgb: (3, 4) float64; times (Y, Cb, Cr, 1) of levels 0 to 255 it is RGB, black 0, white 1.
        from_rgb: (3, 4) float64; times (R, G, B, 1) it is levels of Y, Cb and Cr.
    """

    to_rgb: NDArray[np.float64]
    from_rgb: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: str, full_range: bool) -> Conversion:
        """The conversion of a clip.

        Args:
            matrix: a key of :data:`SHARES`, as :class:`teco.video.colour.Colour` names it.
            full_range: luma spans 0 to 255 instead of 16 to 235.

        Raises:
            TecoError: another matrix.
        """
        if matrix not in SHARES:
            raise TecoError(
                f"the matrix {matrix} is not one of {', '.join(SHARES)}, which a model with planes "
                "can be given",
                hint="take a model with RGB ports: teco export --io uint8",
            )
        red, blue = SHARES[matrix]
        luma = np.array([red, 1 - red - blue, blue])
        rows = [luma, *((np.eye(3)[n] - luma) / (2 - 2 * luma[n]) for n in (2, 0))]
        gains = np.array([255, 255, 255] if full_range else [219, 224, 224], np.float64)
        from_rgb = np.column_stack(
            (np.array(rows) * gains[:, None], [0 if full_range else 16, 128, 128])
        )
        back = np.linalg.inv(from_rgb[:, :3])
        return cls(np.column_stack((back, -back @ from_rgb[:, 3])), from_rgb)

    def into(self, other: Conversion) -> Conversion:
        """From planes of this matrix and range to planes of another's."""
        return Conversion(self.to_rgb, other.from_rgb)

    @property
    def inputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``to_rgb`` and ``from_rgb`` as the graph takes them."""
        return self.to_rgb.astype(np.float32), self.from_rgb.astype(np.float32)


def exact_rgb(picture: Pixels, layout: Layout, conversion: Conversion) -> NDArray[np.float64]:
    """A packed picture -> (3, h, w) RGB, clipped to [0, 1], as the graph makes it, in float64."""
    y, *_ = planes_of(picture, layout)
    chroma = chroma_of(picture, layout).transpose(2, 0, 1).astype(np.float64)
    chroma = _doubled(_doubled(chroma, 1, UP_DOWN), 2, UP_ACROSS)
    samples = np.concatenate((y.transpose(2, 0, 1), chroma))
    return np.clip(_affine(conversion.to_rgb, samples), 0, 1)


def exact_planes(rgb: NDArray[Any], layout: Layout, conversion: Conversion) -> Pixels:
    """(3, h, w) RGB -> a packed picture, as the graph makes it, in float64."""
    rgb = np.clip(rgb.astype(np.float64), 0, 1)
    small = _halved(_halved(rgb, 1, DOWN_DOWN), 2, DOWN_ACROSS)
    luma = _levels(_affine(conversion.from_rgb[:1], rgb)[0])
    chroma = _levels(_affine(conversion.from_rgb[1:], small)).transpose(1, 2, 0)
    return with_chroma(luma, chroma, layout)


def as_planes(pixels: Pixels, layout: Layout, conversion: Conversion) -> Pixels:
    """(h, w, 3) uint8 RGB of even sides -> the packed picture that ``conversion.to_rgb`` is for; as
    :func:`exact_planes`, in float32, in a few milliseconds."""
    import cv2

    back = np.linalg.inv(conversion.to_rgb[:, :3])
    matrix = np.column_stack((back / 255, -back @ conversion.to_rgb[:, 3]))
    samples = np.asarray(cv2.transform(pixels.astype(np.float32), matrix))
    rows, columns = (np.array(taps, np.float32) for taps in (DOWN_DOWN, DOWN_ACROSS))
    edge = cv2.BORDER_REPLICATE
    chroma = cv2.sepFilter2D(
        samples[..., 1:], cv2.CV_32F, columns, rows, anchor=(BEFORE, BEFORE), borderType=edge
    )
    return with_chroma(_levels(samples[..., 0]), _levels(np.asarray(chroma)[::2, ::2]), layout)


SKETCH = 256
"""Pixels on the long side of a sketch, or up to twice as many."""


def sketch_of(picture: Pixels, layout: Layout, conversion: Conversion) -> Pixels:
    """A packed picture thinned to RGB pixels: every n-th, with the chroma sample beside it, for a
    look and no more.

    Returns:
        (h', w', 3) uint8, of :data:`SKETCH` pixels or more on the long side where there are.
    """
    h, w = frame_size(picture)
    n = max(1, max(h, w) // SKETCH)
    rows, columns = (np.arange(n // 2, side, n) for side in (h, w))
    luma, *chroma = planes_of(picture, layout)
    at = np.ix_(rows // 2, columns // 2)
    samples = [luma[..., 0][np.ix_(rows, columns)]]
    samples += [plane[at][..., k] for plane in chroma for k in range(plane.shape[2])]
    rgb = _affine(255 * conversion.to_rgb, np.stack(samples).astype(np.float64))
    return np.ascontiguousarray(_levels(rgb).transpose(1, 2, 0))


def _affine(matrix: NDArray[np.float64], samples: NDArray[Any]) -> NDArray[np.float64]:
    return np.tensordot(matrix[:, :3], samples, 1) + matrix[:, 3, None, None]


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _doubled(
    x: NDArray[np.float64], axis: int, phases: tuple[tuple[float, ...], ...]
) -> NDArray[np.float64]:
    """Twice as many samples along an axis."""
    n = x.shape[axis]
    x = _edged(x, axis, UP_REACH, UP_REACH)
    made = [_filtered(x, axis, taps, range(n)) for taps in phases]
    shape = list(made[0].shape)
    shape[axis] *= 2
    return np.stack(made, axis=axis + 1).reshape(shape)


def _halved(x: NDArray[np.float64], axis: int, taps: tuple[float, ...]) -> NDArray[np.float64]:
    """Half as many."""
    n = x.shape[axis]
    x = _edged(x, axis, BEFORE, len(taps) - 1 - BEFORE)
    return _filtered(x, axis, taps, range(0, n, 2))


def _filtered(
    x: NDArray[np.float64], axis: int, taps: tuple[float, ...], places: range
) -> NDArray[np.float64]:
    """Sums of taps times the samples from each place on."""
    begin = np.array(places)
    total = taps[0] * x.take(begin, axis)
    for k, tap in enumerate(taps[1:], start=1):
        total += tap * x.take(begin + k, axis)
    return total


def _edged(x: NDArray[np.float64], axis: int, before: int, after: int) -> NDArray[np.float64]:
    around = [(0, 0)] * x.ndim
    around[axis] = (before, after)
    return np.pad(x, around, mode="edge")
