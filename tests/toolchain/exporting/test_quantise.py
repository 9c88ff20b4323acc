"""int8: the graph, the rollout that feeds it, the search for layers, and what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import teco.exporting.quantisation.clips
import teco.exporting.quantisation.run
from teco.core.errors import TecoError
from teco.core.log import Progress
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.exporting.quantisation.clips import CalibrationScenes, CalibrationSet, read_scenes
from teco.exporting.quantisation.qdq import insert, integers, learned, same_integers
from teco.exporting.quantisation.rollout import OnnxRollout
from teco.exporting.quantisation.run import QuantisationError, quantise
from teco.exporting.quantisation.sensitivity import Probe, keep_in_float, measure_sensitivity
from teco.exporting.trace import trace
from teco.inference.stream import to_tensor
from teco.model.contract import StreamContract
from teco.model.engine import api, precision_check
from teco.model.engine.network import make_logger, parse
from teco.model.int8 import Int8, Kept, Timing
from teco.model.manifest import Manifest
from teco.model.opening import Model, open_model
from teco.runtimes import find
from teco.runtimes.base import SessionOptions
from teco.training.init import initialise
from teco.verification.temporal_gate import WITHOUT_TRUTH, GateClip
from teco_calibration.int8_ranges import MinMax, observe
from teco_calibration.temporal_gate.verdict import INT8
from teco_models.arch.generator import Generator
from teco_models.checkpoint import Weights, build, infer, save_weights
from teco_models.deploy.form import rewrites_for
from teco_models.deploy.step import TARGETS, Rewrites, deploy_step
from teco_models.variant import Variant

VARIANT = Variant(blocks=1, channels=16, flow_channels=8, back_projection=True, lucas_kanade=True)
SIZE = (16, 24)
SHORT = replace(INT8, name="short", frames=16, lpips_loss=None, loss_drift=None)


@pytest.fixture(scope="module")
def weights() -> Weights:
    generator = Generator(VARIANT)
    initialise(generator, seed=1)
    return infer(generator.state_dict(), source="test")


@pytest.fixture(scope="module")
def generator(weights: Weights) -> Generator:
    from teco_models.checkpoint import build

    return build(weights)


@pytest.fixture(scope="module")
def step(generator: Generator) -> onnx.ModelProto:
    return trace(deploy_step(generator, TARGETS["openvino"]), StreamContract(), SIZE)


@pytest.fixture(scope="module")
def scene(texture: Callable[..., list[np.ndarray]]) -> GateClip:
    from teco_calibration.degrade import degrade

    truth = texture(12, SIZE[1] * 4, SIZE[0] * 4)
    return GateClip([degrade(t, "bd") for t in truth], truth)


def thresholds_of(model: onnx.ModelProto, scene: GateClip) -> dict[str, float]:
    shown = {weight: node.input[0] for weight, node in learned(model).items()}
    seen = observe(OnnxRollout(model, StreamContract(), shown), [scene.frames])
    return {name: MinMax().threshold(seen[name]) for name in shown}


def about() -> Model:
    manifest = Manifest(
        variant=VARIANT.name, precision_asked="int8", precision_found={}, size="dynamic",
        contract=StreamContract(), rewrites={}, parity=None, weights_sha256="", versions={},
    )  # fmt: skip
    return Model("tiny", VARIANT, manifest=manifest)


def test_the_rollout_feeds_its_own_output_back(
    step: onnx.ModelProto, generator: Generator, scene: GateClip
) -> None:
    shown = {"past": "hr_prev", "before": "lr_prev"}
    rollout = OnnxRollout(step, StreamContract(), shown)
    for _ in range(2):  # the second scene starts cold as well
        rollout.reset()
        lr_prev, hr_prev = generator.initial_state(torch.from_numpy(to_tensor(scene.frames[0])))
        last = np.zeros(hr_prev.shape, np.float32)
        for picture in scene.frames[:4]:
            lr = torch.from_numpy(to_tensor(picture))
            given = rollout.step(picture)
            assert np.array_equal(given["past"], last)
            assert np.array_equal(given["before"], lr_prev.numpy())
            with torch.inference_mode():
                hr_prev = generator.step(lr, lr_prev, hr_prev)
            assert np.abs(rollout.hr - hr_prev.numpy()).max() < 1e-3
            lr_prev, last = lr, rollout.hr


def test_only_learned_convolutions_read_integers(step: onnx.ModelProto, scene: GateClip) -> None:
    before = step.SerializeToString()
    whole = insert(step, thresholds_of(step, scene), {"past_in.weight"})
    assert step.SerializeToString() == before
    onnx.checker.check_model(whole, full_check=True)
    names = set(learned(step))
    assert not any(name.startswith("back.") or "." not in name for name in names)
    values = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    readers: dict[str, list[str]] = {}
    for node in whole.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].dtype == np.int8
            assert not values[node.input[2]].any()
    quantised = {
        node.input[1].removesuffix(".float")
        for node in whole.graph.node
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1].endswith(".weight.float")
    }
    assert quantised == names - {"past_in.weight"}
    for node in whole.graph.node:
        if node.op_type == "DequantizeLinear":
            # The frame, the state and a block's skip go on as floats to whoever else reads them.
            assert set(readers[node.output[0]]) <= {"Conv", "ConvTranspose"}
    axes = {
        node.name: onnx.helper.get_attribute_value(a)
        for node in whole.graph.node
        for a in node.attribute
        if node.op_type == "DequantizeLinear"
    }
    assert axes["generator.srnet.conv_up.0.weight.dequantise"] == 1
    assert axes["frame_in.weight.dequantise"] == 0
    proof = precision_check.of_onnx(whole)
    assert proof.convolutions["int8"] == len(names) - 1
    assert proof.grids == {"fp32": 2}  # the refinement samples as well
    precision_check.check_precision(proof, "int8")
    with pytest.raises(TecoError, match="labelled fp32"):
        precision_check.check_precision(proof, "fp32")


def test_integers_per_channel() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (3, 5, 2, 2)).astype(np.float32)
    weight[:, 1] *= 1000
    weight[:, 4] = 0
    whole, scales = integers(weight, axis=1)
    for n in range(5):
        assert np.abs(whole[:, n]).max() == (0 if n == 4 else 127)
        error = np.abs(whole[:, n] * scales[n] - weight[:, n]).max()
        assert error <= scales[n] / 2 * 1.0001
    # Written to and fro, so that a whole number is never clipped: -128 would be another scale.
    assert whole.min() >= -127


def test_integers_of_float16_weights() -> None:
    """A scale that is rounded down would clip the largest weight."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(0, 1, (40, 5, 3, 3)) * np.logspace(-4, 1, 40)[:, None, None, None]).astype(
        np.float16
    )
    weight[7] = 0
    whole, scales = integers(weight, axis=0)
    assert scales.dtype == np.float16
    assert (scales > 0).all()
    for n in range(40):
        exact = weight[n].astype(np.float64)
        assert np.abs(exact).max() <= 127 * float(scales[n]) or n == 7
        assert np.abs(whole[n] * float(scales[n]) - exact).max() <= float(scales[n]) / 2 * 1.001


