"""The one timing harness: warm-up until stable, then rounds of blocks in random order.

Before each block the machine rests for a moment, and a candidate of short steps first makes some
that are not timed (its lead-in): otherwise threads of the last candidate that still spin, and
caches that it filled, would be timed with it. Measured on two cores with two processes of ONNX
Runtime whose steps take 9 ms: without a rest the first two steps of each block took 18 ms, after
20 ms of rest 10.5 and 9.4.

A candidate is whatever can make ``n`` steps and tell how long each took (:class:`Stepper`): a
session in this process (:mod:`teco.measurement.latency`) or a worker process of ``teco bench``.
Why there are blocks and rounds: :mod:`teco.measurement.statistics`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import sleep
from typing import Protocol

from teco.core.log import Progress, no_progress
from teco.measurement.records import Latency, WarmUp
from teco.measurement.statistics import FEWEST, samples_of

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
"""Steps shorter than this have a lead-in. Longer ones lose less than a fiftieth to a cold cache,
and their blocks are single steps where time is short."""

LEAD_MS = 10.0
"""A lead-in lasts at least so long: one step for most candidates, several for those of a GPU, whose
clock has to rise again after the rest."""

AGREE = 0.05
"""The warm-up ends when the medians of two windows in a row differ by no more than this share."""

WINDOW_MS = 100.0
PATIENCE_MS = 8000.0
"""The longest warm-up of a candidate: compilers and governors settle by then, or never."""


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
class TimedCandidate:
    """A candidate and the times it has shown so far.

    Attributes:
        key: names it.
        stepper: makes its steps.
        load_ms: opening it took.
        first_ms: its first step took.
        warm_up: filled by :meth:`warm`.
        blocks: filled by :func:`interleave`.
    """

    key: str
    stepper: Stepper
    load_ms: float = 0.0
    first_ms: float = 0.0
    warm_up: WarmUp | None = None
    blocks: list[Block] = field(default_factory=list[Block])

    def warm(self) -> None:
        """Step until the time of a step is stable."""
        self.warm_up = warm_up(self.stepper)

    @property
    def lead_in(self) -> int:
        """Untimed steps before each block."""
        return lead_in(self.step_ms) if self.warm_up is not None else 0

    @property
    def step_ms(self) -> float:
        """How long a step takes, by the end of the warm-up."""
        assert self.warm_up is not None
        return median(self.warm_up.ms[-3:])

    @property
    def timed(self) -> bool:
        """Whether any step was timed."""
        return any(block.host for block in self.blocks)

    def measured(self) -> Latency:
        """Its record.

        Raises:
            ValueError: nothing was timed.
        """
        if self.warm_up is None:
            raise ValueError(f"{self.key} was not warmed up")
        device = [b.device for b in self.blocks if b.device]
        return Latency(
            host=samples_of([b.host for b in self.blocks]),
            device=samples_of(device) if device else None,
            load_ms=self.load_ms,
            first_ms=self.first_ms,
            warm_up=self.warm_up,
        )


def lead_in(step_ms: float) -> int:
    """Untimed steps before a block whose steps take ``step_ms``."""
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
        sizes: for each candidate, its steps in each round.
    """

    sizes: tuple[tuple[int, ...], ...]

    @property
    def block(self) -> int:
        """The largest number of steps in a row."""
        return max((max(sizes, default=0) for sizes in self.sizes), default=0)

    @property
    def steps(self) -> int:
        """Of all candidates in all rounds."""
        return sum(map(sum, self.sizes))


def plan_repetitions(candidates: int, repetitions: int) -> RoundPlan:
    """``repetitions`` samples of each, in blocks of three; the last block holds the rest.

    Where that makes fewer rounds than an interval wants, blocks are shorter: rounds are worth more.
    """
    block = min(USUAL_BLOCK, max(1, repetitions // FEWEST))
    sizes: list[int] = []
    while sum(sizes) < repetitions:
        sizes.append(min(block, repetitions - sum(sizes)))
    return RoundPlan((tuple(sizes),) * candidates)


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
    candidates: Sequence[TimedCandidate],
    plan: RoundPlan,
    *,
    seed: int = 0,
    after_round: Callable[[], None] = lambda: None,
    progress: Progress = no_progress,
) -> None:
    """Fill every candidate's blocks, round by round, in an order drawn anew for each round.

    Each block begins after a rest and the candidate's lead-in.

    Args:
        candidates: warmed up.
        plan: of :func:`plan_budget` or :func:`plan_repetitions`.
        seed: of the order.
        after_round: called when a round is done.
        progress: told the steps done and planned.
    """
    order = random.Random(seed)
    rounds = max((len(sizes) for sizes in plan.sizes), default=0)
    done = 0
    for n in range(rounds):
        turns = [
            (one, sizes[n])
            for one, sizes in zip(candidates, plan.sizes, strict=True)
            if n < len(sizes)
        ]
        order.shuffle(turns)
        for one, size in turns:
            sleep(REST_S)
            if lead := one.lead_in:
                one.stepper.steps(lead)
            one.blocks.append(one.stepper.steps(size))
            done += size
            progress(done, plan.steps)
        after_round()
