"""Is a model file what it says? One answer for each thing that can be asked of it.

An ONNX file is held against its manifests, its ports and types against what they say, and its
values against the float32 step of the weights it names, by the temporal gate's bounds for its
label. An engine is held against its manifest, its header and the ONNX file it was built from; it
runs through the same gate on a machine that it fits, and elsewhere is said not to have been run.

Verification stops before a file whose bytes are not those of its manifest is given to a runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teco.artifact import (
    METADATA_KEY,
    Manifest,
    Model,
    Parity,
    check_frame_size,
    manifest_path,
    onnx_metadata,
    open_model,
)
from teco.engines import precision
from teco.errors import FAILED, MACHINE, USAGE, TecoError
from teco.gating import GateClip, bounds_of, default_frames, gate_model, read_clip
from teco.machine import missing_extra, require_extra
from teco.parity import (
    DYNAMIC_SIZES,
    FRAMES,
    GATE_SIZE,
    MAX_DIFFERENCE,
    ParityError,
    compare,
    compares_floats,
    reference_session,
)
from teco.runtimes import Runtime, Session, SessionOptions, find
from teco_calibration.errors import ClipError
from teco_models import zoo
from teco_models.variant import Variant

if TYPE_CHECKING:
    from teco_calibration.verdict import Verdict

Answer = Literal["yes", "no", "not run"]

DEFAULT_RUNTIME = "onnxruntime"
"""Runs ONNX files: the runtime of the base install, which their manifests' parity speaks of."""


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was asked, a word or two.
        answer: whether it holds; "not run" where it could not be asked.
        text: with what numbers, or why not.
    """

    check: str
    answer: Answer
    text: str


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What to verify with.

    Attributes:
        weights: file the model claims to be made from; None to look among the shipped models.
        model: name of a shipped model, in place of ``weights``.
        clip: ground truth for the gate; None for frames made on the spot.
        frames: recurrent frames of the gate; None for what its bounds ask for.
        runtime: that runs the candidate; None for the file's usual one, where it can run here.
        threads: CPU threads; None for all.
    """

    weights: Path | None = None
    model: str | None = None
    clip: str | None = None
    frames: int | None = None
    runtime: str | None = None
    threads: int | None = None


@dataclass
class Report:
    """What was found. Filled while verifying, read afterwards.

    Attributes:
        path: of the file.
        kind: what it is.
        variant, precision, size: what it says it is; "" where that could not be read.
        findings: in the order in which they were asked.
        parity: of the values, where they were compared.
        gate: the temporal gate's verdict, where it was run.
        wanting: the option that would let what was not run be run, a sentence, or "".
        refused: why a runtime that was asked for by name did not run it, or "".
    """

    path: Path
    kind: Literal["onnx", "engine"]
    variant: str = ""
    precision: str = ""
    size: str = ""
    findings: list[Finding] = field(default_factory=list[Finding])
    parity: Parity | None = None
    gate: Verdict | None = None
    wanting: str = ""
    refused: str = ""

    def add(self, check: str, holds: bool | None, text: str) -> None:
        """Note a finding; None is "not run"."""
        answer: Answer = "not run" if holds is None else "yes" if holds else "no"
        self.findings.append(Finding(check, answer, text))

    @property
    def holds(self) -> bool:
        """Whether nothing that was asked was answered with no."""
        return all(f.answer != "no" for f in self.findings)

    @property
    def exit_code(self) -> int:
        """1 something does not hold, 2 an option is wanting, 3 a runtime asked for cannot run."""
        if not self.holds:
            return FAILED
        return MACHINE if self.refused else USAGE if self.wanting else 0

    @property
    def verdict(self) -> str:
        """One sentence."""
        if bad := [f.check for f in self.findings if f.answer == "no"]:
            return f"{self.path.name} is not what it says: {', '.join(dict.fromkeys(bad))}"
        if open_ := [f.check for f in self.findings if f.answer == "not run"]:
            return (
                f"what could be asked of {self.path.name} holds; not run here: {', '.join(open_)}"
            )
        return f"{self.path.name} is what it says"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "variant": self.variant,
            "precision": self.precision,
            "size": self.size,
            "holds": self.holds,
            "complete": all(f.answer != "not run" for f in self.findings),
            "verdict": self.verdict,
            "wanting": self.wanting or self.refused,
            "checks": [asdict(f) for f in self.findings],
            "parity": None if self.parity is None else asdict(self.parity),
            "gate": None if self.gate is None else self.gate.as_dict(),
        }


