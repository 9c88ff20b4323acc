"""Clips as recorders, broadcasters, phones and conferences leave them: what goes wrong with each
comes out right, or is named."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st
from support.clips import enlarge, make, moments, moving, packets, read, sink_for

from teco.core.errors import TecoError
from teco.video.clips import open_source
from teco.video.colour import Colour, Converter
from teco.video.file import timecode
from teco.video.file.container import matroska_crop
from teco.video.side_data import Stereo


def shown(path: Path) -> list[float]:
    """When each picture is shown, without what teco makes of it."""
    with av.open(str(path)) as container:
        return sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.size)


def heard(path: Path) -> tuple[float, float]:
    """Where the sound begins and ends."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    last = frames[-1]
    return float(frames[0].time), float(last.time + last.samples / last.sample_rate)


def number_in(pixels: np.ndarray) -> int:
    """Of a frame of :func:`numbered`."""
    left, right = (half[:, half.shape[1] // 4 : -half.shape[1] // 4].mean()
                   for half in np.split(pixels, 2, axis=1))  # fmt: skip
    return 10 * round((float(left) - 20) / 20) + round((float(right) - 20) / 20)


def numbered(count: int) -> list[np.ndarray]:
    """Grey pictures that bear their number: tens left, ones right, twenty levels apart."""
    frames = [np.full((48, 64, 3), 20 + 20 * (n // 10), np.uint8) for n in range(count)]
    for n, frame in enumerate(frames):
        frame[:, 32:] = 20 + 20 * (n % 10)
    return frames


def transport(path: Path, frames: list[np.ndarray], offset: float = 0.0) -> Path:
    return make(path, frames, sound=True, container_options={"output_ts_offset": str(offset)})


# --- clocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clock_that_starts_at_any_hour_starts_at_zero(tmp_path, suffix) -> None:
    source = transport(tmp_path / "in.ts", moving(25), 26_000)
    enlarge(source, tmp_path / f"out{suffix}")
    times = shown(tmp_path / f"out{suffix}")
    assert 0 <= times[0] < 0.1
    assert times[-1] - times[0] == pytest.approx(0.96, abs=0.002)
    assert abs(heard(tmp_path / f"out{suffix}")[0] - times[0]) < 0.1


def test_joined_recordings_go_on(tmp_path) -> None:
    parts = [transport(tmp_path / f"{n}.ts", moving(50)) for n in range(3)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(p.read_bytes() for p in parts))
    notices = enlarge(joined, tmp_path / "out.mp4")
    assert any("clock jumps 2 times" in n for n in notices)
    times = shown(tmp_path / "out.mp4")
    assert len(times) == 150
    assert max(np.diff(times)) < 0.1
    assert min(np.diff(times)) > 0.01
    # The sound of each part lies where its pictures are.
    begin, end = heard(tmp_path / "out.mp4")
    assert abs(begin - times[0]) < 0.1
    assert abs(end - (times[-1] + 0.04)) < 0.15


@pytest.mark.parametrize("silent", ["sound", "picture"])
def test_a_gap_in_one_stream_is_no_jump(tmp_path, silent) -> None:
    """14 seconds without sound, or without pictures: the other stream's time goes on."""
    path = tmp_path / "in.ts"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice = out.add_stream("mp2", rate=48_000, layout="mono")
        for n in range(30 * 25):
            gap = 200 <= n < 550
            if not (gap and silent == "picture"):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), n % 200, np.uint8), "rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                out.mux(video.encode(frame))
            if not (gap and silent == "sound"):
                quiet = np.zeros((1, 1920), np.float32)
                piece = av.AudioFrame.from_ndarray(quiet, "fltp", "mono")
                piece.sample_rate, piece.pts, piece.time_base = (
                    48_000,
                    n * 1920,
                    Fraction(1, 48_000),
                )
                out.mux(voice.encode(piece))
        out.mux(video.encode(None))
        out.mux(voice.encode(None))
    notices = enlarge(path, tmp_path / "out.mkv")
    assert not any("jumps" in n for n in notices)
    times = shown(tmp_path / "out.mkv")
    assert times[-1] - times[0] == pytest.approx(29.96, abs=0.1)
    assert heard(tmp_path / "out.mkv")[1] - times[0] == pytest.approx(30, abs=0.2)


def test_a_start_beyond_a_join_is_the_picture_of_that_moment(tmp_path) -> None:
    (tmp_path / "j.ts").write_bytes(
        b"".join(
            transport(tmp_path / f"{n}.ts", numbered(100)[50 * n : 50 * n + 50]).read_bytes()
            for n in range(2)
        )
    )
    whole = read(tmp_path / "j.ts")
    assert [number_in(f.pixels) for f in whole] == list(range(100))
    begin = float(whole[0].pts * whole[0].time_base)
    for wanted in (60, 75, 99):
        moment = float(whole[wanted].pts * whole[wanted].time_base) - begin
        found = read(tmp_path / "j.ts", start=moment, max_frames=1)
        # Times are given as players show them, from the first of sound and picture.
        assert abs(number_in(found[0].pixels) - wanted) <= 1


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("in.avi", "mpeg4", {"bf": "2", "g": "12", "qscale": "2"}),
        ("in.mp4", "libx264", {"crf": "4", "bf": "3", "g": "30"}),
        ("in.mkv", "libx264", {"crf": "4", "bf": "3", "g": "30"}),
        ("in.ts", "libx264", {"crf": "4", "bf": "3", "g": "30"}),
        ("in.mpg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
        ("in.flv", "libx264", {"crf": "4", "bf": "3", "g": "30"}),
    ],
)
def test_a_start_is_exact_where_frames_are_reordered(tmp_path, name, codec, options) -> None:
    path = make(tmp_path / name, numbered(100), codec=codec, options=options)
    whole = {number_in(f.pixels): f.pts for f in read(path)}
    for wanted in (52, 75, 76):
        (frame,) = read(path, start=wanted / 25, max_frames=1)
        assert number_in(frame.pixels) == wanted
        assert frame.pts == whole[wanted]


def test_frames_are_repeated_where_a_format_has_no_clock(tmp_path) -> None:
    pts = [*range(25), *range(75, 100)]
    source = make(tmp_path / "in.mkv", numbered(50), pts=pts)
    notices = enlarge(source, tmp_path / "out.y4m")
    assert any("50 frames were repeated" in n for n in notices)
    numbers = [number_in(f.pixels) for f in read(tmp_path / "out.y4m")]
    assert numbers == [*range(25), *[24] * 50, *range(25, 50)]
    steady = make(tmp_path / "steady.mkv", numbered(30))
    assert not any("repeated" in n for n in enlarge(steady, tmp_path / "steady.y4m"))
    assert len(read(tmp_path / "steady.y4m")) == 30


@pytest.mark.parametrize(
    ("text", "frames", "rate", "later"),
    [
        ("01:02:03:04", 10, Fraction(25), "01:02:03:14"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("00:00:59;29", 1, Fraction(30_000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30_000, 1001), "00:10:00;00"),
        ("00:01:59;59", 1, Fraction(60_000, 1001), "00:02:00;04"),
        ("00:00:00;00", 107_892, Fraction(30_000, 1001), "01:00:00;00"),
        ("00:00:59:29", 1, Fraction(30), "00:01:00:00"),
    ],
)
def test_time_code_counts_as_smpte_does(text, frames, rate, later) -> None:
    assert timecode.moved(text, frames, rate) == later


@given(st.integers(0, 107_892 * 20), st.integers(0, 107_892 * 4))
def test_time_code_moved_twice_is_moved_once(first: int, second: int) -> None:
    rate = Fraction(30_000, 1001)
    halfway = timecode.moved("00:00:00;00", first, rate)
    assert halfway is not None
    assert timecode.moved(halfway, second, rate) == timecode.moved(
        "00:00:00;00", first + second, rate
    )


# --- streams beside the picture --------------------------------------------------------------


def test_sound_of_an_unknown_codec_is_named_and_the_rest_goes_on(tmp_path) -> None:
    whole = make(tmp_path / "a.mkv", moving(10), sound=True).read_bytes()
    assert whole.count(b"A_AAC") == 1
    (tmp_path / "in.mkv").write_bytes(whole.replace(b"A_AAC", b"A_XYZ"))
    for suffix in (".mkv", ".mp4"):
        notices = enlarge(tmp_path / "in.mkv", tmp_path / f"out{suffix}")
        assert any(n.startswith("audio stream 1 dropped") for n in notices)
        assert len(read(tmp_path / f"out{suffix}")) == 10


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_broken_packet_of_sound_costs_that_packet(tmp_path, suffix) -> None:
    data = bytearray(transport(tmp_path / "a.ts", moving(100)).read_bytes())
    begun = 0
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        if ((packet[1] & 31) << 8 | packet[2]) == 0x101 and packet[1] & 0x40:
            begun += 1
            if begun == 5:
                header = bytes(packet).find(b"\xff\xf1")
                data[at + header : at + header + 2] = b"\x12\x34"
    assert begun > 5
    (tmp_path / "in.ts").write_bytes(data)
    notices = enlarge(tmp_path / "in.ts", tmp_path / f"out{suffix}")
    assert any(re.fullmatch(r"(a packet|\d+ packets) of audio .* dropped: damaged", n)
               for n in notices)  # fmt: skip
    assert len(packets(tmp_path / f"out{suffix}", "audio")) > 100


def test_sound_that_no_copy_can_hold_is_converted(tmp_path) -> None:
    path = tmp_path / "in.wmv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("wmv2", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice = out.add_stream("wmav2", rate=44_100, layout="mono")
        voice.bit_rate = 64_000
        for picture in moving(25):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        tone = np.sin(np.arange(44_100) / 16).astype(np.float32)[None] / 4
        piece = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        piece.sample_rate = 44_100
        out.mux(voice.encode(piece))
        out.mux(video.encode(None))
        out.mux(voice.encode(None))
    notices = enlarge(path, tmp_path / "out.mp4")
    assert "audio stream 1 converted from wmav2 to aac: mp4 does not hold wmav2" in notices
    begin, end = heard(tmp_path / "out.mp4")
    assert abs(begin) < 0.1
    assert end == pytest.approx(1.0, abs=0.15)
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    # The tone, not silence: 0.25 / sqrt(2).
    assert np.sqrt(np.mean(sound[4000:40_000] ** 2)) == pytest.approx(0.177, abs=0.02)


def test_a_cover_stays_a_cover(tmp_path) -> None:
    import cv2

    plain = make(tmp_path / "plain.mkv", moving(5))
    _, cover = cv2.imencode(".jpg", np.full((90, 90, 3), 77, np.uint8))
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as pictures, av.open(str(source), "w") as out:
        video = out.add_stream_from_template(pictures.streams.video[0])
        out.add_attachment("cover.jpg", "image/jpeg", cover.tobytes())
        for packet in pictures.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
    for name in ("out.mkv", "out.mp4"):
        assert enlarge(source, tmp_path / name) == []
        with av.open(str(tmp_path / name)) as container:
            film, still = container.streams
            assert (film.codec_context.width, film.codec_context.height) == (256, 192)
            assert still.disposition & Disposition.attached_pic
            (packet,) = [p for p in container.demux(still) if p.size]
            assert bytes(packet) == cover.tobytes()
    # And from MP4's kind of cover to Matroska's.
    enlarge(tmp_path / "out.mp4", tmp_path / "back.mkv")
    assert b"cover.jpg" in (tmp_path / "back.mkv").read_bytes()


def test_quicktime_keys_are_kept(tmp_path) -> None:
    source = tmp_path / "in.mov"
    with av.open(str(source), "w", container_options={"movflags": "use_metadata_tags"}) as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        out.metadata["com.apple.quicktime.location.ISO6709"] = "+10+020/"
        for picture in moving(5):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(video.encode(None))
    enlarge(source, tmp_path / "out.mov")
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.metadata["com.apple.quicktime.location.ISO6709"] == "+10+020/"


# --- what describes the picture --------------------------------------------------------------


def combed(count: int) -> list[np.ndarray]:
    """A bar that moves between the two fields of each frame."""
    frames = []
    for n in range(count):
        frame = np.full((64, 96, 3), 128, np.uint8)
        for field in (0, 1):
            at = 6 * n + 3 * field
            frame[12 + field : 52 : 2, at : at + 16] = 255
        frames.append(frame)
    return frames


def combing(pixels: np.ndarray) -> float:
    """How much neighbouring lines differ more than lines of one field do."""
    grey = pixels[14:50].astype(float).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() - np.abs(grey[2:] - grey[:-2]).mean())


@pytest.fixture
def interlaced(tmp_path) -> Path:
    return make(
        tmp_path / "in.mkv", combed(12),
        options={"crf": "4", "flags": "+ildct+ilme", "x264-params": "tff=1"},
    )  # fmt: skip


def test_interlaced_pictures_are_taken_apart(interlaced, tmp_path) -> None:
    with open_source(interlaced) as source:
        clean = list(source)
        assert any("was deinterlaced" in n for n in source.notices)
    with open_source(interlaced, deinterlace=False) as source:
        combs = list(source)
        assert any("interlaced" in n for n in source.notices)
    assert [f.pts for f in clean] == [f.pts for f in combs]
    middle = slice(2, -2)
    before = np.mean([combing(f.pixels) for f in combs[middle]])
    after = np.mean([combing(f.pixels) for f in clean[middle]])
    assert before > 5
    assert after < before / 10
    # Twice, and any part: the same.
    again = read(interlaced, start=0.2, end=0.36)
    assert [f.pts for f in again] == [f.pts for f in clean][5:9]


def test_a_cut_range_of_y4m_begins_at_zero(tmp_path) -> None:
    enlarge(make(tmp_path / "a.mkv", numbered(50)), tmp_path / "a.y4m")
    enlarge(tmp_path / "a.y4m", tmp_path / "out.mkv", span={"start": 1.0})
    assert shown(tmp_path / "out.mkv") == pytest.approx([n / 25 for n in range(25)], abs=0.001)
    assert number_in(read(tmp_path / "out.mkv")[0].pixels) == 25


def test_interlaced_y4m_says_so_in_its_header(tmp_path) -> None:
    frames = combed(6)
    plain = tmp_path / "p.y4m"
    enlarge(make(tmp_path / "a.mkv", frames, options={"crf": "4"}), plain)
    data = plain.read_bytes()
    assert b" Ip " in data[:80]
    (tmp_path / "t.y4m").write_bytes(data.replace(b" Ip ", b" It ", 1))
    assert len(read(tmp_path / "t.y4m")) == len(read(plain)) == 6
    with open_source(tmp_path / "t.y4m") as source:
        assert any("interlaced" in n for n in source.notices)
        changed = next(iter(source)).pixels
    assert (changed != read(plain)[0].pixels).any()


def ramp(path: Path) -> Path:
    """256 levels of 10 bits, side by side."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=5)
        video.width, video.height, video.pix_fmt = 256, 32, "yuv420p10le"
        frame = av.VideoFrame(256, 32, "yuv420p10le")
        for plane, value in zip(frame.planes, (None, 512, 512), strict=True):
            rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
            rows[:, : plane.width] = 256 + np.arange(256) if value is None else value
        out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def luma_levels(path: Path) -> int:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
    return len(np.unique(rows[plane.height // 2, : plane.width]))


def test_ten_bits_stay_ten_bits(tmp_path) -> None:
    source = ramp(tmp_path / "in.mkv")
    ten = {"codec": "ffv1", "pix_fmt": "yuv420p10le"}
    enlarge(source, tmp_path / "deep.mkv", span={"deep": True}, **ten)
    assert luma_levels(tmp_path / "deep.mkv") == 256
    enlarge(source, tmp_path / "flat.mkv", **ten)
    assert luma_levels(tmp_path / "flat.mkv") < 256
    # A clip of 8 bits is the same whatever was asked for.
    plain = make(tmp_path / "8.mkv", moving(2))
    assert read(plain, deep=True)[0].pixels.dtype == np.uint8


def test_ten_bits_go_through_the_network(tmp_path, teco) -> None:
    """One that only enlarges linearly keeps every level of a ramp, and adds those between."""
    import torch

    from teco_models.arch.computed_alignment import AlignedGenerator
    from teco_models.checkpoint import save_weights
    from teco_models.variant import Variant

    generator = AlignedGenerator(Variant.parse("teco-x4-b1-c8-l4-real"))
    with torch.no_grad():
        generator.tail.weight.zero_()
        assert generator.tail.bias is not None
        generator.tail.bias.zero_()
        generator.tail.bias[16] = -50.0  # the mask: nothing of the past
    save_weights(tmp_path / "linear.safetensors", generator, metadata={})
    done = teco(
        "upscale", ramp(tmp_path / "in.mkv"), tmp_path / "out.mkv", "--codec", "ffv1", "--pix-fmt",
        "yuv420p10le", "--model", tmp_path / "linear.safetensors", "--runtime", "pytorch",
        "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    with av.open(str(tmp_path / "out.mkv")) as container:
        plane = next(container.decode(video=0)).planes[0]
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
    row = rows[plane.height // 2].astype(int)
    assert set(range(256, 512)) <= set(row.tolist())
    inner = row[16:-16]
    assert (np.diff(inner) >= 0).all()
    # Level n of the ramp lies over pixels 4 n to 4 n + 3, to one step.
    expected = 256 + (np.arange(1024) + 0.5) / 4 - 0.5
    assert np.abs(inner - expected[16:-16]).max() <= 1


def test_a_folder_of_deep_pictures_is_read_and_written_deep(tmp_path) -> None:
    import cv2

    (tmp_path / "in").mkdir()
    picture = (np.arange(64 * 48 * 3).reshape(48, 64, 3) * 7).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "in" / "0.png"), picture)
    enlarge(tmp_path / "in", tmp_path / "out", span={"deep": True})
    found = cv2.imread(str(tmp_path / "out" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    assert (found[::4, ::4] == picture).all()
    assert read(tmp_path / "in")[0].pixels.dtype == np.uint8


def hdr_clip(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx265", rate=25, options={
            "x265-params": "log-level=error:hdr10=1:repeat-headers=1:colorprim=bt2020:"
            "transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:master-display="
            "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)",
        })  # fmt: skip
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p10le"
        converter = Converter(Colour("bt2020nc", False, 9, 16))
        for picture in moving(3, 128, 96):
            out.mux(video.encode(converter.from_rgb(picture, "yuv420p10le")))
        out.mux(video.encode(None))
    return path


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_hdr10_metadata_is_kept_or_named(tmp_path, codec) -> None:
    source = hdr_clip(tmp_path / "in.mkv")
    with open_source(source) as opened:
        assert opened.media is not None
        before = opened.media.hdr10
    assert before is not None
    assert before.light == (1000, 400)
    assert before.luminance == (Fraction(50, 10_000), Fraction(1000))
    assert before.primaries is not None
    assert before.primaries[0] == (Fraction(34_000, 50_000), Fraction(16_000, 50_000))
    enlarge(source, tmp_path / "out.mkv", codec=codec, pix_fmt="yuv420p10le")
    with open_source(tmp_path / "out.mkv") as opened:
        assert opened.media is not None
        after = opened.media.hdr10
    if codec == "libx265":
        assert after == before
    else:  # AV1 has steps of 1/65536 of the diagram and 1/16384 cd/m2 of its own
        assert after is not None
        assert after.light == before.light
        assert after.luminance is not None
        assert after.primaries is not None
        for mine, theirs in zip(after.luminance, before.luminance, strict=True):
            assert float(mine) == pytest.approx(float(theirs), abs=1e-4)
        for mine, theirs in zip(after.primaries, before.primaries, strict=True):
            assert [float(x) for x in mine] == pytest.approx([float(x) for x in theirs], abs=2e-5)
    notices = enlarge(source, tmp_path / "out.mp4")
    assert any("HDR10 metadata" in n and "libx265" in n for n in notices)


def test_two_views_are_described_again_or_named(tmp_path) -> None:
    """From the picture stream of an MP4 into Matroska's tag, and back."""
    source = make(
        tmp_path / "in.mp4", moving(6, 64, 48),
        options={"preset": "ultrafast", "x264-params": "frame-packing=3"},
    )  # fmt: skip
    for into, out in ((source, "a.mkv"), (tmp_path / "a.mkv", "b.mp4"), (source, "c.webm")):
        assert enlarge(into, tmp_path / out) == []
        with open_source(tmp_path / out) as opened:
            assert opened.media is not None
            assert opened.media.stereo == Stereo(1, swapped=False)
    notices = enlarge(source, tmp_path / "e.mp4", codec="libx265")
    assert any("two views" in n and "Matroska" in n for n in notices)
    for other in ("e.y4m", "pictures"):
        assert any("two views" in n for n in enlarge(source, tmp_path / other))


def spherical(path: Path) -> Path:
    """Into an MP4 whose index is its end: Google's box for spherical video, version 1."""
    xml = (
        b'<?xml version="1.0"?><rdf:SphericalVideo '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">'
        b"<GSpherical:Spherical>true</GSpherical:Spherical>"
        b"<GSpherical:StitchingSoftware>none</GSpherical:StitchingSoftware>"
        b"<GSpherical:Stitched>true</GSpherical:Stitched>"
        b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>"
        b"</rdf:SphericalVideo>"
    )
    kind = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
    box = struct.pack(">I4s", 24 + len(xml), b"uuid") + kind + xml
    data = bytearray(path.read_bytes())
    index, track = data.rindex(b"moov") - 4, data.rindex(b"trak") - 4
    end = track + struct.unpack_from(">I", data, track)[0]
    for at in (index, track):
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(box))
    data[end:end] = box
    path.write_bytes(data)
    return path


