"""What makes timed figures less sure, in sentences: the same for every command that times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from teco.measurement.records import Latency, NoiseFloor, TimingWarning

BUSY_LOAD = 0.5
"""Load average per processor before measuring, above which other programs are at work."""

BUSY_SHARE = 0.1
"""Of the processors' time, above which what other programs take is worth a warning."""

WIDE = 0.05
"""How far a candidate may seem from itself; noise above that hides differences that people ask
about."""

DRIFT = 0.05
"""Relative change from the first third of the samples to the last."""

CLOCK_SHARE = 0.001
"""Of a step, that reading the clock may take."""

SPREAD = 1.25
"""p90 over p50 of an undisturbed candidate, at most."""

PERCENTILE = 100
"""Fewest samples of which p99 is not simply the slowest."""


def machine_warnings(
    *,
    load_before: float | None,
    cores: int,
    busy_share: float | None,
    throttled: int | None,
    governor: str | None,
) -> tuple[TimingWarning, ...]:
    """What concerns the whole run; arguments as of the record's conditions."""
    found: list[tuple[str, str]] = []
    if load_before is not None and load_before > BUSY_LOAD * cores:
        found.append(
            ("busy", f"the machine was busy before measuring began (load {load_before:.1f} on "
             f"{cores} cores); stop other programs and run it again")
        )  # fmt: skip
    if busy_share is not None and busy_share > BUSY_SHARE:
        found.append(
            ("busy", f"other programs took {busy_share:.0%} of the processors' time while steps "
             "were timed")
        )  # fmt: skip
    if throttled:
        found.append(
            ("throttled", f"processors or the GPU slowed themselves {throttled} times while "
             "measuring")
        )  # fmt: skip
    if governor not in (None, "performance"):
        found.append(
            ("clock", f"the frequency governor is {governor}: clocks follow the load, and short "
             "runs start slow")
        )  # fmt: skip
    return tuple(TimingWarning(code=code, row="", text=text) for code, text in found)


def noise_warnings(noise: Sequence[NoiseFloor]) -> tuple[TimingWarning, ...]:
    """What concerns comparisons of candidates."""
    return tuple(
        TimingWarning(
            code="wide", row=one.row,
            text=f"{one.row} differed from itself by {one.share:.1%}: smaller differences between "
            "candidates are ignored in this run",
        )
        for one in noise if one.share > WIDE
    )  # fmt: skip


def latency_warnings(
    timed: Sequence[tuple[str, Latency]], overhead_ns: float
) -> tuple[TimingWarning, ...]:
    """What concerns the candidates.

    Args:
        timed: (key, what was measured) of each.
        overhead_ns: cost of reading the clock.
    """
    found = [
        TimingWarning(code=code, row=key, text=text)
        for key, latency in timed
        for code, text in _of_candidate(key, latency, overhead_ns)
    ]
    few = [(one.host.summary.count, key) for key, one in timed]
    few = sorted(pair for pair in few if pair[0] < PERCENTILE)
    if few:
        (least, key), (most, _) = few[0], few[-1]
        whose = key if len(few) == 1 else f"{len(few)} candidates"
        number = f"{least}" if least == most else f"{least} to {most}"
        found.append(
            TimingWarning(
                code="few", row=key if len(few) == 1 else "",
                text=f"p99 of {whose} is the slowest of {number} samples; --repetitions "
                f"{PERCENTILE} or more makes it a percentile",
            )
        )  # fmt: skip
    return tuple(found)


def _of_candidate(key: str, latency: Latency, overhead_ns: float) -> Iterator[tuple[str, str]]:
    """(code, sentence) of each warning."""
    summary, values = latency.host.summary, latency.host.all
    if summary.p90 > SPREAD * summary.p50:
        yield (
            "outliers",
            (
                f"{key} varies widely (p90 is {summary.p90 / summary.p50:.2f} of p50); "
                "another program may have run beside it"
            ),
        )
    if not latency.warm_up.stable:
        yield "unstable", (f"{key} had not settled after {latency.warm_up.steps} steps of warm-up")
    third = len(values) // 3
    if third >= 3:
        change = median(values[-third:]) / median(values[:third]) - 1
        if abs(change) > DRIFT:
            yield (
                "drift",
                (
                    f"{key} became {abs(change):.0%} {'slower' if change > 0 else 'faster'} "
                    "from the first third of its samples to the last"
                ),
            )
    if 1e-6 * overhead_ns > CLOCK_SHARE * summary.p50:
        yield (
            "clock",
            (
                f"reading the clock takes {overhead_ns:.0f} ns, "
                f"{1e-6 * overhead_ns / summary.p50:.1%} of a step of {key}"
            ),
        )
