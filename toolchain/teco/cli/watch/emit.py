"""``teco emit``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import (
    Renamed,
    model_option,
    put,
    runtime_option,
    say,
    threads_option,
)

SUMMARIES = {
    "vapoursynth": "a script for vspipe, editors and mpv's VapourSynth filter",
    "mpv": "a profile for an mpv that has the VapourSynth filter",
    "frei0r": "a filter that stock ffmpeg, mpv and GStreamer load",
    "gstreamer": "the element `teco` for gst-launch, playbin and applications",
    "c": "libteco: a C library for programs, with an example",
    "web": "a page for browsers, where one drops a video and watches it beside the original",
}
"""Target -> one line, kept here so that help imports no target; a test holds it to the table."""


class _Command(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Targets"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.command("emit", cls=_Command)
@click.argument("target", metavar="TARGET")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write a folder.")
@model_option
@runtime_option
@threads_option
@click.option(
    "--pre-roll",
    cls=Renamed,
    older="--warm-up",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Frames run, and dropped, before the frame that was sought, where the player has them.",
)
@click.option("--force", is_flag=True, help="Replace a DIR that was emitted before.")
@click.option("--check/--no-check", default=True, help="Try it in its program. [default: on]")
def command(
    target: str,
    out: Path | None,
    model: str | None,
    runtime: str,
    threads: int | None,
    pre_roll: int,
    force: bool,
    check: bool,
) -> None:
    """Write what a player needs: a script or page, model, manifest, licence and README.

    Without -o the script alone goes to stdout, where the target is one script. With it, DIR is
    complete, and was accepted by the target's own program if that is installed here.
    """
    from teco.model.opening import DEFAULT_MODEL, for_papers, open_model
    from teco.players import find
    from teco.players.base import EmitRequest
    from teco.runtimes import find as find_runtime

    chosen = find(target)
    if target == "web" and (runtime != "auto" or threads is not None or pre_roll):
        raise click.UsageError(
            "--runtime, --threads and --pre-roll are for players that run Python; the page has "
            "choices of its own"
        )
    spec = DEFAULT_MODEL if model is None else model
    opened = open_model(spec)
    if runtime != "auto":
        opened = opened.form(find_runtime(runtime).form)
    request = EmitRequest(
        model=opened, spec=spec, runtime=runtime, threads=threads, pre_roll=pre_roll
    )
    if out is None:
        text = chosen.text(request)
        if text is None:
            raise click.UsageError(f"{target} is a folder: give it a name with -o DIR")
        put(text, nl=False)
        return
    from teco.players.emit import write

    said = write(chosen, request, out, force=force, check=check)
    say(f"{out}: {chosen.summary}; {said}")
    say(f"{out / 'README.md'} says how to run it")
    if note := for_papers(request.model):
        say(f"note: {note}")