def test_a_spherical_projection_is_named(tmp_path) -> None:
    source = spherical(make(tmp_path / "in.mp4", moving(6, 64, 48)))
    assert any("spherical" in n for n in enlarge(source, tmp_path / "out.mp4"))


def test_closed_captions_are_named(tmp_path) -> None:
    raw = make(
        tmp_path / "a.h264", moving(10), options={"bf": "0", "x264-params": "slices=1"}
    ).read_bytes()
    payload = b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94\x20\xff"
    message = b"\0\0\0\1\x06\x04" + bytes([len(payload)]) + payload + b"\x80"
    parts = re.split(rb"(?=\x00\x00\x00\x01|(?<!\x00)\x00\x00\x01)", raw)
    marked = [
        message + p if p and (p[4] if p.startswith(b"\0\0\0\1") else p[3]) & 31 in (1, 5) else p
        for p in parts
    ]
    (tmp_path / "in.h264").write_bytes(b"".join(marked))
    notices = enlarge(tmp_path / "in.h264", tmp_path / "out.mp4")
    assert any("closed captions" in n for n in notices)


def element(key: str, content: bytes) -> bytes:
    return bytes.fromhex(key) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def test_matroska_hides_bars(tmp_path, monkeypatch) -> None:
    video = element("E0", element("54BB", b"\x08") + element("54AA", b"\x00\x06"))
    tracks = element("1654AE6B", element("AE", element("D7", b"\x01") + video))
    file = tmp_path / "head.mkv"
    file.write_bytes(element("1A45DFA3", b"") + element("18538067", element("EC", b"0") + tracks))
    assert matroska_crop(file) == {"top": 8, "bottom": 6}
    for cut in range(0, file.stat().st_size, 3):  # damaged anywhere: no error
        file.write_bytes(file.read_bytes()[:-3])
        matroska_crop(file)
        assert cut >= 0

    clip = make(tmp_path / "in.mkv", moving(3), options={"crf": "0"})
    whole = read(clip)
    monkeypatch.setattr("teco.video.file.source.matroska_crop", lambda _: {"top": 8, "bottom": 6})
    with open_source(clip) as source:
        assert (source.width, source.height) == (64, 34)
        assert any("bars" in n for n in source.notices)
        for frame, before in zip(source, whole, strict=True):
            assert (frame.pixels == before.pixels[8:-6]).all()


