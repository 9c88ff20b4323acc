"""Planes at the ports: the graph beside the same arithmetic on the host, runtimes, clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from teco.benchmark.record import store
from teco.core.errors import USAGE, TecoError
from teco.core.pixels import to_pixels, to_tensor
from teco.core.planes import chroma_of, frame_size, packed, planes_of, with_chroma
from teco.inference.deadline import cheap, cheap_centred, cheap_planes
from teco.inference.scene_cuts import SceneCutDetector
from teco.inference.stream import Stream
from teco.inference.tiles import tiled
from teco.inference.upscale import UpscaleOptions, upscale
from teco.model.contract import StreamContract
from teco.model.conversion import (
    SHARES,
    Conversion,
    as_planes,
    exact_planes,
    exact_rgb,
    sketch_of,
)
from teco.model.engine import api
from teco.model.manifest import Manifest
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import FrameSession, PlaneSession, moving_frames, on_noise
from teco.verification.planes import ExactPlanes
from teco.verification.temporal_gate import default_frames
from teco.video.clips import open_source
from teco.video.colour import Colour, Converter
from teco.video.file.encoders import EncoderSettings
from teco_models.variant import Variant

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

needs_rtx = pytest.mark.skipif(
    not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
)

SIZE = (24, 40)
USUAL = Conversion.of("bt709", full_range=False)
COLOURS = [(m, full) for m in ("bt601", "bt709", "bt2020nc", "smpte240m") for full in (False, True)]


def weights_of(variant: Variant):
    from teco.training.init import initialise
    from teco_models.arch.computed_alignment import AlignedGenerator
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import Weights, infer

    torch.manual_seed(0)
    if variant.computed_alignment:
        return Weights(variant, dict(AlignedGenerator(variant).state_dict()))
    generator = Generator(variant)
    initialise(generator, seed=1)
    return infer(generator.eval().state_dict(), source="test")


REAL = Variant.aligned(blocks=1, channels=8, latent=4)
VARIANTS = {
    "flow": Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle"),
    "free": Variant(blocks=1, channels=16, flow_channels=0, tail="shuffle"),
    "real": REAL,
    "real-x2": replace(REAL, scale=2),
}


class Exported(dict[tuple[str, str], Path]):
    """Files of any size by (kind of network, ports), each made when it is first asked for: several
    processes share these tests, and none needs all."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, key: tuple[str, str]) -> Path:
        from teco.exporting.onnx import ExportOptions, export_onnx

        name, io = key
        made = export_onnx(weights_of(VARIANTS[name]), self.folder, ExportOptions(io=io))
        self[key] = made
        return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("planes"))


def session_of(path: Path, name: str = "onnxruntime"):
    runtime = find(name)
    if reason := runtime.why_unavailable():
        pytest.skip(reason)
    return runtime.open(open_model(str(path)), SessionOptions(threads=1))


def decoded(count: int, h: int = SIZE[0], w: int = SIZE[1]) -> list[np.ndarray]:
    """Packed NV12 pictures of a texture that drifts, chroma included."""
    return [as_planes(frame, "NV12", USUAL) for frame in default_frames(h, w, count)]


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


# --- the conversion --------------------------------------------------------------------------


@pytest.mark.parametrize(("matrix", "full"), COLOURS)
def test_colours_are_those_of_the_standards(matrix, full):
    """White, black and the grey between, and the luma of a pure red."""
    conversion = Conversion.of(matrix, full)
    low, high = (0, 255) if full else (16, 235)
    to_rgb, from_rgb = conversion.to_rgb, conversion.from_rgb
    assert to_rgb @ [high, 128, 128, 1] == pytest.approx([1, 1, 1])
    assert to_rgb @ [low, 128, 128, 1] == pytest.approx([0, 0, 0])
    assert from_rgb @ [1, 0, 0, 1] == pytest.approx(
        [low + (high - low) * SHARES[matrix][0], *(from_rgb @ [1, 0, 0, 1])[1:]]
    )
    # The strongest red has the largest Cr: half its gain.
    assert (from_rgb @ [1, 0, 0, 1])[2] == pytest.approx(128 + (255 if full else 224) / 2)
    assert [x.dtype for x in conversion.inputs] == [np.float32] * 2


