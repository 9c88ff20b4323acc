"""The graph as browsers want it: opset 17, and nothing that onnxruntime-web leaves to the CPU.

onnxruntime-web's WebGPU provider is younger than the others. It runs GridSample of opset 16 to 19
and hands over to the CPU what opset 20 calls by the same name, SpaceToDepth and AffineGrid; a
convolution must say its dilations although they have a default; one shader reads a handful of
tensors, 8 by WebGPU's own rule, so that stacking sixteen phases at once is an error when it runs;
and a convolution of 6 channels is computed wrong (onnxruntime#29651; here by up to 80 steps of 255
with 1.30.0), so channels are filled up with zeros to a multiple of 4, which changes no value.
Each hand-over costs a picture's way to the CPU and back. :data:`teco_models.deploy.step.TARGETS`
names the rewrites that avoid the last of these; this module does the rest and checks all of it.

torch.onnx writes no opset below 18 and neither onnx nor onnxscript converts downwards, hence the
few rules here: what changed at 18 in the operators that a step consists of. Any other operator
with another meaning at 17 is an error, never a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from teco.core.errors import TecoError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 17
"""Of a browser's graph."""

TRACED = 18
"""Of the graph that torch.onnx writes, see :data:`teco.exporting.onnx.OPSET`."""

LEFT_TO_CPU = frozenset({"SpaceToDepth", "AffineGrid"})
"""Operators that the WebGPU provider does not have."""

MOST_INPUTS = 7
"""Of one Concat: a shader has 8 storage buffers by default, one of which is the output."""

VECTOR = 4
"""Values that a shader reads at once. Convolutions of up to 3 channels are right as they are."""

_DROPPED = {
    "Split": {"num_outputs": None},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch", "axes": None},
    "Pad": {},
    "ReduceMean": {"noop_with_empty_axes": 0},
    "ReduceMax": {"noop_with_empty_axes": 0},
    "ReduceMin": {"noop_with_empty_axes": 0},
}
"""Operators that changed at 18, and the attributes that came then with the values at which they say
nothing new; None for those that need a look of their own."""


