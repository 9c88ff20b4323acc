"""The budget options of ``teco prune``: a target instead of sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from teco.cli.options import Size, progress, say

TARGETS = ("target_ms", "target_gmac", "target_mb")

OPTIONS = (
    click.option("--target-ms", type=float, metavar="MS", help="Find what a step of MS leaves."),
    click.option("--target-gmac", type=float, metavar="G", help="The same for 1e9 MACs."),
    click.option("--target-mb", type=float, metavar="MB", help="The same for activation memory."),
    click.option(
        "--runtime", metavar="NAME", help="That will serve. [default: onnxruntime; with --target-*]"
    ),
    click.option(
        "--size", type=Size(), help="LR size HEIGHTxWIDTH. [default: 180x320; with --target-*]"
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all]"),
    click.option(
        "--multiple",
        type=click.Choice(["8", "16", "32"]),
        help="Widths to consider: 8 for AVX2, 16 for AVX-512. [default: 16]",
    ),
    click.option("--with-flow", is_flag=True, default=None, help="Keep a flow net in any case."),
    click.option(
        "--data",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Clips to fine-tune candidates on, judged on --clip.",
    ),
    click.option(
        "--tunings",
        type=click.IntRange(min=0),
        help="Fine-tunings before those of the best three. [default: 5]",
    ),
    click.option(
        "--tune-iterations", type=click.IntRange(min=1), help="Of each fine-tuning. [default: 300]"
    ),
    click.option("--siblings", is_flag=True, default=None, help="Write all three candidates."),
    click.option(
        "--recalibrate",
        is_flag=True,
        default=None,
        help="Measure the cost model anew.",
    ),
)

NAMES = (
    *TARGETS, "runtime", "size", "threads", "multiple", "with_flow", "folders", "tunings",
    "tune_iterations", "siblings", "recalibrate",
)  # fmt: skip

TAKEN = {
    "blocks": "--blocks", "channels": "--channels", "flow_channels": "--flow-channels",
    "share_blocks": "--share-blocks", "sparsity": "--sparsity", "rewind": "--rewind",
    "order": "--order",
}  # fmt: skip
"""What the search decides by itself, or does not do."""


def budget_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options; with a target, the search runs in the command's place."""

    @functools.wraps(function)
    def choose(**fields: Any) -> None:
        mine = {name: fields.pop(name) for name in NAMES}
        if any(mine[name] is not None for name in TARGETS):
            _prune(mine, fields)
            return
        if given := [n for n in NAMES if mine[n] is not None and mine[n] != ()]:
            flag = {"folders": "--data"}.get(given[0], f"--{given[0].replace('_', '-')}")
            raise click.UsageError(
                f"{flag} goes with a budget: add --target-ms, --target-gmac or --target-mb"
            )
        function(**fields)

    decorated: Callable[..., None] = choose
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated


def _prune(mine: dict[str, Any], fields: dict[str, Any]) -> None:
    from teco.artifact import as_json, open_model, write_beside
    from teco.errors import USAGE, TecoError
    from teco.machine import require_extra

    if taken := [flag for name, flag in TAKEN.items() if fields.get(name) is not None]:
        raise TecoError(
            f"{taken[0]} says what to cut, and a budget lets the search decide it",
            hint=f"leave {taken[0]} or the target out",
            exit_code=USAGE,
        )
    folders, clip = list(mine["folders"]), fields["clip"]
    if bool(folders) != (clip is not None):
        have, lack = ("--data", "--clip") if folders else ("--clip", "--data")
        raise TecoError(
            f"{have} without {lack}: candidates are fine-tuned on --data and judged on --clip",
            hint=f"give {lack}, or leave both out and rank by published figures",
            exit_code=USAGE,
        )
    if mine["runtime"] == "auto":
        raise TecoError(
            "a budget is for the one runtime that will serve, and auto is not one",
            hint="name it; `teco doctor` lists those of this machine",
            exit_code=USAGE,
        )
    for module in ("torch", "safetensors", "onnx", "onnxscript"):
        require_extra(module, "train", "pruning to a budget")
    from teco.budget.calibrate import Target
    from teco.budget.run import BudgetOptions, prune_to_budget, write_outcome
    from teco.budget.space import Budget
    from teco.pruning import check_output
    from teco.runtimes import find
    from teco_models.checkpoint import load_weights

    options = BudgetOptions(
        budget=Budget(ms=mine["target_ms"], gmac=mine["target_gmac"], mb=mine["target_mb"]),
        target=Target(
            runtime=find(mine["runtime"] or "onnxruntime"),
            size=mine["size"] or (180, 320),
            threads=mine["threads"],
        ),
        multiple=int(mine["multiple"] or 16),
        flowless=not mine["with_flow"],
        tunings=5 if mine["tunings"] is None else mine["tunings"],
        calibrate_again=bool(mine["recalibrate"]),
    )
    source = open_model(fields["weights"]).weights
    if source is None:
        raise TecoError(
            f"{fields['weights']} is an ONNX file, and pruning starts from weights",
            hint="give the .safetensors or .pth file it was exported from",
            exit_code=USAGE,
        )
    output: Path = fields["output"]
    check_output(output, [source], masks=False, overwrite=fields["force"])
    teacher = load_weights(source)
    for note in teacher.notes:
        say(f"note: {note}")
    with progress("timing", "steps") as timing, progress("fine-tuning", "iterations") as tuning:
        damage = _damage(teacher, folders, mine, fields, tuning) if folders else None
        outcome = prune_to_budget(teacher, options, damage, say=say, report=timing)
    files = write_outcome(
        outcome, output, siblings=bool(mine["siblings"]), overwrite=fields["force"]
    )
    report = outcome.report
    if fields["json_file"] is not None:
        record = {"weights": str(source), "output": [str(f) for f in files], **report.as_dict()}
        write_beside(fields["json_file"], as_json(record))
    for file in files:
        click.echo(file)
    say(report.to_text())
    for note in report.notes:
        say(f"note: {note}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    say(f"next: teco train --init {output} --teacher {source} ...")


def _damage(
    teacher: Any,
    folders: list[Path],
    mine: dict[str, Any],
    fields: dict[str, Any],
    report: Callable[[int, int | None], None],
) -> Callable[..., float]:
    """Short fine-tunings on the user's clips."""
    import torch

    from teco.budget.finetune import FineTune, FineTuneOptions
    from teco.machine import usable_cores
    from teco.train.prepare import prepare
    from teco.train.validate import Validator, read_frames
    from teco_calibration.cache import cache_dir

    threads = mine["threads"] or usable_cores()
    torch.set_num_threads(threads)
    shots = prepare(folders, cache_dir() / "frames", say)
    say(f"{len(shots)} shots, {sum(len(s.frames) for s in shots)} frames to fine-tune on")
    frames = read_frames(fields["clip"], fields["shrink"] or 1.0, fields["frames"] or 12)
    return FineTune(
        teacher,
        shots,
        Validator(frames),
        FineTuneOptions(threads=threads, iterations=mine["tune_iterations"] or 300),
        report=report,
    )
