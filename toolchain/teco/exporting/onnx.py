"""Weights to a verified ONNX file with its manifest.

One step with explicit state, opset 18 (19 for an int8 engine), weights inside the file, no traces
of the machine that made it. The file gets its name only after ONNX Runtime has run it beside the
float32 PyTorch step for a recurrent sequence and the two agreed; :mod:`teco.exporting.acceptance`
says what that means in each precision.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from teco.core.files import Output, check_target, sha256_of, write_beside, write_errors
from teco.core.log import ShowProgress, show_no_progress
from teco.core.machine import require_extra, version_of
from teco.exporting.acceptance import judge_float16, time_int8, verify_frames
from teco.exporting.options import WEB, ExportOptions
from teco.exporting.stored_weights import share_data, store_half
from teco.exporting.trace import DeployForm, forget_origins
from teco.exporting.web_graph import as_web
from teco.model.engine import precision_check
from teco.model.manifest import METADATA_KEY, Manifest, manifest_path
from teco.model.onnx_types import tensor_types
from teco.model.opening import Model
from teco.model.weights_digest import weights_digest
from teco.verification.reference import reference_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from teco.exporting.quantisation.run import Quantised
    from teco_models.checkpoint import Weights

logger = logging.getLogger(__name__)


def export_onnx(
    weights: Weights,
    folder: Path,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    progress: ShowProgress = show_no_progress,
) -> Path:
    """Trace, quantise, store, verify, and only then give the file its name.

    Args:
        weights: from :func:`teco_models.checkpoint.load_weights`.
        folder: where the ``.onnx`` and its ``.json`` go; must exist.
        options: what to export.
        overwrite: replace files of the same name.
        progress: shows how far the gate is.

    Returns:
        Path of the ONNX file. One in int8 has it before it is timed, because that takes as long as
        the rest and only adds to its manifest.

    Raises:
        TecoError: an extra is missing, the folder cannot be written, the file exists.
        ParityError: the file is not what the weights are, or its precision changes too much;
            nothing is left under the final name.
    """
    options = options or ExportOptions()
    for module in ("torch", "onnx", "onnxscript"):
        require_extra(module, "torch", "exporting")
    require_extra("onnxruntime", "cpu", "verifying what is exported")
    options.check(weights.variant)
    name = options.name or weights.variant.name + options.suffix
    path = folder / f"{name}.onnx"
    check_target(path, manifest_path(path), overwrite=overwrite)

    logger.info("tracing %s", weights.variant.name)
    form = DeployForm.of(weights, options)
    in_float = form.graph(options.size)
    forget_origins(in_float)
    if options.target == WEB:
        as_web(in_float)
    quantised = None
    if options.precision == "int8":
        quantised = _quantised(in_float, form, weights, name, options, progress)
    graph = in_float if quantised is None else quantised.model
    manifest = _described(graph, form, weights, name, options, quantised)
    with Output(path) as output:
        with write_errors(path):
            output.part.write_bytes(graph.SerializeToString())
        candidate = Model(name, weights.variant, onnx=output.part, manifest=manifest)
        manifest = replace(manifest, parity=verify_frames(candidate, weights, options))
        if options.rounds_to_float16:
            verdict, size = judge_float16(candidate, weights, form, options, progress)
            manifest = replace(manifest, gate=verdict, gate_size=size)
        if quantised is not None:
            manifest = replace(manifest, gate=quantised.verdict, gate_size=quantised.record.size)
        manifest = replace(manifest, sha256=sha256_of(output.part))
        output.commit({manifest_path(path): manifest.to_json().encode()})
    if manifest.int8 is not None:
        written = replace(candidate, onnx=path, manifest=manifest)
        if timings := time_int8(written, in_float, options):
            manifest = replace(manifest, int8=replace(manifest.int8, timings=timings))
            write_beside(manifest_path(path), manifest.to_json().encode())
    return path


def _quantised(
    graph: ModelProto,
    form: DeployForm,
    weights: Weights,
    name: str,
    options: ExportOptions,
    progress: ShowProgress,
) -> Quantised:
    """The traced step in int8, judged by the gate."""
    from teco.exporting.quantisation.clips import CalibrationSet
    from teco.exporting.quantisation.run import quantise

    driven = Manifest(  # all that a session reads of it is the contract
        variant=weights.variant.name, precision_asked="int8", precision_found={}, size="dynamic",
        contract=form.contract, rewrites={}, parity=None, weights_sha256="", versions={},
    )  # fmt: skip
    reference = reference_session(weights)
    try:
        return quantise(
            graph,
            form.graph,
            Model(name, weights.variant, manifest=driven),
            reference,
            options.calibration or CalibrationSet(),
            target=options.target,
            progress=progress,
        )
    finally:
        reference.close()


def _described(
    graph: ModelProto,
    form: DeployForm,
    weights: Weights,
    name: str,
    options: ExportOptions,
    quantised: Quantised | None,
) -> Manifest:
    """Store the weights as asked, hold the types against the label, and put the manifest inside.

    Raises:
        TecoError: the label is not what the types are.
    """
    if options.half_weights:
        store_half(graph)
    proof = precision_check.of_onnx(graph)
    precision_check.check_precision(proof, options.precision, what=name)
    if options.precision != "fp32":
        logger.info(proof.text(options.precision))
    found = tensor_types(graph)
    data: dict[str, str] = {}
    if options.shared_with is not None and share_data(graph, options.shared_with):
        data[options.shared_with.name] = sha256_of(options.shared_with)
    manifest = Manifest(
        variant=weights.variant.name,
        precision_asked=options.precision,
        precision_found=found,
        size=options.size_text,
        contract=form.contract,
        rewrites=form.rewrites,
        parity=None,
        weights_sha256=weights_digest(weights),
        data_sha256=data,
        target=options.target,
        versions={p: v for p in ("teco", "torch", "onnx", "onnxscript") if (v := version_of(p))},
        int8=None if quantised is None else quantised.record,
    )
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.to_json()
    return manifest
