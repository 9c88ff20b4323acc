"""What makes the figures of a record less sure, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from teco.benchmark.record.record import Kernel, Record, Row, Warn

BUSY_LOAD = 0.5
"""Load average per processor before measuring, above which other programs are at work."""

BUSY_SHARE = 0.1
"""Of the processors' time."""

WIDE = 0.05
"""Half of a ratio's interval, relative: wider than the differences that people ask about."""

DRIFT = 0.05
"""The last third of the samples against the first."""

CLOCK_SHARE = 0.001
"""Of a step, that reading the clock may take."""


def warnings_of(record: Record) -> tuple[Warn, ...]:
    """All that there are."""
    return (*_machine(record), *_comparisons(record), *_rows(record))


def _machine(record: Record) -> Iterator[Warn]:
    c, cores = record.conditions, record.machine.cores
    if c.load_before is not None and c.load_before > BUSY_LOAD * cores:
        yield Warn(
            code="busy", row="",
            text=f"the machine was busy before measuring began (load {c.load_before:.1f} on "
            f"{cores} cores); stop other programs and run it again",
        )  # fmt: skip
    if c.busy_share is not None and c.busy_share > BUSY_SHARE:
        yield Warn(
            code="busy", row="",
            text=f"other programs took {c.busy_share:.0%} of the processors' time while steps were "
            "timed",
        )  # fmt: skip
    if c.throttled:
        yield Warn(
            code="throttled", row="",
            text=f"processors or the GPU slowed themselves {c.throttled} times while measuring",
        )  # fmt: skip
    if c.governor not in (None, "performance"):
        yield Warn(
            code="clock", row="",
            text=f"the frequency governor is {c.governor}: clocks follow the load, and short runs "
            "start slow",
        )  # fmt: skip


def _comparisons(record: Record) -> Iterator[Warn]:
    for noise in record.noise:
        if noise.share > WIDE:
            yield Warn(
                code="wide", row=noise.row,
                text=f"{noise.row} differed from itself by {noise.share:.1%}: smaller differences "
                "count for nothing here",
            )  # fmt: skip
    for ratio in record.ratios:
        if ratio.verdict == "undecided":
            yield Warn(
                code="wide", row=ratio.row,
                text=f"{ratio.row} against {ratio.against}: {ratio.why}",
            )  # fmt: skip


def _rows(record: Record) -> Iterator[Warn]:
    few: dict[int, list[str]] = {}
    for row in record.rows:
        if row.kernel is None or row.measured_as:
            continue
        yield from _kernel(row, row.kernel, record.conditions.timer_overhead_ns)
        if row.kernel.host.summary.count < 100:
            few.setdefault(row.kernel.host.summary.count, []).append(row.key)
    if few:
        keys = [key for _, of_count in sorted(few.items()) for key in of_count]
        whose = keys[0] if len(keys) == 1 else f"{len(keys)} candidates"
        counts = f"{min(few)}" if len(few) == 1 else f"{min(few)} to {max(few)}"
        yield Warn(
            code="few", row=keys[0] if len(keys) == 1 else "",
            text=f"p99 of {whose} is the slowest of {counts} samples; --repetitions 100 or more, "
            "or a longer --budget, makes it a percentile",
        )  # fmt: skip


def _kernel(row: Row, kernel: Kernel, overhead_ns: float) -> Iterator[Warn]:
    summary = kernel.host.summary
    if summary.p90 > 1.25 * summary.p50:
        yield Warn(
            code="outliers", row=row.key,
            text=f"{row.key} varies widely (p90 is {summary.p90 / summary.p50:.2f} of p50); "
            "another program may have run beside it",
        )  # fmt: skip
    if not kernel.warm_up.stable:
        yield Warn(
            code="unstable", row=row.key,
            text=f"{row.key} had not settled after {kernel.warm_up.steps} steps of warm-up",
        )  # fmt: skip
    values = kernel.host.all
    third = len(values) // 3
    if third >= 3:
        change = median(values[-third:]) / median(values[:third]) - 1
        if abs(change) > DRIFT:
            yield Warn(
                code="drift", row=row.key,
                text=f"{row.key} became {abs(change):.0%} {'slower' if change > 0 else 'faster'} "
                "from the first third of its samples to the last",
            )  # fmt: skip
    if 1e-6 * overhead_ns > CLOCK_SHARE * summary.p50:
        yield Warn(
            code="clock", row=row.key,
            text=f"reading the clock takes {overhead_ns:.0f} ns, "
            f"{1e-6 * overhead_ns / summary.p50:.1%} of a step of {row.key}",
        )  # fmt: skip
