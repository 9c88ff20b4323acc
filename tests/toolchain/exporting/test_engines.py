"""Building engines: real TensorRT-RTX builds of tiny networks, and the proof of their precision."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import nvidia_driver
import pytest

from teco.benchmark.options import BenchRequest
from teco.benchmark.prepare import prepare
from teco.benchmark.record import store
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.gpu import Gpu
from teco.exporting import refit, request
from teco.exporting.engines import build as engines
from teco.exporting.engines import tensorrt as tensorrt_engine
from teco.exporting.engines.rtx import RtxOptions, build_rtx
from teco.exporting.engines.tensorrt import TensorRtOptions, build_tensorrt
from teco.model.contract import StreamContract
from teco.model.engine import api, header, validity
from teco.model.engine.manifest import EngineManifest
from teco.model.engine.precision_check import Proof, check_precision, of_engine
from teco.model.engine.preflight import Host
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import Model, open_model

needs_rtx = pytest.mark.skipif(
    not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
)

SIZE = (16, 24)


# --- networks --------------------------------------------------------------------------------


def step_of(precision: str, h: int = SIZE[0], w: int = SIZE[1]):
    """A recurrent step with a warp and three convolutions, as an ONNX model.

    fp16: convolutions in float16, grid and warp in float32. int8: the same in float32 with two of
    the three between symmetric Q/DQ pairs, weights quantised per channel.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    half = precision == "fp16"
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    stored, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(value, name))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def conv(x: str, cin: int, cout: int, name: str, *, quantised: bool) -> str:
        weights = rng.normal(0, 0.1, (cout, cin, 3, 3))
        if not (quantised and precision == "int8"):
            kernel = constant(f"{name}_w", weights.astype(np.float16 if half else np.float32))
        else:
            scale = constant(f"{name}_s", np.float32(0.02))
            zero = constant(f"{name}_z", np.int8(0))
            x = node("QuantizeLinear", [x, scale, zero], f"{name}_q")
            x = node("DequantizeLinear", [x, scale, zero], f"{name}_d")
            kernel = node(
                "DequantizeLinear",
                [
                    constant(f"{name}_w", np.clip(weights * 100, -127, 127).astype(np.int8)),
                    constant(f"{name}_ws", np.full(cout, 0.01, np.float32)),
                    constant(f"{name}_wz", np.zeros(cout, np.int8)),
                ],
                f"{name}_dw",
                axis=0,
            )
        return node("Conv", [x, kernel], name, pads=[1, 1, 1, 1])

    def cast(x: str, to: int, name: str) -> str:
        return node("Cast", [x], name, to=to) if half else x

    pair = node("Concat", ["lr", "lr_prev"], "pair", axis=1)
    x = node("Relu", [conv(cast(pair, kind, "pair16"), 6, 8, "c1", quantised=True)], "r1")
    flow = cast(conv(x, 8, 2, "c2", quantised=False), TensorProto.FLOAT, "flow32")
    grid = node("Transpose", [flow], "grid", perm=[0, 2, 3, 1])
    warped = node("GridSample", ["hr_prev", grid], "warped", mode="bilinear", align_corners=1)
    y = conv(cast(warped, kind, "warped16"), 3, 48, "c3", quantised=True)
    nodes.append(
        helper.make_node(
            "DepthToSpace", [cast(y, TensorProto.FLOAT, "y32")], ["hr"], blocksize=4, mode="CRD"
        )
    )

    def port(name: str, scale: int):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, scale * h, scale * w))

    graph = helper.make_graph(
        nodes, "step", [port("lr", 1), port("lr_prev", 1), port("hr_prev", 4)], [port("hr", 4)],
        stored,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def manifest_of(path: Path, precision: str, size: str = "16x24") -> Manifest:
    return Manifest(
        variant="teco-x4-b1-c8-f8-shuffle",
        precision_asked=precision,
        precision_found={},
        size=size,
        contract=StreamContract(),
        rewrites={},
        parity=None,
        weights_sha256="0" * 64,
        versions={},
        sha256=sha256_of(path),
    )


def save(folder: Path, model: object, precision: str, *, name: str = "step", **fields) -> Model:
    """An ONNX file with its manifest, opened as users open it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    manifest_path(path).write_text(manifest_of(path, precision, **fields).to_json())
    return open_model(str(path))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    """Each precision's step."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("steps")
    return {x: save(folder / x, step_of(x), x) for x in ("fp32", "fp16", "int8")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_weights) -> Model:
    """A real generator's step, exported for 16x24."""
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    folder = tmp_path_factory.mktemp("exported")
    path = export_onnx(load_weights(tiny_weights), folder, ExportOptions(name="tiny", size=SIZE))
    return open_model(str(path))


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def read(path: Path) -> EngineManifest:
    beside = manifest_path(path)
    return EngineManifest.from_json(beside.read_text(), source=str(beside))


# --- builds ----------------------------------------------------------------------------------


@needs_rtx
def test_exported_generator_becomes_an_engine_and_its_manifest(exported, out, caplog):
    caplog.set_level("INFO", "teco")
    path = build_rtx(exported, out, RtxOptions(sm=(89, 86)))
    said = caplog.messages
    assert path == out / "tiny-16x24-fp32-rtx.plan"
    assert sorted(p.name for p in out.iterdir()) == [
        "tiny-16x24-fp32-rtx.json", "tiny-16x24-fp32-rtx.plan"
    ]  # fmt: skip
    found = read(path)
    assert found.target == "rtx"
    assert found.compute_capabilities == (86, 89)
    assert found.runtime_version == api.installed_version("rtx")
    assert (found.os, found.arch) == (platform.system(), platform.machine())
    assert (found.size, set(found.profile)) == ("16x24", {"16x24"})
    assert found.sha256 == sha256_of(path)
    assert found.length == path.stat().st_size
    assert found.onnx_sha256 == sha256_of(exported.onnx)
    assert found.model == exported.manifest
    assert found.proof.convolutions == {"fp32": sum(found.proof.convolutions.values())}
    assert found.proof.warps == found.proof.grids == {"fp32": 1}
    assert sum(found.proof.layers.values()) > sum(found.proof.convolutions.values()) > 10
    assert set(found.proof.ports) == {"lr", "lr_prev", "hr_prev", "hr"}
    assert any("building engine" in line for line in said)
    assert all(line.endswith(" s)") for line in said)
    assert found.proof.text("fp32") in "".join(said)


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "convolutions", "warps"),
    [
        ("fp32", {"fp32": 3}, {"fp32": 1}),
        ("fp16", {"fp16": 3}, {"fp32": 1}),
        ("int8", {"fp32": 1, "int8": 2}, {"fp32": 1}),
    ],
)
def test_precision_is_read_from_the_parsed_network(models, out, precision, convolutions, warps):
    path = build_rtx(models[precision], out, RtxOptions(sm=(89,)))
    assert path.name == f"step-16x24-{precision}-rtx.plan"
    found = read(path)
    assert found.precision_asked == precision
    assert found.proof.convolutions == convolutions
    assert found.proof.warps == found.proof.grids == warps
    assert set(found.proof.ports.values()) == {"fp32"}


