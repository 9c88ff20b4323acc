"""Weights to every file that was asked for: one verified ONNX file, and engines built from it.

Engines are built from the very ONNX file that is kept, in the form that suits them (its manifest
names the rewrites); where no ONNX file was asked for, it is made in a temporary folder and goes.
What can be refused without work is refused first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from teco.core.errors import USAGE, TecoError
from teco.export.engines.build import SUFFIX, check_target
from teco.export.engines.rtx import DEFAULT_SM, RtxOptions, build_rtx, check_sm
from teco.export.engines.tensorrt import TensorRtOptions, build_tensorrt, require
from teco.export.onnx import ExportOptions, export_onnx
from teco.model.engine import precision
from teco.model.engine.api import RtxBindings, load
from teco.model.engine.manifest import EngineManifest
from teco.model.engine.precision import Proof
from teco.model.engine.preflight import read
from teco.model.manifest import Manifest
from teco.model.manifest import check_target as check_file
from teco.model.opening import open_model
from teco_models import zoo
from teco_models.errors import ModelError
from teco_models.variant import Variant

if TYPE_CHECKING:
    from teco_models.checkpoint import Weights

FORMATS = ("onnx", "rtx", "tensorrt")
ENGINE_FORM = "tensorrt"
"""Key of :data:`teco_models.deploy.step.TARGETS` for both kinds of engine."""

_CHANNELS = 64
_GAN = "-gan"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is wanted of one model.

    Attributes:
        formats: of :data:`FORMATS`, each once.
        sm: compute capabilities of an RTX engine.
        onnx: how the ONNX file is made; its ``target`` is replaced by ``form``.
        form: key of TARGETS; None for what suits the formats.
        base: first part of the file names; None for the variant's name.
    """

    formats: tuple[str, ...] = ("onnx",)
    sm: tuple[int, ...] = DEFAULT_SM
    onnx: ExportOptions = field(default_factory=ExportOptions)
    form: str | None = None
    base: str | None = None

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(x for x in self.formats if x != "onnx")

    @property
    def options(self) -> ExportOptions:
        """Of the ONNX file."""
        usual = ENGINE_FORM if self.engines else self.onnx.target
        return replace(self.onnx, target=self.form or usual)

    def engine_name(self, base: str, target: str) -> str:
        """``teco-x4-b3-c64-180x320-fp16-rtx``: the form is told by the target."""
        size = self.onnx.size
        words = [base, f"{size[0]}x{size[1]}" if size else "dynamic", self.onnx.precision]
        words += [f"{self.onnx.io}io"] if self.onnx.io != "fp32" else []
        return "-".join((*words, target))


