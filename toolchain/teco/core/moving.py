"""Frames that move, where no clip is at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def moving_frames(h: int, w: int, count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """(1, 3, h, w) frames of a textured picture that drifts, for verification anywhere.

    Random frames would not do: the flow between them means nothing, and the recurrence would
    carry noise.
    """
    rng = np.random.default_rng(seed)
    size = (h + count + 8, w + count + 8)
    texture = rng.random((3, *size))
    for axis in (1, 2):  # a little blur, so that the texture has a scale
        texture = (texture + np.roll(texture, 1, axis) + np.roll(texture, -1, axis)) / 3
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    frames: list[NDArray[np.float32]] = []
    for t in range(count):
        frame = texture[None, :, t : t + h, t // 2 : t // 2 + w]
        frames.append(np.ascontiguousarray(frame, dtype=np.float32))
    return frames