Progress = Callable[[int, int | None], None]


def verify(
    spec: str, options: VerifyOptions, report: Progress = lambda done, total: None
) -> Report:
    """Verify a file.

    Args:
        spec: an ONNX file, an engine (.plan) or the name of a shipped model.
        options: what with.
        report: told how many frames of how many the gate has run.

    Returns:
        What was found; a file that is not what it says is a finding, not an error.

    Raises:
        TecoError: the question is wrong (exit code 2): no such file, weights, runtime or clip.
        ClipError, ModelError: the clip or the weights cannot be read.
    """
    entry = zoo.find(spec)
    path = Path(spec) if entry is None else entry.onnx
    if options.weights is not None and options.model is not None:
        raise TecoError(
            "--weights and --model both say what the file was made from",
            hint="give one of them",
            exit_code=USAGE,
        )
    suffix = path.suffix.lower()
    if suffix == ".plan":
        from teco.verify_engine import verify_engine

        return verify_engine(path, options, report)
    if suffix != ".onnx":
        raise TecoError(
            f"{spec} is nothing that can be verified; expected an .onnx file, an engine (.plan) or "
            "a shipped model's name",
            hint=f"shipped models: {', '.join(e.name for e in zoo.entries())}",
            exit_code=USAGE,
        )
    return _verify_onnx(path, options, report)


def _verify_onnx(path: Path, options: VerifyOptions, progress: Progress) -> Report:
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
        run_gate(candidate, reference, model, size, options, report, progress)
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
    import onnxruntime as ort

    from teco.runtimes.ports import shape_of

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    inputs = {x.name: list(x.shape) for x in session.get_inputs()}
    outputs = {x.name: list(x.shape) for x in session.get_outputs()}
    kinds = {x.name: x.type for x in (*session.get_inputs(), *session.get_outputs())}
    contract = manifest.contract
    expected = {contract.frame, *(s.input for s in contract.states)}
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
        h, w = (inputs[contract.frame][contract.layout.index(axis)] for axis in "HW")
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
    if reason := missing_extra("onnx", "train", "counting a file's types"):
        report.add("precision", None, reason)
        return
    import onnx

    from teco.export import tensor_types

    try:
        model = onnx.load(str(path))
        proof = precision.of_onnx(model)
        found = tensor_types(model)
        precision.check_label(proof, manifest.precision_asked, what=path.name)
    except TecoError as error:
        report.add("precision", False, error.message)
        return
    recorded = manifest.precision_found
    if recorded and found != recorded:
        report.add("precision", False, f"tensors are {found}, its manifest says {recorded}")
        return
    report.add("precision", True, proof.text(manifest.precision_asked))


# --- the reference ---------------------------------------------------------------------------


