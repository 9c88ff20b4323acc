"""``teco eval``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import (
    json_option,
    model_option,
    not_a_pipe,
    progress,
    put,
    reverse_warm_up_option,
    runtime_option,
    say,
    threads_option,
)

if TYPE_CHECKING:
    from teco.evaluation.quality import QualityRow
    from teco_calibration.degrade import Filter
    from teco_models.variant import Degradation


@click.command("eval")
@model_option
@click.option(
    "--clip",
    "clips",
    multiple=True,
    required=True,
    callback=not_a_pipe,
    metavar="CLIP",
    help="A clip that is the truth: video file or folder of pictures. Repeatable.",
)
@runtime_option
@threads_option
@click.option(
    "--shrink",
    type=float,
    default=1.0,
    show_default=True,
    help="Area-average the truth to 1/SHRINK first; compressed video needs about 2.",
)
@click.option(
    "--degradation",
    type=click.Choice(["bd", "bi", "real"]),
    help="How the truth is made small; real is about pixel centres, as people's clips are.  "
    "[default: the model's own]",
)
@click.option(
    "--filter",
    "filter_name",
    type=click.Choice(["area", "bicubic", "lanczos"]),
    default="lanczos",
    show_default=True,
    help="What shrinks, of --degradation real.",
)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="NAME:QUALITY",
    help="Send the low-resolution frames through a codec first: x264, x265, vp9, svtav1 (CRF), "
    "mpeg2, mpeg4 (quantiser), for example x264:23, or none. Repeatable.  [default: none]",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of each clip.")
@click.option(
    "--metrics", default="psnr,ssim,lpips,tof,tlp", show_default=True, help="Comma-separated."
)
@click.option(
    "--recurrence/--no-recurrence",
    default=True,
    help="Also say what the past is worth: --no-recurrence zeroes it.",
)
@click.option("--scene-cuts/--no-scene-cuts", default=True, help="Reset at scene cuts.")
@reverse_warm_up_option
@json_option("Also write everything, per frame, as JSON.")
def command(
    model: str | None,
    clips: tuple[str, ...],
    runtime: str,
    threads: int | None,
    shrink: float,
    degradation: Degradation | None,
    filter_name: Filter,
    codecs: tuple[str, ...],
    frames: int | None,
    metrics: str,
    recurrence: bool,
    scene_cuts: bool,
    reverse_warm_up: int,
    json_file: Path | None,
) -> None:
    """Degrade clips, upscale them, and compare with the truth by the official definitions.

    Frames 2 to N-3 count, in a centred window of multiples of 32. With --no-recurrence, the
    model runs a second time with its state zeroed before every frame, and the difference, the
    temporal gain, is printed. With --degradation real, how far right of and below the truth the
    frames lie is measured too.
    """
    from teco.benchmark.report.render import quality_table
    from teco.core.errors import USAGE, TecoError
    from teco.core.files import as_json, write_beside
    from teco.evaluation.quality import EvaluateOptions, evaluate, parse_metrics, truth_size
    from teco.model.opening import DEFAULT_MODEL, check_frame_size, open_model
    from teco.runtimes import SessionOptions, open_session
    from teco_calibration.codec import parse
    from teco_models.variant import SCALE

    wanted = parse_metrics(metrics)
    # "none" and no codec are the same; a wrong one is refused before a model is opened.
    sent = [codec if codec != "none" and parse(codec) else "" for codec in codecs or ("none",)]
    opened = open_model(DEFAULT_MODEL if model is None else model)
    scale = opened.variant.scale
    if scale != SCALE and (degradation or opened.variant.degradation) != "real":
        raise TecoError(
            f"{opened.name} enlarges {scale} times, and {degradation} makes clips {SCALE} times "
            "smaller",
            hint="give --degradation real, or none",
            exit_code=USAGE,
        )
    for clip in clips:
        width, height = truth_size(clip, shrink, scale)
        check_frame_size(opened, height // scale, width // scale)
    session = open_session(opened, runtime, SessionOptions(threads=threads))
    say(f"{opened.name} on {session.runtime} ({session.details})")
    how = degradation or opened.variant.degradation
    options = EvaluateOptions(
        degradation=how, filter=filter_name, shrink=shrink, max_frames=frames, metrics=wanted,
        scene_cuts=scene_cuts, reverse_warm_up=reverse_warm_up, scale=scale,
    )  # fmt: skip
    rows: list[QualityRow] = []
    gains: list[str] = []
    for codec in sent:
        coded = replace(options, codec=codec)
        with progress(f"measuring {codec}".strip()) as show:
            found = evaluate(session, opened.name, clips, coded, show)
            if not recurrence:
                name = f"{opened.name}, no recurrence"
                found[1:1] = evaluate(session, name, clips, coded.without_recurrence(), show)
                if "psnr" in wanted:
                    gain = found[0].frame_average["psnr"] - found[1].frame_average["psnr"]
                    gains.append(f"{gain:+.3f} dB PSNR{f' after {codec}' if codec else ''}")
        rows += found
    session.close()
    put(quality_table(rows, wanted), nl=False)
    if gains:
        put(f"temporal gain: {', '.join(gains)}")
    for note in dict.fromkeys(n for row in rows for r in row.per_clip for n in r.notes):
        say(f"note: {note}")
    if json_file is not None:
        record: dict[str, Any] = {
            "clips": list(clips), "degradation": how, "shrink": shrink,
            "filter": filter_name if how == "real" else None, "codecs": sent,
            "frames": frames, "runtime": session.runtime,
            "rows": [row.as_dict() for row in rows],
        }  # fmt: skip
        write_beside(json_file, as_json(record))
