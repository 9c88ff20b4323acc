"""Summaries, intervals and verdicts from samples.

Steps of one candidate that follow each other are alike: the same clock frequency, the same
neighbour on the machine, the same caches. Taken as independent they would make intervals several
times too narrow. So what is resampled is never a step. Candidates run in **rounds**: in each, every
candidate runs one block of steps, in an order drawn anew. A round is the unit of the bootstrap,
whole and for both candidates at once (a paired cluster bootstrap): what slowed the machine in a
round slowed both blocks, and cancels in their ratio. Two records have no rounds in common; there,
the blocks of each are drawn independently.

The statistic is the 20% trimmed mean over rounds of log(median of A's block / median of B's block).
A median forgives a spike within a block; trimming forgives a round that something else spoilt
(Wilcox, Introduction to Robust Estimation and Hypothesis Testing, on 20%).

A percentile interval of n resampled units is too narrow for small n, by the narrowness of the
bootstrap's variance and by taking a normal for a t distribution. Hesterberg's expanded percentile
interval (What Teachers Should Know About the Bootstrap, 2014, section 4.3) takes both up, and is
used here. Fewer than five rounds are too few to resample; there, Student's t gives the interval of
the mean of the logarithms, wide as few rounds make it; a difference that even this interval proves
is reported. The confidence of ratios is 99%, since a record holds dozens of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist, median

import numpy as np
import numpy.typing as npt

from teco.measurement.records import NoiseFloor, Ratio, Samples, Summary, Verdict

CONFIDENCE = 0.99
"""Of the interval of a ratio, which decides its verdict."""

MEDIAN_CONFIDENCE = 0.95
"""Of a candidate's own median."""

SMALLEST = 0.02
"""Relative difference of two candidates of one run below which no verdict calls one faster: another
order of the same memory makes as much. The run's own noise floor is used where it is larger."""

SMALLEST_ACROSS = 0.05
"""The same for two records: what changes from one run to the next shows in neither's samples."""

EQUAL = 0.05
"""Relative difference that nobody would notice: an interval within it means "equal"."""

FEWEST = 5
"""Rounds below which the interval is Student's: four have only 35 different resamples, the most
extreme of which repeats the most extreme round."""

RESAMPLES = 4000
TRIM = 0.2
OUTLIER = 3.5
"""Robust standard deviations (1.4826 * MAD) beyond which a sample is called an outlier: Iglewicz
and Hoaglin, How to Detect and Handle Outliers, 1993."""

_Array = npt.NDArray[np.float64]


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def samples_of(blocks: Sequence[Sequence[float]]) -> Samples:
    """Samples in ms with their summary; blocks without a sample are left out."""
    kept = tuple(tuple(float(x) for x in block) for block in blocks if block)
    return Samples(blocks=kept, summary=summarise(kept))


def summarise(blocks: Sequence[Sequence[float]]) -> Summary:
    """The summary of samples in ms.

    Raises:
        ValueError: there is none.
    """
    values = [x for block in blocks for x in block]
    if not values:
        raise ValueError("no samples to summarise")
    centre = median(values)
    mad = 1.4826 * median([abs(x - centre) for x in values])
    steps = [abs(b - a) for block in blocks for a, b in pairwise(block)]
    if not steps:  # each block is one step: its neighbours are those of the rounds beside it
        steps = [abs(b - a) for a, b in pairwise(values)]
    low, high = median_interval(blocks)
    p50 = percentile(values, 0.5)
    return Summary(
        count=len(values),
        mean=sum(values) / len(values),
        p50=p50,
        p90=percentile(values, 0.9),
        p99=percentile(values, 0.99),
        low=low,
        high=high,
        jitter=sum(steps) / len(steps) if steps else 0.0,
        outliers=sum(abs(x - centre) > OUTLIER * mad for x in values) if mad else 0,
        fps=1000 / p50 if p50 else 0.0,
    )


