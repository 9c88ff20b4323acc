"""What `teco` says to input that cannot work: an exit code, one sentence, and nothing left behind.

Exit codes: 1 it failed, 2 wrong usage, 3 this machine cannot.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

RUNTIME = ("--runtime", "onnxruntime", "--threads", "1")
OPENED = ("tiny on onnxruntime", "note: tiny is for papers")
"""The line that `upscale` and `eval` print once the model is open."""


@pytest.fixture(scope="session")
def clip(tmp_path_factory, make_clip) -> Path:
    """A good clip of 48x40, large enough to be a truth as well."""
    return make_clip(tmp_path_factory.mktemp("good") / "clip.mp4", 48, 40, 8)


@pytest.fixture
def model(tmp_path, tiny_onnx) -> Path:
    """A copy of the tiny model with its manifest, to damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tiny_onnx, tiny_onnx.with_suffix(".json")):
        shutil.copy(path, folder)
    return folder / tiny_onnx.name


@pytest.fixture
def upscale(teco, tiny_onnx):
    """`teco upscale IN OUT` with the tiny model unless another is given."""

    def call(source: object, target: object, *options: object, model: object = tiny_onnx):
        return teco("upscale", source, target, "--model", model, *RUNTIME, *options)

    return call


# --- clips -----------------------------------------------------------------------------------


def missing(folder, make_clip, make_pictures, texture):
    return folder / "missing.mp4"


def no_pictures(folder, make_clip, make_pictures, texture):
    path = folder / "notes"
    path.mkdir()
    (path / "notes.txt").write_text("no picture\n")
    return path


def text(folder, make_clip, make_pictures, texture):
    path = folder / "text.mp4"
    path.write_text("hello, this is text\n" * 50)
    return path


def empty(folder, make_clip, make_pictures, texture):
    path = folder / "empty.mkv"
    path.touch()
    return path


def no_index(folder, make_clip, make_pictures, texture):
    whole = make_clip(folder / "whole.mp4", 48, 40, 8).read_bytes()
    path = folder / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    return path


def sound_only(folder, make_clip, make_pictures, texture):
    return make_clip(folder / "sound.mp4", audio=True, picture=False)


def no_frames(folder, make_clip, make_pictures, texture):
    return make_clip(folder / "hollow.mkv", 48, 40, 0)


def picture_of_text(folder, make_clip, make_pictures, texture):
    path = make_pictures(folder / "damaged", texture(3, 48, 40))
    (path / "0000.png").write_text("no picture")
    return path


def bad_y4m(folder, make_clip, make_pictures, texture):
    path = folder / "bad.y4m"
    path.write_bytes(b"YUV4MPEG2 Wten H8 F25:1\nFRAME\n")
    return path


def too_small(folder, make_clip, make_pictures, texture):
    return make_pictures(folder / "small", texture(3, 7, 7))


def too_flat(folder, make_clip, make_pictures, texture):
    return make_pictures(folder / "flat", texture(3, 64, 7))


def empty_y4m(folder, make_clip, make_pictures, texture):
    path = folder / "hollow.y4m"
    path.write_bytes(b"YUV4MPEG2 W48 H40 F25:1 C444\n")
    return path


UNUSABLE = {
    missing: "there is no file",
    no_pictures: "holds no pictures",
    text: "not a video",
    empty: "it is empty",
    no_index: "not a video that can be opened",
    sound_only: "no picture stream, only: audio",
    no_frames: "hollow.mkv is not a video",
    picture_of_text: "0000.png cannot be read",
    bad_y4m: "y4m header that makes no sense",
    too_small: "too small",
    too_flat: "too small",
}


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=make.__name__) for make in UNUSABLE],
)
def test_unusable_clips(
    make, tmp_path, make_clip, make_pictures, texture, tiny_onnx, upscale, teco, untouched
):
    path = make(tmp_path, make_clip, make_pictures, texture)
    with untouched(tmp_path):
        code = 2 if make is missing else 1
        upscale(path, tmp_path / "out.mp4").refuses(code, UNUSABLE[make])
        upscale(path, tmp_path / "out").refuses(code, UNUSABLE[make])
        options = ("--clip", path, *RUNTIME, "--metrics", "psnr", "--json", tmp_path / "r.json")
        teco("eval", "--model", tiny_onnx, *options).refuses(code, UNUSABLE[make])
        teco("bench", tiny_onnx, *options).refuses(code, UNUSABLE[make])


def cut_short(folder, make_clip, make_pictures, texture):
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 48, 3), np.uint8)
    whole = make_clip(folder / "whole.mp4", pixels=noise, faststart=True).read_bytes()
    path = folder / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    return path


def changing_size(folder, make_clip, make_pictures, texture):
    # MPEG program streams carry the size in band: two clips end to end change it midway.
    names = [
        make_clip(folder / f"{w}.mpg", w, 40, 6, codec="mpeg2video") for w in (48, 64)
    ]  # fmt: skip
    path = folder / "joined.mpg"
    path.write_bytes(b"".join(p.read_bytes() for p in names))
    return path


def mixed_sizes(folder, make_clip, make_pictures, texture):
    return make_pictures(folder / "mixed", texture(3, 48, 40) + texture(3, 40, 48))


