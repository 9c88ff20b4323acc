"""The temporal gate as part of ``teco verify``: one finding for each of its bounds."""

from __future__ import annotations

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.log import Progress
from teco.model.opening import Model, check_frame_size
from teco.runtimes import Session
from teco.verification.report import Report, VerifyOptions
from teco.verification.temporal_gate import (
    GateClip,
    bounds_of,
    default_frames,
    read_clip,
    run_temporal_gate,
)
from teco_calibration.errors import ClipError


def add_gate_findings(
    candidate: Session,
    reference: Session,
    model: Model,
    size: tuple[int, int],
    options: VerifyOptions,
    report: Report,
    progress: Progress,
) -> None:
    """Run the temporal gate by the bounds of the file's label.

    Args:
        candidate: the file's session.
        reference: the float32 step of its weights.
        model: the file.
        size: LR (h, w) of the frames that are made where no clip is given.
        options: of the verification.
        report: gets one finding for each bound.
        progress: told the frames that are done.

    Raises:
        TecoError: too few frames asked for, a clip that cannot be used, or one of another size than
            the file takes.
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
        clip = read_clip(options.clip, model.variant.degradation, scale=model.variant.scale)
        if clip.frames:
            check_frame_size(model, *clip.frames[0].shape[:2])
    else:
        clip = GateClip(default_frames(*size, count))
    try:
        verdict = run_temporal_gate(
            candidate, reference, clip, bounds=bounds, count=count, progress=progress
        )
    except ClipError as error:
        if error.exit_code != MACHINE:
            raise
        report.add("gate", None, error.message)
        return
    report.gate = verdict
    for check in verdict.checks:
        report.add(f"gate {check.bound}", check.passed, check.sentence)
