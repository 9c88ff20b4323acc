"""One run of the benchmark, phase by phase; whatever was measured before it ends is in the record.

Speed and memory come from processes of the candidates' own
(:mod:`teco.benchmark.measure.worker_pool`), quality and the gate from this one, afterwards, when
nothing is timed any more. The record is kept after every phase, and an interrupt ends the phase
that it meets: what there is then is in the record, which says that it is not complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from teco.benchmark.measure.candidates import BenchCandidate, Selection
from teco.benchmark.measure.lr_clip import FRAMES, RATE, moving_pictures, write_clip
from teco.benchmark.measure.worker_pool import Failure, Runner, WorkerPool, batches
from teco.benchmark.record.quality import ClipRecord, Quality
from teco.benchmark.record.record import Ceiling, Conditions, Record, Row
from teco.benchmark.report.warnings import warnings_of
from teco.benchmark.rows import bare_row, fill_speed
from teco.core.errors import TecoError
from teco.core.machine import Machine, usable_cores
from teco.measurement import conditions
from teco.measurement.records import NoiseFloor, Ratio
from teco.measurement.statistics import ratio_across, ratio_within
from teco_calibration.errors import ClipError

if TYPE_CHECKING:
    from teco.benchmark.quality.clip import TruthClip
    from teco.benchmark.quality.measure import Gallery, QualityOptions
    from teco.benchmark.record.gate import GateResult

QUALITY_SHARE = 0.4
"""Of what is left of a budget when all candidates are warm, where there is a clip."""

KERNEL_SHARE = 0.5
"""Of the rest; pipeline, playback and growth divide what is then left."""


PART_MS = 2500.0
"""Of a pipeline, a playback or a growth at most: more frames say little more."""

SHOW_S = 2.0
"""Seconds between two looks at the samples while steps are timed; each takes a while itself."""


class Progress(Protocol):
    """Told how a run goes on, for whoever shows it."""

    def phase(self, what: str) -> None:
        """Something else begins."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """So many of its steps are done."""

    def row(self, row: Row) -> None:
        """A row as far as it is known; the same key comes again when more is."""


class NoProgress:
    """A watch that looks away."""

    def phase(self, what: str) -> None: ...

    def progress(self, what: str, done: int, total: int | None) -> None: ...

    def row(self, row: Row) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured and for how long.

    Attributes:
        threads: of each candidate; None for all processors.
        repetitions: samples of each candidate; None allots them from the budget.
        budget_s: about how long the whole run may take.
        kernel_only: leave pipeline, playback, growth and ceilings out.
        clip: a truth to measure quality on; None leaves quality out.
        quality: how; with a clip.
        gallery: filled with pictures for a report.
        gate: judge each candidate beside the float32 step.
        seed: of the order of blocks.
        memory_bytes: that all candidates together may take; None for what is free.
    """

    threads: int | None = None
    repetitions: int | None = None
    budget_s: float = 150.0
    kernel_only: bool = False
    clip: TruthClip | None = None
    quality: QualityOptions | None = None
    gallery: Gallery | None = None
    gate: bool = False
    seed: int = 0
    memory_bytes: int | None = None


