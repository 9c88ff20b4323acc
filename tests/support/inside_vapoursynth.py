"""What tests/test_vapoursynth.py runs in the Python that VapourSynth is installed in.

Environment: TECO_TEST_MODEL, an ONNX file; TECO_TEST_STATIC, the same for 32x48 frames only.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import vapoursynth as vs

from teco import vs as teco_vs
from teco.inference.stream import Stream

MODEL = os.environ["TECO_TEST_MODEL"]
STATIC = os.environ["TECO_TEST_STATIC"]
OPTIONS = {"model": MODEL, "runtime": "onnxruntime", "threads": 1}
HEIGHT, WIDTH = 32, 48


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """A window that slides over noise, smooth enough that no frame is a cut."""
    scene = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    scene = scene.repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(scene[n : n + HEIGHT, n : n + WIDTH]) for n in range(count)]


def clip_of(frames: list[np.ndarray], **props: int) -> vs.VideoNode:
    """An RGB24 clip of these pictures."""
    height, width = frames[0].shape[:2]
    blank = vs.core.std.BlankClip(
        format=vs.RGB24, width=width, height=height, length=len(frames), keep=True
    )

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(out[plane]), frames[n][:, :, plane])
        for name, value in props.items():
            out.props[name] = value
        return out

    return blank.std.ModifyFrame(clips=blank, selector=fill)


def picture_of(frame: vs.VideoFrame) -> np.ndarray:
    return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=2)


def stream(**options) -> Stream:
    return Stream.open(MODEL, runtime="onnxruntime", threads=1, **options)


def refused(clip: vs.VideoNode, *words: str, **options) -> None:
    with pytest.raises(vs.Error) as caught:
        teco_vs.upscale(clip, **{**OPTIONS, **options}).get_frame(0)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["RGB24", "RGB30", "RGB48", "RGBS", "YUV420P8", "YUV422P8", "YUV444P8", "YUV410P8", "YUV411P8",
     "YUV440P8", "YUV422P9", "YUV420P10", "YUV444P12", "YUV420P16", "YUV444PS", "GRAY8", "GRAY16",
     "GRAYS"],
)  # fmt: skip
def test_format_colour_and_properties_stay(name: str) -> None:
    source = clip_of(pictures(3)).std.SetFrameProps(Kept=7)
    form = getattr(vs, name)
    if form not in (vs.RGB24, vs.RGB30, vs.RGB48, vs.RGBS):
        source = source.resize.Bicubic(format=form, matrix_s="709")
    else:
        source = source.resize.Bicubic(format=form)
    out = teco_vs.upscale(source, **OPTIONS)
    assert (out.format.id, out.width, out.height) == (form, 4 * WIDTH, 4 * HEIGHT)
    assert (out.num_frames, out.fps) == (source.num_frames, source.fps)
    small, large = source.get_frame(2), out.get_frame(2)
    assert large.props["Kept"] == 7
    assert large.props["_DurationNum"] == small.props["_DurationNum"]
    assert large.props.get("_Matrix") == small.props.get("_Matrix")
    assert large.props.get("_Range") == small.props.get("_Range")
    # The picture is the small one enlarged, in brightness and, where there is, in colour.
    plane = vs.core.std.PlaneStats
    for number in range(source.format.num_planes):
        means = [plane(c, plane=number).get_frame(2).props["PlaneStatsAverage"]
                 for c in (source, out)]  # fmt: skip
        assert means[0] == pytest.approx(means[1], abs=0.03)


@pytest.mark.parametrize("name", ["RGB48", "YUV444P10", "YUV420P16", "GRAY16"])
def test_more_than_8_bits_go_through_the_network(name: str) -> None:
    """A ramp of neighbouring levels of 10 bits stays one, with the levels between."""
    form = vs.core.get_video_format(getattr(vs, name))
    blank = vs.core.std.BlankClip(format=form, width=WIDTH, height=HEIGHT, length=1)
    blank = blank.std.SetFrameProps(_Matrix=1, _Range=1)
    step = 2 ** (form.bits_per_sample - 10)
    middle = 2 ** (form.bits_per_sample - 1)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        for plane in range(form.num_planes):
            values = np.asarray(out[plane])
            values[:] = middle
            if plane == 0 or form.color_family == vs.RGB:
                values[:] = middle + step * np.arange(WIDTH)
        return out

    source = blank.std.ModifyFrame(clips=blank, selector=fill)
    large = np.asarray(teco_vs.upscale(source, **OPTIONS).get_frame(0)[0])[4 * HEIGHT // 2]
    # 8 bits would leave a twelfth of these.
    assert len(np.unique(large)) > WIDTH


def test_interlaced_frames_are_refused_with_the_remedy() -> None:
    source = clip_of(pictures(2), _FieldBased=2)
    refused(source, "interlaced", "SetFieldBased(0)")
    teco_vs.upscale(source.std.SetFieldBased(0), **OPTIONS).get_frame(0)


def test_the_pixels_aspect_stays() -> None:
    out = teco_vs.upscale(clip_of(pictures(1), _SARNum=4, _SARDen=3), **OPTIONS).get_frame(0)
    assert (out.props["_SARNum"], out.props["_SARDen"]) == (4, 3)


def test_full_range_is_read_and_written_as_such() -> None:
    grey = [np.full((HEIGHT, WIDTH, 3), 235, np.uint8)] * 2
    for said, expected in (("full", 235), ("limited", 218)):
        source = clip_of(grey).resize.Point(format=vs.YUV444P8, matrix_s="170m", range_s=said)
        out = teco_vs.upscale(source, **OPTIONS)
        small, large = source.get_frame(0), out.get_frame(0)
        assert int(np.asarray(small[0]).mean()) == expected
        assert abs(float(np.asarray(large[0])[16:-16, 16:-16].mean()) - expected) < 12
        assert large.props["_Range"] == small.props["_Range"]


def test_an_unsaid_matrix_is_named_after_the_guess() -> None:
    source = vs.core.std.BlankClip(format=vs.YUV420P8, width=400, height=192, length=1)
    assert "_Matrix" not in source.get_frame(0).props
    assert teco_vs.upscale(source, **OPTIONS).get_frame(0).props["_Matrix"] == 6


def test_scene_change_property_decides() -> None:
    frames = pictures(6)
    marked = clip_of(frames, _SceneChangePrev=0)
    only = marked.std.SetFrameProps(_SceneChangePrev=1)
    cut = vs.core.std.Splice([marked[:3], only[3], marked[4:]])
    out = [picture_of(f) for f in teco_vs.upscale(cut, **OPTIONS).frames()]
    with stream(scene_cuts=False) as cold:
        first = [cold.push(p) for p in frames[:3]]
        cold.reset()
        second = [cold.push(p) for p in frames[3:]]
    assert all(np.array_equal(a, b) for a, b in zip(out, first + second, strict=True))


def test_the_property_keeps_the_detector_quiet() -> None:
    frames = pictures(4) + pictures(4, seed=5)
    for said, scenes in ((None, 2), (0, 1)):
        props = {} if said is None else {"_SceneChangePrev": said}
        out = [picture_of(f) for f in teco_vs.upscale(clip_of(frames, **props), **OPTIONS).frames()]
        with stream(scene_cuts=scenes == 2) as other:
            expected = [other.push(p) for p in frames]
            assert other.stats.resets == scenes
        assert all(np.array_equal(a, b) for a, b in zip(out, expected, strict=True))


@pytest.mark.parametrize("name", ["pre_roll", "warmup"])  # the older name
@pytest.mark.parametrize("pre_roll", [0, 4])
def test_a_seek_is_a_new_scene_with_its_pre_roll(pre_roll: int, name: str) -> None:
    frames = pictures(80)
    out = teco_vs.upscale(clip_of(frames), **OPTIONS, **{name: pre_roll})
    out.get_frame(0)
    found = picture_of(out.get_frame(60))
    with stream() as cold:
        for n in range(60 - pre_roll, 60):
            cold.push(frames[n])
        assert np.array_equal(found, cold.push(frames[60]))


def test_a_seek_storm_from_many_threads_breaks_nothing() -> None:
    vs.core.num_threads = 4
    frames = pictures(60)
    out = teco_vs.upscale(clip_of(frames), **OPTIONS, pre_roll=2)
    rng = random.Random(0)
    asked = [rng.randrange(60) for _ in range(200)]
    waiting = [(n, out.get_frame_async(n)) for n in asked]
    for n, future in waiting:
        frame = future.result(timeout=60)
        small = frames[n].astype(float).mean()
        assert abs(picture_of(frame).astype(float).mean() - small) < 12
    # And it is exact again as soon as frames are asked for in order, from the first.
    again = [picture_of(f) for f in teco_vs.upscale(clip_of(frames), **OPTIONS).frames()]
    with stream() as other:
        expected = [other.push(p) for p in frames]
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


def test_serial_asks_for_nothing_but_the_wanted_frame() -> None:
    asked: list[int] = []
    frames = pictures(12)
    source = clip_of(frames)

    def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        asked.append(n)
        return f

    source = source.std.ModifyFrame(clips=source, selector=note)
    out = teco_vs.upscale(source, **OPTIONS, serial=True)
    found = [picture_of(out.get_frame(n)) for n in range(12)]
    assert sorted(set(asked)) == list(range(12))
    assert asked == sorted(asked)
    with stream() as other:
        expected = [other.push(p) for p in frames]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_script_that_is_evaluated_anew_finds_its_session_again(monkeypatch) -> None:
    opened: list[str] = []
    original = teco_vs.open_session

    def count(*arguments, **options):
        opened.append("one")
        return original(*arguments, **options)

    monkeypatch.setattr(teco_vs, "_SESSIONS", teco_vs._Sessions())
    monkeypatch.setattr(teco_vs, "open_session", count)
    frames = pictures(5)
    for _ in range(5):
        out = teco_vs.upscale(clip_of(frames), **OPTIONS)
        picture_of(out.get_frame(0))
        del out
        gc.collect()
    assert len(opened) == 1
    # Two at once need two: a session holds one scene's state.
    both = [teco_vs.upscale(clip_of(frames), **OPTIONS) for _ in range(2)]
    assert len(opened) == 2
    assert both[0] is not both[1]


def test_a_model_with_another_stream_contract() -> None:
    """`live` has a latent state and no flow."""
    frames = pictures(4)
    options = {"model": "live", "runtime": "onnxruntime", "threads": 1}
    found = [picture_of(f) for f in teco_vs.upscale(clip_of(frames), **options).frames()]
    with Stream.open("live", runtime="onnxruntime", threads=1) as other:
        expected = [other.push(p) for p in frames]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_odd_sizes() -> None:
    odd = [p[:31, :45] for p in pictures(3)]
    found = [picture_of(f) for f in teco_vs.upscale(clip_of(odd), **OPTIONS).frames()]
    assert found[0].shape == (124, 180, 3)
    with stream() as other:
        assert all(np.array_equal(a, other.push(b)) for a, b in zip(found, odd, strict=True))


def test_bad_input_is_vapoursynths_error(tmp_path: Path) -> None:
    good = clip_of(pictures(2))
    refused(good.resize.Point(width=48, height=6), "teco: ", "8x8")
    other_size = good.resize.Point(width=64, height=64)
    refused(vs.core.std.Splice([good, other_size], mismatch=True), "changes its format or its size")
    refused(other_size, "32x48", "64x64", model=STATIC)
    refused(good, "no model is called", model="nothing-like-it")
    refused(good, "no runtime is called", runtime="none")
    refused(good, "pre_roll is -1", pre_roll=-1)
    refused(good, "threads is 0", threads=0)
    ycgco = good.resize.Point(format=vs.YUV444P8, matrix_s="ycgco")
    refused(ycgco, "matrix 8", "resize")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(Path(MODEL).read_bytes()[:1000])
    refused(good, "teco: ", model=str(damaged))
    shutil.copy(Path(MODEL).with_suffix(".json"), tmp_path / "damaged.json")
    refused(good, "is not the file", model=str(damaged))
    with pytest.raises(vs.Error, match="expected a video clip"):
        teco_vs.upscale("clip", **OPTIONS)
