"""``teco verify``: is a model file what it says? Chooses the checks of its kind."""

from __future__ import annotations

from pathlib import Path

from teco.core.errors import USAGE, TecoError
from teco.core.log import Progress, no_progress
from teco.model.opening import shipped_models
from teco.verification.engine_file import verify_engine
from teco.verification.onnx_file import verify_onnx
from teco.verification.report import Report, VerifyOptions
from teco_models import zoo


def verify(spec: str, options: VerifyOptions, progress: Progress = no_progress) -> Report:
    """Verify a file.

    Args:
        spec: an ONNX file, an engine (.plan) or the name of a shipped model.
        options: what with.
        progress: told how many frames of how many the gate has run.

    Returns:
        What was found; a file that is not what it says is a finding, not an error.

    Raises:
        TecoError: the question is wrong (exit code 2): no such file, weights, runtime or clip; or
            the clip cannot be read.
        ClipError, ModelError: the clip is too small for the bounds, or the weights cannot be read.
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
        return verify_engine(path, options, progress)
    if suffix != ".onnx":
        raise TecoError(
            f"{spec} is nothing that can be verified; expected an .onnx file, an engine (.plan) or "
            "a shipped model's name",
            hint=shipped_models(),
            exit_code=USAGE,
        )
    return verify_onnx(path, options, progress)
