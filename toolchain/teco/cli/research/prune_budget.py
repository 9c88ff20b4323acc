"""The budget options of ``teco prune``: a target instead of sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from teco.cli.options import THREADS, Size, progress, put, say, weights_file

if TYPE_CHECKING:
    from teco.core.log import Progress
    from teco.pruning.budget.finetune import FineTune
    from teco.pruning.budget.run import BudgetOptions, Outcome, Written
    from teco_models.checkpoint import Weights

FRAMES = 12
"""Of a clip; each block is judged by running all of them, so more take longer."""

TUNINGS = 5
ITERATIONS = 300

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
    click.option("--threads", type=THREADS, help="CPU threads. [default: all]"),
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


@dataclass(frozen=True, kw_only=True)
class PruneArguments:
    """What was typed of ``teco prune``, the budget apart; None where it was not."""

    weights: str
    output: Path | None
    blocks: int | None
    order: Literal["plain", "sensitivity"] | None
    channels: int | None
    flow_channels: int | None
    criterion: str | None
    share_blocks: int | None
    merge: str | None
    sparsity: float | None
    score: str | None
    rewind: str | None
    clip: str | None
    shrink: float | None
    frames: int | None
    force: bool
    json_file: Path | None


@dataclass(frozen=True, kw_only=True)
class BudgetArguments:
    """What was typed of the budget; None where it was not."""

    target_ms: float | None
    target_gmac: float | None
    target_mb: float | None
    runtime: str | None
    size: tuple[int, int] | None
    threads: int | None
    multiple: str | None
    with_flow: bool | None
    folders: tuple[Path, ...]
    tunings: int | None
    tune_iterations: int | None
    siblings: bool | None
    recalibrate: bool | None

    @property
    def has_target(self) -> bool:
        targets = (self.target_ms, self.target_gmac, self.target_mb)
        return any(target is not None for target in targets)


DECIDED = (
    "blocks", "channels", "flow_channels", "share_blocks", "sparsity", "rewind", "order",
    "criterion", "merge", "score",
)  # fmt: skip
"""What the search decides by itself, or does not do."""

TUNED = ("shrink", "frames", "tunings", "tune_iterations")
"""What says how to fine-tune and to judge."""


def _flag(name: str) -> str:
    """The option that a field was typed with."""
    return "--data" if name == "folders" else f"--{name.replace('_', '-')}"


def _typed(arguments: PruneArguments | BudgetArguments, names: tuple[str, ...]) -> list[str]:
    """Flags of those fields that were typed."""
    return [_flag(n) for n in names if getattr(arguments, n, None) not in (None, ())]


def budget_options(function: Callable[[PruneArguments], None]) -> Callable[..., None]:
    """Add the options; with a target, the search runs in the command's place."""

    def choose(**typed: Any) -> None:
        names = tuple(f.name for f in fields(BudgetArguments))
        budget = BudgetArguments(**{name: typed.pop(name) for name in names})
        asked = PruneArguments(**typed)
        if budget.has_target:
            _prune(asked, budget)
            return
        if given := _typed(budget, names):
            raise click.UsageError(
                f"{given[0]} goes with a budget: add --target-ms, --target-gmac or --target-mb"
            )
        function(asked)

    choose.__doc__ = function.__doc__
    decorated: Callable[..., None] = choose
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated


def _check(asked: PruneArguments, budget: BudgetArguments) -> None:
    """Raise TecoError for what does not go with a budget."""
    from teco.core.errors import USAGE, TecoError

    if taken := _typed(asked, DECIDED):
        raise TecoError(
            f"{taken[0]} says what to cut, and a budget lets the search decide it",
            hint=f"leave {taken[0]} or the target out",
            exit_code=USAGE,
        )
    if bool(budget.folders) != (asked.clip is not None):
        have, lack = ("--data", "--clip") if budget.folders else ("--clip", "--data")
        raise TecoError(
            f"{have} without {lack}: candidates are fine-tuned on --data and judged on --clip",
            hint=f"give {lack}, or leave both out and rank by published figures",
            exit_code=USAGE,
        )
    idle = [*_typed(asked, TUNED), *_typed(budget, TUNED)]
    if not budget.folders and idle:
        raise TecoError(
            f"{idle[0]} says how candidates are fine-tuned and judged, and there is nothing to do "
            "it on",
            hint=f"give --data and --clip, or leave {idle[0]} out",
            exit_code=USAGE,
        )
    if budget.runtime == "auto":
        raise TecoError(
            "a budget is for the one runtime that will serve, and auto is not one",
            hint="name it; `teco doctor` lists those of this machine",
            exit_code=USAGE,
        )


