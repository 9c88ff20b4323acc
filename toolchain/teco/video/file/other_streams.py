"""What lies beside the picture in a file: sound, subtitles, covers, attachments, chapters, tags.

It is read a second time, in step with the pictures that are written. Packets are copied wherever
the container holds their codec. Where it does not, text subtitles become the container's own form
of text and sound its usual codec, with a notice; the rest is dropped with a notice. Packets that an
edit list hides from the player go into MP4 and MOV only, which can hide them too.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

from teco.video.file import timecode
from teco.video.file.clock import ContinuousClock, may_jump
from teco.video.file.container import is_cover, open_container
from teco.video.frames import Media

_SPREAD = Fraction(10)
"""How far apart, in seconds, packets of one moment may lie in a file."""

_STALE_TAGS = frozenset(
    {
        "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps",
        "number_of_frames", "number_of_bytes", "rotate", "alpha_mode", "vendor_id", "stereo_mode",
    }
)  # fmt: skip
"""Written by muxers about themselves or the old pictures; wrong once these are replaced."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What is wrong with the disk, not with a packet."""

_TEXT = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
"""Container -> its own form of text subtitles."""

_TEXT_CODECS = frozenset(
    {"ass", "ssa", "subrip", "srt", "text", "mov_text", "webvtt", "microdvd", "subviewer",
     "subviewer1", "sami", "realtext", "stl", "jacosub", "mpl2", "pjs", "vplayer", "eia_608"}
)  # fmt: skip
"""Subtitles that libav decodes to text."""

_SOUND = {
    "mp4": ("aac", 96_000), "mov": ("aac", 96_000), "matroska": ("aac", 96_000),
    "webm": ("libopus", 64_000), "avi": ("libmp3lame", 96_000),
}  # fmt: skip
"""Container -> codec of sound that it cannot hold as it is, and bits a second of each channel."""

