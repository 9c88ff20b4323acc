"""``teco bench``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from teco.cli.options import Size, json_option, not_a_pipe, progress, say, threads_option


@click.command("bench")
@click.argument("artifacts", nargs=-1, metavar="[NAME|FILE]...")
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
    "--shrink",
    type=float,
    default=1.0,
    show_default=True,
    help="Area-average the clip to 1/SHRINK first.",
)
@click.option("--frames", type=click.IntRange(min=1), help="Of the clip.")
@click.option("--metrics", default="psnr,ssim,lpips,tof,tlp", show_default=True)
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Samples of each candidate.",
)
@click.option(
    "--gate",
    is_flag=True,
    help="Also judge each candidate beside the float32 step, over a sequence and across cuts.",
)
@threads_option
@json_option("Write the whole record.")
def command(
    artifacts: tuple[str, ...],
    runtime: str,
    size: tuple[int, int] | None,
    clip: str | None,
    shrink: float,
    frames: int | None,
    metrics: str,
    repetitions: int,
    gate: bool,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure models side by side: step latency, memory, and quality on a clip.

    Latency is the network step alone. Candidates are measured in turns within one run, and memory
    in a process of each one's own.
    """
    from teco import machine
    from teco.artifact import DEFAULT_MODEL, as_json, check_frame_size, open_model, write_beside
    from teco.bench.gate import Judged, judge
    from teco.bench.measure import measure_latency, warnings_for, with_memory
    from teco.bench.render import bench_table
    from teco.bench.report import BenchReport
    from teco.errors import MACHINE, TecoError
    from teco.evaluate import EvaluateOptions, Row, evaluate, parse_metrics, truth_size
    from teco.machine import usable_cores
    from teco.runtimes import RUNTIMES, Runtime, SessionOptions, find, of_engine, open_session

    started, here = datetime.now(UTC), machine.inspect()
    specs = artifacts or (DEFAULT_MODEL,)
    models = [open_model(spec) for spec in specs]
    wanted = parse_metrics(metrics) if clip is not None else ()
    if clip is not None:
        width, height = truth_size(clip, shrink)
        for model in models:
            check_frame_size(model, height // 4, width // 4)
        size = size or (height // 4, width // 4)
    if size is None:
        size = next((m.static_size for m in models if m.static_size), (180, 320))
    skipped: dict[str, str] = {}
    pairs: list[tuple[str, Runtime]] = []
    names = [name.strip() for name in runtime.split(",")]
    chosen = (
        list(RUNTIMES)
        if names == ["all"]
        else []
        if names == ["auto"]
        else [find(n) for n in names]
    )
    for spec, model in zip(specs, models, strict=True):
        check_frame_size(model, *size)
        engine = of_engine(model)
        if engine is not None and names in (["all"], ["auto"]):
            # It runs on one runtime only, and what is in its way is said before all else.
            engine.open(model, SessionOptions(threads=threads)).close()
            pairs.append((spec, engine))
            continue
        if names == ["auto"]:
            session = open_session(model, "auto", SessionOptions(threads=threads))
            pairs.append((spec, find(session.runtime)))
            session.close()
        for one in chosen:
            reason = one.why_unavailable() or one.why_not(model)
            if reason is None and names == ["all"] and one.name == "pytorch-compile":
                reason = "pytorch-compile compiles for minutes; name it to measure it"
            if reason is None:
                pairs.append((spec, one))
            elif names == ["all"]:
                skipped[f"{model.name} on {one.name}"] = reason
            else:
                raise TecoError(reason, exit_code=MACHINE)
    if not pairs:
        raise TecoError(
            "no runtime here can run what was given",
            hint="; ".join(dict.fromkeys(skipped.values())),
            exit_code=MACHINE,
        )
    by_spec = dict(zip(specs, models, strict=True))
    with progress("timing", "steps") as show:
        candidates = measure_latency(
            [(by_spec[spec], one) for spec, one in pairs], size,
            repetitions=repetitions, threads=threads, report=show,
        )  # fmt: skip
    warnings = warnings_for(candidates, here.load)
    say("measuring memory, each candidate in its own process")
    candidates = with_memory(candidates, [spec for spec, _ in pairs], size, threads)
    warnings += [
        f"the memory of {c.model} on {c.runtime} could not be measured"
        for c in candidates
        if c.peak_bytes is None
    ]
    quality: list[Row] = []
    if clip is not None:
        judged = [spec for spec in by_spec if any(s == spec for s, _ in pairs)]
        for i, spec in enumerate(judged):
            model = by_spec[spec]
            # The first in float32, if there is one.
            one = max((one for s, one in pairs if s == spec), key=lambda one: one.exact)
            session = one.open(model, SessionOptions(threads=threads))
            options = EvaluateOptions(
                degradation=model.variant.degradation, shrink=shrink, max_frames=frames,
                metrics=wanted, baselines=i == len(judged) - 1,
            )  # fmt: skip
            with progress(f"quality of {model.name}") as show:
                quality += evaluate(
                    session, model.name, [clip], options, lambda _clip, done: show(done, frames)
                )
            session.close()
    judged_pairs: list[Judged] = []
    for spec, one in pairs if gate else ():
        with progress(f"gate of {by_spec[spec].name} on {one.name}") as show:
            judged_pairs.append(
                judge(
                    by_spec[spec],
                    one,
                    clip=clip,
                    shrink=shrink,
                    threads=threads,
                    report=show,
                )
            )
    report = BenchReport(
        size=f"{size[0]}x{size[1]}",
        threads=threads or usable_cores(),
        candidates=tuple(candidates),
        quality=tuple(quality),
        machine=here,
        skipped=skipped,
        warnings=tuple(warnings),
        command=" ".join(["teco", *sys.argv[1:]]),
        started=started.isoformat(timespec="seconds"),
        gate=tuple(judged_pairs),
    )
    click.echo(bench_table(report), nl=False)
    for what, why in skipped.items():
        say(f"not run: {what}: {why}")
    for warning in warnings:
        say(f"warning: {warning}")
    if json_file is not None:
        write_beside(json_file, as_json(report.as_dict()))
        say(f"record: {json_file}")
