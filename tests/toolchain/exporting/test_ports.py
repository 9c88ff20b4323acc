"""Ports of an exported file: 8-bit pictures made in the graph, float16, and what drives them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teco.core.errors import TecoError
from teco.core.pixels import to_pixels, to_tensor
from teco.inference.stream import Stream
from teco.model.contract import StreamContract
from teco.model.engine import api
from teco.model.manifest import Manifest
from teco.model.opening import Model, open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import FrameSession, on_noise
from teco.verification.temporal_gate import SessionStepper, default_frames
from teco_models.variant import Variant

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

needs_rtx = pytest.mark.skipif(
    not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
)

SIZE = (12, 20)
FLOW = Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle")
FREE = Variant(blocks=1, channels=16, flow_channels=0, tail="shuffle")


def weights_of(variant: Variant):
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import infer

    generator = Generator(variant)
    initialise(generator, seed=1)
    with torch.no_grad():
        if generator.fnet is not None:
            generator.fnet.flow[2].weight.mul_(20)  # the start's flow is nearly zero
    return infer(generator.eval().state_dict(), source="test")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network with every kind of ports; "free" is one without a flow net, "free8" its 8-bit."""
    from teco.exporting.onnx import ExportOptions, export_onnx

    folder = tmp_path_factory.mktemp("ports")
    flow, free = weights_of(FLOW), weights_of(FREE)
    made = {
        io: export_onnx(flow, folder, ExportOptions(size=SIZE, io=io))
        for io in ("fp32", "fp16", "uint8")
    }
    made["free"] = export_onnx(free, folder, ExportOptions(size=SIZE))
    made["free8"] = export_onnx(free, folder, ExportOptions(size=SIZE, io="uint8"))
    return made


def session_of(path: Path, name: str = "onnxruntime"):
    runtime = find(name)
    if reason := runtime.why_unavailable():
        pytest.skip(reason)
    return runtime.open(open_model(str(path)), SessionOptions(threads=1))


def pictures_of(path: Path, name: str = "onnxruntime", count: int = 12) -> list[np.ndarray]:
    """What a user would see of a file, over recurrent frames."""
    stepper = SessionStepper(session_of(path, name))
    return [stepper.step(frame).copy() for frame in default_frames(*SIZE, count)]


def test_names_say_it(files):
    assert files["uint8"].stem == f"{FLOW.name}-12x20-uint8io"
    assert files["fp16"].stem == f"{FLOW.name}-12x20-fp16io"


@pytest.mark.parametrize(("floats", "levels"), [("fp32", "uint8"), ("free", "free8")])
def test_8_bit_pictures_are_the_float_files_bit_for_bit(files, floats, levels):
    pairs = zip(pictures_of(files[floats]), pictures_of(files[levels]), strict=True)
    assert all(a.dtype == b.dtype == np.uint8 and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["openvino", "openvino-bf16"])
@pytest.mark.parametrize(("floats", "levels"), [("fp32", "uint8"), ("free", "free8")])
def test_and_within_a_step_on_openvino(files, name, floats, levels):
    pairs = zip(pictures_of(files[floats], name), pictures_of(files[levels], name), strict=True)
    assert all(int(np.abs(a.astype(int) - b).max()) <= 1 for a, b in pairs)


