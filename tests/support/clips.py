"""Small clips made for tests, and the way through both ends of :mod:`teco.video.clips`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from teco.video.clips import FrameSink, FrameSource, open_sink, open_source
from teco.video.colour import Colour, Converter
from teco.video.file.encoders import EncoderSettings
from teco.video.frames import Frame

LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
TAGS = {"bt601": 6, "bt709": 1}


def moving(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures that differ and compress well."""
    y, x = np.mgrid[:height, :width]
    planes = [np.stack([x * 3 + 5 * n, y * 4, (x + y) * 2 - 3 * n], -1) for n in range(count)]
    return [(128 + 100 * np.sin(p / 30)).astype(np.uint8) for p in planes]


def make(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Iterable[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: bool = False,
    rotation: int = 0,
    chapters: bool = False,
    colour: Colour | None = None,
) -> Path:
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        video = out.add_stream(
            codec, rate=25, options={"crf": "12"} if options is None else options
        )
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = time_base
        video.time_base = time_base
        if colour is not None:
            video.codec_context.colorspace = TAGS[colour.matrix]
            video.codec_context.color_range = 2 if colour.full_range else 1
        if rotation:
            video.set_display_rotation(rotation)
        out.metadata["title"] = "a title"
        voice = out.add_stream("aac", rate=48_000, layout="mono") if sound else None
        if voice is not None:
            voice.metadata["language"] = "eng"
        if chapters:
            out.set_chapters(
                [{"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000),
                  "metadata": {"title": "one"}}]
            )  # fmt: skip
        converter = Converter(colour or Colour("bt601", False))
        for n, (picture, moment) in enumerate(zip(frames, pts or range(len(frames)), strict=True)):
            if picture.shape[2] == 4:
                frame = av.VideoFrame.from_ndarray(picture, "rgba")
            else:
                frame = converter.from_rgb(picture, pix_fmt)
            frame.pts, frame.time_base = moment, time_base
            out.mux(video.encode(frame))
            if voice is not None and n == 0:
                t = np.arange(int(48_000 * len(frames) / 25))
                samples = (0.2 * np.sin(t / 20)).astype(np.float32)[None]
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                piece.sample_rate, piece.pts = 48_000, 0
                out.mux(voice.encode(piece))
        out.mux(video.encode(None))
        if voice is not None:
            out.mux(voice.encode(None))
    return path


def enlarged(pixels: np.ndarray, times: int = 4) -> np.ndarray:
    return np.ascontiguousarray(pixels.repeat(times, 0).repeat(times, 1))


def sink_for(path: Path | str, source: FrameSource, **options) -> FrameSink:
    """Options: those of the encoder by their own names, and those of open_sink."""
    names = {f.name for f in fields(EncoderSettings)}
    encoder = {"preset": "ultrafast", **{k: v for k, v in options.items() if k in names}}
    return open_sink(
        path, source=source, width=source.width * 4, height=source.height * 4,
        encoder=EncoderSettings(**encoder),
        **{k: v for k, v in options.items() if k not in names},
    )  # fmt: skip


def enlarge(into: Path, out: Path, *, span: dict | None = None, **options) -> list[str]:
    """The whole way; returns the notices of both ends."""
    with open_source(into, **(span or {})) as source, sink_for(out, source, **options) as sink:
        for frame in source:
            sink.write(frame.with_pixels(enlarged(frame.pixels)))
        sink.commit()
        return source.notices + sink.notices


def read(path: Path, **span) -> list[Frame]:
    with open_source(path, **span) as source:
        return list(source)


def packets(path: Path, kind: str) -> list[tuple]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [
            (bytes(p), p.pts * p.time_base, p.dts * p.time_base)
            for p in container.demux(stream)
            if p.size
        ]


def moments(path: Path) -> list[Fraction]:
    return [f.pts * f.time_base for f in read(path)]
