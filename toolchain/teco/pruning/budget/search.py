"""The three best variants within a budget.

All variants of a space are few enough to look at each: what they cost is computed, and those
within the budget that no other contains are ranked by predicted loss. Where the loss can be
measured, part of the fine-tunings goes to the best so far and part to where least is known, and
the last to the winners themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isfinite

from teco.core.errors import TecoError
from teco.pruning.budget.sensitivity import Surrogate
from teco.pruning.budget.space import Budget, Figures, Space, typed, undominated
from teco_models.variant import Variant

log = logging.getLogger(__name__)

CANDIDATES = 3

Sensitivity = Callable[[Variant], float]
"""dB a variant has lost against the teacher after a short fine-tuning; costs minutes."""


@dataclass(frozen=True, kw_only=True)
class BudgetCandidate:
    """A variant that was found.

    Attributes:
        place: 1 for the least loss, as far as it was known when the search ended.
        variant: what it is.
        figures: what a step is predicted to cost.
        predicted_db: loss predicted from the other variants' fine-tunings, without its own.
        tuned_db: measured loss, None where it was not.
    """

    place: int
    variant: Variant
    figures: Figures
    predicted_db: float
    tuned_db: float | None = None

    @property
    def db(self) -> float:
        """The better known of the two losses."""
        return self.predicted_db if self.tuned_db is None else self.tuned_db


@dataclass
class Tunings:
    """Fine-tunings, each made once.

    Attributes:
        sensitivity: makes one; None where there is no data for it.
        allowed: how many may be made before the winners' own.
        done: variant -> dB lost.
        failed: variants whose training diverged.
    """

    sensitivity: Sensitivity | None = None
    allowed: int = 5
    done: dict[Variant, float] = field(default_factory=dict[Variant, float])
    failed: set[Variant] = field(default_factory=set[Variant])

    def make(self, variant: Variant) -> None:
        """Fine-tune a variant, if that has not been done."""
        if self.sensitivity is None or variant in self.done or variant in self.failed:
            return
        db = self.sensitivity(variant)
        if isfinite(db):
            self.done[variant] = db
            log.info("%s lost %.2f dB after its fine-tuning", variant.name, db)
        else:
            self.failed.add(variant)
            log.info("%s diverged in its fine-tuning and is left out", variant.name)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        candidates: up to three, by place.
        looked_at: variants in the space.
        within: of them, within the budget.
        surrogate: that ranked them.
    """

    candidates: tuple[BudgetCandidate, ...]
    looked_at: int
    within: int
    surrogate: Surrogate


def search(
    space: Space,
    budget: Budget,
    size: tuple[int, int],
    *,
    cost: Callable[[Variant], float] | None = None,
    tunings: Tunings | None = None,
) -> SearchResult:
    """Look at every variant of a space.

    Args:
        space: where to look.
        budget: what it may cost.
        size: (h, w) of the LR frame.
        cost: milliseconds of a variant; needed where the budget limits them.
        tunings: made before and to be made; goes on being filled.

    Raises:
        TecoError: nothing meets the budget; the nearest is named with what it takes.
    """
    tunings = tunings or Tunings()
    if budget.ms is not None and cost is None:
        raise TecoError("a budget in milliseconds needs a cost model")
    figures = {
        v: Figures.of(v.cost(*size), None if cost is None else cost(v)) for v in space.variants()
    }
    within = [v for v, f in figures.items() if budget.excess(f) <= 1]
    if not within:
        raise _cannot_be_met(space, budget, size, figures)
    # What another contains is only worth a look where there is nothing better left.
    best = undominated(within)
    tried = len(tunings.done)
    surrogate = Surrogate.fit(space, tunings.done)
    while tunings.sensitivity is not None and len(tunings.done) < tunings.allowed:
        open_ = [v for v in best if v not in tunings.done and v not in tunings.failed]
        if not open_:
            break
        open_.sort(key=surrogate)
        # In turns: the most promising, and of the better half the one least is known about.
        promising = open_[: max(CANDIDATES, len(open_) // 2)]
        explore = tried % 2 == 1
        tunings.make(max(promising, key=surrogate.uncertainty) if explore else open_[0])
        tried += 1
        surrogate = Surrogate.fit(space, tunings.done)
    within = [v for v in within if v not in tunings.failed]
    best = [v for v in best if v not in tunings.failed]
    rest = [v for v in within if v not in set(best)]

    def loss(variant: Variant) -> float:
        return tunings.done.get(variant, surrogate(variant))

    def rank(variant: Variant) -> tuple[float, float]:
        return loss(variant), figures[variant].ms or figures[variant].gmac

    order = [*sorted(best, key=rank), *sorted(rest, key=rank)][:CANDIDATES]
    winners = [
        BudgetCandidate(
            place=place,
            variant=v,
            figures=figures[v],
            predicted_db=Surrogate.fit(space, {k: d for k, d in tunings.done.items() if k != v})(v),
            tuned_db=tunings.done.get(v),
        )
        for place, v in enumerate(sorted(order, key=rank), start=1)
    ]
    if not winners:
        raise TecoError(
            f"every fine-tuning within {budget} diverged",
            hint="look at the training clips, and at the teacher",
        )
    for i, winner in enumerate(winners):
        tunings.make(winner.variant)
        winners[i] = replace(winner, tuned_db=tunings.done.get(winner.variant))
    return SearchResult(
        candidates=tuple(winners),
        looked_at=len(figures),
        within=len(within),
        surrogate=surrogate,
    )


def _cannot_be_met(
    space: Space, budget: Budget, size: tuple[int, int], figures: dict[Variant, Figures]
) -> TecoError:
    nearest = min(figures, key=lambda v: budget.excess(figures[v]))
    found = figures[nearest]
    pairs = (
        ("--target-ms", found.ms, budget.ms),
        ("--target-gmac", found.gmac, budget.gmac),
        ("--target-mb", found.mb, budget.mb),
    )
    # With room to spare, so that what is typed is met.
    raised = [
        f"{flag} {typed(figure * 1.05)}"
        for flag, figure, limit in pairs
        if figure is not None and limit is not None and figure > limit
    ]
    # Another runtime is faster, but its step computes and holds the same.
    late = found.ms is not None and budget.ms is not None and found.ms > budget.ms
    ways = [" ".join(raised), "a smaller --size", *["a faster --runtime"] * late]
    return TecoError(
        f"nothing below {space.teacher.name} meets {budget} at {size[0]}x{size[1]}; the nearest of "
        f"{len(figures)} is {nearest.name} with {found}",
        hint=f"give {', '.join(ways[:-1])}, or {ways[-1]}",
    )
