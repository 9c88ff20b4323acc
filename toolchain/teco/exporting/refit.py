"""New weights into an engine that is there: seconds, where a build takes minutes.

For weights that were trained on: the graph stays, and so do the kernels that were chosen for it.
TensorRT's only. Not yet run on a GPU.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from teco.core.errors import USAGE, TecoError
from teco.core.files import Output, check_target, sha256_of, write_errors
from teco.core.machine import require_extra
from teco.exporting.engines.tensorrt import refit, require
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.exporting.request import ENGINE_FORM, WeightsSource
from teco.model.engine import preflight
from teco.model.engine.manifest import EngineManifest
from teco.model.manifest import manifest_path
from teco.model.opening import open_model

logger = logging.getLogger(__name__)


def refit_engine(
    sources: Sequence[WeightsSource], engine: Path, folder: Path, *, overwrite: bool = False
) -> Path:
    """Put weights into an engine.

    The ONNX file that is needed on the way is exported as the engine's was, and verified as every
    export is; so what the engine's manifest says of parity and gate is about the new weights.

    Args:
        sources: of the weights, exactly one; of the engine's variant.
        engine: a plan built refittable, its manifest beside it.
        folder: where the new plan goes, under the same name; must exist.
        overwrite: replace a file of that name, which may be ``engine`` itself.

    Returns:
        Path of the new plan.

    Raises:
        TecoError: the engine is of another kind or for another machine, the weights are of another
            variant, or the new ones do not bear the engine's precision.
    """
    require_extra("torch", "torch", "exporting")
    from teco_models.checkpoint import load_weights

    manifest = preflight.read(engine)
    options = _as_built(manifest, engine)
    if len(sources) != 1:
        raise TecoError(
            f"--refit puts one model's weights into an engine, and {len(sources)} are named",
            hint="name one with --model or --weights",
            exit_code=USAGE,
        )
    weights = load_weights(sources[0].weights)
    if weights.variant.name != manifest.model.variant:
        raise TecoError(
            f"{engine.name} was built from {manifest.model.variant}, these weights are of "
            f"{weights.variant.name}",
            hint="build an engine for them: `teco export --formats tensorrt`",
            exit_code=USAGE,
        )
    path = folder / engine.name
    check_target(path, manifest_path(path), overwrite=overwrite)
    trt, _ = require()
    preflight.check(engine)
    with TemporaryDirectory(prefix="teco-refit-") as place:
        onnx = export_onnx(weights, Path(place), options)
        source = open_model(str(onnx)).manifest
        assert source is not None
        if source.rewrites != manifest.model.rewrites:
            raise TecoError(
                f"{engine.name} was built from another form of the network than this teco exports",
                hint=f"build it again: `{manifest.rebuild}`",
            )
        plan = refit(trt, engine.read_bytes(), onnx)
        digest = sha256_of(onnx)
    refitted = replace(
        manifest,
        model=replace(source, sha256=digest),
        onnx_sha256=digest,
        sha256=hashlib.sha256(plan).hexdigest(),
        length=len(plan),
    )
    refitted.check()
    with Output(path) as output:
        with write_errors(path):
            output.part.write_bytes(plan)
        output.commit({manifest_path(path): refitted.to_json().encode()})
    logger.info("%s: the weights of %s", path.name, sources[0].weights)
    return path


def _as_built(manifest: EngineManifest, engine: Path) -> ExportOptions:
    """Options that give the ONNX file an engine was built from, of other weights.

    Raises:
        TecoError: the engine does not take other weights; exit code 2.
    """
    if manifest.target != "tensorrt" or not manifest.refittable:
        raise TecoError(
            f"{engine.name} does not take other weights: it is an engine of {manifest.product} "
            f"that was {'not ' if manifest.target == 'tensorrt' else 'never '}built refittable",
            hint="build one that does: `teco export --formats tensorrt --refittable`",
            exit_code=USAGE,
        )
    precision, model = manifest.precision_asked, manifest.model
    if precision not in ("fp32", "fp16"):
        raise TecoError(
            f"{engine.name} is in {precision}, whose ranges belong to the weights that it has",
            hint=f"build another for the new weights: `{manifest.rebuild}`",
            exit_code=USAGE,
        )
    size = None if manifest.size == "dynamic" else manifest.limits[0]
    return ExportOptions(
        size=size, precision=precision, io=model.contract.io, target=ENGINE_FORM, name=engine.stem
    )
