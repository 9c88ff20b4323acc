"""What pruning to a budget found, as a record, a table and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from teco.core.machine import Machine
from teco.pruning.budget.search import BudgetCandidate
from teco.pruning.budget.sensitivity import PRIOR
from teco.pruning.budget.space import Budget, figure

SCHEMA = 1
"""Version of the JSON's layout."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate:
    """A candidate beside what it really took.

    Attributes:
        candidate: as it was predicted.
        ms: median of the samples.
        samples: milliseconds of every step, in the order measured.
    """

    candidate: BudgetCandidate
    ms: float
    samples: tuple[float, ...]

    @property
    def error(self) -> float | None:
        """Predicted against measured time, relative; None where no time was predicted."""
        predicted = self.candidate.figures.ms
        return None if predicted is None else predicted / self.ms - 1


@dataclass(frozen=True, kw_only=True)
class BudgetReport:
    """One pruning to a budget.

    Attributes:
        teacher: name of what was pruned.
        budget: what was asked for.
        target: runtime, size and threads, in words.
        candidates: by predicted place.
        chosen: index of the best of them that was measured within the budget.
        looked_at: variants in the space.
        within: of them, predicted within the budget.
        tuned: variant -> dB lost in its fine-tuning.
        weights: dB a unit of what was cut, as fitted.
        model_errors: relative error of the cost model on the networks it was measured with.
        model_checked: those of them that its fit did not see.
        model_source: where the cost model comes from.
        machine: where this ran.
        notes: one sentence each.
        warnings: what makes the figures less sure.
    """

    teacher: str
    budget: Budget
    target: str
    candidates: tuple[MeasuredCandidate, ...]
    chosen: int
    looked_at: int
    within: int
    tuned: Mapping[str, float]
    weights: Mapping[str, float]
    model_errors: Mapping[str, float]
    model_checked: Sequence[str]
    model_source: str
    machine: Machine
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def found_places(self) -> tuple[int | None, ...]:
        """Place of each candidate by its own fine-tuning; None without one."""
        losses = [m.candidate.tuned_db for m in self.candidates]
        known = sorted(db for db in losses if db is not None)
        return tuple(None if db is None else known.index(db) + 1 for db in losses)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        candidates = [
            {
                "place": m.candidate.place,
                "found_place": place,
                "variant": m.candidate.variant.name,
                "predicted": asdict(m.candidate.figures),
                "predicted_db": m.candidate.predicted_db,
                "tuned_db": m.candidate.tuned_db,
                "ms": m.ms,
                "error": m.error,
                "samples": m.samples,
            }
            for m, place in zip(self.candidates, self.found_places, strict=True)
        ]
        return {
            "kind": "teco prune to a budget",
            "schema": SCHEMA,
            "teacher": self.teacher,
            "budget": asdict(self.budget),
            "target": self.target,
            "candidates": candidates,
            "chosen": self.candidates[self.chosen].candidate.variant.name,
            "looked_at": self.looked_at,
            "within": self.within,
            "tuned": dict(self.tuned),
            "db_per": dict(self.weights),
            "prior": {name: asdict(weight) for name, weight in PRIOR.items()},
            "cost_model": {
                "source": self.model_source,
                "errors": dict(self.model_errors),
                "not_in_the_fit": list(self.model_checked),
            },
            "machine": asdict(self.machine),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def to_text(self) -> str:
        """A table of at most 100 columns, and what to know about it."""
        header = (
            "place", "variant", "predicted", "measured", "error", "GMAC", "MB", "dB", "tuned",
        )  # fmt: skip
        rows: list[tuple[str, ...]] = [header]
        for i, (m, place) in enumerate(zip(self.candidates, self.found_places, strict=True)):
            c = m.candidate
            rows.append(
                (
                    f"{c.place}{' *' if i == self.chosen else ''}",
                    c.variant.name,
                    "-" if c.figures.ms is None else f"{c.figures.ms:.1f}",
                    f"{m.ms:.1f}",
                    "-" if m.error is None else f"{m.error:+.1%}",
                    figure(c.figures.gmac, 2),
                    figure(c.figures.mb, 0),
                    f"{c.predicted_db:.2f}",
                    "-" if c.tuned_db is None else f"{c.tuned_db:.2f} ({place})",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += [
            f"{self.teacher} to {self.budget} on {self.target}; {self.within} of {self.looked_at} "
            "variants are within",
            "* is written; predicted and measured in ms, measured the median of "
            f"{len(self.candidates[0].samples)}; dB: predicted loss",
            "of PSNR-Y against the teacher; tuned: found after a short fine-tuning, and the place "
            "that gives",
        ]
        return "\n".join(lines)