def last_picture_of_text(folder, make_clip, make_pictures, texture):
    path = make_pictures(folder / "damaged", texture(6, 48, 40))
    (path / "0005.png").write_text("no picture")
    return path


def cut_y4m(folder, make_clip, make_pictures, texture):
    path = folder / "cut.y4m"
    frame = b"FRAME\n" + bytes(48 * 40 * 3)
    path.write_bytes(b"YUV4MPEG2 W48 H40 F25:1 C444\n" + (frame * 4)[:-1000])
    return path


FORGIVEN = {
    cut_short: "9 of 20 frames are missing, 0.36 s",
    changing_size: "from 48x40 to 64x40: it is scaled to 48x40",
}
"""What `teco upscale` goes on with and says; where quality is measured it is an error."""

BREAKING_OFF = {
    cut_short: "ends early, at frame",
    changing_size: "from 48x40 to 64x40",
    empty_y4m: "nothing came after the header",
    mixed_sizes: "mixes sizes: 0000.png is 48x40, 0003.png is 40x48",
    last_picture_of_text: "0005.png cannot be read",
    cut_y4m: "ends early, within frame 3",
}


@pytest.mark.parametrize("make", BREAKING_OFF, ids=lambda f: f.__name__)
def test_clips_that_break_off(
    make, tmp_path, make_clip, make_pictures, texture, tiny_onnx, upscale, teco, untouched
):
    path = make(tmp_path, make_clip, make_pictures, texture)
    threads = threading.active_count()
    with untouched(tmp_path):
        for target in (tmp_path / "out.mp4", tmp_path / "out"):
            if make not in FORGIVEN:
                upscale(path, target, "--warm-up", 1).refuses(1, BREAKING_OFF[make], after=OPENED)
        options = ("--clip", path, *RUNTIME, "--metrics", "psnr", "--json", tmp_path / "r.json")
        done = teco("eval", "--model", tiny_onnx, *options)
        done.refuses(1, BREAKING_OFF[make], after=OPENED)
        assert done.stdout == b""
    assert threading.active_count() == threads


@pytest.mark.parametrize("make", FORGIVEN, ids=lambda f: f.__name__)
def test_damage_that_upscale_goes_on_with(
    make, tmp_path, make_clip, make_pictures, texture, upscale
):
    done = upscale(make(tmp_path, make_clip, make_pictures, texture), tmp_path / "out.mp4")
    assert done.code == 0
    assert FORGIVEN[make] in done.stderr
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert {(f.width, f.height) for f in container.decode(video=0)} == {(192, 160)}


def test_the_smallest_frames_work(tmp_path, make_pictures, load_pictures, texture, upscale):
    source = make_pictures(tmp_path / "in", texture(3, 8, 8))
    upscale(source, tmp_path / "out").says("3 frames")
    assert [p.shape for p in load_pictures(tmp_path / "out")] == [(32, 32, 3)] * 3
    upscale(source, tmp_path / "out.mp4").says("3 frames")


def test_a_damaged_clip_up_to_the_damage_works(tmp_path, make_clip, texture, upscale):
    path = cut_short(tmp_path, make_clip, None, texture)
    upscale(path, tmp_path / "out.mp4", "--end", 0.2).says("5 frames")


def test_a_truth_too_small_for_the_network(tmp_path, make_pictures, texture, tiny_onnx, teco):
    path = make_pictures(tmp_path / "in", texture(3, 31, 40))
    for command in (("eval", "--model", tiny_onnx), ("bench", tiny_onnx)):
        teco(*command, "--clip", path, *RUNTIME, "--metrics", "psnr").refuses(1, "too small")


