"""Clips in and out: what goes in comes out at the same moment, in the same colour, or is refused.

Every clip here is made with PyAV; no ffmpeg binary is needed.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.clips import (
    LUMA,
    TAGS,
    enlarge,
    enlarged,
    make,
    moments,
    moving,
    packets,
    read,
    sink_for,
)

from teco.core.errors import TecoError
from teco.video.clips import open_sink, open_source
from teco.video.colour import Colour, Converter, guess_matrix
from teco.video.file.encoders import EncoderSettings
from teco.video.y4m import Y4MSink, Y4MSource

BARS = np.array(
    [[235, 235, 235], [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0],
     [0, 0, 191], [20, 20, 20]], np.uint8,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames with sound and a chapter."""
    path = tmp_path_factory.mktemp("clips") / "in.mp4"
    return make(
        path, moving(60), sound=True, chapters=True, container_options={"movflags": "+faststart"}
    )


# --- timestamps and what is copied -----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate_keeps_every_timestamp(tmp_path, suffix):
    steps = np.random.default_rng(1).integers(90, 9000, 40) // 90 * 90
    pts = [900, *(900 + np.cumsum(steps)).tolist()][:40]
    base = Fraction(1, 90_000)
    source = make(tmp_path / "in.mp4", moving(40), pts=pts, time_base=base)
    assert moments(source) == [p * base for p in pts]
    # 90 ticks are a millisecond, which is all that Matroska counts.
    enlarge(source, tmp_path / f"out{suffix}")
    assert moments(tmp_path / f"out{suffix}") == [p * base for p in pts]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_odd_time_bases_are_exact_or_rounded_to_milliseconds(tmp_path, suffix):
    base = Fraction(1001, 30_000)
    source = make(tmp_path / "in.mp4", moving(20), time_base=base)
    enlarge(source, tmp_path / f"out{suffix}")
    for n, moment in enumerate(moments(tmp_path / f"out{suffix}")):
        assert abs(moment - n * base) <= (0 if suffix == ".mp4" else Fraction(1, 2000))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_sound_is_copied_packet_by_packet(tmp_path, clip, suffix):
    out = tmp_path / f"out{suffix}"
    assert enlarge(clip, out) == []
    assert packets(out, "audio") == packets(clip, "audio")
    assert len(packets(out, "audio")) > 100
    assert moments(out) == moments(clip)
    with av.open(str(out)) as container:
        assert container.streams.audio[0].metadata["language"] == "eng"
        assert container.metadata["title"] == "a title"
        assert [c["metadata"]["title"] for c in container.chapters()] == ["one"]
        assert container.streams.video[0].width == 256


def test_sound_into_matroska_leaves_out_only_what_is_not_played(tmp_path, clip):
    # MP4 starts AAC before zero and hides the run-up, which Matroska cannot.
    out = tmp_path / "out.mkv"
    enlarge(clip, out)
    before, after = packets(clip, "audio"), packets(out, "audio")
    assert before[0][1] < 0
    assert [p[0] for p in after] == [p[0] for p in before[1:]]
    assert all(
        abs(a[1] - b[1]) <= Fraction(1, 2000) for a, b in zip(after, before[1:], strict=True)
    )
    assert moments(out) == moments(clip)


