"""One run of the benchmark, phase by phase; what was measured before it ends is in the record.

Speed and memory come from processes of the candidates' own (:mod:`teco.benchmark.batch`), quality
and the temporal gate from this one, afterwards, when nothing is timed any more. The record is kept
after every phase, and an interrupt ends the phase that it meets: the record then holds what there
is, and says that it is not complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from teco.benchmark.batch import BatchRun
from teco.benchmark.measure.candidates import Selection
from teco.benchmark.measure.worker_pool import batches
from teco.benchmark.options import BenchOptions
from teco.benchmark.progress import BenchProgress, NoBenchProgress, Phases
from teco.benchmark.quality.clip import TruthClip
from teco.benchmark.record.gate import GateResult
from teco.benchmark.record.quality import ClipRecord, Quality
from teco.benchmark.record.record import Conditions, Record
from teco.benchmark.record.warnings import warnings_of
from teco.benchmark.rows import RowBook
from teco.core.errors import TecoError
from teco.core.machine import Machine, usable_cores
from teco.measurement import conditions
from teco.measurement.disturbances import DisturbanceMonitor
from teco.measurement.records import Ratio
from teco.measurement.statistics import ratio_across, ratio_within
from teco_calibration.errors import ClipError


class Bench:
    """A run; :meth:`run` makes its record.

    Args:
        selection: who takes part.
        options: how.
        machine: this one.

    Attributes:
        judged: verdicts of the temporal gate.
        shows: row key -> the method in the gallery whose frames are the row's.
    """

    def __init__(self, selection: Selection, options: BenchOptions, machine: Machine) -> None:
        self.selection = selection
        self.options = options
        self.judged: list[GateResult] = []
        self.shows: dict[str, str] = {}
        self._machine = machine
        self._clip: ClipRecord | None = None
        self._interpolations: tuple[Quality, ...] = ()
        self._batch_of: dict[str, int] = {}
        self._stopping = False
        self._phases: Phases | None = None

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """End at the next report of progress, when no library is in the middle of anything."""
        self._stopping = True
        if self._phases is not None:
            self._phases.stopping = True

    def run(
        self,
        progress: BenchProgress | None = None,
        keep: Callable[[Record], None] = lambda record: None,
    ) -> Record:
        """Measure everything; what ends it early leaves an incomplete record, not an exception.

        Args:
            progress: shown how it goes.
            keep: given the record as far as it is whenever a phase begins, so that a crash of a
                library or of the machine leaves what was measured.

        Raises:
            TecoError, ClipError: it failed before anything was timed.
        """
        progress = progress or NoBenchProgress()
        began, created = monotonic(), datetime.now(UTC)
        monitor = DisturbanceMonitor()
        book = RowBook(self.selection.candidates, progress)

        def record(stopped: str) -> Record:
            made = self._record(stopped, speed, created, monotonic() - began)
            return replace(made, warnings=warnings_of(made))

        def keep_so_far(phase: str) -> None:
            if book.timed:
                keep(record(f"it was ended at: {phase}"))

        phases = self._phases = Phases(progress, keep_so_far)
        phases.stopping = self._stopping
        speed = BatchRun(self.options, book, monitor, phases)
        try:
            self._measure(speed, began)
        except KeyboardInterrupt:
            return record(f"interrupted at: {phases.current or 'the start'}")
        except (TecoError, ClipError) as error:
            if not book.timed:
                raise
            return record(f"it failed at: {phases.current}: {error.message}")
        return record("")

    def _measure(self, speed: BatchRun, began: float) -> None:
        own = [one for one in self.selection.candidates if not one.same_as]
        with tempfile.TemporaryDirectory(prefix="teco-bench-") as folder:
            groups = batches(own, self.options.memory_bytes)
            for n, group in enumerate(groups):
                self._batch_of |= {one.key: n for one in group}
                # What is left of the budget is for the batches that are left.
                until = began + self.options.budget_s * (n + 1) / len(groups)
                speed.run(group, Path(folder), until)
        speed.book.share_speed(self.selection.candidates)
        if self.options.clip is not None:
            self._measure_quality(self.options.clip, speed.book, speed.phases)
        if self.options.gate:
            self._judge(speed.phases)

    def _measure_quality(self, clip: TruthClip, book: RowBook, phases: Phases) -> None:
        from teco.benchmark.quality.measure import measure_interpolations, measure_quality

        o = self.options
        assert o.quality is not None
        phases.enter("quality of bicubic and bilinear")
        self._clip, self._interpolations = measure_interpolations(
            clip, o.quality, gallery=o.gallery, progress=phases.advance_in
        )
        phases.enter("quality")
        # A candidate that could not be opened has no quality either, and its row says why.
        able = [c for c in self.selection.candidates if book.rows[c.key].latency is not None]
        names = [c.model.name for c in able]
        able.sort(key=lambda c: names.index(c.model.name))
        for found in measure_quality(
            [(c.model, c.runtime) for c in able], clip, o.quality, frames=self._clip.frames,
            gallery=o.gallery, progress=phases.advance_in,
        ):  # fmt: skip
            key = able[found.index].key
            self.shows[key] = found.shows
            notes = (*book.rows[key].notes, *([found.note] if found.note else []))
            book.change(key, quality=found.quality, distance=found.distance, notes=notes)

    def _judge(self, phases: Phases) -> None:
        from teco.benchmark.quality.gate import judge

        for one in self.selection.candidates:
            phases.enter(f"gate of {one.key}")
            self.judged.append(
                judge(
                    one.model, one.runtime, clip=self.options.clip, threads=self.options.threads,
                    progress=phases.advance,
                )
            )  # fmt: skip

    def _record(self, stopped: str, speed: BatchRun, created: datetime, seconds: float) -> Record:
        """What there is now; complete where nothing stopped it."""
        o, monitor = self.options, speed.monitor
        threads = o.threads or usable_cores()
        affinity = conditions.processors(threads)
        return Record(
            command=o.command,
            created=created.isoformat(timespec="seconds"),
            complete=not stopped,
            stopped=stopped,
            seconds=seconds,
            machine=self._machine,
            conditions=Conditions(
                threads=threads, affinity=affinity, pinning=conditions.pinning(threads, affinity),
                governor=self._machine.governor, load_before=monitor.load_before,
                load_after=conditions.load(), busy_share=monitor.busy_share,
                throttled=monitor.throttled, clock=conditions.CLOCK,
                timer_overhead_ns=monitor.timer_overhead_ns,
                timer_resolution_ns=monitor.timer_resolution_ns, block=speed.block, seed=o.seed,
                budget_s=None if o.repetitions else o.budget_s, repetitions=o.repetitions,
            ),
            clip=self._clip,
            rows=tuple(speed.book.rows.values()),
            static=self.selection.static,
            unavailable=self.selection.unavailable,
            interpolations=self._interpolations,
            ceilings=tuple(speed.ceilings),
            noise=tuple(speed.noise),
            ratios=self._ratios(speed),
            gate=tuple(one.as_dict() for one in self.judged),
        )  # fmt: skip

    def _ratios(self, speed: BatchRun) -> tuple[Ratio, ...]:
        """Every measured row against the fastest."""
        timed = {
            key: row.latency.host
            for key, row in speed.book.rows.items()
            if row.latency is not None and not row.measured_as
        }
        if len(timed) < 2:
            return ()
        best = min(timed, key=lambda key: timed[key].summary.p50)
        noise = max((n.share for n in speed.noise), default=0.0)
        found: list[Ratio] = []
        for key, host in timed.items():
            if key != best:
                together = self._batch_of.get(key) == self._batch_of.get(best)
                compare = ratio_within if together else ratio_across
                found.append(compare(key, best, host, timed[best], noise))
        return tuple(found)
