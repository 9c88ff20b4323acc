"""Which precision a network really has, read from its own layer and tensor types.

TensorRT builds strongly typed networks as they are written: a convolution of float16 tensors runs
in float16, one between dequantised tensors in int8. So the parsed network, which needs no GPU,
proves the precision of the engine that is built from it. Where there is a GPU, the engine inspector
tells the same of the built layers (:func:`of_engine`).

Why at all: engines were sold as fp16 that were float32 throughout (rf-detr#1453: 111.75 MB where
59.82 were due), because TensorRT 11 ignores what TensorRT 10 took as a wish.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from teco.core.errors import USAGE, TecoError
from teco.model.engine.api import EngineLayer, Network, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

LABELS = ("fp32", "fp16", "int8")
"""Precisions that an export can be asked for."""

LEAST_SHARE = {"fp16": 0.4, "int8": 0.25}
"""Share of the convolutions that must have the precision of the label. Chosen, not measured: fp16
keeps float32 islands (flow, grid), int8 keeps layers in float that measured sensitivity names; a
file in which fewer are left is not what its label says."""

_PRECISIONS = {
    "FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "UINT8": "uint8",
    "FP8": "fp8", "INT4": "int4", "FP4": "fp4",
}  # fmt: skip

_COMPUTED = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "fp4")
_ORDER = {name: n for n, name in enumerate((*_COMPUTED, "uint8"))}

_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")

_MOVES = frozenset(
    (
        "CONSTANT", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "DYNAMIC_QUANTIZE", "SHAPE",
        "SHUFFLE", "SLICE", "CONCATENATION", "GATHER", "SCATTER", "SELECT", "SQUEEZE", "UNSQUEEZE",
        "PADDING", "FILL", "REVERSE_SEQUENCE", "ASSERTION",
    )
)  # fmt: skip
"""Layer types that store, move or convert values and compute none. A type that is not named here
counts as computing, so that a new one is not overlooked."""


@dataclass(frozen=True)
class Proof:
    """The precision of a network, counted.

    Attributes:
        source: "network" as parsed, or "engine" as its inspector describes it.
        layers: computing layers (not constants, casts and moves, nor shape arithmetic) by the
            precision of what they write; an int8 convolution counts as int8.
        convolutions: convolutions and transposed convolutions among them, of a network those of
            more than one input channel: filters of luma are bound by memory in every precision.
            int8 are those whose
            picture and whose weights both come straight from a dequantisation of int8; of a parsed
            network only plain ones, as nothing tells there what becomes of a transposed one.
        warps: GridSample layers by the precision of what they sample.
        grids: the same layers by the precision of their coordinates.
        ports: type of each input and output, by name.
    """

    source: Literal["network", "engine"]
    layers: dict[str, int]
    convolutions: dict[str, int]
    warps: dict[str, int]
    grids: dict[str, int]
    ports: dict[str, str]

    def text(self, asked: str) -> str:
        """One line, such as "fp16 in 41 of 47 layers (20 of 21 convolutions), GridSample fp32"; of
        int8 also how many layers are in float16."""
        words = [
            f"{asked} in {self.layers.get(asked, 0)} of {sum(self.layers.values())} layers"
            f" ({self.convolutions.get(asked, 0)} of {sum(self.convolutions.values())}"
            " convolutions)"
        ]
        if asked == "int8" and (half := self.layers.get("fp16")):
            words.append(f"fp16 in {half}")
        if self.warps:
            words.append(f"GridSample {_names(self.warps)}")
        if self.grids and self.grids != self.warps:
            words.append(f"its grid {_names(self.grids)}")
        return ", ".join(words)


def of_network(network: Network) -> Proof:
    """Count a parsed network's types; it works without a GPU, with each of the bindings."""
    layers = [network.get_layer(n) for n in range(network.num_layers)]
    source: dict[str, EngineLayer] = {}
    for layer in layers:
        for tensor in _outputs(layer):
            source[tensor.name] = layer
    computing, convolutions = Counter[str](), Counter[str]()
    warps, grids = Counter[str](), Counter[str]()
    for layer in layers:
        kind = layer.type.name
        written = [t for t in _outputs(layer) if not t.is_shape_tensor]
        precision = _precision(written[0]) if written else ""
        if kind in _MOVES or precision not in _COMPUTED:
            continue
        if kind in _CONVOLUTIONS:
            if kind == "CONVOLUTION" and all(_from_int8(layer, n, source) for n in (0, 1)):
                precision = "int8"
            if _channels_in(layer) > 1:
                convolutions[precision] += 1
        elif kind == "GRID_SAMPLE":
            for tally, index in ((warps, 0), (grids, 1)):
                tensor = layer.get_input(index)
                if tensor is not None:
                    tally[_precision(tensor)] += 1
        computing[precision] += 1
    ports = [network.get_input(n) for n in range(network.num_inputs)]
    ports += [network.get_output(n) for n in range(network.num_outputs)]
    return Proof(
        "network",
        _sorted(computing),
        _sorted(convolutions),
        _sorted(warps),
        _sorted(grids),
        {t.name: _precision(t) for t in ports},
    )