def as_web(model: ModelProto) -> None:
    """Put a step's graph into the form above, in place.

    Args:
        model: as :func:`teco.exporting.onnx.trace` gives it, weights inside.

    Raises:
        TecoError: an operator that has no such form.
    """
    import onnx

    changed = {
        name
        for name in {node.op_type for node in model.graph.node}
        if _version(onnx, name, TRACED) != _version(onnx, name, OPSET)
    }
    if unknown := sorted(changed - _DROPPED.keys()):
        raise TecoError(
            f"the graph has {', '.join(unknown)}, which means something else at opset {OPSET}",
            hint="report this with the versions that `teco doctor` prints",
        )
    for node in model.graph.node:
        if node.op_type in changed:
            _lower(model, node)
        if node.op_type == "Conv":
            _spell_out(model, node)
    _fill_up(model)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = OPSET
    # What Reduce's axes were read from; nothing may read it any more.
    used = {name for node in model.graph.node for name in node.input}
    kept = [x for x in model.graph.initializer if x.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    check_web(model)


def check_web(model: ModelProto) -> None:
    """Raise TecoError where a graph is not in the form above."""

    opset = {x.domain: x.version for x in model.opset_import}
    faults = [f"opset {opset.get('')}"] if opset.get("") != OPSET else []
    faults += [f"operators of {x}" for x in opset if x not in ("", "ai.onnx")]
    for node in model.graph.node:
        names = {a.name for a in node.attribute}
        if node.op_type in LEFT_TO_CPU:
            faults.append(node.op_type)
        if node.op_type == "Concat" and len(node.input) > MOST_INPUTS:
            faults.append(f"a Concat of {len(node.input)}")
        if node.op_type == "Conv":
            if not names >= {"dilations", "group", "kernel_shape", "pads", "strides"}:
                faults.append("a Conv without all of its attributes")
            elif _lacking(model, node):
                faults.append("a Conv of channels that are no multiple of 4")
        if node.op_type == "GridSample":
            mode = _attribute(node, "mode")
            if mode != b"bilinear":
                faults.append(f"GridSample in mode {mode!r}")
    if faults:
        raise TecoError(
            f"the graph is not one that WebGPU runs by itself: {', '.join(dict.fromkeys(faults))}",
            hint="export it with `teco export --for web`",
        )


def _version(onnx: Any, name: str, opset: int) -> int:
    return onnx.defs.get_schema(name, opset).since_version


def _lower(model: ModelProto, node: NodeProto) -> None:
    """One node of opset 18 as 17 has it."""
    import onnx

    for attribute in list(node.attribute):
        if attribute.name not in _DROPPED[node.op_type]:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        expected = _DROPPED[node.op_type][attribute.name]
        if attribute.name == "num_outputs":
            # Without it the number of outputs counts, and the parts must be equal in both.
            expected = len(node.output)
        if value != expected:
            raise TecoError(
                f"{node.op_type} with {attribute.name} = {value!r} does not exist at opset {OPSET}"
            )
        node.attribute.remove(attribute)
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        raise TecoError(f"Pad of some axes does not exist at opset {OPSET}")
    if node.op_type.startswith("Reduce") and len(node.input) > 1:
        axes = _constant(model, node.input[1])
        if axes is None:
            raise TecoError(f"{node.op_type} over computed axes does not exist at opset {OPSET}")
        del node.input[1]
        node.attribute.append(onnx.helper.make_attribute("axes", axes))


def _spell_out(model: ModelProto, node: NodeProto) -> None:
    """Write every attribute of a convolution that has a default."""
    import onnx

    weight = next(x for x in model.graph.initializer if x.name == node.input[1])
    kernel = list(weight.dims)[2:]
    given = {a.name for a in node.attribute}
    usual = {
        "dilations": [1] * len(kernel),
        "group": 1,
        "kernel_shape": kernel,
        "pads": [0] * 2 * len(kernel),
        "strides": [1] * len(kernel),
    }
    node.attribute.extend(
        onnx.helper.make_attribute(name, value)
        for name, value in usual.items()
        if name not in given
    )


def _fill_up(model: ModelProto) -> None:
    """Give each convolution over 5, 6, 7, 9, ... channels as many of zeros as a vector lacks."""
    import numpy as np
    from onnx import helper, numpy_helper

    nodes: list[NodeProto] = []
    amounts: set[int] = set()
    stored = {x.name: x for x in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and (lacking := _lacking(model, node)):
            weight = numpy_helper.to_array(stored[node.input[1]])
            full = np.pad(weight, ((0, 0), (0, lacking), *((0, 0),) * (weight.ndim - 2)))
            name = f"{node.output[0]}_filled"
            model.graph.initializer.append(numpy_helper.from_array(full, f"{name}_weight"))
            if lacking not in amounts:
                amounts.add(lacking)
                pads = np.array([0, 0, 0, 0, 0, lacking, 0, 0], np.int64)
                model.graph.initializer.append(numpy_helper.from_array(pads, f"fill_{lacking}"))
            nodes.append(helper.make_node("Pad", [node.input[0], f"fill_{lacking}"], [name]))
            node.input[0], node.input[1] = name, f"{name}_weight"
        nodes.append(node)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _lacking(model: ModelProto, node: NodeProto) -> int:
    """Channels that a convolution's input lacks to be whole vectors; 0 where it may be as it is."""
    weight = next((x for x in model.graph.initializer if x.name == node.input[1]), None)
    if _attribute(node, "group") != 1 or weight is None or weight.dims[1] < VECTOR:
        return 0
    return -weight.dims[1] % VECTOR


def _attribute(node: NodeProto, name: str) -> Any:
    """An attribute's value, None where it is not said."""
    import onnx

    found = (a for a in node.attribute if a.name == name)
    return next((onnx.helper.get_attribute_value(a) for a in found), None)


def _constant(model: ModelProto, name: str) -> list[int] | None:
    """An initializer's integers, None where it is none."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == name:
            return [int(x) for x in numpy_helper.to_array(tensor).ravel()]
    return None
