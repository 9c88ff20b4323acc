"""Record what the exported graphs compute, for `teco estimate` (teco/estimates/graphs.json).

    python scripts/record_graphs.py [-j JOBS]

Every kind of network is exported once with symbolic height and width, in float16 so that the casts
are there, and with widths that no other dimension has, so that each can be told from the numbers.
Run it when :mod:`teco_models.deploy.step` changes; a test compares the file with fresh exports.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

from teco.core.files import write_beside
from teco.estimates.tensors import FILE, FORMS, key_of
from teco_models.variant import Variant

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

C, F = 112, 37
"""Widths of the networks that are exported."""

CHANNELS = {
    **{n * F: f"{n}f".removeprefix("1") for n in (1, 2, 4, 8)},
    C: "c", C // 16: "c/16", C + 48: "c+48",
}  # fmt: skip

VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}
IN_PLACE = {
    "Relu", "LeakyRelu", "Tanh", "Sigmoid", "Add", "Sub", "Mul", "Div", "Pow", "Clip", "Sqrt",
}  # fmt: skip

Row = tuple[str, str, tuple[int | str, ...], str, str, str]
"""Name, shape, inputs (a port, or how many rows back), marks, weights, constants; see
:func:`teco.estimates.tensors.deployed`."""


def variants() -> Iterator[Variant]:
    """One of every kind."""
    for tail in ("transposed", "shuffle", "egvsr"):
        for norm, lk, bp in product(("pair", "raw"), (False, True), (False, True)):
            yield Variant(
                blocks=1, channels=C, flow_channels=F, tail=tail, flow_norm=norm,
                lucas_kanade=lk, back_projection=bp,
            )  # fmt: skip
        yield Variant(blocks=1, channels=C, flow_channels=0, tail=tail)


def record(variant: Variant, form: str) -> list[Row]:
    """The rows of one kind in one deploy form."""
    from teco.exporting.trace import trace
    from teco.model.contract import StreamContract
    from teco_models.arch.generator import Generator
    from teco_models.deploy.step import TARGETS, deploy_step

    step = deploy_step(Generator(variant).eval(), TARGETS[form], "fp16")
    return rows_of(trace(step, StreamContract.of(variant), None))


def dimension(text: int | str) -> str:
    """8*((h//8)) -> 8h/8, h + 4 -> h+4, 112 -> c."""
    if isinstance(text, int):
        return CHANNELS.get(text, str(text))
    return re.sub(r"[()* ]", "", text).replace("//", "/")


class _Graph:
    """An ONNX graph's shapes, stored values, and which names are the same tensor."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.ports = {v.name for v in (*graph.input, *graph.output)}
        self.stored = {t.name: t for t in graph.initializer}
        self.half = {
            v.name: v.type.tensor_type.elem_type == 10
            for v in (*graph.value_info, *graph.input, *graph.output)
        }
        self.shapes = {
            v.name: [dimension(d.dim_param or d.dim_value) for d in v.type.tensor_type.shape.dim]
            for v in (*graph.value_info, *graph.input, *graph.output)
        }
        self.same: dict[str, str] = {}
        self.last = {name: i for i, node in enumerate(self.nodes) for name in node.input}

    def whole(self, name: str) -> bool:
        """Whether a tensor is as large as a frame; what is smaller costs nothing."""
        text = " ".join(self.shapes.get(name, ()))
        return "h" in text and "w" in text

    def root(self, name: str) -> str:
        return self.root(self.same[name]) if name in self.same else name

    def merge(self, made: str, read: str) -> None:
        """Two names for one tensor; a port's name stays."""
        if made in self.ports and self.root(read) not in self.ports:
            self.same[self.root(read)] = made
        else:
            self.same[made] = self.root(read)

    def is_the_same(self, at: int, node: NodeProto) -> bool:
        """A change of shape, or an activation written over what nobody else reads."""
        if node.op_type in VIEWS:
            return True
        others = [x for x in node.input[1:] if x]
        scalar = all(x in self.stored and not self.stored[x].dims for x in others)
        reads = node.input[0]
        return node.op_type in IN_PLACE and scalar and self.last_of(reads) == at

    def last_of(self, name: str) -> int:
        """The last node that reads a tensor under any of its names; ports are always read."""
        root = self.root(name)
        if root in self.ports:
            return len(self.nodes)
        return max(i for n, i in self.last.items() if self.root(n) == root)


def rows_of(model: ModelProto) -> list[Row]:
    """What needs memory in a graph, in order."""
    graph = _Graph(model)
    kept: list[tuple[int, NodeProto, str]] = []
    for at, node in enumerate(graph.nodes):
        whole = [x for x in node.input if graph.whole(x)]
        for made in node.output:
            if not graph.whole(made):
                continue
            if whole and graph.is_the_same(at, node):
                graph.merge(made, whole[0])
            else:
                kept.append((at, node, made))
    places: dict[str, int] = {}
    counted: set[str] = set()
    rows: list[Row] = []
    for _, node, made in kept:
        name = graph.root(made)
        reads = [graph.root(x) for x in node.input if graph.whole(x)]
        inputs = tuple(len(rows) - places[x] if x in places else x for x in dict.fromkeys(reads))
        stored = [
            x for x in node.input
            if x in graph.stored and graph.stored[x].data_type in (1, 10) and graph.stored[x].dims
            and x not in counted
        ]  # fmt: skip
        counted.update(stored)
        shapes = {x: " ".join(map(dimension, graph.stored[x].dims)) for x in stored}
        named = (
            ("half", graph.half[made]),
            ("in place", node.op_type in IN_PLACE),
            ("cast", node.op_type == "Cast"),
        )
        marks = ", ".join(mark for mark, holds in named if holds)
        trained = ",".join(s for x, s in shapes.items() if graph.stored[x].data_type == 10)
        fixed = ",".join(s for x, s in shapes.items() if graph.stored[x].data_type == 1)
        shown = name if name in graph.ports else label(node, made)
        rows.append((shown, " ".join(graph.shapes[made]), inputs, marks, trained, fixed))
        places[name] = len(rows) - 1
    return rows


def label(node: NodeProto, made: str) -> str:
    """A convolution by the layer it is of, anything else by what PyTorch calls it."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return node.input[1].removeprefix("generator.").removesuffix(".weight")
    return re.sub(r"(_split)?(_\d+)+$", "", made).strip("_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", "--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    kinds = {key_of(v, form): (v, form) for v in variants() for form in FORMS}
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(record, *zip(*kinds.values(), strict=True))
        graphs = dict(zip(kinds, found, strict=True))
    write_beside(FILE, as_text(graphs).encode())


def as_text(graphs: Mapping[str, Sequence[Row]]) -> str:
    """The file: distinct operations, one a line, and of each kind the numbers of those it runs."""
    numbers: dict[Row, int] = {}
    runs = {
        k: [numbers.setdefault(row, len(numbers)) for row in rows] for k, rows in graphs.items()
    }
    lines = ",\n".join(json.dumps(row) for row in numbers)
    more = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in runs.items())
    return f'{{"ops": [\n{lines}\n],\n"graphs": {{\n{more}\n}}}}\n'


if __name__ == "__main__":
    main()
