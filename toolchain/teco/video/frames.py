"""What a clip is made of: the frame, and the two ends it travels between.

Kept apart from :mod:`teco.video.clips` so that each kind of clip can be a file of its own;
import these names from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from teco.core.errors import TecoError
from teco.core.planes import Layout, are_planes, frame_size
from teco.video.colour import Colour
from teco.video.side_data import Hdr10, Stereo

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One picture and when it is shown.

    pixels: uint8 (H, W, 3), RGB, full range, C-contiguous; uint16, 0 to 65535, where a source was
        opened ``deep`` and has more than 8 bits.
    index: counts from 0 at the first frame of the selected range.
    pts: when it is shown, in units of time_base, on the source's own clock.
    duration: how long, in units of time_base; None where the source does not say.
    starts_segment: it is the first of a part that is encoded by itself (see
        :mod:`teco.video.segments`).
    layout: None for RGB; else ``pixels`` is a packed picture (:mod:`teco.core.planes`) in the
        clip's colour.
    """

    pixels: Pixels
    index: int
    pts: int
    time_base: Fraction
    duration: int | None = None
    starts_segment: bool = False
    layout: Layout | None = None

    @property
    def seconds(self) -> float:
        return float(self.pts * self.time_base)

    def with_pixels(self, pixels: Pixels) -> Frame:
        """The same moment with another picture, such as the enlarged one."""
        return dataclasses.replace(self, pixels=pixels)


@dataclass(frozen=True)
class Media:
    """What a sink needs of a video file beyond its pictures, to carry the rest of it over."""

    path: Path
    picture_stream: int
    time_base: Fraction
    start: Fraction | None
    """The first selected frame's moment, in seconds on the file's clock; None: not cut."""
    origin: Fraction
    """The moment that becomes zero in the output, on the same clock."""
    end: Fraction | None
    """Where it ends, exclusive, on the same clock; None: the file's end."""
    max_frames: int | None
    other_streams: int
    """Streams beside the picture: sound, subtitles, covers, attachments."""
    hdr10: Hdr10 | None
    """Mastering display and light levels, where the picture has them."""
    stereo: Stereo | None
    """How two views lie in one picture, where they do."""
    fastest_rate: Fraction | None
    """Frames a second that have a tick for every frame; above the average where that varies."""
    nominal_rate: Fraction | None
    """Frames a second as libav guesses them from the clock and the codec, not from the length."""


class FrameSource(Protocol):
    """Frames in order, at constant memory. Iterating twice starts again, except on a pipe.

    width, height: of the frames, after rotation.
    rate: frames a second, the average where it varies; None where unknown.
    count: exact for picture folders and for ordinary MP4 and MOV files read whole, an estimate
        otherwise; None where nothing is known. For progress bars, not for arithmetic.
    depth: bits of a sample in the file; frames have 8 unless it was opened deep.
    pixel_aspect: width of a pixel over its height; None where it is not told.
    notices: sentences about what was dropped or guessed; may grow while iterating.
    media: None unless the source is a video file whose other streams can be copied.
    """

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def rate(self) -> Fraction | None: ...
    @property
    def count(self) -> int | None: ...
    @property
    def colour(self) -> Colour: ...
    @property
    def depth(self) -> int: ...
    @property
    def pixel_aspect(self) -> Fraction | None: ...
    @property
    def name(self) -> str: ...
    @property
    def notices(self) -> list[str]: ...
    @property
    def media(self) -> Media | None: ...
    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class FrameSink(Protocol):
    """Takes frames in order; nothing has the final name before :meth:`commit` has returned.

    Left without commit, by an exception or otherwise, the context manager aborts.
    """

    @property
    def name(self) -> str: ...
    @property
    def notices(self) -> list[str]: ...
    def write(self, frame: Frame) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class ResumableSink(FrameSink, Protocol):
    """A sink that keeps what is whole where the work breaks off."""

    @property
    def kept(self) -> int:
        """Frames that another run can go on from; known after :meth:`abort`."""
        ...

    def resume(self, job: Mapping[str, str]) -> int:
        """From here on keep the work in parts, and go on with those of an earlier run.

        To be called before the first frame. Parts begin with frames that say so.

        Args:
            job: see :class:`teco.video.segments.Segments`.

        Returns:
            Frames that are there: the next one to write is that one.

        Raises:
            TecoError: see there.
        """
        ...


class Closing:
    """The context manager that every source shares."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Aborting:
    """The context manager that every sink shares; abort after commit does nothing."""

    def abort(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def check_pixels(frame: Frame, width: int, height: int, name: str) -> None:
    """Raise TecoError unless the frame is uint8 or uint16 (height, width, 3), or planes of that
    size."""
    pixels = frame.pixels
    planes = frame.layout is not None and pixels.dtype == np.uint8 and are_planes(pixels)
    if planes and frame_size(pixels) == (height, width):
        return
    if pixels.dtype.name not in ("uint8", "uint16") or pixels.shape != (height, width, 3):
        raise TecoError(
            f"frame {frame.index} for {name} is {pixels.dtype} {pixels.shape}, "
            f"expected uint8 {(height, width, 3)}"
        )


@dataclass(frozen=True)
class Span:
    """The selected part of a clip, in seconds from its start and in frames."""

    start: Fraction | None = None
    end: Fraction | None = None
    max_frames: int | None = None

    @classmethod
    def of(cls, start: float | None, end: float | None, max_frames: int | None) -> Span:
        """Raises TecoError (exit code 2) for a range that holds nothing."""
        if start is not None and not 0 <= start < float("inf"):
            raise TecoError(f"start is {start} s, expected 0 or more", exit_code=2)
        if end is not None and not (start or 0) < end < float("inf"):
            raise TecoError(
                f"the range ends at {end:g} s but starts at {start or 0:g} s",
                hint="give an end later than the start",
                exit_code=2,
            )
        if max_frames is not None and max_frames < 1:
            raise TecoError(f"max_frames is {max_frames}, expected 1 or more", exit_code=2)
        # Times come from a command line as decimals: 0.04 means 1/25, not its nearest double.
        return cls(
            None if not start else Fraction(start).limit_denominator(1_000_000),
            None if end is None else Fraction(end).limit_denominator(1_000_000),
            max_frames,
        )

    def frame_range(self, rate: Fraction) -> tuple[int, int | None]:
        """First frame and the one past the last, of a clip of constant rate."""
        first = -int(-(self.start or 0) * rate // 1)
        last = None if self.end is None else -int(-self.end * rate // 1)
        if self.max_frames is not None:
            last = first + self.max_frames if last is None else min(last, first + self.max_frames)
        return first, last