@pytest.mark.parametrize("kind", ["uint8", "free8"])
def test_what_is_in_the_file(files, kind):
    model = open_model(str(files[kind]))
    assert model.manifest is not None
    contract = model.manifest.contract
    assert contract == StreamContract.of(model.variant, "uint8")
    graph = onnx.load(str(files[kind])).graph
    types = {x.name: x.type.tensor_type for x in (*graph.input, *graph.output)}
    assert list(types) == [*contract.inputs, *contract.outputs]

    def port(name: str) -> tuple[str, list[int]]:
        kind = onnx.helper.tensor_dtype_to_np_dtype(types[name].elem_type).name
        return kind, [d.dim_value for d in types[name].shape.dim]

    assert port("lr8") == port("lr8_prev") == ("uint8", [1, 12, 20, 3])
    assert port("hr8") == ("uint8", [1, 48, 80, 3])
    assert port("check") == ("float32", [1])
    assert {port(name)[0] for name in contract.carried} == {"float32"}
    # TensorRT knows 8-bit tensors only between a port and a cast.
    for node in graph.node:
        if {"lr8", "lr8_prev", "hr8"} & {*node.input, *node.output}:
            assert node.op_type == "Cast"
    assert model.manifest.precision_found.keys() == {"float32"}
    parity = model.manifest.parity
    assert parity is not None
    assert parity.max_steps <= 1
    assert 0 < parity.max_abs <= 1e-4


def test_half_ports(files):
    """Every port is float16, the network is not, and the gate has had the word."""
    model = open_model(str(files["fp16"]))
    manifest = model.manifest
    assert manifest is not None
    assert manifest.gate is not None
    assert manifest.precision_asked == "fp32"
    assert manifest.precision_found.keys() == {"float32"}
    assert {s.dtype for s in manifest.contract.states} == {manifest.contract.dtype} == {"float16"}
    graph = onnx.load(str(files["fp16"])).graph
    kinds = {x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16}
    for name in ("onnxruntime", "openvino"):
        pairs = zip(pictures_of(files["fp32"]), pictures_of(files["fp16"], name), strict=True)
        assert max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs) <= 1
    session = session_of(files["fp16"])
    hr, state = session.step(to_tensor(default_frames(*SIZE, 1)[0]), None)
    assert hr.dtype == np.float32
    assert {value.dtype for value in state.values()} == {np.dtype(np.float16)}


# --- parity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "free8"])
def test_parity_sees_a_state_that_was_rounded(files, kind, monkeypatch):
    """In 8-bit pictures of a few frames it would hardly show."""
    import teco.runtimes.onnxruntime as module
    from teco.verification.parity import MAX_DIFFERENCE, measure_parity

    model = open_model(str(files[kind]))
    weights = weights_of(model.variant)
    honest = measure_parity(model, weights, (SIZE,), 10)
    run = module._CpuSession._run

    def rounded(self, given, state):
        if state is not None:
            rounding = {k: v for k, v in state.items() if k in ("hr_prev", "phases_prev")}
            worn = {k: np.rint(v * 255).astype(np.float32) / 255 for k, v in rounding.items()}
            state = {**state, **worn}
        return run(self, given, state)

    monkeypatch.setattr(module._CpuSession, "_run", rounded)
    worn = measure_parity(model, weights, (SIZE,), 10)
    assert honest.max_abs < MAX_DIFFERENCE < worn.max_abs


def test_a_picture_that_is_two_steps_off_gets_no_name():
    """Where the state is right, only the rounding of the picture can be wrong."""
    from teco.exporting.acceptance import check_parity
    from teco.exporting.options import ExportOptions
    from teco.model.manifest import Parity
    from teco.verification.parity import ParityError

    parity = Parity(frames=10, sizes=("12x20",), max_abs=1e-6, max_steps=1, min_psnr=80.0)
    check_parity(parity, ExportOptions(io="uint8"), "m")
    with pytest.raises(ParityError, match="2 8-bit steps"):
        check_parity(replace(parity, max_steps=2), ExportOptions(io="uint8"), "m")
    with pytest.raises(ParityError, match="required 50 dB") as error:
        check_parity(replace(parity, min_psnr=49.0), ExportOptions(io="fp16"), "m")
    assert error.value.hint == "export it without --io fp16"


