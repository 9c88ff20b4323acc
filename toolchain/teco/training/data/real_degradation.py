"""What happens to a clip on its way to whoever wants it enlarged, at random.

In this order: shrinking about pixel centres (LR pixel i covers truth pixels 4i to 4i + 3), by
swscale as ffmpeg does it or by an anisotropic Gaussian; mild sharpening; the noise of a sensor;
4:2:0 and a codec over whole frames, none, once or twice. Crops are taken afterwards, so that they
see the codec as real clips do: blocks anywhere, and prediction from outside the crop.

The shares and ranges are a judgement of what is met, not measured; the networks that were trained
with them are measured (their cards say on what).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco_calibration import codec
from teco_models.variant import SCALE

_Pixels = NDArray[np.uint8]

SHRINKS = {"area": 0.30, "lanczos": 0.28, "bicubic": 0.24, "gaussian": 0.18}
"""Way of shrinking -> its share."""

GAUSSIAN_SIGMA = (0.9, 2.2)
"""Standard deviations of the Gaussian along its two axes, truth pixels; a box of 4 has 1.15."""

_GAUSSIAN_TAPS = 14
"""Along each axis; even, so that its centre falls between the pixels of a block."""

SHARPENED, NOISY = 0.15, 0.30
"""Shares of clips."""

NOISE = (0.5, 5.0)
"""Standard deviation in grey levels, drawn evenly in its logarithm."""

UNCODED, CODED_TWICE = 0.09, 0.07
"""Shares of clips that no codec has seen (half of them still in 4:2:0), and that two have."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often a codec is met, and at which qualities of its own scale.

    Attributes:
        share: of the encodings.
        best, worst: quality, drawn evenly.
        presets: drawn evenly; () for the codec's default.
    """

    share: float
    best: int
    worst: int
    presets: tuple[str, ...] = ()


RATES = {
    "x264": Rates(
        share=0.62, best=15, worst=30, presets=("ultrafast", "veryfast", "fast", "medium")
    ),
    "x265": Rates(share=0.11, best=17, worst=32, presets=("ultrafast", "veryfast", "fast")),
    "mpeg2": Rates(share=0.05, best=2, worst=7),
    "mpeg4": Rates(share=0.08, best=2, worst=8),
    "vp9": Rates(share=0.06, best=18, worst=43),
    "svtav1": Rates(share=0.08, best=22, worst=45, presets=("8", "9", "10")),
}
"""By the names of :data:`teco_calibration.codec.CODECS`."""


@cache
def available() -> tuple[str, ...]:
    """Codecs of :data:`RATES` that this FFmpeg can encode."""
    return tuple(n for n in RATES if codec.why_unavailable(codec.find(n)) is None)


def missing() -> list[str]:
    """One sentence for each codec that is left out for want of its encoder."""
    reasons = (codec.why_unavailable(codec.find(name)) for name in RATES)
    return [reason for reason in reasons if reason is not None]


def degrade(frames: _Pixels, rng: np.random.Generator, scale: int = SCALE) -> _Pixels:
    """(T, H, W, 3) truth -> (T, H/s, W/s, 3) of scale s, both uint8 RGB; H and W multiples of 2s.

    Args:
        frames: whole frames, not crops.
        rng: decides everything.
        scale: 2 or 4.
    """
    kind = str(rng.choice(list(SHRINKS), p=list(SHRINKS.values())))
    out = shrink(frames, kind, rng, scale)
    if rng.random() < SHARPENED:
        out = _sharpened(out, rng.uniform(0.15, 0.7), rng.uniform(0.6, 1.2))
    if rng.random() < NOISY:
        out = _noisy(out, float(np.exp(rng.uniform(*np.log(NOISE)))), rng)
    chance = rng.random()
    if chance < UNCODED:
        return codec.chroma_halved(out) if rng.random() < 0.5 else out
    for _ in range(2 if chance < UNCODED + CODED_TWICE else 1):
        out = _coded(out, rng)
    return out


def shrink(frames: _Pixels, kind: str, rng: np.random.Generator, scale: int = SCALE) -> _Pixels:
    """About pixel centres; ``kind`` of :data:`SHRINKS`, of which the Gaussian is drawn."""
    import cv2

    if kind == "gaussian":
        taps = _gaussian(rng, scale)
        middle = _GAUSSIAN_TAPS // 2 - 1
        # The kernel's anchor lies on the pixel: of scale 4, output at 4i + 1 is centred on
        # 4i + 1.5; of scale 2, that at 2i on 2i + 0.5.
        filtered: list[Any] = [
            cv2.filter2D(f, -1, taps, anchor=(middle, middle), borderType=cv2.BORDER_REFLECT_101)
            for f in frames
        ]
        first = scale // 2 - 1
        return np.stack([f[first::scale, first::scale] for f in filtered])
    height, width = (side // scale for side in frames.shape[1:3])
    return np.stack([_rescaled(f, width, height, kind.upper()) for f in frames])


def _rescaled(pixels: _Pixels, width: int, height: int, how: str) -> _Pixels:
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    small: Any = frame.reformat(width, height, "rgb24", interpolation=how)
    return small.to_ndarray()


def _gaussian(rng: np.random.Generator, scale: int) -> NDArray[np.float32]:
    """A random one, turned and stretched; sums to 1. Its widths are those of LR pixels."""
    sigma, angle = rng.uniform(*GAUSSIAN_SIGMA, 2) * scale / SCALE, rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.diag(sigma**2) @ turn.T)
    axis = np.arange(_GAUSSIAN_TAPS) - (_GAUSSIAN_TAPS - 1) / 2
    x, y = np.meshgrid(axis, axis)
    exponent = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    taps = np.exp(-0.5 * exponent)
    return (taps / taps.sum()).astype(np.float32)


def _sharpened(frames: _Pixels, amount: float, sigma: float) -> _Pixels:
    """An unsharp mask."""
    import cv2

    blurred: list[Any] = [cv2.GaussianBlur(f, (0, 0), sigma) for f in frames]
    sharper: list[Any] = [
        cv2.addWeighted(f, 1 + amount, b, -amount, 0) for f, b in zip(frames, blurred, strict=True)
    ]
    return np.stack(sharper)


def _noisy(frames: _Pixels, level: float, rng: np.random.Generator) -> _Pixels:
    """Gaussian noise whose variance is in part constant and in part grows with the light."""
    constant, colour = rng.uniform(0, 1), rng.uniform(0.1, 0.9)
    out = frames.astype(np.float32)
    deviation = level * np.sqrt(constant + (1 - constant) * out / 128)
    grey = rng.standard_normal((*out.shape[:3], 1), dtype=np.float32)
    each = rng.standard_normal(out.shape, dtype=np.float32)
    out += deviation * ((1 - colour) ** 0.5 * grey + colour**0.5 * each)
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)


def _coded(frames: _Pixels, rng: np.random.Generator) -> _Pixels:
    names = available()
    shares = np.array([RATES[n].share for n in names])
    name = str(rng.choice(names, p=shares / shares.sum()))
    rates = RATES[name]
    preset = str(rng.choice(rates.presets)) if rates.presets else ""
    quality = int(rng.integers(rates.best, rates.worst + 1))
    return codec.through(frames, name, quality, preset=preset)
