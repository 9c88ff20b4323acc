"""Latency of a few models in this process, for every command but ``teco bench``.

``teco bench`` gives each candidate a process of its own, and times it by the same steps
(:class:`StepTimer`), warm-up, rounds and warnings.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from teco.core.log import Progress, no_progress
from teco.measurement.disturbances import DisturbanceMonitor
from teco.measurement.interleaving import Block, TimedCandidate, interleave, plan_repetitions
from teco.measurement.records import Latency, TimingWarning
from teco.measurement.warnings import latency_warnings
from teco.model.opening import Model
from teco.runtimes import Runtime, Session, SessionOptions
from teco.runtimes.base import State, on_noise

log = logging.getLogger(__name__)

MS_PER_NS = 1e-6


class StepTimer:
    """Times the steps of a session, each of which goes on from the state of the last.

    Args:
        session: ready to step.
        step: makes one step, see :func:`teco.runtimes.base.on_noise`.
    """

    def __init__(self, session: Session, step: Callable[[State | None], State]) -> None:
        self.session = session
        self.load_ms = self.first_ms = 0.0
        self._step = step
        self._state: State | None = None

    @classmethod
    def open(
        cls, model: Model, runtime: Runtime, size: tuple[int, int], threads: int | None
    ) -> StepTimer:
        """Open a model and make its first step; both are timed.

        Args:
            model: what to run.
            runtime: that runs it.
            size: (h, w) of the LR frame.
            threads: None for all cores.

        Raises:
            TecoError: it cannot be opened.
        """
        began = perf_counter_ns()
        session = runtime.open(model, SessionOptions(threads=threads))
        loaded = perf_counter_ns()
        try:
            timer = cls(session, on_noise(model, session, *size))
            timer.load_ms = MS_PER_NS * (loaded - began)
            timer.first_ms = timer.steps(1).host[0]
        except BaseException:
            session.close()
            raise
        return timer

    def steps(self, count: int) -> Block:
        """Make so many steps in a row."""
        session: Any = self.session
        by_events = getattr(session, "last_step_ms", None) is not None
        step, state = self._step, self._state
        host: list[float] = []
        device: list[float] = []
        # A garbage collection in the middle of a step would be timed with it.
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                began = perf_counter_ns()
                state = step(state)
                host.append(MS_PER_NS * (perf_counter_ns() - began))
                if by_events:
                    device.append(float(session.last_step_ms))
        finally:
            gc.enable()
        self._state = state
        return Block(tuple(host), tuple(device))

    def reset(self) -> None:
        """Start a new scene with the next step."""
        self._state = None


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """One model on one runtime, timed.

    Attributes:
        model: name.
        runtime: name.
        details: what the runtime reports it runs on.
        latency: every sample, and their summary.
    """

    model: str
    runtime: str
    details: str
    latency: Latency

    @property
    def p50_ms(self) -> float:
        """Median of a step by the host's clock."""
        return self.latency.host.summary.p50


@dataclass(frozen=True, kw_only=True)
class LatencyRun:
    """Candidates that were timed together.

    Attributes:
        results: one for each (model, runtime), in the order asked for.
        warnings: what makes the figures less sure.
    """

    results: tuple[LatencyResult, ...]
    warnings: tuple[TimingWarning, ...]

    def log_warnings(self) -> None:
        """Tell the user, but for what concerns percentiles beyond the median only."""
        for warning in self.warnings:
            if warning.code != "few":
                log.warning("warning: %s", warning.text)


def measure_latency(
    pairs: Sequence[tuple[Model, Runtime]],
    size: tuple[int, int],
    *,
    repetitions: int,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> LatencyRun:
    """Step latency of each (model, runtime), in rounds of blocks in random order.

    Args:
        pairs: what to measure.
        size: (h, w) of the LR frame.
        repetitions: samples of each.
        threads: of each; None for all cores.
        progress: told the steps done and planned.

    Raises:
        TecoError: a candidate cannot be opened.
    """
    monitor = DisturbanceMonitor()
    opened: list[StepTimer] = []
    candidates: list[TimedCandidate] = []
    try:
        for model, runtime in pairs:
            timer = StepTimer.open(model, runtime, size, threads)
            opened.append(timer)
            key = f"{model.name} on {runtime.name}"
            candidates.append(TimedCandidate(key, timer, timer.load_ms, timer.first_ms))
        for one in candidates:
            one.warm()
        with monitor.watching():
            plan = plan_repetitions(len(candidates), repetitions)
            interleave(candidates, plan, progress=progress)
    finally:
        for timer in opened:
            timer.session.close()
    timed = [(one.key, one.measured()) for one in candidates]
    return LatencyRun(
        results=tuple(
            LatencyResult(
                model=model.name, runtime=runtime.name, details=timer.session.details,
                latency=latency,
            )
            for (_, latency), timer, (model, runtime) in zip(timed, opened, pairs, strict=True)
        ),
        warnings=(*monitor.warnings(), *latency_warnings(timed, monitor.timer_overhead_ns)),
    )  # fmt: skip