# --- sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [("uint8", "onnxruntime"), ("uint8", "openvino"), ("free8", "onnxruntime"),
     ("free8", "openvino"), ("free", "openvino")],
)  # fmt: skip
def test_values_that_are_no_numbers_are_no_black_pixels(files, kind, name, tmp_path):
    """In the last convolution, because rectifiers swallow what comes before them."""
    model = onnx.load(str(files[kind]))
    (last,) = [t for t in model.graph.initializer if list(t.dims) == [48, 16, 3, 3]]
    values = onnx.numpy_helper.to_array(last).copy()
    values[7, 0, 1, 1] = np.nan
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    onnx.save(model, str(tmp_path / "broken.onnx"))
    session = session_of(tmp_path / "broken.onnx", name)
    frame = default_frames(*SIZE, 1)[0]
    with pytest.raises(FloatingPointError):
        session.enlarge(frame, None)
    with pytest.raises(TecoError, match="not finite"):
        Stream(session, scene_cuts=False).push(frame)
    if kind != "free":
        with pytest.raises(FloatingPointError):
            session.step(to_tensor(frame), None)
        lr = to_tensor(frame)
        lr[0, 0, 3, 3] = np.nan  # which would be a level of 0
        with pytest.raises(FloatingPointError):
            session_of(files[kind], name).step(lr, None)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_frames_are_the_callers_and_so_are_pictures(files, name):
    """A player decodes into the same memory again; an encoder keeps several pictures."""
    frames = default_frames(*SIZE, 5)
    expected = pictures_of(files["uint8"], name, 5)
    session, state, buffer = session_of(files["uint8"], name), None, np.empty_like(frames[0])
    assert isinstance(session, FrameSession)
    kept = []
    for frame in frames:
        buffer[:] = frame
        picture, state = session.enlarge(buffer, state)
        buffer[:] = 255
        kept.append(picture)
    assert all(np.array_equal(a, b) for a, b in zip(kept, expected, strict=True))


def test_a_step_in_floats_is_one_in_levels(files):
    frame = default_frames(*SIZE, 1)[0]
    session = session_of(files["uint8"])
    picture, _ = session.enlarge(frame, None)
    hr, _ = session.step(to_tensor(frame), None)
    assert hr.dtype == np.float32
    assert np.array_equal(hr, to_tensor(picture))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "uint8"])
def test_timing_goes_through_the_models_own_ports(files, kind, monkeypatch):
    model = open_model(str(files[kind]))
    session = session_of(files[kind])
    used = []
    for method in ("step", "enlarge"):
        if hasattr(session, method):
            original = getattr(session, method)

            def watched(*args, original=original, method=method):
                used.append(method)
                return original(*args)

            monkeypatch.setattr(session, method, watched)
    step = on_noise(model, session, *SIZE)
    assert step(step(None)).keys() == {s.input for s in model.manifest.contract.states}
    assert set(used) == {"enlarge" if kind == "uint8" else "step"}


def test_pictures_are_rounded_as_in_float32():
    """Bit for bit, so that every runtime and host can agree; float64 differs now and then."""
    values = np.random.default_rng(0).random((1, 3, 600, 600), np.float32) * 1.2 - 0.1
    single = np.clip(np.rint(values[0] * np.float32(255)), 0, 255).transpose(1, 2, 0)
    double = np.clip(np.rint(values[0].astype(np.float64) * 255), 0, 255).transpose(1, 2, 0)
    assert (single != double).any()
    assert np.array_equal(to_pixels(values), single)


# --- the contract ----------------------------------------------------------------------------


def test_float_files_say_what_they_always_said(files):
    contract = json.loads(files["fp32"].with_suffix(".json").read_text())["contract"]
    assert not {"dtype", "layout", "check"} & contract.keys()
    assert not any("dtype" in state for state in contract["states"])
    eight = json.loads(files["uint8"].with_suffix(".json").read_text())["contract"]
    assert (eight["dtype"], eight["layout"], eight["range"]) == ("uint8", "NHWC", [0, 255])
    for kind in ("fp16", "uint8"):
        text = files[kind].with_suffix(".json").read_text()
        assert Manifest.from_json(text, source="x").to_json() == text