def find_reference(
    path: Path, manifest: Manifest, options: VerifyOptions, report: Report
) -> Session | None:
    """The float32 step of the weights that a file names, or None where there is none to run.

    Raises:
        TecoError, ModelError: what was asked for cannot be had.
    """
    digest = manifest.weights_sha256
    entry = _named(options.model) if options.model is not None else None
    if entry is None and options.weights is None:
        entry = next((e for e in zoo.entries() if _shipped(e).weights_sha256 == digest), None)
        if entry is None:
            report.wanting = (
                f"no shipped model has the weights {digest[:12]}... that it names; "
                "give --weights FILE"
            )
            report.add("weights", None, report.wanting)
            report.add("gate", None, "there is no reference without the weights")
            return None
    missing = missing_extra("torch", "train", "running the float32 PyTorch step")
    if options.weights is not None:
        require_extra("torch", "train", f"reading {options.weights}")
    name = str(options.weights) if entry is None else f"the shipped {entry.name}"
    if missing and entry is not None:
        ok = _check_weights(_shipped(entry).variant, _shipped(entry).weights_sha256, name,
                            manifest, report)  # fmt: skip
        if not ok:
            return None
        if entry.onnx.samefile(path):
            report.add("gate", None, f"it is the shipped file itself, and {missing}")
            return None
        return find(DEFAULT_RUNTIME).open(
            open_model(entry.name), SessionOptions(threads=options.threads)
        )
    from teco.export import weights_digest
    from teco_models.checkpoint import load_weights

    file = options.weights if entry is None else entry.weights
    assert file is not None
    if not file.is_file():
        raise TecoError(f"no weights file at {file}", hint="check the path", exit_code=USAGE)
    weights = load_weights(file)
    if not _check_weights(weights.variant.name, weights_digest(weights), name, manifest, report):
        return None
    return reference_session(weights)


def _check_weights(
    variant: str, digest: str, name: str, manifest: Manifest, report: Report
) -> bool:
    if digest != manifest.weights_sha256:
        text = (
            f"{name} has sha256 {digest[:12]}..., the file was made from "
            f"{manifest.weights_sha256[:12]}..."
        )
    elif variant != manifest.variant:
        text = f"{name} is a {variant}, the file says {manifest.variant}"
    else:
        report.add("weights", True, f"those of {name}, sha256 {digest[:12]}...")
        return True
    report.add("weights", False, text)
    report.add("gate", None, "the reference is another network")
    return False


def _named(name: str) -> zoo.Entry:
    entry = zoo.find(name)
    if entry is None:
        raise TecoError(
            f"no shipped model is called {name}",
            hint=f"shipped: {', '.join(e.name for e in zoo.entries())}; or give --weights FILE",
            exit_code=USAGE,
        )
    return entry


def _shipped(entry: zoo.Entry) -> Manifest:
    beside = manifest_path(entry.onnx)
    return Manifest.from_json(beside.read_text(encoding="utf-8"), source=str(beside))


# --- running ---------------------------------------------------------------------------------


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


def run_gate(
    candidate: Session,
    reference: Session,
    model: Model,
    size: tuple[int, int],
    options: VerifyOptions,
    report: Report,
    progress: Progress,
) -> None:
    """The temporal gate by the bounds of the file's label.

    Args:
        candidate: the file's session.
        reference: the float32 step of its weights.
        model: the file.
        size: LR (h, w) of the frames that are made where no clip is given.
        options: of the verification.
        report: gets one finding for each bound.
        progress: told the frames that are done.

    Raises:
        TecoError: too few frames asked for, or a clip of another size than the file takes.
        ClipError: the clip cannot be used.
    """
    assert model.manifest is not None
    io = model.manifest.contract.io
    bounds, note = bounds_of(report.precision, io, on_truth=options.clip is not None)
    if note:
        report.add("bounds", None, note if options.clip else f"{note}; --clip CLIP has one")
    count = bounds.frames if options.frames is None else options.frames
    if count < bounds.frames:
        raise TecoError(
            f"--frames {count} is too few: the {bounds.name} bounds are for {bounds.frames} "
            "recurrent frames",
            hint=f"--frames {bounds.frames}",
            exit_code=USAGE,
        )
    if options.clip is not None:
        clip = read_clip(options.clip, model.variant.degradation)
        if clip.frames:
            check_frame_size(model, *clip.frames[0].shape[:2])
    else:
        clip = GateClip(default_frames(*size, count))
    try:
        verdict = gate_model(
            candidate, reference, clip, bounds=bounds, count=count,
            report=lambda done: progress(done, count),
        )  # fmt: skip
    except ClipError as error:
        if error.exit_code != MACHINE:
            raise
        report.add("gate", None, error.message)
        return
    report.gate = verdict
    for check in verdict.checks:
        report.add(f"gate {check.bound}", check.passed, check.sentence)