def median_interval(blocks: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95% interval of the median of all samples, by resampling whole blocks.

    A single block has nothing else to resample than its samples.
    """
    groups = [np.asarray(b, np.float64) for b in blocks]
    if len(groups) == 1:
        groups = [groups[0][i : i + 1] for i in range(len(groups[0]))]
    if len(groups) == 1:
        return float(groups[0][0]), float(groups[0][0])
    longest = max(map(len, groups))
    table = np.full((len(groups), longest), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    drawn = _draws(len(groups), 1000)
    middle = np.median if all(len(g) == longest for g in groups) else np.nanmedian
    medians = middle(table[drawn].reshape(len(drawn), -1), axis=1)
    low, high = _expanded(medians, len(groups), MEDIAN_CONFIDENCE)
    return low, high


def ratio_within(row: str, against: str, a: Samples, b: Samples, noise: float) -> Ratio:
    """Two candidates of one run; block n of one and of the other are of the same round.

    Args:
        row, against: keys.
        a, b: their samples.
        noise: of the run, :attr:`NoiseFloor.share`.
    """
    rounds = min(len(a.blocks), len(b.blocks))
    logs = _logs(a.blocks[:rounds]) - _logs(b.blocks[:rounds])
    found = float(np.exp(_trimmed(logs[None])[0]))
    interval = None
    if rounds >= FEWEST:
        means = _trimmed(logs[_draws(rounds, RESAMPLES)])
        interval = _expanded(means, rounds, CONFIDENCE)
    elif rounds > 1:
        interval = _of_few(float(logs.mean()), _error(logs), rounds)
    return _judge(row, against, found, interval, max(SMALLEST, noise))


def ratio_across(row: str, against: str, a: Samples, b: Samples, noise: float) -> Ratio:
    """Two candidates of two runs, whose blocks have nothing in common; arguments as above."""
    logs_a, logs_b = _logs(a.blocks), _logs(b.blocks)
    found = float(np.exp(_trimmed(logs_a[None])[0] - _trimmed(logs_b[None])[0]))
    fewest = min(len(logs_a), len(logs_b))
    interval = None
    if fewest >= FEWEST:
        means = _trimmed(logs_a[_draws(len(logs_a), RESAMPLES)]) - _trimmed(
            logs_b[_draws(len(logs_b), RESAMPLES, seed=1)]
        )
        interval = _expanded(means, fewest, CONFIDENCE)
    elif fewest > 1:
        # As many degrees of freedom as the smaller has: Welch's are never fewer.
        error = math.hypot(_error(logs_a), _error(logs_b))
        interval = _of_few(math.log(found), error, fewest)
    return _judge(row, against, found, interval, max(SMALLEST_ACROSS, noise))


def noise_floor(row: str, first: Samples, second: Samples) -> NoiseFloor:
    """The same candidate twice, in one run."""
    found = ratio_within(row, row, second, first, 0.0)
    share = max(found.ratio, 1 / found.ratio) - 1
    return NoiseFloor(row=row, ratio=found.ratio, low=found.low, high=found.high, share=share)


def _judge(
    row: str,
    against: str,
    ratio: float,
    interval: tuple[float, float] | None,
    smallest: float,
) -> Ratio:
    """The verdict on a ratio, from its logarithm's interval; a single round has none."""
    low, high = (ratio, ratio) if interval is None else (float(np.exp(x)) for x in interval)
    verdict: Verdict = "undecided"
    if interval is None:
        why = "one block of each is too few to judge"
    elif low > 1 + smallest:
        verdict, why = "slower", f"takes {low - 1:.1%} to {high - 1:.1%} longer"
        if low > 2:
            why = f"takes {low:.1f} to {high:.1f} times as long"
    elif high < 1 / (1 + smallest):
        verdict, why = "faster", f"takes {1 - high:.1%} to {1 - low:.1%} less"
    elif low > 1 / (1 + EQUAL) and high < 1 + EQUAL:
        verdict, why = "equal", f"no difference of {EQUAL:.0%} or more"
    else:
        why = f"the interval, {low:.3f} to {high:.3f}, is too wide to call a winner"
        if low > 1 or high < 1:
            why = f"the difference is within the noise of this run, {smallest:.1%}"
    return Ratio(
        row=row, against=against, ratio=ratio, low=low, high=high, verdict=verdict, why=why
    )


def _logs(blocks: Sequence[Sequence[float]]) -> _Array:
    """log of each block's median, (blocks,)."""
    tiny = 1e-9  # ms; a clock too coarse for a step gives zeros
    return np.log([max(median(block), tiny) for block in blocks])


def _draws(count: int, resamples: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """(resamples, count) indices, with replacement; the same samples give the same figures."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def _trimmed(values: _Array) -> _Array:
    """20% trimmed mean along the last axis."""
    cut = int(TRIM * values.shape[-1])
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def _error(logs: _Array) -> float:
    """Standard error of the mean of two or more blocks."""
    return float(logs.std(ddof=1)) / math.sqrt(len(logs))


def _of_few(centre: float, error: float, units: int) -> tuple[float, float]:
    """Student's interval of a mean of so many units."""
    half = _student((1 + CONFIDENCE) / 2, units - 1) * error
    return centre - half, centre + half


def _expanded(values: _Array, units: int, confidence: float) -> tuple[float, float]:
    """Expanded percentile interval of bootstrap replicates made of so many units."""
    t = _student((1 + confidence) / 2, units - 1)
    tail = NormalDist().cdf(-math.sqrt(units / (units - 1)) * t)
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def _student(share: float, freedom: int) -> float:
    """Quantile of Student's t: Hill, Algorithm 396 (Communications of the ACM 13, 1970)."""
    two_tails = 2 * (1 - share)
    if freedom == 1:
        return 1 / math.tan(two_tails * math.pi / 2)
    if freedom == 2:
        return math.sqrt(2 / (two_tails * (2 - two_tails)) - 2)
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * two_tails) ** (2 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(two_tails / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3)
             + 0.5 / (freedom + 4)) * y - 1
        ) * (freedom + 1) / (freedom + 2) + 1 / y  # fmt: skip
    return math.sqrt(freedom * y)
