"""The checks of an ONNX file, one finding for each.

It is held against its manifests, its ports and types against what they say, and its values against
the float32 step of the weights it names, by the temporal gate's bounds for its label. Verification
stops before a file whose bytes are not those of its manifest is given to a runtime.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from teco.core.errors import FAILED, MACHINE, USAGE, TecoError
from teco.core.log import Progress
from teco.core.machine import missing_extra
from teco.model.engine import precision_check
from teco.model.manifest import METADATA_KEY, Manifest, manifest_path
from teco.model.opening import Model, onnx_metadata, open_model
from teco.runtimes import Runtime, Session, SessionOptions, find
from teco.verification.gate_findings import add_gate_findings
from teco.verification.parity import (
    DYNAMIC_SIZES,
    FRAMES,
    GATE_SIZE,
    MAX_DIFFERENCE,
    ParityError,
    compare,
    compares_floats,
)
from teco.verification.reference import find_reference
from teco.verification.report import DEFAULT_RUNTIME, Report, VerifyOptions
from teco_models.variant import Variant


def verify_onnx(path: Path, options: VerifyOptions, progress: Progress) -> Report:
    """Verify an ONNX file; arguments and errors as of :func:`teco.verification.verify.verify`."""
    runtime = find(options.runtime or DEFAULT_RUNTIME)
    report = Report(path, "onnx")
    try:
        model = open_model(str(path))
    except TecoError as error:
        if error.exit_code != FAILED:
            raise
        report.add("file", False, error.message)
        return report
    manifest = model.manifest
    assert manifest is not None
    report.variant, report.precision = manifest.variant, manifest.precision_asked
    report.size = manifest.size
    check_runtime(runtime, model)
    _check_file(path, manifest, report)
    _check_ports(path, manifest, report)
    _check_precision(path, manifest, report)
    reference = find_reference(path, manifest, options, report)
    if reference is None or not report.holds:
        if reference is not None:
            reference.close()
            for name in ("values", "gate"):
                report.add(name, None, "a file that contradicts itself is not run")
        return report
    candidate: Session | None = None
    try:
        try:
            candidate = runtime.open(model, SessionOptions(threads=options.threads))
        except TecoError as error:
            if error.exit_code == MACHINE:
                raise
            report.add("opens", False, error.message)
            return report
        if manifest.precision_asked == "fp32" and manifest.contract.io != "fp16":
            _check_values(candidate, reference, model, report)
        size = model.static_size or GATE_SIZE
        add_gate_findings(candidate, reference, model, size, options, report, progress)
    finally:
        reference.close()
        if candidate is not None:
            candidate.close()
    return report


def check_runtime(runtime: Runtime, model: Model) -> None:
    """Raise TecoError for a runtime that cannot run the model, or not in the file's precision."""
    if reason := runtime.why_not(model):
        raise TecoError(reason, hint=f"--runtime {DEFAULT_RUNTIME} runs it", exit_code=USAGE)
    if reason := runtime.why_unavailable():
        raise TecoError(reason, exit_code=MACHINE)
    if not runtime.exact:
        raise TecoError(
            f"{runtime.name} computes in a lower precision than the file is written in, so it "
            "cannot tell whether the file is what it says",
            hint=f"--runtime {DEFAULT_RUNTIME}; `teco bench` compares the quality of runtimes",
            exit_code=USAGE,
        )


_LATER = frozenset(("parity", "sha256", "gate", "gate_size"))
"""What an export knows only when the file, and the manifest inside it, is finished."""


def _check_file(path: Path, manifest: Manifest, report: Report) -> None:
    """The bytes and both manifests; :func:`open_model` has compared the sha256 already."""
    beside = manifest_path(path)
    if not beside.exists():
        report.add("file", None, f"no {beside.name} beside it that would say its sha256")
        return
    size = path.stat().st_size
    shared = f", weights in {', '.join(manifest.data_sha256)}" if manifest.data_sha256 else ""
    report.add("file", True, f"{size} bytes{shared}, sha256 {manifest.sha256[:12]}... as it says")
    text = onnx_metadata(path).get(METADATA_KEY)
    if text is None:
        report.add("manifest", False, f"{beside.name} lies beside it, and none is inside")
        return
    try:
        inside = Manifest.from_json(text, source=f"the manifest inside {path.name}")
    except TecoError as error:
        report.add("manifest", False, error.message)
        return
    names = [f.name for f in fields(Manifest) if f.name not in _LATER]
    differ = [n for n in names if _settled(inside, n) != _settled(manifest, n)]
    if differ:
        name = differ[0]
        report.add(
            "manifest",
            False,
            f"{name} is {_short(getattr(manifest, name))} in {beside.name} and "
            f"{_short(getattr(inside, name))} inside the file",
        )
        return
    report.add("manifest", True, f"{beside.name} and the one inside the file say the same")