@needs_rtx
def test_proof_is_one_line(models, out, caplog):
    caplog.set_level("INFO", "teco")
    build_rtx(models["fp16"], out, RtxOptions(sm=(89,)))
    # Three convolutions and a ReLU in float16; the warp beside them in float32.
    expected = "fp16 in 4 of 5 layers (3 of 3 convolutions), GridSample fp32"
    assert any(line.startswith(expected) for line in caplog.messages), caplog.text


@needs_rtx
@pytest.mark.parametrize(
    ("network", "label", "words"),
    [
        ("fp32", "fp16", ["labelled fp16", "convolutions are fp32", "0 of 3"]),
        ("fp32", "int8", ["labelled int8", "no QuantizeLinear"]),
        ("fp16", "fp32", ["labelled fp32", "4 of its 5 layers are fp16"]),
        ("fp16", "int8", ["labelled int8", "convolutions are fp16", "no QuantizeLinear"]),
        ("int8", "fp32", ["labelled fp32", "2 of its", "int8"]),
        ("int8", "fp16", ["labelled fp16", "fp32 (1) and int8 (2)"]),
        ("fp32", "fp8", ["fp8", "fp32, fp16, int8"]),
    ],
)
def test_label_that_the_network_does_not_bear_out(models, out, untouched, network, label, words):
    with untouched(out), pytest.raises(TecoError) as error:
        build_rtx(models[network], out, RtxOptions(sm=(89,), precision=label))
    for word in words:
        assert word in error.value.message


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_two_builds_give_the_same_bytes(models, tmp_path, precision):
    """Wherever the ONNX file lies and in whichever order the GPUs are named."""
    original, plans = models[precision], []
    for n, sm in enumerate([(75, 86, 89, 120), (120, 89, 86, 75, 75)]):
        folder = tmp_path / str(n)
        model = save(folder, original.onnx.read_bytes(), precision)
        path = build_rtx(model, folder, RtxOptions(sm=sm))
        plans.append((path.read_bytes(), manifest_path(path).read_bytes()))
    assert plans[0] == plans[1]


@needs_rtx
@pytest.mark.slow
def test_form_without_stacked_pixels_is_repeatable_for_turing_at_full_size(tmp_path, tiny_weights):
    """With them, five builds gave five different engines at this size (see rtx.py)."""
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    options = ExportOptions(name="full", size=(180, 320), without=("stack_pixels",))
    model = open_model(str(export_onnx(load_weights(tiny_weights), tmp_path, options)))
    kept, plans = [], set()
    for n in range(4):
        folder = tmp_path / str(n)
        folder.mkdir()
        kept.append(bytearray(5000 * n))  # so that the next build's memory lies elsewhere
        plans.add(build_rtx(model, folder, RtxOptions(sm=(75, 89))).read_bytes())
    assert len(plans) == 1


@needs_rtx
@pytest.mark.parametrize("sm", header.RTX_CAPABILITIES)
def test_header_says_what_was_built(models, out, sm):
    """The layout that header.py states is that of the installed release, bit by bit."""
    path = build_rtx(models["fp32"], out, RtxOptions(sm=(sm,)))
    assert header.read(path) == header.Header(
        "rtx", api.installed_version("rtx"), (sm,), path.stat().st_size
    )


