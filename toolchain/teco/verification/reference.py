"""The float32 step of a file's weights, which the file is held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from teco.core.errors import USAGE, TecoError
from teco.core.machine import missing_extra, require_extra
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import open_model
from teco.runtimes import Session, SessionOptions, find
from teco.verification.report import DEFAULT_RUNTIME, Report, VerifyOptions
from teco_models import zoo

if TYPE_CHECKING:
    from teco.runtimes.pytorch import PyTorchSession
    from teco_models.checkpoint import Weights


def reference_session(weights: Weights) -> PyTorchSession:
    """The float32 PyTorch step on the CPU."""
    from teco.runtimes.pytorch import PyTorchSession, arranged_for_cpu

    return PyTorchSession(arranged_for_cpu(weights))


def find_reference(
    path: Path, manifest: Manifest, options: VerifyOptions, report: Report
) -> Session | None:
    """The float32 step of the weights that a file names, or None where there is none to run.

    Args:
        path: the file.
        manifest: its own.
        options: may name the weights.
        report: gets a finding on the weights, and one on what cannot be run without them.

    Raises:
        TecoError, ModelError: what was asked for cannot be had.
    """
    if options.weights is not None:
        require_extra("torch", "torch", f"reading {options.weights}")
        return _of_file(options.weights, str(options.weights), manifest, report)
    entry = _entry(options.model, manifest.weights_sha256)
    if entry is None:
        report.wanting = (
            f"no shipped model has the weights {manifest.weights_sha256[:12]}... that it names; "
            "give --weights FILE"
        )
        report.add("weights", None, report.wanting)
        report.add("gate", None, "there is no reference without the weights")
        return None
    name = f"the shipped {entry.name}"
    missing = missing_extra("torch", "torch", "running the float32 PyTorch step")
    if not missing:
        return _of_file(entry.weights, name, manifest, report)
    # Without PyTorch, the ONNX file that was verified before it was shipped stands for the weights.
    shipped = _shipped(entry)
    if not _check_weights(shipped.variant, shipped.weights_sha256, name, manifest, report):
        return None
    if entry.onnx.samefile(path):
        report.add("gate", None, f"it is the shipped file itself, and {missing}")
        return None
    return find(DEFAULT_RUNTIME).open(
        open_model(entry.name), SessionOptions(threads=options.threads)
    )


def _of_file(file: Path, name: str, manifest: Manifest, report: Report) -> Session | None:
    """The step of a weights file, if they are the ones that the manifest names."""
    from teco.model.weights_digest import weights_digest
    from teco_models.checkpoint import load_weights

    if not file.is_file():
        raise TecoError(f"no weights file at {file}", hint="check the path", exit_code=USAGE)
    weights = load_weights(file)
    if not _check_weights(weights.variant.name, weights_digest(weights), name, manifest, report):
        return None
    return reference_session(weights)


def _check_weights(
    variant: str, digest: str, name: str, manifest: Manifest, report: Report
) -> bool:
    """Whether weights are the ones that a manifest names; a finding either way."""
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


def _entry(name: str | None, digest: str) -> zoo.Entry | None:
    """The shipped model of a name, or without one the one whose weights have this digest."""
    if name is None:
        return next((e for e in zoo.entries() if _shipped(e).weights_sha256 == digest), None)
    entry = zoo.find(name)
    if entry is None:
        raise TecoError(
            f"no shipped model is called {name}",
            hint=f"shipped: {', '.join(e.name for e in zoo.entries())}; or give --weights FILE",
            exit_code=USAGE,
        )
    return entry


def _shipped(entry: zoo.Entry) -> Manifest:
    """The manifest of a shipped model's ONNX file."""
    beside = manifest_path(entry.onnx)
    return Manifest.from_json(beside.read_text(encoding="utf-8"), source=str(beside))
