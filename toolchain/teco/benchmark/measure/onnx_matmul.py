"""One matrix product as an ONNX file, written by hand: the base install has no ``onnx``.

Numbers of fields and types are those of onnx.proto3 (ONNX 1.16).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

_TYPES = {"fp32": 1, "fp16": 10, "uint8": 2, "int8": 3, "int32": 6}
"""TensorProto.DataType."""


def matmul_model(side: int, precision: str, b: npt.NDArray[Any]) -> bytes:
    """``c = a @ b`` of square matrices, b inside the model.

    Args:
        side: of the matrices.
        precision: fp32 or fp16; int8 multiplies uint8 by int8 into int32.
        b: (side, side) of that type.
    """
    whole = precision == "int8"
    given, inside, made = ("uint8", "int8", "int32") if whole else (precision,) * 3
    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"c")
    node += _field(4, b"MatMulInteger" if whole else b"MatMul")
    tensor = _number(1, side) + _number(1, side) + _number(2, _TYPES[inside])
    tensor += _field(8, b"b") + _field(9, b.tobytes())
    graph = _field(1, node) + _field(2, b"matmul") + _field(5, tensor)
    graph += _field(11, _value(b"a", given, side)) + _field(12, _value(b"c", made, side))
    opset = _number(2, 13)
    return _number(1, 8) + _field(7, graph) + _field(8, opset)


def _value(name: bytes, kind: str, side: int) -> bytes:
    """ValueInfoProto of a square matrix."""
    dimension = _field(1, _number(1, side))
    tensor = _number(1, _TYPES[kind]) + _field(2, dimension + dimension)
    return _field(1, name) + _field(2, _field(1, tensor))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
