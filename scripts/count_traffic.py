"""What a step costs on a GPU, counted from its graph, and the speed that a roofline allows.

    python scripts/count_traffic.py [--model NAME ...] [--size 540x960 ...] [--precision fp16 ...]

The network is taken as TensorRT-RTX's own parser reads the file that ``teco export --for tensorrt``
writes, so no GPU is needed. (TensorRT-RTX's engine inspector, which would tell the layers after
fusion, needs one: an engine is deserialised with CUDA.) Counted are the bytes that go through the
GPU's memory and the multiplications and additions, two for each tap of a convolution; what else is
computed is small beside them.

One pass reads each of its inputs once and writes its outputs once, whole. Caches are not counted
on: the widest tensors of 4K are larger than any. Taken for granted:

- A change of shape that moves nothing costs nothing, and what depends on constants alone is stored.
- Activations, sums, casts and other elementwise layers run inside the convolution or transposed
  convolution, or the elementwise pass, that makes the last of their inputs. A cast to a wider type
  belongs to the elementwise pass that reads it, a dequantisation to the convolution.
- Sampling, pooling, resizing and reductions are passes of their own.

Not known is what becomes of layers that only move values (transpositions, slices and padding,
concatenations) and of quantisation. So there are two counts. In the first, each is a pass of its
own; in the second they are part of the elementwise pass beside them, zero padding is part of the
convolution it is for, and quantisation of what makes the tensor. The truth should lie between.

Nor are known: padding of few channels to 8 or 16, tensors that are written again in another layout,
how much of its arithmetic a kernel reaches with few channels. Frames per second are therefore 70%
of what bandwidth and arithmetic allow, pass by pass, whichever takes longer. That share is chosen;
no engine was timed. int8 is counted with every learned convolution in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from teco.core.errors import TecoError
from teco.core.files import write_beside
from teco.exporting.options import ExportOptions, Precision
from teco.model.engine.api import load
from teco.model.engine.network import make_logger, parse
from teco.model.opening import open_model

if TYPE_CHECKING:
    from onnx import ModelProto

SIZES = ("180x320", "270x480", "540x960")
MODELS = ("live", "teco-x4-b1-c64-bp-lk", "teco-x4-b3-c64-bp-lk", "teco-x4-b10-c64-bp-lk")
REAL = "real-cpu"

SHARE = 0.7
"""Of the roofline that is taken as reached. Chosen, not measured."""


@dataclass(frozen=True)
class Card:
    """A GPU by its maker's public data.

    Attributes:
        bandwidth: GB/s of its memory.
        rates: TFLOP/s by precision, dense; float16 with float32 accumulation on tensor cores.
            float32 is that of the CUDA cores, as engines are built without TF32.
    """

    bandwidth: float
    rates: dict[str, float]


CARDS = {
    # NVIDIA's specifications of the GeForce RTX 3060 12 GB: 28 SMs, 3584 cores, 1.777 GHz; of an SM
    # the Ampere GA102 whitepaper: a clock 256 float16 products that are added in float32, and 1024
    # of int8.
    "3060": Card(360, {"fp32": 12.7, "fp16": 25.5, "int8": 102}),
    # NVIDIA Ada GPU architecture whitepaper, table of the GeForce RTX 4090.
    "4090": Card(1008, {"fp32": 82.6, "fp16": 165, "int8": 661}),
    # NVIDIA H200 SXM data sheet; its figures with sparsity halved.
    "H200": Card(4800, {"fp32": 67, "fp16": 989, "int8": 1979}),
}

WIDTHS = {
    "FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1, "INT32": 4, "INT64": 8,
}  # fmt: skip
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8"}

CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
ELEMENTWISE = (
    "ACTIVATION", "ELEMENTWISE", "UNARY", "SCALE", "SELECT", "CAST", "PARAMETRIC_RELU",
)  # fmt: skip
MOVES = ("SHUFFLE", "SLICE", "CONCATENATION", "PADDING", "GATHER")


@dataclass
class Pass:
    """What runs as one kernel.

    Attributes:
        name: of the layer that begins it.
        kind: of that layer, as TensorRT calls it.
        flop: of its convolution, 0 without one.
        precision: that the convolution computes in.
        inputs, outputs: bytes of each tensor that it reads and makes, by name.
        kept: names of outputs that are needed elsewhere; the others never leave the kernel.
    """

    name: str
    kind: str
    flop: int = 0
    precision: str = "fp32"
    inputs: dict[str, int] = field(default_factory=dict[str, int])
    outputs: dict[str, int] = field(default_factory=dict[str, int])
    kept: set[str] = field(default_factory=set[str])

    @property
    def read(self) -> int:
        """Bytes."""
        return sum(self.inputs.values())

    @property
    def written(self) -> int:
        """Bytes."""
        return sum(self.outputs[name] for name in self.kept)

    def seconds(self, card: Card) -> float:
        """By bandwidth or by arithmetic, whichever takes longer."""
        moved = (self.read + self.written) / (card.bandwidth * 1e9)
        return max(moved, self.flop / (card.rates[self.precision] * 1e12))


class Counter:
    """The passes of a parsed network without dynamic extents, in :attr:`passes`.

    Args:
        trt: the bindings.
        network: as parsed.
        moves_apart: whether what only moves values is a pass of its own.
    """

    def __init__(self, trt: Any, network: Any, *, moves_apart: bool) -> None:
        self.passes: list[Pass] = []
        self._trt = trt
        self._apart = moves_apart
        self._same: dict[str, str] = {}  # a name -> another of the same tensor
        self._stored: set[str] = set()
        self._makers: dict[str, int] = {}  # tensor -> number of its pass
        layers = [network.get_layer(n) for n in range(network.num_layers)]
        tensors = [t for layer in layers for t in (*_inputs(layer), *_outputs(layer))]
        self._bytes = {t.name: prod(t.shape) * WIDTHS[t.dtype.name] for t in tensors}
        self._readers: dict[str, list[str]] = {}  # tensor -> kinds of the layers that read it
        for layer in layers:
            for tensor in _inputs(layer):
                self._readers.setdefault(tensor.name, []).append(layer.type.name)
        for layer in layers:
            self._add(layer)
        self._outputs = {self._root(network.get_output(n).name) for n in range(network.num_outputs)}
        for name in self._outputs:
            self._keep(name)
        self._join()

    def _root(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    def _keep(self, name: str) -> None:
        if name in self._makers:
            self.passes[self._makers[name]].kept.add(name)

    def _read(self, run: Pass, name: str, size: int) -> None:
        """Bytes of a tensor that a pass reads besides; parts add up to the whole and no more."""
        whole = self._bytes.get(name, size)
        run.inputs[name] = min(whole, run.inputs.get(name, 0) + size)

    def _add(self, layer: Any) -> None:
        kind, made = layer.type.name, [t.name for t in _outputs(layer)]
        reads = [self._root(t.name) for t in _inputs(layer)]
        if self._is_the_same(layer):
            self._same[made[0]] = reads[0]
        elif kind == "CONSTANT" or self._stored.issuperset(reads):
            self._stored.update(made)
        else:
            at = self._pass_of(layer, reads)
            run = self.passes[at]
            for name in reads:
                if self._makers.get(name) != at:
                    part = kind in ("SLICE", "GATHER")
                    self._read(run, name, self._bytes[made[0] if part else name])
                    self._keep(name)
            for name in made:
                self._makers[name] = at
                run.outputs[name] = self._bytes[name]
            if kind in CONVOLUTIONS:
                self._count(layer, run)

    def _is_the_same(self, layer: Any) -> bool:
        """Whether a layer's output is its first input, in another shape at most."""
        kind, made = layer.type.name, layer.get_output(0)
        readers = self._readers.get(made.name, [])
        if kind == "SHUFFLE":
            return not _moves(self._as(layer, "IShuffleLayer"))
        if kind == "SLICE" and not self._apart:
            # Zero padding, where convolutions alone read it, is their own.
            fills = self._as(layer, "ISliceLayer").mode.name == "FILL"
            return fills and all(x in CONVOLUTIONS for x in readers)
        if kind == "CAST":
            # One to a wider type is made by what reads it, where that is elementwise.
            given = WIDTHS[layer.get_input(0).dtype.name]
            wider = given < WIDTHS[made.dtype.name] and all(x in self._part for x in readers)
            return given == WIDTHS[made.dtype.name] or (wider and bool(readers))
        return kind in ("DEQUANTIZE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")

    def _pass_of(self, layer: Any, reads: list[str]) -> int:
        """The pass that a layer is part of: that of its last input where it may be, or a new one.

        All other inputs are then from passes before that one, so that no circle comes about.
        """
        kind = layer.type.name
        part = self._part
        last = max((self._makers[x] for x in reads if x in self._makers), default=-1)
        if kind in part and last >= 0:
            before = self.passes[last].kind
            inside = kind in part and kind not in MOVES
            if before in part or (before in CONVOLUTIONS and inside):
                return last
        self.passes.append(Pass(layer.name, kind))
        return len(self.passes) - 1

    def _join(self) -> None:
        """Run a pass inside the one that alone reads what it makes, where both are elementwise."""
        part = self._part
        for at in reversed(range(len(self.passes))):
            run = self.passes[at]
            readers = [p for p in self.passes if p.inputs.keys() & run.kept]
            if run.kind not in part or len(readers) != 1 or run.kept & self._outputs:
                continue
            (reader,) = readers
            if reader.kind in part:
                for name in run.kept:
                    del reader.inputs[name]
                for name, size in run.inputs.items():
                    self._read(reader, name, size)
                del self.passes[at]

    @property
    def _part(self) -> tuple[str, ...]:
        """Kinds of layers that may be part of an elementwise pass."""
        return ELEMENTWISE if self._apart else (*ELEMENTWISE, "QUANTIZE", *MOVES)

    def _count(self, layer: Any, run: Pass) -> None:
        """The arithmetic of a convolution, and its kernel where that is no tensor."""
        picture, result = layer.get_input(0), layer.get_output(0)
        kind = "IConvolutionLayer" if layer.type.name == "CONVOLUTION" else "IDeconvolutionLayer"
        convolution = self._as(layer, kind)
        pair = picture.shape[1] * result.shape[1] // convolution.num_groups
        taps = prod(convolution.kernel_size_nd) * pair
        places = result.shape if kind == "IConvolutionLayer" else picture.shape
        run.flop = 2 * taps * prod(places[2:]) * places[0]
        # A dequantised tensor is the integers it is made from.
        whole = self._bytes[self._root(picture.name)] == prod(picture.shape)
        run.precision = "int8" if whole else PRECISIONS[picture.dtype.name]
        if len(list(_inputs(layer))) == 1:
            run.inputs[f"{layer.name} kernel"] = taps * WIDTHS[picture.dtype.name]

    def _as(self, layer: Any, kind: str) -> Any:
        """The layer as what it is: the bindings give the base class alone."""
        layer.__class__ = getattr(self._trt, kind)
        return layer


