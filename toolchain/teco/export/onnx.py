"""Weights to a verified ONNX file with its manifest.

One step with explicit state, opset 18, weights inside the file, no traces of the machine that made
it. The file gets its name only after ONNX Runtime has run it beside the float32 PyTorch step for a
recurrent sequence and the two agreed.

For fp16 "agreed" means the temporal gate's bounds rather than rounding. What a CPU can show of it:
ONNX Runtime has no float16 convolutions for x86, computes them in float32 and drops the casts
between them, so it sees the rounding of weights and inputs and not that of every tensor. Rounding
all of them, as a GPU does, was measured with PyTorch's own float16 on a CPU (a minute a frame):
teco-x4-b3-c64 at 180x320 is then 0.019 steps of 255 RMS from float32, its largest difference 0.20,
where ONNX Runtime shows 0.0015 and 0.023.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.core.files import sha256_of, write_beside
from teco.core.garbage import no_collection
from teco.core.machine import require_extra, version_of
from teco.export.web_graph import as_web
from teco.model.contract import StreamContract
from teco.model.engine import precision
from teco.model.manifest import METADATA_KEY, Manifest, Parity, check_target, manifest_path
from teco.model.opening import Model
from teco.model.precision import tensor_types
from teco.model.weights_digest import weights_digest
from teco.runtimes import SessionOptions, find
from teco.runtimes.ports import shape_of
from teco.verification.parity import (
    DYNAMIC_SIZES,
    FRAMES,
    GATE_SIZE,
    MAX_DIFFERENCE,
    ParityError,
    measure_parity,
    reference_session,
)
from teco.verification.temporal_gate import GateClip, default_frames, gate_model
from teco_calibration.temporal_gate.verdict import FP16
from teco_models.variant import MIN_SIZE, SCALE

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from teco.export.quantisation.clips import CalibrationSet
    from teco.export.quantisation.run import Quantised
    from teco_calibration.temporal_gate.verdict import Verdict
    from teco_models.checkpoint import Weights
    from teco_models.deploy.ports import Io

Precision = Literal["fp32", "fp16", "int8"]
"""Of the convolutions: :mod:`teco_models.deploy.step` for the first two, for int8
:mod:`teco.export.quantisation`."""

OPSET = 18
"""Highest opset whose GridSample mode is still called "bilinear"; TensorRT's importer silently
takes NEAREST for opset 20's "linear" (TensorRT#4646). Browsers get 17
(:mod:`teco.export.web_graph`)."""

DEFAULT_TARGET = "onnxruntime"
"""The runtime of the base install."""

WEB = "web"
"""The target for browsers, whose graph is of another opset: :mod:`teco.export.web_graph`."""

LEAST_INT8_PSNR = 30.0
"""Worst frame of an int8 file against PyTorch, dB. What int8 may cost is judged on its smaller form
by the gate; this tells a graph that computes something else."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export.

    Attributes:
        size: (h, w) of a static LR frame, None for any size.
        precision: of the convolutions, see :data:`Precision`.
        calibration: of int8, None for the defaults.
        io: type of frames and pictures at the ports, see :mod:`teco_models.deploy.ports`.
        target: runtime whose fastest form is written, see :data:`teco_models.deploy.step.TARGETS`;
            every form runs on every runtime.
        without: names of :class:`teco_models.deploy.step.Rewrites` fields to switch off besides.
        half_weights: store weights as float16 where that loses nothing, for half the file; a Cast
            to float32 follows each, and everything is computed in float32.
        frames: recurrent frames of the verification, at least 10.
        shared_with: a safetensors file in the folder of the result; weights that lie in it byte for
            byte are not stored again but referred to (ONNX's external data). For shipped models.
        name: file name without suffix; None for the variant's name and :attr:`suffix`.
    """

    size: tuple[int, int] | None = None
    precision: Precision = "fp32"
    calibration: CalibrationSet | None = None
    io: Io = "fp32"
    target: str = DEFAULT_TARGET
    without: tuple[str, ...] = ()
    half_weights: bool = False
    frames: int = FRAMES
    shared_with: Path | None = None
    name: str | None = None

    @property
    def is_half(self) -> bool:
        """Whether float16 is what rounds most, so that the gate judges by its bounds."""
        return self.precision != "int8" and "fp16" in (self.precision, self.io)

    @property
    def halves(self) -> str:
        """What is rounded to float16, for messages."""
        return "fp16" if self.precision == "fp16" else "fp32 with float16 ports"

    @property
    def without_half(self) -> str:
        """A hint for those whose network does not stand it."""
        return f"export it without {'--fp16' if self.precision == 'fp16' else '--io fp16'}"

    @property
    def suffix(self) -> str:
        """What a file name says of these: "-180x320-fp16-uint8io-openvino" at most."""
        words = [f"{self.size[0]}x{self.size[1]}"] if self.size else []
        words += [self.precision] if self.precision != "fp32" else []
        words += [f"{self.io}io"] if self.io != "fp32" else []
        words += [self.target] if self.target != DEFAULT_TARGET else []
        return "".join(f"-{word}" for word in words)


def export_onnx(
    weights: Weights,
    folder: Path,
    options: ExportOptions | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
    overwrite: bool = False,
) -> Path:
    """Export, verify, then name.

    Args:
        weights: from :func:`teco_models.checkpoint.load_weights`.
        folder: where the ``.onnx`` and its ``.json`` go; must exist.
        options: what to export.
        say: told what is being done, one line each.
        overwrite: replace files of the same name.

    Returns:
        Path of the ONNX file.

    Raises:
        TecoError: an extra is missing, the folder cannot be written, the file exists.
        ParityError: the file is not what the weights are, or its precision changes too much;
            nothing is left under the final name.
    """
    options = options or ExportOptions()
    for module in ("torch", "onnx", "onnxscript"):
        require_extra(module, "train", "exporting")
    from teco.export.quantisation.timing import compare_speed
    from teco_models.checkpoint import build
    from teco_models.deploy.ports import with_ports
    from teco_models.deploy.step import TARGETS, deploy_step

    if options.frames < 10:
        raise TecoError(f"verification needs at least 10 frames, got {options.frames}")
    if options.target == WEB:
        _check_web_options(options)
    name = options.name or weights.variant.name + options.suffix
    path = folder / f"{name}.onnx"
    check_target(path, overwrite)
    rewrites = replace(TARGETS[options.target], **dict.fromkeys(options.without, False))
    say(f"tracing {weights.variant.name}")
    contract = StreamContract.of(weights.variant, options.io)
    inner = "fp16" if options.precision == "fp16" else "fp32"
    step = with_ports(deploy_step(build(weights), rewrites, inner), options.io)
    model = trace(step, contract, options.size)
    _forget_origins(model)
    if options.target == WEB:
        as_web(model)
    in_float, chosen = model, None
    if options.precision == "int8":
        chosen = _quantised(model, step, weights, name, options, say)
        model = chosen.model
    if options.half_weights:
        store_half(model)
    found = tensor_types(model)
    proof = precision.of_onnx(model)
    precision.check_label(proof, options.precision, what=name)
    if options.precision != "fp32":
        say(proof.text(options.precision))
    data: dict[str, str] = {}
    if options.shared_with is not None and share_data(model, options.shared_with):
        data[options.shared_with.name] = sha256_of(options.shared_with)
    manifest = Manifest(
        variant=weights.variant.name,
        precision_asked=options.precision,
        precision_found=found,
        size=f"{options.size[0]}x{options.size[1]}" if options.size else "dynamic",
        contract=contract,
        rewrites=asdict(rewrites),
        parity=None,
        weights_sha256=weights_digest(weights),
        data_sha256=data,
        target=options.target,
        versions={p: v for p in ("teco", "torch", "onnx", "onnxscript") if (v := version_of(p))},
        int8=None if chosen is None else chosen.record,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.to_json()
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.onnx")
    form = path.with_name(f".{path.stem}.{os.getpid()}.gate.part.onnx")
    try:
        _write(part, model.SerializeToString())
        candidate = Model(name, weights.variant, onnx=part, manifest=manifest)
        sizes = (options.size,) if options.size else DYNAMIC_SIZES
        say(f"verifying {options.frames} recurrent frames at {_sizes(sizes)} against PyTorch")
        try:
            parity = measure_parity(candidate, weights, sizes, options.frames)
        except ParityError as error:
            raise ParityError(f"{error.message}; no file was written") from error
        _check_parity(parity, options, name)
        final = replace(manifest, parity=parity, sha256=sha256_of(part))
        if options.is_half:
            small = candidate
            if options.size and options.size[0] * options.size[1] > GATE_SIZE[0] * GATE_SIZE[1]:
                twin = trace(step, contract, GATE_SIZE)
                _write(form, twin.SerializeToString())
                small = replace(candidate, onnx=form)
                gate_size = GATE_SIZE
            else:
                gate_size = options.size or GATE_SIZE
            say(f"the gate's {FP16.frames} frames and scene cuts at {_sizes((gate_size,))}")
            verdict = judge_half(small, weights, gate_size)
            if not verdict.accepted:
                raise ParityError(
                    f"{name} in {options.halves} is not close enough to float32: "
                    f"{'; '.join(verdict.reasons)}; no file was written",
                    hint=options.without_half,
                )
            final = replace(final, gate=verdict, gate_size=_sizes((gate_size,)))
        if chosen is not None:
            _write(form, in_float.SerializeToString())
            say("timing it beside float32")
            timings = compare_speed(replace(candidate, onnx=form), candidate, options.target)
            for timing in timings:
                say(timing.sentence)
            record = replace(chosen.record, timings=timings)
            final = replace(final, gate=chosen.verdict, gate_size=record.size, int8=record)
        # An older manifest goes first, so that at no moment does one describe another file; the
        # one inside the new file bridges the gap.
        manifest_path(path).unlink(missing_ok=True)
        part.replace(path)
        write_beside(manifest_path(path), final.to_json().encode())
    except OSError as error:
        raise TecoError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
        form.unlink(missing_ok=True)
    return path


def _check_web_options(options: ExportOptions) -> None:
    """Raise TecoError for what a browser would compute on the CPU, or differently on each GPU."""
    if options.precision != "fp32" or options.io != "fp32":
        asked = f"--{options.precision}" if options.precision != "fp32" else f"--io {options.io}"
        raise TecoError(
            f"--for web is float32 with float32 ports, and {asked} was asked for: WebGPU runs "
            "neither 8-bit integers nor, on every machine, float16",
            hint=f"leave {asked} out; --half-weights halves the download all the same",
            exit_code=USAGE,
        )


def _quantised(
    model: ModelProto,
    step: nn.Module,
    weights: Weights,
    name: str,
    options: ExportOptions,
    say: Callable[[str], None],
) -> Quantised:
    """The traced step in int8, judged by the gate."""
    from teco.export.quantisation.clips import CalibrationSet
    from teco.export.quantisation.run import quantise

    contract = StreamContract.of(weights.variant, options.io)
    driven = Manifest(  # all that a session reads of it is the contract
        variant=weights.variant.name, precision_asked="int8", precision_found={}, size="dynamic",
        contract=contract, rewrites={}, parity=None, weights_sha256="", versions={},
    )  # fmt: skip
    about = Model(name, weights.variant, manifest=driven)
    reference = reference_session(weights)
    try:
        return quantise(
            model,
            lambda size: trace(step, contract, size),
            about,
            reference,
            options.calibration or CalibrationSet(),
            target=options.target,
            say=say,
        )
    finally:
        reference.close()


def _check_parity(parity: Parity, options: ExportOptions, name: str) -> None:
    """Raise ParityError where a file is further from PyTorch than its precision explains."""
    exact = options.precision == "fp32" and not options.is_half
    if exact and (parity.max_abs > MAX_DIFFERENCE or parity.max_steps > 1):
        raise ParityError(
            f"{name} differs from PyTorch by {parity.max_abs:.2e} after {parity.frames} "
            f"frames (allowed {MAX_DIFFERENCE:.0e}; {parity.max_steps} 8-bit steps); "
            "no file was written",
            hint="report this with the versions that `teco doctor` prints",
        )
    least = FP16.worst_psnr
    assert least is not None
    if options.is_half and parity.min_psnr is not None and parity.min_psnr < least:
        raise ParityError(
            f"{name} in {options.halves} has {parity.min_psnr:.2f} dB against PyTorch's float32 in "
            f"its worst of {parity.frames} frames, required {least:g} dB; no file was written",
            hint=options.without_half,
        )
    if options.precision == "int8" and (parity.min_psnr or LEAST_INT8_PSNR) < LEAST_INT8_PSNR:
        raise ParityError(
            f"{name} in int8 has {parity.min_psnr:.2f} dB against PyTorch's float32 in its worst "
            f"of {parity.frames} frames, where the smaller form passed the gate; required "
            f"{LEAST_INT8_PSNR:g} dB; no file was written",
            hint="report this with the versions that `teco doctor` prints",
        )


def judge_half(model: Model, weights: Weights, size: tuple[int, int]) -> Verdict:
    """The temporal gate's verdict on an fp16 file beside the float32 PyTorch step.

    Args:
        model: with an ONNX file that takes LR frames of ``size``.
        weights: what it was made from.
        size: (h, w).
    """
    candidate = find("onnxruntime").open(model, SessionOptions())
    reference = reference_session(weights)
    clip = GateClip(default_frames(*size, FP16.frames))
    try:
        return gate_model(candidate, reference, clip, bounds=FP16)
    finally:
        candidate.close()


def trace(step: nn.Module, contract: StreamContract, size: tuple[int, int] | None) -> ModelProto:
    """The step as an ONNX model.

    Args:
        step: the deploy form between its ports; its arguments are the contract's inputs in order.
        contract: names and shapes.
        size: static (h, w), or None for symbolic h and w, which the state's shapes follow.
    """
    import torch
    from torch.export import Dim

    # 45 x 75 as the example of a dynamic size: no multiple of 8, so the mirroring is traced.
    h, w = size or DYNAMIC_SIZES[0]
    ports = contract.inputs
    kinds = (contract.dtype, *(state.dtype for state in contract.states))
    example = tuple(
        torch.zeros(shape_of(shape, h, w), dtype=getattr(torch, kind))
        for shape, kind in zip(ports.values(), kinds, strict=True)
    )
    shapes: Any = None
    if size is None:
        dims = {"h": Dim("h", min=MIN_SIZE), "w": Dim("w", min=MIN_SIZE)}
        dims |= {f"{SCALE}*{name}": SCALE * dim for name, dim in dims.items()}
        shapes = tuple({n: dims[x] for n, x in enumerate(s) if x in dims} for s in ports.values())
    with _quiet(), no_collection():
        program = torch.onnx.export(
            step.requires_grad_(False),
            example,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=shapes,
            input_names=list(ports),
            output_names=list(contract.outputs),
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    _check_graph(model)
    return model


def _check_graph(model: ModelProto) -> None:
    """What other importers misread must not be in the file."""
    import onnx

    opset = {x.domain: x.version for x in model.opset_import}
    if opset.get("", 0) != OPSET:
        raise TecoError(
            f"torch.onnx wrote opset {opset.get('')}, asked for {OPSET}",
            hint="install the versions of torch and onnxscript that pyproject.toml names",
        )
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "GridSample" and attribute.name == "mode":
                mode = onnx.helper.get_attribute_value(attribute).decode()
                if mode != "bilinear":
                    raise TecoError(f"torch.onnx wrote GridSample mode {mode!r}, not bilinear")


def _forget_origins(model: ModelProto) -> None:
    """Remove source paths, stack traces and every other note the exporter leaves."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


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


def _sizes(sizes: tuple[tuple[int, int], ...]) -> str:
    return " and ".join(f"{h}x{w}" for h, w in sizes)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """torch.onnx reports its progress to stdout and deprecations of its own insides as warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
