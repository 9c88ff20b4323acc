"""``teco export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import (
    Size,
    not_a_pipe,
    progress,
    put,
    say,
)

if TYPE_CHECKING:
    from teco_models.deploy.ports import Io

if TYPE_CHECKING:
    _BlocksType = click.ParamType[int | str]
else:
    _BlocksType = click.ParamType  # a generic class only in the newest click


class _Blocks(_BlocksType):
    """A number of blocks, or "all"."""

    name = "N|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == "all" or isinstance(value, int):
            return value
        if not str(value).isdecimal() or int(str(value)) < 1:
            self.fail(f'{value!r} is no number of blocks; expected 1, 2, ... or "all"', param, ctx)
        return int(str(value))


_OF_REFIT = {"what", "blocks", "model", "weights", "refit", "output", "force", "verbose"}


def _refuse_beside_refit(context: click.Context) -> None:
    """Raise UsageError for an option that says what the engine already says."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in _OF_REFIT and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} says how a file is made, and --refit makes it as it was"
            )


@click.command("export")
@click.argument("what", metavar="[NAME|FILE]", required=False)
@click.option(
    "--blocks",
    type=_Blocks(),
    help='Take the shipped model with so many blocks, or "all" shipped models.',
)
@click.option("--model", metavar="NAME", help="Take the shipped model of this name.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take this .safetensors or published .pth file.",
)
@click.option(
    "--size",
    type=Size(dynamic=True),
    default="dynamic",
    show_default=True,
    help="Static LR size HEIGHTxWIDTH, or dynamic.",
)
@click.option(
    "--fp32",
    is_flag=True,
    help="In float32: the default, or also where other precisions are asked.",
)
@click.option("--fp16", is_flag=True, help="Convolutions in float16; positions and pictures stay.")
@click.option(
    "--int8",
    is_flag=True,
    help="Convolutions that bear it in 8-bit integers; refused where the pictures suffer.",
)
@click.option(
    "--calibrate",
    multiple=True,
    callback=not_a_pipe,
    metavar="CLIP",
    help="With --int8: take ranges from this clip and judge on it, itself the truth; repeatable. "
    "[default: the example clip of a checkout, else moving test frames]",
)
@click.option(
    "--range",
    "range_",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    help="With --int8: where ranges end. [default: percentile]",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16", "uint8", "nv12", "i420"]),
    default="fp32",
    show_default=True,
    help="Frames and pictures at the ports: (1, 3, h, w) floats in [0, 1], uint8 RGB "
    "(1, h, w, 3), or the planes of decoders and encoders, NV12 or I420, for `teco upscale` and "
    "engines. With 8-bit ports the state stays float32.",
)
@click.option(
    "--formats",
    metavar="LIST",
    help="Some of onnx, rtx (TensorRT-RTX, on any machine) and tensorrt (on its GPU). "
    "[default: onnx, and an engine on a machine with an NVIDIA GPU]",
)
@click.option(
    "--sm",
    metavar="LIST",
    help="Compute capabilities that an rtx engine runs on. "
    "[default: this machine's GPU, else 86,89,120]",
)
@click.option(
    "--profile",
    metavar="SIZES",
    help="LR sizes of an engine of dynamic size: least,usual,greatest, each HEIGHTxWIDTH. "
    "[default: 8x8,180x320,1080x1920]",
)
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Most scratch memory that a layer of an engine may take. [default: the GPU's]",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="tensorrt: kernel times, read and written, so that later builds take seconds.",
)
@click.option(
    "--hardware",
    type=click.Choice(["none", "ampere-plus", "same-compute-capability"]),
    help="tensorrt: other GPUs that may run the engine; can be slower. [default: none]",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="tensorrt: later versions may run the engine; can be slower.",
)
@click.option(
    "--refittable", is_flag=True, help="tensorrt: --refit can replace the weights; can be slower."
)
@click.option(
    "--refit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="ENGINE",
    help="Put the weights into this engine, built with --refittable, instead of building one.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    metavar="DIR",
    help="Folder of the result; made where it is not there.",
)
@click.option(
    "--half-weights",
    is_flag=True,
    help="Store weights as float16 where that is exact; computes in float32 all the same.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=10),
    default=10,
    show_default=True,
    help="Recurrent frames of the verification.",
)
@click.option(
    "--for",
    "target",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt", "web"]),
    help="Runtime whose form is written; every form runs on every runtime. web is for browsers, at "
    "opset 17. "
    "[default: tensorrt with an engine among the formats, else onnxruntime]",
)
@click.option("--force", is_flag=True, help="Replace files of the same name.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest on stdout.")
def command(
    what: str | None,
    blocks: int | str | None,
    model: str | None,
    weights: Path | None,
    size: tuple[int, int] | None,
    fp32: bool,
    fp16: bool,
    int8: bool,
    calibrate: tuple[str, ...],
    range_: str | None,
    io: Io,
    formats: str | None,
    sm: str | None,
    profile: str | None,
    workspace: int | None,
    timing_cache: Path | None,
    hardware: str | None,
    version_compatible: bool,
    refittable: bool,
    refit: Path | None,
    output: Path,
    half_weights: bool,
    frames: int,
    target: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make ONNX files and engines, verified against PyTorch before they get their names.

    NAME is a shipped model's, FILE weights; or say which with one of the first three options.
    Several precisions make a file each.
    """
    from teco.core.errors import TecoError
    from teco.core.files import made_folder
    from teco.exporting import summary
    from teco.exporting.formats import Product, Refusal, produce_all
    from teco.exporting.options import ExportOptions
    from teco.exporting.quantisation.clips import CalibrationSet
    from teco.exporting.refit import refit_engine
    from teco.exporting.request import (
        ExportRequest,
        default_formats,
        find_sources,
        parse_engine_options,
        parse_formats,
        parse_precisions,
        parse_sizes,
        parse_sm,
    )
    from teco.model.opening import WEIGHTS_SUFFIXES

    if what is not None:
        if Path(what).suffix in WEIGHTS_SUFFIXES and weights is None:
            weights = Path(what)
        elif model is None:
            model = what
        else:
            raise click.UsageError(f"{what} and --model {model} are two models; give one")
    sources = find_sources(blocks, model, weights)
    if refit is not None:
        _refuse_beside_refit(click.get_current_context())
        with made_folder(output):
            put(refit_engine(sources, refit, output, overwrite=force))
        return
    of_int8 = "--calibrate" if calibrate else "--range" if range_ else ""
    precisions = parse_precisions(
        fp32=fp32, fp16=fp16, int8=int8, half_weights=half_weights, of_int8=of_int8
    )
    chosen = default_formats(target) if formats is None else parse_formats(formats)
    request = ExportRequest(
        formats=chosen,
        sm=parse_sm(sm, chosen),
        profile=parse_sizes(profile, chosen, size),
        workspace_mib=workspace,
        tensorrt=parse_engine_options(
            chosen,
            workspace_mib=workspace,
            timing_cache=timing_cache,
            hardware=hardware,
            version_compatible=version_compatible,
            refittable=refittable,
        ),
        onnx=ExportOptions(
            size=size,
            calibration=CalibrationSet(clips=calibrate, range=range_ or CalibrationSet.range),
            io=io,
            half_weights=half_weights,
            frames=frames,
        ),
        form=target,
        by_default=formats is None,
    )
    requests = request.in_precisions(precisions)
    products: list[Product] = []
    refusals: list[Refusal] = []
    with made_folder(output):
        for made in produce_all(sources, requests, output, overwrite=force, progress=progress):
            if isinstance(made, Refusal):
                refusals.append(made)
                continue
            products.append(made)
            if not as_json:
                put(made.path)
    asked = len(sources) * len(requests)
    several = blocks == "all" or asked > 1
    if as_json:
        # One file of one model is its manifest, as ever; more are a list.
        if len(products) == 1 and not several:
            put(products[0].manifest.to_json(), nl=False)
        else:
            put(json.dumps([p.as_dict() for p in products], indent=2))
    for line in summary.table(products, refusals) if several else summary.lines(products):
        say(line)
    if refusals:
        raise TecoError(
            f"{len(refusals)} of {asked} were refused: {', '.join(r.name for r in refusals)}",
            hint=refusals[0].error.hint,
        )