def _settled(manifest: Manifest, name: str) -> object:
    """A field without what an export learns only from the finished file."""
    value = getattr(manifest, name)
    return replace(value, timings=()) if name == "int8" and value is not None else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_KINDS = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
"""What ONNX Runtime calls the contract's types."""


def _check_ports(path: Path, manifest: Manifest, report: Report) -> None:
    """Names and shapes of inputs and outputs, by ONNX Runtime."""
    if reason := missing_extra("onnxruntime", "cpu", "checking inputs and outputs"):
        report.add("ports", None, reason)
        return
    import onnxruntime as ort

    from teco.runtimes.ports import shape_of, size_of

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    inputs = {x.name: list(x.shape) for x in session.get_inputs()}
    outputs = {x.name: list(x.shape) for x in session.get_outputs()}
    kinds = {x.name: x.type for x in (*session.get_inputs(), *session.get_outputs())}
    contract = manifest.contract
    expected = set(contract.inputs)
    ours = type(contract).of(Variant.parse(manifest.variant), contract.io)
    if set(inputs) != expected or set(outputs) != set(contract.outputs):
        report.add(
            "ports",
            False,
            f"the file has {', '.join(inputs)} -> {', '.join(outputs)}, its manifest "
            f"{', '.join(sorted(expected))} -> {', '.join(contract.outputs)}",
        )
        return
    if [(s.input, s.shape) for s in contract.states] != [(s.input, s.shape) for s in ours.states]:
        report.add("ports", False, f"its state is not that of {manifest.variant}")
        return
    wrong = [n for n, dtype in contract.dtypes.items() if kinds[n] != _KINDS[dtype]]
    if wrong:
        name = wrong[0]
        report.add(
            "ports", False, f"{name} is {kinds[name]}, its manifest says {contract.dtypes[name]}"
        )
        return
    shapes = contract.inputs
    static = all(isinstance(x, int) for shape in inputs.values() for x in shape)
    found = "dynamic"
    if static:
        h, w = size_of(contract, tuple(inputs[contract.frame]))
        found = f"{h}x{w}"
        wrong = [n for n, s in shapes.items() if tuple(inputs[n]) != shape_of(s, h, w)]
        if wrong:
            report.add(
                "ports", False, f"{wrong[0]} is {inputs[wrong[0]]}, which is none of {found} frames"
            )
            return
    if found != manifest.size:
        report.add("ports", False, f"the file takes {found} frames, its manifest {manifest.size}")
        return
    report.add("ports", True, f"{', '.join(shapes)} -> {', '.join(outputs)}, {found} frames")


def _check_precision(path: Path, manifest: Manifest, report: Report) -> None:
    """The label and the recorded counts against the file's own types."""
    if reason := missing_extra("onnx", "torch", "counting a file's types"):
        report.add("precision", None, reason)
        return
    import onnx

    from teco.model.onnx_types import tensor_types

    try:
        model = onnx.load(str(path))
        proof = precision_check.of_onnx(model)
        found = tensor_types(model)
        precision_check.check_precision(proof, manifest.precision_asked, what=path.name)
    except TecoError as error:
        report.add("precision", False, error.message)
        return
    recorded = manifest.precision_found
    if recorded and found != recorded:
        report.add("precision", False, f"tensors are {found}, its manifest says {recorded}")
        return
    report.add("precision", True, proof.text(manifest.precision_asked))


def _check_values(candidate: Session, reference: Session, model: Model, report: Report) -> None:
    """Differences before rounding to 8 bits, where float32 is promised."""
    sizes = (model.static_size,) if model.static_size else DYNAMIC_SIZES
    try:
        parity = compare(candidate, reference, model, sizes, FRAMES)
    except ParityError as error:
        report.add("values", False, error.message)
        return
    report.parity = parity
    assert model.manifest is not None
    what = "its state" if model.manifest.contract.dtype == "uint8" else "largest difference"
    shown = (
        f"{what} from {reference.runtime} {parity.max_abs:.1e}, allowed {MAX_DIFFERENCE:.0e}"
        if compares_floats(candidate, reference, model)
        else "its state was not compared"
    )
    report.add(
        "values",
        parity.max_abs <= MAX_DIFFERENCE and parity.max_steps <= 1,
        f"{shown}; {parity.max_steps} 8-bit steps, allowed 1; over {parity.frames} recurrent "
        f"frames at {' and '.join(parity.sizes)}",
    )
