"""Making low resolution: the field's two x4 degradations, and interpolations that undo them.

Shape legend: H, W are high-resolution sizes, h = H/4, w = W/4 low-resolution ones. Pictures
are uint8 (., ., 3), full range; nothing here depends on the order of the channels.

**BD** (blur, decimate): Gaussian of sigma 1.5, then every fourth pixel, the first one kept:
``LR[i] = blur[4i]``. Its pixel centres lie on top of every fourth HR pixel, so what undoes it
is phase-aligned: ``HR[4i] = LR[i]``. **BI** (bicubic): MATLAB's ``imresize`` with antialiasing.
Its pixels are centred in 4x4 HR pixels (half-pixel convention), and so is what undoes it.
Mixing the two shifts a picture by 1.5 HR pixels and costs several dB. **Real** (what people's
clips went through): shrunk about the centres of 4x4 HR pixels, by their mean or as FFmpeg does it;
then usually a codec (:mod:`teco_calibration.codec`).

Every operation here is the same two steps: pad by the rule of the operation, then apply a few
fixed taps along each axis, in float64, rounding once at the end (to nearest, then clip). OpenCV
is imported on first use and only pads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError

Pixels = npt.NDArray[np.uint8]
Degradation = Literal["bd", "bi", "real"]
Interpolation = Literal["bicubic", "bilinear", "lanczos"]
Filter = Literal["area", "bicubic", "lanczos"]
"""What shrinks an ordinary clip."""
_Floats = npt.NDArray[np.float64]
_Border = Literal["reflect", "symmetric", "replicate"]

SCALE = 4
"""Of the papers' degradations; ordinary clips (``"real"``) are also made small by 2."""

BD_SIGMA = 1.5
"""Standard deviation of BD's blur in HR pixels (TecoGAN and the video papers around it)."""


def _gaussian(sigma: float, radius: int) -> _Floats:
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    taps = np.exp(-(x**2) / (2 * sigma**2))
    return taps / taps.sum()


BD_TAPS: _Floats = _gaussian(BD_SIGMA, radius=4)
"""BD's blur along one axis: float64 (9,), sums to 1. Nine taps = 1 + 2 * int(3 sigma)."""
BD_TAPS.flags.writeable = False


def bd_kernel() -> _Floats:
    """BD's blur as a picture: float64 (9, 9), the outer product of :data:`BD_TAPS`, sums to 1."""
    return np.outer(BD_TAPS, BD_TAPS)


def _cubic(x: _Floats, a: float) -> _Floats:
    """Keys' cubic convolution kernel (1981) on [-2, 2]; a = -0.5 in MATLAB, -0.75 in OpenCV."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _linear(x: _Floats) -> _Floats:
    return np.maximum(0.0, 1 - np.abs(x))


def _lanczos(x: _Floats) -> _Floats:
    """Lanczos' kernel of three lobes, on [-3, 3]."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _normalised(taps: _Floats) -> _Floats:
    return taps / taps.sum(axis=-1, keepdims=True)


# imresize by 1/4 stretches the kernel by 4. Output i looks at u = 4i + 1.5, so pixel 4i + k - 6
# is (k - 7.5) / 4 of the stretched kernel away: 16 taps, the same for every i.
_BI_TAPS = _normalised(_cubic((np.arange(16) - 7.5) / 4, a=-0.5))


# Upsampling: row p holds the taps of the outputs 4i + p on the inputs i + offset.
def _half_pixel(scale: int) -> _Floats:
    """Where output ``scale * i + p`` lies, seen from input i, about pixel centres."""
    return (np.arange(scale, dtype=np.float64)[:, None] - (scale - 1) / 2) / scale


