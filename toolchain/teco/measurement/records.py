"""What one measurement leaves: samples, their summary, ratios of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is said of samples, by :func:`teco.measurement.statistics.summarise`; times in ms.

    Attributes:
        count: samples.
        mean: of all.
        p50, p90, p99: percentiles by nearest rank. p99 of under 100 samples is the slowest.
        low, high: 95% confidence interval of the median.
        jitter: mean absolute difference of neighbours within a block; of neighbouring blocks where
            each is a single step.
        outliers: samples further from the median than 3.5 robust standard deviations. They count
            in all figures.
        fps: 1000 / p50.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    low: float
    high: float
    jitter: float
    outliers: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every sample, in ms, in the order measured.

    Attributes:
        blocks: samples that were taken in a row, without another candidate in between.
        summary: of all of them.
    """

    blocks: tuple[tuple[float, ...], ...]
    summary: Summary

    @property
    def all(self) -> tuple[float, ...]:
        """The samples of all blocks, in order."""
        return tuple(x for block in self.blocks for x in block)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Steps before any counted.

    Attributes:
        steps: how many there were, without the first.
        stable: whether the last ones agreed; False where the patience for it ended first.
        ms: each of them.
    """

    steps: int
    stable: bool
    ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much longer one takes than another, from one run or two records.

    Attributes:
        row, against: keys.
        ratio: 1.1 takes a tenth longer; see :mod:`teco.measurement.statistics`.
        low, high: 99% confidence interval.
        verdict: of row.
        why: the verdict in a sentence.
    """

    row: str
    against: str
    ratio: float
    low: float
    high: float
    verdict: Verdict
    why: str


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The same candidate twice, in turns with all others: what a difference of nothing looks like.

    Attributes:
        row: which.
        ratio, low, high: of the second time against the first, as in :class:`Ratio`.
        share: how far ``ratio`` is from 1; differences below it count for nothing.
    """

    row: str
    ratio: float
    low: float
    high: float
    share: float


Verdict = Literal["faster", "slower", "equal", "undecided"]
"""Of a ratio: its interval lies below 1 or above it by more than counts; within what does not
count; or it is too wide to say."""
