"""The precision that an ONNX file really has, read from its tensor types."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def tensor_types(model: ModelProto) -> dict[str, int]:
    """Element types that computing nodes write, counted: the precision the file really has.

    Shape arithmetic (integers), the Casts after stored weights and those that make a port's type do
    not compute pictures and are left out.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    stored = {t.name for t in model.graph.initializer}
    ports = {v.name for v in model.graph.output}
    names = Counter(
        onnx.helper.tensor_dtype_to_np_dtype(types[out]).name
        for node in model.graph.node
        for out in node.output
        if out in types
        and not (node.op_type == "Cast" and (node.input[0] in stored or out in ports))
    )
    told = ("float", "bfloat", "int8")
    return {name: n for name, n in sorted(names.items()) if name.startswith(told)}
