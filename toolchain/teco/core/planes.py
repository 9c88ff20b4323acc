"""4:2:0 pictures as decoders and encoders have them: planes, packed one after the other.

A packed picture is one array, (3 h / 2, w) uint8: h rows of luma, then the chroma as its layout has
it: NV12 in rows of Cb and Cr by turns, I420 all Cb, then all Cr. PyAV packs and unpacks ``nv12``
and ``yuv420p`` alike. Two axes tell it from RGB pixels, which have three. Sizes are even.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError
from teco.core.pixels import Pixels

Layout = Literal["NV12", "I420"]

PIX_FMT: dict[Layout, str] = {"NV12": "nv12", "I420": "yuv420p"}
"""libav's names."""


def are_planes(frame: NDArray[Any]) -> bool:
    """Whether a frame is a packed picture, and not RGB pixels."""
    return frame.ndim == 2


def frame_size(frame: NDArray[Any]) -> tuple[int, int]:
    """(h, w) of a frame: RGB pixels of either depth, or a packed picture."""
    h, w = frame.shape[:2]
    return (h * 2 // 3, w) if are_planes(frame) else (h, w)


def planes_of(packed: Pixels, layout: Layout) -> tuple[Pixels, ...]:
    """Views of a packed picture, as (rows, columns, samples of a place).

    Returns:
        NV12: luma (h, w, 1) and chroma (h/2, w/2, 2). I420: luma, Cb and Cr (h/2, w/2, 1).
    """
    h, w = frame_size(packed)
    flat = packed.reshape(-1)
    luma, chroma = flat[: h * w].reshape(h, w, 1), flat[h * w :]
    if layout == "NV12":
        return luma, chroma.reshape(h // 2, w // 2, 2)
    blue, red = chroma.reshape(2, h // 2, w // 2, 1)
    return luma, blue, red


def packed(*planes: NDArray[Any]) -> Pixels:
    """Inverse of :func:`planes_of`, for planes with or without an axis of 1 before them."""
    w = planes[0].shape[-2]
    # A plane of chroma may end in the middle of a row.
    return np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, w)


def chroma_of(picture: Pixels, layout: Layout) -> NDArray[np.uint8]:
    """(h/2, w/2, 2) Cb and Cr of a packed picture; a view where it can be one."""
    _, *chroma = planes_of(picture, layout)
    return chroma[0] if len(chroma) == 1 else np.concatenate(chroma, axis=2)


def with_chroma(luma: NDArray[Any], chroma: NDArray[Any], layout: Layout) -> Pixels:
    """(h, w) luma and (h/2, w/2, 2) Cb and Cr, uint8, as a packed picture."""
    parts = [chroma] if layout == "NV12" else [chroma[..., :1], chroma[..., 1:]]
    return packed(luma[..., None], *parts)


def require_even(h: int, w: int, what: str) -> None:
    """Raise TecoError for a size that has no 4:2:0 planes.

    Args:
        h, w: of the picture.
        what: whose it is, to begin the sentence.
    """
    if h % 2 or w % 2:
        raise TecoError(
            f"{what} is {w}x{h}, and 4:2:0 planes (NV12, I420) have even sizes",
            hint="cut a row or column off: ffmpeg -i IN -vf crop=trunc(iw/2)*2:trunc(ih/2)*2 OUT; "
            "or take a model with RGB ports (--io uint8)",
            exit_code=USAGE,
        )