@needs_rtx
def test_workspace_and_name(models, out):
    path = build_rtx(models["fp32"], out, RtxOptions(sm=(89,), workspace_mib=64, name="mine"))
    assert path == out / "mine.plan"


@needs_rtx
def test_dynamic_engine_takes_sizes_in_the_streams_proportion(tiny_onnx, out):
    model = open_model(str(tiny_onnx))
    sizes = ((8, 8), (16, 24), (32, 48))
    path = build_rtx(model, out, RtxOptions(sm=(89,), profile=sizes))
    found = read(path)
    assert found.size == "dynamic"
    assert found.profile == ("8x8", "16x24", "32x48")
    assert found.limits == ((8, 8), (32, 48))


@needs_rtx
@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (((8, 8), (64, 64), (32, 48)), "each no smaller"),
        (((4, 8), (16, 24), (32, 48)), "smallest frame of this model is 8x8"),
    ],
)
def test_wrong_sizes(tiny_onnx, out, untouched, profile, words):
    with untouched(out), pytest.raises(TecoError, match=words) as error:
        build_rtx(open_model(str(tiny_onnx)), out, RtxOptions(profile=profile))
    assert error.value.exit_code == USAGE


@needs_rtx
def test_sizes_for_a_static_file(models, out, untouched):
    with untouched(out), pytest.raises(TecoError, match="16x24 frames only") as error:
        build_rtx(models["fp32"], out, RtxOptions(profile=((8, 8), (16, 24), (32, 48))))
    assert "dynamic" in error.value.hint


@needs_rtx
@pytest.mark.parametrize(
    ("sm", "words"),
    [
        ((90,), ["SM 90", "75, 80, 86, 89, 120"]),
        ((89, 999), ["SM 999;"]),
        ((), ["no compute capability"]),
    ],
)
def test_unknown_gpu(models, out, untouched, sm, words):
    with untouched(out), pytest.raises(TecoError) as error:
        build_rtx(models["fp32"], out, RtxOptions(sm=sm))
    assert error.value.exit_code == USAGE
    for word in words:
        assert word in error.value.message
    if 90 in sm:
        assert "tensorrt" in error.value.hint


@needs_rtx
def test_turing_with_others_is_warned_of(models, out, caplog):
    build_rtx(models["fp32"], out, RtxOptions(sm=(75, 89)))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "SM 75" in warning


# --- bad input -------------------------------------------------------------------------------


@needs_rtx
def test_folders(models, tmp_path):
    model = models["fp32"]
    with pytest.raises(TecoError, match="does not exist") as error:
        build_rtx(model, tmp_path / "none")
    assert error.value.hint == f"mkdir -p {tmp_path / 'none'}"
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TecoError, match="is a file, expected a folder"):
        build_rtx(model, file)
    assert list(tmp_path.iterdir()) == [file]


@needs_rtx
def test_existing_files_are_kept_unless_asked_otherwise(models, out, untouched):
    path = build_rtx(models["fp32"], out, RtxOptions(sm=(89,)))
    with untouched(out), pytest.raises(TecoError, match="exists already"):
        build_rtx(models["fp32"], out, RtxOptions(sm=(86,)))
    build_rtx(models["fp32"], out, RtxOptions(sm=(86,)), overwrite=True)
    assert read(path).compute_capabilities == (86,)
    assert read(path).sha256 == sha256_of(path)


@needs_rtx
def test_engine_does_not_take_an_onnx_files_manifest(models, untouched):
    folder = models["fp32"].onnx.parent
    with untouched(folder), pytest.raises(TecoError, match=r"manifest of step\.onnx"):
        build_rtx(models["fp32"], folder, RtxOptions(name="step"), overwrite=True)


@needs_rtx
@pytest.mark.parametrize("file", [1, 2])
def test_full_disk_leaves_what_was_there(models, out, untouched, monkeypatch, file):
    """At the plan and at its manifest; an older engine stays whole."""
    build_rtx(models["fp32"], out, RtxOptions(sm=(86,)))
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with untouched(out), pytest.raises(TecoError, match="no space left on") as error:
        build_rtx(models["fp32"], out, RtxOptions(sm=(89,)), overwrite=True)
    assert "step-16x24-fp32-rtx.plan" in error.value.message
    assert len(calls) == file


@needs_rtx
def test_onnx_that_is_none(tmp_path, out, untouched):
    """Whole on the outside: a graph (field 7) whose only input (field 11) is no message."""
    model = save(tmp_path / "garbage", b"\x08\x0a\x3a\x05\x5a\x03\xff\xff\xff", "fp32")
    with untouched(out), pytest.raises(TecoError, match="cannot be parsed") as error:
        build_rtx(model, out)
    assert "garbage/step.onnx" in error.value.message
    assert "\n" not in error.value.message


@needs_rtx
def test_node_that_the_parser_does_not_know(tmp_path, out, untouched):
    made = step_of("fp32")
    next(n for n in made.graph.node if n.op_type == "Relu").op_type = "Frobnicate"
    model = save(tmp_path / "odd", made, "fp32")
    with untouched(out), pytest.raises(TecoError, match="Frobnicate node") as error:
        build_rtx(model, out)
    assert "\n" not in error.value.message


