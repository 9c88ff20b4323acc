"""What a codec does: whole frames through an encoder and back, as a player would see them.

Blocks, ringing and motion compensation belong to frames, not to crops, so crops are taken
afterwards. Encoders are those of the FFmpeg in PyAV; what an FFmpeg lacks is named, not replaced.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError

Pixels = npt.NDArray[np.uint8]

FRAME_RATE = 25


@dataclass(frozen=True, kw_only=True)
class Codec:
    """An encoder and how its quality is said.

    Attributes:
        name: as users type it.
        encoder: FFmpeg's name.
        quality: option that takes the quality: "crf", or "qscale" for a fixed quantiser.
        best, worst: ends of its scale.
        options: others that are always given.
        presets: values of "preset" from fast to slow that are in use; the first is the default.
        least: shortest side that the encoder is sound for; smaller frames are continued to it.
    """

    name: str
    encoder: str
    quality: str
    best: int
    worst: int
    options: tuple[tuple[str, str], ...] = ()
    presets: tuple[str, ...] = ()
    least: int = 2


CODECS: tuple[Codec, ...] = (
    Codec(
        name="x264", encoder="libx264", quality="crf", best=0, worst=51,
        presets=("medium", "ultrafast", "veryfast", "fast"),
    ),
    Codec(
        name="x265", encoder="libx265", quality="crf", best=0, worst=51,
        options=(("x265-params", "log-level=none:pools=none:frame-threads=1"),),
        presets=("medium", "ultrafast", "veryfast", "fast"), least=72,
    ),
    Codec(
        name="vp9", encoder="libvpx-vp9", quality="crf", best=0, worst=63,
        options=(("b", "0"), ("deadline", "realtime"), ("cpu-used", "6")),
    ),
    Codec(
        name="svtav1", encoder="libsvtav1", quality="crf", best=1, worst=63,
        options=(("svtav1-params", "lp=1"),), presets=("8", "9", "10"),
    ),
    Codec(name="mpeg2", encoder="mpeg2video", quality="qscale", best=1, worst=31),
    Codec(name="mpeg4", encoder="mpeg4", quality="qscale", best=1, worst=31),
)  # fmt: skip


def find(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ClipError: there is none (exit code 2).
    """
    for codec in CODECS:
        if codec.name == name:
            return codec
    raise ClipError(
        f"no codec is called {name!r}",
        hint=f"codecs: {', '.join(c.name for c in CODECS)}, or none",
        exit_code=2,
    )


def parse(text: str) -> tuple[str, int]:
    """``"x264:23"`` -> a codec's name and a quality on its scale.

    Raises:
        ClipError: it is nothing of that form, no codec is called so, or the quality is off its
            scale (exit code 2); this FFmpeg lacks the encoder (exit code 3).
    """
    name, _, quality = text.partition(":")
    codec = find(name)
    if not quality.isdecimal() or not codec.best <= int(quality) <= codec.worst:
        raise ClipError(
            f"{text!r} has no quality of {name}, which goes from {codec.best} (best) to "
            f"{codec.worst}",
            hint=f"for example {name}:{(codec.best + codec.worst) // 2}",
            exit_code=2,
        )
    if reason := why_unavailable(codec):
        raise ClipError(reason, hint="choose another codec, or none", exit_code=3)
    return name, int(quality)


def why_unavailable(codec: Codec) -> str | None:
    """None where this FFmpeg can encode it, else one sentence."""
    import av
    from av.codec import Codec as Encoder

    try:
        Encoder(codec.encoder, "w")
    except ValueError:  # UnknownCodecError is one
        return f"the FFmpeg in PyAV {av.__version__} has no encoder {codec.encoder} ({codec.name})"
    return None


