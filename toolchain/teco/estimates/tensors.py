"""Every tensor of the deployed step, from the graphs that the export writes.

``graphs.json`` holds what each kind of network computes, recorded from real exports by
``scripts/record_graphs.py`` with symbolic sizes and widths; here the numbers are put in. So no
torch and no export is needed to tell memory before anything is built.

What counts: one tensor for each operation that needs memory of its own. Activations and other
elementwise operations write over an operand that nobody reads afterwards, changes of shape cost
nothing, and zero padding belongs to the convolution that it is for; replicated borders are copies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Literal

from teco_models.variant import SCALE, Variant, check_size

Precision = Literal["fp32", "fp16", "int8"]

FILE = Path(__file__).with_name("graphs.json")

P = SCALE * SCALE
FLOAT = 4

WIDTHS: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of what convolutions read and write. int8 is the best case: all that lies between two
convolutions is stored in 8 bits. A layer that measured sensitivity keeps in float takes more."""

FORMS: Mapping[str, Mapping[str, bool]] = {
    "onnxruntime": {},
    "openvino": {"phase_up": False, "stack_pixels": False},
    "tensorrt": {"phase_up": False, "phase_tail": False, "stack_pixels": False},
    "web": {"stack_pixels": False},
}
"""The deploy forms that were recorded, by name in :data:`teco_models.deploy.step.TARGETS`, and the
rewrites that each leaves out. An engine in int8 leaves out what "web" does."""

PORTS = (
    "lr", "lr_prev", "hr_prev", "phases_prev", "latent_prev", "hr", "phases", "latent",
    "luma_prev", "hr_luma_prev", "luma", "hr_luma",
)  # fmt: skip
"""Inputs and outputs. They are held over the step: the state is double-buffered by them."""


@dataclass(frozen=True)
class Op:
    """One operation and the tensor it writes.

    Attributes:
        name: of the tensor.
        elements: of the tensor.
        width: bytes of an element.
        inputs: names of the tensors it reads.
        elementwise: it may write over an input of the same size that nobody reads afterwards.
        weights: elements of trained weights it reads.
        constants: elements of fixed float32 kernels and tables it reads.
    """

    name: str
    elements: int
    width: int
    inputs: tuple[str, ...]
    elementwise: bool = False
    weights: int = 0
    constants: int = 0

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.elements * self.width


def key_of(variant: Variant, form: str) -> str:
    """The name in ``graphs.json`` of a kind of network in one deploy form."""
    if form == "openvino" and variant.tail != "transposed":
        form = "web"  # they differ in transposed convolutions alone
    flow = (
        [variant.flow_norm, *["lk"] * variant.lucas_kanade, *["bp"] * variant.back_projection]
        if variant.has_flow
        else ["f0"]
    )
    return " ".join((form, variant.tail, *flow))


def deployed(
    variant: Variant,
    h: int,
    w: int,
    precision: Precision = "fp32",
    form: Mapping[str, bool] | None = None,
    *,
    dynamic: bool = False,
) -> tuple[Op, ...]:
    """The operations of one deployed step in the order in which they run.

    Args:
        variant: which network.
        h, w: LR size.
        precision: of the convolutions.
        form: exact rewrites by name (``teco_models.deploy.step.Rewrites``); what is not named is
            on. The recorded form that differs in the fewest is taken.
        dynamic: of a file that takes any size, which computes its sampling grid in each step where
            a static one stores it.

    Raises:
        ModelError: the frame is smaller than 8x8.
    """
    check_size(h, w)
    if variant.computed_alignment:
        return _of_layers(variant, h, w, WIDTHS[precision])
    asked = form or {}

    def differing(name: str) -> int:
        names = {*asked, *FORMS[name]}
        return sum(asked.get(x, True) != FORMS[name].get(x, True) for x in names)

    sizes = {"h": h, "w": w, "c": variant.channels, "f": variant.flow_channels}
    ops = _read(key_of(variant, min(FORMS, key=differing)), sizes, WIDTHS[precision])
    if not dynamic:
        ops = _with_stored_tables(ops)
    return _repeated(ops, variant.blocks)


def _of_layers(variant: Variant, h: int, w: int, inner: int) -> tuple[Op, ...]:
    """Computed alignment, whose graph is not recorded: the tensors of its layers, with what the
    alignment and the enlargement of colours need besides.

    Args:
        variant, h, w: as of :func:`deployed`.
        inner: bytes of a value between the network's own convolutions.
    """
    given = {"lr", *(f"{name}_prev" for name in ("luma", "hr_luma", "latent"))}
    beside = {
        "flow": 12 * h * w,  # the gradients, products and windows of the finest level
        # The pixels that are gathered, and their rows: 25 and 20 of scale 4.
        "past": (variant.scale + 1) * (2 * variant.scale + 1) * h * w,
    }
    return tuple(
        Op(
            layer.name,
            layer.elements + beside.get(layer.name, 0),
            inner if layer.name.startswith("srnet.") else FLOAT,
            layer.inputs,
            weights=layer.params,
        )
        for layer in variant.layers(h, w)
        if layer.name not in given
    )


