"""Video files out: the enlarged pictures in the place of the old, everything else copied.

Timestamps of the pictures are the source's, exactly, wherever the container can hold its time
base: MP4 and MOV can; Matroska and WebM count milliseconds, so others are rounded to those; AVI
has one constant rate and no timestamps.

Sound, subtitles, data and attachments are copied packet by packet from a second reading of the
source, in step with the pictures. What the container cannot hold is dropped with a notice.
Packets that an edit list hides from the player go into MP4 and MOV only, which can hide them too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

from teco.core.errors import TecoError
from teco.core.files import Output, WriteError, check_target
from teco.video.colour import Converter, output_colour
from teco.video.frames import Aborting, Frame, FrameSource, Media, check_pixels
from teco.video.source import open_container

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""Suffix -> libav's name of the container."""

_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip

_SPREAD = Fraction(10)
"""How far apart, in seconds, packets of one moment may lie in a file."""

# Written by muxers about themselves or the old pictures; wrong once these are replaced.
_STALE_TAGS = frozenset(
    {
        "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps",
        "number_of_frames", "number_of_bytes", "rotate", "alpha_mode", "vendor_id",
    }
)  # fmt: skip


class VideoSink(Aborting):
    """See :func:`teco.video.clips.open_sink`. Opening writes the temporary file's header."""

    def __init__(
        self,
        path: Path,
        source: FrameSource,
        width: int,
        height: int,
        *,
        codec: str | None = None,
        crf: float = 16,
        preset: str = "medium",
        pix_fmt: str = "yuv420p",
        overwrite: bool = False,
        rate: Fraction | None = None,
    ) -> None:
        self.name = str(path)
        self._size = (width, height)
        self.notices: list[str] = []
        self._kind = CONTAINERS[path.suffix.lower()]
        self._media: Media | None = getattr(source, "media", None)
        origin = None if source.name == "-" else Path(source.name)
        check_target(path, overwrite=overwrite, source=origin)
        codec = codec or ("libvpx-vp9" if self._kind == "webm" else "libx264")
        self._pix_fmt = self._check_codec(codec, pix_fmt)
        options = _options(codec, crf, preset)
        self._counted = rate is not None
        self._constant = rate or self._constant_rate(codec, source)
        if self._constant is not None:
            self._time_base = 1 / self._constant
        elif self._media is not None:
            self._time_base = self._media.time_base
        else:
            self._time_base = 1 / (source.rate or Fraction(25))
        colour = output_colour(source.colour, self._pix_fmt, width, height)
        self._converter = Converter(colour)
        # A cut range begins at zero; a whole file keeps its own clock.
        self._shift = (self._media.start if self._media else None) or Fraction(0)
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._end: Fraction | None = None
        self._written = 0
        self._others: Others | None = None
        self._container: Any = None
        self._output = Output(path)
        try:
            if self._media is not None:
                self._others = Others(self._media, self._kind, self.notices)
            with self._muxing():
                self._container = av.open(
                    f"file:{self._output.part}",
                    "w",
                    format=self._kind,
                    container_options=self._muxer_options(),
                )
                self._add_streams(source, codec, options, rate or source.rate or Fraction(25))
                self._open_encoder(codec)
                self._container.start_encoding()
        except BaseException:
            self.abort()
            raise

    def write(self, frame: Frame) -> None:
        """Add one frame: uint8 (height, width, 3) RGB, with the source frame's timestamp."""
        check_pixels(frame, *self._size, self.name)
        moment = frame.pts * frame.time_base
        pts = self._pts(frame, moment)
        coded = self._converter.from_rgb(frame.pixels, self._pix_fmt)
        coded.pts = pts
        coded.time_base = self._time_base
        length = 0 if frame.duration is None else frame.duration * frame.time_base
        # A muxer takes the last frame's length from its packet: never leave it at zero.
        ticks = round(length / self._time_base) or (
            pts - self._last_pts if self._last_pts is not None else 1
        )
        self._durations[pts] = ticks
        self._last_pts = pts
        self._end = moment + ticks * self._time_base
        self._written += 1
        with self._muxing():
            self._mux(self._stream.encode(coded))
            if self._others is not None:
                self._others.copy_until(moment)

    def commit(self) -> None:
        """Finish the file and give it its name."""
        if not self._written:
            raise TecoError(f"nothing was written to {self.name}: no frame came")
        with self._muxing():
            self._mux(self._stream.encode(None))
            if self._others is not None:
                media = self._others.media
                cut = media.max_frames is not None and self._written >= media.max_frames
                self._others.copy_rest(self._end if cut else None)
                self._others.close()
                self._others = None
            self._container.close()
        self._container = None
        self._output.commit()

    def abort(self) -> None:
        """Remove the temporary file, unless committed."""
        if self._others is not None:
            self._others.close()
            self._others = None
        container, self._container = self._container, None
        if container is not None:
            # Closing writes a trailer, which fails on a full disk; the file goes anyway.
            with contextlib.suppress(FFmpegError, OSError, ValueError):
                container.close()
        self._output.abort()

    def _check_codec(self, codec: str, pix_fmt: str) -> str:
        """The pixel format to use. Errors: TecoError for unknown encoders and formats."""
        try:
            encoder: Any = av.Codec(codec, "w")
        except (FFmpegError, ValueError) as error:
            raise TecoError(
                f"there is no encoder called {codec}",
                hint="common ones: libx264, libx265, libvpx-vp9, libsvtav1, ffv1, h264_nvenc",
                exit_code=2,
            ) from error
        if encoder.type != "video":
            raise TecoError(f"{codec} encodes {encoder.type}, not pictures", exit_code=2)
        known = [f.name for f in encoder.video_formats or []]
        if known and pix_fmt not in known:
            raise TecoError(
                f"{codec} does not take {pix_fmt}, expected one of {', '.join(known)}", exit_code=2
            )
        try:
            chroma = av.VideoFormat(pix_fmt, 256, 256)
        except ValueError as error:
            raise TecoError(f"there is no pixel format {pix_fmt}", exit_code=2) from error
        width, height = self._size
        across = 256 // chroma.chroma_width(256)
        down = 256 // chroma.chroma_height(256)
        if not (width % across or height % down):
            return pix_fmt
        finer = pix_fmt.replace("420", "444").replace("422", "444")
        if finer != pix_fmt and finer in known:
            self.notices.append(f"{finer} instead of {pix_fmt}: {width}x{height} is odd")
            return finer
        raise TecoError(
            f"{width}x{height} is odd, and {codec} with {pix_fmt} needs even sizes",
            hint="use libx264, which takes yuv444p",
            exit_code=2,
        )

    def _constant_rate(self, codec: str, source: FrameSource) -> Fraction | None:
        # AVI has no timestamps, and MPEG-4 part 2 a clock of 16 bits.
        if self._kind == "avi" or codec == "mpeg4":
            return source.rate or Fraction(25)
        return None

    def _add_streams(
        self, source: FrameSource, codec: str, options: dict[str, str], rate: Fraction
    ) -> None:
        """The picture stream and the copied ones, in the source's order."""
        if self._kind == "avi":
            # A reader of AVI has only the order of packets to go by.
            options = {**options, "bf": "0"}
        media, others = self._media, self._others
        if media is None or others is None:
            aspect = source.pixel_aspect
            self._stream = self._picture_stream(codec, options, rate, aspect, {}, None)
            return
        for stream in others.streams():
            if stream.index == media.picture_stream:
                self._stream = self._picture_stream(
                    codec, options, rate, source.pixel_aspect,
                    _kept(stream.metadata), stream.disposition,
                )  # fmt: skip
            else:
                others.add(stream, self._container)
        others.start(self._container)

    def _open_encoder(self, codec: str) -> None:
        """Open it by itself: what is wrong with it is not wrong with the file."""
        try:
            self._stream.codec_context.open()
        except FFmpegError as error:
            hardware = codec.endswith(("_nvenc", "_qsv", "_vaapi", "_amf", "_videotoolbox"))
            needs = "it needs its own hardware and driver; " if hardware else ""
            raise TecoError(
                f"the encoder {codec} cannot be opened here: {error.strerror}",
                hint=f"{needs}check --crf, --preset and --pix-fmt; libx264 and libx265 run on "
                "every machine",
                exit_code=3 if hardware else 1,
            ) from error

    def _muxer_options(self) -> dict[str, str]:
        if self._kind == "avi":
            # The default would move the picture by a frame if the sound starts before zero.
            return {"avoid_negative_ts": "disabled"}
        if self._kind not in ("mp4", "mov"):
            return {}
        # A stream that starts late is held back in units of the movie's clock, by default
        # milliseconds. One that all streams' clocks divide keeps every start exact.
        clocks = [self._time_base.denominator]
        if self._others is not None:
            clocks += [s.time_base.denominator for s in self._others.streams() if s.time_base]
        common = math.lcm(*clocks)
        return {"movie_timescale": str(common if common <= 10_000_000 else clocks[0])}

    def _picture_stream(
        self,
        codec: str,
        options: dict[str, str],
        rate: Fraction,
        aspect: Fraction | None,
        metadata: dict[str, str],
        disposition: Disposition | None,
    ) -> Any:
        try:
            stream: Any = self._container.add_stream(
                codec,
                rate=rate.limit_denominator(65535),
                options=options,
                time_base=self._time_base,
                width=self._size[0],
                height=self._size[1],
                pix_fmt=self._pix_fmt,
            )
        except ValueError as error:
            raise TecoError(
                f"{self._output.path.suffix} files cannot hold {codec}",
                hint="try .mkv, which holds nearly everything",
                exit_code=2,
            ) from error
        colour = self._converter.colour
        context = stream.codec_context
        if context.codec.canonical_name == "hevc" and self._kind in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players do not play hev1, libav's choice
        context.colorspace = colour.matrix_tag
        context.color_range = 2 if colour.full_range else 1
        context.color_primaries = colour.primaries or 2
        context.color_trc = colour.transfer or 2
        if aspect:
            context.sample_aspect_ratio = aspect
        stream.metadata.update(metadata)
        if disposition is not None:
            stream.disposition = disposition
        return stream

    def _pts(self, frame: Frame, moment: Fraction) -> int:
        if self._counted:
            return self._written
        pts = round((moment - self._shift) / self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            if self._constant is None:
                raise TecoError(
                    f"frame {frame.index} at {frame.seconds:.4f} s does not come after "
                    f"the frame before it"
                )
            # Closer together than a clock of one tick a frame can tell.
            pts = self._last_pts + 1
        return pts

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux_one(packet)

    @contextlib.contextmanager
    def _muxing(self) -> Generator[None]:
        """Turn libav's errors into sentences."""
        try:
            yield
        except FFmpegError as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise WriteError(self.name, error) from error
            raise TecoError(
                f"{self.name} could not be encoded: {error.strerror}",
                hint="check --codec, --crf and the pixel format; libx264 into .mkv takes most",
            ) from error


class Others:
    """The source's streams that are not its picture, read a second time to be copied.

    Packets keep their bytes and, up to the shift of a cut range, their timestamps.
    """

    def __init__(self, media: Media, kind: str, notices: list[str]) -> None:
        self.media = media
        self._output: Any = None
        self._kind = kind
        self._notices = notices
        self._input: Any = open_container(media.path)
        self._targets: dict[int, Any] = {}
        self._last: dict[int, int] = {}
        self._packets: Iterator[Any] = iter(())
        self._held: Any = None

    def streams(self) -> list[Any]:
        return list(self._input.streams)

    def add(self, stream: Any, output: Any) -> None:
        """Make a stream like this one in the output, or say why not."""
        if stream.type == "data" and stream.name == "bin_data" and self._input.chapters():
            # The text track behind MP4 chapters; the muxer makes a new one of the chapters.
            return
        if stream.type == "data" and "timecode" in stream.metadata:
            # Likewise made anew, of the picture stream's tag.
            return
        reason = _refusal(self._kind, stream)
        if reason is not None:
            title = stream.metadata.get("title") or stream.metadata.get("filename")
            kind = "cover picture" if stream.type == "video" else stream.type
            name = f"{kind} stream {stream.index}" + (f" ({title})" if title else "")
            self._notices.append(f"{name} dropped: {reason}")
            return
        self._targets[stream.index] = _like(output, stream)

    def start(self, output: Any) -> None:
        """Copy what describes the whole and be ready for packets; the last before the header."""
        self._output = output
        output.metadata.update(_kept(self._input.metadata))
        media = self.media
        begin = media.start or Fraction(0)
        chapters: list[Any] = []
        for chapter in self._input.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            first = max(chapter["start"] * base, begin)
            last = chapter["end"] * base
            last = last if media.end is None else min(last, media.end)
            if last > first:
                ends = {"start": round((first - begin) / base), "end": round((last - begin) / base)}
                chapters.append({**chapter, **ends})
        if chapters:
            output.set_chapters(chapters)
        wanted = [s for s in self._input.streams if s.index in self._targets]
        if not wanted:
            return
        for stream in self._input.streams:
            if stream.index not in self._targets:
                stream.discard = Discard.all
        # Where seeking is by index. Elsewhere it may land within a packet; reading on is exact.
        indexed = any(name in self._input.format.name for name in ("mp4", "matroska"))
        if begin > 2 and indexed:
            with contextlib.suppress(FFmpegError):
                self._input.seek(int(begin * av.time_base))
        self._packets = self._input.demux(wanted)

    def copy_until(self, moment: Fraction) -> None:
        """Copy what is due up to ``moment``, in seconds on the source's clock."""
        while (packet := self._held or self._next()) is not None:
            self._held = packet
            if packet.dts * packet.time_base > moment:
                return
            self._held = None
            self._copy(packet, self.media.end)

    def copy_rest(self, end: Fraction | None) -> None:
        """Copy what is left, up to ``end`` if given and to the range's end."""
        ends = [e for e in (end, self.media.end) if e is not None]
        last = min(ends) if ends else None
        while (packet := self._held or self._next()) is not None:
            self._held = None
            if last is not None and packet.dts * packet.time_base > last + _SPREAD:
                return
            self._copy(packet, last)

    def close(self) -> None:
        self._input.close()

    def _next(self) -> Any:
        """The next packet with a timestamp, or None at the end."""
        try:
            for packet in self._packets:
                if not packet.size:
                    continue
                if packet.dts is None:
                    packet.dts = packet.pts
                if packet.pts is None:
                    packet.pts = packet.dts
                if packet.stream.disposition & Disposition.attached_pic:
                    packet.pts = packet.dts = 0
                if packet.dts is not None:
                    return packet
        except FFmpegError as error:
            self._notices.append(f"copying sound and subtitles stopped early: {error.strerror}")
            self._packets = iter(())
        return None

    def _copy(self, packet: Any, end: Fraction | None) -> None:
        stream = packet.stream
        index = stream.index
        base = packet.time_base
        begin = self.media.start
        if packet.is_discard and self._kind not in ("mp4", "mov"):
            # Decoded but not played: what an edit list cut away, and an encoder's run-up. Without
            # edit lists it would be played, or push everything back to begin at zero.
            return
        if not stream.disposition & Disposition.attached_pic:
            moment = packet.pts * base
            if (begin is not None and moment < begin) or (end is not None and moment >= end):
                return
            if begin is not None:
                ticks = round(begin / base)
                packet.pts -= ticks
                packet.dts -= ticks
        target = self._targets[index]
        # Damaged files repeat or reverse timestamps, which muxers refuse in their own, perhaps
        # coarser clock. Matroska takes equals, and needs to: two subtitles may start together.
        dts = round(packet.dts * base / target.time_base)
        last = self._last.get(index)
        if last is not None:
            lowest = last + (self._kind not in ("matroska", "webm"))
            if dts < lowest:
                dts = lowest
                packet.pts = max(round(packet.pts * base / target.time_base), dts)
                packet.dts = dts
                packet.time_base = target.time_base
        self._last[index] = dts
        packet.stream = target
        self._output.mux_one(packet)


def _like(output: Any, stream: Any) -> Any:
    """A stream for copies of the packets of ``stream``. Raises what PyAV raises."""
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.clear()
    copy.metadata.update(_kept(stream.metadata))
    copy.disposition = stream.disposition
    return copy


def _refusal(kind: str, stream: Any) -> str | None:
    """Why this container cannot hold a copy of the stream; None if it can.

    Tried out in memory: libav says what a muxer takes only for some codecs, and for the rest by
    failing to write the header.
    """
    label = stream.name or "this kind"
    if stream.type not in ("video", "audio", "subtitle", "data", "attachment"):
        return "of unknown kind"
    trial = av.open(io.BytesIO(), "w", format=kind)
    try:
        picture: Any = trial.add_stream(
            "libvpx-vp9" if kind == "webm" else "libx264", rate=25, width=16, height=16
        )
        picture.codec_context.time_base = Fraction(1, 25)
        _like(trial, stream)
        trial.start_encoding()
        trial.close()
    except (FFmpegError, ValueError):
        return f"{kind} does not hold {label}"
    return None


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower().split("-")[0] not in _STALE_TAGS and not key.startswith("_STATISTICS")
    }


