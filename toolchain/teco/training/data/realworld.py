"""Noise and compression of low-resolution training frames, for clips that are not clean.

A network trained on clean frames takes noise and coding artefacts for detail and sharpens them.
Here a share of the training sequences goes through what a camera and a codec do, in that order:
sensor noise, then JPEG (motion JPEG, one quality a sequence), then H.264. The rest stay clean, so
that clean input stays handled.

    noise=2,jpeg=40-90            text, as on a command line
    {noise = 2, jpeg = [40, 90]}  a TOML table

Whatever is drawn depends on (seed, index of the batch, number in the batch) alone. The codecs' grid
of blocks falls anywhere on a crop, as it does in clips, and H.264's group of pictures begins up to
a sequence's length before it: frames are mirrored in time in front, coded, and dropped.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.names import did_you_mean

_LIMITS = {"jpeg": (1, 100), "h264": (0, 51)}
_NOISE_LIMIT = 100.0
_STREAM = 0x7EA1
"""Keeps these random numbers apart from those that draw the crops."""

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class RealWorld:
    """What may happen to a sequence of LR frames; nothing by default.

    Attributes:
        noise: largest standard deviation of Gaussian noise, 8-bit grey levels; each sequence draws
            its own from 0 to this.
        shot: the same for noise whose variance grows with the signal, as photons make it: the
            standard deviation at white.
        jpeg: lowest and highest quality, 1 to 100; libjpeg's scale, chroma halved.
        h264: lowest and highest CRF of x264, 0 to 51; higher is worse.
        noise_chance: share of sequences that get noise, of either kind.
        jpeg_chance: share that goes through JPEG.
        h264_chance: share that goes through H.264.

    Raises:
        TecoError: a value is out of range.
    """

    noise: float = 0.0
    shot: float = 0.0
    jpeg: tuple[int, int] | None = None
    h264: tuple[int, int] | None = None
    noise_chance: float = 0.5
    jpeg_chance: float = 0.5
    h264_chance: float = 0.5

    def __post_init__(self) -> None:
        for name in ("noise", "shot"):
            value = getattr(self, name)
            if not 0 <= value <= _NOISE_LIMIT:
                raise _invalid(name, value, f"grey levels from 0 to {_NOISE_LIMIT:g}")
        for name, (low, high) in _LIMITS.items():
            span = getattr(self, name)
            if span is not None and not low <= span[0] <= span[1] <= high:
                raise _invalid(name, f"{span[0]}-{span[1]}", f"a range within {low}-{high}")
        for name in ("noise_chance", "jpeg_chance", "h264_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise _invalid(name, getattr(self, name), "a share from 0 to 1")

    @property
    def clean(self) -> bool:
        """Whether nothing is ever changed."""
        noisy = (self.noise or self.shot) and self.noise_chance
        coded = (self.jpeg and self.jpeg_chance) or (self.h264 and self.h264_chance)
        return not (noisy or coded)

    @classmethod
    def parse(cls, text: str) -> RealWorld:
        """From text such as ``noise=2,jpeg=40-90,jpeg_chance=0.3``; ``none`` changes nothing.

        Raises:
            TecoError: it is no such list, or an entry is unknown or out of range.
        """
        table: dict[str, object] = {}
        entries = [] if text.strip() in ("", "none") else text.split(",")
        for entry in entries:
            name, equals, value = (part.strip() for part in entry.partition("="))
            if not equals or not value:
                raise TecoError(
                    f"real-world degradation: {entry.strip()!r} is no entry",
                    hint="expected entries like noise=2,jpeg=40-90,h264=20-35",
                    exit_code=USAGE,
                )
            if name in table:
                raise TecoError(f"real-world degradation: {name} is twice", exit_code=USAGE)
            table[name] = value
        return cls.from_table(table)

    @classmethod
    def from_table(cls, table: Mapping[str, object]) -> RealWorld:
        """From names and values: numbers, pairs of whole numbers, or either as text.

        Raises:
            TecoError: an entry is unknown or out of range.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for given, value in table.items():
            name = given.replace("-", "_")
            if name not in known:
                raise TecoError(
                    f"real-world degradation has no {given!r}, known are {', '.join(known)}",
                    hint=did_you_mean(name, known).rstrip(),
                    exit_code=USAGE,
                )
            values[name] = _pair(name, value) if name in _LIMITS else _number(name, value)
        return cls(**values)

    def __str__(self) -> str:
        """The text that :meth:`parse` reads back."""
        said: list[str] = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value != f.default:
                said.append(f"{f.name}={'-'.join(map(str, value))}" if f.name in _LIMITS
                            else f"{f.name}={value!r}")  # fmt: skip
        return ",".join(said) or "none"


def _invalid(name: str, value: object, expected: str) -> TecoError:
    return TecoError(
        f"real-world degradation: {name} is {value}, expected {expected}", exit_code=USAGE
    )


