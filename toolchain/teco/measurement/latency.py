"""Latency inside this process, for the other commands that compare a few models.

``teco bench`` gives each candidate a process of its own (:mod:`teco.benchmark.run`); the order of
steps is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from teco.core.machine import usable_cores
from teco.measurement.records import WarmUp
from teco.measurement.samples import LatencySamples
from teco.measurement.schedule import USUAL_BLOCK, Block, Candidate, interleave, plan_repetitions
from teco.model.opening import Model
from teco.runtimes import Runtime, Session, SessionOptions
from teco.runtimes.base import State, on_noise

WARM_UP = 3
"""Steps of each candidate before any counts: allocation, planning and, for compilers, compiling."""

BLOCK = USUAL_BLOCK


@dataclass
class _Local:
    """A candidate in this process."""

    model: str
    session: Session
    step: Callable[[State | None], State]
    state: State | None
    load_seconds: float
    first_seconds: float

    def steps(self, count: int) -> Block:
        times: list[float] = []
        for _ in range(count):
            began = perf_counter()
            self.state = self.step(self.state)
            times.append(1000 * (perf_counter() - began))
        return Block(tuple(times))


def measure_latency(
    pairs: list[tuple[Model, Runtime]],
    size: tuple[int, int],
    *,
    repetitions: int,
    threads: int | None = None,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[LatencySamples]:
    """Step latency of each (model, runtime), in rounds of blocks in random order.

    Args:
        pairs: what to measure.
        size: (h, w) of the LR frame.
        repetitions: samples of each.
        threads: for each; None for all cores.
        report: progress in steps.

    Raises:
        TecoError: a candidate cannot be opened.
    """
    opened: list[_Local] = []
    try:
        for model, runtime in pairs:
            began = perf_counter()
            session = runtime.open(model, SessionOptions(threads=threads))
            loaded = perf_counter()
            step = on_noise(model, session, *size)
            made = perf_counter()
            state = step(None)
            first = perf_counter()
            opened.append(_Local(model.name, session, step, state, loaded - began, first - made))
        lanes = [Candidate(one.model, one) for one in opened]
        for lane in lanes:
            times = lane.stepper.steps(WARM_UP).host
            lane.warm_up = WarmUp(steps=WARM_UP, stable=False, ms=times)
        interleave(lanes, plan_repetitions(len(lanes), repetitions), report=report)
    finally:
        for one in opened:
            one.session.close()
    return [
        LatencySamples(
            model=one.model,
            runtime=runtime.name,
            details=one.session.details,
            samples=tuple(ms / 1000 for block in lane.blocks for ms in block.host),
            load_seconds=one.load_seconds,
            first_seconds=one.first_seconds,
        )
        for one, lane, (_, runtime) in zip(opened, lanes, pairs, strict=True)
    ]


def warnings_for(candidates: list[LatencySamples], load_before: float | None) -> list[str]:
    """What makes the numbers less sure, in sentences.

    Args:
        candidates: measured.
        load_before: one-minute load average before measuring began.
    """
    found: list[str] = []
    cores = usable_cores()
    if load_before is not None and load_before > 0.5 * cores:
        found.append(
            f"the machine was busy before measuring began (load {load_before:.1f} on {cores} "
            "cores); stop other programs and run it again"
        )
    for c in candidates:
        if c.p90 > 1.25 * c.p50:
            found.append(
                f"{c.model} on {c.runtime} varies widely (p90 is {c.p90 / c.p50:.2f} of p50); "
                "another program may have run beside it"
            )
        if len(c.samples) < 100:
            found.append(
                f"p99 of {c.model} on {c.runtime} is the slowest of {len(c.samples)} samples; "
                "--repetitions 100 or more makes it a percentile"
            )
    return found