def _inputs(layer: Any) -> Iterator[Any]:
    found = (layer.get_input(n) for n in range(layer.num_inputs))
    return (t for t in found if t is not None)


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(n) for n in range(layer.num_outputs))


def _moves(shuffle: Any) -> bool:
    """Whether a shuffle changes the order of values in memory."""
    given, made = tuple(shuffle.get_input(0).shape), tuple(shuffle.get_output(0).shape)
    first = tuple(shuffle.first_transpose)[: len(given)]
    second = tuple(shuffle.second_transpose)[: len(made)]
    between = [0] * len(made)
    for place, source in enumerate(second):
        between[source] = made[place]
    return _reorders(given, first) or _reorders(between, second)


def _reorders(shape: Sequence[int], order: Sequence[int]) -> bool:
    wide = [axis for axis in order if shape[axis] > 1]
    return wide != sorted(wide)


# --------------------------------------------------------------------------- networks to count


def graph_of(name: str, size: tuple[int, int], precision: Precision) -> ModelProto:
    """The graph of an engine for frames of one size, not verified; int8 with made-up ranges."""
    from teco.exporting.quantisation.qdq import insert, learned
    from teco.exporting.trace import DeployForm
    from teco_models.checkpoint import load_weights

    weights = open_model(name).weights
    if weights is None:
        raise TecoError(f"{name} has no weights to count from", hint="give a name or weights")
    loaded = load_weights(weights)
    options = ExportOptions(size=size, precision=precision, target="tensorrt")
    options.check(loaded.variant)
    graph = DeployForm.of(loaded, options).graph(size)
    return insert(graph, dict.fromkeys(learned(graph), 1.0)) if precision == "int8" else graph


