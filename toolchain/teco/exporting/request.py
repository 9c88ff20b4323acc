"""What ``teco export`` is asked for: which models, in which precisions and formats, for which GPUs.

What contradicts itself is refused here, before anything heavy is imported or done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from teco.core import gpu
from teco.core.errors import USAGE, TecoError
from teco.core.files import check_target
from teco.core.names import did_you_mean
from teco.core.planes import require_even
from teco.exporting.engines.build import SUFFIX, check_engine_target
from teco.exporting.engines.rtx import DEFAULT_SM, check_sm, known_sm
from teco.exporting.engines.tensorrt import TensorRtOptions, require
from teco.exporting.options import ExportOptions, Precision
from teco.model.engine.api import RtxBindings, is_installed, load
from teco.model.engine.profile import Profile, parse_profile
from teco.model.manifest import manifest_path
from teco.model.opening import shipped_models
from teco_models import zoo
from teco_models.errors import ModelError
from teco_models.variant import Variant

FORMATS = ("onnx", "rtx", "tensorrt")
ENGINE_FORM = "tensorrt"
"""Key of :data:`teco_models.deploy.step.TARGETS` for both kinds of engine."""

_CHANNELS = 64
_GAN = "-gan"


@dataclass(frozen=True)
class WeightsSource:
    """A model to export.

    Attributes:
        weights: its file.
        name: first part of the file names; None for the variant's name.
    """

    weights: Path
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is wanted of one model.

    Attributes:
        formats: of :data:`FORMATS`, each once.
        sm: compute capabilities of an RTX engine.
        profile: sizes of an engine of dynamic size; None for the default.
        workspace_mib: of engines, see :class:`teco.exporting.engines.build.BuildOptions`.
        tensorrt: what only TensorRT's engines can be asked for; its name, profile and workspace
            are replaced by those here.
        onnx: how the ONNX file is made; its ``target`` is replaced by ``form``.
        form: key of TARGETS; None for what suits the formats.
        by_default: the formats were not asked for: the ONNX file is then what it would be on a
            machine where no engine can be built, and an engine that fails is a warning.
        base: first part of the file names; None for the variant's name.
    """

    formats: tuple[str, ...] = ("onnx",)
    sm: tuple[int, ...] = DEFAULT_SM
    profile: Profile | None = None
    workspace_mib: int | None = None
    tensorrt: TensorRtOptions = field(default_factory=TensorRtOptions)
    onnx: ExportOptions = field(default_factory=ExportOptions)
    form: str | None = None
    by_default: bool = False
    base: str | None = None

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(x for x in self.formats if x != "onnx")

    def onnx_options(self, base: str) -> ExportOptions:
        """Of the ONNX file, with its target and its name."""
        usual = ENGINE_FORM if self.engines and not self.by_default else self.onnx.target
        options = replace(self.onnx, target=self.form or usual)
        return replace(options, name=options.name or base + options.suffix)

    def engine_name(self, base: str, target: str) -> str:
        """``teco-x4-b3-c64-180x320-fp16-rtx``: the deploy form is told by the target."""
        words = [base, self.onnx.size_text, self.onnx.precision]
        words += [f"{self.onnx.io}io"] if self.onnx.io != "fp32" else []
        return "-".join((*words, target))

    def in_precisions(self, precisions: Sequence[Precision]) -> list[ExportRequest]:
        """The same in each of these."""
        return [replace(self, onnx=replace(self.onnx, precision=p)) for p in precisions]


def default_formats(form: str | None) -> tuple[str, ...]:
    """What is made where nothing is said: an engine too, where one can be built and run.

    That takes an NVIDIA GPU, and bindings that build for it: TensorRT-RTX's before TensorRT's.

    Args:
        form: the runtime that a form was asked for by name; only "tensorrt" is an engine's.
    """
    if form not in (None, ENGINE_FORM):
        return ("onnx",)
    found = _first_gpu()
    if found is not None and is_installed("rtx") and _is_built_for(found):
        return ("onnx", "rtx")
    if found is not None and is_installed("tensorrt"):
        return ("onnx", "tensorrt")
    return ("onnx",)


def _first_gpu() -> gpu.Gpu | None:
    """The one that sessions run on; None where its capability is not told."""
    found = gpu.find()
    return found[0] if found and found[0].compute_capability else None


def _is_built_for(found: gpu.Gpu) -> bool:
    """Whether TensorRT-RTX builds for a GPU."""
    trt = cast(RtxBindings, load("rtx", "building an engine for TensorRT-RTX"))
    return found.compute_capability in known_sm(trt)


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


def parse_sizes(
    text: str | None, formats: tuple[str, ...], size: tuple[int, int] | None
) -> Profile | None:
    """The sizes that engines are built for; None where nothing is given.

    Args:
        text: as :func:`teco.model.engine.profile.parse_profile` takes it.
        formats: that are asked for.
        size: of a static file, which has that one alone.

    Raises:
        TecoError: no format that takes it; and as there.
    """
    if text is None:
        return None
    if not set(formats) - {"onnx"}:
        raise TecoError(
            f"--profile gives the sizes of an engine, and --formats is {','.join(formats)}",
            hint="add one: --formats onnx,rtx",
            exit_code=USAGE,
        )
    if size is not None:
        raise TecoError(
            f"--profile gives the sizes of a dynamic engine, and --size is {size[0]}x{size[1]}",
            hint="leave one of both out",
            exit_code=USAGE,
        )
    return parse_profile(text)