def test_what_opencv_says_of_a_damaged_picture_is_not_shown(
    tmp_path, make_pictures, texture, tiny_onnx, run_teco, untouched
):
    path = make_pictures(tmp_path / "damaged", texture(3, 48, 40))
    (path / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (path / "0002.png").unlink()
    with untouched(tmp_path):
        done = run_teco("upscale", path, tmp_path / "out.mp4", "--model", tiny_onnx, *RUNTIME)
        done.refuses(1, "0001.png cannot be read", after=OPENED)


# --- ONNX files and manifests ----------------------------------------------------------------


def every_command(teco, upscale, model, clip, folder):
    """The same model given to each command that opens one."""
    yield upscale(clip, folder / "out.mp4", model=model)
    yield teco("eval", "--model", model, "--clip", clip, *RUNTIME, "--metrics", "psnr")
    yield teco("bench", model, "--clip", clip, *RUNTIME, "--json", folder / "r.json")
    yield teco("info", model)


def foreign(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(n, kind, [1, 3, "h", "w"]) for n in ("x", "y")]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def test_a_foreign_onnx_file(tmp_path, clip, teco, upscale, untouched):
    path = tmp_path / "foreign.onnx"
    foreign(path)
    with untouched(tmp_path):
        for done in every_command(teco, upscale, path, clip, tmp_path):
            done.refuses(1, "was not exported by teco", "teco export")


@pytest.mark.parametrize("content", [b"", b"garbage " * 100, b"\x08\x08\x12\x07pytorch\xff\xff"])
def test_a_garbage_onnx_file(tmp_path, clip, teco, upscale, untouched, content):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with untouched(tmp_path):
        for done in every_command(teco, upscale, path, clip, tmp_path):
            done.refuses(1, "garbage.onnx", "teco export")


def test_half_an_onnx_file(model, tmp_path, clip, teco, upscale, untouched):
    model.write_bytes(model.read_bytes()[:100_000])
    with untouched(tmp_path):
        for done in every_command(teco, upscale, model, clip, tmp_path):
            done.refuses(1, "is not the file that tiny.json describes")
    model.with_suffix(".json").unlink()
    for done in every_command(teco, upscale, model, clip, tmp_path):
        done.refuses(1, "cannot be loaded as ONNX")


def test_a_missing_onnx_file(tmp_path, clip, teco, upscale, untouched):
    (tmp_path / "folder.onnx").mkdir()
    with untouched(tmp_path):
        for done in every_command(teco, upscale, tmp_path / "none.onnx", clip, tmp_path):
            done.refuses(2, "none.onnx does not exist")
        for done in every_command(teco, upscale, tmp_path / "folder.onnx", clip, tmp_path):
            done.refuses(2, "folder.onnx is a folder")


def test_a_file_that_is_not_the_one_of_its_manifest(
    model, tmp_path, clip, teco, upscale, untouched
):
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with untouched(tmp_path):
        for done in every_command(teco, upscale, model, clip, tmp_path):
            done.refuses(1, "is not the file that tiny.json describes", "sha256")


def test_a_file_without_its_manifest_still_works(model, tmp_path, clip, teco, upscale):
    model.with_suffix(".json").unlink()
    upscale(clip, tmp_path / "out.mp4", model=model).says("8 frames")
    teco("info", model).says()


def edited(change):
    """The tiny model's manifest as a dict, changed, as JSON."""

    def edit(text: str) -> str:
        data = json.loads(text)
        changed = change(data)
        return json.dumps(data if changed is None else changed)

    return edit


BROKEN_MANIFESTS = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "not text": lambda text: b"\xff\xfe\x00\x80",
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "7",
    "null": lambda text: "null",
    "another schema": edited(lambda d: d.update(schema=2)),
    "no schema": edited(lambda d: d.pop("schema") and None),
    "schema as text": edited(lambda d: d.update(schema="1")),
    "no contract": edited(lambda d: d.pop("contract") and None),
    "contract as text": edited(lambda d: d.update(contract="lr -> hr")),
    "contract as list": edited(lambda d: d.update(contract=[1])),
    "no states": edited(lambda d: d["contract"].pop("states") and None),
    "states as text": edited(lambda d: d["contract"].update(states="lr")),
    "state without shape": edited(lambda d: d["contract"]["states"][0].pop("shape") and None),
    "state shape as number": edited(lambda d: d["contract"]["states"][0].update(shape=4)),
    "state shape of two": edited(lambda d: d["contract"]["states"][0].update(shape=["1", "3"])),
    "state shape unknown": edited(
        lambda d: d["contract"]["states"][0].update(shape=["1", "3", "x", "w"])
    ),
    "state from nowhere": edited(lambda d: d["contract"]["states"][0].update(source="x")),
    "another scale": edited(lambda d: d["contract"].update(scale=2)),
    "unknown contract field": edited(lambda d: d["contract"].update(tempo=3)),
    "no variant": edited(lambda d: d.pop("variant") and None),
    "foreign variant": edited(lambda d: d.update(variant="esrgan-x4")),
    "variant as number": edited(lambda d: d.update(variant=4)),
    "no size": edited(lambda d: d.pop("size") and None),
    "foreign size": edited(lambda d: d.update(size="large")),
    "size as number": edited(lambda d: d.update(size=180)),
    "no parity": edited(lambda d: d.pop("parity") and None),
    "parity as text": edited(lambda d: d.update(parity="good")),
    "parity without frames": edited(lambda d: d["parity"].pop("frames") and None),
    "precision as list": edited(lambda d: d.update(precision_found=["float32"])),
    "no precision": edited(lambda d: d.pop("precision_found") and None),
    "unknown field": edited(lambda d: d.update(colour="red")),
    "hash as number": edited(lambda d: d.update(sha256=7)),
}


@pytest.mark.parametrize("kind", BROKEN_MANIFESTS)
def test_broken_manifests(kind, model, tmp_path, clip, teco, upscale, untouched):
    beside = model.with_suffix(".json")
    broken = BROKEN_MANIFESTS[kind](beside.read_text())
    beside.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with untouched(tmp_path):
        upscale(clip, tmp_path / "out.mp4", model=model).refuses(1, "tiny.json", "teco export")
        teco("info", model).refuses(1, "tiny.json")


def test_a_manifest_that_cannot_be_read(model, tmp_path, clip, upscale):
    beside = model.with_suffix(".json")
    beside.unlink()
    beside.mkdir()
    upscale(clip, tmp_path / "out.mp4", model=model).refuses(1, "tiny.json")


def test_a_broken_manifest_inside(tmp_path, model, clip, upscale, teco):
    onnx = pytest.importorskip("onnx")
    loaded = onnx.load(model)
    (entry,) = [p for p in loaded.metadata_props if p.key == "teco.manifest"]
    entry.value = entry.value[:100]
    onnx.save(loaded, model)
    model.with_suffix(".json").unlink()
    upscale(clip, tmp_path / "out.mp4", model=model).refuses(1, "tiny.onnx is no teco manifest")
    teco("info", model).refuses(1, "tiny.onnx is no teco manifest")