def test_what_an_engine_keeps_in_float_is_float16(generator: Generator, scene: GateClip) -> None:
    rewrites = rewrites_for(VARIANT, "tensorrt", int8=True)
    assert isinstance(rewrites, Rewrites)
    form = deploy_step(generator, rewrites, "fp16")
    half = trace(form, StreamContract(), SIZE)
    whole = insert(half, thresholds_of(half, scene))
    assert [(x.domain, x.version) for x in half.opset_import] == [("", 18)]
    assert [(x.domain, x.version) for x in whole.opset_import] == [("", 19)]
    onnx.checker.check_model(whole, full_check=True)
    # TensorRT-RTX would compute it in float, whatever it reads.
    assert not any(node.op_type == "ConvTranspose" for node in whole.graph.node)
    stored = {t.name: t.data_type for t in whole.graph.initializer}
    scales = {
        stored[node.input[1]] for node in whole.graph.node if node.op_type.endswith("izeLinear")
    }
    assert scales == {onnx.TensorProto.FLOAT16}
    proof = precision_check.of_onnx(whole)
    assert proof.convolutions["int8"] == len(learned(half))
    assert proof.convolutions["fp16"] == 1  # the mask of back-projection
    assert proof.grids == {"fp32": 2}
    precision_check.check_precision(proof, "int8")
    assert f"convolutions), fp16 in {proof.layers['fp16']}, GridSample fp32" in proof.text("int8")
    few = scene.frames[:4]
    expected = OnnxRollout(half, StreamContract()).hr_frames(few)
    found = OnnxRollout(whole, StreamContract()).hr_frames(few)
    error = np.mean([(a - b) ** 2 for a, b in zip(found, expected, strict=True)])
    assert 30 < -10 * np.log10(error) < 80


