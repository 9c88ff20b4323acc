"""How an ONNX file stores its weights: in half the bytes, or in the weights file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto


def store_half(model: ModelProto) -> None:
    """Store each float32 weight of over 256 values as float16 and a Cast, where nothing is lost."""
    import onnx
    from onnx import numpy_helper

    casts: list[Any] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if value.size <= 256 or not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + rest)


def share_data(model: ModelProto, weights: Path) -> int:
    """Refer to tensors of a safetensors file instead of storing them; returns how many.

    The file must lie beside the ONNX file for ever after. Its layout: 8 bytes little-endian length
    of a JSON header, the header, the tensors at the offsets it names (the format's own
    description).
    """
    from onnx import TensorProto
    from onnx.external_data_helper import set_external_data

    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    places: dict[bytes, int] = {}
    for entry in header.values():
        begin, end = (start + x for x in entry["data_offsets"])
        places.setdefault(raw[begin:end], begin)
    shared = 0
    for tensor in model.graph.initializer:
        data = bytes(tensor.raw_data)
        if len(data) > 512 and data in places:  # the reference itself takes some bytes
            set_external_data(tensor, weights.name, places[data], len(data))
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            shared += 1
    return shared
