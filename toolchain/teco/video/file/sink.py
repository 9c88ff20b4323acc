"""Video files out: the enlarged pictures in the place of the old, everything else copied.

Timestamps of the pictures are the source's, exactly, wherever the container can hold its time
base: MP4 and MOV can; Matroska and WebM count milliseconds, so others are rounded to those; AVI
has one constant rate and no timestamps.

Everything else is carried over by :mod:`teco.video.file.other_streams`, in step with the pictures.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
from collections.abc import Generator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from teco.core.errors import MACHINE, TecoError
from teco.core.files import Output, WriteError, check_target, write_errors
from teco.core.memory import free_bytes
from teco.core.planes import PIX_FMT, Layout
from teco.video.colour import OF_PLANES, Converter, is_420, output_colour, siting_of
from teco.video.file.container import describe_picture, give_up, is_cover, open_container
from teco.video.file.encoders import (
    USUAL,
    EncoderSettings,
    device_of,
    encoder_meant,
    encoder_options,
    lookahead,
    lookahead_within,
)
from teco.video.file.other_streams import OtherStreams
from teco.video.frames import Aborting, Frame, FrameSource, Media, check_pixels
from teco.video.segments import Segment, Segments, drop_unfinished
from teco.video.side_data import STEREO_IS_LOST

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""Suffix -> libav's name of the container."""


_SAME_RATE = 0.0005
"""Rates that differ by less are one, as 23.976 is written in many ways; 24 is another."""

_X265_SHORT = 2
"""With so few frames x265 has no later frame to take their decoding times from (it delays them by
two, for B-frames), and reads memory that was never set."""


