"""YUV4MPEG2, the stream that video tools pass through pipes.

8-bit 4:2:0, 4:2:2, 4:4:4 and mono, and their 10-bit forms. The format names the range but no
matrix, so both ends take the one that players guess from the size (see
:func:`teco.video.colour.guess_matrix`). It has one constant rate; timestamps are counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from teco.core.errors import TecoError
from teco.core.files import Output, check_target, write_errors
from teco.core.planes import Layout
from teco.video.colour import Colour, Converter, Siting, guess_matrix
from teco.video.deinterlace import Deinterlacer
from teco.video.frames import (
    Aborting,
    Closing,
    Frame,
    FrameSource,
    Media,
    Pixels,
    Span,
    check_pixels,
)
from teco.video.side_data import STEREO_IS_LOST

_FORMATS = {
    "420": "yuv420p",
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "422": "yuv422p",
    "444": "yuv444p",
    "mono": "gray",
    "420p10": "yuv420p10le",
    "422p10": "yuv422p10le",
    "444p10": "yuv444p10le",
    "mono10": "gray10le",
}
_TAGS = {
    "yuv420p": "420mpeg2",
    "yuv422p": "422",
    "yuv444p": "444",
    "yuv420p10le": "420p10",
    "yuv422p10le": "422p10",
    "yuv444p10le": "444p10",
}
_SITING: dict[str, Siting] = {"420": "center", "420jpeg": "center", "420paldv": "topleft"}
"""Kinds whose chroma is not left-sited. C420 alone is what MJPEG tools call 420jpeg; of PAL DV,
libav's reading. Those of 10 bits do not say, and are left-sited to players."""

_LONGEST_LINE = 1024