@pytest.mark.parametrize(("matrix", "full"), COLOURS)
def test_planes_to_rgb_is_swscales(matrix, full, tmp_path):
    """Of H.264, whose chroma is left-sited, to within the rounding of swscale's 8-bit RGB; near the
    edge swscale's own taps are rounded differently."""
    (frame,) = av_frames(h264(tmp_path / "c.mp4", default_frames(48, 64, 1)))
    rgb = Converter(Colour(matrix, full)).to_rgb(frame)
    found = exact_rgb(frame.to_ndarray(format="nv12"), "NV12", Conversion.of(matrix, full))
    error = np.abs(255 * found - rgb.transpose(2, 0, 1))
    assert error[:, 4:-4, 4:-4].max() < 0.6
    assert error.max() < 2.5


@pytest.mark.parametrize(("matrix", "full"), COLOURS)
def test_rgb_to_planes_is_swscales(matrix, full):
    """To a step, chroma included: it lies where that of a clip is put."""
    pixels = default_frames(48, 64, 1)[0]
    found = exact_planes(pixels.transpose(2, 0, 1) / 255, "NV12", Conversion.of(matrix, full))
    expected = Converter(Colour(matrix, full)).from_rgb(pixels, "nv12").to_ndarray()
    assert apart(found, expected) <= 1


def test_chroma_lies_on_even_columns_and_between_rows():
    """A blue column is the whole of one sample's column; a blue row is shared by two."""
    for at, axis in ((20, 1), (21, 1), (20, 0)):
        rgb = np.full((3, 48, 48), 0.5)
        np.moveaxis(rgb, axis + 1, 0)[at] = np.array([0.4, 0.5, 0.9])[:, None]
        chroma = chroma_of(exact_planes(rgb, "NV12", USUAL), "NV12")[..., 0].astype(int) - 128
        line = chroma[12] if axis else chroma[:, 12]
        nearest = {(20, 1): [10], (21, 1): [10, 11], (20, 0): [10]}[at, axis]
        assert sorted(np.flatnonzero(line == line.max())) == nearest
        if (at, axis) == (20, 1):
            assert np.array_equal(line[7:10], line[13:10:-1]), "the same to the left and right"
        if axis == 0:
            assert line[9] > line[11], "its row lies between 10's and 9's"


def test_host_conversions_agree():
    pixels = default_frames(52, 62, 1)[0]
    for layout in ("NV12", "I420"):
        exact = exact_planes(pixels.transpose(2, 0, 1) / 255, layout, USUAL)
        assert apart(as_planes(pixels, layout, USUAL), exact) <= 1
        luma, chroma = planes_of(exact, layout)[0], chroma_of(exact, layout)
        assert frame_size(exact) == luma.shape[:2] == (52, 62)
        assert np.array_equal(with_chroma(luma[..., 0], chroma, layout), exact)
        assert np.array_equal(packed(*planes_of(exact, layout)), exact)
        # As PyAV has them.
        frame = Converter(Colour("bt709", False)).frame_of(exact, layout, "yuv420p")
        assert np.array_equal(frame.to_ndarray(), as_i420(exact, layout))


def as_i420(picture: np.ndarray, layout: str) -> np.ndarray:
    return with_chroma(planes_of(picture, layout)[0][..., 0], chroma_of(picture, layout), "I420")


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuvj420p"])
def test_a_decoders_samples_are_moved_and_not_changed(pix_fmt, full):
    if pix_fmt == "yuvj420p" and not full:
        return  # the old way to say full range
    given = np.random.default_rng(0).integers(0, 256, (72, 64), np.uint8)
    frame = av.VideoFrame.from_ndarray(given, pix_fmt)
    own = "NV12" if pix_fmt == "nv12" else "I420"
    for layout in ("NV12", "I420"):
        found = Converter(Colour("bt709", full)).to_planes(frame, layout)
        assert found is not None
        assert np.array_equal(as_i420(found, layout), as_i420(given, own))


