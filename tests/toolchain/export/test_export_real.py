"""The real generator as ONNX: every form, port and runtime gives what PyTorch gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from teco.core.errors import TecoError
from teco.export.onnx import export_onnx
from teco.export.options import ExportOptions
from teco.export.web_graph import check_web
from teco.model.contract import StreamContract
from teco.model.manifest import Manifest
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
from teco.verification.temporal_gate import moving_frames
from teco_models import zoo
from teco_models.arch.computed_alignment import AlignedGenerator
from teco_models.checkpoint import Weights, load_weights
from teco_models.variant import Variant

VARIANT = Variant.real(blocks=1, channels=8, latent=4)


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return Weights(VARIANT, dict(AlignedGenerator(VARIANT).state_dict()))


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(),
        ExportOptions(size=(24, 40)),
        ExportOptions(target="openvino"),
        ExportOptions(io="uint8"),
        ExportOptions(io="fp16"),
        ExportOptions(target="web"),
    ],
    ids=lambda o: o.suffix or "plain",
)
def test_each_form(weights, options, tmp_path) -> None:
    import onnx

    path = export_onnx(weights, tmp_path, options)
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.contract == StreamContract.of(VARIANT, options.io)
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
    bare = StreamContract.of(Variant.real(latent=0))
    assert bare.outputs == ("hr", "luma", "hr_luma")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_refused(weights, precision, tmp_path) -> None:
    with pytest.raises(TecoError, match="float32 form only"):
        export_onnx(weights, tmp_path, ExportOptions(precision=precision))


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
    variant = load_weights(entry.weights).variant
    for path in (entry.onnx, entry.web):
        manifest = json.loads(path.with_suffix(".json").read_text())
        assert manifest["variant"] == variant.name
    assert variant.name == "teco-x4-b3-c32-l14-real"


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
