"""``teco export``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import Size, not_a_pipe, say

if TYPE_CHECKING:
    from teco.core.errors import TecoError
    from teco.export.formats import Product
    from teco.export.onnx import Precision
    from teco_models.deploy.ports import Io
    from teco_models.zoo import Entry


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


@click.command("export")
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
    type=click.Choice(["fp32", "fp16", "uint8"]),
    default="fp32",
    show_default=True,
    help="Frames and pictures at the ports: (1, 3, h, w) floats in [0, 1], or uint8 RGB "
    "(1, h, w, 3); with uint8 the state stays float32.",
)
@click.option(
    "--formats",
    default="onnx",
    show_default=True,
    metavar="LIST",
    help="Some of onnx, rtx (TensorRT-RTX, on any machine) and tensorrt (on its GPU).",
)
@click.option(
    "--sm",
    metavar="LIST",
    help="Compute capabilities that an rtx engine runs on. [default: 86,89,120]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    metavar="DIR",
    help="Folder of the result.",
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
    formats: str,
    sm: str | None,
    output: Path,
    half_weights: bool,
    frames: int,
    target: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make ONNX files and engines, verified against PyTorch before they get their names.

    Several precisions make a file each.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.core.machine import require_extra

    if sum(x is not None for x in (blocks, model, weights)) != 1:
        raise TecoError(
            "say what to export with one of --blocks, --model or --weights",
            hint="for example `teco export --blocks 3`",
            exit_code=USAGE,
        )
    precisions = _precisions(fp32=fp32, fp16=fp16, int8=int8)
    of_int8 = "--calibrate" if calibrate else "--range" if range_ else ""
    _check_options(precisions, half_weights, of_int8)
    if weights is not None:
        sources = [(weights, None)]
    else:
        sources = [(entry.weights, entry.name) for entry in _shipped(blocks, model)]
    require_extra("torch", "train", "exporting")
    from teco.export.engines.rtx import DEFAULT_SM
    from teco.export.formats import ExportRequest, check, parse_formats, parse_sm, produce
    from teco.export.onnx import ExportOptions
    from teco.export.quantisation.clips import CalibrationSet
    from teco.export.quantisation.run import QuantisationError
    from teco.verification.parity import ParityError

    chosen = parse_formats(formats)
    if sm is not None and "rtx" not in chosen:
        raise TecoError(
            f"--sm chooses GPUs for a TensorRT-RTX engine, and --formats is {formats}",
            hint="add rtx: --formats onnx,rtx",
            exit_code=USAGE,
        )
    asked = ExportRequest(
        formats=chosen,
        sm=DEFAULT_SM if sm is None else parse_sm(sm),
        onnx=ExportOptions(
            size=size,
            calibration=CalibrationSet(clips=calibrate, range=range_ or CalibrationSet.range),
            io=io,
            half_weights=half_weights,
            frames=frames,
        ),
        form=target,
    )
    from teco_models.checkpoint import load_weights

    requests = [
        (source, replace(asked, base=base, onnx=replace(asked.onnx, precision=precision)))
        for source, base in sources
        for precision in precisions
    ]
    for _, request in requests:  # before the first of them is worked on
        if request.base is not None:
            check(request, output, request.base, overwrite=force)
    products: list[Product] = []
    refused: list[tuple[str, TecoError]] = []
    told: Path | None = None
    for source, request in requests:
        loaded = load_weights(source)
        if source != told:
            for note in loaded.notes:
                say(f"note: {note}")
            told = source
        try:
            made = produce(loaded, output, request, say=say, overwrite=force)
        except (ParityError, QuantisationError) as error:
            if len(requests) == 1:
                raise
            say(f"refused: {error.message}")
            refused.append((f"{request.base or source.stem} {request.onnx.precision}", error))
            continue
        products += made
        if not as_json:
            for product in made:
                click.echo(product.path)
    if as_json:
        # One file of one model is its manifest, as ever; more are a list.
        if len(products) == 1 and blocks != "all" and len(requests) == 1:
            click.echo(products[0].manifest.to_json(), nl=False)
        else:
            click.echo(json.dumps([p.as_dict() for p in products], indent=2))
    _report(products, refused, table=blocks == "all" or len(requests) > 1)
    if refused:
        raise TecoError(
            f"{len(refused)} of {len(requests)} were refused: {', '.join(x for x, _ in refused)}",
            hint=refused[0][1].hint,
        )


def _precisions(*, fp32: bool, fp16: bool, int8: bool) -> list[Precision]:
    """What the flags ask for; float32 where there are none."""
    flags: dict[Precision, bool] = {"fp32": fp32, "fp16": fp16, "int8": int8}
    return [name for name, given in flags.items() if given] or ["fp32"]


def _check_options(precisions: list[Precision], half_weights: bool, of_int8: str) -> None:
    """Refuse what does not go together.

    Args:
        precisions: asked for.
        half_weights: whether weights are to be stored as float16.
        of_int8: an option that was given and is for int8 only, or "".

    Raises:
        TecoError: exit code 2.
    """
    from teco.core.errors import USAGE, TecoError

    if of_int8 and "int8" not in precisions:
        raise TecoError(
            f"{of_int8} is for int8, and --int8 was not given", hint="add --int8", exit_code=USAGE
        )
    if not half_weights or precisions == ["fp32"]:
        return
    why = (
        "--fp16 makes a float16 network, which stores them so anyway"
        if "fp16" in precisions
        else "with --int8 they are stored in a byte each anyway"
    )
    raise TecoError(
        f"--half-weights stores the weights of a float32 network as float16; {why}",
        hint="leave --half-weights out",
        exit_code=USAGE,
    )


def _shipped(blocks: int | str | None, model: str | None) -> list[Entry]:
    """What --blocks or --model names.

    Raises:
        TecoError: nothing; exit code 2.
    """
    from teco.core.errors import USAGE, TecoError
    from teco_models import zoo

    shipped = zoo.entries()
    if blocks == "all":
        return list(shipped)
    if isinstance(blocks, int):
        from teco.export.formats import shipped_with

        name, entry = f"teco-x4-b{blocks}-c64", shipped_with(blocks)
    else:
        assert model is not None
        name, entry = model, zoo.find(model)
    if entry is None:
        raise TecoError(
            f"no shipped model is called {name}",
            hint=f"shipped: {', '.join(e.name for e in shipped)}; "
            "or train one (`teco train`) and give --weights",
            exit_code=USAGE,
        )
    return [entry]


def _report(products: list[Product], refused: list[tuple[str, TecoError]], *, table: bool) -> None:
    """What was made, on stderr: a line or two each, or a table."""
    from teco.model.manifest import manifest_path

    if table:
        _table(products, refused)
        return
    for product in products:
        asked = product.model.precision_asked
        say(f"{product.path.name}: {product.size / 1e6:.1f} MB, {product.proof.text(asked)}")
    model = products[0].model
    parity, gate = model.parity, model.gate
    assert parity is not None
    say(
        f"largest difference from PyTorch {parity.max_abs:.1e} over {parity.frames} recurrent "
        f"frames at {' and '.join(parity.sizes)}"
    )
    if gate is not None:
        say(f"gate {gate.bounds.name} at {model.gate_size}: {'; '.join(gate.reasons)}")
    if (record := model.int8) is not None:
        for text in record.lines:
            say(text)
    say(f"manifest: {', '.join(str(manifest_path(p.path)) for p in products)}")
    first = products[0]
    say(f"next: teco {'bench' if first.format == 'onnx' else 'info'} {first.path}")


def _table(products: list[Product], refused: list[tuple[str, TecoError]]) -> None:
    """Size, proof, parity, gate and speed of each; plain, so that it can be pasted."""
    rows = [("file", "MB", "proof", "parity", "gate", "int8's speed")]
    for product in products:
        model = product.model
        parity, gate = model.parity, model.gate
        assert parity is not None
        close = f"{parity.max_abs:.1e}"
        if parity.min_psnr is not None:
            close += f", {parity.min_psnr:.1f} dB"
        verdict = "not needed"
        if gate is not None:
            worst = gate.numbers.worst_psnr
            verdict = f"accepted, {'equal' if worst is None else f'{worst:.1f} dB'}"
        timings = model.int8.timings if model.int8 else ()
        speed = ", ".join(f"{t.fp32_ms / t.int8_ms:.2f}x fp32 on {t.runtime}" for t in timings)
        size = f"{product.size / 1e6:.1f}"
        proof = product.proof.text(model.precision_asked)
        rows.append((product.path.name, size, proof, close, verdict, speed))
    rows += [(name, "", "", "", "refused", "") for name, _ in refused]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