def test_a_static_model_and_frames_of_another_size(model, tmp_path, clip, teco, upscale, untouched):
    beside = model.with_suffix(".json")
    beside.write_text(edited(lambda d: d.update(size="16x24"))(beside.read_text()))
    message = "exported for 16x24 frames (height x width), these are"
    with untouched(tmp_path):
        for target in ("out.mp4", "out"):
            upscale(clip, tmp_path / target, model=model).refuses(2, message, "40x48")
        # 48x40 is the truth's size: the model sees a quarter of it.
        options = ("--clip", clip, *RUNTIME, "--metrics", "psnr")
        teco("eval", "--model", model, *options).refuses(2, message, "10x12")
        teco("bench", model, *options).refuses(2, message, "10x12")
        teco("bench", model, *RUNTIME, "--size", "18x20").refuses(2, message, "18x20")


# --- names, runtimes, options ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["teco-x4-b99-c64", "nonsense", "dir/none", "model.plan", ""])
def test_unknown_models(name, tmp_path, clip, teco, upscale, untouched):
    with untouched(tmp_path):
        upscale(clip, tmp_path / "out.mp4", model=name).refuses(2, "shipped models: ")
        teco("eval", "--model", name, "--clip", clip, *RUNTIME, "--metrics", "psnr").refuses(2)
        teco("bench", name, *RUNTIME).refuses(2)
        teco("export", "--model", name, "-o", tmp_path).refuses(2, "shipped models: ")


def test_a_video_as_a_model(clip, tmp_path, teco, upscale):
    upscale(clip, tmp_path / "out.mp4", model=clip).refuses(2, "is not a model file")
    teco("info", clip).refuses(2, "is not a model file")


def test_info_of_what_is_no_variant(teco):
    teco("info", "teco-x4-b0-c64").refuses(2, "no model is called")
    teco("info", "teco-x2-b3-c64").refuses(2, "no model is called")
    teco("info", "nonsense").refuses(2, "no model is called")
    teco("info").refuses(2, "say what to describe")
    teco("info", "teco-x4-b3-c64-bp-lk", "--blocks", 3).refuses(2, "say what to describe")


def test_an_unknown_runtime(tmp_path, clip, tiny_onnx, teco, untouched):
    with untouched(tmp_path):
        for name in ("tensorflow", ""):
            run = ("--runtime", name)
            teco("upscale", clip, tmp_path / "o.mp4", "--model", tiny_onnx, *run).refuses(
                2, "no runtime is called", "auto, onnxruntime"
            )
            options = ("--clip", clip, *run, "--metrics", "psnr")
            teco("eval", "--model", tiny_onnx, *options).refuses(2, "no runtime is called")
            teco("bench", tiny_onnx, *options).refuses(2, "no runtime is called")


