"""The GStreamer element in gst-launch's syntax and in playbin, and its parts without GStreamer."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from native_players import InGStreamer, drive, emitted

import teco
from teco.model.opening import open_model
from teco.players import emit, find, gstreamer
from teco.players.base import EmitRequest
from teco.players.gst.formats import FORMATS, FrameFormat, Layout
from teco.video.colour import Colour, Converter

Pictures = list[np.ndarray]
WIDTH, HEIGHT = 48, 32
PIX_FMTS = {"NV12": "nv12", "I420": "yuv420p", "I420_10LE": "yuv420p10le", "P010_10LE": "p010le"}


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (23, 33)], ids=["even", "odd"])
@pytest.mark.parametrize("name", FORMATS)
def test_raw_video_in_any_layout_is_read_and_written_as_clips_are(name, size, texture):
    h, w = size
    picture = texture(1, w, h)[0]
    if "10" in name:
        picture = picture.astype(np.uint16) * 257
    colour = Colour("rgb", True) if name == "RGB" else Colour("bt709", False)
    rng = np.random.default_rng(0)
    bare = Layout(name, w, h, (), ())
    strides = tuple(row + 5 for _, row in bare.planes)
    sizes = [rows * stride for (rows, _), stride in zip(bare.planes, strides, strict=True)]
    offsets = tuple(7 + sum(sizes[:n]) for n in range(len(sizes)))
    layout = Layout(name, w, h, strides, offsets)
    memory = rng.integers(0, 256, 7 + sum(sizes), np.uint8)
    before = memory.copy()
    form = FrameFormat(colour)
    form.write(picture, memoryview(memory), layout)
    found = form.read(memoryview(memory), layout)
    if name == "RGB":
        assert np.array_equal(found, picture)
    else:
        frame = Converter(colour).from_rgb(picture, PIX_FMTS[name])
        deep = "10" in name
        assert np.array_equal(found, Converter(colour).to_rgb(frame, deep=deep))
        assert found.dtype == (np.uint16 if deep else np.uint8)
    inside = np.zeros(memory.size, bool)
    for view in layout.views(memoryview(inside.view(np.uint8))):
        view[:] = 1
    assert np.array_equal(memory[~inside], before[~inside])  # nothing beside the planes


def test_memory_that_is_too_small_is_an_error():
    layout = Layout("RGB", 8, 8, (24,), (0,))
    with pytest.raises(ValueError, match="buffer"):
        FrameFormat(Colour("rgb", True)).read(memoryview(bytes(100)), layout)


# --- in GStreamer --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plugin(tmp_path_factory, tiny_onnx) -> tuple[Path, dict[str, str]]:
    """The emitted folder and the environment of GStreamer programs that see it."""
    if (reason := InGStreamer().why_not()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gst")
    emitted(tiny_onnx, folder / "plugin")
    return folder, gstreamer.environment(folder / "plugin", folder / "registry.bin")


@pytest.fixture
def run(plugin, tmp_path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    return lambda **task: drive(plugin[1], tmp_path / "out", **task)


def source(clip: Path, form: str = "RGB") -> str:
    return (
        f"filesrc location={clip} ! matroskademux ! avdec_ffv1 ! videoconvert dither=none ! "
        f"video/x-raw,format={form}"
    )


def pictures_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, 4 * HEIGHT, 4 * WIDTH, 3)


def streamed(model: Path, pictures: Pictures, **options: Any) -> Pictures:
    with teco.Stream.open(str(model), runtime="onnxruntime", threads=1, **options) as stream:
        return list(stream.run(pictures))


@pytest.mark.slow
def test_every_seek_is_a_cold_start_and_the_last_one_exact(run, sliding_clip, tiny_onnx):
    """Live flushing seeks in playbin, back and ahead; no picture of before comes through."""
    clip, pictures = sliding_clip
    result, data = run(
        kind="playbin", clip=str(clip), seeks=[400, 3200, 800], sync=True,
        filter="videoconvert ! video/x-raw,format=RGB ! teco scene-cuts=false ! "
        "videoconvert ! video/x-raw,format=RGB",
    )  # fmt: skip
    assert result["error"] is None
    first = result["marks"][-1] + 1  # one may still have been on its way
    found = pictures_of(data)[first:]
    expected = streamed(tiny_onnx, pictures[800 // 40 :], scene_cuts=False)
    assert len(found) >= len(expected) - 1
    assert np.array_equal(found, expected[len(expected) - len(found) :])


@pytest.mark.slow
def test_pre_roll_runs_the_frames_before_a_seeks_target_and_shows_none(
    run, sliding_clip, tiny_onnx
):
    """What is shown is what a stream with that pre-roll shows; and nearer to sequential play."""
    clip, pictures = sliding_clip
    at = 1000 // 40
    whole = streamed(tiny_onnx, pictures, scene_cuts=False)[at:]
    errors: list[float] = []
    for name, pre_roll in (("pre-roll", 0), ("pre-roll", 4), ("warmup", 16)):  # the older name
        result, data = run(
            kind="playbin", clip=str(clip), seeks=[1000], sync=True,
            filter="videoconvert ! video/x-raw,format=RGB ! teco scene-cuts=false "
            f"{name}={pre_roll} ! videoconvert ! video/x-raw,format=RGB",
        )  # fmt: skip
        assert result["error"] is None
        rolled = streamed(tiny_onnx, pictures[at - pre_roll :], scene_cuts=False)[pre_roll:]
        found = pictures_of(data)[-len(rolled) :]
        assert np.array_equal(found, rolled)
        before = result["times"][-len(rolled) - 1]  # of before the seek, which was early
        assert before < 1_000_000_000 - 16 * 40_000_000
        errors.append(float(np.abs(rolled[0].astype(int) - whole[0]).mean()))
    assert errors[0] > errors[1] >= errors[2]


@pytest.mark.slow
def test_two_hundred_seeks_in_a_row(run, sliding_clip, tiny_onnx):
    clip, pictures = sliding_clip
    result, data = run(
        kind="playbin", clip=str(clip), seeks=[], storm=200, length=3900, last=2000,
        filter="videoconvert ! video/x-raw,format=RGB ! teco scene-cuts=false ! videoconvert ! "
        "video/x-raw,format=RGB",
    )  # fmt: skip
    assert result["error"] is None
    expected = streamed(tiny_onnx, pictures[50:], scene_cuts=False)
    found = pictures_of(data)[-len(expected) + 1 :]
    assert np.array_equal(found, expected[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "site", "siting"),
    [
        ("I420", "", "left"),
        ("NV12", "", "left"),
        ("I420_10LE", "", "left"),
        ("P010_10LE", "", "left"),
        ("NV12", "mpeg2", "left"),
        ("I420", "jpeg", "center"),
        ("NV12", "cosited", "topleft"),
    ],
)
def test_y_cb_cr_is_what_upscale_makes_of_it(form, site, siting, run, tmp_path, texture, tiny_onnx):
    deep = "10" in form
    clip, colour = tmp_path / "clip.mkv", Colour("bt601", False)
    converter = Converter(colour, siting)
    pix_fmt = "yuv420p10le" if deep else "yuv420p"
    frames = [converter.from_rgb(p, pix_fmt) for p in texture(6, WIDTH, HEIGHT)]
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for n, frame in enumerate(frames):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    said = f" ! capssetter caps=video/x-raw,chroma-site={site}" if site else ""
    result, data = run(kind="play", pipeline=f"{source(clip, form)}{said} ! teco name=t")
    assert result["error"] is None
    assert f"format=(string){form}" in result["caps"]
    assert "colorimetry=(string)bt601" in result["caps"]  # said, though 128 rows would be, too
    lows = [converter.to_rgb(frame, deep=deep) for frame in frames]
    highs = streamed(tiny_onnx, lows)
    written = [converter.from_rgb(p, PIX_FMTS[form]) for p in highs]
    expected = b"".join(bytes(plane) for frame in written for plane in frame.planes)
    assert len(data) == len(expected)
    # Not compared as bytes: where they differ, pytest would look for how, for an hour.
    differ = np.frombuffer(data, np.uint8) != np.frombuffer(expected, np.uint8)
    assert not differ.any(), f"{differ.sum()} of {differ.size} bytes"
    assert result["times"] == [n * 40_000_000 for n in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reverse-warm-up", "look-ahead"])  # the older name
def test_reverse_warm_up_is_that_of_upscale_and_told_as_latency(name, run, sliding_clip, tiny_onnx):
    clip, pictures = sliding_clip
    result, data = run(kind="play", pipeline=f"{source(clip)} ! teco name=t {name}=3")
    assert result["error"] is None
    assert np.array_equal(pictures_of(data), streamed(tiny_onnx, pictures, reverse_warm_up=3))
    assert result["times"] == [n * 40_000_000 for n in range(len(pictures))]
    assert result["frames"] == len(pictures)
    made = "videotestsrc num-buffers=8 ! video/x-raw,format=RGB,width=48,height=32,framerate=25/1"
    _, least, _ = run(kind="play", pipeline=made)[0]["latency"]
    result, _ = run(kind="play", pipeline=f"{made} ! teco name=t {name}=3")
    assert result["latency"][1] - least == 4 * 40_000_000  # a step, and three frames held


@pytest.mark.slow
def test_a_discontinuity_starts_a_scene(run, sliding_clip, tiny_onnx):
    clip, pictures = sliding_clip
    result, data = run(
        kind="play", pipeline=f"{source(clip)} ! teco name=t scene-cuts=false", discont=[30]
    )
    assert result["error"] is None
    assert result["scenes"] == 2
    expected = [
        picture
        for part in (pictures[:30], pictures[30:])
        for picture in streamed(tiny_onnx, part, scene_cuts=False)
    ]
    assert np.array_equal(pictures_of(data), expected)


@pytest.mark.slow
def test_late_frames_are_enlarged_without_the_network(run, sliding_clip):
    """The sink hears each frame too late and says so; none is lost, and the number is told."""
    clip, pictures = sliding_clip
    slow = f"{source(clip)} ! teco name=t ! identity sleep-time=60000"
    result, _ = run(kind="play", pipeline=slow, sync=True, qos=True)
    assert result["error"] is None
    assert result["late-frames"] > 0
    assert len(result["times"]) == len(pictures)
    # Told not to, the element leaves it to GStreamer: the decoder drops frames.
    slow = slow.replace("name=t", "name=t deadline=false")
    result, _ = run(kind="play", pipeline=slow, sync=True, qos=True)
    assert result["late-frames"] == 0
    assert len(result["times"]) < len(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("{clip} ! teco model=nothing", "no model is called 'nothing'"),
        ("{clip} ! teco model=/none/model.onnx", "does not exist"),
        ("{clip} ! teco runtime=abacus", "abacus"),
        ("{clip} ! videoscale ! video/x-raw,width=7,height=32 ! teco", "not-negotiated"),
        ("{clip} ! teco ! video/x-raw,width=50", "not-linked"),
        ("{clip} ! interlace field-pattern=0 ! teco", "! deinterlace ! teco !"),
    ],
)
def test_what_is_wrong_is_an_error_of_the_element(pipeline, words, run, sliding_clip):
    try:
        result, _ = run(kind="play", pipeline=pipeline.format(clip=source(sliding_clip[0])))
    except AssertionError as refused:  # the pipeline's text itself does not link
        assert "could not link" in str(refused)  # noqa: PT017
        return
    said = f"{result['error']} {result['debug']}"
    assert words in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_emitted_folder_is_accepted(tmp_path):
    if (reason := InGStreamer().why_not()) is not None:
        pytest.skip(reason)
    request = EmitRequest(model=open_model("live"), spec="live", runtime="onnxruntime", threads=1)
    said = emit.write(find("gstreamer"), request, tmp_path / "out", force=False, check=True)
    assert said == "gst-launch-1.0 took two frames through it"