@needs_rtx
def test_manifest_that_lies_about_the_size(tmp_path, out, untouched):
    model = save(tmp_path / "lie", step_of("fp32"), "fp32", size="32x48")
    with untouched(out), pytest.raises(TecoError) as error:
        build_rtx(model, out)
    assert "[1, 3, 16, 24], its manifest says [1, 3, 32, 48]" in error.value.message


@needs_rtx
def test_ports_that_are_not_the_contracts(tmp_path, out, untouched):
    made = step_of("fp32")
    model = save(tmp_path / "ports", made, "fp32")
    lies = replace(model.manifest, contract=replace(StreamContract(), frame="frame"))
    with untouched(out), pytest.raises(TecoError, match="has inputs lr, lr_prev, hr_prev"):
        build_rtx(replace(model, manifest=lies), out)
    lies = replace(model.manifest, contract=replace(StreamContract(), picture="picture"))
    with untouched(out), pytest.raises(TecoError, match="has outputs hr, its manifest says pict"):
        build_rtx(replace(model, manifest=lies), out)


@needs_rtx
def test_onnx_that_changed_after_it_was_opened(tmp_path, out, untouched):
    model = save(tmp_path / "changed", step_of("fp32"), "fp32")
    model.onnx.write_bytes(step_of("fp16").SerializeToString())
    with untouched(out), pytest.raises(TecoError, match="not the file that its manifest describes"):
        build_rtx(model, out)


@needs_rtx
def test_weights_file_is_no_onnx(out):
    from teco_models.variant import Variant

    model = Model("w", Variant(), weights=Path("w.safetensors"))
    with pytest.raises(TecoError, match="built from ONNX files") as error:
        build_rtx(model, out)
    assert error.value.exit_code == USAGE


@needs_rtx
@pytest.mark.parametrize("at", ["cloning network graph", "parsing"])
def test_interrupted_build_leaves_nothing(models, out, untouched, at, monkeypatch):
    """Ctrl-C arrives inside one of the library's callbacks, or between them."""

    def say(_clock: object, line: str) -> None:
        if line.startswith(at):
            raise KeyboardInterrupt

    monkeypatch.setattr(engines.Clock, "say", say)
    with untouched(out), pytest.raises(KeyboardInterrupt):
        build_rtx(models["fp32"], out)


def test_absent_extra_is_one_sentence(models, out, monkeypatch):
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TecoError, match="needs tensorrt_rtx, which is not installed") as error:
        build_rtx(models["fp32"], out)
    assert error.value.exit_code == MACHINE
    assert error.value.hint == "pip install 'teco[rtx]'"


def test_stubs_are_not_the_module(tmp_path, monkeypatch):
    """tensorrt-stubs makes a folder `tensorrt` without a line of code."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("tensorrt", None)
    found = api.importlib.util.find_spec("tensorrt")
    if found is not None and found.origin is not None:
        pytest.skip("tensorrt itself is installed")
    assert not api.is_installed("tensorrt")
    assert api.installed_version("tensorrt") is None


def test_broken_installation_is_one_sentence(tmp_path, monkeypatch, models, out):
    (tmp_path / "tensorrt_rtx.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(TecoError, match=r"cannot be loaded: libcudart\.so\.13") as error:
        build_rtx(models["fp32"], out)
    assert error.value.exit_code == MACHINE


# --- TensorRT --------------------------------------------------------------------------------


def test_tensorrt_without_gpu_offers_rtx(models, out, untouched, monkeypatch):
    monkeypatch.setattr(tensorrt_engine.gpu, "find", lambda: ())
    with untouched(out), pytest.raises(TecoError, match="nvidia-smi finds none") as error:
        build_tensorrt(models["fp32"], out)
    assert error.value.exit_code == MACHINE
    assert "--formats rtx" in error.value.hint


def test_tensorrt_absent(models, out, monkeypatch):
    monkeypatch.setattr(tensorrt_engine.gpu, "find", lambda: (Gpu("GPU", 89),))
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TecoError, match="needs tensorrt, which is not installed") as error:
        build_tensorrt(models["fp32"], out)
    assert error.value.exit_code == MACHINE


def test_unknown_hardware_compatibility(models, out):
    with pytest.raises(TecoError, match="ampere-plus") as error:
        build_tensorrt(models["fp32"], out, TensorRtOptions(hardware="all"))
    assert error.value.exit_code == USAGE


INSPECTED = json.dumps(
    {
        "Layers": [
            {
                "Name": "c1 + r1",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
                "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format"}],
                "ParameterType": "Convolution",
            },
            {
                "Name": "Reformatting CopyNode",
                "LayerType": "Reformat",
                "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
                "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16"}],
            },
            {
                "Name": "c3",
                "LayerType": "CaskConvolution",
                "Inputs": [
                    {"Name": "x", "Format/Datatype": "Thirty-two wide row major Int8 format"}
                ],
                "Outputs": [{"Name": "y", "Format/Datatype": "Half"}],
                "ParameterType": "Convolution",
            },
            {
                "Name": "node_grid_sampler",
                "LayerType": "GridSample",
                "Inputs": [{"Format/Datatype": "Half"}, {"Format/Datatype": "Float"}],
                "Outputs": [{"Format/Datatype": "Half"}],
            },
        ],
        "Bindings": ["lr", "hr"],
    }
)


def test_inspector_is_counted():
    proof = of_engine(INSPECTED)
    assert proof.layers == {"fp16": 2, "int8": 1}
    assert proof.convolutions == {"fp16": 1, "int8": 1}
    assert proof.warps == {"fp16": 1}
    assert proof.grids == {"fp32": 1}
    assert proof.text("fp16").endswith("GridSample fp16, its grid fp32")
    check_precision(proof, "fp16")
    check_precision(proof, "int8")
    with pytest.raises(TecoError, match=r"labelled fp32 and its inspector shows fp16 \(2\) and"):
        check_precision(proof, "fp32")


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": 3}'])
def test_inspector_without_layers(text):
    with pytest.raises(TecoError, match="inspector"):
        of_engine(text)


def dynamic(weights: str | None) -> str:
    """What the inspector says of an engine of dynamic sizes without a context's shapes."""
    unknown = {"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}
    layer = {
        "Name": "c1", "LayerType": "CaskConvolution", "Inputs": [unknown], "Outputs": [unknown],
        "ParameterType": "Convolution",
    }  # fmt: skip
    if weights is not None:
        layer["Weights"] = {"Type": weights, "Count": 36864}
    return json.dumps({"Layers": [layer], "Bindings": ["lr", "hr"]})


def test_layers_of_dynamic_engines_count_by_their_weights():
    proof = of_engine(dynamic("Half"))
    assert proof is not None
    assert proof.convolutions == proof.layers == {"fp16": 1}
    check_precision(proof, "fp16")
    whole = of_engine(dynamic("Int8"))
    assert whole is not None
    assert whole.convolutions == {"int8": 1}


@pytest.mark.parametrize("text", ['{"Layers": ["c1 + r1", "c2"]}', dynamic(None)])
def test_an_inspector_that_tells_no_types_proves_nothing(text):
    assert of_engine(text) is None


class DynamicEngine:
    """Formats are told once the inspector has a context with shapes."""

    num_io_tensors = 2

    def __init__(self, takes: bool) -> None:
        self.takes = takes
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.execution_context = None

    def get_tensor_name(self, n: int) -> str:
        return ("lr", "hr")[n]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name == "lr" else "OUTPUT")

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("lr", 0)
        return [(1, 3, 8, 8), (1, 3, 180, 320), (1, 3, 540, 960)]

    def create_execution_context(self, how: str) -> DynamicEngine:
        assert how == "user managed"
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.takes

    def create_engine_inspector(self) -> DynamicEngine:
        return self

    def get_engine_information(self, form: str) -> str:
        assert form == "json"
        return INSPECTED if self.execution_context is self else dynamic(None)


