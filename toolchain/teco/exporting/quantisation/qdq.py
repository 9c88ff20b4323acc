"""Explicit quantisation of an ONNX graph: QuantizeLinear and DequantizeLinear before convolutions.

Pictures are symmetric int8 per tensor, weights symmetric int8 per output channel, zero points 0
throughout, as TensorRT wants them; biases stay floats. A pair stands at the input of a convolution
and nowhere else: what else reads the tensor (a block's skip, a warp, the next state) goes on
reading floats. That is why this is not onnxruntime.quantization's QDQQuantizer, which (in 1.32)
gives the rounded tensor to every reader, so that the frame itself came to the float flow net in
eight bits. OpenVINO and TensorRT fold the pair into what makes the tensor.

What lies between convolutions has the type it had: scales are of the type of the layer's weight, as
a pair must be for floats of 16 bits to go in and come out. That is since opset 19.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FLOAT_ISLANDS = ("back.", "refine.")
"""Beginnings of weights that are positions or pictures, see :mod:`teco_models.deploy.step`."""

_PORTED = "step."
"""What comes before them where other ports were put around the step."""

_HALF_OPSET = 19
"""First of which QuantizeLinear takes and DequantizeLinear gives float16. GridSample is still that
of :data:`teco.exporting.trace.OPSET` there, and all that changed of our operators are attributes
whose defaults are the old behaviour (onnx's changelog)."""

_AXIS = {"Conv": 0, "ConvTranspose": 1}
"""Of the output channels in the weight."""


def learned(model: ModelProto) -> dict[str, NodeProto]:
    """The convolutions that may be quantised, by the name of their weight, in graph order.

    Only learned ones: interpolation, blur and the like are buffers of the deploy form, whose names
    do not end so, and they make positions, pictures or states.
    """
    found: dict[str, NodeProto] = {}
    for node in model.graph.node:
        if (
            node.op_type in _AXIS
            and node.input[1].endswith(".weight")
            and not node.input[1].removeprefix(_PORTED).startswith(_FLOAT_ISLANDS)
        ):
            if node.input[1] in found:
                raise ValueError(f"two convolutions share {node.input[1]}")  # blocks are unrolled
            found[node.input[1]] = node
    return found


def insert(
    model: ModelProto, thresholds: Mapping[str, float], float_layers: Collection[str] = ()
) -> ModelProto:
    """A copy with convolutions in int8.

    Args:
        model: graph in float32, or with convolutions in float16, at opset 13 or later; not
            changed. With float16 the copy is at opset 19 at least.
        thresholds: for each weight of :func:`learned`, the largest magnitude of the convolution's
            input that is kept. Of one tensor that several read, the largest counts.
        float_layers: weights whose convolutions stay as they are.
    """
    import onnx
    from onnx import numpy_helper

    chosen = {w: n for w, n in learned(model).items() if w not in float_layers}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {t.name: t for t in model.graph.initializer}
    limits: dict[str, float] = {}
    for weight, node in chosen.items():
        limits[node.input[0]] = max(limits.get(node.input[0], 0.0), thresholds[weight])
    constants: list[Any] = []
    nodes: list[Any] = []
    ready: set[str] = set()

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def dequantised(name: str, stored_as: str, scale: str, zero: str, axis: int | None) -> Any:
        node = onnx.helper.make_node(
            "DequantizeLinear", [stored_as, scale, zero], [f"{name}.float"], f"{name}.dequantise"
        )
        if axis is not None:
            node.attribute.append(onnx.helper.make_attribute("axis", axis))
        return node

    for node in result.graph.node:
        weight = node.input[1] if node.op_type in _AXIS else ""
        if weight in chosen:
            source = node.input[0]
            value = numpy_helper.to_array(stored[weight])
            if source not in ready:
                ready.add(source)
                scale = constant(f"{source}.scale", _scale(limits[source] / 127, value.dtype))
                zero = constant(f"{source}.zero", np.int8(0))
                whole = f"{source}.int8"
                nodes.append(
                    onnx.helper.make_node(
                        "QuantizeLinear", [source, scale, zero], [whole], f"{source}.quantise"
                    )
                )
                nodes.append(dequantised(source, whole, scale, zero, None))
            axis = _AXIS[node.op_type]
            whole, scales = integers(value, axis)
            scale = constant(f"{weight}.scale", scales)
            zero = constant(f"{weight}.zero", np.zeros(len(scales), np.int8))
            name = constant(f"{weight}.int8", whole)
            nodes.append(dequantised(weight, name, scale, zero, axis))
            node.input[0], node.input[1] = f"{source}.float", f"{weight}.float"
        nodes.append(node)
    kept = [t for t in result.graph.initializer if t.name not in chosen]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(copies)
    result.graph.initializer.extend([*kept, *constants])
    if any(stored[weight].data_type == onnx.TensorProto.FLOAT16 for weight in chosen):
        for opset in result.opset_import:
            if not opset.domain:
                opset.version = max(opset.version, _HALF_OPSET)
    return result


def _scale(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """In another type; in float16 no smaller, so that what was the largest is not clipped."""
    found = np.asarray(value, dtype)
    if found.dtype == np.float32:
        return found
    return np.where(found < np.asarray(value), np.nextafter(found, found.dtype.type(np.inf)), found)


def integers(
    weight: np.ndarray[Any, Any], axis: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A weight as int8 from -127 to 127 and the scale of each output channel.

    Args:
        weight: float32 or float16, which the scales are as well.
        axis: of the output channels.
    """
    others = tuple(n for n in range(weight.ndim) if n != axis)
    dtype, weight = weight.dtype, weight.astype(np.float32)
    peaks = np.abs(weight).max(axis=others, keepdims=True)
    scales = _scale((np.where(peaks > 0, peaks, 1) / 127).astype(np.float32), dtype)
    whole = np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)
    return whole, scales.ravel()


def same_integers(a: ModelProto, b: ModelProto) -> bool:
    """Whether two graphs quantise the same weights to the same integers with the same scales.

    Scales of pictures are compared by the weight they meet: tensors have other names where the
    same network was traced at another size.
    """
    return _content(a) == _content(b)


def _content(model: ModelProto) -> dict[str, tuple[bytes, ...]]:
    raw = {t.name: t.SerializeToString() for t in model.graph.initializer}
    from onnx import numpy_helper

    values = {
        t.name: numpy_helper.to_array(t).tobytes()
        for t in model.graph.initializer
        if t.name.endswith((".scale", ".int8", ".zero")) and t.name in raw
    }
    return {
        node.input[1]: tuple(
            values[f"{name.removesuffix('.float')}{part}"]
            for name, part in (
                (node.input[1], ".int8"), (node.input[1], ".scale"), (node.input[1], ".zero"),
                (node.input[0], ".scale"), (node.input[0], ".zero"),
            )
        )
        for node in model.graph.node
        if node.op_type in _AXIS and node.input[1].endswith(".weight.float")
    }  # fmt: skip