_ONNX_MOVES = frozenset(
    (
        "Constant", "Cast", "Identity", "Shape", "Size", "Reshape", "Flatten", "Transpose", "Slice",
        "Split", "Concat", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements",
        "Where", "Squeeze", "Unsqueeze", "Pad", "Expand", "Tile", "Range", "ConstantOfShape",
        "DepthToSpace", "SpaceToDepth", "QuantizeLinear", "DequantizeLinear",
    )
)  # fmt: skip
"""The same for ONNX operators."""

_ONNX_PRECISIONS = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "uint8"
}  # fmt: skip


def of_onnx(model: ModelProto) -> Proof:
    """Count an ONNX graph's types, before anything has parsed it.

    Raises:
        TecoError: types cannot be inferred, so the graph contradicts itself.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise TecoError(
            f"the types of the ONNX graph contradict each other: {str(error).splitlines()[0]}",
            hint="export it again with `teco export`",
        ) from error
    graph = inferred.graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type

    def precision(name: str) -> str:
        kind = types.get(name)
        if not kind:
            return ""
        name = onnx.helper.tensor_dtype_to_np_dtype(kind).name
        return _ONNX_PRECISIONS.get(name, name)

    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
    whole = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and precision(node.input[0]) == "int8"
    }
    computing, convolutions = Counter[str](), Counter[str]()
    warps, grids = Counter[str](), Counter[str]()
    for node in graph.node:
        written = precision(node.output[0])
        if node.op_type in _ONNX_MOVES or written not in _COMPUTED:
            continue
        if node.op_type in ("Conv", "ConvTranspose"):
            if whole.issuperset(node.input[:2]):
                written = "int8"
            kernel = shapes.get(node.input[1], ())
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            axis, groups = (1, groups) if node.op_type == "Conv" else (0, 1)
            # 0 where the shape is not known: then it counts.
            if (kernel[axis] * groups if len(kernel) > axis else 0) != 1:
                convolutions[written] += 1
        elif node.op_type == "GridSample":
            warps[precision(node.input[0])] += 1
            grids[precision(node.input[1])] += 1
        computing[written] += 1
    return Proof(
        "network",
        _sorted(computing),
        _sorted(convolutions),
        _sorted(warps),
        _sorted(grids),
        {v.name: precision(v.name) for v in (*graph.input, *graph.output)},
    )


def check_precision(proof: Proof, asked: str, *, what: str = "the network") -> None:
    """Raise where a label is not borne out.

    Args:
        proof: of what bears the label.
        asked: one of :data:`LABELS`.
        what: names it in the message.

    Raises:
        TecoError: fp32 with a layer of lower precision, fp16 or int8 with too few convolutions of
            it (:data:`LEAST_SHARE`), coordinates of a warp below fp32, or no such label.
    """
    if asked not in LABELS:
        raise TecoError(
            f"nothing can be labelled {asked!r}; expected {', '.join(LABELS)}", exit_code=USAGE
        )
    count = sum(proof.convolutions.values())
    found = _names(proof.convolutions) or "none"
    if proof.source == "engine":
        _check_engine(proof, asked, what)
    elif asked == "fp32":
        lower = {name: n for name, n in proof.layers.items() if name != "fp32"}
        if lower:
            raise TecoError(
                f"{what} is labelled fp32 and {sum(lower.values())} of its "
                f"{sum(proof.layers.values())} layers are {' and '.join(lower)}",
                hint="`teco export` without --fp16 or --int8 writes one in fp32",
            )
    elif proof.convolutions.get(asked, 0) < max(1, LEAST_SHARE[asked] * count):
        missing = (
            "no QuantizeLinear and DequantizeLinear feed them"
            if asked == "int8" and "int8" not in proof.convolutions
            else f"{asked} in {proof.convolutions.get(asked, 0)} of {count}"
        )
        again = "--int8 --calibrate CLIP" if asked == "int8" else "--fp16"
        raise TecoError(
            f"{what} is labelled {asked} and its convolutions are {found}: {missing}",
            hint=f"precision comes from the ONNX file: `teco export {again}` writes one in {asked}",
        )
    if coarse := [name for name in proof.grids if name != "fp32"]:
        # Eleven bits are two pixels of a 4K picture (pytorch#96429).
        raise TecoError(
            f"{what} samples the past at {_names(proof.grids)} coordinates; {coarse[0]} cannot "
            "place a pixel",
            hint="`teco export` keeps them in fp32",
        )


def _check_engine(proof: Proof, asked: str, what: str) -> None:
    """Only contradictions: fusion hides single convolutions from the inspector.

    Written from the inspector's documentation and public examples; not yet run on a GPU.
    """
    lower = [name for name in proof.layers if name != "fp32"]
    if (asked == "fp32" and lower) or (asked != "fp32" and asked not in proof.layers):
        raise TecoError(
            f"{what} is labelled {asked} and its inspector shows {_names(proof.layers) or 'none'}",
            hint="report this with the versions that `teco doctor` prints",
        )


def of_engine(information: str) -> Proof | None:
    """Count the types of a built engine's layers; None where the inspector tells none.

    A layer whose formats are not told (an engine of dynamic sizes says "N/A due to dynamic shapes"
    of them) counts by the type of its weights, where it has any.

    Args:
        information: ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)`` of an
            engine that was built with ``ProfilingVerbosity.DETAILED``.

    Raises:
        TecoError: it holds no list of layers.

    Written from NVIDIA's documentation of the inspector and public examples of its output, in which
    types are words in a sentence ("Row major linear FP16 format") or alone ("Half"); not yet run on
    a GPU.
    """
    try:
        data: Any = json.loads(information)
        listed: Any = data["Layers"] if isinstance(data, dict) else data
        layers = [cast("dict[str, Any]", x) for x in listed if isinstance(x, dict)]
    except (ValueError, KeyError, TypeError) as error:
        raise TecoError(f"the engine inspector gave no list of layers: {error!r}") from error
    computing, convolutions = Counter[str](), Counter[str]()
    warps, grids = Counter[str](), Counter[str]()
    for layer in layers:
        kind = str(layer.get("LayerType", ""))
        inputs = [_type_in(x, "Format/Datatype") for x in layer.get("Inputs", [])]
        outputs = [_type_in(x, "Format/Datatype") for x in layer.get("Outputs", [])]
        precision = (outputs[0] if outputs else "") or _type_in(layer.get("Weights"), "Type")
        if kind in _ENGINE_MOVES or precision not in _COMPUTED:
            continue
        about = " ".join(str(layer.get(k, "")) for k in ("LayerType", "ParameterType", "Name"))
        if re.search("conv", about, re.IGNORECASE):
            if inputs and inputs[0] == "int8":
                precision = "int8"
            convolutions[precision] += 1
        elif re.search("grid_?sampl", about, re.IGNORECASE):
            warps[inputs[0] if inputs else precision] += 1
            grids[inputs[1] if len(inputs) > 1 else precision] += 1
        computing[precision] += 1
    if not computing:
        return None
    return Proof(
        "engine", _sorted(computing), _sorted(convolutions), _sorted(warps), _sorted(grids), {}
    )


_ENGINE_MOVES = frozenset(("Reformat", "Constant", "Shuffle", "NoOp", "Shape", "Signal", "Wait"))
_WORDS = (
    ("bf16", r"\bBF16\b|\bBFloat16\b"),
    ("fp16", r"\bFP16\b|\bHalf\b"),
    ("fp8", r"\bFP8\b"),
    ("int8", r"\bINT8\b"),
    ("fp32", r"\bFP32\b|\bFloat\b"),
)


def _type_in(described: Any, field: str) -> str:
    """The precision that a field of an object of the inspector's speaks of; "" for none."""
    text = str(described.get(field, "")) if isinstance(described, dict) else ""
    found = (name for name, pattern in _WORDS if re.search(pattern, text, re.IGNORECASE))
    return next(found, "")


def _outputs(layer: EngineLayer) -> Iterator[Tensor]:
    for n in range(layer.num_outputs):
        tensor = layer.get_output(n)
        if tensor is not None:
            yield tensor


def _channels_in(layer: EngineLayer) -> int:
    """Channels of what a convolution reads."""
    read = layer.get_input(0)
    assert read is not None
    return read.shape[1]


def _precision(tensor: Tensor) -> str:
    name = tensor.dtype.name
    return _PRECISIONS.get(name, name.lower())


def _from_int8(layer: EngineLayer, index: int, source: dict[str, EngineLayer]) -> bool:
    """Whether a layer's input is a dequantised int8 tensor; a constant kernel is no input."""
    tensor = layer.get_input(index) if index < layer.num_inputs else None
    before = None if tensor is None else source.get(tensor.name)
    if before is None or before.type.name != "DEQUANTIZE":
        return False
    stored = before.get_input(0)
    return stored is not None and _precision(stored) == "int8"


def _sorted(tally: Counter[str]) -> dict[str, int]:
    return dict(sorted(tally.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


def _names(tally: dict[str, int]) -> str:
    if len(tally) == 1:
        return next(iter(tally))
    return " and ".join(f"{name} ({n})" for name, n in tally.items())