@pytest.mark.parametrize("takes", [True, False])
def test_the_inspector_is_given_shapes(monkeypatch, takes):
    engine = DynamicEngine(takes)
    monkeypatch.setattr(tensorrt_engine, "_deserialise", lambda *_: engine)
    monkeypatch.setattr(tensorrt_engine, "make_logger", lambda _: None)
    trt = SimpleNamespace(
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )
    found = of_engine(tensorrt_engine.describe(trt, b""))
    assert (found is not None) == takes
    assert engine.shapes == {"lr": (1, 3, 180, 320)}


@needs_rtx
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_tensorrts_settings_are_taken_by_real_bindings(models, out, tmp_path, monkeypatch, caplog):
    """TensorRT's own code, with TensorRT-RTX in its place and the GPU's answers given.

    Every call on builder, configuration and parser is real; only what needs a GPU, the inspector,
    is not.
    """
    monkeypatch.setattr(tensorrt_engine.gpu, "find", lambda: (Gpu("GPU", 89),))
    monkeypatch.setattr(tensorrt_engine, "load", lambda target, purpose: api.load("rtx", purpose))
    monkeypatch.setattr(tensorrt_engine, "describe", lambda trt, plan: INSPECTED)
    cache = tmp_path / "timing.cache"
    options = TensorRtOptions(timing_cache=cache, workspace_mib=256)
    caplog.set_level("INFO", "teco")
    path = build_tensorrt(models["fp16"], out, options)
    found = read(path)
    assert found.target == "tensorrt"
    assert found.compute_capabilities == (89,)
    assert found.built == of_engine(INSPECTED)
    assert found.proof.convolutions == {"fp16": 3}
    assert cache.is_file()
    assert any(line.startswith("built: fp16 in 2 of 3 layers") for line in caplog.messages)
    # The second build reads the cache; the inspector's contradiction stops the third.
    build_tensorrt(models["fp16"], out, options, overwrite=True)
    with pytest.raises(TecoError, match="its inspector shows fp16"):
        build_tensorrt(models["fp32"], out, options)
    assert not (out / "step-16x24-fp32-tensorrt.plan").exists()


@pytest.mark.gpu
def test_tensorrt_builds_on_a_gpu(models, out):
    if not api.is_installed("tensorrt") or not tensorrt_engine.gpu.find():
        reason = "TensorRT and an NVIDIA GPU are needed: pip install 'teco[tensorrt]'"
        (pytest.fail if os.environ.get("TECO_REQUIRE") == "gpu" else pytest.skip)(reason)
    for precision, model in models.items():
        found = read(build_tensorrt(model, out))
        assert found.precision_asked == precision
        assert found.built is not None