_Row = tuple[str, str, list[int | str], str, str, str]
"""Name, shape, inputs (a port, or how many rows back), marks, weights, constants."""


@cache
def _recorded() -> tuple[list[_Row], dict[str, list[int]]]:
    """Distinct operations, and of each kind of network the numbers of those it runs."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return data["ops"], data["graphs"]


_DIMENSION = re.compile(r"(\d*)([hwcf])(?:/(\d+))?(?:\+(\d+))?")


def _elements(shape: str, sizes: Mapping[str, int]) -> int:
    """``"c+48 8h/8 w"`` -> the product, with ``/`` rounding down first."""

    def value(text: str) -> int:
        if (match := _DIMENSION.fullmatch(text)) is None:
            return int(text)
        times, name, parts, more = match.groups()
        return int(times or 1) * (sizes[name] // int(parts or 1)) + int(more or 0)

    return prod(map(value, shape.split()))


def _read(key: str, sizes: Mapping[str, int], inner: int) -> list[Op]:
    """The operations of a recorded graph. In float32 there are no casts."""
    rows, graphs = _recorded()
    ops: list[Op] = []
    written: list[str] = []  # by each row, the name that later ones read
    for n, number in enumerate(graphs[key]):
        label, shape, reads, marks, weights, constants = rows[number]
        inputs = tuple(x if isinstance(x, str) else written[n - x] for x in reads)
        if "cast" in marks and inner == FLOAT:
            ops, source = _renamed(ops, inputs[0], label)
            written.append(source)
            continue
        name = label if label in PORTS else f"{n}.{label}"
        written.append(name)
        ops.append(
            Op(
                name,
                _elements(shape, sizes),
                inner if "half" in marks else FLOAT,
                inputs,
                "in place" in marks,
                sum(_elements(x, sizes) for x in weights.split(",") if x),
                sum(_elements(x, sizes) for x in constants.split(",") if x),
            )
        )
    return ops


def _renamed(ops: list[Op], source: str, port: str) -> tuple[list[Op], str]:
    """What stands in a cast's place: the tensor it reads, under a port's name if it was to be one.

    Returns:
        The operations, and the tensor's name.
    """
    if port not in PORTS:
        return ops, source
    swap = {source: port}
    return [
        replace(
            op, name=swap.get(op.name, op.name), inputs=tuple(swap.get(x, x) for x in op.inputs)
        )
        for op in ops
    ], port


def _with_stored_tables(ops: Sequence[Op]) -> list[Op]:
    """A static file stores what depends on no frame, and has no gather that mirrors nothing."""
    sizes = {op.name: op.elements for op in ops}
    instead: dict[str, str] = {}
    tables: set[str] = set()
    kept: list[Op] = []
    for op in ops:
        inputs = tuple(instead.get(x, x) for x in op.inputs)
        if tables.issuperset(inputs):
            tables.add(op.name)
        elif op.name.endswith(".index_select") and op.elements == sizes[inputs[0]]:
            instead[op.name] = inputs[0]
        else:
            stored = sum(sizes[x] for x in inputs if x in tables)
            read = tuple(x for x in inputs if x not in tables)
            kept.append(replace(op, inputs=read, constants=op.constants + stored))
    return kept


def _repeated(ops: Sequence[Op], blocks: int) -> tuple[Op, ...]:
    """One residual block, two convolutions and a sum, as often as there are blocks."""
    at = next(i for i, op in enumerate(ops) if ".srnet.resblocks." in op.name)
    block = ops[at : at + 3]
    made: list[Op] = []
    source = block[0].inputs[0]
    for n in range(1, blocks):
        names = {op.name: f"{op.name.replace('resblocks.0', f'resblocks.{n}')}" for op in block}
        names = {old: f"{n}.{new}" for old, new in names.items()}
        names |= {block[0].inputs[0]: source}
        made += [
            replace(op, name=names[op.name], inputs=tuple(names.get(x, x) for x in op.inputs))
            for op in block
        ]
        source = names[block[2].name]
    swap = {block[0].inputs[0]: source}
    last = [replace(op, inputs=tuple(swap.get(x, x) for x in op.inputs)) for op in block]
    return (*ops[:at], *made, *last, *ops[at + 3 :])


def peak(ops: Sequence[Op]) -> tuple[int, str]:
    """Most bytes alive at once, without the ports, and the tensor at whose making that is.

    Operations run in order; a tensor lives from the operation that writes it to the last one that
    reads it.
    """
    last = {name: i for i, op in enumerate(ops) for name in op.inputs}
    alive: dict[str, int] = {}
    most, where = 0, ""
    for i, op in enumerate(ops):
        size = 0 if op.name in PORTS else op.size
        dying = [n for n in dict.fromkeys(op.inputs) if n in alive and last[n] == i]
        if op.elementwise:
            # It writes over an operand, which then need not live beside it.
            over = next((n for n in dying if alive[n] == op.size), None)
            if over is not None:
                del alive[over]
                dying.remove(over)
        if size:
            alive[op.name] = size
        now = sum(alive.values())
        if now > most:
            most, where = now, op.name
        for name in dying:
            del alive[name]
        if op.name in alive and op.name not in last:
            del alive[op.name]
    return most, where.split(".", 1)[-1]
