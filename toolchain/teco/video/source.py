"""Video files in: frames with their timestamps, upright, in RGB.

A file that ends early is read to its last whole frame and then reported: a shorter output that
looks finished is worse than an error. MP4, MOV, Matroska, WebM and AVI say how long they are;
MPEG program and transport streams do not, and end where they end.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition

from teco.core.errors import TecoError
from teco.video.colour import Converter, inverse, read_colour
from teco.video.frames import Closing, Frame, Media, Pixels, Span

_UPRIGHT: tuple[int, int, int, int] = (1, 0, 0, 1)

_SEEK_FROM = Fraction(2)
"""A range that starts earlier is reached by decoding, which is exact in every format."""


class VideoSource(Closing):
    """The picture stream of a video file. Opening decodes one frame.

    Args:
        path: the file.
        span: the range to yield; times count from the file's start, as players show them.
        threads: decoder threads, 0 for one per core.
    """

    def __init__(self, path: Path, span: Span | None = None, *, threads: int = 0) -> None:
        self._path = path
        self._span = span or Span()
        self._threads = threads
        self.name = str(path)
        self.notices: list[str] = []
        self._container, self._stream = self._open()
        try:
            self._learn()
        except BaseException:
            self.close()
            raise

    def _learn(self) -> None:
        """Read the stream's facts; decode the first frame for those that only it knows."""
        container, stream = self._container, self._stream
        context = stream.codec_context
        # PyAV 19 has a rational type of its own, whose sums are Fractions and which is none itself.
        rate = stream.average_rate or stream.guessed_rate
        self.rate: Fraction | None = Fraction(rate) if rate else None
        self._time_base = Fraction(stream.time_base or Fraction(1, 90_000))
        origin = Fraction(container.start_time or 0, av.time_base)
        span = self._span
        self._start = None if span.start is None else origin + span.start
        self._end = None if span.end is None else origin + span.end
        self.colour = read_colour(
            pix_fmt=context.pix_fmt or "yuv420p",
            matrix_tag=context.colorspace,
            range_tag=context.color_range,
            primaries=context.color_primaries,
            transfer=context.color_trc,
            width=context.width,
            height=context.height,
            name=self.name,
        )
        self._converter = Converter(self.colour)
        if self.colour.hdr:
            self._notice(f"{self.colour.hdr} picture: values are passed through, not tone-mapped")
        pix_fmt = av.VideoFormat(context.pix_fmt or "yuv420p")
        if (
            any(c.is_alpha for c in pix_fmt.components)
            or stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"
        ):
            self._notice("alpha channel dropped")
        pictures = [s for s in container.streams.video if not _is_cover(s)]
        if len(pictures) > 1:
            self._notice(f"{len(pictures)} picture streams: stream {stream.index} is enlarged")
        self._raw_size: tuple[int, int] | None = None
        # Set by the first frame.
        self._turn = _UPRIGHT
        self._read_size()
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            raise self._nothing()
        self.height, self.width = self._first.pixels.shape[:2]
        self.count = self._count()
        # Reaching the range may have reopened the file: no use of the older objects from here.
        stream = self._stream
        shape = stream.sample_aspect_ratio
        aspect = Fraction(shape) if shape else None
        self.pixel_aspect = aspect if self._turn[0] else inverse(aspect)
        self.media: Media | None = Media(
            path=self._path,
            picture_stream=stream.index,
            time_base=self._time_base,
            # What is copied is cut and shifted with the first picture, not with the wish.
            start=None if self._start is None else self._first.pts * self._time_base,
            end=self._end,
            max_frames=span.max_frames,
            other_streams=len(self._container.streams) - 1,
        )

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        else:
            self.close()
            self._container, self._stream = self._open()
            self._frames = self._decode()
        yield from self._frames

    def close(self) -> None:
        self._container.close()

    def _open(self) -> tuple[Any, Any]:
        # Any: PyAV's stubs describe neither index entries nor optional codec contexts.
        container = open_container(self._path)
        pictures = [s for s in container.streams.video if not _is_cover(s)]
        best = container.streams.best("video")
        stream: Any = best if best in pictures else next(iter(pictures), None)
        if stream is None:
            kinds = sorted(
                {"cover picture" if s.type == "video" else s.type for s in container.streams}
            )
            container.close()
            raise TecoError(
                f"{self.name} has no picture stream, only: {', '.join(kinds) or 'nothing'}",
                hint="give a video file or a folder of pictures",
            )
        if stream.codec_context is None:
            container.close()
            raise TecoError(
                f"{self.name}: there is no decoder for the codec of its picture stream",
                hint="convert it first: ffmpeg -i IN -c:v libx264 -crf 12 -c:a copy OUT.mkv",
            )
        stream.thread_type = "AUTO"
        stream.thread_count = self._threads
        return container, stream

    def _decode(self) -> Iterator[Frame]:
        """The frames of the range, numbered, with timestamps that only rise."""
        index = 0
        last: int | None = None
        step = round(1 / ((self.rate or 25) * self._time_base)) or 1
        for frame in self._from_start():
            pts: int | None = frame.pts
            if pts is None:
                pts = 0 if last is None else last + step
            elif last is not None and pts <= last:
                self._notice("timestamps that did not rise were moved behind the frame before")
                pts = last + 1
            last = pts
            seconds = pts * self._time_base
            if self._start is not None and seconds < self._start:
                continue
            if self._end is not None and seconds >= self._end:
                return
            pixels = self._pixels(frame, index)
            yield Frame(pixels, index, pts, self._time_base, frame.duration or None)
            index += 1
            if index == self._span.max_frames:
                return

    def _from_start(self) -> Iterator[av.VideoFrame]:
        """Decoded frames from the range's start or somewhat before it."""
        start = self._start
        if start is not None and start > _SEEK_FROM:
            with contextlib.suppress(FFmpegError):
                self._container.seek(int(start / self._time_base), stream=self._stream)
                frames = self._decoded(whole=False)
                first = next(frames, None)
                if first is not None and (first.pts or 0) * self._time_base <= start:
                    yield first
                    yield from frames
                    return
            # The seek overshot (no index, or none of this frame): decode from the beginning.
            self._container.close()
            self._container, self._stream = self._open()
        yield from self._decoded(whole=True)

    def _decoded(self, *, whole: bool) -> Iterator[av.VideoFrame]:
        """Every frame from here to the end; TecoError after the last if more was promised."""
        packets = delivered = damaged = 0
        partial = False
        # AVI stores the order of packets and no times to show them at, and libav's guesses err by
        # a frame or more. Frames come out in the order shown, so the moments go by turns.
        counted = "avi" in self._container.format.name
        due: deque[int] = deque()
        failure: FFmpegError | None = None
        demuxed = self._container.demux(self._stream)
        while True:
            try:
                packet = next(demuxed, None)
            except FFmpegError as error:
                failure = error
                packet = None
            if packet is None:
                break
            if packet.size:
                packets += 1
                if packet.is_corrupt and self._sized:
                    # Read only in part. Some decoders would make half a picture of it.
                    partial = True
                    continue
            elif packet.dts is not None:
                # An empty packet says "as before"; to the decoder it would mean the end.
                continue
            try:
                frames = packet.decode()
            except FFmpegError:
                damaged += 1
                frames = []
            else:
                if packet.dts is not None:
                    due.append(packet.dts)
            for frame in frames:
                delivered += 1
                if counted and due:
                    frame.pts = due.popleft()
                yield frame
        for frame in self._drained():
            delivered += 1
            if counted and due:
                frame.pts = due.popleft()
            yield frame
        total = self._promised()
        if failure is not None or partial or self._cut or (whole and self._counts > packets):
            of = f" of {total}" if total is not None and whole else ""
            reason = f" ({failure.strerror})" if failure is not None else ""
            raise TecoError(
                f"{self.name} ends early, at frame {delivered if whole else 'unknown'}{of}{reason}",
                hint="the file is damaged or was not copied whole; get it again, "
                "or give an end before that frame",
            )
        if damaged and delivered:
            self._notice(f"{damaged} damaged packets skipped")

    def _drained(self) -> Iterator[av.VideoFrame]:
        """What the decoder still holds, even if a damaged packet is among it."""
        for _ in range(64):
            try:
                frames = self._stream.codec_context.decode(None)
            except EOFError:
                return
            except FFmpegError:
                continue
            if not frames:
                return
            yield from frames

    def _pixels(self, frame: av.VideoFrame, index: int) -> Pixels:
        """The frame upright, in RGB."""
        size = (frame.width, frame.height)
        if self._raw_size is None:
            self._raw_size = size
            self._turn = self._read_turn(frame)
        elif size != self._raw_size:
            raise TecoError(
                f"{self.name} changes size at frame {index}: from "
                f"{self._raw_size[0]}x{self._raw_size[1]} to {size[0]}x{size[1]}",
                hint="cut it there and enlarge the parts one by one",
            )
        return _turned(self._converter.to_rgb(frame), self._turn)

    def _read_turn(self, frame: Any) -> tuple[int, int, int, int]:
        """The display matrix as (a, b, c, d) of -1, 0, 1; (1, 0, 0, 1) leaves all as it is."""
        try:
            data = bytes(frame.side_data[SideDataType.DISPLAYMATRIX])
        except KeyError:
            return _UPRIGHT
        a, b, _, c, d, *_ = (n / 65536 for n in struct.unpack("<9i", data[:36]))
        turn = (round(a), round(b), round(c), round(d))
        right_angle = sorted(map(abs, turn)) == [0, 0, 1, 1] and abs(turn[0]) == abs(turn[3])
        if not right_angle or max(map(abs, np.subtract((a, b, c, d), turn))) > 0.01:
            self._notice("a rotation that is no multiple of 90 degrees is not applied")
            return _UPRIGHT
        return turn

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def _nothing(self) -> TecoError:
        if self._span.start is None:
            return TecoError(
                f"{self.name} holds no frame that can be decoded",
                hint="check it with a player; it may be damaged",
            )
        length = self._length()
        known = "" if length is None else f", and the file is {float(length):.2f} s long"
        return TecoError(
            f"{self.name} has no frame in the range: it starts at "
            f"{float(self._span.start):g} s{known}",
            hint="give an earlier start",
            exit_code=2,
        )

    def _length(self) -> Fraction | None:
        if self._stream.duration:
            return self._stream.duration * self._time_base
        if self._container.duration:
            return Fraction(self._container.duration, av.time_base)
        return None

    def _read_size(self) -> None:
        """How much the file promises: frames, and whether its own length exceeds the file."""
        kind = self._container.format.name
        stream = self._stream
        self._sized = any(name in kind for name in ("mp4", "matroska", "avi"))
        # Frames that must come; 0: no promise. The index knows of edit lists, the header does not.
        self._counts = 0
        self._cut = False
        size = self._path.stat().st_size
        if "mp4" in kind and len(stream.index_entries):
            self._counts = len(stream.index_entries)
            last = stream.index_entries[self._counts - 1]
            self._cut = last.pos + last.size > size
        elif "avi" in kind:
            with self._path.open("rb") as file:
                head = file.read(8)
            self._cut = int.from_bytes(head[4:], "little") + 8 > size
        elif "matroska" in kind:
            self._cut = (_matroska_end(self._path) or 0) > size
        if self._cut:
            self._notice("the file is cut short; it will be read to its last whole frame")

    def _promised(self) -> int | None:
        """Frames of the whole file, as its header has it."""
        if self._counts or self._stream.frames:
            return self._counts or self._stream.frames
        length = self._length()
        return round(length * self.rate) if length and self.rate else None

    def _count(self) -> int | None:
        span = self._span
        total = self._promised()
        if (span.start or span.end) and total is not None and self.rate:
            first, last = Span(span.start, span.end).frame_range(self.rate)
            total = max(1, (total if last is None else min(last, total)) - first)
        if span.max_frames is not None:
            return span.max_frames if total is None else min(total, span.max_frames)
        return total


_METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {
    "metadata_errors": "replace"
}  # fmt: skip
"""A title that is no UTF-8 is no reason not to open a clip. PyAV 19 keeps such bytes by itself, and
no longer knows the option by which older ones do not raise."""


def open_container(path: Path) -> Any:
    """PyAV's input container. Errors: TecoError if there is no such file or it is no video."""
    if not path.exists():
        raise TecoError(
            f"there is no file {path}",
            hint="check the spelling; relative names start at the current folder",
        )
    try:
        # The prefix keeps libav from taking a name with a colon for a network address.
        return av.open(f"file:{path}", **_METADATA)
    except PermissionError as error:
        raise TecoError(f"{path} is not readable", hint=f"ls -l {path}") from error
    except (FFmpegError, ValueError) as error:
        reason = "it is empty" if not path.stat().st_size else getattr(error, "strerror", None)
        raise TecoError(
            f"{path} is not a video that can be opened ({reason or error})",
            hint="the file is damaged, cut short, or something else by another name; "
            f"see what it is: file {path}",
        ) from error


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _turned(pixels: Pixels, turn: tuple[int, int, int, int]) -> Pixels:
    """Apply a display matrix: x' = a x + c y, y' = b x + d y, up to a shift."""
    if turn == _UPRIGHT:
        return pixels
    a, b, c, d = turn
    across, down = (a, d) if a else (c, b)
    turned = pixels if a else pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(turned[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])


def _matroska_end(path: Path) -> int | None:
    """Where a Matroska file says it ends, in bytes; None for live files, which do not know."""

    def number(data: bytes, at: int) -> tuple[int | None, int]:
        # EBML: the leading zeros of the first byte tell the length; all ones is "unknown".
        length = 9 - data[at].bit_length()
        value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        return (None if value == (1 << 7 * length) - 1 else value), at + length

    with path.open("rb") as file:
        data = file.read(4096)
    if not data.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    size, at = number(data, 4)
    at += size or 0
    if data[at : at + 4] != b"\x18\x53\x80\x67" or len(data) < at + 12:
        return None
    size, at = number(data, at + 4)
    return None if size is None else at + size
