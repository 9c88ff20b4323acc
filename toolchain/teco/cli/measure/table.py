"""``teco table``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import (
    Size,
    json_option,
    not_a_pipe,
    progress,
    put,
    reverse_warm_up_option,
    runtime_option,
    say,
    threads_option,
)

if TYPE_CHECKING:
    from teco.model.opening import Model


def _file(*suffixes: str) -> Any:
    """A callback for an output: that it can be made is known before the long work, not after."""

    def check(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        if not path.resolve().parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist")
        if path.is_dir():
            raise click.BadParameter(f"{path} is a folder, expected a file")
        if path.suffix.lower() not in suffixes:
            raise click.BadParameter(f"{path} should end in {' or '.join(suffixes)}")
        return path

    return check


def _is_real(model: Model) -> bool:
    return model.variant.degradation == "real"


@click.command("table")
@click.option(
    "--data",
    multiple=True,
    required=True,
    callback=not_a_pipe,
    metavar="DIR|CLIP",
    help="A set laid out as Vid4, ToS3 or REDS4, a folder of clips, or a clip. Repeatable.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="Repeatable; `bicubic` alone for no network. [default: every shipped model]",
)
@runtime_option
@threads_option
@click.option(
    "--size",
    type=Size(),
    help="LR size HEIGHTxWIDTH of MACs and times. [default: a static model's, or 180x320]",
)
@click.option(
    "--inputs",
    type=click.Choice(["made", "given"]),
    default="made",
    show_default=True,
    help="Degrade the truth here, or take the pictures in Gaussian4xLR or BDx4 beside it.",
)
@click.option(
    "--shrink",
    type=float,
    default=1.0,
    show_default=True,
    help="Area-average the truth to 1/SHRINK first; compressed video needs about 2.",
)
@click.option(
    "--codec",
    default="",
    metavar="NAME:QUALITY",
    help="What networks for ordinary clips are given went through it, for example x264:23.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of each clip.")
@click.option(
    "--metrics", default="psnr,ssim,lpips,tof,tlp", show_default=True, help="Comma-separated."
)
@reverse_warm_up_option
@click.option(
    "--average",
    type=click.Choice(["frame", "folder"]),
    default="frame",
    show_default=True,
    help="Which average to show; the JSON record holds both.",
)
@click.option("--time/--no-time", "timed", default=True, help="Measure step times.")
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Timed steps of each model.",
)
@click.option("--published/--no-published", default=True, help="Show published figures beside.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path),
    callback=_file(".md", ".markdown"),
    metavar="FILE.md",
    help="Also write the tables as Markdown.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    callback=_file(".svg", ".png"),
    metavar="FILE.svg|.png",
    help="Also draw quality against cost.",
)
@json_option("Also write everything, per frame, as JSON.")
def command(
    data: tuple[str, ...],
    models: tuple[str, ...],
    runtime: str,
    threads: int | None,
    size: tuple[int, int] | None,
    inputs: Any,
    shrink: float,
    codec: str,
    frames: int | None,
    metrics: str,
    reverse_warm_up: int,
    average: Any,
    timed: bool,
    repetitions: int,
    published: bool,
    markdown: Path | None,
    plot_file: Path | None,
    json_file: Path | None,
) -> None:
    """Compare interpolation and models on test sets: cost, quality and time in one table.

    The truth is degraded here, as the official evaluation does; frames 2 to N-3 of each clip
    count. Published figures stand in tables of their own, beside ours of as many blocks.
    """
    from teco.core.files import as_json, write_beside
    from teco.evaluation.table.measure import make_table, measurable, open_models
    from teco.evaluation.table.plot import check as check_plot
    from teco.evaluation.table.plot import plot
    from teco.evaluation.table.render import as_markdown, as_text
    from teco.evaluation.table.report import TableOptions
    from teco.evaluation.table.sets import find_sets
    from teco_calibration.codec import parse

    started = datetime.now(UTC)
    codec = "" if codec == "none" else codec
    if codec:
        parse(codec)
    if codec and (inputs == "given" or not any(_is_real(m) for _, m in open_models(models))):
        raise click.UsageError(
            "--codec is for networks for ordinary clips and inputs made here; there is none"
        )
    wanted, left_out = measurable(metrics)
    if plot_file is not None:
        check_plot(wanted)
    sets = find_sets(data)
    if size is None:
        size = next((s for _, m in open_models(models) if (s := m.static_size)), (180, 320))
    for one in sets:
        say(f"{one.name}: {', '.join(clip.name for clip in one.clips)}")
    for sentence in left_out:
        say(f"note: {sentence}")
    options = TableOptions(
        metrics=wanted, size=size, inputs=inputs, shrink=shrink, max_frames=frames,
        reverse_warm_up=reverse_warm_up, runtime=runtime, threads=threads,
        repetitions=repetitions if timed else None, average=average, published=published,
        codec=codec,
    )  # fmt: skip
    report = make_table(sets, models, options, left_out=left_out, progress=progress)
    report = replace(
        report,
        command=" ".join(["teco", *sys.argv[1:]]),
        started=started.isoformat(timespec="seconds"),
    )
    put(as_text(report), nl=False)
    for warning in report.warnings:
        say(f"warning: {warning}")
    if plot_file is not None:
        write_beside(plot_file, plot(report, plot_file.suffix.lower()))
        say(f"plot: {plot_file}")
    if markdown is not None:
        link = None if plot_file is None else os.path.relpath(plot_file, markdown.resolve().parent)
        write_beside(markdown, as_markdown(report, link).encode())
        say(f"Markdown: {markdown}")
    if json_file is not None:
        write_beside(json_file, as_json(report.as_dict()))
        say(f"record: {json_file}")