# --- damage ----------------------------------------------------------------------------------


def fragmented(path: Path) -> Path:
    """100 frames in an MP4 of ten fragments, as recorders write that may lose their power."""
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    options = {"crf": "20", "g": "10", "bf": "2", "b_strategy": "0"}
    return make(path, moving(100), options=options, container_options=fragments)


@pytest.mark.parametrize("within", ["a frame", "a frame after which earlier ones are shown"])
def test_a_fragmented_file_that_is_cut_says_so(tmp_path, within: str) -> None:
    clip = fragmented(tmp_path / "a.mp4")
    with av.open(str(clip)) as container:
        stored = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux() if p.size]
    # Frames are stored before those that refer to them and are shown earlier.
    reordered = [n for n in range(50, 60) if stored[n][2] > stored[n + 1][2]]
    last = 55 if within == "a frame" else reordered[0]
    path = tmp_path / "in.mp4"
    path.write_bytes(clip.read_bytes()[: stored[last + 1][0] + 1])
    with open_source(path) as source, pytest.raises(TecoError, match="ends early"):
        list(source)
    notices = enlarge(path, tmp_path / "out.mkv", span={"forgiving": True})
    assert any("cut short and ends at 2." in n for n in notices)
    times = np.array(shown(tmp_path / "out.mkv"))
    expected = np.sort([shown_at for _, _, shown_at in stored[: last + 1]])
    assert times - times[0] == pytest.approx(expected - expected[0], abs=0.002)