# --- the way from weights to a measured engine ---------------------------------------------------


def test_what_is_made_where_nothing_is_said(monkeypatch):
    """An engine where one can be built and run, for the GPU that is here."""
    installed = {"rtx"}
    monkeypatch.setattr(request, "is_installed", installed.__contains__)
    monkeypatch.setattr(request, "load", lambda *_: SimpleNamespace(
        ComputeCapability=SimpleNamespace(__members__={"SM86": 0, "SM89": 0}))
    )  # fmt: skip
    monkeypatch.setattr(request.gpu, "find", lambda: ())
    assert request.default_formats(None) == ("onnx",)
    assert request.parse_sm(None, ("onnx", "rtx")) == request.DEFAULT_SM
    monkeypatch.setattr(request.gpu, "find", lambda: (Gpu("RTX 4090", 89), Gpu("RTX 3060", 86)))
    assert request.default_formats(None) == ("onnx", "rtx")
    assert request.default_formats("tensorrt") == ("onnx", "rtx")
    assert request.default_formats("openvino") == ("onnx",)
    assert request.parse_sm(None, ("onnx", "rtx")) == (89,)
    assert request.parse_sm("86", ("onnx", "rtx")) == (86,)
    monkeypatch.setattr(request.gpu, "find", lambda: (Gpu("H200", 90),))
    assert request.default_formats(None) == ("onnx",)
    installed.add("tensorrt")
    assert request.default_formats(None) == ("onnx", "tensorrt")
    monkeypatch.setattr(request.gpu, "find", lambda: (Gpu("too old a driver to say"),))
    assert request.default_formats(None) == ("onnx",)


@needs_rtx
@pytest.mark.slow
def test_export_with_a_gpu_then_bench_without(teco, tmp_path, monkeypatch):
    """`teco export` makes the engine and names it last; `teco bench` of it alone measures what it
    was made from on a shipped clip, and judges the engine."""
    nvidia_driver.only_programs(tmp_path, monkeypatch)
    nvidia_driver.nvidia_smi(tmp_path, "NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564 MiB")
    out = tmp_path / "engines"
    out.mkdir()
    done = teco("export", "--model", "live", "--fp16", "--size", "16x24", "-o", out)
    assert done.code == 0, done.stderr
    plan = out / "live-16x24-fp16-rtx.plan"
    assert done.stderr.splitlines()[-1] == f"next: teco bench {plan}"
    assert read(plan).compute_capabilities == (89,)
    (tmp_path / "nvidia-smi").unlink()

    bench = prepare(BenchRequest(models=(str(plan),), fail_if=("psnr_drop>0.3",)))
    onnx = (
        out / "live-16x24-fp16.onnx"
    )  # as on a machine without a GPU, in its form and by its name
    assert open_model(str(onnx)).manifest is not None
    (out / "odd.onnx").mkdir()
    assert {one.spec for one in bench.selection.candidates} == {str(onnx), "live"}
    assert [one.artifact.file for one in bench.selection.static] == [plan.name]
    clip = bench.options.clip
    assert clip is not None
    assert (clip.size, clip.degradation) == ((16, 24), "bd")
    onnx.rename(tmp_path / "elsewhere.onnx")
    alone = prepare(BenchRequest(models=(str(plan),)))
    assert {one.spec for one in alone.selection.candidates} == {"live"}

    done = teco("bench", plan, "--fail-if", "psnr_drop>0.3", "--repetitions", 2, "--budget", 1,
                "--metrics", "psnr", "--latency-only", "--json", tmp_path / "r.json")  # fmt: skip
    assert done.code == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"teco: {plan.name}: psnr_drop was not measured")
    rows = store.read(tmp_path / "r.json").rows
    assert {row.artifact.name for row in rows} == {"live"}
    assert all(row.quality is not None for row in rows)