def _number(name: str, value: object) -> float:
    """A finite number or the text of one; what is out of range fails in the class."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        return float(value)
    except ValueError:
        raise _invalid(name, repr(value), "a number") from None


def _pair(name: str, value: object) -> tuple[int, int]:
    """Two whole numbers from ``40-90``, ``40`` or [40, 90]."""
    parts: object = value
    if isinstance(value, str) and re.fullmatch(r"\d+(-\d+)?", value):
        parts = [int(part) for part in value.split("-")] * (1 if "-" in value else 2)
    elif isinstance(value, int) and not isinstance(value, bool):
        parts = [value, value]
    if not (
        isinstance(parts, list | tuple)
        and len(parts) == 2
        and all(isinstance(p, int) and not isinstance(p, bool) for p in parts)
    ):
        low, high = _LIMITS[name]
        raise _invalid(name, repr(value), f"a range such as {low}-{high}")
    return parts[0], parts[1]


def corrupt(lr: Tensor, options: RealWorld | None, seed: int, index: int, first: int = 0) -> Tensor:
    """Apply noise and compression to the sequences of a batch, each by its own draw.

    Args:
        lr: (B, T, 3, h, w), RGB in [0, 1].
        options: what may happen; None or a clean one gives back ``lr`` itself.
        seed, index: of the run and of the batch.
        first: number in the whole batch of the first sequence here, so that parts of a batch come
            out as they would in the whole.

    Returns:
        (B, T, 3, h, w) of the same type and device, in [0, 1]. Sequences that nothing happens to
        are the same bit for bit; compressed ones are multiples of 1/255.

    Raises:
        TecoError: FFmpeg was built without x264.
    """
    if options is None or options.clean:
        return lr
    out = lr.clone()
    for item in range(len(lr)):
        rng = np.random.default_rng((seed, index, first + item, _STREAM))
        # (T, 3, h, w) -> (T, h, w, 3)
        frames = lr[item].detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
        changed = _corrupt_sequence(frames, options, rng)
        if changed is not None:
            out[item] = torch.from_numpy(changed).permute(0, 3, 1, 2).to(lr)
    return out


def _corrupt_sequence(
    frames: NDArray[np.float32], options: RealWorld, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """(T, h, w, 3) in [0, 1], or None where nothing happens."""
    # All is drawn whether used or not: the noise of a sequence does not depend on what follows it.
    noisy, jpeg, h264 = rng.random(3) < (
        options.noise_chance, options.jpeg_chance, options.h264_chance
    )  # fmt: skip
    sigma, shot = rng.uniform(0, (options.noise, options.shot)) / 255
    quality = int(rng.integers(*_inclusive(options.jpeg)))
    crf = int(rng.integers(*_inclusive(options.h264)))
    changed: NDArray[np.float32] | None = None
    if noisy and (sigma or shot):
        variance = sigma**2 + shot**2 * np.clip(frames, 0, 1)
        noise = rng.standard_normal(frames.shape, np.float32) * np.sqrt(variance)
        changed = np.clip(frames + noise, 0, 1).astype(np.float32)
    for coder, chosen, strength, block in (
        (_jpeg, jpeg and options.jpeg is not None, quality, 8),
        (_h264, h264 and options.h264 is not None, crf, 16),
    ):
        if chosen:
            pixels = _eight_bit(frames if changed is None else changed)
            coded = _coded(pixels, coder, strength, block, rng)
            changed = coded.astype(np.float32) / np.float32(255)
    return changed


def _inclusive(span: tuple[int, int] | None) -> tuple[int, int]:
    return (span[0], span[1] + 1) if span else (0, 1)


def _eight_bit(frames: NDArray[np.float32]) -> _Pixels:
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def _coded(
    frames: _Pixels, coder: Any, strength: int, block: int, rng: np.random.Generator
) -> _Pixels:
    """Code (T, h, w, 3) with the grid of blocks at a random place, and up to T - 1 frames before.

    Frames are widened by repeating their borders: at the top and left by up to a block, at the
    bottom and right to an even size, which halved chroma needs.
    """
    t, h, w = frames.shape[:3]
    top, left = (int(n) for n in rng.integers(0, block, 2))
    before = int(rng.integers(0, t)) if coder is _h264 else 0
    order = [*range(before, 0, -1), *range(t)]
    edges = ((0, 0), (top, (top + h) % 2), (left, (left + w) % 2), (0, 0))
    wide = np.pad(frames[order], edges, mode="edge")
    return coder(wide, strength)[before:, top : top + h, left : left + w]


def _jpeg(frames: _Pixels, quality: int) -> _Pixels:
    """(T, H, W, 3) RGB coded as JPEG, one by one, and decoded."""
    import cv2

    out = np.empty_like(frames)
    for n, frame in enumerate(frames):
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        # Any: the stubs allow for a picture that cannot be decoded; it was coded the line before.
        decoded: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        out[n] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return out


def _h264(frames: _Pixels, crf: int) -> _Pixels:
    """(T, H, W, 3) RGB, H and W even, coded by x264 at a CRF as 4:2:0, and decoded."""
    import av

    try:
        encoder: Any = av.CodecContext.create("libx264", "w")
    except ValueError as error:  # av's UnknownCodecError
        raise TecoError(
            "real-world degradation by h264 needs FFmpeg with libx264, which this av lacks",
            hint="pip install --force-reinstall av, or leave h264 out",
            exit_code=MACHINE,
        ) from error
    decoder: Any = av.CodecContext.create("h264", "r")
    encoder.thread_count = decoder.thread_count = 1
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    # x264's macroblock tree reads memory it never wrote when frames are a few blocks small: about
    # one sequence in forty came out differently each time. Without it none of 1,500 did.
    encoder.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    packets: list[Any] = []
    for n, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts = n
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