def passes_of(graph: ModelProto, *, moves_apart: bool) -> list[Pass]:
    """What runs of a graph, in order."""
    trt = load("rtx", "counting a network")
    parsed = parse(trt, graph.SerializeToString(), make_logger(trt), Path("step.onnx"))
    return Counter(trt, parsed.network, moves_apart=moves_apart).passes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network in one form.

    Attributes:
        model, precision, size: which; size is LR "HxW".
        gflop: of convolutions, a frame.
        gb_apart, gb_fused: through memory, a frame, of the two counts.
        fps_apart, fps_fused: by card, what :data:`SHARE` of the roofline allows, of the two counts.
        fps_arithmetic: by card, the same with all bytes for nothing.
        largest: the passes that move most, of the second count: name, kind, GB read and written.
    """

    model: str
    precision: str
    size: str
    gflop: float
    gb_apart: float
    gb_fused: float
    fps_apart: dict[str, float]
    fps_fused: dict[str, float]
    fps_arithmetic: dict[str, float]
    largest: list[tuple[str, str, float, float]]


def row_of(name: str, size: str, precision: Precision, largest: int) -> Row:
    h, w = (int(x) for x in size.split("x"))
    graph = graph_of(name, (h, w), precision)
    apart, fused = (passes_of(graph, moves_apart=x) for x in (True, False))

    def total(passes: list[Pass]) -> float:
        return sum(p.read + p.written for p in passes) / 1e9

    def frames(passes: list[Pass]) -> dict[str, float]:
        return {k: SHARE / sum(p.seconds(card) for p in passes) for k, card in CARDS.items()}

    def busy(card: Card) -> float:
        return sum(p.flop / (card.rates[p.precision] * 1e12) for p in fused)

    most = sorted(fused, key=lambda p: -(p.read + p.written))[:largest]
    return Row(
        model=name,
        precision=precision,
        size=size,
        gflop=sum(p.flop for p in fused) / 1e9,
        gb_apart=total(apart),
        gb_fused=total(fused),
        fps_apart=frames(apart),
        fps_fused=frames(fused),
        fps_arithmetic={k: SHARE / busy(card) for k, card in CARDS.items()},
        largest=[(p.name, p.kind, p.read / 1e9, p.written / 1e9) for p in most],
    )


def markdown(rows: Iterable[Row]) -> str:
    """A table; frames per second of both counts, in brackets those of arithmetic alone."""
    lines = [
        f"| network | LR frame | GFLOP | GB | {' | '.join(CARDS)} |",
        "|---|---|---|---|" + "---|" * len(CARDS),
    ]
    for row in rows:
        speeds = [
            f"{row.fps_apart[k]:.0f} to {row.fps_fused[k]:.0f} ({row.fps_arithmetic[k]:.0f})"
            for k in CARDS
        ]
        cells = (
            f"`{row.model}` {row.precision}", row.size, f"{row.gflop:.0f}",
            f"{row.gb_fused:.2f} to {row.gb_apart:.2f}", *speeds,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", nargs="+", default=[*MODELS, REAL], help="names or weights")
    parser.add_argument("--size", nargs="+", default=list(SIZES), help="LR frames, HEIGHTxWIDTH")
    parser.add_argument(
        "--precision", nargs="+", default=list(get_args(Precision)), choices=get_args(Precision)
    )
    parser.add_argument("--largest", type=int, default=0, help="passes to name of each")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.model:
        for precision in cast("list[Precision]", options.precision):
            for size in options.size:
                row = row_of(name, size, precision, options.largest)
                rows.append(row)
                for layer, kind, read, written in row.largest:
                    print(f"{read:6.3f} {written:6.3f} GB {kind.lower():14} {layer}")
    if options.json:
        write_beside(options.json, json.dumps([asdict(r) for r in rows], indent=1).encode())
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TecoError as caught:
        print(f"count_traffic: {caught.message}", file=sys.stderr)
        if caught.hint:
            print(f"  hint: {caught.hint}", file=sys.stderr)
        sys.exit(caught.exit_code)