@pytest.fixture
def no_cuda(monkeypatch) -> None:
    """A machine whose ONNX Runtime cannot use a GPU, whatever this one has."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_an_unavailable_runtime(tmp_path, clip, tiny_onnx, teco, untouched, no_cuda):
    cuda = ("--runtime", "onnxruntime-cuda")
    with untouched(tmp_path):
        teco("upscale", clip, tmp_path / "o.mp4", "--model", tiny_onnx, *cuda).refuses(3, "CUDA")
        teco("eval", "--model", tiny_onnx, "--clip", clip, *cuda, "--metrics", "psnr").refuses(3)
        teco("bench", tiny_onnx, *cuda, "--size", "8x8").refuses(3, "CUDA")


def test_a_runtime_whose_extra_is_not_installed(tmp_path, clip, tiny_onnx, teco, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "openvino" else real(name, *rest),
    )
    done = teco("upscale", clip, tmp_path / "o.mp4", "--model", tiny_onnx, "--runtime", "openvino")
    done.refuses(3, "pip install 'teco[openvino]'")


def test_a_runtime_that_cannot_open_this_kind_of_model(tmp_path, clip, tiny_onnx, teco):
    pytest.importorskip("torch")
    done = teco("upscale", clip, tmp_path / "o.mp4", "--model", tiny_onnx, "--runtime", "pytorch")
    done.refuses(1, "runs weights")
    teco("bench", tiny_onnx, "--runtime", "pytorch", "--size", "8x8").refuses(3, "runs weights")


def test_a_clip_judged_where_nothing_runs_in_float32(clip, tiny_onnx, teco, monkeypatch):
    from teco.runtimes.onnxruntime import OnnxRuntime

    inexact = OnnxRuntime(name="onnxruntime", exact=False)
    monkeypatch.setattr("teco.runtimes.RUNTIMES", (inexact,))
    options = ("--clip", clip, "--metrics", "psnr", "--repetitions", 1)
    done = teco("bench", tiny_onnx, *RUNTIME, *options)
    done.says()
    assert b"bicubic" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--start", "-1"), "start is -1"),
        (("--start", "nan"), "start is nan"),
        (("--start", "900"), "no frame in the range"),
        (("--end", "0"), "the range ends at 0 s"),
        (("--start", "0.2", "--end", "0.1"), "give an end later"),
        (("--start", "soon"), "'soon' is no time"),
        (("--frames", "0"), "0 is not in the range"),
        (("--frames", "-3"), "-3 is not in the range"),
        (("--frames", "two"), "'two'"),
        (("--warm-up", "-1"), "-1 is not in the range"),
        (("--threads", "0"), "0 is not in the range"),
        (("--codec", "nonsense"), "nonsense"),
        (("--codec", "aac"), "aac"),
        (("--codec", "libvpx-vp9", "--pix-fmt", "rgb24"), "rgb24"),
        (("--crf", "99"), "libx264 takes 0"),
        (("--crf", "nan"), "libx264 takes 0"),
        (("--preset", "warp"), "the preset is warp"),
        (("--pix-fmt", "yuv999"), "yuv999"),
        (("--speed", "9"), "No such option"),
    ],
)
def test_bad_options_of_upscale(options, words, tmp_path, clip, upscale, untouched):
    with untouched(tmp_path):
        upscale(clip, tmp_path / "out.mp4", *options).refuses(2, words)


@pytest.mark.parametrize("rate", ["0", "-25", "nan", "inf"])
def test_bad_rates_of_a_folder(rate, tmp_path, make_pictures, texture, upscale, untouched):
    source = make_pictures(tmp_path / "in", texture(2))
    with untouched(tmp_path):
        upscale(source, tmp_path / "out.mp4", "--rate", rate).refuses(2, "rate is")


BAD_SIZES = ["0x0", "7x8", "8x7", "320", "x", "8x", "-8x8", "8x8x8", "8 x 8", "180X", "big"]


@pytest.mark.parametrize("size", BAD_SIZES)
def test_bad_sizes(size, tmp_path, tiny_onnx, teco, untouched):
    with untouched(tmp_path):
        teco("info", "--blocks", 3, "--size", size).refuses(2, "--size")
        teco("bench", tiny_onnx, *RUNTIME, "--size", size).refuses(2, "--size")
        teco("export", "--blocks", 3, "-o", tmp_path, "--size", size).refuses(2, "--size")


@pytest.mark.parametrize("shrink", ["0", "0.5", "-1", "nan", "big"])
def test_bad_shrinks(shrink, clip, tiny_onnx, teco):
    options = ("--clip", clip, *RUNTIME, "--metrics", "psnr", "--shrink", shrink)
    teco("eval", "--model", tiny_onnx, *options).refuses(2, "--shrink")
    teco("bench", tiny_onnx, *options).refuses(2, "--shrink")


@pytest.mark.parametrize("shrink", ["100", "inf"])
def test_shrinking_to_nothing(shrink, clip, tiny_onnx, teco):
    options = ("--clip", clip, *RUNTIME, "--metrics", "psnr", "--shrink", shrink)
    teco("eval", "--model", tiny_onnx, *options).refuses(1, "too small")
    teco("bench", tiny_onnx, *options).refuses(1, "too small")


@pytest.mark.parametrize("metrics", ["vmaf", "", "psnr,vmaf"])
def test_bad_metrics(metrics, clip, tiny_onnx, teco):
    options = ("--clip", clip, *RUNTIME, "--metrics", metrics)
    teco("eval", "--model", tiny_onnx, *options).refuses(2, "no metric called")
    teco("bench", tiny_onnx, *options).refuses(2, "no metric called")


@pytest.mark.parametrize("crop", ["16", "100", "0", "wide"])
def test_bad_crops_of_training(crop, tmp_path, teco, untouched):
    with untouched(tmp_path):
        done = teco("train", "--data", tmp_path, "--out", tmp_path / "run", "--crop", crop)
        done.refuses(2, "--crop")


def test_frames_zero_everywhere(clip, tmp_path, tiny_onnx, teco):
    teco("eval", "--model", tiny_onnx, "--clip", clip, "--frames", 0).refuses(2, "--frames")
    teco("bench", tiny_onnx, "--frames", 0).refuses(2, "--frames")
    teco("export", "--blocks", 3, "-o", tmp_path, "--frames", 0).refuses(2, "--frames")


def test_a_pipe_is_no_truth(tiny_onnx, teco):
    teco("eval", "--model", tiny_onnx, "--clip", "-", *RUNTIME).refuses(2, "give a file")
    teco("bench", tiny_onnx, "--clip", "-", *RUNTIME).refuses(2, "give a file")


def test_unknown_commands_and_missing_arguments(teco):
    teco("upscail").refuses(2, "Did you mean upscale?")
    teco("upscale").refuses(2, "Missing argument 'IN'")
    teco("upscale", "in.mp4").refuses(2, "Missing argument 'OUT'")
    teco("eval").refuses(2, "--clip")
    teco("export").refuses(2, "--blocks, --model or --weights")


# --- weights ---------------------------------------------------------------------------------


class Trap:
    """Unpickled freely, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def weights_commands(teco, upscale, path, clip, folder):
    """The same weights given to each command that reads some."""
    yield teco("upscale", clip, folder / "out.mp4", "--model", path, "--threads", 1)
    yield teco("export", "--weights", path, "-o", folder)
    yield teco("info", path)