class Y4MSource(Closing):
    """A y4m stream; from a pipe it can be iterated once."""

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        span: Span | None = None,
        *,
        deep: bool = False,
        deinterlace: bool = True,
        planes: Layout | None = None,
    ) -> None:
        self._stream = stream
        self.name = name
        self.count: int | None = None
        self.media: Media | None = None
        self.pixel_aspect: Fraction | None = None
        self.notices: list[str] = []
        header = self._line()
        fields = header.decode("ascii", "replace").split()
        if not fields or fields[0] != "YUV4MPEG2":
            raise TecoError(
                f"{name} starts with {header[:24]!r}, expected a y4m stream (YUV4MPEG2)",
                hint="pipe it in like this: ffmpeg -i IN -f yuv4mpegpipe - | ...",
            )
        tag, colour_range, self.rate, fields_in = "420jpeg", "LIMITED", Fraction(25), "p"
        sizes = {"W": 0, "H": 0}
        try:
            for entry in fields[1:]:
                if entry[0] in sizes:
                    sizes[entry[0]] = int(entry[1:])
                elif entry[0] == "F":
                    top, bottom = entry[1:].split(":")
                    self.rate = Fraction(int(top), int(bottom)) if int(top) else Fraction(25)
                elif entry[0] == "A":
                    across, down = (int(x) for x in entry[1:].split(":"))
                    self.pixel_aspect = Fraction(across, down) if across and down else None
                elif entry[0] == "I":
                    fields_in = entry[1:]
                elif entry[0] == "C":
                    tag = entry[1:]
                elif entry.startswith("XCOLORRANGE="):
                    colour_range = entry.partition("=")[2].upper()
        except (ValueError, ZeroDivisionError) as error:
            raise TecoError(f"{name} has a y4m header that makes no sense: {header!r}") from error
        self.width, self.height = sizes["W"], sizes["H"]
        if not 0 < self.width <= 32768 or not 0 < self.height <= 32768:
            raise TecoError(f"{name} has a y4m header without a usable size: {header!r}")
        if tag not in _FORMATS:
            raise TecoError(
                f"{name} is y4m of kind C{tag}, expected one of {', '.join(_FORMATS)}",
                hint="add -pix_fmt yuv420p to the command that feeds the pipe",
            )
        self._format = _FORMATS[tag]
        self._planes: Layout | None = planes
        self.colour = Colour(
            guess_matrix(self.width, self.height), colour_range == "FULL", tagged=False
        )
        self._converter = Converter(self.colour, _SITING.get(tag, "left"))
        self.depth = 10 if "10" in self._format else 8
        self._deep = deep and self.depth > 8
        self._order = {"t": "tff", "b": "bff", "m": "tff"}.get(fields_in, "")
        if self._order and deinterlace:
            self.notices.append(
                "the picture is interlaced and is deinterlaced; --no-deinterlace leaves it"
            )
        elif self._order:
            self.notices.append("the picture is interlaced, and enlarged as it is")
            self._order = ""
        self._from, self._to = (span or Span()).frame_range(self.rate)

    def __iter__(self) -> Iterator[Frame]:
        frames = self._decoded()
        if self._order:
            frames = _taken_apart(frames, 1 / self.rate, self._order)
        for frame in frames:
            position = frame.pts or 0
            if position >= self._from:
                number = position - self._from  # a cut range begins at zero
                packed = None
                if self._planes is not None:
                    packed = self._converter.to_planes(frame, self._planes)
                layout = None if packed is None else self._planes
                pixels: Pixels = (
                    self._converter.to_rgb(frame, deep=self._deep) if packed is None else packed
                )
                yield Frame(pixels, number, number, 1 / self.rate, 1, layout=layout)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        wide = 2 if "10le" in self._format else 1
        position = 0
        while self._to is None or position < self._to:
            line = self._line()
            if not line:
                break
            if not line.startswith(b"FRAME"):
                raise TecoError(f"{self.name} has {line[:24]!r} where frame {position} should be")
            # A new one each time: a filter may hold the last ones.
            frame = av.VideoFrame(self.width, self.height, self._format)
            frame.pts = position
            for plane in frame.planes:
                data = self._exactly(plane.width * plane.height * wide, position)
                rows = _rows(plane)
                rows[:, : plane.width * wide] = np.frombuffer(data, np.uint8).reshape(
                    plane.height, -1
                )
            yield frame
            position += 1
        if position <= self._from:
            raise TecoError(
                f"{self.name} has {position} frames, and the range starts at frame {self._from}",
                hint="give an earlier start" if position else "nothing came after the header",
            )

    def close(self) -> None:
        """Close a file; a pipe is the caller's, and a thread may be waiting in it."""
        if self.name != "-":
            self._stream.close()

    def _line(self) -> bytes:
        line = self._stream.readline(_LONGEST_LINE)
        if line and not line.endswith(b"\n"):
            raise TecoError(
                f"{self.name} is not a y4m stream: no line ends within {len(line)} bytes",
                hint="pipe it in like this: ffmpeg -i IN -f yuv4mpegpipe - | ...",
            )
        return line.rstrip(b"\n")

    def _exactly(self, size: int, position: int) -> bytes:
        # Pipes may give less than was asked for.
        data = bytearray()
        while len(data) < size:
            piece = self._stream.read(size - len(data))
            if not piece:
                raise TecoError(
                    f"{self.name} ends early, within frame {position}",
                    hint="the command that feeds the pipe stopped; see what it said",
                )
            data += piece
        return bytes(data)


def _taken_apart(
    frames: Iterator[av.VideoFrame], time_base: Fraction, order: str
) -> Iterator[av.VideoFrame]:
    filtered = Deinterlacer(time_base, every=order)
    for frame in frames:
        yield from filtered.push(frame)
    yield from filtered.drain()


