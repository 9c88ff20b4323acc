"""Video files in: frames with their timestamps, upright, progressive, in RGB.

A file that ends early is read to its last whole frame. What is missing is then a notice, or an
error where a whole clip was asked for. MP4, MOV, Matroska, WebM and AVI say how long they are; MPEG
program and transport streams do not, and end where they end.
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

from teco.core.errors import TecoError
from teco.core.planes import Layout, frame_size
from teco.video import side_data
from teco.video.colour import Converter, inverse, read_colour, siting_read
from teco.video.deinterlace import Deinterlacer
from teco.video.file.clock import ContinuousClock, may_jump
from teco.video.file.container import (
    is_cover,
    matroska_centred,
    matroska_crop,
    missing_bytes,
    open_container,
)
from teco.video.frames import Closing, Frame, Media, Pixels, Span

_UPRIGHT: tuple[int, int, int, int] = (1, 0, 0, 1)

_SEEK_FROM = Fraction(2)
"""A range that starts earlier is reached by decoding, which is exact in every format."""

_HELD = 4096
"""Packets since the last key frame that a search for a start holds at most."""


class VideoSource(Closing):
    """The picture stream of a video file. Opening decodes one frame.

    Args:
        path: the file.
        span: the range to yield; times count from the file's start, as players show them.
        threads: decoder threads, 0 for one per core.
        deep: give uint16 RGB, 0 to 65535, where the file has more than 8 bits.
        deinterlace: make progressive frames of interlaced ones.
        planes: give packed pictures of this layout where the decoder has such: 8-bit 4:2:0, upright
            and of even sides, left-sited; anything else as if this were None.
        forgiving: read what there is of a file that is cut short, scale a picture that changes
            size in the middle, and note both; else they are errors after the last good frame.
    """

    def __init__(
        self,
        path: Path,
        span: Span | None = None,
        *,
        threads: int = 0,
        deep: bool = False,
        deinterlace: bool = True,
        planes: Layout | None = None,
        forgiving: bool = False,
    ) -> None:
        self._path = path
        self._planes: Layout | None = planes
        self._span = span or Span()
        self._threads = threads
        self._deinterlace = deinterlace
        self._forgiving = forgiving
        self.name = str(path)
        self.notices: list[str] = []
        self._container, self._stream = self._open()
        try:
            self._learn(deep=deep)
        except BaseException:
            self.close()
            raise

    def _learn(self, *, deep: bool) -> None:
        """Read the stream's facts; decode the first frame for those that only it knows."""
        container, stream = self._container, self._stream
        context = stream.codec_context
        # PyAV 19 has a rational type of its own, whose sums are Fractions and which is none itself.
        rate = stream.average_rate or stream.guessed_rate
        self.rate: Fraction | None = Fraction(rate) if rate else None
        self._time_base = Fraction(stream.time_base or Fraction(1, 90_000))
        self._origin = Fraction(container.start_time or 0, av.time_base)
        span = self._span
        self._start = None if span.start is None else self._origin + span.start
        self._end = None if span.end is None else self._origin + span.end
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
        if self.colour.hdr:
            self._notice(f"{self.colour.hdr} picture: values are passed through, not tone-mapped")
        pix_fmt = av.VideoFormat(context.pix_fmt or "yuv420p")
        self.depth = max((c.bits for c in pix_fmt.components), default=8)
        self._deep = deep and self.depth > 8
        if (
            any(c.is_alpha for c in pix_fmt.components)
            or stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"
        ):
            self._notice("alpha channel dropped")
        pictures = [s for s in container.streams.video if not is_cover(s)]
        if len(pictures) > 1:
            self._notice(f"{len(pictures)} picture streams: stream {stream.index} is enlarged")
        matroska = "matroska" in container.format.name
        self._centred = matroska and matroska_centred(self._path)
        crop = matroska_crop(self._path) if matroska else {}
        self._crop = tuple(crop.get(side, 0) for side in ("top", "bottom", "left", "right"))
        if any(self._crop):
            self._notice("the bars that the file hides are cut off")
        self.hdr10: side_data.Hdr10 | None = None
        self.stereo: side_data.Stereo | None = None
        self._raw_size: tuple[int, int] | None = None
        self._last_size: tuple[int, int] | None = None
        # Set by the first frame.
        self._turn = _UPRIGHT
        self._read_size()
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            raise self._nothing()
        self.height, self.width = frame_size(self._first.pixels)
        self.count = self._count()
        # Reaching the range may have reopened the file: no use of the older objects from here.
        stream = self._stream
        shape = stream.sample_aspect_ratio
        aspect = Fraction(shape) if shape else None
        self.pixel_aspect = aspect if self._turn[0] else inverse(aspect)
        cut = self._start is not None
        self.media: Media | None = Media(
            path=self._path,
            picture_stream=stream.index,
            time_base=self._time_base,
            # What is copied is cut and shifted with the first picture, not with the wish.
            start=self._first.pts * self._time_base if cut else None,
            origin=self._first.pts * self._time_base if cut else self._late_start(),
            end=self._end,
            max_frames=span.max_frames,
            other_streams=len(self._container.streams) - 1,
            hdr10=self.hdr10,
            stereo=self.stereo,
            fastest_rate=_fastest_rate(stream),
            nominal_rate=stream.guessed_rate or None,
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

    @property
    def decodes_from_start(self) -> bool:
        """Whether a range is reached by decoding all that comes before it: AVI does not say which
        frame a packet is."""
        return "avi" in self._container.format.name

    def _late_start(self) -> Fraction:
        """Where a whole file's clock is cut: a recording may start at any hour of it. Otherwise
        players know what a start a little later than zero means."""
        late = may_jump(self._container) or self._origin > 1
        return max(Fraction(0), self._origin) if late else Fraction(0)

    def _open(self) -> tuple[Any, Any]:
        # Any: PyAV's stubs describe neither index entries nor optional codec contexts.
        container = open_container(self._path)
        pictures = [s for s in container.streams.video if not is_cover(s)]
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
        for frame in self._progressive():
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
            for text in side_data.named(frame):
                self._notice(text)
            if self._raw_size is None:
                self.hdr10, self.stereo = side_data.hdr10(frame), side_data.stereo(frame)
            pixels, layout = self._pixels(frame, index, seconds)
            yield Frame(pixels, index, pts, self._time_base, frame.duration or None, layout=layout)
            index += 1
            if index == self._span.max_frames:
                return

    def _progressive(self) -> Iterator[av.VideoFrame]:
        """Decoded frames, with two fields each no longer."""
        frames = self._from_start()
        if not self._deinterlace:
            for frame in frames:
                if frame.interlaced_frame:
                    self._notice("the picture is interlaced, and enlarged as it is")
                yield frame
            return
        taken_apart = Deinterlacer(self._time_base)
        for frame in frames:
            yield from taken_apart.push(frame)
            if taken_apart.used:
                self._notice(
                    "the picture is interlaced and was deinterlaced; --no-deinterlace leaves it"
                )
        yield from taken_apart.drain()

    def _from_start(self) -> Iterator[av.VideoFrame]:
        """Decoded frames from the range's start or somewhat before it."""
        start = self._start
        # A clock that may jump cannot be sought in.
        sought = not may_jump(self._container) and not self.decodes_from_start
        if start is not None and start > _SEEK_FROM and sought:
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

    def _packets(self) -> Iterator[Any]:
        """The picture's packets, on one clock, from the last key frame before the start where that
        can be told without decoding."""
        stream = self._stream
        if not may_jump(self._container):
            yield from self._container.demux(stream)
            return
        clock = ContinuousClock()
        # Sound as well: whoever copies it must find the same jumps.
        shown = [s for s in self._container.streams if s.type in ("video", "audio")]
        start = self._start or Fraction(0)
        begun = start <= _SEEK_FROM
        held: list[Any] = []
        for packet in self._container.demux(shown):
            if packet.size or packet.stream is stream:
                clock.place(packet)
            if packet.stream is not stream:
                continue
            if not begun and packet.size:
                moment = packet.pts if packet.pts is not None else packet.dts
                late = moment is None or moment * self._time_base > start - 1
                if packet.is_keyframe and not late:
                    held.clear()
                held.append(packet)
                begun = late or len(held) == _HELD
                if not begun:
                    continue
                yield from held
                held.clear()
                continue
            yield from held
            held.clear()
            yield packet
        if clock.jumps:
            times = f"{clock.jumps} times" if clock.jumps > 1 else "once"
            self._notice(f"the file's clock jumps {times}; what follows was shifted to go on")

    def _decoded(self, *, whole: bool) -> Iterator[av.VideoFrame]:
        """Every frame from here to the end; then what is missing, as a notice or an error."""
        packets = delivered = damaged = 0
        partial = False
        failure: FFmpegError | None = None
        end = Fraction(0)
        due = _Turns() if "avi" in self._container.format.name else None
        demuxed = self._packets()
        while True:
            try:
                packet = next(demuxed, None)
            except FFmpegError as error:
                failure = error
                packet = None
            if packet is not None and not packet.size and packet.dts is not None:
                # An empty packet says "as before"; to the decoder it would mean the end.
                continue
            if packet is not None and packet.size:
                packets += 1
                if packet.is_corrupt and self._sized:
                    # Read only in part. Some decoders would make half a picture of it.
                    partial = True
                    continue
            try:
                frames = self._drained() if packet is None else packet.decode()
            except FFmpegError:
                damaged += 1
                continue
            if due is not None and packet is not None and packet.dts is not None:
                due.append(packet.dts)
            for frame in frames:
                delivered += 1
                if due is not None:
                    due.assign(frame)
                end = ((frame.pts or 0) + (frame.duration or 0)) * self._time_base
                yield frame
            if packet is None:
                break
        if failure is not None or partial or self._cut or (whole and self._counts > packets):
            self._ends_early(delivered if whole else None, end, failure)
        if damaged and delivered:
            self._notice(f"{damaged} damaged packets skipped")

    def _ends_early(
        self, delivered: int | None, end: Fraction, failure: FFmpegError | None
    ) -> None:
        """Say that the file should go on, and by how much as far as that is known."""
        total = self._promised() if delivered is not None else None
        lacking = ""
        if total is not None and delivered is not None and total > delivered:
            seconds = (total - delivered) / self.rate if self.rate else None
            about = "" if self._counts else "about "
            lacking = f": {about}{total - delivered} of {total} frames are missing" + (
                f", {float(seconds):.2f} s" if seconds is not None else ""
            )
        reason = f" ({failure.strerror})" if failure is not None else ""
        if self._forgiving:
            self._notice(
                f"the file is damaged or cut short and ends at {float(end - self._origin):.2f} s"
                f"{lacking}{reason}"
            )
            return
        of = f" of {total}" if total is not None else ""
        raise TecoError(
            f"{self.name} ends early, at frame {'unknown' if delivered is None else delivered}"
            f"{of}{reason}",
            hint="the file is damaged or was not copied whole; get it again, "
            "or give an end before that frame",
        )

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

    def _pixels(
        self, frame: av.VideoFrame, index: int, seconds: Fraction
    ) -> tuple[Pixels, Layout | None]:
        """The frame upright and cropped, in RGB, of the first frame's size; or its planes, and how
        they lie."""
        size = (frame.width, frame.height)
        if self._raw_size is None:
            self._raw_size = size
            self._turn = self._read_turn(frame)
            codec = self._stream.codec_context.codec.canonical_name
            siting = siting_read(frame, codec, centred=self._centred)
            self._converter = Converter(self.colour, siting)
        elif size != self._last_size:
            # Calls and conferences change size with the network's throughput, and screens with
            # their windows: what a player would fit into one window is fitted into one size.
            first, now = (f"{w}x{h}" for w, h in (self._raw_size, size))
            moment = f"{float(seconds - self._origin):.2f} s"
            if not self._forgiving:
                raise TecoError(
                    f"{self.name} changes size at {moment}, frame {index}: from {first} to {now}",
                    hint="cut it there and take the parts one by one",
                )
            if size != self._raw_size:
                self._notice(
                    f"the picture changes size at {moment}, from {first} to {now}: it is scaled to "
                    f"{first} before it is enlarged"
                )
        self._last_size = size
        as_it_is = size == self._raw_size and self._turn == _UPRIGHT and not any(self._crop)
        if self._planes and as_it_is:
            packed = self._converter.to_planes(frame, self._planes)
            if packed is not None:
                return packed, self._planes
        pixels = self._converter.to_rgb(frame, deep=self._deep, size=self._raw_size)
        top, bottom, left, right = self._crop
        height, width = pixels.shape[:2]
        if any(self._crop) and top + bottom < height and left + right < width:
            pixels = np.ascontiguousarray(pixels[top : height - bottom, left : width - right])
        return _turned(pixels, self._turn), None

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
        self._sized = any(name in kind for name in ("mp4", "matroska", "avi"))
        # Frames that must come; 0: no promise. The index knows of edit lists, the header does not.
        entries = self._stream.index_entries if "mp4" in kind else ()
        self._counts = len(entries)
        self._cut = missing_bytes(self._path, kind) > 0
        if self._counts:
            last = entries[self._counts - 1]
            self._cut |= last.pos + last.size > self._path.stat().st_size
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


class _Turns(deque[int]):
    """Moments of packets, which frames take by turns.

    AVI stores the order of packets and no times to show them at, and libav's guesses err by a frame
    or more; but frames come out in the order in which they are shown.
    """

    def assign(self, frame: av.VideoFrame) -> None:
        """The next moment is the frame's."""
        if self:
            frame.pts = self.popleft()


def _turned(pixels: Pixels, turn: tuple[int, int, int, int]) -> Pixels:
    """Apply a display matrix: x' = a x + c y, y' = b x + d y, up to a shift."""
    if turn == _UPRIGHT:
        return pixels
    a, b, c, d = turn
    across, down = (a, d) if a else (c, b)
    turned = pixels if a else pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(turned[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])


def _fastest_rate(stream: Any) -> Fraction | None:
    """Frames a second of which the stream's timestamps are ticks, the highest of libav's guesses;
    for outputs of one constant rate, which must have a place for each frame."""
    rates = [Fraction(r) for r in (stream.average_rate, stream.guessed_rate) if r]
    return max((r for r in rates if r <= 240), default=None)