def test_sound_is_interleaved_with_the_picture(tmp_path, clip):
    enlarge(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        kinds = [p.stream.type for p in sorted(container.demux(), key=lambda p: p.pos or 0)]
    assert "audio" in kinds[: len(kinds) // 4]
    assert "video" in kinds[len(kinds) // 2 :]


def test_sound_that_the_container_cannot_hold_is_converted_with_a_notice(tmp_path, clip):
    notices = enlarge(clip, tmp_path / "out.webm", span={"max_frames": 5})
    assert "audio stream 1 converted from aac to opus: webm does not hold aac" in notices
    assert len(read(tmp_path / "out.webm")) == 5
    with av.open(str(tmp_path / "out.webm")) as container:
        sound = list(container.decode(audio=0))
    assert sound[0].pts * sound[0].time_base < 0.03
    assert abs(sum(f.samples for f in sound) / 48_000 - 0.2) < 0.05


def test_subtitles_and_attachments_are_copied(tmp_path):
    plain = make(tmp_path / "plain.mkv", moving(25))
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as pictures, av.open(str(source), "w") as out:
        video = out.add_stream_from_template(pictures.streams.video[0])
        text = out.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        out.add_attachment("font.ttf", "font/ttf", b"not really a font")
        for packet in pictures.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
        for n, line in enumerate((b"one", b"two")):
            packet = av.Packet(line)
            packet.pts = packet.dts = 100 + 500 * n
            packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), text
            out.mux(packet)
    assert enlarge(source, tmp_path / "out.mkv") == []
    assert packets(tmp_path / "out.mkv", "subtitle") == packets(source, "subtitle")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.attachments[0].data == b"not really a font"
    notices = enlarge(source, tmp_path / "out.mp4")
    assert "subtitle stream 1 converted from subrip to mov_text: mp4 does not hold subrip" in (
        notices
    )
    with av.open(str(tmp_path / "out.mp4")) as container:
        said = [
            (p.pts * p.time_base, bytes(p)[2:]) for p in container.demux(subtitles=0) if p.size > 2
        ]
    assert said == [(Fraction(1, 10), b"one"), (Fraction(6, 10), b"two")]
    assert any("font.ttf" in n for n in notices)
    assert len(read(tmp_path / "out.mp4")) == 25


@pytest.mark.parametrize("start", [0.5, 2.1])
def test_a_range_cuts_picture_and_sound_alike(tmp_path, clip, start):
    # 2.1 s is beyond where decoding from the beginning gives way to a seek.
    out = tmp_path / "out.mp4"
    enlarge(clip, out, span={"start": start, "end": start + 0.2})
    first = -int(-start * 25 // 1)
    whole = read(clip)
    cut = read(clip, start=start, end=start + 0.2)
    assert [f.index for f in cut] == [0, 1, 2, 3, 4]
    assert [f.pts for f in cut] == [f.pts for f in whole[first : first + 5]]
    assert all((a.pixels == b.pixels).all() for a, b in zip(cut, whole[first:], strict=False))
    assert moments(out) == [Fraction(n, 25) for n in range(5)]
    begin = cut[0].pts * cut[0].time_base
    end = Fraction(start + 0.2).limit_denominator(1000)
    expected = [
        (data, pts - begin, dts - begin)
        for data, pts, dts in packets(clip, "audio")
        if begin <= pts < end
    ]
    assert packets(out, "audio") == expected
    assert len(expected) > 5


def test_max_frames_cuts_the_sound_too(tmp_path, clip):
    enlarge(clip, tmp_path / "out.mp4", span={"max_frames": 10})
    assert len(read(tmp_path / "out.mp4")) == 10
    assert packets(tmp_path / "out.mp4", "audio")[-1][1] < Fraction(10, 25)


def test_sources_can_be_read_twice(clip):
    with open_source(clip, max_frames=3) as source:
        next(iter(source))
        again = [f.index for f in source]
    assert again == [0, 1, 2]


# --- colour ----------------------------------------------------------------------------------


def exact_yuv(rgb: np.ndarray, colour: Colour) -> np.ndarray:
    """8-bit Y'CbCr in floating point, from the standards' definition."""
    kr, kb = LUMA[colour.matrix]
    r, g, b = np.moveaxis(rgb.astype(float) / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / 2 / (1 - kb), (r - y) / 2 / (1 - kr)
    if colour.full_range:
        return np.stack([255 * y, 128 + 255 * u, 128 + 255 * v], -1)
    return np.stack([16 + 219 * y, 128 + 224 * u, 128 + 224 * v], -1)


def bars(size: int = 32) -> np.ndarray:
    return np.ascontiguousarray(BARS.repeat(size, 0)[None].repeat(size * 2, 0))


def middles(picture: np.ndarray, size: int) -> np.ndarray:
    return picture[size, size // 2 :: size].astype(int)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_colour_bars_come_back_within_two_steps(tmp_path, matrix, full):
    colour = Colour(matrix, full)
    # The input's planes are filled from our own arithmetic, so that two equal errors of the
    # library, one each way, cannot hide.
    yuv = np.rint(exact_yuv(bars(), colour)).astype(np.uint8)
    height, width = yuv.shape[:2]
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.colorspace = TAGS[matrix]
        video.codec_context.color_range = 2 if full else 1
        planes = [yuv[..., 0], yuv[::2, ::2, 1], yuv[::2, ::2, 2]]
        frame = av.VideoFrame.from_ndarray(
            np.concatenate([p.ravel() for p in planes]).reshape(-1, width), "yuv420p"
        )
        for n in range(3):
            frame.pts = n
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with open_source(source) as opened:
        assert opened.colour == colour
        first = next(iter(opened))
    assert np.abs(middles(first.pixels, 32) - BARS).max() <= 2
    enlarge(source, tmp_path / "out.mp4")
    with open_source(tmp_path / "out.mp4") as opened:
        assert opened.colour == colour
        last = list(opened)[-1]
    assert np.abs(middles(last.pixels, 128) - BARS).max() <= 2


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_conversion_agrees_with_the_definition(matrix, full, pix_fmt):
    colour = Colour(matrix, full)
    frame = Converter(colour).from_rgb(bars(), pix_fmt)
    exact = exact_yuv(BARS, colour)
    deep = "10" in pix_fmt
    for channel, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)
        got = rows[:, : plane.width][
            plane.height // 2, plane.width // 16 :: plane.width // 8
        ].astype(float)
        wanted = exact[:, channel]
        if deep:
            wanted = (
                (wanted - 128) * 1023 / 255 + 512
                if full and channel
                else (wanted * 1023 / 255 if full else wanted * 4)
            )
        assert np.abs(got - wanted).max() <= 1.3
    back = Converter(colour).to_rgb(frame)
    assert np.abs(middles(back, 32) - BARS).max() <= 2


def test_an_untagged_clip_keeps_its_colours_when_its_size_would_change_the_guess(tmp_path):
    picture = np.ascontiguousarray(np.tile(bars(40), (3, 1, 1))[:180])
    source = make(tmp_path / "in.mp4", [picture] * 2)
    with open_source(source) as opened:
        assert not opened.colour.tagged
        assert opened.colour.matrix == guess_matrix(320, 180) == "bt601"
    enlarge(source, tmp_path / "out.mp4")
    with open_source(tmp_path / "out.mp4") as opened:
        assert guess_matrix(opened.width, opened.height) == "bt709"
        assert opened.colour == Colour("bt601", False)
        frame = next(iter(opened))
    assert np.abs(middles(frame.pixels, 160) - BARS).max() <= 2


def test_ten_bit_input_and_output(tmp_path):
    source = make(tmp_path / "in.mkv", [bars()] * 2, pix_fmt="yuv420p10le")
    enlarge(source, tmp_path / "out.mp4", pix_fmt="yuv420p10le")
    for path, size in ((source, 32), (tmp_path / "out.mp4", 128)):
        assert np.abs(middles(read(path)[0].pixels, size) - BARS).max() <= 1
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p10le"


# --- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied_to_the_pixels(tmp_path, rotation):
    upright = moving(1)[0]
    upright[:16, :16] = (255, 0, 0)
    # The container's angle is counter-clockwise: the stored picture is the upright one turned back.
    stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    source = make(tmp_path / "in.mp4", [stored] * 2, rotation=rotation)
    with open_source(source) as opened:
        assert (opened.width, opened.height) == (64, 48)
        frame = next(iter(opened))
    assert frame.pixels.flags.c_contiguous
    assert np.abs(frame.pixels[2:-2, 2:-2].astype(int) - upright[2:-2, 2:-2]).mean() < 5
    enlarge(source, tmp_path / "out.mp4")
    out = read(tmp_path / "out.mp4")[0].pixels
    assert out.shape == (192, 256, 3)
    assert np.abs(out[::4, ::4].astype(int) - upright).mean() < 6


def test_odd_sizes(tmp_path):
    source = make(tmp_path / "in.mkv", moving(3, 37, 21), pix_fmt="yuv444p")
    enlarge(source, tmp_path / "out.mp4")
    assert read(tmp_path / "out.mp4")[0].pixels.shape == (84, 148, 3)
    with open_source(source) as opened:
        sink = open_sink(tmp_path / "same.mp4", source=opened, width=37, height=21)
        with sink:
            for frame in opened:
                sink.write(frame)
            sink.commit()
        assert sink.notices == ["yuv444p instead of yuv420p: 37x21 is odd"]
        with pytest.raises(TecoError, match="odd"):
            open_sink(
                tmp_path / "no.mkv", source=opened, width=37, height=21,
                encoder=EncoderSettings(codec="mpeg4"),
            )  # fmt: skip


def test_alpha_is_dropped_with_a_notice(tmp_path):
    frames = [np.dstack([p, np.full(p.shape[:2], 9, np.uint8)]) for p in moving(2)]
    source = make(tmp_path / "in.mkv", frames, codec="ffv1", pix_fmt="bgra", options={})
    with open_source(source) as opened:
        assert opened.notices == ["alpha channel dropped"]
        assert (next(iter(opened)).pixels == frames[0][..., :3]).all()


def test_a_change_of_size_names_the_frame_and_both_sizes(tmp_path):
    # MPEG program streams carry the size in band: two clips end to end change it midway.
    parts_ = [
        make(tmp_path / f"{w}.mpg", moving(6, w, 48), codec="mpeg2video", options={})
        for w in (64, 80)
    ]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(p.read_bytes() for p in parts_))
    frames = []
    with (
        open_source(joined) as opened,
        pytest.raises(TecoError, match=r"changes size at") as caught,
    ):
        frames.extend(opened)
    # The decoder may lose the last frame before the change.
    assert len(frames) in (5, 6)
    assert f"frame {len(frames)}: from 64x48 to 80x48" in str(caught.value)
    assert caught.value.hint


# --- folders of pictures and pipes -----------------------------------------------------------


def save(folder: Path, name: str, picture: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / name), picture[..., ::-1])


def test_folders_in_natural_order_and_back(tmp_path):
    frames = moving(3)
    for name, picture in zip(("f2.png", "f10.png", "f1.png"), frames, strict=True):
        save(tmp_path / "in", name, picture)
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    with open_source(tmp_path / "in", rate=12.5) as source:
        assert source.count == 3
        assert source.rate == Fraction(25, 2)
        got = list(source)
    assert [(g.pixels == f).all() for g, f in zip(got, (frames[2], *frames[:2]), strict=True)]
    assert all((g.pixels == f).all() for g, f in zip(got, (frames[2], *frames[:2]), strict=True))
    assert [g.seconds for g in got] == [0, 0.08, 0.16]
    enlarge(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["f1.png", "f10.png", "f2.png"]
    assert (read(tmp_path / "out")[2].pixels == enlarged(frames[1])).all()
    enlarge(tmp_path / "in", tmp_path / "out.mp4", rate=10)
    assert moments(tmp_path / "out.mp4") == [0, Fraction(1, 10), Fraction(1, 5)]


def test_video_to_numbered_pictures(tmp_path, clip):
    notices = enlarge(clip, tmp_path / "out", span={"max_frames": 2})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png"]
    assert any("no sound" in n for n in notices)


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 16), (".jpg", 8)])
def test_a_single_picture_and_back(tmp_path, suffix, bits):
    """It comes out as what its name says, with the bits that this holds."""
    top = 2**bits - 1
    picture = np.linspace(0, top, 48 * 64 * 3).reshape(48, 64, 3).astype(f"uint{bits}")
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    out = tmp_path / f"out{suffix}"
    with open_source(tmp_path / "in.png", deep=True) as source:
        assert (source.count, source.depth, source.width, source.height) == (1, bits, 64, 48)
        with open_sink(out, source=source, width=64, height=48) as sink:
            for frame in source:
                sink.write(frame)
            assert not out.exists()
            sink.commit()
    found = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert found.dtype == picture.dtype
    if suffix != ".jpg":
        np.testing.assert_array_equal(found, picture)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_one_picture_of_a_clip(tmp_path, clip):
    """A clip of many frames is refused before the work, or where its length is not told, at the
    second frame; nothing is left under the name."""
    out = tmp_path / "out.png"
    with open_source(clip) as source, pytest.raises(TecoError, match="is one picture") as refused:
        open_sink(out, source=source, width=64, height=48)
    assert "--frames 1" in refused.value.hint
    with open_source(clip, max_frames=1) as source:
        frame = next(iter(source))
        with open_sink(out, source=source, width=64, height=48) as sink:
            sink.write(frame)
            with pytest.raises(TecoError, match="more than one frame"):
                sink.write(frame)
    assert not out.exists()


