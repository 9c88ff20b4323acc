"""The checks of an engine, one finding for each.

It is held against its manifest, its header and the ONNX file it was built from. On a machine that
it fits it runs through the temporal gate, and elsewhere the report says that it was not run.

Running an engine through the gate has not yet been done on a GPU.
"""

from __future__ import annotations

from pathlib import Path

from teco.core.errors import FAILED, MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.log import Progress
from teco.core.machine import missing_extra
from teco.model.engine import api, header, precision_check, preflight
from teco.model.engine.manifest import EngineManifest, parse_size
from teco.model.engine.precision_check import Proof
from teco.model.opening import open_model
from teco.runtimes import Session, SessionOptions, find
from teco.verification.gate_findings import add_gate_findings
from teco.verification.parity import GATE_SIZE
from teco.verification.reference import find_reference
from teco.verification.report import Report, VerifyOptions

SESSIONS = {"rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}
"""Kind of engine -> the runtime that runs it."""


def verify_engine(path: Path, options: VerifyOptions, progress: Progress) -> Report:
    """Verify an engine; arguments and errors as of :func:`teco.verification.verify.verify`."""
    report = Report(path, "engine")
    try:
        manifest = preflight.read(path)
    except TecoError as error:
        if error.exit_code != FAILED:
            raise
        report.add("file", False, error.message)
        return report
    report.variant, report.precision = manifest.model.variant, manifest.precision_asked
    report.size = manifest.size
    if options.runtime not in (None, SESSIONS[manifest.target]):
        raise TecoError(
            f"{options.runtime} does not run {path.name}, an engine of {manifest.product}",
            hint=f"--runtime {SESSIONS[manifest.target]}, or none",
            exit_code=USAGE,
        )
    _check_files(path, manifest, report)
    _check_contents(manifest, report)
    _check_source(path, manifest, report)
    _run(path, manifest, options, report, progress)
    return report


def _check_files(path: Path, manifest: EngineManifest, report: Report) -> None:
    """What :func:`teco.model.engine.preflight.read` has compared, as findings."""
    report.add(
        "file", True, f"{manifest.length} bytes, sha256 {manifest.sha256[:12]}... as it says"
    )
    head = header.read(path)
    if head is None or head.version is None or head.compute_capabilities is None:
        report.add("header", None, f"nothing is known of a {manifest.product} plan's header")
    else:
        sms = ", ".join(map(str, head.compute_capabilities))
        report.add("header", True, f"{manifest.product} {head.version} for SM {sms} as it says")


def _check_contents(manifest: EngineManifest, report: Report) -> None:
    """The manifest against the one of the ONNX file that it holds."""
    model, contract = manifest.model, manifest.model.contract
    ports = {*contract.inputs, *contract.outputs}
    if manifest.precision_asked != model.precision_asked:
        text = f"labelled {manifest.precision_asked}, its ONNX file {model.precision_asked}"
    elif model.sha256 and model.sha256 != manifest.onnx_sha256:
        text = "it says two different sha256 of its ONNX file"
    elif manifest.proof.ports and set(manifest.proof.ports) != ports:
        text = (
            f"ports are {', '.join(manifest.proof.ports)}, its stream contract says "
            f"{', '.join(sorted(ports))}"
        )
    else:
        report.add("manifest", True, "the engine's and its ONNX file's parts agree")
        asked = manifest.precision_asked
        words = f"as parsed when it was built: {manifest.proof.text(asked)}"
        if manifest.built is not None:
            words += f"; as built: {manifest.built.text(asked)}"
        report.add("precision", True, words)
        return
    report.add("manifest", False, text)


def _check_source(path: Path, manifest: EngineManifest, report: Report) -> None:
    """The recorded proof against the ONNX file itself, where that lies beside the engine."""
    for onnx in sorted(path.parent.glob("*.onnx")):
        if onnx.is_file() and sha256_of(onnx) == manifest.onnx_sha256:
            break
    else:
        report.add("source", None, "the ONNX file that it was built from is not in its folder")
        return
    try:
        proof, reader = _proof(onnx, manifest)
        if proof is None:
            report.add("source", None, reader)
            return
        precision_check.check_precision(proof, manifest.precision_asked, what=onnx.name)
    except TecoError as error:
        report.add("source", False, error.message)
        return
    text = f"{onnx.name} by {reader}: {proof.text(manifest.precision_asked)}"
    # Another release may parse the same file into other layers; the same one may not.
    same = reader == f"{manifest.product} {manifest.runtime_version}"
    if same and proof != manifest.proof:
        report.add("source", False, f"{text}; it says {manifest.proof.text(report.precision)}")
        return
    report.add("source", True, text)


def _proof(onnx: Path, manifest: EngineManifest) -> tuple[Proof | None, str]:
    """A proof read from the ONNX file now, and by whom; or None and why there is none."""
    if api.is_installed(manifest.target):
        from teco.model.engine.network import make_logger, parse

        trt = api.load(manifest.target, f"parsing {onnx}")
        parsed = parse(trt, onnx.read_bytes(), make_logger(trt), onnx)
        return precision_check.of_network(parsed.network), f"{manifest.product} {trt.__version__}"
    if reason := missing_extra("onnx", "torch", f"counting the types of {onnx.name}"):
        return None, reason
    import onnx as library

    return precision_check.of_onnx(library.load(str(onnx))), "its own tensor types"


def _run(
    path: Path,
    manifest: EngineManifest,
    options: VerifyOptions,
    report: Report,
    progress: Progress,
) -> None:
    """Preflight for this machine, then the gate."""

    def not_here(error: TecoError) -> None:
        hint = f" ({error.hint})" if error.hint else ""
        report.add("machine", None, f"{error.message}{hint}")
        report.add("gate", None, "the engine was not run here")
        report.refused = error.message if options.runtime else ""

    if not report.holds:
        report.add("gate", None, "an engine that contradicts itself is not run")
        return
    try:
        preflight.check(path)
        runtime = find(SESSIONS[manifest.target])
        if reason := runtime.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if manifest.target == "rtx":
            from teco.model.engine.validity import check_validity

            check_validity(path)
    except TecoError as error:
        if error.exit_code != MACHINE:
            report.add("machine", False, error.message)
            return
        not_here(error)
        return
    report.add("machine", True, f"{manifest.product} {manifest.runtime_version} and its GPU")
    reference = find_reference(path, manifest.model, options, report)
    if reference is None:
        return
    candidate: Session | None = None
    try:
        model = open_model(str(path))
        candidate = runtime.open(model, SessionOptions(threads=options.threads))
        add_gate_findings(candidate, reference, model, _size(manifest), options, report, progress)
    except TecoError as error:
        if candidate is not None or error.exit_code == USAGE:
            raise
        if error.exit_code == MACHINE:
            not_here(error)
        else:
            report.add("opens", False, error.message)
    finally:
        reference.close()
        if candidate is not None:
            candidate.close()


def _size(manifest: EngineManifest) -> tuple[int, int]:
    """LR (h, w) to run at: the gate's usual one where the engine takes it."""
    low, high = manifest.limits
    if all(a <= x <= b for a, x, b in zip(low, GATE_SIZE, high, strict=True)):
        return GATE_SIZE
    return parse_size(manifest.profile[1])
