"""``teco bench``."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from teco.cli.options import (
    Size,
    json_option,
    not_a_pipe,
    report_option,
    say,
    threads_option,
)

if TYPE_CHECKING:
    from teco.benchmark.quality.clip import TruthClip
    from teco.benchmark.quality.measure import QualityOptions
    from teco.benchmark.record.record import Record
    from teco.benchmark.run import Bench
    from teco_calibration.metrics.quality import Metric

METRICS = "psnr,ssim,lpips,tof,tlp,flicker"


def _a_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """No comparison finds that nan is out of a range."""
    if math.isnan(value):
        raise click.BadParameter(f"{value} is not a number of seconds.")
    return value


@click.command("bench")
@click.argument("artifacts", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--family", is_flag=True, help="Every shipped model, with quality on a shipped clip.")
@click.option(
    "--runtime",
    default="all",
    show_default=True,
    metavar="NAME,NAME,...",
    help="all that can run here, auto, or names.",
)
@click.option("--size", type=Size(), help="LR size HEIGHTxWIDTH. [default: the clip's, or 180x320]")
@click.option(
    "--clip", metavar="CLIP", callback=not_a_pipe, help="A ground truth to measure quality on."
)
@click.option(
    "--truth", metavar="CLIP", callback=not_a_pipe, help="Of --clip, which is then not degraded."
)
@click.option("--fit", is_flag=True, help="Resize the clip to --size, or to a static file's.")
@click.option(
    "--shrink",
    type=float,
    default=1.0,
    show_default=True,
    help="Area-average the clip to 1/SHRINK first.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of the clip.")
@click.option("--metrics", default=METRICS, show_default=True, help="On the clip.")
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    help="Samples of each candidate. [default: as many as --budget allows, 15 or more]",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=1, max=86400),
    callback=_a_number,
    default=150,
    show_default=True,
    metavar="SECONDS",
    help="About how long the whole run may take.",
)
@click.option("--kernel-only", is_flag=True, help="Time the step alone; no pipeline, no playback.")
@click.option(
    "--gate",
    is_flag=True,
    help="Also judge each candidate beside the float32 step, over a sequence and across cuts.",
)
@click.option(
    "--fail-if",
    "fail_if",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 where it holds of a candidate: 'p99_ms>40', 'psnr_drop>0.3'.",
)
@threads_option
@json_option("Write the whole record.")
@report_option("--html", "html_file", ".html", "Write the report: one page that needs no network.")
@report_option("--markdown", "markdown_file", ".md", "Write the tables for a README.")
@click.pass_context
def command(
    context: click.Context,
    artifacts: tuple[str, ...],
    family: bool,
    runtime: str,
    size: tuple[int, int] | None,
    clip: str | None,
    truth: str | None,
    fit: bool,
    shrink: float,
    frames: int | None,
    metrics: str,
    repetitions: int | None,
    budget: float,
    kernel_only: bool,
    gate: bool,
    fail_if: tuple[str, ...],
    threads: int | None,
    json_file: Path | None,
    html_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Measure models side by side: latency, memory, and quality on a clip.

    Three numbers for speed: the step alone, file to file, and played at the clip's rate. Each
    candidate runs in a process of its own; their steps take turns in random order.
    """
    from teco.benchmark.measure.candidates import choose
    from teco.benchmark.quality.measure import Gallery
    from teco.benchmark.record import fail_if as conditions
    from teco.benchmark.record import store
    from teco.benchmark.report.render import gate_table
    from teco.benchmark.report.terminal import record_tables, watching
    from teco.benchmark.run import Bench, BenchOptions
    from teco.core import machine
    from teco.core.errors import FAILED, MACHINE, USAGE, Interrupted, TecoError
    from teco.core.files import write_beside
    from teco.model.opening import DEFAULT_MODEL
    from teco_models import zoo

    if family and artifacts:
        raise TecoError(
            "--family is every shipped model, and names were given as well",
            hint="leave one of both out",
            exit_code=USAGE,
        )
    of_a_clip = (("--truth", truth), ("--fit", fit), ("--shrink", shrink != 1))
    for option, given in (*of_a_clip, ("--frames", frames is not None and not family)):
        if given and clip is None:
            raise TecoError(f"{option} needs --clip", hint="add --clip CLIP", exit_code=USAGE)
    with_quality = clip is not None or family
    checks = [conditions.parse(c, clip=with_quality, kernel_only=kernel_only) for c in fail_if]
    libraries = None
    if html_file is not None:  # what its charts want may have to be fetched, which may fail
        from teco.benchmark.report.html import libraries as of_the_report

        libraries = of_the_report.find(say=say)
    here = machine.inspect()
    specs = [e.name for e in zoo.entries()] if family else list(artifacts or (DEFAULT_MODEL,))
    names = [name.strip() for name in runtime.split(",")]
    opened = _open_clip(clip, truth, shrink, frames, size, fit, specs) if clip else None
    quality = None
    if opened is not None:
        size = size or opened.size
        quality = _quality_options(metrics, threads, frames, family=False, context=context)
    elif family:
        quality = _quality_options(metrics, threads, frames, family=True, context=context)
        opened = _shipped_clip(frames) if quality is not None else None
    lineup = choose(specs, names, size, here, threads=threads, share=family)
    if not lineup.contenders and not lineup.static:
        raise TecoError(
            "no runtime here can run what was given",
            hint="; ".join(dict.fromkeys(x.why for x in lineup.unavailable)),
            exit_code=MACHINE,
        )
    gallery = Gallery() if html_file is not None and opened is not None else None
    bench = Bench(
        lineup,
        BenchOptions(
            threads=threads, repetitions=repetitions, budget_s=budget, kernel_only=kernel_only,
            clip=opened, quality=quality, gallery=gallery, gate=gate,
        ),
        here,
        command=" ".join(["teco", *sys.argv[1:]]),
        keep=(lambda r: store.write(json_file, r)) if json_file else (lambda r: None),
    )  # fmt: skip
    contenders = [(c.key, c.model.name, c.runtime.name) for c in lineup.contenders]
    with watching(contenders) as bench.watch, _stopped_gently(bench):
        record = bench.run()
    if json_file is not None:
        # Before anything is printed: whoever reads that may have left.
        store.write(json_file, record)
    if record.rows or record.static:
        click.echo(record_tables(record), nl=False)
    if bench.judged:
        click.echo(gate_table(bench.judged), nl=False)
    if record.rows or not record.complete:
        _tell(record)
    if json_file is not None:
        say(f"record: {json_file}")
    if html_file is not None and libraries is not None:
        from teco.benchmark.report.html.page import write_html

        write_html(html_file, record, libraries, gallery, bench.shows)
        say(f"report: {html_file}")
    if markdown_file is not None:
        from teco.benchmark.report.markdown import markdown

        write_beside(markdown_file, markdown(record).encode())
        say(f"tables: {markdown_file}")
    if not record.complete:
        kept = f"{json_file} holds what was measured" if json_file else "what was measured is above"
        raise Interrupted(record.stopped, hint=f"{kept}, and says that it is not complete")
    if failed := conditions.failures(checks, record):
        raise TecoError("; ".join(failed), exit_code=FAILED)
    if not record.rows:
        whys = dict.fromkeys(one.why for one in (*record.static, *record.unavailable))
        raise TecoError("; ".join(whys), exit_code=MACHINE)
    silent = [row for row in record.rows if row.kernel is None]
    if silent:
        raise TecoError(
            f"{silent[0].key} could not be measured: {'; '.join(silent[0].notes)}",
            exit_code=FAILED,
        )