@needs_rtx
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_an_engine_takes_other_weights(teco, tmp_path, monkeypatch):
    """Built refittable, then refitted: the file and its manifest are about the new weights.

    TensorRT is TensorRT-RTX here, and the call that needs a GPU is made up.
    """
    from teco_models.checkpoint import build_any, load_weights, save_weights
    from teco_models.zoo import find

    ada = (Gpu("GPU", 89),)
    monkeypatch.setattr(tensorrt_engine.gpu, "find", lambda: ada)
    monkeypatch.setattr(tensorrt_engine, "load", lambda target, purpose: api.load("rtx", purpose))
    monkeypatch.setattr(tensorrt_engine, "describe", lambda trt, plan: dynamic(None))
    given: list[bytes] = []

    def refit_plan(trt, plan: bytes, onnx: Path) -> bytes:
        given.append(plan)
        assert open_model(str(onnx)).static_size == (16, 24)
        return b"ftrt" + onnx.name.encode()

    monkeypatch.setattr(refit, "refit", refit_plan)
    seen = Host(
        ada, platform.system(), platform.machine(), {"tensorrt": api.installed_version("rtx")}
    )
    monkeypatch.setattr(refit.preflight, "look", lambda targets: seen)
    monkeypatch.setattr(engines, "_build_plan", lambda *_: b"ftrt" + bytes(100))
    live = find("live")
    assert live is not None
    options = ("--model", "live", "--formats", "tensorrt", "--size", "16x24", "-o", tmp_path)
    plan = tmp_path / "live-16x24-fp32-tensorrt.plan"
    teco("export", *options, "--force").says(plan.name)
    done = teco("export", "--model", "live", "--refit", plan, "-o", tmp_path, "--force")
    done.refuses(2, "does not take other weights", "--refittable")
    teco("export", *options, "--refittable", "--hardware", "ampere-plus", "--force").says(plan.name)
    before = read(plan)
    assert before.refittable
    assert "--hardware ampere-plus --refittable" in before.rebuild

    weights = load_weights(live.weights)
    weights.tensors["srnet.conv_in.0.bias"] += 0.01
    other = tmp_path / "other.safetensors"
    save_weights(other, build_any(weights))
    done = teco("export", "--weights", other, "--refit", plan, "-o", tmp_path)
    done.refuses(2, "exists", "--force")
    old = plan.read_bytes()
    done = teco("export", "--weights", other, "--refit", plan, "-o", tmp_path, "--force")
    assert done.code == 0, done.stderr
    after = read(plan)
    assert given == [old]
    assert plan.read_bytes().startswith(b"ftrt")
    assert after.model.weights_sha256 != before.model.weights_sha256
    assert (after.profile, after.proof, after.refittable) == (before.profile, before.proof, True)
    done = teco("export", "--model", "real-cpu", "--refit", plan, "-o", tmp_path, "--force")
    done.refuses(2, before.model.variant, "teco-x4-b3-c32-l14-real")
    done = teco("export", "--blocks", "all", "--refit", plan, "-o", tmp_path, "--force")
    done.refuses(2, "one model's weights")


@pytest.mark.parametrize(
    ("options", "formats", "words"),
    [
        ({"workspace_mib": 64}, ("onnx",), "--workspace is for engines of rtx and tensorrt"),
        ({"timing_cache": Path("c")}, ("onnx", "rtx"), "--timing-cache is for engines of tensorrt"),
        ({"hardware": "none"}, ("rtx",), "--hardware"),
        ({"version_compatible": True}, ("rtx",), "--version-compatible"),
        ({"refittable": True}, ("onnx",), "--refittable"),
    ],
)
def test_options_of_an_engine_that_is_not_asked_for(options, formats, words):
    with pytest.raises(TecoError, match=words) as error:
        request.parse_engine_options(formats, **options)
    assert error.value.exit_code == USAGE
    found = request.parse_engine_options(("onnx", "rtx", "tensorrt"), **options)
    assert all(getattr(found, name) == value for name, value in options.items())


# --- manifest --------------------------------------------------------------------------------

PROOF = Proof("network", {"fp16": 4, "fp32": 1}, {"fp16": 3}, {"fp32": 1}, {"fp32": 1}, {})


@pytest.fixture
def manifest(tmp_path) -> EngineManifest:
    onnx = tmp_path / "step.onnx"
    onnx.write_bytes(b"onnx")
    return EngineManifest(
        target="rtx",
        runtime_version="1.7.1.116",
        compute_capabilities=(75, 89),
        hardware="none",
        version_compatible=False,
        refittable=False,
        os="Linux",
        arch="x86_64",
        size="16x24",
        profile=("16x24", "16x24", "16x24"),
        precision_asked="fp16",
        proof=PROOF,
        built=None,
        model=manifest_of(onnx, "fp16"),
        onnx_sha256=sha256_of(onnx),
        versions={"teco": "0.1.0"},
        sha256="1" * 64,
        length=1000,
    )


def test_manifest_round_trip(manifest):
    assert EngineManifest.from_json(manifest.to_json(), source="x.json") == manifest


def test_rebuild_command_names_a_shipped_model(manifest):
    from teco_models import zoo

    entry = zoo.entries()[0]
    shipped = Manifest.from_json(manifest_path(entry.onnx).read_text(), source="zoo")
    ours = replace(manifest, model=replace(manifest.model, weights_sha256=shipped.weights_sha256))
    assert ours.rebuild == (
        f"teco export --model {entry.name} --formats rtx --size 16x24 --sm 75,89 --fp16"
    )
    assert "--weights FILE" in manifest.rebuild
    dynamic = replace(ours, size="dynamic", profile=("8x8", "180x320", "1080x1920"))
    assert "--profile" not in dynamic.rebuild
    other = replace(dynamic, profile=("8x8", "576x720", "576x720"))
    assert "--profile 8x8,576x720,576x720" in other.rebuild


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2, this teco reads 1"),
        ({"kind": "onnx"}, "manifest of no engine"),
        ({"target": "openvino"}, "target is 'openvino'"),
        ({"runtime_version": 1.7}, "runtime_version is 1.7"),
        ({"runtime_version": "new"}, "runtime_version is 'new'"),
        ({"compute_capabilities": []}, "compute_capabilities is []"),
        ({"compute_capabilities": ["89"]}, "compute_capabilities[0] is '89'"),
        ({"compute_capabilities": None}, "compute_capabilities is None"),
        ({"hardware": "all"}, "hardware is 'all'"),
        ({"version_compatible": "no"}, "version_compatible is 'no'"),
        ({"sha256": "abc"}, "sha256 is 'abc'"),
        ({"size": "32x48"}, "size is '32x48', its ONNX file's is '16x24'"),
        ({"profile": ["8x8", "16x24", "16x24"]}, "its profile 8x8, 16x24, 16x24"),
        ({"profile": ["16x24"]}, "profile is ['16x24']"),
        ({"precision_asked": "fp8"}, "precision_asked is 'fp8'"),
        ({"precision_asked": "fp32"}, "labelled fp32 and 4 of its 5 layers are fp16"),
        ({"precision_asked": "int8"}, "labelled int8 and its convolutions are fp16"),
        ({"proof": {"source": "network"}}, "proof has no 'layers'"),
        ({"proof": None}, "proof is None"),
        ({"length": "long"}, "length is 'long'"),
        ({"model": {"schema": 1}}, "model has no 'variant'"),
        ({"extra": 1}, "unknown 'extra'"),
    ],
)
def test_manifest_that_cannot_be_believed(manifest, changes, words):
    data = json.loads(manifest.to_json()) | changes
    with pytest.raises(TecoError) as error:
        EngineManifest.from_json(json.dumps(data), source="x.json")
    assert words in error.value.message
    assert "x.json" in error.value.message