# --- the graph -------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["real", "real-x2"])
@pytest.mark.parametrize(("matrix", "full"), COLOURS)
def test_a_step_is_the_exact_host_path(files, name, runtime, matrix, full):
    """Planes in, planes out: at most one step from decoding in float64, the float network, and
    encoding in float64."""
    session, plain = session_of(files[name, "nv12"], runtime), session_of(files[name, "fp32"])
    conversion = Conversion.of(matrix, full)
    exact = ExactPlanes(plain, "NV12", conversion)
    session.convert_by(conversion)
    assert isinstance(session, PlaneSession)
    assert not isinstance(session, FrameSession)
    state = expected_state = None
    for picture in decoded(4):
        found, state = session.enlarge_planes(picture, state)
        expected, expected_state = exact.enlarge_planes(picture, expected_state)
        scale = VARIANTS[name].scale
        assert frame_size(found) == tuple(scale * side for side in SIZE)
        assert apart(found, expected) <= 1
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("matrix", "full"), COLOURS)
def test_100_frames_of_a_clip(runtime, matrix, full, tmp_path):
    """The shipped network on the example clip, for the time it lasts."""
    from paths import ROOT

    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models import zoo
    from teco_models.checkpoint import load_weights

    entry = zoo.find("real-cpu")
    assert entry is not None
    path = export_onnx(load_weights(entry.weights), tmp_path, ExportOptions(io="nv12"))
    session, plain = session_of(path, runtime), session_of(entry.onnx)
    conversion = Conversion.of(matrix, full)
    session.convert_by(conversion)
    exact = ExactPlanes(plain, "NV12", conversion)
    pictures = [
        frame.reformat(width=160, height=90, format="nv12").to_ndarray()
        for frame in av_frames(ROOT / "examples" / "city.mp4")
    ]
    state = expected_state = None
    for n in range(100):
        back = len(pictures) - 1
        picture = pictures[back - abs(n % (2 * back) - back)]  # to and fro
        found, state = session.enlarge_planes(picture, state)
        expected, expected_state = exact.enlarge_planes(picture, expected_state)
        assert apart(found, expected) <= 1


@pytest.mark.parametrize("name", list(VARIANTS))
def test_what_is_in_the_file(files, name):
    model = open_model(str(files[name, "nv12"]))
    manifest = model.manifest
    assert manifest is not None
    contract = manifest.contract
    assert contract == StreamContract.of(VARIANTS[name], "nv12")
    assert contract.io == "nv12"
    assert model.planes == "NV12"
    graph = onnx.load(str(files[name, "nv12"])).graph
    types = {
        x.name: onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type).name
        for x in (*graph.input, *graph.output)
    }
    assert list(types) == [*contract.inputs, *contract.outputs]
    eight = {"y8", "uv8", "hr_y8", "hr_uv8"}
    assert {n for n, kind in types.items() if kind == "uint8"} == eight
    assert {kind for n, kind in types.items() if n not in eight} == {"float32"}
    for node in graph.node:  # TensorRT knows 8-bit tensors only between a port and a cast
        if eight & {*node.input, *node.output}:
            assert node.op_type in ("Cast", "Shape")
    assert manifest.parity is not None
    assert manifest.parity.max_steps <= 1
    assert 0 < manifest.parity.max_abs <= 1e-4
    assert manifest.parity.sizes == ("46x76", "64x96")
    text = files[name, "nv12"].with_suffix(".json").read_text()
    assert Manifest.from_json(text, source="x").to_json() == text
    assert {"chroma", "conversion"} <= json.loads(text)["contract"].keys()


