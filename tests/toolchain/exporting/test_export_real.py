"""The real generator as ONNX: every form, port and runtime gives what PyTorch gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from paths import ROOT

from teco.core.errors import TecoError
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.exporting.quantisation.clips import CalibrationSet
from teco.exporting.web_graph import check_web
from teco.inference.stream import Stream
from teco.model.contract import StreamContract
from teco.model.engine.precision_check import of_onnx
from teco.model.manifest import Manifest
from teco.model.opening import open_model
from teco.model.weights_digest import weights_digest
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import moving_frames
from teco_models import zoo
from teco_models.arch.computed_alignment import AlignedGenerator
from teco_models.checkpoint import Weights, load_weights
from teco_models.variant import Variant

VARIANT = Variant.aligned(blocks=1, channels=8, latent=4)


def made(variant: Variant) -> Weights:
    torch.manual_seed(0)
    return Weights(variant, dict(AlignedGenerator(variant).state_dict()))


OTHERS = replace(VARIANT, scale=2), replace(VARIANT, degradation="bd")
FORMS = (
    ExportOptions(),
    ExportOptions(target="openvino"),
    ExportOptions(io="uint8"),
    ExportOptions(io="fp16"),
    ExportOptions(target="web"),
)
STATIC = (24, 40)
"""Traced in a quarter of the time of symbolic sizes, which are tried on one variant in each form
and on each variant in one."""


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        *((VARIANT, form) for form in (*FORMS, ExportOptions(size=STATIC))),
        *(
            (v, form)
            for v in OTHERS
            for form in (FORMS[0], *(replace(f, size=STATIC) for f in FORMS[1:]))
        ),
    ],
    ids=lambda x: x.name if isinstance(x, Variant) else f"{x.target}-{x.suffix or 'plain'}",
)
def test_each_form(variant, options, tmp_path) -> None:
    path = export_onnx(made(variant), tmp_path, options)
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.contract == StreamContract.of(variant, options.io)
    assert manifest.contract.scale == variant.scale
    assert manifest.parity is not None
    if options.io != "fp16":
        assert manifest.parity.max_abs < 1e-4
    if options.target == "web":
        check_web(onnx.load(path))
    # Read again as another program would.
    assert Manifest.from_json(path.with_suffix(".json").read_text(), source="a test") == manifest


def test_states_of_the_contract() -> None:
    contract = StreamContract.of(VARIANT)
    assert list(contract.inputs) == ["lr", "luma_prev", "hr_luma_prev", "latent_prev"]
    assert contract.outputs == ("hr", "luma", "hr_luma", "latent")
    assert contract.inputs["latent_prev"] == ("1", "4", "h", "w")
    assert contract.inputs["hr_luma_prev"] == ("1", "1", "4*h", "4*w")
    eight = StreamContract.of(VARIANT, "uint8")
    assert eight.outputs == ("hr8", "luma", "hr_luma", "latent", "check")
    bare = StreamContract.of(Variant.aligned(latent=0))
    assert bare.outputs == ("hr", "luma", "hr_luma")


@pytest.mark.parametrize(
    ("variant", "io", "size"),
    [(VARIANT, "fp32", None), (VARIANT, "uint8", STATIC), (OTHERS[1], "fp32", STATIC)],
    ids=str,
)
def test_float16(variant, io, size, tmp_path) -> None:
    """The network's own convolutions are, positions and pictures are not; the gate passes it."""
    options = ExportOptions(precision="fp16", io=io, size=size)
    path = export_onnx(made(variant), tmp_path, options)
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.gate is not None
    assert manifest.parity is not None
    assert 0 < manifest.parity.max_abs < 1e-3
    graph = onnx.load(path)
    proof = of_onnx(graph)
    assert proof.convolutions["fp16"] == 4  # head, a block's two, tail
    assert set(proof.warps) <= {"fp32"}
    assert set(proof.grids) <= {"fp32"}
    half = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert sum(name.endswith(".weight") for name in half) == 4
    assert not any("base" in n or "spread" in n for n in half)


