"""The float32 step that a file is held against, and the temporal gate beside it."""

from __future__ import annotations

from pathlib import Path

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.machine import missing_extra, require_extra
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import Model, check_frame_size, open_model
from teco.runtimes import Session, SessionOptions, find
from teco.verification.parity import reference_session
from teco.verification.report import DEFAULT_RUNTIME, Progress, Report, VerifyOptions
from teco.verification.temporal_gate import (
    GateClip,
    bounds_of,
    default_frames,
    gate_model,
    read_clip,
)
from teco_calibration.errors import ClipError
from teco_models import zoo


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
    from teco.model.weights_digest import weights_digest
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