@pytest.mark.parametrize(
    ("change", "words"),
    [({"dtype": "int4"}, "dtype"), ({"layout": "NCHW"}, "layout"), ({"range": [0, 1]}, "range"),
     ({"check": ""}, "check"), ({"dtype": "float32"}, "range")],
)  # fmt: skip
def test_a_contract_that_contradicts_itself_is_refused(files, change, words):
    data = json.loads(files["uint8"].with_suffix(".json").read_text())
    data["contract"] |= change
    with pytest.raises(TecoError, match=words):
        Manifest.from_json(json.dumps(data), source="m.json")
    data["contract"] = json.loads(files["uint8"].with_suffix(".json").read_text())["contract"]
    data["contract"]["states"][1]["dtype"] = "uint8"
    with pytest.raises(TecoError, match="hr_prev"):
        Manifest.from_json(json.dumps(data), source="m.json")


# --- engines and commands --------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("kind", ["uint8", "fp16", "free8"])
def test_engines_take_the_ports(files, kind, tmp_path):
    from teco.exporting.engines.rtx import RtxOptions, build_rtx
    from teco.model.engine.preflight import read

    path = build_rtx(open_model(str(files[kind])), tmp_path, RtxOptions(sm=(86,)))
    manifest = read(path)
    ports = manifest.proof.ports
    if kind == "fp16":
        assert set(ports.values()) == {"fp16"}
    else:
        assert {n for n, k in ports.items() if k == "uint8"} == {"lr8", "lr8_prev", "hr8"}
        assert {k for n, k in ports.items() if "8" not in n} == {"fp32"}
    assert set(manifest.proof.convolutions) == {"fp32"}
    assert f"--io {'fp16' if kind == 'fp16' else 'uint8'}" in manifest.rebuild
    assert "io" in path.stem


def test_upscale_gives_the_same_clip(files, teco, tmp_path, make_pictures, load_pictures):
    clip = make_pictures(tmp_path / "clip", default_frames(*SIZE, 4))
    options = ("--runtime", "onnxruntime", "--threads", "1")
    for kind in ("fp32", "uint8"):
        teco("upscale", clip, tmp_path / kind, "--model", files[kind], *options).says()
    pairs = zip(load_pictures(tmp_path / "fp32"), load_pictures(tmp_path / "uint8"), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_info_and_bench_know_the_ports(files, teco):
    run = teco("info", files["uint8"])
    assert run.code == 0
    said = run.stdout.decode()
    assert "lr8 -> hr8, uint8 NHWC RGB 0 to 255; check is finite" in said
    assert "lr8_prev (1 x h x w x 3) uint8, hr_prev (1 x 3 x 4*h x 4*w) float32" in said
    run = teco("bench", files["uint8"], "--size", "12x20", "--repetitions", "3", "--kernel-only")
    assert run.code == 0, run.stderr


@pytest.mark.slow
def test_the_command(teco, tiny_weights, tmp_path):
    run = teco("export", "--weights", tiny_weights, "--io", "uint8", "--fp16", "--size", "12x20",
               "-o", tmp_path)  # fmt: skip
    assert run.code == 0, run.stderr
    assert run.stdout.decode().strip().endswith("-12x20-fp16-uint8io.onnx")
    model: Model = open_model(run.stdout.decode().strip())
    assert model.manifest is not None
    assert model.manifest.gate is not None
    assert model.manifest.precision_found["float16"] > 0
    teco("export", "--weights", tiny_weights, "--io", "int8").refuses(2, "--io")


def test_an_old_reader_would_refuse_it(files):
    """Its contract had none of the new fields, and a dataclass takes no others."""
    contract = json.loads(files["uint8"].with_suffix(".json").read_text())["contract"]
    plain = json.loads(files["fp32"].with_suffix(".json").read_text())["contract"]
    assert contract.keys() - plain.keys() == {"dtype", "layout", "check"}
    assert replace(StreamContract.of(FLOW)) == StreamContract()