def test_a_folder_of_mixed_sizes_names_both_files(tmp_path):
    save(tmp_path / "in", "a.png", moving(1)[0])
    save(tmp_path / "in", "b.png", moving(1, 32, 32)[0])
    with pytest.raises(TecoError, match=r"a\.png is 64x48, b\.png is 32x32"):
        read(tmp_path / "in")


def test_a_damaged_picture_is_named(tmp_path):
    save(tmp_path / "in", "a.png", moving(1)[0])
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG no")
    with pytest.raises(TecoError, match=r"b\.png cannot be read"):
        read(tmp_path / "in")


class Pipe(io.RawIOBase):
    """Gives at most 1000 bytes a read and cannot seek, as pipes do."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000) if size >= 0 else 1000)

    def readline(self, size: int | None = -1) -> bytes:
        return self._data.readline(size or -1)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_y4m_round_trip_through_a_pipe(tmp_path, pix_fmt):
    for n in range(3):
        save(tmp_path / "in", f"{n}.png", bars())
    out = io.BytesIO()
    source = open_source(tmp_path / "in")
    with Y4MSink(out, "-", source, source.width, source.height, pix_fmt=pix_fmt) as sink:
        for frame in source:
            sink.write(frame)
        sink.commit()
    assert out.getvalue().startswith(b"YUV4MPEG2 W256 H64 F25:1 ")
    back = Y4MSource(Pipe(out.getvalue()), "-")
    assert (back.width, back.height, back.rate) == (256, 64, 25)
    frames = list(back)
    assert [f.pts for f in frames] == [0, 1, 2]
    assert all(np.abs(middles(f.pixels, 32) - BARS).max() <= 2 for f in frames)


def test_y4m_kinds_and_ranges():
    def source(kind: str, body: bytes, extra: str = "") -> Y4MSource:
        header = f"YUV4MPEG2 W5 H3 F30000:1001 Ip A1:1 {kind} {extra}\nFRAME\n"
        return Y4MSource(Pipe(header.encode() + body), "-")

    mono = source("Cmono", bytes([235] * 15))
    assert mono.rate == Fraction(30_000, 1001)
    assert (next(iter(mono)).pixels == 255).all()
    full = source("C420jpeg", bytes([235] * 15 + [128] * 12), "XCOLORRANGE=FULL")
    assert full.colour.full_range
    assert np.abs(next(iter(full)).pixels.astype(int) - 235).max() <= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a y4m stream"),
        (b"hello\n", "expected a y4m stream"),
        (b"YUV4MPEG2 W4 H4 C411\n", "expected one of 420"),
        (b"YUV4MPEG2 Wx H4\n", "makes no sense"),
        (b"YUV4MPEG2 W4 F25:1\n", "without a usable size"),
        (b"YUV4MPEG2 W4 H4 F25:1\n", "0 frames"),
        (b"YUV4MPEG2 W4 H4 F25:1\nFRAME\n" + bytes(9), "ends early, within frame 0"),
        (b"YUV4MPEG2 W4 H4 F25:1\nFRAMF\n" + bytes(24), "where frame 0 should be"),
        (b"x" * 5000, "no line ends"),
    ],
)
def test_bad_y4m(data, message):
    with pytest.raises(TecoError, match=message) as caught:
        list(Y4MSource(Pipe(data), "-"))
    assert "\n" not in str(caught.value)


def test_standard_input_and_output(tmp_path, clip):
    script = """
        from teco.video.clips import open_sink, open_source
        with open_source("-") as source:
            with open_sink("-", source=source, width=source.width, height=source.height) as sink:
                for frame in source:
                    sink.write(frame)
                sink.commit()
    """
    enlarge(clip, tmp_path / "in.y4m", span={"max_frames": 3})
    data = (tmp_path / "in.y4m").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], input=data, capture_output=True, check=True
    )
    assert len(done.stdout) == len(data)
    assert len(list(Y4MSource(Pipe(done.stdout), "-"))) == 3


# --- bad inputs ------------------------------------------------------------------------------


def bad(tmp_path: Path, name: str, data: bytes | None = None) -> Path:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    return path


def check_refused(path: Path, *needles: str, **span) -> TecoError:
    with pytest.raises(TecoError) as caught:
        read(path, **span)
    for needle in needles:
        assert needle in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code in (1, 2)
    return caught.value


def test_missing_file(tmp_path):
    check_refused(tmp_path / "none.mp4", "there is no file", "none.mp4")


def test_folder_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    check_refused(tmp_path / "empty", "holds no pictures")


def test_text_file_named_mp4(tmp_path):
    check_refused(bad(tmp_path, "a.mp4", b"hello, this is text\n" * 50), "not a video")


def test_empty_file(tmp_path):
    check_refused(bad(tmp_path, "a.mp4", b""), "it is empty")


def test_mp4_without_its_index(tmp_path):
    whole = make(tmp_path / "whole.mp4", moving(10)).read_bytes()
    check_refused(bad(tmp_path, "a.mp4", whole[: len(whole) // 2]), "not a video that can be")


@pytest.mark.parametrize("name", ["faststart.mp4", "fragments.mp4", "plain.mkv", "plain.avi"])
def test_a_truncated_file_gives_its_frames_and_then_says_so(tmp_path, name):
    flags = {
        "faststart.mp4": {"movflags": "+faststart"},
        "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    }
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    whole = make(tmp_path / f"w{name}", noise, container_options=flags.get(name))
    data = whole.read_bytes()
    path = bad(tmp_path, name, data[: int(len(data) * 0.6)])
    frames = []
    with open_source(path) as source, pytest.raises(TecoError, match="ends early") as caught:
        frames.extend(source)
    assert 15 <= len(frames) <= 30
    assert f"at frame {len(frames)} of 40" in str(caught.value)
    assert any("cut short" in n for n in source.notices)
    good = read(whole)
    assert all((a.pixels == b.pixels).all() for a, b in zip(frames[:-2], good, strict=False))
    # A range that ends before the damage is fine.
    assert len(read(path, end=0.2)) == 5


def test_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        voice = out.add_stream("aac", rate=48_000, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        piece.sample_rate = 48_000
        out.mux(voice.encode(piece))
        out.mux(voice.encode(None))
    check_refused(path, "has no picture stream, only: audio")


def test_sound_with_a_cover_picture(tmp_path):
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as out:
        voice = out.add_stream("aac", rate=48_000, layout="mono")
        cover = out.add_stream("png", rate=1, width=16, height=16, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
        out.mux(cover.encode(frame))
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        piece.sample_rate = 48_000
        out.mux(voice.encode(piece))
        out.mux(voice.encode(None))
    check_refused(path, "only: audio, cover picture")


def test_an_unknown_codec(tmp_path):
    path = make(tmp_path / "in.avi", moving(2), codec="mpeg4", options={})
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ").replace(b"MP4V", b"QQQQ"))
    check_refused(path, "decoder")


def test_a_range_behind_the_end(clip):
    error = check_refused(clip, "starts at 99 s", "2.40 s long", start=99)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "span", [{"start": -1}, {"start": 2, "end": 1}, {"end": 0}, {"max_frames": 0}]
)
def test_ranges_that_hold_nothing(clip, span):
    with pytest.raises(TecoError) as caught:
        open_source(clip, **span)
    assert caught.value.exit_code == 2


# --- outputs ---------------------------------------------------------------------------------


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if ".teco-" in p.name]


def test_bad_outputs(tmp_path, clip):
    with open_source(clip) as source:
        for name, needle in (
            ("out.xyz", "expected one of .avi"),
            ("none/out.mp4", "does not exist"),
            ("none/out", "does not exist"),
        ):
            with pytest.raises(TecoError, match=needle) as caught:
                sink_for(tmp_path / name, source)
            assert caught.value.hint
        with pytest.raises(TecoError, match="is the input itself"):
            sink_for(clip, source, overwrite=True)
        for options, needle in (
            ({"codec": "libx263"}, "no encoder called"),
            ({"codec": "aac"}, "encodes audio"),
            ({"pix_fmt": "yuv999p"}, "does not take"),
            ({"preset": "warp"}, "preset"),
            ({"crf": 99}, "quality"),
        ):
            with pytest.raises(TecoError, match=needle):
                sink_for(tmp_path / "out.mp4", source, **options)
        with pytest.raises(TecoError, match=r"\.webm files cannot hold libx264"):
            sink_for(tmp_path / "out.webm", source, codec="libx264")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(tmp_path, clip):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with open_source(clip) as source, pytest.raises(TecoError, match="not writable"):
        sink_for(locked / "out.mp4", source)


@pytest.mark.parametrize("name", ["out.mp4", "out", "out.y4m"])
def test_nothing_has_the_name_before_commit_and_abort_leaves_nothing(tmp_path, clip, name):
    def stop_midway() -> None:
        with open_source(clip) as source, sink_for(tmp_path / name, source) as sink:
            sink.write(next(iter(source)).with_pixels(np.zeros((192, 256, 3), np.uint8)))
            assert len(leftovers(tmp_path)) == 1
            assert not (tmp_path / name).exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_midway()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_an_existing_output_needs_overwrite_and_survives_failure(tmp_path, clip, name):
    span = {"max_frames": 2}
    enlarge(clip, tmp_path / name, span=span)
    with pytest.raises(TecoError, match="exists already") as caught:
        enlarge(clip, tmp_path / name, span=span)
    assert "--force" in caught.value.hint
    with open_source(clip) as source, sink_for(tmp_path / name, source, overwrite=True) as sink:
        sink.write(next(iter(source)).with_pixels(np.zeros((192, 256, 3), np.uint8)))
    assert len(read(tmp_path / name)) == 2
    enlarge(clip, tmp_path / name, span={"max_frames": 3}, overwrite=True)
    assert len(read(tmp_path / name)) == 3
    assert leftovers(tmp_path) == []


def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path, clip):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(TecoError, match=r"thesis\.tex"):
        enlarge(clip, tmp_path / "out", overwrite=True)


def test_a_killed_run_leaves_no_output_and_the_next_one_cleans_up(tmp_path, clip):
    script = f"""
        import os, signal
        import numpy as np
        from teco.video.clips import open_sink, open_source
        source = open_source({str(clip)!r})
        sink = open_sink({str(tmp_path / "out.mp4")!r}, source=source, width=256, height=192)
        for frame in source:
            sink.write(frame.with_pixels(np.zeros((192, 256, 3), np.uint8)))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    assert not (tmp_path / "out.mp4").exists()
    enlarge(clip, tmp_path / "out.mp4", span={"max_frames": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, clip, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TecoError, match="no space left on") as caught:
        enlarge(clip, tmp_path / "out.mp4", span={"max_frames": 2})
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_midway_is_a_sentence_and_leaves_nothing(tmp_path):
    # A limit on file sizes is the full disk that a test can have.
    script = f"""
        import resource, signal
        import numpy as np
        from teco.video.clips import open_sink, open_source
        from teco.core.errors import TecoError
        from teco.video.file.encoders import EncoderSettings
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        source = open_source({str(make(tmp_path / "in.mp4", moving(30)))!r})
        rng = np.random.default_rng(0)
        try:
            with open_sink({str(tmp_path / "out.mp4")!r}, source=source, width=256, height=192,
                           encoder=EncoderSettings(preset="ultrafast")) as sink:
                for frame in source:
                    sink.write(frame.with_pixels(rng.integers(0, 256, (192, 256, 3), np.uint8)))
                sink.commit()
        except TecoError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "could not be written: File too large" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_frames_of_the_wrong_size_are_refused(tmp_path, clip):
    with open_source(clip) as source, sink_for(tmp_path / "out.mp4", source) as sink:
        frame = next(iter(source))
        with pytest.raises(TecoError, match=r"expected uint8 \(192, 256, 3\)"):
            sink.write(frame)


def test_avi_has_a_constant_rate(tmp_path, clip):
    enlarge(clip, tmp_path / "out.avi")
    assert moments(tmp_path / "out.avi") == [Fraction(n, 25) for n in range(60)]
    assert [p[0] for p in packets(tmp_path / "out.avi", "audio")] == [
        p[0] for p in packets(clip, "audio")[1:]
    ]


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "ffv1"])
def test_other_encoders(tmp_path, codec):
    source = make(tmp_path / "in.mp4", [bars(16)] * 3)
    enlarge(source, tmp_path / "out.mkv", codec=codec, crf=8)
    frames = read(tmp_path / "out.mkv")
    assert len(frames) == 3
    assert np.abs(middles(frames[1].pixels, 64) - middles(read(source)[1].pixels, 16)).max() <= 3


def test_a_cover_picture_is_copied(tmp_path):
    source, plain = tmp_path / "in.mp4", make(tmp_path / "plain.mp4", moving(5))
    cover = cv2.imencode(".png", moving(1, 16, 16)[0])[1].tobytes()
    with av.open(str(plain)) as pictures, av.open(str(source), "w") as out:
        video = out.add_stream_from_template(pictures.streams.video[0])
        art = out.add_mux_stream("png", width=16, height=16, time_base=Fraction(1, 90_000))
        art.disposition = av.stream.Disposition.attached_pic
        for packet in pictures.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
        packet = av.Packet(cover)
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, 90_000), art
        out.mux(packet)
    assert enlarge(source, tmp_path / "out.mp4") == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        enlarged_stream, copied = container.streams.video
        assert (enlarged_stream.width, copied.width) == (256, 16)
        assert bytes(next(container.demux(copied))) == cover


def test_mpeg4_rounds_to_its_clock_of_one_tick_a_frame(tmp_path):
    source = make(tmp_path / "in.mp4", moving(4), pts=[0, 40, 80, 200], time_base=Fraction(1, 1000))
    with open_source(source) as opened:
        rate = opened.rate
    enlarge(source, tmp_path / "out.mp4", codec="mpeg4")
    for before, after in zip(moments(source), moments(tmp_path / "out.mp4"), strict=True):
        assert abs(before - after) <= 1 / rate


# --- what users have, and lost ------------------------------------------------------------------


def test_pixel_aspect_goes_through_a_pipe(tmp_path, clip):
    """Into y4m and out of it; a stream that says nothing stays so."""
    wide = tmp_path / "wide.mkv"
    with av.open(str(wide), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        for index, pixels in enumerate(moving(3)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    enlarge(wide, tmp_path / "a.y4m")
    assert b" A16:15 " in (tmp_path / "a.y4m").read_bytes()[:80]
    enlarge(tmp_path / "a.y4m", tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as found:
        assert found.streams.video[0].sample_aspect_ratio == Fraction(16, 15)
    enlarge(clip, tmp_path / "c.y4m")
    with open_source(tmp_path / "c.y4m") as plain:
        assert plain.pixel_aspect in (None, 1)


def test_hevc_in_mp4_is_tagged_for_all_players(tmp_path, clip):
    if "libx265" not in av.codecs_available:
        pytest.skip("no libx265")
    for suffix, tag in ((".mp4", "hvc1"), (".mov", "hvc1")):
        enlarge(clip, tmp_path / f"a{suffix}", codec="libx265", preset="ultrafast")
        with av.open(str(tmp_path / f"a{suffix}")) as found:
            assert found.streams.video[0].codec_context.codec_tag == tag


def test_names_as_long_as_the_file_system_takes(tmp_path, clip):
    for stem in ("a" * 251, "é" * 125):
        path = tmp_path / f"{stem}.mkv"
        enlarge(clip, path)
        assert path.stat().st_size
    assert len(list(tmp_path.iterdir())) == 2, "no temporary file stays"


def test_a_rate_for_a_video_is_refused_and_not_ignored(clip):
    with pytest.raises(TecoError, match="has its own clock") as caught:
        open_source(clip, rate=30)
    assert caught.value.exit_code == 2
    assert "ffmpeg -r 30" in caught.value.hint


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "clip.mp4"
    os.mkfifo(pipe)
    with pytest.raises(TecoError, match="named pipe") as caught:
        open_source(pipe)
    assert "yuv4mpegpipe" in caught.value.hint


def test_force_deletes_nobody_elses_pictures(tmp_path, clip):
    folder = tmp_path / "pictures"
    enlarge(clip, folder)
    enlarge(clip, folder, overwrite=True)
    save(folder, "holiday.png", moving(1)[0])
    with pytest.raises(TecoError, match=r"holds holiday\.png, which teco did not write"):
        enlarge(clip, folder, overwrite=True)
    assert (folder / "holiday.png").exists()


def test_an_encoder_without_its_hardware_is_named(tmp_path, clip):
    if "h264_nvenc" not in av.codecs_available or Path("/dev/nvidia0").exists():
        pytest.skip("no NVENC in this FFmpeg, or a GPU")
    with pytest.raises(TecoError, match="the encoder h264_nvenc cannot be opened here") as caught:
        enlarge(clip, tmp_path / "a.mkv", codec="h264_nvenc")
    assert caught.value.exit_code == 3
    assert "NVIDIA GPU" in caught.value.message
    assert not list(tmp_path.iterdir())


# --- encoders with rates and ranges of their own --------------------------------------------


@pytest.mark.parametrize(
    ("rate", "kept", "notes"),
    [
        (24, Fraction(24), 0),
        (25, Fraction(25), 0),
        (30, Fraction(30), 0),
        (Fraction(24000, 1001), Fraction(24000, 1001), 0),
        (26, Fraction(30000, 1001), 1),
    ],
)
@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_rates_that_a_codec_does_not_know_become_the_next_it_does(
    codec, rate, kept, notes, tmp_path, make_clip
) -> None:
    """Of a clip whose clock is finer than its rate, as MP4's is."""
    clip = make_clip(tmp_path / "in.mp4", 32, 24, 12, time_base=1 / Fraction(rate))
    with open_source(clip) as source:
        times = [frame.seconds for frame in source]
    said = enlarge(clip, tmp_path / "out.mkv", codec=codec)
    assert sum(codec in line for line in said) == notes
    with av.open(str(tmp_path / "out.mkv")) as made:
        found = [f.time for f in made.decode(video=0)]
        assert made.streams.video[0].codec_context.framerate == kept
    assert found == pytest.approx(times, abs=float(0.5 / kept) + 0.001)


def test_rates_that_are_asked_for_are_kept_or_refused(tmp_path, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4", 32, 24, 6)
    with open_source(clip) as source, pytest.raises(TecoError) as refused:
        sink_for(tmp_path / "out.mkv", source, codec="mpeg2video", rate=Fraction(26))
    assert (refused.value.exit_code, refused.value.hint[:24]) == (2, "the nearest is --rate 25")


def test_frames_that_come_too_fast_for_a_rate_are_said_to_be_late(tmp_path, make_clip) -> None:
    """Of 25 frames a second, then 200, in a codec that knows no more than 60."""
    times = [40 * n for n in range(20)] + [800 + 5 * n for n in range(20)]
    clip = make_clip(tmp_path / "in.mp4", 32, 24, 40, pts=times, time_base=Fraction(1, 1000))
    said = enlarge(clip, tmp_path / "out.mkv", codec="mpeg1video")
    (late,) = (float(line.split(" s late")[0].split()[-1]) for line in said if " s late" in line)
    with av.open(str(tmp_path / "out.mkv")) as made:
        found = [f.time for f in made.decode(video=0)]
    assert max(a - b / 1000 for a, b in zip(found, times, strict=True)) == pytest.approx(
        late, abs=0.02
    )


def test_more_frames_a_second_than_a_codec_holds(tmp_path, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4", 32, 24, 4, time_base=Fraction(1, 120))
    with open_source(clip) as source, pytest.raises(TecoError) as refused:
        sink_for(tmp_path / "out.mkv", source, codec="mpeg1video")
    assert (refused.value.exit_code, refused.value.hint) == (
        2, "give --rate 60, or take another codec",
    )  # fmt: skip


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_jpeg_is_written_in_full_range(pix_fmt, tmp_path, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4", 32, 24, 2)
    with (
        open_source(clip) as source,
        sink_for(tmp_path / "out.mkv", source, codec="mjpeg", pix_fmt=pix_fmt) as sink,
    ):
        for frame in source:
            sink.write(frame.with_pixels(np.full((96, 128, 3), 255, np.uint8)))
        sink.commit()
    with av.open(str(tmp_path / "out.mkv")) as made:
        frame = next(made.decode(video=0))
        assert frame.format.name == f"yuvj{pix_fmt[3:]}"
        assert np.asarray(frame.planes[0])[: 96 * 128].min() >= 254
