"""Raw video in GStreamer's memory to pictures and back, by the same arithmetic as clips.

The conversion is :class:`teco.video.colour.Converter`, so that a player's picture is the one
that ``teco upscale`` makes of the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from teco.core.pixels import Pixels
from teco.video.colour import Colour, Converter, Siting

Memory = Any
"""What offers Python's buffer protocol; the type for it is younger than Python 3.11."""

_PIX_FMT = {
    "NV12": "nv12", "I420": "yuv420p",
    "P010_10LE": "p010le", "I420_10LE": "yuv420p10le",
}  # fmt: skip
"""GStreamer's names of Y'CbCr formats -> libav's."""

_DEEP = ("P010_10LE", "I420_10LE")
"""Of these, those of two bytes a sample."""

FORMATS = ("RGB", *_PIX_FMT)
"""What the element takes and gives."""


@dataclass(frozen=True)
class Layout:
    """How a picture lies in memory.

    Attributes:
        format: one of :data:`FORMATS`.
        width, height: of the picture.
        strides: distance of rows in bytes, by plane.
        offsets: where planes begin.
    """

    format: str
    width: int
    height: int
    strides: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """(rows, bytes a row) of each plane; the last row need not be padded."""
        h, w = self.height, self.width
        if self.format == "RGB":
            return ((h, 3 * w),)
        half_h, half_w = (h + 1) // 2, (w + 1) // 2
        size = 2 if self.is_deep else 1
        if self.format in ("NV12", "P010_10LE"):
            return ((h, size * w), (half_h, 2 * size * half_w))
        return ((h, size * w), (half_h, size * half_w), (half_h, size * half_w))

    @property
    def is_deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        return self.format in _DEEP

    def views(self, data: Memory) -> list[NDArray[np.uint8]]:
        """Each plane as (rows, bytes a row), without a copy.

        Raises:
            ValueError: the memory is too small.
        """
        places = zip(self.planes, self.offsets, self.strides, strict=False)
        return [_view(data, shape, offset, stride) for shape, offset, stride in places]


class FrameFormat:
    """Reads and writes one kind of raw video.

    Args:
        colour: matrix and range; of no meaning for RGB.
        siting: where chroma lies, before and after.
    """

    def __init__(self, colour: Colour, siting: Siting = "left") -> None:
        self._converter = Converter(colour, siting)

    def read(self, data: Memory, layout: Layout) -> Pixels:
        """(h, w, 3) RGB, uint16 where samples have more than 8 bits and else uint8; the caller's
        to keep."""
        views = layout.views(data)
        if layout.format == "RGB":
            return views[0].reshape(layout.height, layout.width, 3).copy()
        frame = av.VideoFrame(layout.width, layout.height, _PIX_FMT[layout.format])
        for target, source in zip(_planes(frame, layout), views, strict=True):
            target[:] = source
        return self._converter.to_rgb(frame, deep=layout.is_deep)

    def write(self, picture: Pixels, data: Memory, layout: Layout) -> None:
        """Put (h, w, 3) RGB, uint8 or uint16, into writable memory."""
        views = layout.views(data)
        if layout.format == "RGB":
            views[0][:] = picture.reshape(layout.height, 3 * layout.width)
            return
        frame = self._converter.from_rgb(picture, _PIX_FMT[layout.format])
        for target, source in zip(views, _planes(frame, layout), strict=True):
            target[:] = source


def _planes(frame: av.VideoFrame, layout: Layout) -> list[NDArray[np.uint8]]:
    """An av frame's planes as arrays over its own memory."""
    pairs = zip(frame.planes, layout.planes, strict=True)
    return [_view(plane, shape, 0, plane.line_size) for plane, shape in pairs]


def _view(data: Any, shape: tuple[int, int], offset: int, stride: int) -> NDArray[np.uint8]:
    try:
        return np.ndarray(shape, np.uint8, data, offset, (stride, 1))
    except TypeError as error:  # what numpy calls a buffer that is too small
        raise ValueError(str(error)) from error
