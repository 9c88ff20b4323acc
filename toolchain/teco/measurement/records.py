"""What timing leaves: samples and their summary, the latency of a candidate, ratios, warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Samples in a few numbers, by :func:`teco.measurement.statistics.summarise`; times in ms.

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
    """Untimed steps before measuring.

    Attributes:
        steps: how many there were, without the first.
        stable: whether the last ones took equally long; False where the time for it ran out.
        ms: each of them.
    """

    steps: int
    stable: bool
    ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of one step; the recurrent state stays where the runtime computes.

    Attributes:
        host: by the host's clock, from the frame in the host's memory to the enlarged one there.
        device: device time, by the GPU's events; None where the runtime tells none.
        load_ms: opening the file.
        first_ms: the first step, which allocates, plans and may compile.
        warm_up: the untimed steps that followed.
    """

    host: Samples
    device: Samples | None
    load_ms: float
    first_ms: float
    warm_up: WarmUp


@dataclass(frozen=True, kw_only=True)
class TimingWarning:
    """A reason to trust figures less.

    Attributes:
        code: busy, throttled, wide, outliers, few, unstable, drift, clock, or a later word.
        row: key of the candidate, "" for the whole run.
        text: in a sentence.
    """

    code: str
    row: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much longer one takes than another, from one run or two records.

    Attributes:
        row, against: keys.
        ratio: 1.1 takes a tenth longer; see :mod:`teco.measurement.statistics`.
        low, high: 99% confidence interval; the ratio itself where a single block gave none.
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

    @property
    def has_interval(self) -> bool:
        """Whether there were blocks enough for one."""
        return self.low < self.high


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """A candidate measured twice in one run: how much equal candidates seem to differ here.

    Attributes:
        row: which.
        ratio, low, high: of the second time against the first, as in :class:`Ratio`.
        share: how far ``ratio`` is from 1; smaller differences between candidates are ignored.
    """

    row: str
    ratio: float
    low: float
    high: float
    share: float


Verdict = Literal["faster", "slower", "equal", "undecided"]
"""``faster``, ``slower``: the whole interval of the ratio lies further from 1 than noise explains.
``equal``: the whole interval is so close to 1 that nobody would see a difference.
``undecided``: the interval is too wide for any of these."""
