"""What an engine is measured beside where it is named alone: what it was made from."""

from __future__ import annotations

from pathlib import Path

from teco.core.files import sha256_of
from teco.model.engine.manifest import shipped_of
from teco.model.opening import Model


def siblings(model: Model) -> tuple[list[str], list[str]]:
    """The ONNX file that an engine was built from, and the shipped float32 model of its weights.

    Args:
        model: an engine.

    Returns:
        Both as :func:`teco.model.opening.open_model` takes them, of an engine in float32 the ONNX
        file alone; and a sentence on each that cannot be found.
    """
    assert model.engine is not None
    assert model.engine_manifest is not None
    built = model.engine_manifest
    found: list[str] = []
    notes: list[str] = []
    onnx = _onnx_of(model.engine.parent, built.onnx_sha256)
    if onnx is not None:
        found.append(str(onnx))
    else:
        notes.append(
            f"the ONNX file that {model.engine.name} was built from is not beside it, and is not "
            "measured"
        )
    if onnx is None or built.precision_asked != "fp32":
        shipped = shipped_of(built.model.weights_sha256)
        if shipped is not None:
            found.append(shipped)
        else:
            notes.append(
                f"{model.engine.name} was made from weights that teco does not ship, so there is "
                "no float32 beside it: name an ONNX file or weights as well"
            )
    return found, notes


def _onnx_of(folder: Path, digest: str) -> Path | None:
    files = sorted(folder.glob("*.onnx"))
    return next((path for path in files if sha256_of(path) == digest), None)
