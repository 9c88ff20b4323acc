"""``teco upscale``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from teco.cli.options import (
    Size,
    choice_options,
    model_option,
    progress,
    reverse_warm_up_option,
    runtime_option,
    say,
    scale_option,
    seconds_option,
    threads_option,
)

if TYPE_CHECKING:
    from teco.api import Ahead
    from teco.inference.beside import Comparison
    from teco.model.choice import Look, Quality


def _tile(
    ctx: click.Context, param: click.Parameter, value: str
) -> tuple[int, int] | Literal["auto"] | None:
    """ "auto", None for off, or (height, width)."""
    if value == "auto":
        return "auto"
    if value == "off":
        return None
    return Size().convert(value, param, ctx)


def _go_on(ahead: Ahead, *, ask: bool) -> bool:
    """Say what is ahead; whether to go on with it. Where nobody can be asked, yes."""
    from teco.inference.upscale import HOUR

    say(str(ahead))
    if ahead.prospect.seconds <= HOUR or not (ask and sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm("Go on?", default=True, err=True)


@click.command("upscale")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@model_option
@choice_options
@scale_option
@runtime_option
@threads_option
@seconds_option("--start", "Begin here, in seconds or as 1:02:03.5.")
@seconds_option("--end", "Stop before this.")
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--rate", type=float, help="Frames a second of a folder of images. [default: 25]")
@click.option("--codec", help="Encoder. [default: libx264; libvpx-vp9 for .webm]")
@click.option("--crf", type=float, default=16, show_default=True, help="Quality, lower is better.")
@click.option("--preset", default="medium", show_default=True, help="Encoder speed.")
@click.option(
    "--pix-fmt", default="yuv420p", show_default=True, help="yuv420p, yuv444p, yuv420p10le, ..."
)
@click.option(
    "--scene-cuts/--no-scene-cuts", default=True, help="Reset at scene cuts. [default: on]"
)
@click.option(
    "--deinterlace/--no-deinterlace", default=True,
    help="Make progressive frames of interlaced ones. [default: on]",
)  # fmt: skip
@reverse_warm_up_option
@click.option(
    "--tile",
    default="auto",
    show_default=True,
    metavar="HxW",
    callback=_tile,
    help="Step frames in tiles of this LR size, at least 128 a side or the frame's own; less "
    "becomes that, and sides are rounded to a grid of 16. auto: where memory is short; off.",
)
@click.option(
    "--compare", type=click.Choice(["side", "split"]),
    help="Bicubic left, the network right: side by side, or in one picture.",
)  # fmt: skip
@click.option(
    "--to", metavar="SIZE",
    help="End at this size: 1080p, 4k, WIDTHxHEIGHT or 2x; takes the network that reaches it. "
    "Pixels that are not square stay so, unless WIDTHxHEIGHT is the shape that is shown. "
    "[default: what the network makes]",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask before work of more than an hour.")
@click.option(
    "--force", is_flag=True, help="Replace an existing OUT, and unfinished work of other options."
)
def command(
    source: str,
    target: str,
    model: str | None,
    quality: Quality | None,
    look: Look | None,
    scale: int | None,
    runtime: str,
    threads: int | None,
    start: float | None,
    end: float | None,
    frames: int | None,
    rate: float | None,
    codec: str | None,
    crf: float,
    preset: str,
    pix_fmt: str,
    scene_cuts: bool,
    deinterlace: bool,
    reverse_warm_up: int,
    tile: tuple[int, int] | Literal["auto"] | None,
    compare: Comparison | None,
    to: str | None,
    yes: bool,
    force: bool,
) -> None:
    """Enlarge the clip IN four times, or twice with --scale 2, and write it to OUT.

    IN is a video file, an image, a folder of images, or - for y4m on stdin. OUT is a video file, an
    image, a name without suffix for a folder of PNGs, or - for y4m on stdout. Sound, subtitles and
    timestamps are copied. OUT appears only when it is complete.
    """
    from teco import api

    with progress("upscaling") as show:
        result = api.upscale(
            source, target, model=model, quality=quality, look=look, scale=scale, to=to,
            runtime=runtime, threads=threads, tile=tile, start=start, end=end, frames=frames,
            rate=rate, codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt, scene_cuts=scene_cuts,
            deinterlace=deinterlace, reverse_warm_up=reverse_warm_up, compare=compare,
            overwrite=force, progress=lambda at: show(at.done, at.total), tell=say,
            go_on=lambda ahead: _go_on(ahead, ask=not yes),
        )  # fmt: skip
    stepped = result.frames - result.resumed
    alone = stepped / result.step_seconds if result.step_seconds else 0.0
    made = f"{result.frames} frame{'s' * (result.frames != 1)}"
    say(
        f"{made}, {result.scenes} scene{'s' * (result.scenes != 1)}, "
        f"{result.seconds:.1f} s: {result.fps:.2f} fps (the network alone {alone:.2f} fps)"
    )