def _options(codec: str, crf: float, preset: str) -> dict[str, str]:
    """Quality and speed in the words of the encoder; none for encoders we do not know."""
    if preset not in _PRESETS:
        raise TecoError(
            f"the preset is {preset}, expected one of {', '.join(_PRESETS)}", exit_code=2
        )
    highest = 63 if codec in ("libvpx-vp9", "libsvtav1") else 51
    if not 0 <= crf <= highest:
        raise TecoError(f"the quality is {crf:g}, {codec} takes 0 (best) to {highest}", exit_code=2)
    pace = _PRESETS.index(preset)
    quality = f"{crf:g}"
    if codec == "libx265":
        return {"crf": quality, "preset": preset, "x265-params": "log-level=error"}
    if codec.startswith("libx264"):
        return {"crf": quality, "preset": preset}
    if codec == "libvpx-vp9":
        pace = max(0, 8 - pace)
        return {
            "crf": quality,
            "b": "0",
            "deadline": "good",
            "cpu-used": f"{min(pace, 5)}",
            "row-mt": "1",
        }
    if codec == "libsvtav1":
        # The encoder talks on standard error unless its own variable forbids it.
        os.environ.setdefault("SVT_LOG", "1")
        return {"crf": quality, "preset": f"{12 - pace}"}
    if codec.endswith("_nvenc"):
        return {"rc": "vbr", "cq": quality, "b": "0", "preset": f"p{max(1, min(7, pace))}"}
    return {}