@dataclass
class Bench:
    """A run; :meth:`run` makes its record.

    Attributes:
        lineup: who takes part.
        options: how.
        machine: this one.
        command: as typed.
        watch: told how it goes.
        keep: given the record as far as it is whenever a phase begins, so that a crash of a library
            or the machine leaves what was measured.
        shows: row key -> the method in the gallery whose pictures are the row's.
    """

    lineup: Selection
    options: BenchOptions
    machine: Machine
    command: str = ""
    watch: Progress = field(default_factory=NoProgress)
    keep: Callable[[Record], None] = lambda record: None
    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    ceilings: list[Ceiling] = field(default_factory=list[Ceiling])
    noise: list[NoiseFloor] = field(default_factory=list[NoiseFloor])
    clip: ClipRecord | None = None
    interpolations: tuple[Quality, ...] = ()
    judged: list[GateResult] = field(default_factory=list[Any])
    stopping: bool = False
    shows: dict[str, str] = field(default_factory=dict[str, str])
    _phase: str = ""
    _heat_of: dict[str, int] = field(default_factory=dict[str, int])
    _block: int = 0
    _busy: list[float] = field(default_factory=list[float])
    _gpu_throttled: int = 0
    _began: float = 0.0
    _created: datetime = field(default_factory=lambda: datetime.now(UTC))
    _timer: tuple[float, float] = (0.0, 0.0)
    _load: float | None = None
    _throttled: int | None = None

    def stop(self) -> None:
        """End at the next report of progress, when no library is in the middle of anything."""
        self.stopping = True

    def run(self) -> Record:
        """Measure everything; what ends it early leaves an incomplete record, not an exception.

        Raises:
            TecoError, ClipError: it failed before anything was timed.
        """
        began = self._began = monotonic()
        self._timer = conditions.timer_overhead_ns()
        self._load, self._throttled = conditions.load(), conditions.throttle_count()
        stopped = ""
        for one in self.lineup.contenders:
            self.rows[one.key] = bare_row(one)
        try:
            self._measure(began)
        except KeyboardInterrupt:
            stopped = f"interrupted at: {self._phase or 'the start'}"
        except (TecoError, ClipError) as error:
            if all(row.kernel is None for row in self.rows.values()):
                raise
            stopped = f"it failed at: {self._phase}: {error.message}"
        return self._record(stopped)

    def _record(self, stopped: str) -> Record:
        """What there is now; complete where nothing stopped it."""
        after = conditions.throttle_count()
        before = self._throttled
        slowed = None if before is None or after is None else after - before
        if self._gpu_throttled:
            slowed = (slowed or 0) + self._gpu_throttled
        o = self.options
        overhead, resolution = self._timer
        threads = o.threads or usable_cores()
        affinity = conditions.processors(threads)
        record = Record(
            command=self.command,
            created=self._created.isoformat(timespec="seconds"),
            complete=not stopped,
            stopped=stopped,
            seconds=monotonic() - self._began,
            machine=self.machine,
            conditions=Conditions(
                threads=threads, affinity=affinity, pinning=conditions.pinning(threads, affinity),
                governor=self.machine.governor, load_before=self._load,
                load_after=conditions.load(),
                busy_share=max(self._busy, default=None), throttled=slowed,
                clock=conditions.CLOCK, timer_overhead_ns=overhead,
                timer_resolution_ns=resolution, block=self._block, seed=o.seed,
                budget_s=None if o.repetitions else o.budget_s, repetitions=o.repetitions,
            ),
            clip=self.clip,
            rows=tuple(self.rows.values()),
            static=self.lineup.static,
            unavailable=self.lineup.unavailable,
            interpolations=self.interpolations,
            ceilings=tuple(self.ceilings),
            noise=tuple(self.noise),
            ratios=self._ratios(),
            gate=tuple(one.as_dict() for one in self.judged),
        )  # fmt: skip
        return replace(record, warnings=warnings_of(record))

    # --- phases ------------------------------------------------------------------------------

    def _enter(self, what: str) -> None:
        self._phase = what
        if any(row.kernel is not None for row in self.rows.values()):
            self.keep(self._record(f"it was ended at: {what}"))
        self._heed()
        self.watch.phase(what)

    def _heed(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt

    def _measure(self, began: float) -> None:
        own = [one for one in self.lineup.contenders if not one.same_as]
        with tempfile.TemporaryDirectory(prefix="teco-bench-") as folder:
            groups = batches(own, self.options.memory_bytes)
            for n, group in enumerate(groups):
                for one in group:
                    self._heat_of[one.key] = n
                # What is left of the budget is for the heats that are left.
                until = began + self.options.budget_s * (n + 1) / len(groups)
                self._heat(group, Path(folder), until)
        self._share_speed()
        if self.options.clip is not None:
            self._quality(self.options.clip)
        if self.options.gate:
            self._gate()

    def _heat(self, group: Sequence[BenchCandidate], folder: Path, until: float) -> None:
        """Everything of candidates that run side by side, each in its own process."""
        o = self.options
        threads = o.threads or usable_cores()
        with WorkerPool(threads) as crew:
            self._enter("starting a process for each candidate")
            crew.start(group, lambda done, total: self._tell(done, total))
            self._enter("opening models, first steps and warm-up")
            for n, one in enumerate(group):
                lack = crew.open(one)
                self._note(lack)
                self._tell(n + 1, len(group))
            runners = crew.runners
            if not runners:
                return
            for runner in runners:
                self._update(runner)
            twin = crew.twin(min(runners, key=lambda r: r.step_ms))
            left = max(0.0, until - monotonic())
            if o.clip is not None:
                left *= 1 - QUALITY_SHARE
            self._enter("timing steps")
            self._kernel(crew, twin, 1000 * left * (1 if o.kernel_only else KERNEL_SHARE))
            self._enter("reading memory")
            for runner in runners:
                self._note(runner.read_memory())
                self._update(runner)
            if twin is not None:
                crew.dismiss(twin)
            if o.kernel_only:
                return
            self._enter("measuring the machine's ceilings")
            for runner in runners:
                self._ceilings(runner, threads)
                self._update(runner)
            # Pipeline, playback and growth of one candidate share its part of what is left.
            left = max(0.0, until - monotonic())
            if o.clip is not None:
                left *= 1 - QUALITY_SHARE
            part_ms = min(PART_MS, 1000 * left / len(runners) / 3)
            self._enter("pipeline, playback and growth of memory")
            clip, source, rate = self._lr_clip(folder, group[0].size)
            for n, runner in enumerate(runners):
                for lack in runner.whole_ways(clip, source, rate, folder, part_ms):
                    self._note(lack)
                self._update(runner)
                self._tell(n + 1, len(runners))

    def _kernel(self, crew: WorkerPool, twin: Runner | None, budget_ms: float) -> None:
        o = self.options
        before = conditions.ticks(crew.pids)
        shown = monotonic()
        gpu = any(r.contender.device != "cpu" for r in crew.runners)

        def after_round(n: int) -> None:
            nonlocal shown
            if monotonic() - shown < SHOW_S:
                return
            shown = monotonic()
            if gpu and conditions.gpus_throttled():
                self._gpu_throttled += 1
            for runner in crew.runners:
                self._update(runner)

        try:
            lanes = [r.lane for r in crew.runners] + ([twin.lane] if twin is not None else [])
            block = crew.interleave(
                lanes, repetitions=o.repetitions, budget_ms=budget_ms, seed=o.seed,
                after_round=after_round, report=self._tell,
            )  # fmt: skip
            self._block = max(self._block, block)
        finally:
            share = conditions.busy_share(before, conditions.ticks(crew.pids))
            self._busy += [] if share is None else [share]
            for runner in crew.runners:
                self._update(runner)
            self._note_all(crew.lacks)
            if twin is not None and (found := crew.noise(twin)) is not None:
                self.noise.append(found)

    def _ceilings(self, runner: Runner, threads: int) -> None:
        """Once for each library, device and precision; the copy once for each device."""
        for found in runner.ceilings(self.ceilings, threads):
            known = [
                c for c in self.ceilings
                if (c.kind, c.device, c.precision) == (found.kind, found.device, found.precision)
                and (c.kind == "copy" or c.library == found.library)
            ]  # fmt: skip
            if not known:
                self.ceilings.append(found)

    def _lr_clip(self, folder: Path, size: tuple[int, int]) -> tuple[Path, str, Fraction]:
        """What pipeline and playback decode; with what it is, in a sentence, and its rate."""
        path = folder / f"clip-{size[0]}x{size[1]}.mp4"
        clip = self.options.clip
        if clip is not None and clip.size == size:
            rate = Fraction(clip.rate or RATE)
            count = write_clip(path, (lr for lr, _ in clip.pairs()), rate)
            what = f"{count} frames of {clip.clip.name} at {size[1]}x{size[0]}, H.264"
        else:
            rate = RATE
            count = write_clip(path, moving_pictures(size, FRAMES), rate)
            what = f"{count} frames of a moving texture at {size[1]}x{size[0]}, H.264"
        return path, what, rate

    def _share_speed(self) -> None:
        """Rows of the same graph get the speed that was measured for one of them."""
        for one in self.lineup.contenders:
            if not one.same_as:
                continue
            other, row = self.rows[one.same_as], self.rows[one.key]
            self.rows[one.key] = replace(
                row, measured_as=one.same_as, details=other.details, kernel=other.kernel,
                pipeline=other.pipeline, playback=other.playback, memory=other.memory,
                roofline=other.roofline, notes=other.notes,
            )  # fmt: skip
            self.watch.row(self.rows[one.key])

    def _quality(self, clip: TruthClip) -> None:
        from teco.benchmark.quality.measure import measure_interpolations, measure_quality

        o = self.options
        assert o.quality is not None
        self._enter("quality of bicubic and bilinear")
        self.clip, self.interpolations = measure_interpolations(
            clip, o.quality, gallery=o.gallery, report=self._told
        )
        self._enter("quality")
        # A candidate that could not be opened has no quality either, and its row says why.
        own = {c.key: c for c in self.lineup.contenders}
        able = [
            c for c in own.values()
            if self.rows[c.key].kernel is not None or (c.same_as and self.rows[c.same_as].kernel)
        ]  # fmt: skip
        by_model = sorted(able, key=lambda c: [d.model.name for d in able].index(c.model.name))
        pairs = [(c.model, c.runtime) for c in by_model]
        for found in measure_quality(
            pairs, clip, o.quality, frames=self.clip.frames, gallery=o.gallery,
            report=self._told,
        ):  # fmt: skip
            key = by_model[found.index].key
            row = self.rows[key]
            self.shows[key] = found.shows
            notes = (*row.notes, found.note) if found.note else row.notes
            self.rows[key] = replace(
                row, quality=found.quality, distance=found.distance, notes=notes
            )
            self.watch.row(self.rows[key])

    def _gate(self) -> None:
        from teco.benchmark.quality.gate import judge

        for one in self.lineup.contenders:
            what = f"gate of {one.key}"
            self._enter(what)

            def report(done: int, total: int, what: str = what) -> None:
                self._told(what, done, total)

            found = judge(
                one.model, one.runtime, clip=self.options.clip, threads=self.options.threads,
                report=report,
            )  # fmt: skip
            self.judged.append(found)

    # --- bookkeeping ------------------------------------------------------------------------

    def _tell(self, done: int, total: int | None) -> None:
        self._told(self._phase, done, total)

    def _told(self, what: str, done: int, total: int | None) -> None:
        self._heed()
        self.watch.progress(what, done, total)

    def _note(self, lack: Failure | None) -> None:
        """What could not be measured is said in its row."""
        if lack is not None:
            row = self.rows[lack.key]
            if lack.why not in row.notes:
                self.rows[lack.key] = replace(row, notes=(*row.notes, lack.why))
                self.watch.row(self.rows[lack.key])

    def _note_all(self, lacks: Sequence[Failure]) -> None:
        for lack in lacks:
            self._note(lack)

    def _update(self, runner: Runner) -> None:
        """The row of what a runner has shown so far."""
        key = runner.contender.key
        self.rows[key] = fill_speed(self.rows[key], runner, self.ceilings)
        self.watch.row(self.rows[key])

    def _ratios(self) -> tuple[Ratio, ...]:
        """Every measured row against the fastest."""
        timed = [(r, r.kernel) for r in self.rows.values() if r.kernel and not r.measured_as]
        if len(timed) < 2:
            return ()
        best, of_best = min(timed, key=lambda item: item[1].host.summary.p50)
        noise = max((n.share for n in self.noise), default=0.0)
        found: list[Ratio] = []
        for row, kernel in timed:
            if row is best:
                continue
            together = self._heat_of.get(row.key) == self._heat_of.get(best.key)
            judge: Callable[..., Ratio] = ratio_within if together else ratio_across
            found.append(judge(row.key, best.key, kernel.host, of_best.host, noise))
        return tuple(found)