@pytest.mark.parametrize("field", ["sha256", "proof", "model", "target", "schema", "profile"])
def test_manifest_without_a_field(manifest, field):
    data = json.loads(manifest.to_json())
    del data[field]
    with pytest.raises(TecoError, match=field):
        EngineManifest.from_json(json.dumps(data), source="x.json")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"text"'])
def test_manifest_that_is_none(text):
    with pytest.raises(TecoError, match=r"x\.json is no teco manifest"):
        EngineManifest.from_json(text, source="x.json")


def test_engines_and_onnx_files_do_not_take_each_others_manifest(manifest):
    with pytest.raises(TecoError, match="manifest of no engine"):
        EngineManifest.from_json(manifest.model.to_json(), source="x.json")
    with pytest.raises(TecoError, match="not a complete manifest"):
        Manifest.from_json(manifest.to_json(), source="x.json")


# --- borders ---------------------------------------------------------------------------------


def test_importing_engines_imports_no_runtime():
    """The command line imports this package; TensorRT and torch may wait until they are used."""
    code = (
        "import sys, teco.exporting.engines; "
        "print([m for m in ('torch', 'onnx', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_rtx
def test_validity_is_asked_of_the_runtime_and_says_why_not_here(models, out):
    path = build_rtx(models["fp32"], out, RtxOptions(sm=(89,)))
    if tensorrt_engine.gpu.find():
        pytest.skip("there is a GPU: the answer is its own")
    with pytest.raises(TecoError, match="gives no reason, as without a GPU") as error:
        validity.check_validity(path)
    assert error.value.exit_code == MACHINE


CONFORMS = """
    import {module}
    from teco.model.engine.api import {protocol}

    bindings: {protocol} = {module}
    builder = bindings.Builder(bindings.ILogger())
    network = builder.create_network(0)
    config = builder.create_builder_config()
    wrong: int = bindings.Builder  # an error, so that silence would be noticed
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "protocol"), [("tensorrt", "Bindings"), ("tensorrt_rtx", "RtxBindings")]
)
def test_bindings_have_what_the_protocols_say(tmp_path, module, protocol):
    """Pyright on the stubs of TensorRT 10, and on stubs made from the installed TensorRT-RTX."""
    pytest.importorskip("pyright")
    pytest.importorskip(
        "tensorrt_stubs" if module == "tensorrt" else "pybind11_stubgen",
        reason="pip install --no-deps tensorrt-stubs" if module == "tensorrt" else None,
    )
    stubs = tmp_path / "stubs"
    if module == "tensorrt_rtx":
        if not api.is_installed("rtx"):
            pytest.skip("tensorrt_rtx is not installed: pip install 'teco[rtx]'")
        native = "tensorrt_rtx_bindings.tensorrt_rtx"
        subprocess.run(
            [sys.executable, "-m", "pybind11_stubgen", native, "-o", str(stubs),
             "--ignore-all-errors"],
            check=True, capture_output=True,
        )  # fmt: skip
        (stubs / "tensorrt_rtx_bindings" / "__init__.pyi").touch()
        (stubs / "tensorrt_rtx.pyi").write_text(f"from {native} import *\n__version__: str\n")
    script = tmp_path / "conforms.py"
    script.write_text(textwrap.dedent(CONFORMS.format(module=module, protocol=protocol)))
    settings = {
        "stubPath": str(stubs),
        "reportMissingModuleSource": False,
        "include": [str(script)],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable,
         "-p", str(tmp_path)],
        check=False, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    # The stubs have errors of their own.
    ours = [x for x in found if Path(x["file"]).name == script.name]
    errors = [x["message"] for x in ours if x["severity"] == "error"]
    assert len(errors) == 1, "\n".join(errors)
    assert '"int"' in errors[0]


def test_nothing_is_collected_while_tensorrt_holds_its_lock() -> None:
    """A collection that frees an old builder inside a callback would wait for ever."""
    import gc

    from teco.core.garbage import no_collection

    with no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