def test_a_file_that_is_cut_in_the_index_of_a_fragment_is_read_up_to_it(tmp_path) -> None:
    data = fragmented(tmp_path / "a.mp4").read_bytes()
    path, index = tmp_path / "in.mp4", -1
    for _ in range(6):
        index = data.index(b"moof", index + 1)
    for cut in (2, 20, 90):  # within its header, its first box, its table
        path.write_bytes(data[: index - 4 + cut])
        with open_source(path, forgiving=True) as source:
            assert len(list(source)) == 50


def test_a_picture_that_changes_size_is_fitted_into_the_first(tmp_path) -> None:
    parts = [
        make(tmp_path / f"{w}.mpg", moving(6, w, 48), codec="mpeg2video", options={})
        for w in (64, 80, 64)
    ]
    (tmp_path / "in.mpg").write_bytes(b"".join(p.read_bytes() for p in parts))
    with open_source(tmp_path / "in.mpg", forgiving=True) as source:
        frames = list(source)
        assert len([n for n in source.notices if "changes size" in n]) == 1
    assert {f.pixels.shape for f in frames} == {(48, 64, 3)}
    assert len(frames) >= 15


# --- nothing but the file that was named -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{}\n#EXT-X-ENDLIST\n"),
        ("in.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{}\n#EXT-X-ENDLIST\n"),
        ("in.ffconcat", "ffconcat version 1.0\nfile '{}'\n"),
    ],
)
def test_lists_of_other_files_are_not_followed(tmp_path, name, text) -> None:
    (tmp_path / "secret").mkdir()
    secret = make(tmp_path / "secret" / "o.ts", moving(5), codec="mpeg2video", options={})
    path = tmp_path / name
    path.write_text(text.format(secret))
    with pytest.raises(TecoError, match="a list of other files") as caught:
        open_source(path)
    assert "ffmpeg -i" in caught.value.hint


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4"),
        (".webm", "libvpx"), (".ts", "libx264"), (".mpg", "mpeg2video"), (".flv", "flv1"),
        (".mxf", "mpeg2video"), (".nut", "ffv1"), (".wmv", "wmv2"),
        (".ivf", "libvpx"), (".h264", "libx264"), (".hevc", "libx265"), (".gif", "gif"),
        (".3gp", "mpeg4"), (".m2ts", "libx264"),
    ],
)  # fmt: skip
def test_every_usual_kind_of_file_opens(tmp_path, suffix, codec) -> None:
    try:
        av.Codec(codec, "w")
    except ValueError:
        codec = {"flv1": "flv"}.get(codec, codec)
    pix_fmt = {"gif": "rgb8"}.get(codec, "yuv420p")
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    path = make(
        tmp_path / f"in{suffix}", moving(12, 128, 96), codec=codec, options=options,
        pix_fmt=pix_fmt,
    )  # fmt: skip
    with open_source(path) as source, sink_for(tmp_path / "out.mkv", source) as sink:
        count = 0
        for frame in source:
            sink.write(frame.with_pixels(frame.pixels.repeat(4, 0).repeat(4, 1)))
            count += 1
        sink.commit()
    assert count in (11, 12)
    assert len(moments(tmp_path / "out.mkv")) == count


