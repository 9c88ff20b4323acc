"""The frei0r filter: how it is asked in milliseconds or seconds, what it refuses, and in ffmpeg."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from libteco import ort_library
from native_players import (
    Frei0rInGStreamer,
    InFfmpeg,
    drive,
    frei0r_environment,
    frei0r_folder,
)

import teco
from teco.model.opening import open_model
from teco.players import emit, find, frei0r, gstreamer, native
from teco.players.base import EmitRequest
from teco.video.clips import open_source

pytestmark = pytest.mark.slow  # it is compiled first

WIDTH, HEIGHT = 32, 24


def or_skip(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)


class Filter:
    """One instance, as a player holds it."""

    def __init__(self, width: int, height: int, **parameters: str | bool) -> None:
        self.calls = ctypes.CDLL(str(frei0r_folder() / frei0r.PLUGIN))
        self.calls.f0r_construct.restype = ctypes.c_void_p
        self.calls.f0r_construct.argtypes = [ctypes.c_uint, ctypes.c_uint]
        self.calls.f0r_destruct.argtypes = [ctypes.c_void_p]
        self.calls.f0r_set_param_value.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        self.calls.f0r_update.argtypes = [
            ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.instance = self.calls.f0r_construct(width, height)
        for name, value in parameters.items():
            index = ["model", "library", "cuts"].index(name)
            given = (
                ctypes.c_double(value)
                if isinstance(value, bool)
                else ctypes.c_char_p(value.encode())
            )
            self.calls.f0r_set_param_value(self.instance, ctypes.addressof(given), index)

    def update(self, time: float, picture: np.ndarray) -> np.ndarray:
        """A small RGB picture in, the large one out, as RGB."""
        large = picture.repeat(4, 0).repeat(4, 1)
        given = np.dstack([large, np.full(large.shape[:2], 200, np.uint8)])
        out = np.zeros_like(given)
        self.calls.f0r_update(self.instance, time, given.ctypes.data, out.ctypes.data)
        assert (out[..., 3] == 200).all()
        return out[..., :3]


@pytest.fixture
def make_filter(tiny_onnx, monkeypatch) -> Iterator[Callable[..., Filter]]:
    or_skip(native.why_no_compiler("frei0r.h"))
    monkeypatch.setenv("TECO_MODEL", str(tiny_onnx))
    monkeypatch.setenv("TECO_ORT_LIBRARY", str(ort_library()))
    monkeypatch.setenv("TECO_THREADS", "1")
    made: list[Filter] = []

    def make(width: int = 4 * WIDTH, height: int = 4 * HEIGHT, **parameters) -> Filter:
        made.append(Filter(width, height, **parameters))
        return made[-1]

    yield make
    for one in made:
        one.calls.f0r_destruct(one.instance)


@pytest.mark.parametrize("unit", [1000.0, 1.0], ids=["milliseconds", "seconds"])
def test_time_may_be_in_milliseconds_or_seconds(unit, make_filter, texture, tiny_onnx):
    """Gaps of dropped and held frames go on; seeks, ahead and back, start a scene."""
    moments = [0, 0.04, 0.08, 0.2, 0.24, 0.24, 1.9, 1.94, 7, 7.04, 3, 3.04, 3.08, 0, 0.04]
    seeks = {8, 10, 13}
    pictures = texture(len(moments), WIDTH, HEIGHT)
    one = make_filter(cuts=False)
    with teco.Stream.open(
        str(tiny_onnx), runtime="onnxruntime", threads=1, scene_cuts=False
    ) as stream:
        for n, (moment, picture) in enumerate(zip(moments, pictures, strict=True)):
            if n in seeks:
                stream.reset()
            found = one.update(moment * unit, picture)
            assert np.array_equal(found, stream.push(picture)), n


def test_a_slow_first_interval_is_not_taken_for_milliseconds_for_ever(
    make_filter, texture, tiny_onnx
):
    moments = [0, 1.5, 1.54, 1.58, 9, 9.04]  # seconds; the fifth is a seek
    pictures = texture(len(moments), WIDTH, HEIGHT)
    one = make_filter(cuts=False)
    with teco.Stream.open(
        str(tiny_onnx), runtime="onnxruntime", threads=1, scene_cuts=False
    ) as stream:
        for n, (moment, picture) in enumerate(zip(moments, pictures, strict=True)):
            if n == 4:
                stream.reset()
            assert np.array_equal(one.update(moment, picture), stream.push(picture)), n
        assert np.array_equal(one.update(float("nan"), pictures[0]), stream.push(pictures[0]))


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (130, 96, "expected multiples of 4"),
        (28, 96, "were 7x24 before"),
        (0, 0, "expected 1 to 65536"),
    ],
)
def test_sizes_that_are_refused(width, height, words, make_filter, capfd):
    assert make_filter(width, height).instance is None
    assert words in capfd.readouterr().err


def test_a_model_that_cannot_be_opened_is_refused_where_the_player_listens(
    make_filter, monkeypatch, capfd, tmp_path
):
    monkeypatch.setenv("TECO_MODEL", str(tmp_path / "none.onnx"))
    assert make_filter().instance is None
    assert "none.onnx" in capfd.readouterr().err


def test_without_any_model_pictures_pass_and_one_line_says_so(
    make_filter, monkeypatch, capfd, texture, tiny_onnx
):
    monkeypatch.delenv("TECO_MODEL")
    one = make_filter()
    assert one.instance is not None  # a parameter may still name one
    first, second = texture(2, WIDTH, HEIGHT)
    for picture in (first, second):
        assert np.array_equal(one.update(0.0, picture), picture.repeat(4, 0).repeat(4, 1))
    assert capfd.readouterr().err.count("set TECO_MODEL=") == 1
    named = make_filter(model=str(tiny_onnx))
    with teco.Stream.open(str(tiny_onnx), runtime="onnxruntime", threads=1) as stream:
        assert np.array_equal(named.update(0.0, first), stream.push(first))


# --- in ffmpeg -------------------------------------------------------------------------------


def ffmpeg(model: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ffmpeg", "-v", "error", *map(str, arguments)], capture_output=True, check=False,
        env=frei0r_environment(model),
    )  # fmt: skip


def test_ffmpeg_ends_with_the_filters_own_sentence(tmp_path, tiny_onnx):
    or_skip(InFfmpeg().why_not())
    clip = ("-f", "lavfi", "-i", "testsrc=size=32x24:rate=25", "-frames:v", "2")
    for model, vf, words in [
        (tmp_path / "none.onnx", frei0r.enlarged(4), b"none.onnx"),
        (tiny_onnx, "scale=126:96,format=rgba,frei0r=filter_name=teco", b"multiples of 4"),
        (tiny_onnx, "scale=16:16,format=rgba,frei0r=filter_name=teco", b"8x8 and larger"),
    ]:
        done = ffmpeg(model, *clip, "-vf", vf, "-f", "null", "-")
        assert done.returncode != 0
        assert words in done.stderr, done.stderr


def test_colours_are_those_of_upscale(tmp_path, tiny_onnx, make_clip, texture):
    """With the conversion that the README names, a Y'CbCr clip gives the offline pictures."""
    or_skip(InFfmpeg().why_not())
    clip = make_clip(tmp_path / "clip.mkv", pixels=texture(6, 48, 32))
    done = ffmpeg(tiny_onnx, "-i", clip, "-vf", frei0r.exact(4), "-f", "rawvideo", "-pix_fmt",
                  "rgb24", "-")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.frombuffer(done.stdout, np.uint8).reshape(-1, 128, 192, 3)
    with (
        open_source(clip) as source,
        teco.Stream.open(str(tiny_onnx), runtime="onnxruntime", threads=1) as stream,
    ):
        expected = [stream.push(frame.pixels) for frame in source]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_the_emitted_folder_needs_nothing_else(tmp_path):
    or_skip(InFfmpeg().why_not())
    request = EmitRequest(model=open_model("live"), spec="live")
    said = emit.write(find("frei0r"), request, tmp_path / "out", force=False, check=True)
    assert said == "ffmpeg took two frames through it"
    env = {k: v for k, v in os.environ.items() if not k.startswith("TECO_")}
    env = {**env, "FREI0R_PATH": str(tmp_path / "out"), "HOME": "/nowhere"}
    env.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=32x24", "-frames:v", "1",
         "-vf", frei0r.enlarged(4), "-f", "null", "-"], capture_output=True, check=False, env=env,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


