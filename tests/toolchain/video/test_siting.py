"""Where colour lies: measured as the place of an edge, in the file and after the round trip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import read, sink_for

from teco.core.planes import chroma_of
from teco.model.conversion import Conversion, exact_planes
from teco.video.clips import open_source
from teco.video.colour import Colour, Converter, Siting, siting_of, siting_read
from teco.video.file.container import matroska_centred
from teco.video.frames import Frame

EDGE = 65
"""The first column (or row) of the right (or lower) colour; odd, so that chroma blurs it."""

COLOURS = np.array([[140, 120, 90], [100, 128, 170]])
"""Of nearly the same luma."""


def edge(axis: int = 1, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = COLOURS[0]
    np.moveaxis(pixels, axis, 0)[EDGE:] = COLOURS[1]
    return pixels


def place(samples: np.ndarray, axis: int) -> float:
    """Where a step lies on an axis, in samples: the left half's share of the whole."""
    line = samples.astype(np.float64).mean(axis=1 - axis)
    first, last = line[:8].mean(), line[-8:].mean()
    return float(((line - last) / (first - last)).sum() - 0.5)


@pytest.fixture
def source(tmp_path, make_pictures):
    with open_source(make_pictures(tmp_path / "low", [edge()[:24, :32]] * 3)) as found:
        yield found


def written(path: Path, source, axis: int, pix_fmt: str, codec: str | None = None) -> np.ndarray:
    """Cb of the middle frame of an edge that was written."""
    deep = "10" in pix_fmt
    pixels = edge(axis).astype(np.uint16) * 257 if deep else edge(axis)
    crf = 1 if codec != "libx264" else 0
    with sink_for(path, source, pix_fmt=pix_fmt, codec=codec, crf=crf) as sink:
        for n in range(3):
            sink.write(Frame(pixels, n, n, Fraction(1, 25), 1))
        sink.commit()
    with av.open(str(path)) as made:
        frame = list(made.decode(video=0))[1]
        data = frame.to_ndarray()
        h, w = frame.height, frame.width
        high, wide = frame.format.chroma_height(h), frame.format.chroma_width(w)
        return data.ravel()[h * w : h * w + high * wide].reshape(high, wide)


LEFT = [
    ("a.mp4", "libx264", "yuv420p"), ("a.mkv", "libx265", "yuv420p"),
    ("a.mp4", "libx265", "yuv420p10le"), ("a.webm", "libvpx-vp9", "yuv420p"),
    ("a.mkv", "libsvtav1", "yuv420p"), ("a.mkv", "ffv1", "yuv420p"),
    ("a.mkv", "ffv1", "yuv420p10le"), ("a.mkv", "ffv1", "yuv422p"),
    ("a.mkv", "libx265", "yuv422p"), ("a.y4m", None, "yuv420p"),
    ("a.y4m", None, "yuv420p10le"),
]  # fmt: skip
CENTRED = [("a.mkv", "mjpeg", "yuvj420p"), ("a.mkv", "mpeg1video", "yuv420p")]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), LEFT)
def test_chroma_is_written_on_the_left_column_between_two_rows(
    name, codec, pix_fmt, source, tmp_path
):
    """Sample k of a row lies on column 2 k, so that the edge is where that of the luma is; centred
    chroma would have it half a column before."""
    across = written(tmp_path / name, source, 1, pix_fmt, codec)
    assert 2 * place(across, 1) == pytest.approx(EDGE - 0.5, abs=0.15)
    down = written(tmp_path / f"down-{name}", source, 0, pix_fmt, codec)
    lies = place(down, 0) if "422" in pix_fmt else 2 * place(down, 0) + 0.5
    assert lies == pytest.approx(EDGE - 0.5, abs=0.15)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), CENTRED)
def test_of_jpeg_and_mpeg_1_it_is_written_between_columns(name, codec, pix_fmt, source, tmp_path):
    across = written(tmp_path / name, source, 1, pix_fmt, codec)
    # These code the edge coarsely; left-sited it would be at 65.0 by this reckoning.
    assert 2 * place(across, 1) + 0.5 == pytest.approx(EDGE - 0.5, abs=0.3)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [*LEFT, *CENTRED])
