"""The budget options of ``teco prune``: a target instead of sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from teco.cli.options import Size, progress, say, weights_file

FRAMES = 12
"""Of a clip; each block is judged by running all of them, so more take longer."""

TUNINGS = 5
ITERATIONS = 300

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
        help=f"Fine-tunings before those of the best three. [default: {TUNINGS}]",
    ),
    click.option(
        "--tune-iterations",
        type=click.IntRange(min=1),
        help=f"Of each fine-tuning. [default: {ITERATIONS}]",
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
    "order": "--order", "criterion": "--criterion", "merge": "--merge", "score": "--score",
}  # fmt: skip
"""What the search decides by itself, or does not do."""

TUNED = {
    "shrink": "--shrink", "frames": "--frames", "tunings": "--tunings",
    "tune_iterations": "--tune-iterations",
}  # fmt: skip
"""What says how to fine-tune and to judge."""


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
    from teco.core.errors import USAGE, TecoError
    from teco.core.files import as_json, write_beside
    from teco.core.machine import require_extra

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
    asked = {**mine, **fields}
    if not folders and (idle := [flag for name, flag in TUNED.items() if asked[name] is not None]):
        raise TecoError(
            f"{idle[0]} says how candidates are fine-tuned and judged, and there is nothing to do "
            "it on",
            hint=f"give --data and --clip, or leave {idle[0]} out",
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
    from teco.pruning.budget.calibrate import BudgetTarget
    from teco.pruning.budget.run import BudgetOptions, prune_to_budget, write_outcome
    from teco.pruning.budget.space import Budget
    from teco.pruning.structured import check_output, default_output
    from teco.runtimes import find
    from teco_models.checkpoint import load_weights

    options = BudgetOptions(
        budget=Budget(ms=mine["target_ms"], gmac=mine["target_gmac"], mb=mine["target_mb"]),
        target=BudgetTarget(
            runtime=find(mine["runtime"] or "onnxruntime"),
            size=mine["size"] or (180, 320),
            threads=mine["threads"],
        ),
        multiple=int(mine["multiple"] or 16),
        flowless=not mine["with_flow"],
        tunings=_or(mine["tunings"], TUNINGS),
        calibrate_again=bool(mine["recalibrate"]),
    )
    source = weights_file(fields["weights"])
    output: Path | None = fields["output"]
    if output is not None:
        check_output(output, [source], masks=False, overwrite=fields["force"])
    teacher = load_weights(source)
    for note in teacher.notes:
        say(f"note: {note}")
    with progress("timing", "steps") as timing, progress("fine-tuning", "iterations") as tuning:
        damage = _damage(teacher, folders, mine, fields, tuning) if folders else None
        outcome = prune_to_budget(teacher, options, damage, say=say, report=timing)
    files, left = write_outcome(
        outcome,
        output,
        source=source,
        siblings=bool(mine["siblings"]),
        overwrite=fields["force"],
    )
    report = outcome.report
    if fields["json_file"] is not None:
        record = {"weights": str(source), "output": [str(f) for f in files], **report.as_dict()}
        write_beside(fields["json_file"], as_json(record))
    for file in files:
        click.echo(file)
    if output is None and files[0] != (plain := default_output(outcome.chosen.variant)):
        say(f"note: {plain} exists and was left alone")
    say(report.to_text())
    for note in report.notes:
        say(f"note: {note}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    say(f"next: teco train --init {files[0]} --teacher {fields['weights']} ...")
    if left:
        taken = "exists and was" if len(left) == 1 else "exist and were"
        raise TecoError(
            f"{', '.join(map(str, left))} {taken} left alone; the rest was written: "
            f"{', '.join(map(str, files))}",
            hint="add --force to replace what exists",
            exit_code=USAGE,
        )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _damage(
    teacher: Any,
    folders: list[Path],
    mine: dict[str, Any],
    fields: dict[str, Any],
    report: Callable[[int, int | None], None],
) -> Callable[..., float]:
    """Short fine-tunings on the user's clips."""
    import numpy as np
    import torch

    from teco.core.errors import USAGE, TecoError
    from teco.core.machine import usable_cores
    from teco.pruning.budget.finetune import FineTune, FineTuneOptions
    from teco.pruning.structured import read_truth
    from teco.training.data.prepare import prepare
    from teco.training.data.sequences import BLUR_MARGIN
    from teco.training.validate import Validator
    from teco_calibration.cache import cache_dir

    threads = mine["threads"] or usable_cores()
    torch.set_num_threads(threads)
    options = FineTuneOptions(threads=threads, iterations=_or(mine["tune_iterations"], ITERATIONS))
    needed = options.crop + 2 * BLUR_MARGIN
    # First, because what is wrong with a clip is found in a moment and preparing takes minutes.
    truth = read_truth(fields["clip"], _or(fields["shrink"], 1.0), _or(fields["frames"], FRAMES))
    smallest = min(truth[0].shape[:2])
    if smallest < needed:
        raise TecoError(
            f"{fields['clip']} is {smallest} pixels high or wide after shrinking, judging "
            f"fine-tunings needs {needed}",
            hint="give a larger --clip, or a smaller --shrink",
            exit_code=USAGE,
        )
    shots = prepare(folders, cache_dir() / "frames", say)
    say(f"{len(shots)} shots, {sum(len(s.frames) for s in shots)} frames to fine-tune on")
    largest = max(min(s.frames.shape[1:3]) for s in shots)
    if largest < needed:
        raise TecoError(
            f"no clip in --data is at least {needed} pixels high and wide, which a fine-tuning "
            f"needs (the largest is {largest} after shrinking)",
            hint="give larger clips, or say in a clips.toml beside them that they are shrunk less",
            exit_code=USAGE,
        )
    return FineTune(teacher, shots, Validator(np.stack(truth)), options, report=report)
