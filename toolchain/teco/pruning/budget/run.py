"""Pruning to a budget from end to end: calibrate, search, prune, measure, choose."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.log import Progress, no_progress
from teco.core.machine import inspect
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.model.opening import Model, open_model
from teco.model.weights_digest import weights_digest
from teco.pruning.budget.calibrate import (
    REPETITIONS,
    BudgetTarget,
    LatencyCalibration,
    Timer,
    calibrate,
    export_form,
)
from teco.pruning.budget.cost_model import check_time, middle
from teco.pruning.budget.reduce import reduce_to
from teco.pruning.budget.report import BudgetReport, MeasuredCandidate
from teco.pruning.budget.search import SearchResult, Sensitivity, Tunings, search
from teco.pruning.budget.space import Budget, Space, typed
from teco.pruning.structured import default_output
from teco_models.variant import Variant

if TYPE_CHECKING:
    from teco_models.checkpoint import Weights

log = logging.getLogger(__name__)

ROUNDS = 3
"""Searches before a budget that no measured candidate met is given up."""

Measure = Callable[[Sequence["Weights"]], Sequence[Sequence[float]]]
"""Networks -> milliseconds of the steps of each."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What is asked for.

    Attributes:
        budget: limits of one step.
        target: where it will serve.
        multiple: of SRNet's channels: 8, 16 or 32.
        flowless: whether the flow net may go altogether.
        tunings: fine-tunings before those of the winners, where there is data for them.
        repetitions: samples of each measured network.
        calibrate_again: measure the cost model even if it is known.
    """

    budget: Budget
    target: BudgetTarget
    multiple: int = 16
    flowless: bool = True
    tunings: int = 5
    repetitions: int = 2 * REPETITIONS
    calibrate_again: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        report: the candidates, predicted and measured.
        weights: theirs, in the same order.
        parent: sha256 of the teacher's weights.
    """

    report: BudgetReport
    weights: tuple[Weights, ...]
    parent: str

    @property
    def chosen(self) -> Weights:
        return self.weights[self.report.chosen]