def test_both_layouts_hold_the_same_samples(files):
    for name in ("real", "flow"):
        two, three = (session_of(files[name, io]) for io in ("nv12", "i420"))
        state = other = None
        for session in (two, three):
            session.convert_by(USUAL)
        for picture in decoded(3, 46, 76):  # whose planes of chroma end in the middle of a row
            found, state = two.enlarge_planes(picture, state)
            planes, other = three.enlarge_planes(as_i420(picture, "NV12"), other)
            assert np.array_equal(as_i420(found, "NV12"), planes)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_are_the_callers(files, runtime):
    pictures = decoded(5)
    session = session_of(files["flow", "nv12"], runtime)
    session.convert_by(USUAL)
    expected, state = [], None
    for picture in pictures:
        made, state = session.enlarge_planes(picture, state)
        expected.append((made, made.copy()))
    again, state, buffer = session_of(files["flow", "nv12"], runtime), None, np.empty_like(picture)
    again.convert_by(USUAL)
    for picture, (kept, as_it_was) in zip(pictures, expected, strict=True):
        buffer[:] = picture
        made, state = again.enlarge_planes(buffer, state)
        buffer[:] = 255
        assert np.array_equal(kept, as_it_was)
        assert np.array_equal(made, kept)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_values_that_are_no_numbers_are_no_picture(files, runtime, tmp_path):
    model = onnx.load(str(files["flow", "nv12"]))
    (last,) = [t for t in model.graph.initializer if list(t.dims) == [48, 16, 3, 3]]
    values = onnx.numpy_helper.to_array(last).copy()
    values[7, 0, 1, 1] = np.nan
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    onnx.save(model, str(tmp_path / "broken.onnx"))
    session = session_of(tmp_path / "broken.onnx", runtime)
    session.convert_by(USUAL)
    with pytest.raises(FloatingPointError):
        session.enlarge_planes(decoded(1)[0], None)


def test_parity_sees_a_state_that_was_rounded(files, monkeypatch):
    import teco.runtimes.onnxruntime as module
    from teco.verification.parity import MAX_DIFFERENCE, measure_parity

    model = open_model(str(files["flow", "nv12"]))
    run = module._CpuSession._run

    def rounded(self, given, state):
        if state is not None:
            state = {k: np.rint(v * 255).astype(np.float32) / 255 for k, v in state.items()}
        return run(self, given, state)

    monkeypatch.setattr(module._CpuSession, "_run", rounded)
    worn = measure_parity(model, weights_of(model.variant), (SIZE,), 10)
    assert worn.max_abs > MAX_DIFFERENCE


def test_timing_goes_through_the_planes(files):
    model = open_model(str(files["real", "i420"]))
    step = on_noise(model, session_of(files["real", "i420"]), *SIZE)
    assert step(step(None)).keys() == {s.input for s in model.manifest.contract.states}


# --- streams, tiles, what stands in for late frames -------------------------------------------


def test_a_stream_of_planes(files):
    """Repeats are shown again, cuts are found, late frames enlarged without the network."""
    session = session_of(files["real", "nv12"])
    session.convert_by(USUAL)
    stream = Stream(session, centred=True)
    h, w = 96, 128
    one, two, other = (
        as_planes(frame, "NV12", USUAL)
        for frame in (*default_frames(h, w, 2), to_pixels(moving_frames(h, w, 1, seed=7)[0]))
    )
    first = stream.push(one)
    assert stream.push(one.copy()) is first
    second = stream.push(two)
    assert not second.flags.writeable
    assert (stream.stats.steps, stream.stats.repeats, stream.stats.resets) == (2, 1, 1)
    late = stream.push(one, due=0.0)
    assert stream.stats.fallbacks == 1
    assert late.shape == second.shape
    assert np.array_equal(late, cheap_planes(one, "NV12"))
    stream.push(other)
    assert stream.stats.resets == 2


def test_cuts_are_found_as_in_rgb(clip_frames):
    """The sketch of planes leads to the answers that RGB leads to."""
    rgb, planes = SceneCutDetector(), SceneCutDetector()
    for pixels in clip_frames:
        whole = as_planes(pixels, "NV12", USUAL)
        assert rgb.is_cut(pixels) == planes.is_cut(sketch_of(whole, "NV12", USUAL))
        assert planes.score == pytest.approx(rgb.score, abs=0.1)


@pytest.fixture
def clip_frames() -> list[np.ndarray]:
    shots = [moving_frames(360, 640, 4, seed=n) for n in range(3)]
    return [to_pixels(frame) for shot in shots for frame in shot]