def parse_sm(text: str | None, formats: tuple[str, ...]) -> tuple[int, ...]:
    """ "75,8.9" -> (75, 89); where nothing is given this machine's GPU, else the usual ones.

    Raises:
        TecoError: something that is no compute capability, or no format that takes one; exit code
            2.
    """
    if text is None:
        found = _first_gpu() if "rtx" in formats and is_installed("rtx") else None
        if found is None or not _is_built_for(found):
            return DEFAULT_SM
        return (found.compute_capability,)
    if "rtx" not in formats:
        raise TecoError(
            f"--sm chooses GPUs for a TensorRT-RTX engine, and --formats is {','.join(formats)}",
            hint="add rtx: --formats onnx,rtx",
            exit_code=USAGE,
        )
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


def parse_engine_options(
    formats: tuple[str, ...],
    *,
    workspace_mib: int | None = None,
    timing_cache: Path | None = None,
    hardware: str | None = None,
    version_compatible: bool = False,
    refittable: bool = False,
) -> TensorRtOptions:
    """Options of engines, as the command line gives them.

    Raises:
        TecoError: an option for engines of a kind that is not asked for; exit code 2.
    """
    given = {
        "--workspace": (workspace_mib is not None, ("rtx", "tensorrt")),
        "--timing-cache": (timing_cache is not None, ("tensorrt",)),
        "--hardware": (hardware is not None, ("tensorrt",)),
        "--version-compatible": (version_compatible, ("tensorrt",)),
        "--refittable": (refittable, ("tensorrt",)),
    }
    for option, (is_given, kinds) in given.items():
        if is_given and not set(kinds) & set(formats):
            raise TecoError(
                f"{option} is for engines of {' and '.join(kinds)}, and --formats is "
                f"{','.join(formats)}",
                hint=f"add one: --formats {','.join((*formats, kinds[0]))}",
                exit_code=USAGE,
            )
    return TensorRtOptions(
        workspace_mib=workspace_mib,
        timing_cache=timing_cache,
        hardware=hardware or TensorRtOptions.hardware,
        version_compatible=version_compatible,
        refittable=refittable,
    )


def parse_precisions(
    *, fp32: bool, fp16: bool, int8: bool, half_weights: bool, of_int8: str
) -> list[Precision]:
    """What the flags ask for; float32 where there are none.

    Args:
        fp32, fp16, int8: flags of the precisions.
        half_weights: whether weights are to be stored as float16.
        of_int8: an option that was given and is for int8 only, or "".

    Raises:
        TecoError: two of these contradict each other; exit code 2.
    """
    flags: dict[Precision, bool] = {"fp32": fp32, "fp16": fp16, "int8": int8}
    precisions: list[Precision] = [name for name, given in flags.items() if given] or ["fp32"]
    if of_int8 and not int8:
        raise TecoError(
            f"{of_int8} is for int8, and --int8 was not given", hint="add --int8", exit_code=USAGE
        )
    if half_weights and precisions != ["fp32"]:
        why = (
            "--fp16 makes a float16 network, which stores them so anyway"
            if fp16
            else "with --int8 they are stored in a byte each anyway"
        )
        raise TecoError(
            f"--half-weights stores the weights of a float32 network as float16; {why}",
            hint="leave --half-weights out",
            exit_code=USAGE,
        )
    return precisions


def find_sources(
    blocks: int | str | None, model: str | None, weights: Path | None
) -> list[WeightsSource]:
    """What --blocks, --model or --weights names.

    Raises:
        TecoError: none or two of them were given, or no such model is shipped; exit code 2.
    """
    if sum(x is not None for x in (blocks, model, weights)) != 1:
        raise TecoError(
            "say what to export with one of --blocks, --model or --weights",
            hint="for example `teco export --blocks 3`",
            exit_code=USAGE,
        )
    if weights is not None:
        return [WeightsSource(weights)]
    shipped = zoo.entries()
    if isinstance(blocks, int) and shipped_with(blocks) is None:
        known = sorted({n for e in shipped if (n := _blocks_of(e.name)) is not None}, reverse=True)
        raise TecoError(
            f"no shipped model has {blocks} blocks",
            hint=f"there are {', '.join(map(str, known))}; or train one (`teco train`) and give "
            "--weights",
            exit_code=USAGE,
        )
    if blocks == "all":
        return [WeightsSource(entry.weights, entry.name) for entry in shipped]
    if isinstance(blocks, int):
        name, entry = f"teco-x4-b{blocks}-c64", shipped_with(blocks)
    else:
        assert model is not None
        name, entry = model, zoo.find(model)
    if entry is None:
        raise TecoError(
            f"no shipped model is called {name}",
            hint=f"{did_you_mean(name, [e.name for e in shipped])}{shipped_models()}; or train one "
            "(`teco train`) and give --weights",
            exit_code=USAGE,
        )
    return [WeightsSource(entry.weights, entry.name)]


def _blocks_of(name: str) -> int | None:
    """Blocks of a shipped model that --blocks can name; None for others."""
    try:
        variant = Variant.parse(name.removesuffix(_GAN))
    except ModelError:
        return None
    return variant.blocks if shipped_with(variant.blocks) is not None else None


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


def check_request(request: ExportRequest, folder: Path, base: str, *, overwrite: bool) -> None:
    """Raise TecoError for engines that cannot be built here or written there, before any work."""
    if request.onnx.io in ("nv12", "i420"):
        for h, w in request.profile or ():
            require_even(h, w, "a size of --profile")
    if "rtx" in request.engines:
        trt = cast(RtxBindings, load("rtx", "building an engine for TensorRT-RTX"))
        check_sm(trt, request.sm)
    if "tensorrt" in request.engines:
        require()
    if "onnx" in request.formats:
        path = folder / f"{request.onnx_options(base).name}.onnx"
        check_target(path, manifest_path(path), overwrite=overwrite)
    for target in request.engines:
        path = folder / f"{request.engine_name(base, target)}{SUFFIX}"
        check_engine_target(path, overwrite=overwrite)
