"""Everything of one batch: candidates that are in memory together, each in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from teco.benchmark.measure.candidates import BenchCandidate
from teco.benchmark.measure.lr_clip import make_lr_clip
from teco.benchmark.measure.worker_pool import Runner, WorkerPool
from teco.benchmark.options import BenchOptions
from teco.benchmark.progress import Phases
from teco.benchmark.record.record import Ceiling
from teco.benchmark.rows import RowBook
from teco.core.machine import usable_cores
from teco.measurement.disturbances import DisturbanceMonitor
from teco.measurement.interleaving import interleave, plan_budget, plan_repetitions
from teco.measurement.records import NoiseFloor

QUALITY_SHARE = 0.4
"""Share of the time that is left for a batch after its warm-up, where there is a clip."""

LATENCY_SHARE = 0.5
"""Of the rest; what follows the timed steps divides what is then left."""

PART_MS = 2500.0
"""Time end to end, of playback and of growth, at most: more frames say little more."""

SHOW_S = 2.0
"""Seconds between two looks at the samples while steps are timed; each takes a while itself."""


@dataclass
class BatchRun:
    """Measures speed and memory, batch by batch.

    Attributes:
        options: how.
        book: filled.
        monitor: watches the machine while steps are timed.
        phases: told how it goes.
        ceilings: of the machine, measured with the first candidate that needs them.
        noise: the noise floor of each batch.
        block: the largest number of steps of one candidate in a row.
    """

    options: BenchOptions
    book: RowBook
    monitor: DisturbanceMonitor
    phases: Phases
    ceilings: list[Ceiling] = field(default_factory=list[Ceiling])
    noise: list[NoiseFloor] = field(default_factory=list[NoiseFloor])
    block: int = 0

    @property
    def _threads(self) -> int:
        return self.options.threads or usable_cores()

    def run(self, batch: Sequence[BenchCandidate], folder: Path, until: float) -> None:
        """Measure a batch.

        Args:
            batch: of one size.
            folder: for clips, thrown away later.
            until: when to be done, by the monotonic clock.
        """
        with WorkerPool(self._threads) as pool:
            self._open(pool, batch)
            if not pool.runners:
                return
            duplicate = pool.duplicate(min(pool.runners, key=lambda r: r.timed.step_ms))
            share = 1 if self.options.latency_only else LATENCY_SHARE
            self._time_steps(pool, duplicate, share * self._left_ms(until))
            self.phases.enter("reading memory")
            for runner in pool.runners:
                self.book.note([runner.read_memory()])
                self._update(runner)
            if duplicate is not None:
                pool.dismiss(duplicate)
            if not self.options.latency_only:
                self._measure_ceilings(pool)
                self._run_clip(pool, batch[0].size, folder, until)

    def _left_ms(self, until: float) -> float:
        """Time that is left for speed."""
        share = 1.0 if self.options.clip is None else 1 - QUALITY_SHARE
        return 1000 * share * max(0.0, until - monotonic())

    def _update(self, runner: Runner) -> None:
        self.book.update(runner, self.ceilings)

    def _open(self, pool: WorkerPool, batch: Sequence[BenchCandidate]) -> None:
        self.phases.enter("starting a process for each candidate")
        pool.start(batch, self.phases.advance)
        self.phases.enter("opening models, first steps and warm-up")
        for n, one in enumerate(batch):
            self.book.note([pool.open(one)])
            self.phases.advance(n + 1, len(batch))
        for runner in pool.runners:
            self._update(runner)

    def _time_steps(self, pool: WorkerPool, duplicate: Runner | None, budget_ms: float) -> None:
        o = self.options
        shown = monotonic()
        on_gpu = any(r.candidate.device != "cpu" for r in pool.runners)

        def look() -> None:
            nonlocal shown
            if monotonic() - shown < SHOW_S:
                return
            shown = monotonic()
            if on_gpu:
                self.monitor.look_at_gpu()
            for runner in pool.runners:
                self._update(runner)

        self.phases.enter("timing steps")
        timed = [r.timed for r in pool.runners] + ([duplicate.timed] if duplicate else [])
        plan = (
            plan_repetitions(len(timed), o.repetitions)
            if o.repetitions
            else plan_budget([one.step_ms for one in timed], budget_ms)
        )
        self.block = max(self.block, plan.block)
        try:
            with self.monitor.watching(pool.pids):
                interleave(timed, plan, seed=o.seed, after_round=look, progress=self.phases.advance)
        finally:
            for runner in pool.runners:
                self._update(runner)
            self.book.note(pool.failures)
            if duplicate is not None and (found := pool.noise(duplicate)) is not None:
                self.noise.append(found)

    def _measure_ceilings(self, pool: WorkerPool) -> None:
        self.phases.enter("measuring the machine's ceilings")
        for runner in pool.runners:
            self.ceilings += runner.ceilings(self.ceilings, self._threads)
            self._update(runner)

    def _run_clip(
        self, pool: WorkerPool, size: tuple[int, int], folder: Path, until: float
    ) -> None:
        """End to end, playback and growth of a candidate share its part of the time left."""
        part_ms = min(PART_MS, self._left_ms(until) / len(pool.runners) / 3)
        self.phases.enter("end to end, playback and growth of memory")
        truth = self.options.clip
        if truth is None or truth.size != size:
            clip = make_lr_clip(folder, size)
        else:
            frames = (lr for _, lr in truth.pairs())
            clip = make_lr_clip(folder, size, frames, truth.clip.name, truth.rate)
        for n, runner in enumerate(pool.runners):
            self.book.note(runner.run_clip(clip, folder, part_ms))
            self._update(runner)
            self.phases.advance(n + 1, len(pool.runners))
