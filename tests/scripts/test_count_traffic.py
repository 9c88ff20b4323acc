"""What scripts/count_traffic.py counts, on graphs small enough to be counted by hand."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import pytest
from paths import SCRIPTS

from teco.model.engine import api

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(
    not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
)

H, W = 8, 12
PLANE = H * W


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / "count_traffic.py"))


def model(nodes: list[tuple[str, list[str], str, dict[str, Any]]], stored: dict[str, Any], out):
    """A graph with the input ``x``, (1, 4, 8, 12) float32, and one output."""
    from onnx import TensorProto, helper, numpy_helper

    made = [helper.make_node(op, reads, [name], **more) for op, reads, name, more in nodes]
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, H, W))],
        [helper.make_tensor_value_info(*out)],
        [numpy_helper.from_array(v, k) for k, v in stored.items()],
    )  # fmt: skip
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(result, full_check=True)
    return result


def counted(passes: list[Any]) -> list[tuple[str, int, int, int]]:
    return [(p.kind, p.flop, p.read, p.written) for p in passes]


def test_a_convolution_takes_what_follows_it_and_a_transposition_is_told_apart(script):
    """conv, ReLU, sum with the input; then DepthToSpace and a product with a stored plane."""
    fine = np.ones((1, 1, 2 * H, 2 * W), np.float32)
    graph = model(
        [
            ("Conv", ["x", "k"], "y", {"pads": [1, 1, 1, 1]}),
            ("Relu", ["y"], "r", {}),
            ("Add", ["r", "x"], "s", {}),
            ("DepthToSpace", ["s"], "d", {"blocksize": 2, "mode": "CRD"}),
            ("Mul", ["d", "fine"], "out", {}),
        ],
        {"k": np.zeros((4, 4, 3, 3), np.float32), "fine": fine},
        ("out", 1, (1, 1, 2 * H, 2 * W)),
    )
    kernel, tensor = 4 * 4 * 9 * 4, 4 * PLANE * 4
    convolution = ("CONVOLUTION", 2 * 4 * 4 * 9 * PLANE, tensor + kernel, tensor)
    apart = counted(script["passes_of"](graph, moves_apart=True))
    assert apart == [
        convolution,
        ("SHUFFLE", 0, tensor, tensor),
        ("ELEMENTWISE", 0, 2 * tensor, tensor),
    ]
    together = counted(script["passes_of"](graph, moves_apart=False))
    assert together == [convolution, ("SHUFFLE", 0, 2 * tensor, tensor)]


def test_float16_halves_and_a_transposed_convolution_counts_its_input(script):
    half = onnx.TensorProto.FLOAT16
    graph = model(
        [
            ("Cast", ["x"], "x16", {"to": half}),
            ("ConvTranspose", ["x16", "k"], "y", {"strides": [2, 2], "kernel_shape": [2, 2]}),
            ("Cast", ["y"], "y32", {"to": 1}),
            ("Tanh", ["y32"], "out", {}),
        ],
        {"k": np.zeros((4, 8, 2, 2), np.float16)},
        ("out", 1, (1, 8, 2 * H, 2 * W)),
    )
    found = script["passes_of"](graph, moves_apart=True)
    assert [p.precision for p in found] == ["fp32", "fp16"]
    assert counted(found) == [
        ("CAST", 0, 4 * PLANE * 4, 4 * PLANE * 2),
        (
            "DECONVOLUTION",
            2 * 4 * 8 * 4 * PLANE,
            4 * PLANE * 2 + 4 * 8 * 4 * 2,
            8 * 4 * PLANE * 4,  # the cast and what follows it run inside
        ),
    ]


def test_eight_bits(script):
    """A pair is a pass before its convolution, or what made the tensor writes bytes at once."""
    graph = model(
        [
            ("Relu", ["x"], "r", {}),
            ("QuantizeLinear", ["r", "s", "z"], "q", {}),
            ("DequantizeLinear", ["q", "s", "z"], "d", {}),
            ("DequantizeLinear", ["k", "ks", "kz"], "kd", {"axis": 0}),
            ("Conv", ["d", "kd"], "out", {}),
        ],
        {
            "s": np.float32(0.1), "z": np.int8(0), "k": np.zeros((8, 4, 1, 1), np.int8),
            "ks": np.ones(8, np.float32), "kz": np.zeros(8, np.int8),
        },
        ("out", 1, (1, 8, H, W)),
    )  # fmt: skip
    tensor, whole, out = 4 * PLANE * 4, 4 * PLANE, 8 * PLANE * 4  # and 8 bytes of scale and zero
    convolution = ("CONVOLUTION", 2 * 4 * 8 * PLANE, whole + 32, out)
    apart = script["passes_of"](graph, moves_apart=True)
    assert counted(apart) == [
        ("ACTIVATION", 0, tensor, tensor),
        ("QUANTIZE", 0, tensor + 8, whole),
        convolution,
    ]
    assert apart[-1].precision == "int8"
    together = counted(script["passes_of"](graph, moves_apart=False))
    assert together == [("ACTIVATION", 0, tensor + 8, whole), convolution]


def test_halves_of_a_tensor_are_the_tensor_and_zeros_around_it_are_the_convolutions(script):
    graph = model(
        [
            ("Slice", ["x", "zero", "two", "axis"], "a", {}),
            ("Slice", ["x", "two", "four", "axis"], "b", {}),
            ("Mul", ["a", "b"], "m", {}),
            ("Pad", ["m", "around"], "p", {}),
            ("Conv", ["p", "k"], "out", {}),
        ],
        {
            "zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
            "axis": np.array([1]), "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "k": np.zeros((1, 2, 3, 3), np.float32),
        },
        ("out", 1, (1, 1, H, W)),
    )  # fmt: skip
    first, last = script["passes_of"](graph, moves_apart=False)
    where = 4 * 8  # numbers that say which part
    assert (first.read, first.written) == (4 * PLANE * 4 + where, 2 * PLANE * 4)
    assert (last.read, last.written) == (2 * PLANE * 4 + 2 * 9 * 4, PLANE * 4)
    apart = script["passes_of"](graph, moves_apart=True)
    assert [p.kind for p in apart] == ["SLICE", "SLICE", "ELEMENTWISE", "SLICE", "CONVOLUTION"]
    assert apart[3].written == 2 * (H + 2) * (W + 2) * 4


def test_a_step_takes_as_long_as_its_slower_half(script):
    run = script["Pass"]("a", "CONVOLUTION", 2 * 10**12, "fp16", {"x": 3 * 10**9}, {"y": 10**9})
    card = script["Card"](1000, {"fp16": 100})
    assert run.seconds(card) == pytest.approx(0.02)  # nothing else reads y
    run.flop = 0
    run.kept.add("y")
    assert run.seconds(card) == pytest.approx(0.004)


def test_a_table(script, capsys, monkeypatch, tmp_path, tiny_weights):
    """The command on a network of random weights, and its numbers as JSON."""
    import json
    import sys

    path = tmp_path / "n.json"
    monkeypatch.setattr(
        sys, "argv",
        ["x", "--model", str(tiny_weights), "--size", "16x24", "--precision", "fp32", "fp16",
         "--json", str(path)],
    )  # fmt: skip
    assert script["main"]() == 0
    full, half = json.loads(path.read_text())
    assert full["gflop"] == half["gflop"] > 0
    assert half["gb_fused"] < half["gb_apart"] < full["gb_apart"]
    assert capsys.readouterr().out.count("16x24") == 2