@pytest.mark.skipif(not api.is_installed("rtx"), reason="pip install 'teco[rtx]'")
def test_a_transposed_convolution_is_not_int8_in_an_engine(
    step: onnx.ModelProto, scene: GateClip
) -> None:
    """OpenVINO computes it in int8, TensorRT-RTX in float between conversions."""
    whole = insert(step, thresholds_of(step, scene))
    trt = api.load("rtx", "the test")
    parsed = parse(trt, whole.SerializeToString(), make_logger(trt), Path("step.onnx"))
    found = precision_check.of_network(parsed.network).convolutions
    told = precision_check.of_onnx(whole).convolutions
    transposed = sum(node.op_type == "ConvTranspose" for node in whole.graph.node)
    assert transposed > 0
    assert told["int8"] == len(learned(step))
    assert found["int8"] == told["int8"] - transposed
    assert found["fp32"] == told["fp32"] + transposed


def test_scales_are_compared_by_weight(step: onnx.ModelProto, scene: GateClip) -> None:
    limits = thresholds_of(step, scene)
    one = insert(step, limits)
    assert same_integers(one, insert(step, limits))
    assert not same_integers(one, insert(step, limits, {"past_in.weight"}))
    assert not same_integers(one, insert(step, limits | {"past_in.weight": 9.0}))


def hurt(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same function, except that one input channel of a layer, which is nearly always empty,
    now needs a range a thousand times as wide: its weights shrink as its values grow."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = learned(copy)[name]
    channels = next(t.dims[1] for t in copy.graph.initializer if t.name == name)
    factors = np.ones((1, channels, 1, 1), np.float32)
    factors[0, 0] = 1000
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor) / factors
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    copy.graph.initializer.append(numpy_helper.from_array(factors, "factors"))
    at = list(copy.graph.node).index(node)
    source = node.input[0]
    node.input[0] = "widened"
    copy.graph.node.insert(at, onnx.helper.make_node("Mul", [source, "factors"], ["widened"]))
    return copy


HURT = "fnet.decoder3.2.weight"


@pytest.mark.slow
def test_the_layer_that_hurts_is_found(step: onnx.ModelProto, scene: GateClip) -> None:
    model = hurt(step, HURT)
    few = scene.frames[:4]
    plain = OnnxRollout(model, StreamContract()).hr_frames(few)
    expected = OnnxRollout(step, StreamContract()).hr_frames(few)
    assert np.abs(plain[-1] - expected[-1]).max() < 1e-3
    probe = Probe(
        model=model,
        contract=StreamContract(),
        thresholds=thresholds_of(model, scene),
        scenes=[few],
        expected=[plain],
    )
    costs = measure_sensitivity(probe)
    assert costs.keys() == learned(model).keys()
    assert next(iter(costs)) == HURT
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    assert costs[HURT] > 2 * list(costs.values())[1]
    rest = probe.error({HURT})
    assert probe.error(set()) > 1.5 * rest
    allowed = 1.5 * rest
    kept = keep_in_float(costs, allowed, probe.error)
    assert kept >= 1
    assert probe.error(set(list(costs)[:kept])) <= allowed
    assert keep_in_float(costs, 1.0, probe.error) == 0


def test_the_prediction_is_mended_by_measuring() -> None:
    costs = {"a": 8.0, "b": 4.0, "c": 2.0, "d": 1.0}
    asked: list[set[str]] = []

    def error(kept: set[str]) -> float:
        asked.append(kept)
        return 3 * sum(c for name, c in costs.items() if name not in kept)  # worse than predicted

    assert keep_in_float(costs, 7.0, error) == 3
    assert asked == [{"a"}, {"a", "b", "c"}]
    assert keep_in_float(costs, 7.0, lambda kept: float("inf")) == 4
    assert keep_in_float(costs, 100.0, lambda kept: 0.0, first=2) == 2


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, scene: GateClip) -> None:
    """A gate of 16 frames on a scene of 16x24."""
    monkeypatch.setattr(
        teco.exporting.quantisation.run, "lossy_bounds", lambda on_truth: (SHORT, "")
    )
    monkeypatch.setattr(
        teco.exporting.quantisation.run,
        "read_scenes",
        lambda clips, kind: CalibrationScenes(names=("x",), scenes=(scene,)),
    )