def test_colour_comes_back_where_it_was(name, codec, pix_fmt, source, tmp_path):
    """Through the file and back to RGB: blue against the picture's own, to a tenth of a pixel."""
    written(tmp_path / name, source, 1, pix_fmt, codec)
    with open_source(tmp_path / name, deep=True) as back:
        pixels = list(back)[1].pixels
    assert (pixels.dtype == np.uint16) == ("10" in pix_fmt)
    # Of coarse codecs the steps of both colours beside the edge.
    near = 0.35 if codec in ("mjpeg", "mpeg1video") else 0.1
    assert place(pixels[..., 2], 1) == pytest.approx(EDGE - 0.5, abs=near)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_a_decoders_word_is_heeded(siting: Siting, deep, tmp_path):
    """H.264 that says where its chroma lies."""
    pix_fmt = "yuv420p10le" if deep else "yuv420p"
    frame = Converter(Colour("bt709", False), siting).from_rgb(edge(), pix_fmt)
    path = tmp_path / "said.mp4"
    with av.open(str(path), "w") as made:
        options = {"crf": "0", "chroma_sample_location": siting}
        stream = made.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        made.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(path)) as container:
        decoded = next(container.decode(video=0))
        before = decoded.to_ndarray()
        assert siting_read(decoded, "h264") == siting
        assert np.array_equal(decoded.to_ndarray(), before)
    with open_source(path, deep=deep) as source:
        (back,) = source
    assert place(back.pixels[..., 2], 1) == pytest.approx(EDGE - 0.5, abs=0.1)
    # Planes go into a network as they are only if they lie where its own do.
    with open_source(path, planes="I420") as source:
        (given,) = source
    assert (given.layout == "I420") == (siting == "left" and not deep)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
def test_where_nothing_is_said_it_lies_on_the_left(codec, pix_fmt):
    """As in H.264 without a description, of which libav says nothing."""
    assert siting_read(av.VideoFrame(32, 32, pix_fmt), codec) == "left"


def test_a_matroska_file_may_say_it(tmp_path):
    """Of FFV1, which cannot say it itself."""
    for siting in ("center", "left"):
        path = tmp_path / f"{siting}.mkv"
        frame = Converter(Colour("bt709", False), siting).from_rgb(edge(), "yuv420p")
        with av.open(str(path), "w") as made:
            options = {"chroma_sample_location": siting}
            stream = made.add_stream("ffv1", rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            made.mux([*stream.encode(frame), *stream.encode(None)])
        assert matroska_centred(path) == (siting == "center")
        (back,) = read(path)
        assert place(back.pixels[..., 2], 1) == pytest.approx(EDGE - 0.5, abs=0.1)


@pytest.mark.parametrize(("tag", "siting"), [
    ("420jpeg", "center"), ("420mpeg2", "left"), ("420paldv", "topleft"), ("420p10", "left"),
])  # fmt: skip
def test_y4m_says_it_in_its_header(tag, siting, tmp_path):
    deep = "10" in tag
    frame = Converter(Colour("bt601", False), siting).from_rgb(
        edge(), "yuv420p10le" if deep else "yuv420p"
    )
    path = tmp_path / "in.y4m"
    header = f"YUV4MPEG2 W128 H96 F25:1 Ip A1:1 C{tag}\nFRAME\n"
    path.write_bytes(header.encode() + frame.to_ndarray().tobytes())
    (back,) = read(path, deep=deep)
    assert place(back.pixels[..., 2], 1) == pytest.approx(EDGE - 0.5, abs=0.1)
    with open_source(path, planes="NV12") as source:
        (given,) = source
    assert (given.layout == "NV12") == (tag == "420mpeg2")


def test_planes_of_a_network_are_moved_for_codecs_that_centre_them(tmp_path):
    """What is left-sited is centred by way of RGB."""
    conversion = Conversion.of("bt709", full_range=False)
    packed = exact_planes(edge().transpose(2, 0, 1) / 255, "NV12", conversion)
    assert 2 * place(chroma_of(packed, "NV12")[..., 0], 1) == pytest.approx(EDGE - 0.5, abs=0.1)
    colour = Colour("bt709", False)
    for codec, shift in (("h264", 0), ("mpeg1video", 0.5)):
        frame = Converter(colour, siting_of(codec)).frame_of(packed, "NV12", "yuv420p")
        blue = frame.to_ndarray().ravel()[96 * 128 :][: 48 * 64].reshape(48, 64)
        assert 2 * place(blue, 1) + shift == pytest.approx(EDGE - 0.5, abs=0.1)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_clips_of_few_frames_have_times_to_decode_them(codec, count, source, tmp_path):
    """x265 takes them from frames that never came: mostly zeros, and sometimes anything."""
    path = tmp_path / "short.mp4"
    with sink_for(path, source, codec=codec) as sink:
        for n in range(count):
            sink.write(Frame(edge(), n, n, Fraction(1, 25), 1))
        sink.commit()
    with av.open(str(path)) as made:
        packets = [p for p in made.demux(video=0) if p.size]
    times = [p.dts for p in packets]
    assert len(packets) == count
    assert times == sorted(set(times))
    assert all(p.dts <= p.pts for p in packets)
    if codec == "libx265" and count <= 2:
        assert times == [p.pts for p in packets]