def trapped(folder: Path, name: str, trap: Trap) -> Path:
    torch = pytest.importorskip("torch")
    path = folder / name
    if name.startswith("zipped"):
        torch.save({"w": trap}, path)
    else:
        path.write_bytes(pickle.dumps({"w": trap}))
    return path


TRAPPED = ["plain.pth", "zipped.pth", "short.pt", "plain.safetensors", "zipped.safetensors"]


@pytest.mark.parametrize("name", TRAPPED)
def test_a_pickle_does_not_run_code(name, tmp_path, clip, teco, upscale, untouched):
    sprung = tmp_path / "sprung"
    path = trapped(tmp_path, name, Trap(sprung))
    with untouched(tmp_path):
        for done in weights_commands(teco, upscale, path, clip, tmp_path):
            assert done.code == 1
    # The trap does work where nobody looks.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


@pytest.mark.parametrize(
    "name",
    TRAPPED,
)
def test_a_pickle_is_refused_in_a_sentence(name, tmp_path, clip, teco, upscale):
    path = trapped(tmp_path, name, Trap(tmp_path / "sprung"))
    for done in weights_commands(teco, upscale, path, clip, tmp_path):
        done.refuses(1, name)


def changed_weights(change):
    def write(path: Path, tensors: dict) -> None:
        from safetensors.torch import save_file

        tensors = dict(tensors)
        change(tensors)
        save_file(tensors, path)

    return write


KEY = "srnet.conv_in.0.weight"


def _nan(tensors: dict) -> None:
    tensors[KEY] = tensors[KEY].clone()
    tensors[KEY][0, 0, 0, 0] = float("nan")


def _odd(tensors: dict) -> None:
    tensors["srnet.resblocks.0.conv.0.weight"] = tensors[KEY][:, :5].contiguous()


def _scalar(tensors: dict) -> None:
    tensors[KEY] = tensors[KEY].sum()


def _flat(tensors: dict) -> None:
    tensors["fnet.encoder1.0.weight"] = tensors["fnet.encoder1.0.weight"].reshape(-1)


def _no_channels(tensors: dict) -> None:
    tensors[KEY] = tensors[KEY][:0]


def _gap(tensors: dict) -> None:
    for key in [k for k in tensors if k.startswith("srnet.resblocks.0.")]:
        tensors[key.replace("resblocks.0", "resblocks.2")] = tensors.pop(key)


def _extra(tensors: dict) -> None:
    tensors["srnet.attention.weight"] = tensors[KEY].clone()


def _double(tensors: dict) -> None:
    """What it would be, were it for twice the size."""
    tensors[KEY] = tensors[KEY][:, :15].contiguous()
    for key in ("srnet.conv_shuffle.weight", "srnet.conv_shuffle.bias"):
        tensors[key] = tensors[key][:12].contiguous()


BAD_TENSORS = {
    "another scale": (_double, "is of scale x2, expected x4"),
    "missing": (lambda t: t.pop(KEY), KEY),
    "missing bias": (lambda t: t.pop("srnet.conv_in.0.bias"), "srnet.conv_in.0.bias"),
    "none": (dict.clear, "no TecoGAN generator"),
    "extra": (_extra, "not expected: srnet.attention.weight"),
    "odd": (_odd, "srnet.resblocks.0.conv.0.weight is [16, 5, 3, 3], expected [16, 16, 3, 3]"),
    "scalar": (_scalar, KEY),
    "flat": (_flat, "fnet."),
    "no channels": (_no_channels, "channels"),
    "gap in the blocks": (_gap, "residual blocks [2]"),
    "no output": (
        lambda t: [t.pop(k) for k in list(t) if k.startswith("srnet.conv_shuffle")],
        "no output convolution",
    ),
    "nan": (_nan, f"NaN or infinite values in {KEY}"),
}


@pytest.mark.parametrize(
    "kind",
    [
        *BAD_TENSORS,
    ],
)
def test_bad_tensors(kind, tmp_path, tiny_weights, clip, teco, upscale, untouched):
    load_file = pytest.importorskip("safetensors.torch").load_file
    change, words = BAD_TENSORS[kind]
    path = tmp_path / "bad.safetensors"
    changed_weights(change)(path, load_file(tiny_weights))
    with untouched(tmp_path):
        for done in weights_commands(teco, upscale, path, clip, tmp_path):
            done.refuses(1, "bad.safetensors", words)


GARBAGE = {
    "empty": b"",
    "text": b"these are no weights\n" * 20,
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle of a number": pickle.dumps(7),
    "pickle of a list": pickle.dumps([1, 2]),
    "half a pickle": pickle.dumps({"a": 1, "b": "text" * 50})[:40],
    "huge header": struct.pack("<Q", 1 << 60) + b"{" + bytes(50),
    "header only": struct.pack("<Q", 2) + b"{}",
    "broken header": struct.pack("<Q", 20) + b'{"a": [1, 2, 3     }',
}


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, ".pth") for kind in GARBAGE),
        *((kind, ".safetensors") for kind in GARBAGE),
    ],
)
def test_garbage_weights(kind, suffix, tmp_path, clip, teco, upscale, untouched):
    pytest.importorskip("torch")
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(GARBAGE[kind])
    with untouched(tmp_path):
        for done in weights_commands(teco, upscale, path, clip, tmp_path):
            done.refuses(1, path.name)