class Y4MSink(Aborting):
    """y4m to a file, written under a temporary name, or to an open stream such as stdout.

    The format has one constant rate and no timestamps: where the source's rate varies, a frame is
    repeated for as long as it is shown.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        name: str,
        source: FrameSource,
        width: int,
        height: int,
        *,
        pix_fmt: str = "yuv420p",
        rate: Fraction | None = None,
        overwrite: bool = False,
        square: bool = False,
    ) -> None:
        self.name = name
        self._size = (width, height)
        self.notices: list[str] = []
        if pix_fmt not in _TAGS:
            raise TecoError(
                f"y4m cannot hold {pix_fmt}, expected one of {', '.join(_TAGS)}", exit_code=2
            )
        self._pix_fmt = pix_fmt
        if source.media is not None and source.media.other_streams:
            self.notices.append("y4m holds no sound or subtitles; only pictures are written")
        if source.media is not None and source.media.stereo is not None:
            self.notices.append(STEREO_IS_LOST)
        colour = y4m_colour(source.colour, width, height)
        full = colour.full_range
        self._converter = Converter(colour)
        self._output: Output | None = None
        if isinstance(target, Path):
            origin = Path(source.name) if source.name != "-" else None
            check_target(target, overwrite=overwrite, source=origin)
            self._output = Output(target)
            with write_errors(name):
                self._stream: BinaryIO = self._output.part.open("wb")
        else:
            self._stream = target
        fastest = source.media.fastest_rate if source.media is not None else None
        self._counted = rate is not None
        rate = rate or fastest or source.rate or Fraction(25)
        self._rate = rate
        self._first: Fraction | None = None
        self._last: bytes = b""
        self._end = Fraction(0)
        self._written = self._repeated = 0
        # 0:0 is unknown.
        shape = Fraction(1) if square else source.pixel_aspect
        aspect = "0:0" if shape is None else f"{shape.numerator}:{shape.denominator}"
        header = (
            f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A{aspect} "
            f"C{_TAGS[pix_fmt]} XCOLORRANGE={'FULL' if full else 'LIMITED'}\n"
        )
        self._put(header.encode())

    def write(self, frame: Frame) -> None:
        """Add one frame: uint8 (height, width, 3) RGB."""
        check_pixels(frame, *self._size, self.name)
        moment = frame.pts * frame.time_base
        if self._first is None:
            self._first = moment
        place = round((moment - self._first) * self._rate)
        self._repeat_until(place)
        if place < self._written and not self._counted and self._written:
            return  # two frames in the time of one: the first stays
        coded = self._converter.frame_of(frame.pixels, frame.layout, self._pix_fmt)
        wide = 2 if "10le" in self._pix_fmt else 1
        data = b"".join(_rows(p)[:, : p.width * wide].tobytes() for p in coded.planes)
        self._last = b"FRAME\n" + data
        self._put(self._last)
        self._written += 1
        length = (frame.duration or 0) * frame.time_base
        self._end = moment - self._first + length

    def _repeat_until(self, place: int) -> None:
        """Show the last frame until it is the turn of number ``place``."""
        if self._counted:
            return
        while self._last and self._written < place:
            self._put(self._last)
            self._written += 1
            self._repeated += 1

    def commit(self) -> None:
        """Flush; give a file its name."""
        self._repeat_until(round(self._end * self._rate))
        if self._repeated:
            self.notices.append(
                f"the clip's rate varies and y4m's does not: {self._repeated} frames were repeated "
                f"to fill {float(self._rate):g} a second"
            )
        with write_errors(self.name):
            self._stream.flush()
            if self._output is not None:
                self._stream.close()
                self._output.commit()

    def abort(self) -> None:
        """Remove the temporary file, unless committed. What went down a pipe is gone."""
        if self._output is not None:
            with contextlib.suppress(OSError):  # on a full disk; the file goes anyway
                self._stream.close()
            self._output.abort()

    def _put(self, data: bytes) -> None:
        try:
            with write_errors(self.name):
                self._stream.write(data)
        except TecoError:
            if self._output is None:
                _let_go(self._stream)
            raise


def y4m_colour(colour: Colour, width: int, height: int) -> Colour:
    """What a clip's colour becomes in y4m, which names the range and no matrix."""
    full = colour.full_range and colour.matrix != "rgb"
    return replace(colour, matrix=guess_matrix(width, height), full_range=full)


def _rows(plane: Any) -> Pixels:
    """A plane's own memory as uint8 (height, bytes a line); lines end in padding."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def _let_go(stream: BinaryIO) -> None:
    """Keep the interpreter from failing once more when it flushes a closed stdout at exit."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError):
        return
    if descriptor == 1:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
