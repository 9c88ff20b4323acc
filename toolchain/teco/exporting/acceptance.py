"""Whether an exported file is close enough to its weights to be given its name.

Every file is run beside the float32 PyTorch step. Files that round to float16 must pass the
temporal gate as well. What a CPU can show of that: ONNX Runtime has no float16 convolutions for
x86, computes them in float32 and drops the casts between them, so it sees the rounding of weights
and inputs and not that of every tensor. Rounding all of them, as a GPU does, was measured with
PyTorch's own float16 on a CPU (a minute a frame): teco-x4-b3-c64 at 180x320 is then 0.019 steps of
255 RMS from float32, its largest difference 0.20, where ONNX Runtime shows 0.0015 and 0.023.

Files in int8 have passed the gate while they were quantised; here they are timed beside float32,
unless they are for engines.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from teco.core.errors import TecoError
from teco.core.log import ShowProgress, show_no_progress
from teco.exporting.options import ExportOptions
from teco.exporting.trace import DeployForm
from teco.model.int8 import Timing
from teco.model.manifest import Parity
from teco.model.opening import Model
from teco.runtimes import SessionOptions, find
from teco.verification.parity import (
    DYNAMIC_SIZES,
    GATE_SIZE,
    MAX_DIFFERENCE,
    ParityError,
    measure_parity,
)
from teco.verification.planes import even
from teco.verification.reference import reference_session
from teco.verification.temporal_gate import GateClip, default_frames, run_temporal_gate
from teco_calibration.temporal_gate.verdict import FP16

if TYPE_CHECKING:
    from onnx import ModelProto

    from teco_calibration.temporal_gate.verdict import Verdict
    from teco_models.checkpoint import Weights

logger = logging.getLogger(__name__)

LEAST_INT8_PSNR = 30.0
"""Worst frame of an int8 file against PyTorch, dB. What int8 may cost is judged by the gate, on the
same network traced for small frames; this only catches a graph that computes something
else."""


def verify_frames(candidate: Model, weights: Weights, options: ExportOptions) -> Parity:
    """Run a file beside PyTorch, frame by frame.

    Raises:
        ParityError: it is further away than its precision explains.
    """
    assert candidate.manifest is not None
    layout = candidate.manifest.contract.planes
    sizes = tuple(even(s, layout) for s in ((options.size,) if options.size else DYNAMIC_SIZES))
    shown = " and ".join(f"{h}x{w}" for h, w in sizes)
    logger.info("verifying %d recurrent frames at %s against PyTorch", options.frames, shown)
    try:
        parity = measure_parity(candidate, weights, sizes, options.frames)
    except ParityError as error:
        raise ParityError(f"{error.message}; no file was written") from error
    check_parity(parity, options, candidate.name)
    return parity


def check_parity(parity: Parity, options: ExportOptions, name: str) -> None:
    """Raise ParityError where a file is further from PyTorch than its precision explains."""
    exact = options.precision == "fp32" and not options.rounds_to_float16
    if exact and (parity.max_abs > MAX_DIFFERENCE or parity.max_steps > 1):
        raise ParityError(
            f"{name} differs from PyTorch by {parity.max_abs:.2e} after {parity.frames} "
            f"frames (allowed {MAX_DIFFERENCE:.0e}; {parity.max_steps} 8-bit steps); "
            "no file was written",
            hint="report this with the versions that `teco doctor` prints",
        )
    least = FP16.worst_psnr
    assert least is not None
    if options.rounds_to_float16 and parity.min_psnr is not None and parity.min_psnr < least:
        raise ParityError(
            f"{name} in {options.label} has {parity.min_psnr:.2f} dB against PyTorch's float32 in "
            f"its worst of {parity.frames} frames, required {least:g} dB; no file was written",
            hint=options.without_float16,
        )
    if options.precision == "int8" and (parity.min_psnr or LEAST_INT8_PSNR) < LEAST_INT8_PSNR:
        raise ParityError(
            f"{name} in int8 has {parity.min_psnr:.2f} dB against PyTorch's float32 in its worst "
            f"of {parity.frames} frames, where the same network passed the gate on small frames; "
            f"required {LEAST_INT8_PSNR:g} dB; no file was written",
            hint="report this with the versions that `teco doctor` prints",
        )


def judge_float16(
    candidate: Model,
    weights: Weights,
    form: DeployForm,
    options: ExportOptions,
    progress: ShowProgress = show_no_progress,
) -> tuple[Verdict, str]:
    """The temporal gate's verdict on a file that rounds to float16, and the size at which it ran.

    A static file of many pixels is judged by the same deploy form traced at a smaller size.

    Raises:
        ParityError: the gate refuses it.
    """
    h, w = options.size or GATE_SIZE
    if h * w > GATE_SIZE[0] * GATE_SIZE[1]:
        h, w = GATE_SIZE
        with _temporarily(form.graph(GATE_SIZE), candidate) as small:
            verdict = _run_gate(small, weights, (h, w), progress)
    else:
        verdict = _run_gate(candidate, weights, (h, w), progress)
    if not verdict.accepted:
        raise ParityError(
            f"{candidate.name} in {options.label} is not close enough to float32: "
            f"{'; '.join(verdict.reasons)}; no file was written",
            hint=options.without_float16,
        )
    return verdict, f"{h}x{w}"


def time_int8(candidate: Model, in_float: ModelProto, options: ExportOptions) -> tuple[Timing, ...]:
    """How fast a file in int8 is beside the same one in float32; nothing where a CPU cannot tell,
    as of a file whose other layers are in float16, or where it cannot be timed.

    Args:
        candidate: the file, which has its name already.
        in_float: the graph that was quantised.
        options: that it was made with.
    """
    from teco.exporting.quantisation.timing import compare_speed

    if options.inner != "fp32":
        logger.info("not timed beside float32: it is for engines, which a GPU times")
        return ()
    logger.info("%s is written; timing it beside float32 (Ctrl-C keeps the file)", candidate.name)
    try:
        with _temporarily(in_float, candidate) as fp32:
            timings = compare_speed(fp32, candidate, options.target)
    except TecoError as error:
        logger.warning("not timed: %s", error.message)
        return ()
    for timing in timings:
        logger.info(timing.sentence)
    return timings


def _run_gate(
    candidate: Model, weights: Weights, size: tuple[int, int], progress: ShowProgress
) -> Verdict:
    logger.info("the gate's %d frames and scene cuts at %dx%d", FP16.frames, *size)
    session = find("onnxruntime").open(candidate, SessionOptions())
    try:
        clip = GateClip(default_frames(*size, FP16.frames))
        with progress("gate", "frames") as told:
            return run_temporal_gate(
                session, reference_session(weights), clip, bounds=FP16, progress=told
            )
    finally:
        session.close()


@contextmanager
def _temporarily(graph: ModelProto, model: Model) -> Generator[Model]:
    """The model with another graph, in a file that goes again."""
    with TemporaryDirectory(prefix="teco-export-") as folder:
        path = Path(folder) / "step.onnx"
        path.write_bytes(graph.SerializeToString())
        yield replace(model, onnx=path)