# --- in GStreamer ----------------------------------------------------------------------------


def test_seeks_in_gstreamer_start_a_scene(tmp_path, tiny_onnx, sliding_clip):
    """playbin, stock elements, seconds: the pictures after each seek are those of a cold start."""
    or_skip(Frei0rInGStreamer().why_not())
    clip, pictures = sliding_clip
    env = gstreamer.environment(tmp_path, tmp_path / "registry.bin")
    env |= frei0r_environment(tiny_onnx) | {"PATH": env["PATH"]}
    result, data = drive(
        env, tmp_path / "out", kind="playbin", clip=str(clip), seeks=[400, 3200, 800], sync=True,
        filter="videoconvert ! video/x-raw,format=RGB ! videoscale method=nearest-neighbour ! "
        "videoconvert ! video/x-raw,format=RGBA,width=192,height=128 ! "
        "frei0r-filter-teco scene-cuts=false ! videoconvert ! video/x-raw,format=RGB",
    )  # fmt: skip
    assert result["error"] is None
    found = np.frombuffer(data, np.uint8).reshape(-1, 128, 192, 3)
    first = result["marks"][-1] + 1  # one may still have been on its way
    with teco.Stream.open(str(tiny_onnx), runtime="onnxruntime", threads=1,
                          scene_cuts=False) as stream:  # fmt: skip
        expected = [stream.push(p) for p in pictures[800 // 40 :]]
    assert np.array_equal(found[first:], expected[len(expected) - len(found[first:]) :])
    assert len(found) - first >= len(expected) - 1