def prune_to_budget(
    teacher: Weights,
    options: BudgetOptions,
    sensitivity: Sensitivity | None = None,
    *,
    timer: Timer | None = None,
    measure: Measure | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Prune a teacher to the best variant that a budget leaves room for.

    Args:
        teacher: its weights.
        options: what is asked for.
        sensitivity: dB that a variant has lost after a short fine-tuning
            (:class:`teco.pruning.budget.finetune.FineTune`); None ranks by the prior alone.
        timer: measures the cost model's networks; None for the real one.
        measure: measures the candidates; None exports, verifies and times them.
        progress: told the steps that are timed.

    Returns:
        The candidates as predicted and as measured, and their weights. Pruned, not fine-tuned:
        they are where training with distillation starts from.

    Raises:
        TecoError: the budget cannot be met, by prediction or by measurement, naming the nearest
            variant; the runtime cannot run here; an export is not what the weights are.
    """
    o, target = options, options.target
    if teacher.variant.computed_alignment:
        raise TecoError(
            f"{teacher.variant.name} computes its alignment, of which the cost model knows nothing",
            hint="cut it by --blocks and --channels, and time the result with `teco bench`",
            exit_code=USAGE,
        )
    if reason := target.runtime.why_unavailable():
        raise TecoError(reason, exit_code=MACHINE)
    space = Space.below(teacher.variant, multiple=o.multiple, flowless=o.flowless)
    known: LatencyCalibration | None = None
    if o.budget.ms is not None:
        known = calibrate(space, target, timer=timer, again=o.calibrate_again, progress=progress)
    tunings = Tunings(sensitivity, o.tunings)
    warnings = list(known.warnings if known else ())
    notes: list[str] = []
    if sensitivity is None:
        notes.append(
            "nothing was fine-tuned: the candidates are ranked by published figures alone; give "
            "--data and --clip to rank by short fine-tunings"
        )
    measure = measure or (lambda networks: export_and_time(networks, o, progress))
    scale, rounds = 1.0, 0
    while True:
        rounds += 1
        found = search(space, o.budget, target.size, cost=_scaled(known, scale), tunings=tunings)
        pruned = [reduce_to(teacher, c.variant, verified=True) for c in found.candidates]
        log.info("measuring %s", ", ".join(c.variant.name for c in found.candidates))
        measured = _beside(found, measure([weights for weights, _ in pruned]))
        inside = [
            i
            for i, m in enumerate(measured)
            if o.budget.excess(replace(m.candidate.figures, ms=m.ms)) <= 1
        ]
        if inside:
            break
        # Only the time can be other than predicted. By as much as it was, the model is corrected.
        ratios = [m.ms / m.candidate.figures.ms for m in measured if m.candidate.figures.ms]
        nearest = min(measured, key=lambda m: m.ms)
        if rounds == ROUNDS:
            raise TecoError(
                f"nothing that was predicted to meet {o.budget} did so when measured; the nearest "
                f"was {nearest.candidate.variant.name} with {nearest.ms:.1f} ms",
                hint=f"give --target-ms {typed(nearest.ms * 1.05)}, or try again on an idle "
                "machine",
            )
        scale *= median(ratios)
        note = (
            f"the candidates of search {rounds} took {median(ratios):.2f} of the predicted time "
            "and missed the budget; searched again with that in mind"
        )
        log.info(note)
        notes.append(note)
    chosen = min(inside, key=lambda i: (measured[i].candidate.db, measured[i].candidate.place))
    notes += [note for _, texts in pruned for note in texts]
    if measured[chosen].candidate.variant == teacher.variant:
        notes.append("the teacher itself is within the budget; nothing was pruned")
    model = known.model if known else None
    return Outcome(
        BudgetReport(
            teacher=teacher.variant.name,
            budget=o.budget,
            target=str(target),
            candidates=tuple(measured),
            chosen=chosen,
            looked_at=found.looked_at,
            within=found.within,
            tuned={v.name: db for v, db in tunings.done.items()},
            weights=found.surrogate.as_dict(),
            model_errors=dict(model.errors) if model else {},
            model_checked=model.checked if model else (),
            model_source=_source(known),
            machine=inspect(),
            notes=tuple(dict.fromkeys(notes)),
            warnings=tuple(warnings),
        ),
        tuple(weights for weights, _ in pruned),
        weights_digest(teacher),
    )


def _scaled(known: LatencyCalibration | None, scale: float) -> Callable[[Variant], float] | None:
    if known is None:
        return None
    model = known.model
    return lambda variant: scale * model(variant)


def _source(known: LatencyCalibration | None) -> str:
    if known is None:
        return "not needed"
    return f"from {known.cached}" if known.cached else "measured now"


def _beside(found: SearchResult, samples: Sequence[Sequence[float]]) -> list[MeasuredCandidate]:
    """Candidates with their measured times, which are checked."""
    measured: list[MeasuredCandidate] = []
    for candidate, one in zip(found.candidates, samples, strict=True):
        ms = check_time(candidate.variant, middle(one))
        measured.append(MeasuredCandidate(candidate=candidate, ms=ms, samples=tuple(one)))
    return measured


def export_and_time(
    networks: Sequence[Weights],
    options: BudgetOptions,
    progress: Progress = no_progress,
) -> list[tuple[float, ...]]:
    """Export networks as ``teco export`` does, verification included, and time them in turns.

    Args:
        networks: to measure.
        options: target and repetitions.
        progress: told the steps that are timed.

    Returns:
        Milliseconds of every step of each.
    """
    from teco.measurement.latency import measure_latency
    from teco_models.checkpoint import build, save_weights

    target = options.target
    with tempfile.TemporaryDirectory(prefix="teco-budget-") as name:
        folder = Path(name)
        models: list[Model] = []
        for weights in networks:
            variant = weights.variant
            if ".onnx" in target.runtime.suffixes:
                form = ExportOptions(
                    size=target.size, target=export_form(target.runtime), name=variant.name
                )
                models.append(open_model(str(export_onnx(weights, folder, form))))
            else:
                path = folder / f"{variant.name}.safetensors"
                save_weights(path, build(weights))
                models.append(Model(variant.name, variant, weights=path))
        found = measure_latency(
            [(model, target.runtime) for model in models],
            target.size,
            repetitions=options.repetitions,
            threads=target.threads,
            progress=progress,
        )
    found.log_warnings()
    return [one.latency.host.all for one in found.results]


class Written(NamedTuple):
    """What became of an outcome's files.

    Attributes:
        files: written, the chosen one first.
        left: siblings that existed and were left alone.
    """

    files: tuple[Path, ...]
    left: tuple[Path, ...]


def write_outcome(
    outcome: Outcome,
    path: Path | None = None,
    *,
    source: Path | None = None,
    siblings: bool = False,
    overwrite: bool = False,
) -> Written:
    """Write the chosen weights, and on request the other candidates' beside them.

    A sibling is called after the file and its own variant: ``live-teco-x4-b3-c32.safetensors``.
    Which variants there are is known only when all was measured, so a sibling whose place is taken
    is left out and the rest is written. Without a ``path`` that goes for the chosen one too; it
    then gets the next free number: ``teco-x4-b3-c32-2.safetensors``.

    Args:
        outcome: of :func:`prune_to_budget`.
        path: the chosen one's file, ``.safetensors``; None calls each file after its variant.
        source: the teacher's file, which is never replaced.
        siblings: whether to write all.
        overwrite: replace other files of the same names.

    Returns:
        What was written and what was not.

    Raises:
        TecoError: ``path`` exists, or a file cannot be written.
    """
    from teco_models.checkpoint import build, save_weights

    def is_source(file: Path) -> bool:
        return source is not None and source.exists() and file.exists() and file.samefile(source)

    def is_taken(file: Path) -> bool:
        return is_source(file) or (file.exists() and not overwrite)

    def sibling(variant: Variant) -> Path:
        file = default_output(variant)
        if path is not None:
            file = path.with_name(f"{path.stem}-{variant.name}{path.suffix}")
        return file.with_stem(f"{file.stem}-2") if is_source(file) else file

    report = outcome.report
    variants = [m.candidate.variant for m in report.candidates]
    chosen = path or default_output(variants[report.chosen])
    number = 1
    while path is None and is_taken(chosen):
        number += 1
        chosen = chosen.with_stem(f"{variants[report.chosen].name}-{number}")
    wanted = {chosen: report.chosen}
    if siblings:
        wanted |= {sibling(variant): i for i, variant in enumerate(variants) if i != report.chosen}
    taken = tuple(p for p in wanted if is_taken(p))
    if chosen in taken:
        raise TecoError(f"{chosen} exists", hint="add --force to replace it", exit_code=USAGE)
    for file, i in wanted.items():
        if file in taken:
            continue
        weights = outcome.weights[i]
        kept = {k: v for k, v in (weights.metadata or {}).items() if k != "variant"}
        made = {
            "pruned_from": outcome.parent,
            "pruned_from_variant": report.teacher,
            "budget": f"{report.budget} on {report.target}",
            "measured_ms": f"{report.candidates[i].ms:.2f}",
        }
        try:
            save_weights(file, build(weights), metadata=kept | made)
        except OSError as error:
            raise TecoError(
                f"{file} could not be written: {error.strerror or error}", hint="give another -o"
            ) from error
    return Written(tuple(p for p in wanted if p not in taken), taken)
