"""Frames in and out: video files, pictures and folders of them, y4m pipes.

    with open_source("in.mp4") as source, open_sink(
        "out.mp4", source=source, width=source.width * 4, height=source.height * 4
    ) as sink:
        for frame in source:
            sink.write(frame.with_pixels(enlarge(frame.pixels)))
        sink.commit()

Timestamps, sound, subtitles, chapters and colour come out as they went in.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

from teco.core.errors import TecoError
from teco.core.planes import Layout
from teco.video.colour import OF_PLANES, Colour, output_colour
from teco.video.file.encoders import USUAL, EncoderSettings
from teco.video.file.sink import CONTAINERS, VideoSink
from teco.video.file.source import VideoSource
from teco.video.frames import Frame, FrameSink, FrameSource, Media, Span
from teco.video.image_folder import (
    DEEP_SUFFIXES,
    PICTURE_SUFFIXES,
    ImageFolderSink,
    ImageFolderSource,
    PictureSink,
)
from teco.video.y4m import Y4MSink, Y4MSource, y4m_colour

__all__ = [
    "OUTPUT_SUFFIXES",
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Colour",
    "Frame",
    "FrameSink",
    "FrameSource",
    "Media",
    "open_sink",
    "open_source",
]

OUTPUT_SUFFIXES = frozenset({*CONTAINERS, ".y4m"})
"""What a video file may be written as."""

VIDEO_SUFFIXES = OUTPUT_SUFFIXES | {
    ".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".wmv",
}  # fmt: skip
"""What is taken for a video when a folder is searched; open_source looks at the content."""


def open_source(
    path: str | Path,
    *,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    rate: Fraction | float | None = None,
    threads: int = 0,
    deep: bool = False,
    deinterlace: bool = True,
    planes: Layout | None = None,
    forgiving: bool = False,
) -> FrameSource:
    """Open a video file, a picture, a folder of pictures, or "-" for y4m on standard input.

    Args:
        path: what to read.
        start, end: seconds from the clip's beginning; end is exclusive.
        max_frames: stop after so many frames of the range.
        rate: frames a second of a picture folder, 25 if not given; videos know their own, and
            for them it is refused.
        threads: decoder threads, 0 for one per core.
        deep: give uint16 where the clip has more than 8 bits.
        deinterlace: make progressive frames of interlaced ones.
        planes: give the decoder's own planes in this layout where it has such, see
            :attr:`teco.video.frames.Frame.layout`; RGB else.
        forgiving: of a video file that is cut short, take what there is; scale a picture that
            changes size in the middle; note both. Else they are errors.

    Returns:
        A source whose frames are uint8 or uint16 (H, W, 3) RGB, upright, with index from 0.

    Raises:
        TecoError: nothing there, nothing readable in it, or no frame in the range. While
            iterating: the clip ends early, changes its size, or mixes sizes.
    """
    span = Span.of(start, end, max_frames)
    if str(path) == "-":
        return Y4MSource(
            sys.stdin.buffer, "-", span, deep=deep, deinterlace=deinterlace, planes=planes
        )
    path = Path(path)
    if path.is_dir() or (path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()):
        return ImageFolderSource(path, span, rate=_rate(rate), deep=deep)
    if rate is not None:
        raise TecoError(
            f"{path} is no folder of images, and --rate gives those their rate; a video has its "
            "own clock",
            hint=f"leave --rate out, or set the clock first: ffmpeg -r {float(rate):g} -i {path} "
            "-c copy clocked.mkv",
            exit_code=2,
        )
    if path.is_fifo():
        raise TecoError(
            f"{path} is a named pipe, and a video file is read twice",
            hint=f"save it as a file first, or decode it: ffmpeg -i {path} -f yuv4mpegpipe - | "
            "teco upscale - OUT",
            exit_code=2,
        )
    if path.suffix.lower() == ".y4m" and path.is_file():
        stream = path.open("rb")
        try:
            return Y4MSource(
                stream, str(path), span, deep=deep, deinterlace=deinterlace, planes=planes
            )
        except BaseException:
            stream.close()
            raise
    return VideoSource(
        path, span, threads=threads, deep=deep, deinterlace=deinterlace, planes=planes,
        forgiving=forgiving,
    )  # fmt: skip


def open_sink(
    path: str | Path,
    *,
    source: FrameSource,
    width: int,
    height: int,
    encoder: EncoderSettings = USUAL,
    overwrite: bool = False,
    rate: Fraction | float | None = None,
    planes: Layout | None = None,
    square: bool = False,
) -> FrameSink:
    """Open an output for the frames of ``source``, enlarged to ``width`` x ``height``.

    A known suffix makes a video file or, of one frame, a picture; no suffix or a trailing slash a
    folder of PNGs; "-" y4m on standard output. Nothing has the final name before commit.

    Args:
        path: what to write.
        source: where the frames come from; gives colour, timestamps, and the sound to copy.
        width, height: of the frames to come.
        encoder: which one, how good and how fast; y4m heeds its pixel format alone.
        overwrite: replace an existing output.
        planes: frames come as packed pictures of this layout, see
            :attr:`teco.video.frames.Frame.layout`.
        square: the pixels of the frames to come are square, whatever the source's are.
        rate: a constant rate instead of the source's timestamps; copied sound is not stretched.

    Raises:
        TecoError: before anything is decoded if the output cannot be made; later if the disk
            fills up.
    """
    text = str(path)
    if planes is not None:
        _check_planes(text, encoder.pix_fmt, planes, encoder.codec)
    if text == "-":
        return Y4MSink(
            sys.stdout.buffer,
            "-",
            source,
            width,
            height,
            pix_fmt=encoder.pix_fmt,
            rate=_rate(rate),
            square=square,
        )
    path = Path(path)
    suffix = path.suffix.lower()
    if is_folder_target(text):
        return ImageFolderSink(path, source, width, height, overwrite=overwrite)
    if suffix in PICTURE_SUFFIXES:
        return PictureSink(path, source, width, height, overwrite=overwrite)
    if suffix == ".y4m":
        return Y4MSink(
            path, text, source, width, height,
            pix_fmt=encoder.pix_fmt, rate=_rate(rate), overwrite=overwrite, square=square,
        )  # fmt: skip
    if suffix not in CONTAINERS:
        raise TecoError(
            f"the output {path} ends in {suffix}, expected one of "
            + ", ".join(sorted(OUTPUT_SUFFIXES)),
            hint="or give a name without a suffix for a folder of PNGs, - for y4m on stdout, or of "
            f"a single picture {', '.join(sorted(PICTURE_SUFFIXES))}",
            exit_code=2,
        )
    return VideoSink(
        path,
        source,
        width,
        height,
        encoder=encoder,
        overwrite=overwrite,
        rate=_rate(rate),
        planes=planes,
        square=square,
    )


def holds_16_bits(path: str | Path) -> bool:
    """Whether an output of this name is pictures that hold more than 8 bits."""
    return is_folder_target(path) or Path(path).suffix.lower() in DEEP_SUFFIXES


def _check_planes(path: str, pix_fmt: str, planes: Layout, codec: str | None) -> None:
    """Raise TecoError for an output that 8-bit planes cannot be written to as they are."""
    if is_folder_target(path) or Path(path).suffix.lower() in PICTURE_SUFFIXES:
        what = f"{path} is a folder of PNGs or a picture, which are RGB"
    elif codec in ("mjpeg", "jpegls"):
        what = f"--codec {codec} wants colours sited as JPEG has them"
    elif pix_fmt not in OF_PLANES:
        what = f"--pix-fmt {pix_fmt} is not 8-bit 4:2:0"
    else:
        return
    raise TecoError(
        f"{what}, and the model gives {planes} planes",
        hint="write a video with --pix-fmt yuv420p, or take a model with RGB ports "
        "(teco export --io uint8, or fp32 for more than 8 bits)",
        exit_code=2,
    )


def written_colour(
    path: str | Path, source: FrameSource, encoder: EncoderSettings, width: int, height: int
) -> Colour:
    """In what colour :func:`open_sink` writes a clip as Y'CbCr."""
    if str(path) == "-" or Path(path).suffix.lower() == ".y4m":
        return y4m_colour(source.colour, width, height)
    return output_colour(source.colour, encoder.pix_fmt, width, height)


def is_folder_target(path: str | Path) -> bool:
    """Whether an output of this name is a folder of PNGs."""
    return str(path) != "-" and (str(path).endswith("/") or not Path(path).suffix)


def _rate(rate: Fraction | float | None) -> Fraction | None:
    if rate is None:
        return None
    if not 0 < rate < 1001:
        raise TecoError(f"the rate is {rate}, expected frames a second above 0", exit_code=2)
    # 29.97 and 23.976 are shorthands for n/1001.
    exact = Fraction(rate).limit_denominator(1001)
    ntsc = Fraction(round(rate * 1.001) * 1000, 1001)
    return ntsc if abs(exact - ntsc) < Fraction(1, 200) and exact.denominator != 1 else exact
