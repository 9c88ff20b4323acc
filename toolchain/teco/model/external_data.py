"""Which files an ONNX file reads its weights from, found without opening them.

A runtime opens such files by itself when it loads a graph, older ones wherever the graph says. So a
model that came from elsewhere is read here first, field by field (Protocol Buffers' wire format;
field numbers of onnx.proto, IR version 3 and later), with no library that would follow it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from teco.core.errors import TecoError

_TENSOR, _STRINGS = "tensor", "strings"
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    _TENSOR: {13: _STRINGS},
}
"""Message -> number of a field that leads to tensors -> the message in it."""

_DEEPEST = 64
"""Messages within messages; a graph of ours has 5."""


def external_files(path: Path) -> set[str]:
    """The names under which an ONNX file looks for weights outside itself; usually none.

    Raises:
        TecoError: it is not readable as ONNX.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ValueError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return set(_locations(data, 0, len(data), "model", 0))
    except OSError as error:
        raise TecoError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TecoError(
            f"{path} cannot be loaded as ONNX: {error}",
            hint="the file is damaged or no ONNX file; export it again with `teco export`",
        ) from error


def _locations(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("its graphs lie in each other too deeply")
    inner = _FIELDS[kind]
    for number, first, last in _fields(data, start, end):
        message = inner.get(number)
        if message == _STRINGS:
            entry = {n: data[a:b] for n, a, b in _fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", "replace")
        elif message is not None:
            yield from _locations(data, first, last, message, depth + 1)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, end) of each length-delimited field; others are passed over."""
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("a field ends outside it")
            yield key >> 3, at, at + length
            at += length
        else:
            raise ValueError(f"wire type {wire}")
    if at > end:
        raise ValueError("a field ends outside it")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
