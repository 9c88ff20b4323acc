"""Bicubic and the network in one picture, so that an output shows what the network is worth."""

from __future__ import annotations

from typing import Literal

import numpy as np

from teco.core.pixels import Pixels
from teco.inference.deadline import cheap, cheap_centred
from teco_models.variant import SCALE

Comparison = Literal["side", "split"]
"""``side``: both pictures whole, the bicubic one on the left. ``split``: one picture, its left half
bicubic."""

WIDTHS: dict[Comparison, int] = {"side": 2, "split": 1}
"""How many pictures wide the comparison is."""

_LINE = 1600
"""Pixels of a picture's width for each pixel of the line's white core, which stays visible when a
player shrinks the picture to a screen."""


def beside(
    how: Comparison,
    frame: Pixels,
    enlarged: Pixels,
    *,
    centred: bool = True,
    scale: int = SCALE,
) -> Pixels:
    """Put a frame's bicubic enlargement and the network's into one picture, a line between them.

    Args:
        how: see :data:`Comparison`.
        frame: (h, w, 3) uint8 or uint16 RGB.
        enlarged: (scale * h, scale * w, 3) of the same dtype, by the network.
        centred: the network's frames lie about pixel centres; else bicubic is shifted as theirs
            are (:mod:`teco.inference.deadline`), so that nothing jumps at the line.
        scale: of the network.

    Returns:
        A new array: (scale * h, scale * w, 3), twice as wide for ``side``.
    """
    bicubic = cheap_centred(frame, scale) if centred else cheap(frame)
    if how == "side":
        out = np.concatenate((bicubic, enlarged), axis=1)
    else:
        middle = enlarged.shape[1] // 2
        out = np.concatenate((bicubic[:, :middle], enlarged[:, middle:]), axis=1)
    thick = max(1, enlarged.shape[1] // _LINE)
    middle = out.shape[1] // 2
    # White between two black ones is seen on snow and at night.
    out[:, middle - 2 * thick : middle + 2 * thick] = 0
    out[:, middle - thick : middle + thick] = np.iinfo(out.dtype).max
    return out