@pytest.mark.parametrize("layout", ["NV12", "I420"])
@pytest.mark.parametrize("centred", [True, False])
def test_what_stands_in_lies_where_rgb_would(layout, centred):
    """Against bicubic in RGB, converted: the luma, and where chroma lies."""
    enlarge = cheap_centred if centred else cheap
    pixels = default_frames(48, 64, 1)[0] // 2 + 64  # so that no colour is out of range
    found = cheap_planes(as_planes(pixels, layout, USUAL), layout, 4, centred)
    expected = as_planes(enlarge(pixels), layout, USUAL)
    assert found.shape == expected.shape
    assert apart(found[: 4 * 48], expected[: 4 * 48]) <= 2
    # A shift of chroma would show on a ramp, whose cubic is exact: in steps of it, half a pixel
    # would be 0.4.
    for ramp in (np.linspace(20, 230, 64)[None, :, None].repeat(48, 0),
                 np.linspace(20, 230, 48)[:, None, None].repeat(64, 1)):  # fmt: skip
        colours = (ramp * [1, 0.5, 0.2]).round().astype(np.uint8)
        made = cheap_planes(as_planes(colours, layout, USUAL), layout, 4, centred)
        wanted = as_planes(enlarge(colours), layout, USUAL)
        inside = np.s_[16:-16, 16:-16]
        error = chroma_of(made, layout)[inside].astype(int) - chroma_of(wanted, layout)[inside]
        assert np.abs(error.mean(axis=(0, 1))).max() < 0.15


@pytest.mark.parametrize("io", ["nv12", "i420"])
def test_tiles_have_no_seams(files, io):
    session = session_of(files["real", io])
    whole = session_of(files["real", io])
    h, w = 150, 206
    parts = tiled(session, (134, 142))
    assert isinstance(parts, PlaneSession)
    for one in (parts, whole):
        one.convert_by(USUAL)
    state = other = None
    for picture in decoded(3, h, w):
        given = picture if io == "nv12" else as_i420(picture, "NV12")
        found, state = parts.enlarge_planes(given, state)
        expected, other = whole.enlarge_planes(given, other)
        assert apart(found, expected) <= 1


# --- clips -----------------------------------------------------------------------------------


def h264(path: Path, pictures: list[np.ndarray], pix_fmt: str = "yuv420p", codec="libx264") -> Path:
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec == "libx264":
            stream.options = {"crf": "4"}
        for pixels in pictures:
            made.mux(stream.encode(Converter(Colour("bt601", False)).from_rgb(pixels, pix_fmt)))
        made.mux(stream.encode(None))
    return path