def _open_clip(
    clip: str,
    truth: str | None,
    shrink: float,
    frames: int | None,
    size: tuple[int, int] | None,
    fit: bool,
    specs: list[str],
) -> TruthClip:
    """The clip, in the size that the models can take."""
    from teco.benchmark.quality.clip import open_truth
    from teco.core.errors import TecoError
    from teco.model.opening import check_frame_size, open_model

    models = [open_model(spec) for spec in specs]
    target = size or next((m.static_size for m in models if m.static_size), None)
    found = open_truth(
        Path(clip),
        truth=None if truth is None else Path(truth),
        degradation=models[0].variant.degradation,
        shrink=shrink,
        max_frames=frames,
        fit=target if fit else None,
    )
    for model in models:
        try:
            check_frame_size(model, *found.size)
        except TecoError as error:
            raise TecoError(
                error.message,
                hint=f"--fit resizes the clip; or {error.hint}",
                exit_code=error.exit_code,
            ) from error
    return found


def _shipped_clip(frames: int | None) -> TruthClip:
    from teco.benchmark import SHIPPED_CLIP
    from teco.benchmark.quality.clip import open_truth

    # Small, since 11 models are measured on it; `teco bench NAME --clip CLIP` takes more time.
    return open_truth(SHIPPED_CLIP, max_frames=frames or 18, fit=(48, 80))


def _quality_options(
    metrics: str, threads: int | None, frames: int | None, *, family: bool, context: click.Context
) -> QualityOptions | None:
    """What to measure; metrics that nobody asked for by name may be missing."""
    from teco.benchmark.quality.measure import QualityOptions
    from teco.evaluation.quality import parse_metrics
    from teco_calibration.metrics.quality import Lpips

    asked = context.get_parameter_source("metrics")
    wanted: tuple[Metric, ...]
    if asked is click.core.ParameterSource.DEFAULT and (why := Lpips.why_unavailable()):
        say(f"without LPIPS and tLP: {why}")
        metrics = ",".join(m for m in METRICS.split(",") if m not in ("lpips", "tlp"))
    wanted = parse_metrics(metrics)
    if not family:
        return QualityOptions(metrics=wanted, threads=threads, scene_frames=min(40, frames or 40))
    return QualityOptions(
        metrics=wanted,
        threads=threads,
        distance_frames=4,
        scene_frames=18,
        places=2,
        length=6,
        run=51,
        crop=(32, 48),
    )


def _tell(record: Record) -> None:
    """On stderr: what was not run, and what makes the figures less sure."""
    for one in record.unavailable:
        say(f"not run: {f'{one.model} on ' if one.model else ''}{one.runtime}: {one.why}")
    for row in record.rows:
        if not row.measured_as:
            for note in row.notes:
                say(f"note: {row.key}: {note}")
    c = record.conditions
    say(
        f"{c.pinning}; a reading of the clock takes {c.timer_overhead_ns:.0f} ns"
        + "".join(f"; the same twice: {n.ratio - 1:+.1%}" for n in record.noise)
    )
    for warning in record.warnings:
        say(f"warning: {warning.text}")


@contextmanager
def _stopped_gently(bench: Bench) -> Generator[None]:
    """The first Ctrl-C ends the run between two steps, the second at once.

    At once is in the middle of a library's work, which some do not survive.
    """

    def stop(signum: int, _frame: FrameType | None) -> None:
        if bench.stopping or signum == signal.SIGTERM:
            raise KeyboardInterrupt
        bench.stop()
        say("stopping after this step; once more to stop at once")

    before = {
        s: signal.signal(s, stop)
        for s in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(s) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