def test_half_a_weights_file(tmp_path, tiny_weights, clip, teco, upscale, untouched):
    path = tmp_path / "half.safetensors"
    path.write_bytes(tiny_weights.read_bytes()[:-1000])
    with untouched(tmp_path):
        for done in weights_commands(teco, upscale, path, clip, tmp_path):
            done.refuses(1, "half.safetensors is a damaged safetensors file")


def test_missing_weights(tmp_path, clip, teco, upscale, untouched):
    pytest.importorskip("torch")
    with untouched(tmp_path):
        upscaled, exported, info = weights_commands(
            teco, upscale, tmp_path / "none.pth", clip, tmp_path
        )
        upscaled.refuses(2, "no weights file at")
        exported.refuses(2, "no weights file at")
        info.refuses(2, "no weights file at")
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    for done in weights_commands(teco, upscale, folder, clip, tmp_path):
        assert done.code in (1, 2)
        done.refuses(done.code, "folder.pth")


# --- outputs ---------------------------------------------------------------------------------


def test_an_output_folder_that_does_not_exist(
    tmp_path, clip, tiny_onnx, tiny_weights, teco, upscale, untouched
):
    nowhere = tmp_path / "none" / "deep"
    with untouched(tmp_path):
        for name in ("out.mp4", "out.y4m", "out"):
            upscale(clip, nowhere / name).refuses(2, "does not exist", "mkdir -p")
        record = ("--clip", clip, *RUNTIME, "--metrics", "psnr", "--json", nowhere / "r.json")
        teco("eval", "--model", tiny_onnx, *record).refuses(2, "--json", "does not exist")
        teco("bench", tiny_onnx, *record).refuses(2, "--json", "does not exist")
    # A folder that is named for results is made, as `teco emit` does.
    done = teco("export", "--weights", tiny_weights, "-o", nowhere)
    assert done.code == 0, done.stderr
    assert {p.suffix for p in nowhere.iterdir()} == {".onnx", ".json"}


def test_an_output_below_a_file(tmp_path, clip, tiny_onnx, tiny_weights, teco, upscale, untouched):
    (tmp_path / "file").write_text("in the way\n")
    with untouched(tmp_path):
        for name in ("out.mp4", "out.y4m", "out"):
            upscale(clip, tmp_path / "file" / name).refuses(2, "is a file")
        done = teco("export", "--weights", tiny_weights, "-o", tmp_path / "file")
        done.refuses(2, "is a file, expected a folder")
        record = ("--clip", clip, *RUNTIME, "--metrics", "psnr", "--json", tmp_path / "file/r.json")
        teco("eval", "--model", tiny_onnx, *record).refuses(2, "--json")
        teco("bench", tiny_onnx, *record).refuses(2, "--json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_may_not_be_written(tmp_path, clip, upscale, untouched):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with untouched(tmp_path):
        for name in ("out.mp4", "out.y4m", "out"):
            upscale(clip, folder / name).refuses(1, "not writable")


def test_a_record_under_the_name_of_a_folder(tmp_path, clip, tiny_onnx, teco, untouched):
    (tmp_path / "r.json").mkdir()
    options = ("--clip", clip, *RUNTIME, "--metrics", "psnr", "--json", tmp_path / "r.json")
    with untouched(tmp_path):
        teco("eval", "--model", tiny_onnx, *options).refuses(2, "--json")
        teco("bench", tiny_onnx, *options).refuses(2, "--json")


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m", "out"])
def test_an_existing_output(name, tmp_path, clip, upscale, untouched):
    upscale(clip, tmp_path / name, "--frames", 2).says("2 frames")
    with untouched(tmp_path):
        upscale(clip, tmp_path / name).refuses(2, "exists already", "--force")
    upscale(clip, tmp_path / name, "--force", "--frames", 3).says("3 frames")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_old_output_survives_a_failure_with_force(
    tmp_path, make_pictures, texture, upscale, untouched
):
    good = make_pictures(tmp_path / "good", texture(2))
    bad = mixed_sizes(tmp_path, None, make_pictures, texture)
    for name in ("out.mp4", "out"):
        upscale(good, tmp_path / name).says("2 frames")
        with untouched(tmp_path):
            upscale(bad, tmp_path / name, "--force").refuses(1, "mixes sizes", after=OPENED)


def test_an_existing_export(tmp_path, model, tiny_weights, teco, untouched):
    name = "teco-x4-b1-c16-f8-shuffle"
    for suffix in (".onnx", ".json"):
        shutil.copy(model.with_suffix(suffix), tmp_path / f"{name}{suffix}")
    with untouched(tmp_path):
        teco("export", "--weights", tiny_weights, "-o", tmp_path).refuses(
            2, "exists already", "--force"
        )


def test_the_output_is_the_input(tmp_path, make_clip, make_pictures, texture, upscale, untouched):
    clip = make_clip(tmp_path / "clip.mp4")
    folder = make_pictures(tmp_path / "pictures", texture(2))
    (tmp_path / "link.mp4").symlink_to(clip)
    with untouched(tmp_path):
        for force in ((), ("--force",)):
            upscale(clip, clip, *force).refuses(2, "is the input itself")
            upscale(clip, tmp_path / "." / "clip.mp4", *force).refuses(2, "is the input itself")
            upscale(clip, tmp_path / "link.mp4", *force).refuses(2, "is the input itself")
            upscale(folder, folder, *force).refuses(2, "is the input itself")


def test_an_unknown_suffix(tmp_path, clip, upscale, untouched):
    with untouched(tmp_path):
        for name in ("out.xyz", "out.gif", "out.mp3"):
            upscale(clip, tmp_path / name).refuses(2, f"ends in {Path(name).suffix}", ".mp4")


def test_a_container_that_cannot_hold_the_codec(tmp_path, clip, upscale, untouched):
    with untouched(tmp_path):
        upscale(clip, tmp_path / "out.webm", "--codec", "libx264").refuses(2, "cannot hold libx264")


# --- full disks ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.y4m", "out"])
def test_a_full_disk(name, small_disk, make_clip, tmp_path, upscale, untouched):
    noise = np.random.default_rng(0).integers(0, 256, (8, 40, 48, 3), np.uint8)
    clip = make_clip(tmp_path / "noise.mp4", pixels=noise)
    with untouched(small_disk):
        done = upscale(clip, small_disk / name, "--crf", 0, "--pix-fmt", "yuv444p")
        done.refuses(1, "no space left on", after=OPENED)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_pipe_into_a_full_disk(clip, tiny_onnx, run_teco):
    with Path("/dev/full").open("wb") as full:
        done = run_teco("upscale", clip, "-", "--model", tiny_onnx, *RUNTIME, stdout=full)
    done.refuses(1, "no space left on", after=OPENED)


def test_a_reader_that_goes_away(make_clip, tmp_path, tiny_onnx, teco_environment):
    clip = make_clip(tmp_path / "clip.mp4", 48, 40, 40)
    command = [sys.executable, "-m", "teco", "upscale", clip, "-", "--model", tiny_onnx, *RUNTIME]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=teco_environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"YUV4MPEG2")
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "stopped reading" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


