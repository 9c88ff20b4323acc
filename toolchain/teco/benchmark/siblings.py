"""What an engine is measured beside where it is named alone: what it was made from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from teco.core.errors import TecoError
from teco.core.files import sha256_of
from teco.model.engine.manifest import EngineManifest, shipped_of
from teco.model.manifest import Manifest
from teco.model.opening import Model, open_model


def siblings(model: Model) -> tuple[list[str], list[str]]:
    """The ONNX file of an engine, and the shipped float32 model of its weights.

    The one it was built from, or where that is not there the one of the same weights, precision and
    size, in another form: ``teco export`` keeps the form that every runtime runs.

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
    onnx = _onnx_of(model.engine.parent, built)
    if onnx is not None:
        found.append(str(onnx))
    else:
        notes.append(f"no ONNX file of {model.engine.name} is beside it, and none is measured")
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


def _onnx_of(folder: Path, built: EngineManifest) -> Path | None:
    alike: list[Path] = []
    for path in sorted(folder.glob("*.onnx")):
        # A folder of that name, a link that leads nowhere, a file of somebody else's.
        with suppress(OSError, TecoError):
            if sha256_of(path) == built.onnx_sha256:
                return path
            manifest = open_model(str(path)).manifest
            if manifest is not None and _same(manifest, built):
                alike.append(path)
    return alike[0] if alike else None


def _same(manifest: Manifest, built: EngineManifest) -> bool:
    return (manifest.weights_sha256, manifest.precision_asked, manifest.size) == (
        built.model.weights_sha256, built.precision_asked, built.size,
    )  # fmt: skip
