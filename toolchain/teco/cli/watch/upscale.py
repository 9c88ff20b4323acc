"""``teco upscale``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teco.cli.options import (
    Size,
    model_option,
    progress,
    reverse_warm_up_option,
    runtime_option,
    say,
    scale_option,
    threads_option,
)

if TYPE_CHECKING:
    from teco.inference.upscale import Prospect


def _tile(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int] | str | None:
    """ "auto", None for off, or (height, width)."""
    if value in ("auto", "off"):
        return "auto" if value == "auto" else None
    return Size().convert(value, param, ctx)


def _go_on(ahead: Prospect, took: int | None, *, ask: bool) -> bool:
    """Say what is ahead; whether to go on with it. Where nobody can be asked, yes."""
    from teco.inference.upscale import HOUR

    memory = "" if took is None else f" and {took / 2**30:.1f} GiB of memory"
    say(
        f"about {ahead.frames} frames of {ahead.width}x{ahead.height} will take about "
        f"{ahead.time}{memory}"
    )
    if ahead.seconds <= HOUR or not (ask and sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm("Go on?", default=True, err=True)


@click.command("upscale")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@model_option
@scale_option
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
    help="Step frames in tiles of this LR size; auto where memory is short; off.",
)
@click.option("--yes", is_flag=True, help="Do not ask before work of more than an hour.")
@click.option(
    "--force", is_flag=True, help="Replace an existing OUT, and unfinished work of other options."
)
def command(
    source: str,
    target: str,
    model: str | None,
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
    tile: tuple[int, int] | str | None,
    yes: bool,
    force: bool,
) -> None:
    """Enlarge the clip IN four times, or twice with --scale 2, and write it to OUT.

    IN is a video file, a folder of images, or - for y4m on stdin. OUT is a video file, a name
    without suffix for a folder of PNGs, or - for y4m on stdout. Sound, subtitles and timestamps
    are copied. OUT appears only when it is complete.
    """
    from teco.core.errors import TecoError
    from teco.core.memory import taken_bytes
    from teco.estimates.room import Encoding, need, tiles_for
    from teco.inference.tiles import tiled, window_of
    from teco.inference.upscale import UpscaleOptions, upscale
    from teco.model.opening import (
        check_frame_size,
        for_papers,
        identity_of,
        open_for_scale,
    )
    from teco.runtimes import Session, SessionOptions, open_session
    from teco.video.file.encoders import EncoderSettings
    from teco.video.frames import FrameSource
    from teco.video.segments import unfinished

    opened = open_for_scale(model, scale)
    encoder = EncoderSettings(codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt)
    will_take: int | None = None

    def make_session(clip: FrameSource) -> Session:
        nonlocal will_take
        h, w = clip.height, clip.width
        check_frame_size(opened, h, w)
        # Unfinished work goes on as it was begun: what was found fastest or had room may differ.
        begun = None if force else unfinished(Path(target))
        chosen = begun.runtime if begun is not None and runtime == "auto" else runtime
        session = open_session(opened, chosen, SessionOptions(threads=threads))
        # What is free is asked when the runtime's libraries are there.
        already = taken_bytes()
        encoding = Encoding.of(target, encoder, clip, held=reverse_warm_up)
        window = None
        if isinstance(tile, tuple):
            window = window_of(tile, h, w)
        elif tile == "auto":
            try:
                window = begun.window if begun is not None else (
                    tiles_for(opened.variant, h, w, session.runtime, encoding)
                )  # fmt: skip
            except TecoError:
                session.close()
                raise
        if window is not None:
            session = tiled(session, window)
        grows = need(opened.variant, h, w, session.runtime, encoding, window)
        will_take = None if grows is None else already + grows
        say(f"{opened.name} on {session.runtime} ({session.details})")
        if note := for_papers(opened):
            say(f"note: {note}")
        return session

    options = UpscaleOptions(
        start=start, end=end, max_frames=frames, rate=rate, scene_cuts=scene_cuts,
        reverse_warm_up=reverse_warm_up, deinterlace=deinterlace, encoder=encoder, overwrite=force,
    )  # fmt: skip
    with progress("upscaling") as show:
        result = upscale(
            make_session, source, target, options, show,
            tell=lambda text: say(f"note: {text}"),
            model_id=identity_of(opened),
            scale=opened.variant.scale,
            planes=opened.planes,
            go_on=lambda ahead: _go_on(ahead, will_take, ask=not yes),
        )  # fmt: skip
    stepped = result.frames - result.resumed
    alone = stepped / result.step_seconds if result.step_seconds else 0.0
    say(
        f"{result.frames} frames, {result.scenes} scene{'s' if result.scenes != 1 else ''}, "
        f"{result.seconds:.1f} s: {result.fps:.2f} fps (the network alone {alone:.2f} fps)"
    )