# --- signals ---------------------------------------------------------------------------------


def wait_for(condition, process, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.005)


def parts(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if ".part" in p.name]


@pytest.fixture(scope="session")
def signal_environment(teco_environment) -> dict[str, str]:
    """A signal may end an import half-way, which leaves Python's own file of it open.

    Python says so only where ResourceWarning is shown, which users do not do.
    """
    return {**teco_environment, "PYTHONWARNINGS": "default,ignore::ResourceWarning"}


def interrupted(process, number: int) -> None:
    """Send the signal, then see that the process ends soon and says one thing."""
    process.send_signal(number)
    try:
        assert process.wait(20) == 1
    finally:
        process.kill()
    said = [s for s in process.stderr.read().decode().splitlines() if not s.startswith(OPENED)]
    # On a busy machine the job is long enough to be announced.
    said = [s for s in said if s and not s.startswith("about ")]
    assert said == ["teco: interrupted; no unfinished file was left"]


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory, make_clip, texture) -> Path:
    """A clip that takes many seconds to enlarge."""
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", pixels=texture(64, 96, 64) * 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_signals_while_enlarging(number, name, tmp_path, long_clip, tiny_onnx, signal_environment):
    command = [sys.executable, "-m", "teco", "upscale", long_clip, tmp_path / name,
               "--model", tiny_onnx, *RUNTIME]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=signal_environment) as process:

        def at_work() -> bool:
            # Pictures show that frames are coming; a video's file is enough. The first part is
            # under way, so that there is nothing yet to go on from.
            if name == "out.mp4":
                return bool(parts(tmp_path))
            return len(list(tmp_path.glob(".out.teco-segments/0000/*.png"))) > 2

        wait_for(at_work, process)
        interrupted(process, number)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_leaves_an_old_output_alone(tmp_path, long_clip, tiny_onnx, signal_environment):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    command = [sys.executable, "-m", "teco", "upscale", long_clip, target, "--force",
               "--model", tiny_onnx, *RUNTIME]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=signal_environment) as process:
        wait_for(lambda: parts(tmp_path), process)
        interrupted(process, signal.SIGTERM)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_waiting_for_a_pipe(number, tmp_path, tiny_onnx, signal_environment):
    """The decoder's thread waits for standard input, which nothing can wake: it is left behind."""
    command = [sys.executable, "-m", "teco", "upscale", "-", tmp_path / "out",
               "--model", tiny_onnx, *RUNTIME]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=signal_environment
    ) as process:
        assert process.stdin is not None
        frame = b"FRAME\n" + bytes(range(256)) * 9
        process.stdin.write(b"YUV4MPEG2 W48 H16 F25:1 C444\n" + frame * 3)
        process.stdin.flush()
        wait_for(lambda: list(tmp_path.glob(".*part*/*")), process)
        interrupted(process, number)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_the_reader_of_the_pipe_is_idle(long_clip, tiny_onnx, signal_environment):
    """The encoder's thread waits for room in the pipe: it is left behind too."""
    command = [sys.executable, "-m", "teco", "upscale", long_clip, "-",
               "--model", tiny_onnx, *RUNTIME]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=signal_environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"YUV4MPEG2")
        time.sleep(1)
        interrupted(process, signal.SIGTERM)
