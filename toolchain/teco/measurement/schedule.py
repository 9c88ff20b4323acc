"""In what order candidates step: warm-up until stable, then rounds of blocks in random order.

Before each block the machine rests for a moment, and a candidate of short steps makes some that do
not count: threads of the last candidate that still spin, and caches that it filled, would otherwise
be timed with it. Measured on two cores with two processes of ONNX Runtime whose steps take 9 ms:
without a rest the first two steps of each block took 18 ms, after 20 ms of rest 10.5 and 9.4.

Nothing here knows what steps or where: a candidate is whatever can make ``n`` steps and say how
long each took (:class:`Stepper`). Why blocks and rounds: :mod:`teco.measurement.statistics`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import sleep
from typing import Protocol

from teco.measurement.records import WarmUp
from teco.measurement.statistics import FEWEST

BLOCK_MS = 250.0
"""Blocks of short steps are made so long: switching candidates then costs little of a block."""

LARGEST_BLOCK = 25
USUAL_BLOCK = 3
"""Steps in a row. One alone would pay for the caches the others emptied; the median of three does
not see the first."""

ENOUGH = 100
"""Samples after which p99 is a percentile, and more are not needed."""

ENOUGH_ROUNDS = 20
"""Rounds that are made where the budget has room for them, even if they make more samples than are
enough: an interval narrows with the rounds."""

REST_S = 0.025
"""Before each block: ONNX Runtime's threads spin for up to 20 ms after a step before they sleep."""

SHORT_MS = 100.0
"""Steps shorter than this are led in. Of longer ones a cold cache costs under a fiftieth, and
where time is short they are taken singly."""

LEAD_MS = 10.0
"""Of steps that do not count, at least: one of most lengths, several of those of a GPU, whose clock
has to rise again after the rest."""

AGREE = 0.05
"""Windows of the warm-up whose medians differ by less agree."""

WINDOW_MS = 100.0
PATIENCE_MS = 8000.0
"""Of one candidate's warm-up: a compiler or a governor has settled by then, or never will."""


@dataclass(frozen=True)
class Block:
    """Times of some steps in a row, ms.

    Attributes:
        host: by the host's clock.
        device: by the GPU's events; empty where there are none.
    """

    host: tuple[float, ...]
    device: tuple[float, ...] = ()


class Stepper(Protocol):
    """A candidate that is ready to step."""

    def steps(self, count: int) -> Block:
        """Make so many steps; each goes on from the state that the last one left."""
        ...


@dataclass
class Candidate:
    """A candidate and what it has shown so far.

    Attributes:
        key: names it.
        stepper: it.
        warm_up: filled by :func:`warm_up`.
        blocks: filled by :func:`interleave`.
    """

    key: str
    stepper: Stepper
    warm_up: WarmUp | None = None
    blocks: list[Block] = field(default_factory=list[Block])

    @property
    def lead_in(self) -> int:
        """Steps before each block that do not count."""
        return lead_in(self.step_ms) if self.warm_up is not None else 0

    @property
    def step_ms(self) -> float:
        """How long a step takes, by the end of the warm-up."""
        assert self.warm_up is not None
        return median(self.warm_up.ms[-3:])


def lead_in(step_ms: float) -> int:
    """Steps before a block of steps of this length that do not count."""
    return math.ceil(LEAD_MS / max(step_ms, 0.1)) if step_ms < SHORT_MS else 0


def warm_up(stepper: Stepper, *, patience_ms: float = PATIENCE_MS) -> WarmUp:
    """Step until two windows of steps in a row agree.

    A window is as many steps as fit 100 ms, at least one and at most ten, so that the noise of very
    short steps does not pass for change.
    """
    times = list(stepper.steps(1).host)
    window = min(10, max(1, math.ceil(WINDOW_MS / max(times[0], 1e-3))))
    windows = [median(times)]
    while sum(times) < patience_ms:
        found = stepper.steps(window).host
        times += found
        windows.append(median(found))
        if abs(windows[-1] - windows[-2]) <= AGREE * windows[-2]:
            return WarmUp(steps=len(times), stable=True, ms=tuple(times))
    return WarmUp(steps=len(times), stable=False, ms=tuple(times))


@dataclass(frozen=True)
class RoundPlan:
    """How many rounds, and how many steps each candidate makes in one.

    Attributes:
        sizes: steps of each candidate in each round, in the order of the lanes.
        block: the most of any.
    """

    sizes: tuple[tuple[int, ...], ...]

    @property
    def block(self) -> int:
        return max((max(sizes, default=0) for sizes in self.sizes), default=0)

    @property
    def steps(self) -> int:
        """Of all candidates in all rounds."""
        return sum(map(sum, self.sizes))


def plan_repetitions(lanes: int, repetitions: int) -> RoundPlan:
    """So many samples of each, in blocks of three; the last block holds the rest."""
    sizes: list[int] = []
    while sum(sizes) < repetitions:
        sizes.append(min(USUAL_BLOCK, repetitions - sum(sizes)))
    return RoundPlan((tuple(sizes),) * lanes)


def plan_budget(step_ms: Sequence[float], budget_ms: float) -> RoundPlan:
    """As many rounds as fit a budget, at least what a verdict needs.

    Short steps make long blocks: they cost little, and their percentiles need many samples. Where
    blocks of three do not fit :data:`ENOUGH_ROUNDS` times, those of long steps become single
    steps: rounds are worth more than samples of one round.

    Args:
        step_ms: of each candidate.
        budget_ms: for all rounds of all.
    """
    usual = [
        min(LARGEST_BLOCK, max(USUAL_BLOCK, math.ceil(BLOCK_MS / max(ms, 1e-3)))) for ms in step_ms
    ]
    single = [1 if ms >= SHORT_MS else n for ms, n in zip(step_ms, usual, strict=True)]
    for sizes in (usual, single):
        cost = sum(
            1000 * REST_S + (n + lead_in(ms)) * ms for n, ms in zip(sizes, step_ms, strict=True)
        )
        rounds = int(budget_ms / cost) if cost else FEWEST
        if rounds >= ENOUGH_ROUNDS:
            break
    # The candidate with the smallest block needs the most rounds.
    enough = max(ENOUGH_ROUNDS, math.ceil(ENOUGH / min(sizes)))
    rounds = max(FEWEST, min(rounds, enough))
    return RoundPlan(tuple((n,) * rounds for n in sizes))


def interleave(
    lanes: Sequence[Candidate],
    plan: RoundPlan,
    *,
    seed: int = 0,
    after_round: Callable[[int], None] = lambda n: None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fill every lane's blocks, round by round, in an order drawn anew for each round.

    Each block begins after a rest and the lane's lead-in.

    Args:
        lanes: warmed up.
        plan: of :func:`plan_budget` or :func:`plan_repetitions`.
        seed: of the order.
        after_round: told the round's number, when it is done.
        report: told the steps done and planned.
    """
    order = random.Random(seed)
    rounds = max((len(sizes) for sizes in plan.sizes), default=0)
    done = 0
    for n in range(rounds):
        turns = [i for i, sizes in enumerate(plan.sizes) if n < len(sizes)]
        order.shuffle(turns)
        for i in turns:
            size = plan.sizes[i][n]
            sleep(REST_S)
            if lead := lanes[i].lead_in:
                lanes[i].stepper.steps(lead)
            lanes[i].blocks.append(lanes[i].stepper.steps(size))
            done += size
            report(done, plan.steps)
        after_round(n)