def _prune(asked: PruneArguments, budget: BudgetArguments) -> None:
    from teco.core.machine import require_extra

    _check(asked, budget)
    for module in ("torch", "safetensors", "onnx", "onnxscript", "scipy"):
        require_extra(module, "torch", "pruning to a budget")
    from teco.pruning.budget.run import prune_to_budget, write_outcome
    from teco.pruning.structured import check_output
    from teco_models.checkpoint import load_weights

    options = _options(budget)
    source = weights_file(asked.weights)
    if asked.output is not None:
        check_output(asked.output, [source], masks=False, overwrite=asked.force)
    teacher = load_weights(source)
    for note in teacher.notes:
        say(f"note: {note}")
    with progress("timing", "steps") as timing, progress("fine-tuning", "iterations") as tuning:
        tune = _fine_tune(teacher, asked, budget, tuning) if budget.folders else None
        outcome = prune_to_budget(teacher, options, tune, progress=timing)
    written = write_outcome(
        outcome,
        asked.output,
        source=source,
        siblings=bool(budget.siblings),
        overwrite=asked.force,
    )
    _show(asked, outcome, written, source)


def _options(budget: BudgetArguments) -> BudgetOptions:
    from teco.pruning.budget.calibrate import BudgetTarget
    from teco.pruning.budget.run import BudgetOptions
    from teco.pruning.budget.space import Budget
    from teco.runtimes import find

    return BudgetOptions(
        budget=Budget(ms=budget.target_ms, gmac=budget.target_gmac, mb=budget.target_mb),
        target=BudgetTarget(
            runtime=find(budget.runtime or "onnxruntime"),
            size=budget.size or (180, 320),
            threads=budget.threads,
        ),
        multiple=int(budget.multiple or 16),
        flowless=not budget.with_flow,
        tunings=TUNINGS if budget.tunings is None else budget.tunings,
        calibrate_again=bool(budget.recalibrate),
    )


def _show(asked: PruneArguments, outcome: Outcome, written: Written, source: Path) -> None:
    from teco.core.errors import USAGE, TecoError
    from teco.core.files import as_json, write_beside
    from teco.pruning.structured import default_output

    report, files = outcome.report, written.files
    if asked.json_file is not None:
        record = {"weights": str(source), "output": [str(f) for f in files], **report.as_dict()}
        write_beside(asked.json_file, as_json(record))
    for file in files:
        put(file)
    if asked.output is None and files[0] != (plain := default_output(outcome.chosen.variant)):
        say(f"note: {plain} exists and was left alone")
    say(report.to_text())
    for note in report.notes:
        say(f"note: {note}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    say(f"next: teco train --init {files[0]} --teacher {asked.weights} ...")
    if written.left:
        taken = "exists and was" if len(written.left) == 1 else "exist and were"
        raise TecoError(
            f"{', '.join(map(str, written.left))} {taken} left alone; the rest was written: "
            f"{', '.join(map(str, files))}",
            hint="add --force to replace what exists",
            exit_code=USAGE,
        )


def _fine_tune(
    teacher: Weights, asked: PruneArguments, budget: BudgetArguments, progress: Progress
) -> FineTune:
    """Short fine-tunings on the user's clips."""
    import torch

    from teco.core.machine import usable_cores
    from teco.pruning.budget.finetune import FineTuneOptions, fine_tune_on

    threads = budget.threads or usable_cores()
    torch.set_num_threads(threads)
    assert asked.clip is not None
    return fine_tune_on(
        teacher,
        list(budget.folders),
        asked.clip,
        FineTuneOptions(threads=threads, iterations=budget.tune_iterations or ITERATIONS),
        shrink=1.0 if asked.shrink is None else asked.shrink,
        frames=FRAMES if asked.frames is None else asked.frames,
        progress=progress,
    )