class Reference:
    """The float32 step of a model in memory, as a session."""

    runtime = details = "reference"

    def __init__(self, model: onnx.ModelProto) -> None:
        self._rollout = OnnxRollout(model, StreamContract())

    def step(self, lr: np.ndarray, state: object) -> tuple[np.ndarray, object]:
        if state is None:
            self._rollout.reset()
        self._rollout.step(np.rint(lr[0].transpose(1, 2, 0) * 255).astype(np.uint8))
        return self._rollout.hr, True

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("quick")
def test_a_file_says_which_layers_stayed_in_float(
    step: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A wrong flow costs little here, since a past that does not fit is not shown: a strict bound.
    strict = replace(SHORT, psnr_loss=None, worst_psnr=54.0)
    monkeypatch.setattr(
        teco.exporting.quantisation.run, "lossy_bounds", lambda on_truth: (strict, "")
    )
    model = hurt(step, HURT)
    caplog.set_level("INFO", "teco")
    calibration = CalibrationSet(range="minmax")
    done = quantise(model, lambda size: model, about(), Reference(model), calibration)
    assert done.verdict.accepted
    assert done.record.size == "16x24"
    kept = {k.layer for k in done.record.kept}
    assert HURT in kept
    proof = precision_check.of_onnx(done.model)
    assert proof.convolutions["int8"] == len(learned(model)) - len(kept)
    assert all(k.loss > 0 for k in done.record.kept)
    assert all(name in caplog.text for name in kept)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_does_not_pass_the_gate_is_refused_and_leaves_nothing(
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strict = replace(SHORT, psnr_loss=None, worst_psnr=90.0)
    monkeypatch.setattr(
        teco.exporting.quantisation.run, "lossy_bounds", lambda on_truth: (strict, "")
    )
    caplog.set_level("INFO", "teco")
    options = ExportOptions(size=SIZE, precision="int8")
    with pytest.raises(QuantisationError, match="no file was written"):
        export_onnx(weights, tmp_path, options)
    assert list(tmp_path.iterdir()) == []
    assert "alone" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_an_exported_file(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_onnx(weights, tmp_path, ExportOptions(size=SIZE, precision="int8"))
    assert path.name == f"{VARIANT.name}-16x24-int8.onnx"
    model = open_model(str(path))
    manifest = model.manifest
    assert manifest is not None
    assert manifest.int8 is not None
    assert manifest.gate is not None
    assert manifest.precision_found["int8"] > 0
    (timing,) = manifest.int8.timings
    assert (timing.runtime, timing.size, timing.samples) == ("onnxruntime", "16x24", 11)
    assert timing.fp32_ms > 0 < timing.int8_ms
    for name in ("onnxruntime", "openvino", "openvino-bf16"):
        if find(name).why_unavailable() is None:
            session = find(name).open(model, SessionOptions(threads=1))
            hr, _ = session.step(np.zeros((1, 3, *SIZE), np.float32), None)
            assert np.isfinite(hr).all()
            session.close()
    from teco.verification.report import VerifyOptions
    from teco.verification.verify import verify

    loose = replace(WITHOUT_TRUTH, frames=16, worst_psnr=20.0)
    monkeypatch.setattr("teco.verification.gate_findings.bounds_of", lambda *_, **__: (loose, ""))
    save_weights(tmp_path / "w.safetensors", build(weights))
    report = verify(str(path), VerifyOptions(weights=tmp_path / "w.safetensors"))
    assert report.holds, [(f.check, f.text) for f in report.findings]
    data = json.loads(manifest.to_json())
    assert Manifest.from_json(json.dumps(data), source="x") == manifest
    for change in ({"precision_asked": "fp32"}, {"precision_found": {"float32": 9}}):
        with pytest.raises(TecoError, match="int8"):
            Manifest.from_json(json.dumps(data | change), source="x")
    data["int8"]["judged_on"] = 3
    with pytest.raises(TecoError, match="judged_on"):
        Manifest.from_json(json.dumps(data), source="x")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("broken_off", [KeyboardInterrupt, TecoError("no worker starts")])
def test_a_file_that_could_not_be_timed_is_there(
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken_off: BaseException | type[BaseException],
) -> None:
    found: list[Path] = []

    def time(fp32: Model, int8: Model, target: str) -> tuple[Timing, ...]:
        found.extend(p for p in (fp32.onnx, int8.onnx) if p is not None and p.exists())
        raise broken_off

    shown: list[tuple[str, int, int | None]] = []

    @contextlib.contextmanager
    def progress(label: str, unit: str) -> Iterator[Progress]:
        assert unit in ("frames", "layers")
        yield lambda done, total: shown.append((label, done, total))

    monkeypatch.setattr("teco.exporting.quantisation.timing.compare_speed", time)
    options = ExportOptions(size=SIZE, precision="int8")
    with contextlib.suppress(KeyboardInterrupt):
        export_onnx(weights, tmp_path, options, progress=progress)
    path = tmp_path / f"{VARIANT.name}-16x24-int8.onnx"
    assert found[1] == path
    manifest = open_model(str(path)).manifest  # checks the digest that the manifest names
    assert manifest is not None
    assert manifest.int8 is not None
    assert manifest.int8.timings == ()
    assert manifest.gate is not None
    gate = [(done, total) for label, done, total in shown if label == "gate"]
    assert gate[-1][0] == gate[-1][1]
    assert [done for done, _ in gate] == list(range(1, len(gate) + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_file_for_an_engine(weights: Weights, tmp_path: Path) -> None:
    options = ExportOptions(size=SIZE, precision="int8", target="tensorrt")
    manifest = open_model(str(export_onnx(weights, tmp_path, options))).manifest
    assert manifest is not None
    assert manifest.int8 is not None
    assert manifest.int8.timings == ()  # a CPU's would say nothing
    assert manifest.precision_found["float16"] > manifest.precision_found["int8"] > 0
    assert manifest.rewrites["phase_tail"]
    assert manifest.gate is not None
    assert manifest.gate.accepted


def test_what_people_are_told() -> None:
    def timing(fp32: float, int8: float) -> Timing:
        return Timing(runtime="openvino", size="8x8", samples=11, fp32_ms=fp32, int8_ms=int8)

    assert timing(20, 10).sentence.startswith("int8 is 2.00 times as fast on openvino")
    assert timing(10, 20).sentence == (
        "int8 is not faster on openvino: 20.0 ms beside 10.0 in fp32"
    )
    record = Int8(
        clips=(), range="minmax", frames=24, size="60x92", on_truth=True, judged_on="openvino",
        kept=(Kept(layer="a.weight", loss=0.25),), timings=(timing(20, 10),),
    )  # fmt: skip
    text = "\n".join(record.lines)
    for words in ("moving test frames", "a.weight 0.25 (dB lost each)", "2.00 times"):
        assert words in text


def test_clips(
    tmp_path: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_clip(tmp_path / "a.mp4", 48, 40, 9)
    other = make_clip(tmp_path / "b.mp4", 64, 36, 9)
    found = read_scenes([str(small), str(other)], "bd")
    assert found.names == ("a.mp4", "b.mp4")
    assert found.size == (9, 12)
    for scene in found.scenes:
        assert scene.truth is not None
        assert {f.shape for f in scene.frames} == {(9, 12, 3)}
        assert {t.shape for t in scene.truth} == {(36, 48, 3)}
    monkeypatch.setattr(teco.exporting.quantisation.clips, "example_clip", lambda: None)
    unnamed = read_scenes((), "bd")
    assert unnamed.names == ()
    assert unnamed.scenes[0].truth is None
    with pytest.raises(TecoError, match="no range is called"):
        CalibrationSet(range="mean")


def test_bad_questions(
    teco: Callable[..., object], tmp_path: Path, tiny_weights: Path, make_clip: Callable[..., Path]
) -> None:
    def refused(*words: str, more: tuple[object, ...], code: int = 2) -> None:
        run = teco("export", "--weights", tiny_weights, "-o", tmp_path, "--size", "16x24", *more)
        after = ("tracing", "ranges")
        run.refuses(code, *words, after=after)  # type: ignore[attr-defined]
        assert not list(tmp_path.glob("*.onnx"))

    refused("--half-weights", more=("--int8", "--half-weights"))
    refused("--calibrate", "add --int8", more=("--calibrate", "x.mp4"))
    refused("--range", "add --int8", more=("--range", "minmax"))
    one = make_clip(tmp_path / "one.mp4", 64, 48, 1)
    refused("has 1 frame;", more=("--int8", "--calibrate", one))


@pytest.mark.slow
def test_the_command(
    teco: Callable[..., object], tmp_path: Path, tiny_weights: Path, make_clip: Callable[..., Path]
) -> None:
    """Through the real gate, on a clip of its own, to an engine where TensorRT-RTX is installed."""
    clip = make_clip(tmp_path / "clip.mp4", 128, 96, 12)
    rtx = find_spec("tensorrt_rtx") is not None
    run = teco(
        "export", "--weights", tiny_weights, "-o", tmp_path, "--size", "24x32", "--int8",
        "--calibrate", clip, "--formats", "onnx,rtx" if rtx else "onnx", "--for", "openvino",
    )  # fmt: skip
    run.says("int8 in", "clip.mp4", "kept in float", "in fp32")  # type: ignore[attr-defined]
    (path,) = tmp_path.glob("*.onnx")
    told = teco("info", path)
    assert told.code == 0  # type: ignore[attr-defined]
    for words in (b"asked int8", b"ranges from 12 frames of clip.mp4", b"gate int8"):
        assert words in told.stdout  # type: ignore[attr-defined]
    assert len(list(tmp_path.glob("*.plan"))) == rtx
