"""Files of every usual container with everything in them that it can hold, and what of it survives.

A property is read from a file by :data:`PROPERTIES`; what is not in the input is no question there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from teco.inference.upscale import eight_bits
from teco.video import side_data
from teco.video.clips import open_sink, open_source
from teco.video.file.container import is_cover
from teco.video.file.encoders import EncoderSettings

COUNT = 30


@dataclass(frozen=True)
class Route:
    """A container in, a container out, and the codecs of what goes in."""

    into: str
    out: str
    picture: str
    sound: str
    text: str = ""
    bits: str = "yuv420p"
    interlaced: bool = False
    hdr: bool = False
    encoder: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.into} → {self.out}" + (f", {self.note}" if self.note else "")


ROUTES = (
    Route(".mp4", ".mp4", "libx264", "aac", "mov_text"),
    Route(".mov", ".mov", "libx264", "aac", "mov_text"),
    Route(".mkv", ".mkv", "libx264", "libopus", "subrip"),
    Route(".webm", ".webm", "libvpx-vp9", "libopus", "webvtt"),
    Route(".avi", ".avi", "mpeg4", "libmp3lame"),
    Route(".ts", ".mkv", "libx264", "aac"),
    Route(".ts", ".mp4", "mpeg2video", "mp2"),
    Route(".mpg", ".mkv", "mpeg2video", "mp2"),
    Route(".flv", ".mp4", "libx264", "aac"),
    Route(".wmv", ".mkv", "wmv2", "wmav2"),
    Route(".mxf", ".mov", "mpeg2video", "pcm_s16le"),
    Route(".nut", ".mkv", "ffv1", "pcm_s16le"),
    Route(".3gp", ".mp4", "mpeg4", "aac"),
    Route(".mp4", ".mkv", "libx264", "aac", "mov_text"),
    Route(".mkv", ".mp4", "libx264", "libopus", "ass"),
    Route(".mkv", ".webm", "libx264", "aac", "subrip"),
    Route(".mkv", ".avi", "libx264", "libopus", "subrip"),
    Route(".ts", ".mkv", "libx264", "aac", interlaced=True, note="interlaced"),
    Route(".mkv", ".mp4", "libx265", "aac", bits="yuv420p10le", hdr=True, encoder="libx265",
          note="libx265, 10 bits"),
    Route(".mkv", ".mkv", "libx265", "aac", bits="yuv420p10le", hdr=True, note="libx264, 8 bits"),
)  # fmt: skip


def fill(path: Path, route: Route) -> Path:
    """A file with all that its container takes of sound, text, covers, chapters and tags."""
    picture, sound, text = route.picture, route.sound, route.text
    kind = av.open(str(path), "w")
    kind.metadata.update(
        {"title": "a title", "artist": "somebody", "comment": "said",
         "creation_time": "2024-01-02T03:04:05.000000Z"}
    )  # fmt: skip
    options = {"preset": "ultrafast"} if picture == "libx264" else {}
    if route.hdr:
        options = {"preset": "ultrafast", "x265-params": "log-level=error:hdr10=1:repeat-headers=1:"
                   "max-cll=1000,400:master-display=G(13250,34500)B(7500,3000)R(34000,16000)"
                   "WP(15635,16450)L(10000000,50)"}  # fmt: skip
    if route.interlaced:
        options |= {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    base = Fraction(1, 25)
    video: Any = kind.add_stream(picture, rate=25, options=options)
    video.width, video.height = 64, 48
    video.pix_fmt = route.bits
    context = video.codec_context
    context.time_base = video.time_base = base
    context.sample_aspect_ratio = Fraction(4, 3)
    context.colorspace, context.color_range = 6, 2 if picture in ("libx264", "ffv1") else 1
    context.color_primaries, context.color_trc = 5, 6
    if route.hdr:
        context.colorspace, context.color_primaries, context.color_trc = 9, 9, 16
    if route.into in (".mkv", ".webm"):
        video.metadata["stereo_mode"] = "left_right"
    if route.into in (".mp4", ".mov"):
        video.metadata["timecode"] = "01:02:03:04"
    voices: list[Any] = []
    for language in ("eng", "ger"):
        voice: Any = kind.add_stream(
            sound, rate=48_000, layout="stereo" if sound == "pcm_s16le" else "mono"
        )
        voice.metadata["language"] = language
        if sound == "wmav2":
            voice.bit_rate = 64_000
        voices.append(voice)
        if route.into in (".flv", ".3gp"):
            break
    written: Any = None
    if text:
        written = kind.add_stream(text)
        written.codec_context.subtitle_header = b"[Script Info]\r\n" + _STYLES
        written.codec_context.time_base = written.time_base = Fraction(1, 1000)
        written.metadata["language"] = "fre"
        written.disposition = Disposition.forced
    _, cover = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))
    still: Any = None
    if route.into == ".mkv":
        kind.add_attachment("cover.jpg", "image/jpeg", cover.tobytes())
        kind.add_attachment("font.ttf", "font/ttf", b"not really a font")
    elif route.into in (".mp4", ".mov"):
        still = kind.add_stream("mjpeg", rate=1)
        still.width, still.height, still.pix_fmt = 32, 32, "yuvj420p"
        still.disposition = Disposition.attached_pic
    kind.set_chapters(
        [{"id": n, "start": 400 * n, "end": 400 * n + 400, "time_base": Fraction(1, 1000),
          "metadata": {"title": f"part {n}"}} for n in range(2)]
    )  # fmt: skip
    kind.start_encoding()
    if still is not None:
        packet = av.Packet(cover.tobytes())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = base, still, True
        kind.mux_one(packet)
    # Of a varying rate where there are timestamps.
    varying = route.into in (".mp4", ".mov", ".mkv", ".webm", ".flv", ".nut")
    for n in range(COUNT):
        shade = np.full((48, 64, 3), 60 + 4 * n, np.uint8)
        shade[10:20, n : n + 20] = 200
        frame = av.VideoFrame.from_ndarray(shade, "rgb24").reformat(format=route.bits)
        frame.colorspace, frame.color_range = context.colorspace, context.color_range
        frame.pts = n + 5 * (n >= 20) if varying else n
        frame.time_base = base
        kind.mux(video.encode(frame))
    kind.mux(video.encode(None))
    for voice in voices:
        tone = (np.sin(np.arange(57_600) / 16) / 4).astype(np.float32)[None]
        piece = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        piece.sample_rate, piece.pts = 48_000, 0
        kind.mux(voice.encode(piece))
        kind.mux(voice.encode(None))
    if written is not None:
        from av.subtitles.subtitle import SubtitleSet

        words = b"0,0,Default,,0,0,0,,Hello"
        made = written.codec_context.encode_subtitle(SubtitleSet.create(words, 0, 300, 0))
        made.pts = made.dts = 200
        made.duration, made.time_base, made.stream = 300, Fraction(1, 1000), written
        kind.mux_one(made)
    kind.close()
    return path


_STYLES = (
    b"ScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, "
    b"ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, "
    b"Encoding\r\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,"
    b"10,10,10,1\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, "
    b"MarginV, Effect, Text\r\n"
)


# --- what is read from a file ----------------------------------------------------------------


def _film(container: Any) -> Any:
    return next(s for s in container.streams.video if not is_cover(s))


def _frame(container: Any) -> Any:
    return next(container.decode(_film(container)))


def _moments(container: Any) -> Any:
    if "avi" in container.format.name:  # it stores none, and libav's guesses err by a frame
        with open_source(container.name.removeprefix("file:")) as source:
            times = [frame.seconds for frame in source]
    else:
        times = sorted(
            float(p.pts * p.time_base) for p in container.demux(_film(container)) if p.size
        )
    return [round(t - times[0], 2) for t in times]


def _first(container: Any, kind: str, read: Callable[[Any], Any]) -> Any:
    stream = next((s for s in container.streams if s.type == kind), None)
    return None if stream is None else read(stream)


def _words(container: Any) -> Any:
    stream = next((s for s in container.streams if s.type == "subtitle"), None)
    if stream is None:
        return None
    said = b"".join(bytes(p) for p in container.demux(stream) if p.size)
    return b"Hello" in said or None


def _codec(stream: Any) -> str:
    name = stream.codec_context.codec.canonical_name
    return "mp3" if name == "mp2" else name  # MPEG audio, which MP4 does not tell apart


def _length(container: Any) -> Any:
    stream = next((s for s in container.streams if s.type == "audio"), None)
    if stream is None:
        return None
    frames = list(container.decode(stream))
    return round(sum(f.samples / f.sample_rate for f in frames), 0)


def _cover(container: Any) -> Any:
    return any(is_cover(s) for s in container.streams.video) or None


def _tag(name: str) -> Callable[[Any], Any]:
    def read(container: Any) -> Any:
        found = {k.lower(): v for k, v in container.metadata.items()}.get(name)
        return found if name != "creation_time" or found is None else found[:19]

    return read


def _timecode(container: Any) -> Any:
    for tags in (container.metadata, *(s.metadata for s in container.streams)):
        for key, value in tags.items():
            if key.lower() == "timecode":
                return value
    return None


PROPERTIES: dict[str, Callable[[Any], Any]] = {
    "moments of the frames": _moments,
    "sound": lambda c: _first(c, "audio", _codec),
    "length of the sound": _length,
    "second sound track": lambda c: len(c.streams.audio) if len(c.streams.audio) > 1 else None,
    "language of the sound": lambda c: _first(c, "audio", lambda s: s.metadata.get("language")),
    "text subtitles": _words,
    "language of subtitles": lambda c: _first(
        c, "subtitle", lambda s: s.metadata.get("language")
    ),
    "forced subtitles": lambda c: _first(
        c, "subtitle", lambda s: bool(s.disposition & Disposition.forced) or None
    ),
    "cover": _cover,
    "attached font": lambda c: _first(c, "attachment", lambda s: s.metadata.get("filename")),
    "chapters": lambda c: [(x["start"] * x["time_base"], x["metadata"]) for x in c.chapters()]
    or None,
    "title": _tag("title"),
    "artist": _tag("artist"),
    "comment": _tag("comment"),
    "creation time": _tag("creation_time"),
    "time code": _timecode,
    "pixel aspect": lambda c: Fraction(_film(c).sample_aspect_ratio or 1) if (
        Fraction(_film(c).sample_aspect_ratio or 1) != 1
    ) else None,
    "colour matrix": lambda c: {5: 6}.get(
        (x := int(_frame(c).colorspace)), x
    ) if int(_frame(c).colorspace) not in (0, 2) else None,
    "primaries": lambda c: int(_frame(c).color_primaries) if (
        int(_frame(c).color_primaries) not in (0, 2)
    ) else None,
    # BT.709 and SMPTE 170M are one curve (H.273), and QuickTime has one number for it.
    "transfer": lambda c: {6: 1}.get((x := int(_frame(c).color_trc)), x) if (
        int(_frame(c).color_trc) not in (0, 2)
    ) else None,
    "full range": lambda c: int(_frame(c).color_range) == 2 or None,
    "more than 8 bits": lambda c: max(
        x.bits for x in av.VideoFormat(_film(c).codec_context.pix_fmt).components
    ) > 8 or None,
    "HDR10 metadata": lambda c: side_data.hdr10(_frame(c)),
    "stereo arrangement": lambda c: side_data.stereo(_frame(c)),
    "field order": lambda c: _frame(c).interlaced_frame or None,
}  # fmt: skip
"""Name -> what a container has of it; None where it has none."""

WORDS = {
    "moments of the frames": ("rate varies",),
    "sound": ("audio stream",), "length of the sound": ("audio stream",),
    "second sound track": ("audio stream",), "language of the sound": ("audio stream",),
    "text subtitles": ("subtitle stream",), "language of subtitles": ("subtitle stream",),
    "forced subtitles": ("subtitle stream",), "cover": ("cover picture",),
    "attached font": ("attachment stream",), "chapters": ("chapters",),
    "pixel aspect": ("aspect",), "time code": ("time code",), "field order": ("interlaced",),
    "stereo arrangement": ("two views",),
    "more than 8 bits": ("bits",), "HDR10 metadata": ("HDR10",),
    "title": ("tags",), "artist": ("tags",), "comment": ("tags",), "creation time": ("tags",),
}  # fmt: skip
"""Property -> how a notice names it."""


def read(path: Path) -> dict[str, Any]:
    """Every property of a file."""
    found: dict[str, Any] = {}
    for name, ask in PROPERTIES.items():
        with av.open(str(path)) as container:
            try:
                found[name] = ask(container)
            except (FFmpegError, StopIteration):
                found[name] = None
    return found


def carried(path: Path, out: Path, route: Route) -> tuple[dict[str, str], list[str]]:
    """What becomes of each property on the way: "kept", "converted", "named", "lost", or "" where
    the input has none; and the notices."""
    encoder = EncoderSettings(preset="ultrafast")
    if route.encoder:
        encoder = replace(encoder, codec=route.encoder, pix_fmt="yuv420p10le")
    with (
        open_source(path, deep=bool(route.encoder)) as source,
        open_sink(
            out, source=source, width=source.width * 4, height=source.height * 4,
            overwrite=True, encoder=encoder,
        ) as sink,
    ):  # fmt: skip
        for frame in source:
            sink.write(frame.with_pixels(frame.pixels.repeat(4, 0).repeat(4, 1)))
        sink.commit()
        notices = source.notices + sink.notices
        if source.depth > 8 and not route.encoder:
            notices.append(eight_bits(source))  # which `teco upscale` says
    before, after = read(path), read(out)
    fate: dict[str, str] = {}
    for name, value in before.items():
        said = any(word in n for word in WORDS.get(name, ("",)) if word for n in notices)
        converted = said and any("converted" in n for n in notices)
        if value is None:
            fate[name] = ""
        elif after[name] == value:
            fate[name] = "kept"
        elif name == "field order":
            fate[name] = "converted" if said else "lost"
        elif converted and after[name] is not None:
            fate[name] = "converted"
        else:
            fate[name] = "named" if said else "lost"
    return fate, notices