_TO_BD = np.arange(SCALE, dtype=np.float64)[:, None] / 4  # ... of 4i + p, phase-aligned
_TO_BI = _half_pixel(SCALE)
# The four cubic rows are those of TecoGAN's PyTorch port: [0, 1, 0, 0], [-.10546875, ...], ...
_UP: dict[tuple[str, str], _Floats] = {
    ("bicubic", "bd"): _cubic(_TO_BD - np.arange(-1, 3), a=-0.75),
    ("bilinear", "bd"): _linear(_TO_BD - np.arange(0, 2)),
    ("bicubic", "bi"): _normalised(_cubic(_TO_BI - np.arange(-2, 3), a=-0.5)),
    ("bilinear", "bi"): _linear(_TO_BI - np.arange(-1, 2)),
}
_UP_REAL: dict[tuple[str, int], _Floats] = {
    (name, scale): taps(_half_pixel(scale))
    for scale in (2, SCALE)
    for name, taps in {
        "bicubic": lambda x: _cubic(x - np.arange(-2, 3), a=-0.75),
        "bilinear": lambda x: _linear(x - np.arange(-1, 2)),
        "lanczos": lambda x: _normalised(_lanczos(x - np.arange(-3, 4))),
    }.items()
}

CUBIC_BD_TAPS = _UP["bicubic", "bd"]
"""float64 (4, 4): row p makes outputs 4i + p of inputs i - 1 to i + 2. Multiples of 1/256."""
CUBIC_BD_TAPS.flags.writeable = False


# --- down ------------------------------------------------------------------------------------


