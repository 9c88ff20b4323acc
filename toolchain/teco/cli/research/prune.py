"""``teco prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import (
    json_option,
    not_a_pipe,
    progress,
    put,
    say,
    weights_file,
)
from teco.cli.research.prune_budget import FRAMES, PruneArguments, budget_options

if TYPE_CHECKING:
    from teco.pruning.structured import PruneOptions, PruneResult

    _OrderType = click.ParamType[str]
else:
    _OrderType = click.ParamType  # a generic class only in the newest click

SCHEMA = 1
"""Version of the record's layout."""


class _Order(_OrderType):
    """plain or sensitivity; the latter was called damage once, which still works."""

    name = "plain|sensitivity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        choice = click.Choice(("plain", "sensitivity"))
        return choice.convert("sensitivity" if value == "damage" else value, param, ctx)


@click.command("prune")
@click.argument("weights", metavar="WEIGHTS|NAME")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT.safetensors",
    help="The pruned weights. [default: VARIANT.safetensors in this folder, the result's variant]",
)
@click.option("--blocks", type=int, help="Residual blocks to keep.")
@click.option(
    "--order",
    type=_Order(),
    help="Which blocks go: the last ones (the paper's order), or the least missed on --clip. "
    "[default: sensitivity with --clip, else plain]",
)
@click.option("--channels", type=int, help="SRNet channels to keep.")
@click.option("--flow-channels", type=int, help="Channels of the flow net's first stage to keep.")
@click.option(
    "--criterion",
    type=click.Choice(["l1", "l2"]),
    help="Norm of a channel's weights by which channels are ranked. [default: l2]",
)
@click.option("--share-blocks", type=int, help="Tie the blocks to so many distinct ones.")
@click.option(
    "--merge",
    type=click.Choice(["mean", "first"]),
    help="What tied blocks start from: their average or the first's weights. [default: mean]",
)
@click.option(
    "--sparsity", type=float, help="Share of all convolution weights to mask, 0 to 1. No speed."
)
@click.option(
    "--score",
    type=click.Choice(["lamp", "magnitude"]),
    help="How weights of different layers are compared: relative to their layer, or as they are. "
    "[default: lamp]",
)
@click.option(
    "--rewind",
    metavar="INIT|NAME",
    help="Put what --sparsity leaves back to these weights (lottery ticket).",
)
@click.option(
    "--clip",
    callback=not_a_pipe,
    metavar="CLIP",
    help="Measure on this clip, one shot, what each block is worth.",
)
@click.option(
    "--shrink", type=float, metavar="S", help="Shrink the clip by area first. [default: 1]"
)
@click.option("--frames", type=int, metavar="N", help=f"Frames of it. [default: {FRAMES}]")
@click.option("--force", is_flag=True, help="Replace files of the same name.")
@json_option("Write the report, as data.")
@budget_options
def command(asked: PruneArguments) -> None:
    """Make weights smaller: fewer blocks, fewer channels; and masks or tied blocks.

    The result is verified against the large network with the same parts silenced, recurrently,
    before it gets its name. It is a place to train from, not to stop at. Tied and masked weights
    make nothing faster.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.core.machine import require_extra

    if asked.clip is None and (asked.shrink is not None or asked.frames is not None):
        raise TecoError(
            "--shrink and --frames say how to read a clip, and there is none",
            hint="give --clip",
            exit_code=USAGE,
        )
    for module in ("torch", "safetensors"):
        require_extra(module, "torch", "pruning")
    from teco.pruning.structured import (
        check_options,
        check_output,
        clip_sensitivity,
        default_output,
        prune,
        write,
    )
    from teco_models.checkpoint import load_weights

    options = _options(asked)
    source = weights_file(asked.weights)
    start = None if asked.rewind is None else weights_file(asked.rewind)
    with_masks = options.sparsity is not None
    sources = [source] if start is None else [source, start]
    output = asked.output
    if output is not None:
        check_output(output, sources, masks=with_masks, overwrite=asked.force)
    loaded = load_weights(source)
    initial = None if start is None else load_weights(start)
    # A clip takes its time; without one, and with a name, prune() sees to this at once.
    if asked.clip is not None or output is None:
        becomes = check_options(loaded, options, measured=asked.clip is not None, initial=initial)
        if output is None:
            output = default_output(becomes)
            check_output(output, sources, masks=with_masks, overwrite=asked.force)
    for note in loaded.notes:
        say(f"note: {note}")
    measure = None
    shrink = 1.0 if asked.shrink is None else asked.shrink
    if asked.clip is not None:
        frames = FRAMES if asked.frames is None else asked.frames
        measure = clip_sensitivity(asked.clip, shrink, frames, loaded)
    with progress("measuring", "networks") as show:
        result = prune(loaded, options, sensitivity=measure, initial=initial, progress=show)
    measured = None
    if measure is not None:
        measured = {
            "clip": asked.clip,
            "shrink": shrink,
            "frames": measure.frames,
            "psnr_before": measure.reference,
            "psnr_after": measure.psnr(result.weights),
        }
    write(result, output)
    _show(asked, result, output, measured)
    if asked.json_file is not None:
        from teco.core.files import as_json, write_beside

        record = {"kind": "teco prune", "schema": SCHEMA, "weights": str(source)}
        record |= {"output": str(output), "order": options.order}
        write_beside(asked.json_file, as_json({**record, **result.as_dict(), "measured": measured}))


def _options(asked: PruneArguments) -> PruneOptions:
    """What to take; what was not typed stays at its default."""
    from teco.pruning.structured import PruneOptions

    typed: dict[str, Any] = {
        "blocks": asked.blocks, "channels": asked.channels, "flow_channels": asked.flow_channels,
        "criterion": asked.criterion, "share": asked.share_blocks, "merge": asked.merge,
        "sparsity": asked.sparsity, "score": asked.score,
        "order": asked.order or ("sensitivity" if asked.clip is not None else "plain"),
    }  # fmt: skip
    return PruneOptions(**{name: value for name, value in typed.items() if value is not None})


def _show(
    asked: PruneArguments, result: PruneResult, output: Path, measured: dict[str, Any] | None
) -> None:
    from teco.pruning.structured import masks_path

    put(output)
    if result.report.before != result.report.after:
        say(result.report.to_text())
    if result.sparsity is not None:
        say(result.sparsity.to_text())
        say(f"masks, to apply after every step of training: {masks_path(output)}")
    if result.pattern is not None:
        say(f"tied blocks: {','.join(map(str, result.pattern))}")
    for note in result.notes:
        say(f"note: {note}")
    if measured is None and result.report.blocks:
        say("note: without --clip nothing was measured: the last blocks went, the paper's order")
    if measured is not None:
        say(
            f"PSNR-Y on {measured['frames']} frames of {asked.clip}: "
            f"{measured['psnr_before']:.2f} -> {measured['psnr_after']:.2f} dB, before any training"
        )
    say(f"next: teco train --init {output} --teacher {asked.weights} ...")