def av_frames(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_the_decoders_planes_go_in_and_the_networks_go_out(files, teco, tmp_path, monkeypatch):
    """Bit for bit, and never through RGB."""
    clip = h264(tmp_path / "in.mp4", default_frames(*SIZE, 5))
    session = session_of(files["real", "nv12"])
    session.convert_by(Conversion.of("bt601", full_range=False))  # players' guess for small clips
    expected, state = [], None
    for frame in av_frames(clip):
        made, state = session.enlarge_planes(frame.to_ndarray(format="nv12"), state)
        expected.append(as_i420(made, "NV12"))
    model = open_model(str(files["real", "nv12"]))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("converted")

    monkeypatch.setattr(Converter, "to_rgb", never)
    monkeypatch.setattr(Converter, "from_rgb", never)
    for codec, target in (("ffv1", "out.mkv"), ("libx264", "out.mp4"), (None, "out.y4m")):
        crf = 0 if codec == "libx264" else 16
        done = upscale(
            lambda _: session_of(files["real", "nv12"]), clip, tmp_path / target,
            UpscaleOptions(encoder=EncoderSettings(codec=codec, crf=crf), scene_cuts=False),
            planes=model.planes,
        )  # fmt: skip
        assert done.frames == 5
        found = [frame.to_ndarray(format="yuv420p") for frame in av_frames(tmp_path / target)]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # y4m of left-sited chroma comes in as it is, too.
    again = upscale(
        lambda _: session_of(files["real", "nv12"]), tmp_path / "out.y4m", tmp_path / "more.y4m",
        UpscaleOptions(max_frames=1), planes="NV12",
    )  # fmt: skip
    assert again.frames == 1
    monkeypatch.undo()
    run = teco("upscale", clip, tmp_path / "told.mkv", "--model", files["real", "nv12"],
               "--runtime", "onnxruntime", "--codec", "ffv1", "--no-scene-cuts")  # fmt: skip
    assert run.code == 0, run.stderr
    found = [frame.to_ndarray(format="yuv420p") for frame in av_frames(tmp_path / "told.mkv")]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_y4m_names_no_matrix_so_it_gets_the_one_that_is_guessed(files, tmp_path):
    """A small clip is BT.601 to players, and 1280 wide BT.709: the graph takes one to the other."""
    pixels = [np.full((20, 320, 3), (180, 60, 90), np.uint8)] * 2
    clip = h264(tmp_path / "in.mp4", pixels)
    for target, matrix in (("out.mkv", "bt601"), ("out.y4m", "bt709")):
        options = UpscaleOptions(encoder=EncoderSettings(codec="ffv1"))
        upscale(lambda _: session_of(files["real", "i420"]), clip, tmp_path / target, options,
                planes="I420")  # fmt: skip
        frame = av_frames(tmp_path / target)[-1]
        assert (frame.width, frame.height) == (1280, 80)
        found = exact_rgb(frame.to_ndarray(), "I420", Conversion.of(matrix, full_range=False))
        plain = tmp_path / f"plain-{target}"
        upscale(lambda _: session_of(files["real", "fp32"]), clip, plain, options)
        (*_, usual) = av_frames(plain)
        wanted = exact_rgb(usual.to_ndarray(), "I420", Conversion.of(matrix, full_range=False))
        assert np.abs(255 * (found - wanted)).max() < 4


@pytest.mark.parametrize("layout", ["NV12", "I420"])
@pytest.mark.parametrize(
    ("pix_fmt", "codec"),
    [("yuv444p", "libx264"), ("yuv420p10le", "ffv1"), ("yuvj420p", "mjpeg"), ("bgr0", "ffv1")],
)
def test_other_clips_are_converted_first(files, tmp_path, pix_fmt, codec, layout):
    """Through RGB, so that JPEG's chroma moves to where that of planes lies."""
    from teco.inference.upscale import as_taken, conversion_of

    pixels = default_frames(48, 64, 1)[0]
    clip = tmp_path / "clip.mkv"
    if pix_fmt == "bgr0":
        with av.open(str(clip), "w") as made:
            stream = made.add_stream("ffv1", rate=25, width=64, height=48, pix_fmt=pix_fmt)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)
            made.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        h264(clip, [pixels], pix_fmt, codec)
    with open_source(clip, planes=layout) as source, open_source(clip) as plain:
        session = session_of(files["real", layout.lower()])
        conversion = conversion_of(source)
        session.convert_by(conversion)
        (given,), (rgb,) = source, plain
        assert given.layout is None
        taken = as_taken(given, session)
        assert taken.layout == layout
        assert np.array_equal(taken.pixels, as_planes(rgb.pixels, layout, conversion))


@pytest.mark.slow
def test_the_bench_measures_them(teco, tmp_path, files) -> None:
    """Latency, end to end, playback and quality, beside a float file of the same weights."""
    nv12_file = files["real", "nv12"]
    clip = Path(__file__).parents[3] / "examples" / "city_hr.mp4"
    done = teco("bench", nv12_file, "--clip", clip, "--size", "48x80", "--fit", "--frames", 6,
                "--metrics", "psnr", "--runtime", "onnxruntime", "--budget", 4, "--repetitions", 3,
                "--threads", 1, "--json", tmp_path / "r.json")  # fmt: skip
    assert done.code == 0, done.stderr
    (row,) = store.read(tmp_path / "r.json").rows
    assert not [note for note in row.notes if "failed" in note], row.notes
    assert row.end_to_end is not None
    assert row.playback is not None
    assert row.quality is not None
    done = teco("bench", nv12_file, "--size", "101x151", "--runtime", "onnxruntime")
    done.refuses(2, "151x101", "even sizes")


