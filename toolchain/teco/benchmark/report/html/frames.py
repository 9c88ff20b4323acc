"""Frames for the report's viewer: lossless, in the page, within a budget."""

from __future__ import annotations

import numpy as np

from teco.benchmark.quality.measure import Gallery
from teco.page.viewer import Crop, Shown, data_uri

PIXELS = 10_000_000
"""Of all frames of a report together: lossless WebP of video takes 1 to 1.5 bytes of each, and a
third more as text, so a report stays below about 20 MB."""


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
    keep = max(1, min(count, pixels // (height * width * len(whole))))
    picks = np.linspace(0, count - 1, keep).round().astype(int) if keep > 1 else [count // 2]
    crop = Crop.middle(height, width, pixels // len(whole))
    return Shown(
        frames=tuple(gallery.frames[n] for n in picks),
        crop=crop,
        images={
            name: tuple(data_uri(crop.of(shots[n])) for n in picks) for name, shots in whole.items()
        },
    )
