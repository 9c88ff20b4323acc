"""The form for browsers: opset 17, what WebGPU needs, and the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from teco.core.errors import TecoError
from teco.exporting.onnx import export_onnx
from teco.exporting.options import WEB, ExportOptions
from teco.exporting.web_graph import OPSET, as_web, check_web
from teco.model.opening import open_model
from teco_models import zoo
from teco_models.checkpoint import load_weights

SHAPE = [1, 6, 8, 8]


def graph(
    *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """A model x -> y of opset 18."""
    shapes = {"x": SHAPE, "y": ["a", "b", "c", "d"]}
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    stored = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    return helper.make_model(
        helper.make_graph(nodes, "test", ports[:1], ports[1:], stored),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def conv_of(channels: int, group: int = 1) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    weight = np.random.default_rng(0).normal(size=(4, channels, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=group)
    return node, {"w": weight}


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        conv_of(6),
        (helper.make_node("ReduceMax", ["x", "a"], ["y"], keepdims=1), {"a": np.array([1, 2])}),
        (helper.make_node("ReduceMean", ["x", "a"], ["y"], keepdims=1), {"a": np.array([-1])}),
        (
            helper.make_node("Pad", ["x", "p"], ["y"], mode="edge"),
            {"p": np.array([0, 0, 1, 2, 0, 0, 3, 4])},
        ),
        (
            helper.make_node(
                "Resize", ["x", "", "s"], ["y"], mode="linear", antialias=0,
                coordinate_transformation_mode="half_pixel", keep_aspect_ratio_policy="stretch",
            ),
            {"s": np.array([1, 1, 2, 2], np.float32)},
        ),
    ],
    ids=["Conv", "ReduceMax", "ReduceMean", "Pad", "Resize"],
)  # fmt: skip
def test_each_rule_keeps_the_values(node, constants) -> None:
    model = graph(node, constants=constants)
    x = np.random.default_rng(1).random(SHAPE, np.float32)
    expected = run(model, x)
    as_web(model)
    assert {o.domain: o.version for o in model.opset_import} == {"": OPSET}
    assert np.abs(run(model, x) - expected).max() < 1e-5


def test_a_split_into_equal_parts_loses_its_count() -> None:
    model = graph(
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3),
        helper.make_node("Sum", ["a", "b", "c"], ["y"]),
    )
    x = np.random.default_rng(1).random(SHAPE, np.float32)
    expected = run(model, x)
    as_web(model)
    np.testing.assert_array_equal(run(model, x), expected)


def test_convolutions_take_whole_vectors_and_say_everything() -> None:
    node, constants = conv_of(6)
    model = graph(node, constants=constants)
    with pytest.raises(TecoError, match="a Conv without all of its attributes"):
        check_web(model)
    as_web(model)
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    weight = next(x for x in model.graph.initializer if x.name == conv.input[1])
    assert list(weight.dims) == [4, 8, 3, 3]
    assert {a.name for a in conv.attribute} == {
        "dilations", "group", "kernel_shape", "pads", "strides",
    }  # fmt: skip
    assert "w" not in {x.name for x in model.graph.initializer}, "it is stored for nothing"


@pytest.mark.parametrize(
    ("node", "constants", "words"),
    [
        (
            helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1),
            {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
            "Resize with antialias = 1",
        ),
        (
            helper.make_node("Pad", ["x", "p", "", "a"], ["y"]),
            {"p": np.array([1, 1]), "a": np.array([2])},
            "Pad of some axes",
        ),
        (helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2), {}, "SpaceToDepth"),
        (helper.make_node("Concat", ["x"] * 8, ["y"], axis=1), {}, "a Concat of 8"),
        (
            helper.make_node("ReduceL2", ["x", "a"], ["y"]), {"a": np.array([1])},
            "the graph has ReduceL2",
        ),
    ],
)  # fmt: skip
def test_what_has_no_such_form_is_refused(node, constants, words) -> None:
    with pytest.raises(TecoError, match=words):
        as_web(graph(node, constants=constants))


@pytest.mark.parametrize(
    "entry", [e for e in zoo.entries() if e.web.is_file()], ids=lambda e: e.name
)
def test_shipped_forms_are_what_they_say(entry: zoo.Entry) -> None:
    """Of the shipped weights, in the form for browsers, as close to PyTorch as every file."""
    model = open_model(str(entry.web))  # holds the hashes of file and weights against the manifest
    assert model.manifest is not None
    assert model.manifest.target == WEB
    assert model.manifest.parity is not None
    assert model.manifest.parity.max_abs <= 1e-4
    usual = open_model(entry.name).manifest
    assert usual is not None
    assert model.manifest.weights_sha256 == usual.weights_sha256
    assert model.manifest.contract == usual.contract
    check_web(onnx.load(str(entry.web), load_external_data=False))


def test_the_real_time_model_and_the_default_are_shipped() -> None:
    shipped = {e.name for e in zoo.entries() if e.web.is_file()}
    assert shipped >= {"live", "teco-x4-b3-c64-bp-lk"}


@pytest.mark.slow
def test_an_export_is_named_and_marked(tiny_web: Path, tiny_weights: Path, tmp_path: Path) -> None:
    manifest = open_model(str(tiny_web)).manifest
    assert manifest is not None
    assert manifest.target == WEB
    assert not manifest.rewrites["stack_pixels"]
    assert ExportOptions(target=WEB).suffix == "-web"
    with pytest.raises(TecoError, match="--for web is float32"):
        export_onnx(load_weights(tiny_weights), tmp_path, ExportOptions(target=WEB, io="uint8"))
    with pytest.raises(TecoError, match="--fp16 was asked for"):
        export_onnx(
            load_weights(tiny_weights), tmp_path, ExportOptions(target=WEB, precision="fp16")
        )
    assert list(tmp_path.iterdir()) == []
