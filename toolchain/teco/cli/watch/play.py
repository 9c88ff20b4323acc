"""``teco play``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from teco.cli.options import (
    choice_options,
    model_option,
    progress,
    runtime_option,
    say,
    scale_option,
    seconds_option,
    threads_option,
)

if TYPE_CHECKING:
    from teco.model.choice import Look, Quality


def _split(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} cannot be split into arguments: {error}") from error


@click.command("play")
@click.argument("clip", metavar="CLIP")
@model_option
@choice_options
@scale_option
@runtime_option
@threads_option
@seconds_option("--start", "Begin here, in seconds or as 1:02:03.5.")
@seconds_option("--end", "Stop before this.")
@click.option("--player", metavar="NAME", help="mpv or ffplay. [default: the first there is]")
@click.option(
    "--deadline/--no-deadline", default=True,
    help="Enlarge without the network what would be late. [default: on]",
)  # fmt: skip
@click.option("--osd/--no-osd", default=True, help="Show the rate on the screen. [default: on]")
@click.option(
    "--scene-cuts/--no-scene-cuts", default=True, help="Reset at scene cuts. [default: on]"
)
@click.option(
    "--player-args", default="", callback=_split, metavar="TEXT",
    help="Further arguments for the player.",
)  # fmt: skip
def command(
    clip: str,
    model: str | None,
    quality: Quality | None,
    look: Look | None,
    scale: int | None,
    runtime: str,
    threads: int | None,
    start: float | None,
    end: float | None,
    player: str | None,
    deadline: bool,
    osd: bool,
    scene_cuts: bool,
    player_args: tuple[str, ...],
) -> None:
    """Watch CLIP enlarged four times, or twice with --scale 2, now, in mpv or ffplay.

    CLIP is a video file, a folder of images, or - for y4m on stdin. A frame that the network
    cannot finish in time is enlarged by bicubic interpolation instead, and counted.
    """
    from teco.model.choice import choose
    from teco.model.opening import check_frame_size, for_papers, open_for_scale
    from teco.players.playback.play import PlayOptions, play
    from teco.players.playback.programs import find_program
    from teco.runtimes import Session, SessionOptions
    from teco.runtimes import choose as choose_runtime

    program = find_program(player)
    choice = choose(model, scale, quality, look)
    opened = open_for_scale(choice.model, scale)

    def make_session(h: int, w: int) -> Session:
        check_frame_size(opened, h, w)
        how = SessionOptions(threads=threads)
        chosen = choose_runtime(opened, runtime, how, choice.wish, size=(h, w))
        session = chosen.runtime.open(chosen.model, how)
        say(f"{opened.name} on {session.runtime} ({session.details}), in {program.name}")
        if chosen.why:
            say(f"note: {chosen.why}")
        if note := for_papers(opened):
            say(f"note: {note}")
        return session

    options = PlayOptions(
        start=start, end=end, scene_cuts=scene_cuts, deadline=deadline, osd=osd, extra=player_args,
        centred=opened.variant.centred, scale=opened.variant.scale,
        planes=opened.planes,
    )  # fmt: skip
    with progress("playing") as show:
        result = play(make_session, clip, program, options, show)
    for notice in result.notices:
        say(f"note: {notice}")
    stats = result.stats
    late = stats.fallbacks + stats.late
    ends = "; the player was closed" if result.closed else ""
    say(
        f"{stats.frames} frames in {result.seconds:.1f} s, {late} late "
        f"({result.late_share:.1%}), {stats.fallbacks} of them bicubic{ends}"
    )
    if result.late_share > 0.2:
        say(_too_slow(opened.name, quality))


def _too_slow(model: str, quality: Quality | None) -> str:
    from teco.model.opening import DEFAULT_MODEL

    if model == DEFAULT_MODEL:
        faster = "" if quality == "fast" else "--quality fast may keep up, and "
        return f"this machine is too slow for this clip: {faster}`teco upscale` makes a file of it"
    return f"{model} is too slow for this clip here; --model {DEFAULT_MODEL} is made for CPUs"
