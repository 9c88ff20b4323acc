"""Weights to every file that was asked for: one verified ONNX file, and engines built from it.

Engines are built from the very ONNX file that is kept, in the deploy form that suits them (its
manifest names the rewrites); where no ONNX file was asked for, it is made in a temporary folder and
goes. What can be refused without work is refused first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from teco.core import gpu
from teco.core.errors import TecoError
from teco.core.log import ShowProgress, show_no_progress
from teco.core.machine import require_extra
from teco.exporting.engines.rtx import RtxOptions, build_rtx
from teco.exporting.engines.tensorrt import build_tensorrt
from teco.exporting.onnx import export_onnx
from teco.exporting.quantisation.run import QuantisationError
from teco.exporting.request import ExportRequest, WeightsSource, check_request
from teco.model.engine import precision_check
from teco.model.engine.manifest import EngineManifest
from teco.model.engine.precision_check import Proof
from teco.model.engine.preflight import read
from teco.model.kept_forms import keep
from teco.model.manifest import Manifest
from teco.model.opening import open_model
from teco.verification.parity import ParityError

if TYPE_CHECKING:
    from teco_models.checkpoint import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """A file that was made, with what is read back from it.

    Attributes:
        format: one of :data:`teco.exporting.request.FORMATS`.
        path: of the file; its manifest lies beside it.
        size: bytes.
        manifest: of the ONNX file, or of the engine.
        proof: types counted in the file (ONNX) or in the network that TensorRT parsed.
    """

    format: str
    path: Path
    size: int
    manifest: Manifest | EngineManifest
    proof: Proof

    @property
    def model(self) -> Manifest:
        """Manifest of the ONNX file: itself, or what the engine was built from."""
        manifest = self.manifest
        return manifest if isinstance(manifest, Manifest) else manifest.model

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; "manifest" as it lies beside the file."""
        return {
            "format": self.format,
            "path": str(self.path),
            "bytes": self.size,
            "proof": self.proof.text(self.model.precision_asked),
            "manifest": json.loads(self.manifest.to_json()),
        }


@dataclass(frozen=True)
class Refusal:
    """A precision that a model does not bear.

    Attributes:
        name: of the model and the precision.
        error: says why.
    """

    name: str
    error: TecoError


def produce_all(
    sources: Sequence[WeightsSource],
    requests: Sequence[ExportRequest],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: ShowProgress = show_no_progress,
) -> Iterator[Product | Refusal]:
    """Make every request of every model, one after the other.

    Args:
        sources: the models.
        requests: what is wanted of each; ``base`` is replaced by the model's name.
        folder: of the results; must exist.
        overwrite: replace files of the same name.
        progress: shows how far long steps are.

    Yields:
        Each file as it is finished, or why a precision was refused; where only one thing was asked,
        the refusal is raised.

    Raises:
        TecoError: something cannot be made here or written there.
    """
    require_extra("torch", "torch", "exporting")
    from teco_models.checkpoint import load_weights

    asked = [(s, replace(request, base=s.name)) for s in sources for request in requests]
    for source, request in asked:  # before the first of them is worked on
        if source.name is not None:
            check_request(request, folder, source.name, overwrite=overwrite)
    noted: set[Path] = set()
    for source, request in asked:
        weights = load_weights(source.weights)
        if source.weights not in noted:
            for note in weights.notes:
                logger.info("note: %s", note)
            noted.add(source.weights)
        try:
            for product in produce(
                weights, folder, request, overwrite=overwrite, progress=progress
            ):
                if gpu.find() and keep(product.path):
                    logger.info("%s is what `--runtime auto` may take here", product.path.name)
                yield product
        except (ParityError, QuantisationError) as error:
            if len(asked) == 1:
                raise
            logger.warning("refused: %s", error.message)
            name = source.name or source.weights.stem
            yield Refusal(f"{name} {request.onnx.precision}", error)


def produce(
    weights: Weights,
    folder: Path,
    request: ExportRequest,
    *,
    overwrite: bool = False,
    progress: ShowProgress = show_no_progress,
) -> list[Product]:
    """Export, verify, build.

    Args:
        weights: from :func:`teco_models.checkpoint.load_weights`.
        folder: of the results; must exist.
        request: what is wanted.
        overwrite: replace files of the same name.
        progress: shows how far long steps are.

    Returns:
        One product per format, in the order of :data:`teco.exporting.request.FORMATS`.

    Raises:
        TecoError: any of it failed. What failed leaves nothing under its final name; an ONNX file
            that was finished before an engine failed stays.
    """
    base = request.base or weights.variant.name
    check_request(request, folder, base, overwrite=overwrite)
    options = request.onnx_options(base)
    if "onnx" in request.formats:
        path = export_onnx(weights, folder, options, overwrite=overwrite, progress=progress)
        if not request.by_default:
            return [_onnx(path), *_engines(path, folder, request, base, overwrite)]
        return [_onnx(path), *_defaulted(weights, folder, request, base, overwrite, progress)]
    with TemporaryDirectory(prefix="teco-export-") as place:
        path = export_onnx(weights, Path(place), options, progress=progress)
        return _engines(path, folder, request, base, overwrite)


def _defaulted(
    weights: Weights,
    folder: Path,
    request: ExportRequest,
    base: str,
    overwrite: bool,
    progress: ShowProgress,
) -> list[Product]:
    """Engines that nobody asked for, from an ONNX file in the form for them; one that cannot be
    built is a warning."""
    if not request.engines:
        return []
    asked = replace(request, by_default=False)
    try:
        with TemporaryDirectory(prefix="teco-export-") as place:
            path = export_onnx(weights, Path(place), asked.onnx_options(base), progress=progress)
            return _engines(path, folder, asked, base, overwrite)
    except TecoError as error:
        logger.warning("no engine was built: %s; --formats onnx leaves it out", error.message)
        return []


def _onnx(path: Path) -> Product:
    import onnx

    manifest = open_model(str(path)).manifest
    assert manifest is not None
    proof = precision_check.of_onnx(onnx.load(str(path)))
    return Product("onnx", path, path.stat().st_size, manifest, proof)


def _engines(
    onnx: Path, folder: Path, request: ExportRequest, base: str, overwrite: bool
) -> list[Product]:
    products: list[Product] = []
    model = open_model(str(onnx))
    for target in request.engines:
        name = request.engine_name(base, target)
        if target == "rtx":
            options = RtxOptions(
                name=name, sm=request.sm, profile=request.profile,
                workspace_mib=request.workspace_mib,
            )  # fmt: skip
            path = build_rtx(model, folder, options, overwrite=overwrite)
        else:
            options = replace(
                request.tensorrt, name=name, profile=request.profile,
                workspace_mib=request.workspace_mib,
            )  # fmt: skip
            path = build_tensorrt(model, folder, options, overwrite=overwrite)
        manifest = read(path)
        proof = manifest.built or manifest.proof
        products.append(Product(target, path, path.stat().st_size, manifest, proof))
    return products
