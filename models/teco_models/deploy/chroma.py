"""The chroma of 4:2:0 pictures: where it lies, and the filters between it and every pixel.

Left-sited, as MPEG-2, H.264 and HEVC have it where they say nothing else: sample (j, k) lies on the
column 2k of the pixels and midway between the rows 2j and 2j + 1. The filters are swscale's bicubic
(Keys' cubic with a = -0.6), stretched to twice its width where chroma is made, so that clips that
go through a graph are filtered as those that go through swscale.

Beyond the edge the last sample goes on.
"""

from __future__ import annotations

_A = -0.6
"""What swscale calls bicubic has this for Keys' parameter, if nothing else is asked for."""


def cubic(distance: float) -> float:
    """Keys' cubic at a distance in samples."""
    d = abs(distance)
    if d < 1:
        return (_A + 2) * d**3 - (_A + 3) * d**2 + 1
    return _A * d**3 - 5 * _A * d**2 + 8 * _A * d - 4 * _A if d < 2 else 0.0


UP_REACH = 2
"""Chroma samples on either side of its own that a pixel is made from."""


def _up(offset: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Taps of the even and of the odd pixel; ``offset`` is the sample's place in pixels."""
    taps = range(-UP_REACH, UP_REACH + 1)
    even, odd = (tuple(cubic((n - offset) / 2 - k) for k in taps) for n in (0, 1))
    return even, odd


UP_ACROSS, UP_DOWN = _up(0.0), _up(0.5)
"""What pixels 2k and 2k + 1 of a row (2j and 2j + 1 of a column) take of samples k - 2 to k + 2."""

BEFORE = 3
"""Pixels before 2k (2j) that a chroma sample is made from."""

DOWN_ACROSS = tuple(cubic(n / 2) / 2 for n in range(-BEFORE, 4))
DOWN_DOWN = tuple(cubic((n - 0.5) / 2) / 2 for n in range(-BEFORE, 5))
"""What sample k of a row takes of pixels 2k - 3 to 2k + 3; j of a column of 2j - 3 to 2j + 4."""