@dataclass(frozen=True)
class Product:
    """A file that was made, with what is read back from it.

    Attributes:
        format: one of :data:`FORMATS`.
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


def parse_formats(text: str) -> tuple[str, ...]:
    """ "onnx,rtx" -> ("onnx", "rtx").

    Raises:
        TecoError: none, or one that is not in :data:`FORMATS`; exit code 2.
    """
    asked = [x for x in (part.strip() for part in text.split(",")) if x]
    unknown = [x for x in asked if x not in FORMATS]
    if not asked or unknown:
        what = f"{unknown[0]!r} is no format" if unknown else "--formats names no format"
        raise TecoError(
            f"{what}; expected some of {', '.join(FORMATS)}, separated by commas",
            hint="for example --formats onnx,rtx",
            exit_code=USAGE,
        )
    return tuple(x for x in FORMATS if x in asked)


def parse_sm(text: str) -> tuple[int, ...]:
    """ "75,8.9" -> (75, 89).

    Raises:
        TecoError: something that is no compute capability; exit code 2.
    """
    parts = [x for x in (part.strip() for part in text.split(",")) if x]
    values = [x.lower().removeprefix("sm").replace(".", "", 1) for x in parts]
    if not values or not all(x.isdecimal() and len(x) < 5 for x in values):
        raise TecoError(
            f"--sm {text!r} is no list of compute capabilities",
            hint="for example --sm 75,86,89,120; `nvidia-smi --query-gpu=compute_cap --format=csv` "
            "tells a GPU's own",
            exit_code=USAGE,
        )
    return tuple(int(x) for x in values)


def shipped_with(blocks: int) -> zoo.Entry | None:
    """The shipped x4 model of that many blocks and 64 channels.

    Of several that differ in their suffixes, a PSNR form comes before a GAN form, and then the one
    with most in it (back-projection, refined flow), which is the better one.
    """
    found: list[tuple[bool, int, str, zoo.Entry]] = []
    for entry in zoo.entries():
        gan = entry.name.endswith(_GAN)
        try:
            variant = Variant.parse(entry.name.removesuffix(_GAN))
        except ModelError:
            continue  # a name of its own
        if variant.blocks == blocks and variant.channels == _CHANNELS and variant.has_flow:
            found.append((gan, -entry.name.count("-"), entry.name, entry))
    return min(found)[3] if found else None


def check(request: ExportRequest, folder: Path, base: str, *, overwrite: bool) -> None:
    """Raise TecoError for engines that cannot be built here or written there, before any work."""
    if "rtx" in request.engines:
        trt = cast(RtxBindings, load("rtx", "building an engine for TensorRT-RTX"))
        check_sm(trt, request.sm)
    if "tensorrt" in request.engines:
        require()
    if "onnx" in request.formats:
        options = request.options
        check_file(folder / f"{options.name or base + options.suffix}.onnx", overwrite)
    for target in request.engines:
        check_target(folder / f"{request.engine_name(base, target)}{SUFFIX}", overwrite)


def produce(
    weights: Weights,
    folder: Path,
    request: ExportRequest,
    *,
    say: Callable[[str], None] = lambda _: None,
    overwrite: bool = False,
) -> list[Product]:
    """Export, verify, build.

    Args:
        weights: from :func:`teco_models.checkpoint.load_weights`.
        folder: of the results; must exist.
        request: what is wanted.
        say: told what is being done, one line each.
        overwrite: replace files of the same name.

    Returns:
        One product per format, in the order of :data:`FORMATS`.

    Raises:
        TecoError: any of it failed. What failed leaves nothing under its final name; an ONNX file
            that was finished before an engine failed stays.
    """
    base = request.base or weights.variant.name
    check(request, folder, base, overwrite=overwrite)
    options = request.options
    options = replace(options, name=options.name or base + options.suffix)
    if "onnx" in request.formats:
        path = export_onnx(weights, folder, options, say=say, overwrite=overwrite)
        return [_onnx(path), *_engines(path, folder, request, base, say, overwrite)]
    with TemporaryDirectory(prefix="teco-export-") as place:
        path = export_onnx(weights, Path(place), options, say=say)
        return _engines(path, folder, request, base, say, overwrite)


def _onnx(path: Path) -> Product:
    import onnx

    manifest = open_model(str(path)).manifest
    assert manifest is not None
    proof = precision.of_onnx(onnx.load(str(path)))
    return Product("onnx", path, path.stat().st_size, manifest, proof)


def _engines(
    onnx: Path,
    folder: Path,
    request: ExportRequest,
    base: str,
    say: Callable[[str], None],
    overwrite: bool,
) -> list[Product]:
    products: list[Product] = []
    model = open_model(str(onnx))
    for target in request.engines:
        name = request.engine_name(base, target)
        if target == "rtx":
            options = RtxOptions(name=name, sm=request.sm)
            path = build_rtx(model, folder, options, say=say, overwrite=overwrite)
        else:
            path = build_tensorrt(
                model, folder, TensorRtOptions(name=name), say=say, overwrite=overwrite
            )
        manifest = read(path)
        proof = manifest.built or manifest.proof
        products.append(Product(target, path, path.stat().st_size, manifest, proof))
    return products