def through(frames: Pixels, name: str, quality: int, *, preset: str = "") -> Pixels:
    """Frames as they come back from a codec, in 4:2:0.

    Args:
        frames: (T, H, W, 3) uint8 RGB; H and W even, T at least 1.
        name: of a codec.
        quality: on the codec's own scale, see :data:`CODECS`; smaller is better.
        preset: of the encoder; "" for the default.

    Returns:
        (T, H, W, 3) uint8 RGB, frame for frame.

    Raises:
        ClipError: no such codec, a quality off its scale, odd sizes (exit code 2); an encoder that
            this FFmpeg lacks (exit code 3); an encoder that fails.
    """
    from av.error import FFmpegError

    codec = find(name)
    if reason := why_unavailable(codec):
        raise ClipError(reason, hint="choose another codec", exit_code=3)
    if not codec.best <= quality <= codec.worst:
        raise ClipError(
            f"{name} has qualities from {codec.best} (best) to {codec.worst}, got {quality}",
            exit_code=2,
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ClipError(f"4:2:0 wants even sizes, got {width}x{height}", exit_code=2)
    frames = _continued(frames, codec.least)
    # In a thread of its own: SVT-AV1 makes the thread that calls it a real-time one.
    try:
        with ThreadPoolExecutor(max_workers=1) as alone:
            decoded = alone.submit(_there_and_back, frames, codec, quality, preset).result()
    except FFmpegError as error:
        raise ClipError(f"{codec.encoder} failed at quality {quality}: {error}") from error
    if len(decoded) != len(frames):
        raise ClipError(f"{codec.encoder} gave {len(decoded)} of {len(frames)} frames back")
    return np.ascontiguousarray(np.stack(decoded)[:, :height, :width])


def _continued(frames: Pixels, least: int) -> Pixels:
    """Frames of at least that many pixels each way, continued at the right and bottom.

    libx265 (FFmpeg 8.1.2 in PyAV) encodes frames of up to 64 pixels, its coding tree unit, from
    memory that it did not set: one in four of 32x32 came out otherwise when repeated, and 40x40
    and 48x48 broke the heap. From 66 pixels on 700 of 700 were the same, at eight sizes.
    """
    height, width = frames.shape[1:3]
    more = [(0, max(0, least - side)) for side in (height, width)]
    return (
        np.pad(frames, ((0, 0), *more, (0, 0)), mode="edge") if any(b for _, b in more) else frames
    )


def chroma_halved(frames: Pixels) -> Pixels:
    """(T, H, W, 3) uint8 RGB in 4:2:0 and back, without a codec."""
    return np.stack(
        [_frame(f).reformat(format="yuv420p").to_ndarray(format="rgb24") for f in frames]
    )


_AVX512F = 13
"""OpenCV's number of the feature."""


def _repeatable(codec: Codec) -> dict[str, str]:
    """What makes an encoder's output a function of its input.

    With AVX-512 x264's macroblock tree depends on what lay in memory before it (FFmpeg 8.1.2's
    libx264 on Zen 5: after an encoding by x265 one in ten to twenty differed, some had lost their
    colour); with AVX2, or without the tree, 200 of 200 were the same.
    """
    import cv2

    if codec.encoder == "libx264" and cv2.checkHardwareSupport(_AVX512F):
        return {"x264-params": "asm=AVX2"}
    return {}


def _there_and_back(frames: Pixels, codec: Codec, quality: int, preset: str) -> list[Pixels]:
    import av

    buffer = io.BytesIO()
    _encode(buffer, frames, codec, quality, preset)
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [_pixels(f) for f in container.decode(video=0)]


def _encode(buffer: io.BytesIO, frames: Pixels, codec: Codec, quality: int, preset: str) -> None:
    import av

    if codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors alone, else it writes to stderr by itself
    options = dict(codec.options) | _repeatable(codec)
    if codec.quality == "crf":
        options["crf"] = str(quality)
    if preset or codec.presets:
        options["preset"] = preset or codec.presets[0]
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream(codec.encoder, rate=FRAME_RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if codec.quality == "qscale":
            stream.codec_context.qmin = stream.codec_context.qmax = quality
        for frame in frames:
            container.mux(stream.encode(_frame(frame).reformat(format="yuv420p")))
        container.mux(stream.encode())


def _frame(pixels: Pixels) -> Any:
    import av

    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")


def _pixels(frame: Any) -> Pixels:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
