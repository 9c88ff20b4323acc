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
from teco.inference.stream import Stream
from teco.model.opening import open_model
from teco.players import emit, find, gstreamer
from teco.players.base import EmitRequest
from teco.players.gst.ahead import Ahead
from teco.players.gst.formats import FORMATS, FrameFormat, Layout
from teco.video.colour import Colour, Converter

Pictures = list[np.ndarray]
WIDTH, HEIGHT = 48, 32


# --- warm-up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("warm_up", [0, 1, 3, 30])
def test_frames_handed_over_one_by_one_give_what_a_whole_clip_gives(warm_up, fake_session, texture):
    """The same steps in the same order, over held frames, cuts and short scenes."""
    first, second, third = (texture(n, 32, 24, seed=n) for n in (6, 3, 7))
    pictures = [*first[:2], first[1], *first[2:], *second, *third, third[-1]]
    whole, parts = fake_session(), fake_session()
    expected = list(Stream(whole, warm_up=warm_up).run(pictures))
    ahead = Ahead[int](Stream(parts, scene_cuts=False), warm_up=warm_up, scene_cuts=True)
    found = [item for n, p in enumerate(pictures) for item in ahead.feed(p, n)]
    found += ahead.drain()
    assert [tag for tag, _ in found] == list(range(len(pictures)))
    assert all(np.array_equal(a, b) for (_, a), b in zip(found, expected, strict=True))
    assert parts.states == whole.states
    assert all(
        np.array_equal(a, b) for (a, _), (b, _) in zip(parts.calls, whole.calls, strict=True)
    )


def test_within_a_scene_nothing_is_held(fake_session, texture):
    ahead = Ahead[int](Stream(fake_session(), scene_cuts=False), warm_up=2, scene_cuts=True)
    counts = [len(ahead.feed(p, n)) for n, p in enumerate(texture(6, 32, 24))]
    assert counts == [0, 0, 3, 1, 1, 1]
    assert ahead.held == 0


def test_a_reset_drops_what_is_held(fake_session, texture):
    ahead = Ahead[int](Stream(fake_session(), scene_cuts=False), warm_up=2, scene_cuts=True)
    pictures = texture(5, 32, 24)
    ahead.feed(pictures[0], 0)
    ahead.reset()
    assert ahead.drain() == []
    assert [len(ahead.feed(p, n)) for n, p in enumerate(pictures[:3])] == [0, 0, 3]


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (23, 33)], ids=["even", "odd"])
@pytest.mark.parametrize("name", FORMATS)
def test_raw_video_in_any_layout_is_read_and_written_as_clips_are(name, size, texture):
    h, w = size
    picture = texture(1, w, h)[0]
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
        pix_fmt = {"NV12": "nv12", "I420": "yuv420p"}[name]
        frame = Converter(colour).from_rgb(picture, pix_fmt)
        assert np.array_equal(found, Converter(colour).to_rgb(frame))
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
        f"filesrc location={clip} ! matroskademux ! avdec_ffv1 ! videoconvert ! "
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
def test_warm_up_runs_the_frames_before_a_seeks_target_and_shows_none(run, sliding_clip, tiny_onnx):
    """What is shown is what a stream with that pre-roll shows; and nearer to sequential play."""
    clip, pictures = sliding_clip
    at = 1000 // 40
    whole = streamed(tiny_onnx, pictures, scene_cuts=False)[at:]
    errors: list[float] = []
    for warm_up in (0, 4, 16):
        result, data = run(
            kind="playbin", clip=str(clip), seeks=[1000], sync=True,
            filter="videoconvert ! video/x-raw,format=RGB ! teco scene-cuts=false "
            f"warmup={warm_up} ! videoconvert ! video/x-raw,format=RGB",
        )  # fmt: skip
        assert result["error"] is None
        rolled = streamed(tiny_onnx, pictures[at - warm_up :], scene_cuts=False)[warm_up:]
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
@pytest.mark.parametrize("form", ["I420", "NV12"])
def test_y_cb_cr_is_what_upscale_makes_of_it(form, run, tmp_path, texture, tiny_onnx):
    clip, colour, pix_fmt = tmp_path / "clip.mkv", Colour("bt601", False), "yuv420p"
    frames = [Converter(colour).from_rgb(p, pix_fmt) for p in texture(6, WIDTH, HEIGHT)]
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for n, frame in enumerate(frames):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    result, data = run(kind="play", pipeline=f"{source(clip, form)} ! teco name=t")
    assert result["error"] is None
    assert f"format=(string){form}" in result["caps"]
    assert "colorimetry=(string)bt601" in result["caps"]  # said, though 128 rows would be, too
    lows = [Converter(colour).to_rgb(frame) for frame in frames]
    highs = streamed(tiny_onnx, lows)
    target = {"I420": "yuv420p", "NV12": "nv12"}[form]
    expected = [Converter(colour).from_rgb(p, target).to_ndarray() for p in highs]
    found = np.frombuffer(data, np.uint8).reshape(-1, *expected[0].shape)
    assert np.array_equal(found, expected)
    assert result["times"] == [n * 40_000_000 for n in range(6)]


@pytest.mark.slow
def test_look_ahead_is_the_warm_up_of_upscale_and_told_as_latency(run, sliding_clip, tiny_onnx):
    clip, pictures = sliding_clip
    result, data = run(kind="play", pipeline=f"{source(clip)} ! teco name=t look-ahead=3")
    assert result["error"] is None
    assert np.array_equal(pictures_of(data), streamed(tiny_onnx, pictures, warm_up=3))
    assert result["times"] == [n * 40_000_000 for n in range(len(pictures))]
    assert result["frames"] >= len(pictures)  # what was run backwards is counted, too
    made = "videotestsrc num-buffers=8 ! video/x-raw,format=RGB,width=48,height=32,framerate=25/1"
    _, least, _ = run(kind="play", pipeline=made)[0]["latency"]
    result, _ = run(kind="play", pipeline=f"{made} ! teco name=t look-ahead=3")
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