class VideoSink(Aborting):
    """See :func:`teco.video.clips.open_sink`. Opening writes the temporary file's header."""

    def __init__(
        self,
        path: Path,
        source: FrameSource,
        width: int,
        height: int,
        *,
        encoder: EncoderSettings = USUAL,
        overwrite: bool = False,
        rate: Fraction | None = None,
        planes: Layout | None = None,
        square: bool = False,
    ) -> None:
        self.name = str(path)
        self._size = (width, height)
        self.notices: list[str] = []
        self._kind = CONTAINERS[path.suffix.lower()]
        self._media: Media | None = getattr(source, "media", None)
        origin = None if source.name == "-" else Path(source.name)
        check_target(path, overwrite=overwrite, source=origin)
        codec = encoder.codec_for(path.suffix)
        self._pix_fmt = self._check_codec(codec, encoder.pix_fmt, planes)
        options = encoder_options(codec, encoder)
        self._spare_memory(codec, encoder.preset, options)
        self._describe_hdr10(codec, options)
        self._stereo_tag = self._describe_stereo(codec, options)
        self._counted = rate is not None
        self._constant = self._constant_rate(codec, source, rate)
        if self._constant is not None:
            self._time_base = 1 / self._constant
        elif self._media is not None:
            self._time_base = self._media.time_base
        else:
            self._time_base = 1 / (source.rate or Fraction(25))
        colour = output_colour(source.colour, self._pix_fmt, width, height)
        siting = siting_of(av.Codec(codec, "w").canonical_name)
        self._converter = Converter(colour, siting)
        if is_420(self._pix_fmt):
            options["chroma_sample_location"] = siting
        self._aspect = Fraction(1) if square else source.pixel_aspect
        self._shift = self._media.origin if self._media else Fraction(0)
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._late = Fraction(0)
        self._end: Fraction | None = None
        self._written = 0
        self._in_segment = 0
        self._segments: Segments | None = None
        self._overwrite = overwrite
        self.kept = 0
        self._others: OtherStreams | None = None
        self._container: Any = None
        self._output = Output(path)
        try:
            if self._media is not None:
                self._others = OtherStreams(self._media, self._kind, self.notices)
            with self._muxing():
                self._container = av.open(
                    f"file:{self._output.part}",
                    "w",
                    format=self._kind,
                    container_options=self._muxer_options(),
                )
                self._add_streams(codec, options, rate or source.rate or Fraction(25))
                self._open_encoder(codec)
                self._encoder: Any = self._stream.codec_context
                self._container.start_encoding()
        except BaseException:
            self.abort()
            raise

    def resume(self, job: Mapping[str, str]) -> int:
        """See :class:`teco.video.frames.ResumableSink`."""
        try:
            coded = self._another_encoder().extradata or b""
        except TecoError as error:
            self.notices.append(f"nothing is kept where the work breaks off: {error.message}")
            return 0
        job = {**job, "encoder": hashlib.sha256(coded).hexdigest()[:16]}
        with write_errors(self.name):
            self._segments = Segments(self._output.path, job, start_again=self._overwrite)
        if self._segments.done:
            last = self._segments.done[-1]
            self._written = self._segments.frames
            self._last_pts = last.last_pts
            self._end = last.end_ticks * self._time_base + self._shift
            self._encoder = self._another_encoder()
        return self._written

    def write(self, frame: Frame) -> None:
        """Add one frame: uint8 (height, width, 3) RGB, with the source frame's timestamp."""
        check_pixels(frame, *self._size, self.name)
        if frame.starts_segment and self._in_segment and self._segments is not None:
            self._finish_segment()
            self._encoder = self._another_encoder()
        moment = frame.pts * frame.time_base
        pts = self._pts(frame, moment)
        coded = self._converter.frame_of(frame.pixels, frame.layout, self._pix_fmt)
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
        self._in_segment += 1
        with self._muxing():
            self._keep(self._encoder.encode(coded))
            if self._others is not None and self._segments is None:
                self._others.copy_until(moment)

    def commit(self) -> None:
        """Finish the file and give it its name."""
        if not self._written:
            raise TecoError(f"nothing was written to {self.name}: no frame came")
        if self._segments is None:
            with self._muxing():
                self._keep(self._rest())
        else:
            if self._in_segment:
                self._finish_segment()
            self._join(self._segments)
        with self._muxing():
            if self._others is not None:
                media = self._others.media
                cut = media.max_frames is not None and self._written >= media.max_frames
                self._others.copy_rest(self._end if cut else None)
            self._container.close()
            self._container = None
            self._note_what_was_lost()
        self._output.commit()
        if self._segments is not None:
            self._segments.forget()
            self._segments = None
        else:
            drop_unfinished(self._output.path)

    def _note_what_was_lost(self) -> None:
        """Look into the finished file for what it was told and did not take."""
        if self._late > self._time_base:
            self.notices.append(
                f"frames come up to {float(self._late):.2f} s late: the clip has more of them in a "
                f"second than {float(1 / self._time_base):.6g} now and then; containers and codecs "
                "with a clock, such as libx264 in .mkv, keep their times"
            )
        if self._others is not None:
            self.notices.extend(self._others.missing_from(self._output.part))
            self._others.close()
            self._others = None
        if self._aspect is not None:
            with open_container(self._output.part) as written:
                film = next(s for s in written.streams.video if not is_cover(s))
                found = Fraction(film.sample_aspect_ratio or 1)
            if found != self._aspect:
                self.notices.append(
                    f"the pixels' aspect of {self._aspect.numerator}:{self._aspect.denominator} is "
                    f"not in the file: {film.codec_context.name} has no place for it; "
                    "--codec libx264 has"
                )

    def abort(self) -> None:
        """Remove the temporary file, unless committed."""
        if self._others is not None:
            self._others.close()
            self._others = None
        container, self._container = self._container, None
        give_up(container)
        self._output.abort()
        segments, self._segments = self._segments, None
        if segments is not None and segments.keep():
            self.kept = segments.frames

    def _check_codec(self, codec: str, pix_fmt: str, planes: Layout | None) -> str:
        """The pixel format to use. Errors: TecoError for unknown encoders and formats."""
        try:
            encoder: Any = av.Codec(codec, "w")
        except (FFmpegError, ValueError) as error:
            raise TecoError(
                f"there is no encoder called {codec}",
                hint=f"{encoder_meant(codec)}common ones: libx264, libx265, libvpx-vp9, libsvtav1, "
                "ffv1, h264_nvenc",
                exit_code=2,
            ) from error
        if encoder.type != "video":
            raise TecoError(f"{codec} encodes {encoder.type}, not pictures", exit_code=2)
        known = [f.name for f in encoder.video_formats or []]
        if codec == "mjpeg" and f"yuvj{pix_fmt[3:]}" in known:
            pix_fmt = f"yuvj{pix_fmt[3:]}"  # JPEG has full range alone, and this is its name
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
            # The same samples in the order in which they come, where the encoder takes them so.
            same = planes is not None and pix_fmt in OF_PLANES and PIX_FMT[planes] in known
            return PIX_FMT[planes] if same and planes is not None else pix_fmt
        finer = pix_fmt.replace("420", "444").replace("422", "444")
        if finer != pix_fmt and finer in known:
            self.notices.append(f"{finer} instead of {pix_fmt}: {width}x{height} is odd")
            return finer
        raise TecoError(
            f"{width}x{height} is odd, and {codec} with {pix_fmt} needs even sizes",
            hint="use libx264, which takes yuv444p",
            exit_code=2,
        )

    def _constant_rate(
        self, codec: str, source: FrameSource, asked: Fraction | None
    ) -> Fraction | None:
        """The rate of what has no clock of its own; None where each frame has its time."""
        encoder: Any = av.Codec(codec, "w")
        # MPEG-1 and MPEG-2 know a few rates.
        rates = [Fraction(r.numerator, r.denominator) for r in encoder.frame_rates or []]
        fastest = self._media.fastest_rate if self._media is not None else None
        usual = source.rate or fastest or Fraction(25)
        if not rates:
            # AVI has no timestamps, and MPEG-4 part 2 a clock of 16 bits.
            clockless = self._kind == "avi" or codec == "mpeg4"
            return asked or (fastest or usual if clockless else None)
        # Of libav's guesses, the average of a short clip is led astray by its last frame's length.
        nominal = self._media.nominal_rate if self._media is not None else None
        for wanted in (asked,) if asked is not None else (nominal or usual, usual):
            same = [r for r in rates if abs(r / wanted - 1) < _SAME_RATE]
            if same:
                return same[0]
        if asked is not None:
            raise TecoError(
                f"{codec} knows no rate of {float(asked):g} frames a second",
                hint=f"the nearest is --rate {min(rates, key=lambda r: abs(r - asked))}; other "
                "codecs take any",
                exit_code=2,
            )
        # The next higher one, so that frames at the usual distance have a tick each.
        rate = min((r for r in rates if r > usual), default=None)
        if rate is None:
            raise TecoError(
                f"{codec} holds at most {float(max(rates)):g} frames a second, and the clip has "
                f"{float(usual):g}",
                hint=f"give --rate {float(max(rates)):g}, or take another codec",
                exit_code=2,
            )
        self.notices.append(
            f"{codec} knows no rate of {float(usual):.6g} frames a second; the times of frames are "
            f"rounded to ticks of {float(rate):.6g}"
        )
        return rate

    def _spare_memory(self, codec: str, preset: str, options: dict[str, str]) -> None:
        """Let the encoder look ahead by fewer frames where those would take too much memory."""
        usual = lookahead(codec, preset)
        held = lookahead_within(codec, preset, *self._size, free_bytes() // 3)
        if held < usual:
            word = f"rc-lookahead={held}"
            if codec == "libx265":
                options["x265-params"] += f":{word}"
            else:
                options["rc-lookahead"] = str(held)
            self.notices.append(
                f"{codec} looks ahead {held} frames instead of {usual}: memory is short"
            )

    def _describe_hdr10(self, codec: str, options: dict[str, str]) -> None:
        """Tell the encoder what the source says of its mastering display and light levels."""
        found = None if self._media is None else self._media.hdr10
        if found is None:
            return
        words = found.options(codec)
        if words is None:
            self.notices.append(
                f"HDR10 metadata (mastering display, light levels) is dropped: {codec} has no "
                "words for it; --codec libx265 --pix-fmt yuv420p10le keeps it"
            )
            return
        _add_words(options, words)

    def _describe_stereo(self, codec: str, options: dict[str, str]) -> dict[str, str]:
        """Tell the encoder how two views lie in a picture; where the container says it, its tag."""
        found = None if self._media is None else self._media.stereo
        if found is None:
            return {}
        tag = found.tag()
        if self._kind in ("matroska", "webm") and tag is not None:
            return {"stereo_mode": tag}
        words = found.options(codec)
        if words is None:
            self.notices.append(STEREO_IS_LOST + ("; Matroska has words for it" if tag else ""))
        else:
            _add_words(options, words)
        return {}

    def _add_streams(self, codec: str, options: dict[str, str], rate: Fraction) -> None:
        """The picture stream and the copied ones, in the source's order."""
        if self._kind == "avi":
            # A reader of AVI has only the order of packets to go by.
            options = {**options, "bf": "0"}
        media, others = self._media, self._others
        if media is None or others is None:
            self._stream = self._picture_stream(codec, options, rate, {}, None)
            return
        for stream in others.streams():
            if stream.index == media.picture_stream:
                self._stream = self._picture_stream(
                    codec, options, rate,
                    others.tags_of(stream) | self._stereo_tag, stream.disposition,
                )  # fmt: skip
            else:
                others.add(stream, self._container)
        others.start(self._container)

    def _open_encoder(self, codec: str) -> None:
        """Open it by itself: what is wrong with it is not wrong with the file."""
        try:
            self._stream.codec_context.open()
        except FFmpegError as error:
            hardware = device_of(codec)
            if hardware:
                raise TecoError(
                    f"the encoder {codec} cannot be opened here: it needs {hardware}, "
                    "and its driver",
                    hint="libx264 and libx265 run on every machine",
                    exit_code=MACHINE,
                ) from error
            raise TecoError(
                f"the encoder {codec} cannot be opened: {error.strerror}",
                hint="check --crf, --preset and --pix-fmt",
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
        options = {"movie_timescale": str(common if common <= 10_000_000 else clocks[0])}
        if self._others is not None and self._others.has_quicktime_keys():
            # Places, dates with a zone and makers lie under keys of their own, which MP4's usual
            # tags have no room for.
            options["movflags"] = "use_metadata_tags"
        return options

    def _picture_stream(
        self,
        codec: str,
        options: dict[str, str],
        rate: Fraction,
        metadata: dict[str, str],
        disposition: Disposition | None,
    ) -> Any:
        self._codec_options = dict(options)
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
        context = stream.codec_context
        if context.codec.canonical_name == "hevc" and self._kind in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players do not play hev1, libav's choice
        describe_picture(context, self._converter.colour, self._aspect)
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
            self._late = max(self._late, pts * self._time_base + self._shift - moment)
        return pts

    def _rest(self) -> list[Any]:
        """What the encoder still holds at the end of the picture, or of a part of it."""
        packets = self._encoder.encode(None)
        if self._encoder.name == "libx265" and self._in_segment <= _X265_SHORT:
            for packet in packets:  # none is a B-frame: each is decoded when it is shown
                packet.dts = packet.pts
        return packets

    def _keep(self, packets: list[Any]) -> None:
        """Packets of the encoder into the file, or into the part under way."""
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            if self._segments is None:
                self._mux(packet)
                continue
            with write_errors(self.name):
                self._segments.add(packet)

    def _mux(self, packet: Any) -> None:
        packet.stream = self._stream
        packet.time_base = self._time_base
        self._container.mux_one(packet)

    def _finish_segment(self) -> None:
        assert self._segments is not None
        assert self._last_pts is not None
        assert self._end is not None
        with self._muxing(), write_errors(self.name):
            self._keep(self._rest())
            end = round((self._end - self._shift) / self._time_base)
            self._segments.finish(Segment(self._in_segment, self._last_pts, end))
        self._in_segment = 0

    def _another_encoder(self) -> Any:
        """An encoder like the file's, which begins with a key frame and knows of no other part."""
        like = self._stream.codec_context
        made: Any = av.CodecContext.create(like.codec.name, "w")
        for name in (
            "width", "height", "pix_fmt", "time_base", "framerate", "sample_aspect_ratio",
            "colorspace", "color_range", "color_primaries", "color_trc", "flags",
        ):  # fmt: skip
            if (value := getattr(like, name)) is not None:
                setattr(made, name, value)
        made.options = self._codec_options  # those of an open encoder are used up
        made.open()
        if made.extradata != like.extradata:
            raise TecoError(
                f"{like.codec.name} describes each part of the picture otherwise, so that they "
                "cannot be joined",
                hint="use another --codec; libx264 and libx265 can",
            )
        return made

    def _join(self, segments: Segments) -> None:
        """All parts into the file, and beside them what is copied."""
        last: int | None = None
        with self._muxing():
            for packet in segments.packets():
                # Of a varying rate, an encoder guesses when its first packets are to be decoded.
                if last is not None and packet.dts <= last:
                    packet.dts = last + 1
                last = packet.dts
                moment = packet.pts * self._time_base + self._shift
                self._mux(packet)
                if self._others is not None:
                    self._others.copy_until(moment)

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


def _add_words(options: dict[str, str], words: dict[str, str]) -> None:
    """Add to options that are lists of words, such as x265-params."""
    for key, value in words.items():
        options[key] = ":".join(x for x in (options.get(key), value) if x)
