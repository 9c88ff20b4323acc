"""Frames for the report's viewer: lossless, in the page, within a budget."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np

from teco.benchmark.quality.measure import Gallery
from teco.core.errors import TecoError
from teco.core.pixels import Pixels

PIXELS = 10_000_000
"""Of all frames of a report together: lossless WebP of video takes 1 to 1.5 bytes of each, and a
third more as text, so a report stays below about 20 MB."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the viewer shows.

    Attributes:
        frames: of the clip.
        top, left, height, width: what was cut out of each frame, in pixels.
        full_height, full_width: of a whole frame.
        images: method -> a ``data:`` URI for each frame.
    """

    frames: tuple[int, ...]
    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int
    images: dict[str, tuple[str, ...]]


def encode(gallery: Gallery, pixels: int = PIXELS) -> Shown | None:
    """The gallery's frames as they go into a page: fewer of them, then their middle, if too many.

    Args:
        gallery: every method with each of its frames; others are left out.
        pixels: of all frames together.

    Returns:
        None where there is no truth to compare with.
    """
    count = len(gallery.frames)
    whole = {name: shots for name, shots in gallery.pixels.items() if len(shots) == count}
    if not count or "truth" not in whole:
        return None
    height, width = whole["truth"][0].shape[:2]
    each = height * width * len(whole)
    keep = max(1, min(count, pixels // each))
    picks = np.linspace(0, count - 1, keep).round().astype(int) if keep > 1 else [count // 2]
    scale = min(1.0, math.sqrt(pixels / each))
    h, w = int(height * scale), int(width * scale)
    top, left = (height - h) // 2, (width - w) // 2
    return Shown(
        frames=tuple(gallery.frames[n] for n in picks),
        top=top,
        left=left,
        height=h,
        width=w,
        full_height=height,
        full_width=width,
        images={
            name: tuple(data_uri(shots[n][top : top + h, left : left + w]) for n in picks)
            for name, shots in whole.items()
        },
    )


def data_uri(pixels: Pixels) -> str:
    """(H, W, 3) uint8 RGB as a lossless WebP in a ``data:`` URI."""
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    # Above 100 is lossless.
    done, coded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])
    if not done:
        raise TecoError("OpenCV could not make a WebP of a frame")
    return "data:image/webp;base64," + base64.b64encode(coded.tobytes()).decode()
