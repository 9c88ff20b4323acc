"""8-bit frames and the tensors that networks take, one way for all of teco."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError

Pixels = NDArray[np.uint8]
"""(h, w, 3) uint8 RGB, 0 to 255."""

Array = NDArray[np.float32]
"""(1, 3, h, w) float32 RGB in [0, 1]."""


def check_frame(frame: Any) -> None:
    """Raise TecoError unless a frame is what networks take: (h, w, 3) uint8 or uint16 RGB.

    What people hand over instead is named, with what makes it right.
    """
    shape, dtype = getattr(frame, "shape", None), str(getattr(frame, "dtype", ""))
    if not isinstance(frame, np.ndarray) or shape is None:
        found, hint = f"a {type(frame).__name__}", "numpy.asarray(frame)"
    elif dtype not in ("uint8", "uint16"):
        found = f"{dtype} {shape}"
        hint = "floats in [0, 1]: (255 * frame).round().clip(0, 255).astype(numpy.uint8)"
    elif len(shape) == 3 and shape[2] == 3:
        return
    elif len(shape) == 3 and shape[2] == 4:
        found, hint = f"{shape}, RGBA or BGRA", "leave the fourth channel out: frame[..., :3]"
    elif len(shape) == 3 and shape[0] == 3:
        found, hint = f"{shape}, channels first", "numpy.moveaxis(frame, 0, 2)"
    elif len(shape) == 2 or shape[-1] == 1:
        found = f"{shape}, grey"
        hint = "numpy.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)"
    else:
        found, hint = f"{shape}", "give one frame at a time"
    raise TecoError(
        f"the frame is {found}, expected (height, width, 3) uint8 RGB", hint=hint, exit_code=USAGE
    )


def to_tensor(frame: NDArray[Any]) -> Array:
    """(h, w, 3) uint8 or uint16 RGB -> (1, 3, h, w) float32 in [0, 1], contiguous."""
    # Divided, not multiplied by 1/255: the training data and the references divide.
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], dtype=np.float32)
    planes /= np.iinfo(frame.dtype).max
    return planes


def to_pixels(tensor: Array) -> Pixels:
    """(1, 3, H, W) float32 -> (H, W, 3) uint8: times 255, rounded to nearest, then clipped.

    The product is float32 and ties go to even, as in every graph that makes 8-bit frames itself
    (:mod:`teco_models.deploy.ports`) and in the temporal gate.
    """
    import cv2

    # OpenCV scales, rounds and saturates in one pass per plane; numpy takes four passes. Not
    # cv2.multiply, which is slower and multiplies in float64: one value in 250,000 then differs.
    weighted: Any = cv2.addWeighted  # its stubs want a destination
    planes = [weighted(plane, 255.0, plane, 0.0, 0.0, dtype=cv2.CV_8U) for plane in tensor[0]]
    return np.asarray(cv2.merge(planes), dtype=np.uint8)


def to_deep_pixels(tensor: Array) -> NDArray[np.uint16]:
    """(1, 3, H, W) float32 -> (H, W, 3) uint16: times 65535, rounded to nearest, then clipped."""
    import cv2

    weighted: Any = cv2.addWeighted
    planes = [weighted(plane, 65535.0, plane, 0.0, 0.0, dtype=cv2.CV_16U) for plane in tensor[0]]
    return np.asarray(cv2.merge(planes), dtype=np.uint16)


def to_8_bits(frame: NDArray[Any]) -> Pixels:
    """A frame of either depth as uint8: itself, or its upper byte."""
    return frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)