def crop_to_multiple(picture: Pixels, multiple: int = SCALE) -> Pixels:
    """Cut a picture at the bottom and right to whole multiples; a view, never a copy.

    Raises:
        ClipError: it is smaller than one multiple.
    """
    _check(picture)
    height, width = (n // multiple * multiple for n in picture.shape[:2])
    if not (height and width):
        raise ClipError(
            f"a picture of {picture.shape[1]}x{picture.shape[0]} is smaller than {multiple} pixels"
        )
    return picture[:height, :width]


def shrink_by_area(picture: Pixels, factor: float) -> Pixels:
    """Area-average to 1/factor of the size, each side rounded to nearest; uint8 (H, W, 3).

    Compressed video is no ground truth at its own size; averaging its pixels makes one.
    """
    if factor == 1:
        return picture
    import cv2

    height, width = picture.shape[:2]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def degrade(
    hr: Pixels, kind: Degradation, filter: Filter = "lanczos", scale: int = SCALE
) -> Pixels:
    """:func:`degrade_bd`, :func:`degrade_bi` or, with a filter and a scale, :func:`degrade_real`,
    by name."""
    if kind == "real":
        return degrade_real(hr, filter, scale)
    if scale != SCALE:
        raise ClipError(
            f"{kind} makes a picture {SCALE} times smaller, not {scale}",
            hint="--degradation real is for networks of other scales",
        )
    return degrade_bd(hr) if kind == "bd" else degrade_bi(hr)


def degrade_bd(hr: Pixels) -> Pixels:
    """Blur and decimate by 4, as TecoGAN's test data are made.

    Reflect padding of 4 (the border pixel not repeated), 9x9 Gaussian of sigma 1.5, pixels
    ``[::4, ::4]``, rounded to 8 bits. The Gaussian is separable, and rows that decimation would
    drop are never computed.

    Args:
        hr: uint8 (H, W, 3); H and W multiples of 4, at least 8.

    Returns:
        uint8 (H/4, W/4, 3).

    Raises:
        ClipError: another type, shape or size.
    """
    _check_down(hr)
    return _round(_along_both(hr, lambda x: _decimate(_pad(x, 4, 4, "reflect"), BD_TAPS)))


def degrade_bi(hr: Pixels) -> Pixels:
    """Bicubic decimation by 4, as MATLAB's ``imresize(im2double(hr), 1/4)``.

    Cubic a = -0.5 stretched by 4 (antialiasing), symmetric padding (the border pixel repeated),
    rounded to 8 bits once, at the end. MATLAB's weights at the border are the same: it mirrors
    indices.

    Args:
        hr: uint8 (H, W, 3); H and W multiples of 4, at least 8.

    Returns:
        uint8 (H/4, W/4, 3).

    Raises:
        ClipError: another type, shape or size.
    """
    _check_down(hr)
    return _round(_along_both(hr, lambda x: _decimate(_pad(x, 6, 6, "symmetric"), _BI_TAPS)))


def degrade_real(hr: Pixels, filter: Filter = "lanczos", scale: int = SCALE) -> Pixels:
    """Shrink about pixel centres: LR pixel i covers the HR pixels si to si + s-1 of scale s.

    Args:
        hr: uint8 (H, W, 3); H and W multiples of the scale, at least twice it.
        filter: "area" the mean of all pixels that an LR pixel covers, rounded to 8 bits once; the
            others are FFmpeg's (swscale).
        scale: 2 or 4.

    Returns:
        uint8 (H/s, W/s, 3).

    Raises:
        ClipError: another type, shape or size.
    """
    _check_down(hr, scale)
    height, width = (n // scale for n in hr.shape[:2])
    if filter != "area":
        import av

        frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(hr), "rgb24")
        small = frame.reformat(width, height, "rgb24", interpolation=filter.upper())
        return np.asarray(small.to_ndarray(), np.uint8)
    blocks = hr.reshape(height, scale, width, scale, 3)
    return _round(blocks.mean(axis=(1, 3), dtype=np.float64))


# --- up --------------------------------------------------------------------------------------


def bicubic_bd(lr: Pixels) -> Pixels:
    """Upsample a BD picture by 4, cubic a = -0.75, phase-aligned: ``out[4i] = lr[i]``.

    Replicate padding, 1 before and 2 after. The upsampling inside TecoGAN's BD models, and so
    the bicubic baseline beside them.

    Args:
        lr: uint8 (h, w, 3).

    Returns:
        uint8 (4h, 4w, 3), rounded, then clipped.
    """
    return _upsample(lr, _UP["bicubic", "bd"], 1, 2, "replicate")


def bilinear_bd(lr: Pixels) -> Pixels:
    """Upsample a BD picture by 4, linear, phase-aligned: ``out[4i] = lr[i]``, replicate padding.

    uint8 (h, w, 3) -> uint8 (4h, 4w, 3).
    """
    return _upsample(lr, _UP["bilinear", "bd"], 0, 1, "replicate")


def bicubic_bi(lr: Pixels) -> Pixels:
    """Upsample a BI picture by 4 as MATLAB's ``imresize(., 4)``: cubic a = -0.5, half-pixel.

    That is the bicubic of published BI tables; OpenCV's ``INTER_CUBIC`` is not, it has a = -0.75.
    Symmetric padding. uint8 (h, w, 3) -> uint8 (4h, 4w, 3), rounded, then clipped.
    """
    return _upsample(lr, _UP["bicubic", "bi"], 2, 2, "symmetric")


def bilinear_bi(lr: Pixels) -> Pixels:
    """Upsample a BI picture by 4, linear, half-pixel (``align_corners=False``).

    uint8 (h, w, 3) -> uint8 (4h, 4w, 3).
    """
    return _upsample(lr, _UP["bilinear", "bi"], 1, 1, "symmetric")


def upsample_real(lr: Pixels, name: Interpolation, scale: int = SCALE) -> Pixels:
    """Upsample an ordinary picture, half-pixel, replicate padding.

    Args:
        lr: uint8 (h, w, 3).
        name: "bicubic" with a = -0.75, as of PyTorch and OpenCV; "bilinear"; or "lanczos" of three
            lobes.
        scale: 2 or 4.

    Returns:
        uint8 (scale * h, scale * w, 3), rounded, then clipped.
    """
    taps = _UP_REAL[name, scale]
    reach = taps.shape[1] // 2
    return _upsample(lr, taps, reach, reach, "replicate")


_BASELINES: dict[tuple[str, str], Callable[[Pixels], Pixels]] = {
    ("bicubic", "bd"): bicubic_bd,
    ("bilinear", "bd"): bilinear_bd,
    ("bicubic", "bi"): bicubic_bi,
    ("bilinear", "bi"): bilinear_bi,
}


def baseline(
    name: Interpolation, degradation: Degradation, scale: int = SCALE
) -> Callable[[Pixels], Pixels]:
    """The interpolation that fits a degradation: uint8 (h, w, 3) -> uint8 (s h, s w, 3).

    Args:
        name: ``bicubic`` or ``bilinear``; ``lanczos`` for "real" alone.
        degradation: how the picture was made small; it decides the phase.
        scale: s; 4 but for "real", which may be 2.
    """
    if degradation == "real":
        return partial(upsample_real, name=name, scale=scale)
    return _BASELINES[name, degradation]


# --- the two steps ---------------------------------------------------------------------------


def _along_both(picture: Pixels, rows: Callable[[Pixels | _Floats], _Floats]) -> _Floats:
    """Apply an operation on rows, (n, m) -> (n', m), along the height and then along the width."""
    height, width, channels = picture.shape
    x = rows(picture.reshape(height, width * channels))  # (n', W*3)
    n = x.shape[0]
    # The width becomes the row axis, so that both passes run along contiguous memory.
    x = x.reshape(n, width, channels).transpose(1, 0, 2).reshape(width, n * channels)
    x = rows(x)  # (m', n'*3)
    return x.reshape(x.shape[0], n, channels).transpose(1, 0, 2)


def _pad(x: Pixels | _Floats, before: int, after: int, border: _Border) -> _Floats:
    """Add rows and go to float64; ``symmetric`` repeats the border row, ``reflect`` does not."""
    import cv2

    mode = {
        "reflect": cv2.BORDER_REFLECT_101,
        "symmetric": cv2.BORDER_REFLECT,
        "replicate": cv2.BORDER_REPLICATE,
    }[border]
    return np.asarray(cv2.copyMakeBorder(x, before, after, 0, 0, mode), np.float64)


def _windows(x: _Floats, taps: int, step: int) -> _Floats:
    """Overlapping runs of rows, (n, m) -> (windows, taps, m), without copying."""
    runs = np.lib.stride_tricks.sliding_window_view(x, taps, axis=0)[::step]
    return runs.transpose(0, 2, 1)


def _decimate(x: _Floats, taps: _Floats) -> _Floats:
    """Weighted sums of every fourth run of rows: (4n + taps - 4 or more, m) -> (n, m)."""
    return taps @ _windows(x, len(taps), SCALE)


def _upsample(lr: Pixels, kernels: _Floats, before: int, after: int, border: _Border) -> Pixels:
    """As many outputs per input as ``kernels`` has rows, each with its own taps."""
    _check(lr)

    def rows(x: Pixels | _Floats) -> _Floats:
        windows = _windows(_pad(x, before, after, border), kernels.shape[1], 1)
        # (s, taps) @ (n, taps, m) -> (n, s, m): the phases of an input, in order
        return (kernels @ windows).reshape(-1, x.shape[1])

    return _round(_along_both(lr, rows))


def _round(x: _Floats) -> Pixels:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _check(picture: Pixels) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ClipError(
            f"a picture must be uint8 (height, width, 3), not {picture.dtype} {picture.shape}"
        )
    if 0 in picture.shape:
        raise ClipError(f"a picture of shape {picture.shape} has no pixels")


def _check_down(hr: Pixels, scale: int = SCALE) -> None:
    _check(hr)
    height, width = hr.shape[:2]
    if height % scale or width % scale or min(height, width) < 2 * scale:
        raise ClipError(
            f"a picture of {width}x{height} cannot be made {scale} times smaller: both sides must "
            f"be multiples of {scale}, at least {2 * scale}",
            hint="crop it first, with crop_to_multiple",
        )