_ASS_HEADER = (
    b"[Script Info]\r\nScriptType: v4.00+\r\nPlayResX: 384\r\nPlayResY: 288\r\n\r\n"
    b"[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, "
    b"OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, "
    b"Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\n"
    b"Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1"
    b"\r\n\r\n[Events]\r\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)
"""What libav's text encoders want to know of styles: its decoders' one style (ASS v4+)."""


class _Target(Protocol):
    """Where the packets of one stream go."""

    stream: Any

    def take(self, packet: Any) -> Iterator[Any]:
        """Packets for the output, made of one with the output's clock."""
        ...

    def finish(self) -> Iterator[Any]:
        """What is held: at the end."""
        ...


class _Copy:
    """Packets as they are."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def take(self, packet: Any) -> Iterator[Any]:
        packet.stream = self.stream
        yield packet

    def finish(self) -> Iterator[Any]:
        return iter(())


class _Text:
    """Text subtitles in another form."""

    def __init__(self, source: Any, stream: Any) -> None:
        self.stream = stream
        self._decoder = source.codec_context
        self._base = Fraction(1, 1000)
        stream.codec_context.subtitle_header = _ASS_HEADER
        stream.codec_context.time_base = stream.time_base = self._base

    def take(self, packet: Any) -> Iterator[Any]:
        decoded = self._decoder.decode2(packet)
        if not decoded:  # MP4 fills the time between two texts with empty ones
            return
        made = self.stream.codec_context.encode_subtitle(decoded)
        made.pts = made.dts = round(packet.pts * packet.time_base / self._base)
        made.duration = round((packet.duration or 0) * packet.time_base / self._base)
        made.time_base = self._base
        made.stream = self.stream
        yield made

    def finish(self) -> Iterator[Any]:
        return iter(())


class _Sound:
    """Sound in another codec."""

    def __init__(self, source: Any, stream: Any) -> None:
        self.stream = stream
        self._source = source

    def take(self, packet: Any) -> Iterator[Any]:
        for frame in self._source.codec_context.decode(packet):
            yield from self.stream.encode(frame)

    def finish(self) -> Iterator[Any]:
        with contextlib.suppress(FFmpegError, EOFError):
            for frame in self._source.codec_context.decode(None):
                yield from self.stream.encode(frame)
        yield from self.stream.encode(None)


class OtherStreams:
    """The source's streams that are not its picture.

    Args:
        media: of the source.
        kind: libav's name of the output's container.
        notices: sentences about what is lost or changed are added here.
    """

    def __init__(self, media: Media, kind: str, notices: list[str]) -> None:
        self.media = media
        self._output: Any = None
        self._kind = kind
        self._notices = notices
        self._input: Any = open_container(media.path)
        self._clock = ContinuousClock() if may_jump(self._input) else None
        self._targets: dict[int, _Target] = {}
        self._last: dict[int, int] = {}
        self._packets: Iterator[Any] = iter(())
        self._held: Any = None
        self._broken: dict[int, int] = {}

    def streams(self) -> list[Any]:
        return list(self._input.streams)

    def has_quicktime_keys(self) -> bool:
        """Whether there are tags that only QuickTime's own metadata can hold."""
        keys = (*self._input.metadata, *(k for s in self._input.streams for k in s.metadata))
        return any(key.startswith(("com.apple.", "com.android.")) for key in keys)

    def tags_of(self, stream: Any) -> dict[str, str]:
        """A stream's tags as they are in the output; a time code is that of its first picture."""
        return self._kept(stream.metadata)

    def add(self, stream: Any, output: Any) -> None:
        """Make a stream for this one in the output, or say why not."""
        if stream.type == "data" and _label(stream) == "bin_data" and self._input.chapters():
            # The text track behind MP4 chapters; the muxer makes a new one of the chapters.
            return
        if stream.type == "data" and "timecode" in stream.metadata:
            # Likewise made anew, of the picture stream's tag.
            return
        title = stream.metadata.get("title") or stream.metadata.get("filename")
        kind = "cover picture" if stream.type == "video" else stream.type
        name = f"{kind} stream {stream.index}" + (f" ({title})" if title else "")
        if stream.type == "video" and self._kind == "matroska":
            # Matroska's covers are attachments; as a video track it would be a second film.
            data = self._cover_of(stream) if is_cover(stream) else None
            if data is not None:
                self._attach(stream, data, output)
                return
        reason = _refusal(self._kind, stream)
        if reason is None:
            self._targets[stream.index] = _Copy(self._like(output, stream))
            return
        try:
            converted = self._converted(stream, output)
        except (FFmpegError, ValueError):
            converted = None
        if converted is None:
            self._notices.append(f"{name} dropped: {reason}")
            return
        self._targets[stream.index] = converted
        self._notices.append(
            f"{name} converted from {_label(stream)} to {_label(converted.stream)}: {reason}"
        )

    def start(self, output: Any) -> None:
        """Copy what describes the whole and be ready for packets; the last before the header."""
        self._output = output
        output.metadata.update(self._kept(self._input.metadata))
        media = self.media
        begin = media.start or Fraction(0)
        chapters: list[Any] = []
        for chapter in self._input.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            first = max(chapter["start"] * base, begin)
            last = chapter["end"] * base
            last = last if media.end is None else min(last, media.end)
            if last > first:
                ends = {
                    "start": round((first - media.origin) / base),
                    "end": round((last - media.origin) / base),
                }
                chapters.append({**chapter, **ends})
        if chapters:
            output.set_chapters(chapters)
        wanted = [s for s in self._input.streams if s.index in self._targets]
        if not wanted:
            return
        # A clock that jumps is followed on sound and pictures, as the reader of the pictures does.
        followed = [
            s for s in self._input.streams
            if s in wanted or (self._clock is not None and s.type in ("video", "audio"))
        ]  # fmt: skip
        for stream in self._input.streams:
            if stream not in followed:
                stream.discard = Discard.all
        # Where seeking is by index. Elsewhere it may land within a packet; reading on is exact.
        indexed = any(name in self._input.format.name for name in ("mp4", "matroska"))
        if begin > 2 and indexed:
            with contextlib.suppress(FFmpegError):
                self._input.seek(int(begin * av.time_base))
        self._packets = self._input.demux(followed)

    def copy_until(self, moment: Fraction) -> None:
        """Copy what is due up to ``moment``, in seconds on the source's clock."""
        while (packet := self._held or self._next()) is not None:
            self._held = packet
            if packet.dts * packet.time_base > moment:
                return
            self._held = None
            self._pass_on(packet, self.media.end)

    def copy_rest(self, end: Fraction | None) -> None:
        """Copy what is left, up to ``end`` if given and to the range's end."""
        ends = [e for e in (end, self.media.end) if e is not None]
        last = min(ends) if ends else None
        while (packet := self._held or self._next()) is not None:
            self._held = None
            if last is not None and packet.dts * packet.time_base > last + _SPREAD:
                break
            self._pass_on(packet, last)
        for index, target in self._targets.items():
            for made in target.finish():
                self._mux(index, made)
        for index, count in self._broken.items():
            kind = self._input.streams[index].type
            packets = "a packet" if count == 1 else f"{count} packets"
            self._notices.append(f"{packets} of {kind} stream {index} dropped: damaged")

    def missing_from(self, path: Path) -> Iterator[str]:
        """Sentences on what describes the whole and is not in the finished file at ``path``: each
        container has its own list of tags that it knows."""
        with open_container(path) as written:
            found = {key.lower() for key in written.metadata}
            lost = [k for k in self._kept(self._input.metadata) if k.lower() not in found]
            chapters = len(self._input.chapters()) and not written.chapters()
        if lost:
            yield f"tags dropped, which {self._kind} has no place for: {', '.join(sorted(lost))}"
        if chapters:
            yield f"chapters dropped: {self._kind} does not hold any"

    def close(self) -> None:
        self._input.close()

    def _like(self, output: Any, stream: Any) -> Any:
        """A stream for copies of the packets of ``stream``. Raises what PyAV raises."""
        copy = output.add_stream_from_template(stream, opaque=True)
        copy.metadata.clear()
        copy.metadata.update(self._kept(stream.metadata))
        copy.disposition = stream.disposition
        return copy

    def _converted(self, stream: Any, output: Any) -> _Target | None:
        """A stream of the container's own codec for one that it does not hold."""
        if stream.codec_context is None:
            return None
        made: _Target
        if stream.type == "subtitle" and _label(stream) in _TEXT_CODECS and self._kind in _TEXT:
            made = _Text(stream, output.add_stream(_TEXT[self._kind]))
        elif stream.type == "audio" and self._kind in _SOUND:
            codec, bits = _SOUND[self._kind]
            context = stream.codec_context
            rates = av.Codec(codec, "w").audio_rates
            rate = context.sample_rate
            if rates and rate not in rates:
                rate = min((r for r in rates if r >= rate), default=max(rates))
            layout = _encodable_layout(codec, rate, context)
            if layout is None:
                return None
            target = output.add_stream(codec, rate=rate, layout=layout)
            target.bit_rate = bits * context.channels
            made = _Sound(stream, target)
        else:
            return None
        made.stream.metadata.update(self._kept(stream.metadata))
        made.stream.disposition = stream.disposition
        return made

    def _cover_of(self, stream: Any) -> bytes | None:
        """The picture of a cover stream: its one packet."""
        with contextlib.suppress(FFmpegError), open_container(self.media.path) as container:
            for packet in container.demux(container.streams[stream.index]):
                if packet.size:
                    return bytes(packet)
        return None

    def _attach(self, stream: Any, data: bytes, output: Any) -> None:
        tags = {k.lower(): v for k, v in stream.metadata.items()}
        ending = {"mjpeg": "jpg", "png": "png", "bmp": "bmp", "gif": "gif", "webp": "webp"}.get(
            _label(stream), "jpg"
        )
        name = tags.get("filename") or f"cover.{ending}"
        kind = tags.get("mimetype") or f"image/{'jpeg' if ending == 'jpg' else ending}"
        output.add_attachment(name, kind, data)

    def _kept(self, metadata: dict[str, str]) -> dict[str, str]:
        """Tags that are still true of the output."""
        kept = {
            key: value
            for key, value in metadata.items()
            if key.lower().split("-")[0] not in _STALE_TAGS and not key.startswith("_STATISTICS")
        }
        if self.media.start is not None:
            picture = self._input.streams[self.media.picture_stream]
            rate = Fraction(picture.average_rate or picture.guessed_rate or 0)
            skipped = self.media.start - Fraction(self._input.start_time or 0, av.time_base)
            for key in [k for k in kept if k.lower() == "timecode"]:
                later = timecode.moved(kept[key], round(skipped * rate), rate)
                if later is not None:
                    kept[key] = later
        return kept

    def _next(self) -> Any:
        """The next packet with a timestamp of a stream that is carried over; None at the end."""
        try:
            for packet in self._packets:
                if not packet.size:
                    continue
                if packet.dts is None:
                    packet.dts = packet.pts
                if packet.pts is None:
                    packet.pts = packet.dts
                if self._clock is not None:
                    self._clock.place(packet)
                if packet.stream.index not in self._targets:
                    continue
                if packet.stream.disposition & Disposition.attached_pic:
                    packet.pts = packet.dts = 0
                if packet.dts is not None:
                    return packet
        except FFmpegError as error:
            self._notices.append(f"copying sound and subtitles stopped early: {error.strerror}")
            self._packets = iter(())
        return None

    def _pass_on(self, packet: Any, end: Fraction | None) -> None:
        """Cut, shift and write a packet of the source."""
        stream = packet.stream
        base = packet.time_base
        begin = self.media.start
        if packet.is_discard and self._kind not in ("mp4", "mov"):
            # Decoded but not played: what an edit list cut away, and an encoder's run-up. Without
            # edit lists it would be played, or push everything back to begin at zero.
            return
        if not stream.disposition & Disposition.attached_pic:
            moment = packet.pts * base
            if self._kind == "avi" and moment < self.media.origin:
                return  # an encoder's run-up: AVI has no times, and all after it would come late
            if (begin is not None and moment < begin) or (end is not None and moment >= end):
                return
            ticks = round(self.media.origin / base)
            packet.pts -= ticks
            packet.dts -= ticks
        try:
            for made in self._targets[stream.index].take(packet):
                self._mux(stream.index, made)
        except FFmpegError as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            # One bad packet is no reason to lose the rest.
            self._broken[stream.index] = self._broken.get(stream.index, 0) + 1

    def _mux(self, index: int, packet: Any) -> None:
        target, base = self._targets[index].stream, packet.time_base
        if packet.dts is not None:
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
        self._output.mux_one(packet)


_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
"""Channels -> how they most likely lie around the listener, where nothing says so."""


def _encodable_layout(codec: str, rate: int, context: Any) -> str | None:
    """A layout of the same channels that an encoder takes, tried out; None if there is none."""
    for layout in (context.layout.name, _LAYOUTS.get(context.channels)):
        try:
            trial: Any = av.CodecContext.create(codec, "w")
            trial.layout, trial.sample_rate = layout, rate
            formats: Any = av.Codec(codec, "w").audio_formats
            trial.format = formats[0].name
            trial.open()
        except (FFmpegError, ValueError, TypeError, IndexError):
            continue
        return layout
    return None


def _label(stream: Any) -> str:
    """The codec's name, whatever libav knows of it."""
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return getattr(stream, "name", None) or "a codec that libav does not know"


def _refusal(kind: str, stream: Any) -> str | None:
    """Why this container cannot hold a copy of the stream; None if it can.

    Tried out in memory: libav says what a muxer takes only for some codecs, and for the rest by
    failing to write the header.
    """
    if stream.type not in ("video", "audio", "subtitle", "data", "attachment"):
        return "of unknown kind"
    # These muxers take them and write something else, or nothing.
    if stream.type == "attachment" and kind != "matroska":
        return f"{kind} does not hold attachments"
    if is_cover(stream) and kind not in ("mp4", "mov"):
        return f"{kind} does not hold covers"
    trial = av.open(io.BytesIO(), "w", format=kind)
    try:
        picture: Any = trial.add_stream(
            "libvpx-vp9" if kind == "webm" else "libx264", rate=25, width=16, height=16
        )
        picture.codec_context.time_base = Fraction(1, 25)
        copy = trial.add_stream_from_template(stream, opaque=True)
        copy.disposition = stream.disposition
        trial.start_encoding()
        trial.close()
    except (FFmpegError, ValueError):
        return f"{kind} does not hold {_label(stream)}"
    return None