def flash_and_beep(path: Path, at: int) -> Path:
    """100 frames with one white frame, and a click with it."""
    frames = [np.full((48, 64, 3), 30, np.uint8) for _ in range(100)]
    frames[at][:] = 230
    samples = np.zeros(4 * 48_000, np.float32)
    samples[at * 1920 : at * 1920 + 400] = 0.9 * np.sin(np.arange(400) / 3)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "10", "g": "25"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice = out.add_stream("mp2" if path.suffix == ".ts" else "aac", rate=48_000, layout="mono")
        for n, frame in enumerate(frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            piece = av.AudioFrame.from_ndarray(
                samples[None, n * 1920 : (n + 1) * 1920].copy(), "fltp", "mono"
            )
            piece.sample_rate, piece.pts = 48_000, n * 1920
            out.mux(voice.encode(piece))
        out.mux(video.encode(None))
        out.mux(voice.encode(None))
    return path


def apart(path: Path) -> float:
    """Seconds from the flash to the click."""
    if path.suffix == ".avi":  # it stores no times, and libav's guesses err by a frame
        flash = next(f.seconds for f in read(path) if f.pixels.mean() > 150)
    else:
        with av.open(str(path)) as container:
            flash = next(f.time for f in container.decode(video=0)
                         if f.to_ndarray(format="gray").mean() > 150)  # fmt: skip
    with av.open(str(path)) as container:
        click = next(
            f.time + int(np.argmax(np.abs(f.to_ndarray()[0]) > 0.3)) / f.sample_rate
            for f in container.decode(audio=0)
            if np.abs(f.to_ndarray()[0]).max() > 0.3
        )
    return click - flash


@pytest.mark.parametrize("start", [None, 1.3, 2.52])
@pytest.mark.parametrize(
    ("before", "after"),
    [(".mp4", ".mp4"), (".mp4", ".mkv"), (".mkv", ".mp4"), (".ts", ".mkv"), (".ts", ".mp4"),
     (".mkv", ".webm"), (".mkv", ".avi")],
)  # fmt: skip
def test_sound_stays_with_its_picture(tmp_path, before, after, start) -> None:
    source = flash_and_beep(tmp_path / f"in{before}", 75)
    enlarge(source, tmp_path / f"out{after}", span={"start": start})
    assert apart(tmp_path / f"out{after}") == pytest.approx(apart(source), abs=0.02)
