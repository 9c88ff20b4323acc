"""``teco upscale``."""

from __future__ import annotations

import click

from teco.cli.options import (
    model_option,
    progress,
    reverse_warm_up_option,
    runtime_option,
    say,
    threads_option,
)
from teco_models.variant import SCALE


def _scale(_ctx: click.Context, _param: click.Parameter, value: int) -> int:
    """The scale of every network so far."""
    if value != SCALE:
        raise click.BadParameter(
            f"every network so far enlarges {SCALE} times, not {value}; shrink what comes out."
        )
    return value


@click.command("upscale")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@model_option
@click.option(
    "--scale", type=int, default=4, show_default=True, callback=_scale, expose_value=False,
    metavar="N", help="How many times as high and wide.",
)  # fmt: skip
@runtime_option
@threads_option
@click.option("--start", type=float, metavar="SECONDS", help="Begin here.")
@click.option("--end", type=float, metavar="SECONDS", help="Stop before this.")
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
@reverse_warm_up_option
@click.option("--force", is_flag=True, help="Replace an existing OUT.")
def command(
    source: str,
    target: str,
    model: str | None,
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
    reverse_warm_up: int,
    force: bool,
) -> None:
    """Enlarge the clip IN four times and write it to OUT.

    IN is a video file, a folder of images, or - for y4m on stdin. OUT is a video file, a name
    without suffix for a folder of PNGs, or - for y4m on stdout. Sound, subtitles and timestamps
    are copied. OUT appears only when it is complete.
    """
    from teco.inference.upscale import UpscaleOptions, upscale
    from teco.model.opening import DEFAULT_MODEL, check_frame_size, for_papers, open_model
    from teco.runtimes import Session, SessionOptions, open_session

    opened = open_model(DEFAULT_MODEL if model is None else model)

    def make_session(h: int, w: int) -> Session:
        check_frame_size(opened, h, w)
        session = open_session(opened, runtime, SessionOptions(threads=threads))
        say(f"{opened.name} on {session.runtime} ({session.details})")
        if note := for_papers(opened):
            say(f"note: {note}")
        return session

    options = UpscaleOptions(
        start=start, end=end, max_frames=frames, rate=rate, scene_cuts=scene_cuts,
        reverse_warm_up=reverse_warm_up, codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt,
        overwrite=force,
    )  # fmt: skip
    with progress("upscaling") as show:
        result = upscale(make_session, source, target, options, show)
    for notice in result.notices:
        say(f"note: {notice}")
    alone = result.frames / result.step_seconds if result.step_seconds else 0.0
    say(
        f"{result.frames} frames, {result.scenes} scene{'s' if result.scenes != 1 else ''}, "
        f"{result.seconds:.1f} s: {result.fps:.2f} fps (the network alone {alone:.2f} fps)"
    )
