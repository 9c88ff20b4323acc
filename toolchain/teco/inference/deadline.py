"""Whether a step will be done in time, and what takes its place when it will not.

The cheap upsampler is the one inside TecoGAN's BD networks (Keys' cubic, a = -0.75, phase-aligned),
on which their output is a correction: what is shown in place of a late frame lies where the network
would have put it, without the detail. For the other networks, whose frames lie about pixel centres,
there is :func:`cheap_centred`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from teco.core.pixels import Pixels
from teco.core.planes import Layout, chroma_of, planes_of, with_chroma
from teco_calibration.degrade import CUBIC_BD_TAPS
from teco_models.variant import SCALE

RECENT = 5
"""Steps whose median says how long the next one takes: one stall does not count as slowness."""

FORGET = 0.9
"""What is left of that expectation after each frame that was not stepped, so that a machine which
was busy for a while is tried again."""


class Deadline:
    """How long steps take here, and so which frames would come too late.

    Args:
        clock: seconds, the one that ``due`` is given in.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._trust = 1.0

    @property
    def expected(self) -> float:
        """Seconds that the next step should take; 0 while nothing is known."""
        return median(self._recent) * self._trust if self._recent else 0.0

    def took(self, seconds: float) -> None:
        """A step was done in so many seconds."""
        self._recent.append(seconds)
        self._trust = 1.0

    def misses(self, due: float) -> bool:
        """Whether a step begun now would end after ``due``; if so it counts as not made."""
        if self.clock() + self.expected <= due:
            return False
        self._trust *= FORGET
        return True


def cheap(frame: Pixels) -> Pixels:
    """Enlarge by four as :func:`teco_calibration.degrade.bicubic_bd` does, the same bits, sooner.

    (h, w, 3) uint8 or uint16 RGB -> (4h, 4w, 3).
    """
    import cv2

    h, w = frame.shape[:2]
    depth = cv2.CV_8U if frame.dtype == np.uint8 else cv2.CV_16U
    taps = CUBIC_BD_TAPS
    padded = cv2.copyMakeBorder(frame, 1, 2, 1, 2, cv2.BORDER_REPLICATE)
    # Taps are multiples of 1/256 and pixels of 1: float32 holds every sum of 8-bit ones exactly, so
    # each output is rounded once. The phases of a row are put side by side as channels, which is
    # one copy.
    out = np.empty((h, SCALE, w, SCALE * 3), frame.dtype)
    for down in range(SCALE):
        across = [
            cv2.sepFilter2D(padded, depth, taps[right], taps[down], anchor=(1, 1))
            for right in range(SCALE)
        ]
        out[:, down] = np.asarray(cv2.merge(across))[1 : 1 + h, 1 : 1 + w]
    return out.reshape(SCALE * h, SCALE * w, 3)


def cheap_centred(frame: Pixels, scale: int = SCALE) -> Pixels:
    """Enlarge about pixel centres, bicubic.

    (h, w, 3) uint8 or uint16 RGB -> (scale * h, scale * w, 3).
    """
    import cv2

    h, w = frame.shape[:2]
    size = (scale * w, scale * h)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), frame.dtype)


def cheap_planes(frame: Pixels, layout: Layout, scale: int = SCALE, centred: bool = True) -> Pixels:
    """The same for a packed picture, (3 h / 2, w) -> (3 scale h / 2, scale w), plane by plane.

    Args:
        frame: see :mod:`teco.core.planes`; its chroma is left-sited, and so is what comes out.
        layout: of both.
        scale: of the model.
        centred: about pixel centres, as :func:`cheap_centred`; else as :func:`cheap`.
    """
    import cv2

    def enlarged(plane: NDArray[np.uint8], across: float, down: float) -> NDArray[np.uint8]:
        """Output pixel n is made about the sample n / scale + shift."""
        h, w = plane.shape[:2]
        places = np.array([[1 / scale, 0, across], [0, 1 / scale, down]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        size = (scale * w, scale * h)
        edge = cv2.BORDER_REPLICATE
        return np.asarray(
            cv2.warpAffine(plane, places, size, flags=flags, borderMode=edge), np.uint8
        )

    # Where pixel 0 lies on the small frame, and so a sample of chroma, which lies on the column of
    # its first pixel and midway between two rows of either frame.
    first = 0.5 / scale - 0.5 if centred else 0.0
    luma = enlarged(planes_of(frame, layout)[0][..., 0], first, first)
    chroma = enlarged(chroma_of(frame, layout), first / 2, (first + 0.5 / scale - 0.5) / 2)
    return with_chroma(luma, chroma, layout)
