"""What programs call: the verbs of the command line, and frames that are handed over wrongly."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import teco
from teco import api
from teco.core.errors import TecoError

CITY = Path(__file__).parents[2] / "examples" / "city.mp4"


def test_the_names_of_the_package() -> None:
    for name in teco.__all__:
        assert getattr(teco, name) is not None
    # Whatever was imported before: a module of this name would hide the function.
    importlib.import_module("teco.exporting.request")
    assert callable(teco.export)
    with pytest.raises(AttributeError, match="enlarge"):
        teco.enlarge  # noqa: B018


def test_upscale_is_the_command(tmp_path: Path) -> None:
    seen: list[str] = []
    said: list[str] = []
    done = teco.upscale(
        CITY, tmp_path / "out.mp4", frames=3, threads=1, runtime="onnxruntime",
        progress=lambda at: seen.append(str(at)), tell=said.append,
    )  # fmt: skip
    assert done.frames == 3
    assert seen[-1].startswith("3 of ")
    assert seen[-1].endswith(" frames")
    assert said[0].startswith("real-cpu on onnxruntime")
    with pytest.raises(TecoError, match="exists already"):
        teco.upscale(CITY, tmp_path / "out.mp4")
    with pytest.raises(TecoError, match="no model is called") as refused:
        teco.upscale(CITY, tmp_path / "new.mp4", model="liv")
    assert refused.value.hint.startswith("did you mean live?")
    with pytest.raises(TecoError, match="is there already") as refused:
        teco.upscale(tmp_path / "none.mp4", tmp_path / "out.mp4")
    assert refused.value.hint.startswith("the clip comes first")
    assert not (tmp_path / "new.mp4").exists()


def test_upscale_takes_the_network_that_reaches_a_size(tmp_path: Path) -> None:
    from teco.video.clips import open_source

    for to, width, model in (("2x", 640, "real-cpu-x2"), ("1.5x", 480, "real-cpu-x2"),
                             ("1080p", 1920, "real-cpu")):  # fmt: skip
        said: list[str] = []
        teco.upscale(CITY, tmp_path / f"{to}.mp4", to=to, frames=1, threads=1, tell=said.append)
        assert any(s.startswith(f"{model} on") for s in said)
        with open_source(tmp_path / f"{to}.mp4") as clip:
            assert clip.width == width


def test_a_size_and_a_look(tmp_path: Path) -> None:
    """The textured network enlarges four times, and is shrunk to what is asked for; what is ahead
    has the size that is written."""
    said: list[str] = []
    ahead: list[api.Ahead] = []

    def go_on(told: api.Ahead) -> bool:
        ahead.append(told)
        return False

    teco.upscale(CITY, tmp_path / "o.mp4", to="2x", look="textured", frames=1, threads=1,
                 tell=said.append)  # fmt: skip
    assert any(s.startswith("real-cpu-textured on") for s in said)
    assert "note: the network enlarges 4 times, and its pictures are shrunk to the size" in said
    # A job that is long by the clock: every step is said to take a minute.
    clock = iter(range(0, 10**7, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("teco.inference.upscale.perf_counter", lambda: next(clock))
        with pytest.raises(TecoError, match="given up"):
            teco.upscale(CITY, tmp_path / "p.mp4", to="1080p", threads=1, compare="side",
                         runtime="onnxruntime", go_on=go_on)  # fmt: skip
    assert (ahead[0].prospect.width, ahead[0].prospect.height) == (2 * 1920, 1080)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quality": "turbo"}, "quality is 'turbo'"),
        ({"look": "texture"}, "look is 'texture'"),
        ({"compare": "both"}, "compare is 'both'"),
        ({"threads": 0}, "threads is 0"),
        ({"to": 1080}, "is no size"),
    ],
)
def test_words_that_are_none(tmp_path: Path, options, words: str) -> None:
    with pytest.raises(TecoError, match=words) as refused:
        teco.upscale(CITY, tmp_path / "o.mp4", **options)
    assert refused.value.exit_code == 2
    if "look" in options:
        assert refused.value.hint == "did you mean textured?"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"io": "int4"}, "io is 'int4'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"target": "foo"}, "target is 'foo'"),
    ],
)
def test_exports_that_are_none_leave_no_folder(tmp_path: Path, options, words: str) -> None:
    with pytest.raises(TecoError, match=words):
        teco.export("real-cpu", tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_what_is_ahead_is_said_in_words() -> None:
    from teco.inference.upscale import Prospect

    ahead = api.Ahead(Prospect(100, 1280, 720, 7200.0), 2**30)
    assert str(ahead) == (
        "about 100 frames of 1280x720 will take about 2 hours and 1.0 GiB of memory"
    )
    assert str(api.Progress(3, None)) == "3 frames"


def test_models_are_those_that_are_shipped() -> None:
    from teco_models import zoo

    assert {m.name for m in teco.models()} == {e.name for e in zoo.entries()}


def test_export_then_bench(tmp_path: Path, tiny_weights: Path) -> None:
    """Into a folder that is made, and measured as the command measures."""
    made = teco.export(tiny_weights, tmp_path / "new", size=(16, 24), formats="onnx")
    assert [p.suffix for p in made] == [".onnx"]
    assert made[0].parent == tmp_path / "new"
    with pytest.raises(TecoError, match="exists already"):
        teco.export(tiny_weights, tmp_path / "new", size=(16, 24), formats=["onnx"])
    record = teco.bench(
        made[0], runtimes="onnxruntime", repetitions=2, budget=1, latency_only=True, threads=1
    )
    (row,) = record.rows
    assert row.size == "16x24"
    assert row.latency is not None


FRAME = np.zeros((16, 24, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "found", "hint"),
    [
        (np.zeros((16, 24, 4), np.uint8), "RGBA", "frame[..., :3]"),
        (FRAME[..., 0], "grey", "numpy.repeat"),
        (FRAME[..., :1], "grey", "numpy.repeat"),
        (np.moveaxis(FRAME, 2, 0), "channels first", "numpy.moveaxis(frame, 0, 2)"),
        (FRAME / 255, "float64", "255 * frame"),
        (FRAME.astype(np.int32), "int32", "astype(numpy.uint8)"),
        (FRAME[None], "(1, 16, 24, 3)", "one frame at a time"),
        (FRAME.tolist(), "a list", "numpy.asarray"),
    ],
)
def test_frames_of_another_kind(tiny_onnx: Path, frame, found: str, hint: str) -> None:
    with teco.Stream.open(str(tiny_onnx), runtime="onnxruntime", threads=1) as stream:
        with pytest.raises(TecoError) as refused:
            stream.push(frame)
        assert found in refused.value.message
        assert hint in refused.value.hint
        assert stream.push(FRAME).shape == (64, 96, 3)


def test_what_hints_say_makes_a_frame_right() -> None:
    """The remedies, run."""
    numpy = np
    for wrong, remedy in (
        (np.zeros((16, 24, 4), np.uint8), "frame[..., :3]"),
        (np.moveaxis(FRAME, 2, 0), "numpy.moveaxis(frame, 0, 2)"),
        (FRAME[..., 0], "numpy.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)"),
        (FRAME / 255, "(255 * frame).round().clip(0, 255).astype(numpy.uint8)"),
    ):
        right = eval(remedy, {"frame": wrong, "numpy": numpy})
        assert (right.shape, right.dtype) == (FRAME.shape, FRAME.dtype)