def test_what_planes_cannot_do_is_said_before_the_work(files, teco, tmp_path, make_pictures):
    clip = h264(tmp_path / "in.mp4", default_frames(*SIZE, 2))
    model = ("--model", files["real", "nv12"], "--runtime", "onnxruntime")
    teco("upscale", clip, tmp_path / "folder", *model).refuses(2, "folder of PNGs")
    ten = teco("upscale", clip, tmp_path / "o.mkv", *model, "--pix-fmt", "yuv420p10le")
    ten.refuses(2, "not 8-bit 4:2:0")
    odd = make_pictures(tmp_path / "odd", default_frames(24, 41, 2))
    run = teco("upscale", odd, tmp_path / "o.mp4", *model)
    run.refuses(2, "41x24", "even sizes", "crop=trunc")
    teco("emit", "c", "-o", tmp_path / "c", *model[:2]).refuses(2, "players hand over RGB")
    odd = ("--io", "nv12", "--size", "45x80", "-o", tmp_path)
    teco("export", "--model", "real-cpu", *odd).refuses(2, "even sizes", "--size 46x80")
    eight = ("--io", "nv12", "--int8", "-o", tmp_path)
    teco("export", "--blocks", "1", *eight).refuses(2, "--io nv12 takes planes")
    assert not list(tmp_path.glob("o.*"))
    # A folder of even pictures has planes made of it.
    even = make_pictures(tmp_path / "even", default_frames(*SIZE, 2))
    teco("upscale", even, tmp_path / "even.mkv", *model).says()
    assert len(av_frames(tmp_path / "even.mkv")) == 2


def test_rgb_for_planes_is_refused_in_a_sentence(files):
    session = session_of(files["real", "nv12"])
    frame = default_frames(*SIZE, 1)[0]
    for attempt in (
        lambda: session.step(to_tensor(frame), None),
        lambda: Stream(session, scene_cuts=False).push(frame),
    ):
        with pytest.raises(TecoError, match="nv12 ports") as error:
            attempt()
        assert error.value.exit_code == USAGE
    with pytest.raises(TecoError, match="matrix and the range"):
        session.enlarge_planes(decoded(1)[0], None)
    session.convert_by(USUAL)
    with pytest.raises(TecoError, match="even"):
        session.enlarge_planes(decoded(1)[0][:-1], None)


def test_info_and_verify_know_the_ports(files, teco):
    run = teco("info", files["flow", "nv12"])
    assert run.code == 0
    said = run.stdout.decode()
    assert "y8, uv8 -> hr_y8, hr_uv8, uint8 NV12 YCbCr 0 to 255; check is finite" in said
    assert "to_rgb, from_rgb" in said


@pytest.mark.slow
def test_verify(teco, tmp_path):
    run = teco("export", "--model", "real-cpu", "--io", "nv12", "-o", tmp_path)
    assert run.code == 0, run.stderr
    run = teco("verify", tmp_path / "real-cpu-nv12io.onnx")
    assert run.code == 0, run.stdout
    assert b"gate max_steps" in run.stdout


@needs_rtx
@pytest.mark.parametrize(("name", "io"), [("real", "nv12"), ("flow", "i420")])
def test_engines_take_the_ports(files, name, io, tmp_path):
    from teco.exporting.engines.rtx import RtxOptions, build_rtx
    from teco.model.engine.preflight import read

    model = open_model(str(files[name, io]))
    manifest = read(build_rtx(model, tmp_path, RtxOptions(sm=(86,))))
    kinds = manifest.proof.ports
    contract = manifest.model.contract
    assert set(kinds) == {*contract.inputs, *contract.outputs}
    eight = {*contract.frames, *contract.pictures}
    assert {n for n, kind in kinds.items() if kind == "uint8"} == eight
    assert {kind for n, kind in kinds.items() if n not in eight} == {"fp32"}
    assert f"--io {io}" in manifest.rebuild
    odd = RtxOptions(sm=(86,), profile=((8, 8), (45, 80), (90, 160)), name="odd")
    with pytest.raises(TecoError, match="even sides"):
        build_rtx(model, tmp_path, odd)
