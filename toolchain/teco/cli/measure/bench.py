"""``teco bench``."""

from __future__ import annotations

import math
import os
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
    put,
    report_option,
    threads_option,
)

if TYPE_CHECKING:
    from teco.benchmark.run import Bench


def _a_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """No comparison finds that NaN is out of a range."""
    if math.isnan(value):
        raise click.BadParameter(f"{value} is not a number of seconds.")
    return value


@click.command("bench")
@click.argument("artifacts", nargs=-1, metavar="[NAME|FILE]...")
@click.option(
    "--family",
    is_flag=True,
    help="Every shipped model for papers (BD), with quality on a shipped clip.",
)
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
@click.option(
    "--metrics",
    metavar="NAME,NAME,...",
    help="On the clip. [default: psnr,ssim,lpips,tof,tlp,flicker]",
)
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
@click.option("--latency-only", is_flag=True, help="Time single steps; no end to end, no playback.")
@click.option("--kernel-only", "latency_only_as_before", is_flag=True, hidden=True)
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
@click.option(
    "--details",
    is_flag=True,
    help="Also print every column, what did not run, and each warning.",
)
@click.option(
    "--from",
    "kept",
    type=click.Path(path_type=Path),
    metavar="RECORD.json",
    help="Show a record that --json wrote, measuring nothing.",
)
@threads_option
@json_option("Write the whole record.")
@report_option("--html", "html_file", ".html", "Write the report: one page that needs no network.")
@report_option("--markdown", "markdown_file", ".md", "Write the tables for a README.")
def command(
    artifacts: tuple[str, ...],
    family: bool,
    runtime: str,
    size: tuple[int, int] | None,
    clip: str | None,
    truth: str | None,
    fit: bool,
    shrink: float,
    frames: int | None,
    metrics: str | None,
    repetitions: int | None,
    budget: float,
    latency_only: bool,
    latency_only_as_before: bool,
    gate: bool,
    fail_if: tuple[str, ...],
    details: bool,
    kept: Path | None,
    threads: int | None,
    json_file: Path | None,
    html_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Measure models side by side: latency, memory, and quality on a clip.

    Three numbers for speed: the latency of a step, end to end from file to file, and playback at
    the clip's rate. Each candidate runs in a process of its own; their steps take turns in random
    order. Prints which is fastest, by how much and how sure that is; --details prints the rest.

    An engine that is named alone is measured beside the ONNX file it was built from and the
    shipped float32 model, on every runtime here, with quality on a shipped clip; --fail-if then
    judges the engine.
    """
    from teco.benchmark.options import BenchRequest, ClipRequest
    from teco.benchmark.prepare import prepare, raise_failures
    from teco.benchmark.report.outputs import BenchOutputs
    from teco.benchmark.report.render import gate_table
    from teco.benchmark.report.terminal import answer_text, bench_progress

    if kept is not None:
        _show(kept, details=details, html=html_file, markdown=markdown_file)
        return
    request = BenchRequest(
        models=artifacts,
        family=family,
        runtimes=tuple(name.strip() for name in runtime.split(",")),
        size=size,
        clip=ClipRequest(
            path=None if clip is None else Path(clip), truth=None if truth is None else Path(truth),
            fit=fit, shrink=shrink, frames=frames,
        ),
        metrics=metrics,
        repetitions=repetitions,
        budget_s=budget,
        latency_only=latency_only or latency_only_as_before,
        gate=gate,
        fail_if=fail_if,
        threads=threads,
        gallery=html_file is not None,
        command=" ".join(["teco", *sys.argv[1:]]),
    )  # fmt: skip
    bench = prepare(request)
    outputs = BenchOutputs.find(json=json_file, html=html_file, markdown=markdown_file)
    with bench_progress(bench.selection.candidates) as shown, _stopped_gently(bench):
        record = bench.run(shown, outputs.keep)
    # Before anything is printed: whoever reads that may have left.
    outputs.keep(record)
    put(answer_text(record, details=details), nl=False)
    put(gate_table(bench.judged), nl=False)
    outputs.write(record, bench.options.gallery, bench.shows)
    raise_failures(request, record, kept=json_file)


def _show(kept: Path, *, details: bool, html: Path | None, markdown: Path | None) -> None:
    """Print a record, and write its reports; a page without the frames, which no record holds."""
    from teco.benchmark.record.gate import GateResult
    from teco.benchmark.record.store import read
    from teco.benchmark.report.outputs import BenchOutputs
    from teco.benchmark.report.render import gate_table
    from teco.benchmark.report.terminal import answer_text

    _only_shows()
    record = read(kept)
    outputs = BenchOutputs.find(json=None, html=html, markdown=markdown)
    put(answer_text(record, details=details), nl=False)
    put(gate_table([GateResult.from_dict(one) for one in record.gate]), nl=False)
    outputs.write(record, None, {})


def _only_shows() -> None:
    """Refuse what asks for a measurement beside --from."""
    context = click.get_current_context()
    given = [
        name
        for name in context.params
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        and name not in ("kept", "details", "html_file", "markdown_file")
    ]
    if given:
        raise click.UsageError(
            "--from shows a record and measures nothing: only --details, --html and --markdown "
            "go with it"
        )


@contextmanager
def _stopped_gently(bench: Bench) -> Generator[None]:
    """The first Ctrl-C ends the run between two steps, the second at once.

    At once is in the middle of a library's work, which some do not survive.
    """

    def stop(signum: int, _frame: FrameType | None) -> None:
        if bench.stopping or signum == signal.SIGTERM:
            raise KeyboardInterrupt
        bench.stop()
        # Not by a stream: the signal may have come while something was written to it.
        os.write(2, b"stopping after this step; once more to stop at once\n")

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