@pytest.mark.slow
def test_int8(tmp_path) -> None:
    """The default network bears it: all its convolutions, for less than a hundredth of a dB."""
    entry = zoo.find("real-cpu")
    assert entry is not None
    options = ExportOptions(
        precision="int8", calibration=CalibrationSet(clips=(str(ROOT / "examples" / "city.mp4"),))
    )
    path = export_onnx(load_weights(entry.weights), tmp_path, options)
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.int8 is not None
    assert not manifest.int8.kept
    assert of_onnx(onnx.load(path)).convolutions["int8"] == 8


def test_runtimes_agree_on_the_shipped_one() -> None:
    pytest.importorskip("openvino")
    entry = zoo.find("real-cpu")
    assert entry is not None
    model = open_model("real-cpu")
    found = {}
    for name in ("pytorch", "onnxruntime", "openvino"):
        session = find(name).open(model, SessionOptions(threads=1))
        state, frames = None, []
        for lr in moving_frames(45, 75, 6):
            frame, state = session.step(lr, state)
            frames.append(frame.copy())  # a session may write over what it gave
        session.close()
        found[name] = np.stack(frames)
    assert np.abs(found["onnxruntime"] - found["pytorch"]).max() < 1e-4
    assert np.abs(found["openvino"] - found["pytorch"]).max() < 1e-3


def test_the_shipped_files_are_one_network() -> None:
    entry = zoo.find("real-cpu")
    assert entry is not None
    loaded = load_weights(entry.weights)
    for path in (entry.onnx, entry.web, entry.form("openvino")):
        manifest = json.loads(path.with_suffix(".json").read_text())
        assert manifest["weights_sha256"] == weights_digest(loaded)
        assert manifest["variant"] == loaded.variant.name == "teco-x4-b3-c32-l14-real"


def test_openvino_takes_the_form_that_was_written_for_it() -> None:
    from teco.benchmark.measure.candidates import artifact_of

    model = open_model("real-cpu")
    assert artifact_of(model, find("openvino")).file == "real-cpu-openvino.onnx"
    assert artifact_of(model, find("openvino-bf16")).file == "real-cpu-openvino.onnx"
    assert artifact_of(model, find("onnxruntime")).file == "real-cpu.onnx"
    written = model.form("openvino")
    assert written.manifest is not None
    assert model.manifest is not None
    assert written.manifest.weights_sha256 == model.manifest.weights_sha256
    assert written.manifest.rewrites != model.manifest.rewrites
    plain = open_model("live")
    assert plain.form("openvino") is plain


@pytest.fixture(scope="module")
def for_openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(
        made(VARIANT), tmp_path_factory.mktemp("openvino"), ExportOptions(target="openvino")
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "openvino-bf16"])
def test_what_is_not_finite_does_not_pass(for_openvino, runtime, tmp_path) -> None:
    """A clamp may make a number of it: OpenVINO's does."""
    if reason := find(runtime).why_unavailable():
        pytest.skip(reason)
    path = for_openvino
    graph = onnx.load(path)
    (base,) = [t for t in graph.graph.initializer if list(t.dims) == [16, 1, 7, 7]]
    values = onnx.numpy_helper.to_array(base).copy()
    values[5, 0, 3, 3] = np.nan
    base.CopyFrom(onnx.numpy_helper.from_array(values, base.name))
    broken = tmp_path / "broken.onnx"
    onnx.save(graph, broken)
    session = find(runtime).open(
        replace(open_model(str(path)), onnx=broken), SessionOptions(threads=1)
    )
    frame = np.full((24, 32, 3), 200, np.uint8)
    with pytest.raises(TecoError, match="not finite"):
        Stream(session, scene_cuts=False).push(frame)
    found, _ = session.step(np.full((1, 3, 24, 32), 0.8, np.float32), None)
    assert not np.isfinite(found).all()
    session.close()


def test_float16_takes_less_memory(teco) -> None:
    held = {}
    for precision in ("fp32", "fp16"):
        asked = () if precision == "fp32" else ("--fp16",)
        done = teco("estimate", "--model", "real-cpu", *asked, "--json")
        assert done.code == 0, done.stderr
        held[precision] = json.loads(done.stdout)["memory"]
    fp32, fp16 = held["fp32"], held["fp16"]
    assert fp16["weights"] == fp32["weights"] / 2
    assert 0.5 * fp32["activations"] < fp16["activations"] < 0.9 * fp32["activations"]
