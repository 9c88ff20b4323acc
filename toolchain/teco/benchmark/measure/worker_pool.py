"""The worker processes of one batch of candidates, and what is asked of them.

A candidate that fails says why once and takes no further part; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil

from teco.benchmark.measure.candidates import BenchCandidate
from teco.benchmark.measure.end_to_end import ENCODER
from teco.benchmark.measure.lr_clip import LrClip
from teco.benchmark.measure.process import WorkerError, WorkerProcess
from teco.benchmark.measure.roofline import Work, library_of, work_of
from teco.benchmark.record.record import Ceiling, EndToEnd, Memory, Playback
from teco.core.log import Progress
from teco.core.machine import usable_cores
from teco.measurement import conditions, memory
from teco.measurement.interleaving import Block, TimedCandidate, warm_up
from teco.measurement.records import NoiseFloor
from teco.measurement.statistics import noise_floor, samples_of
from teco_calibration.records import from_data

DUPLICATE = "duplicate"
"""Name of the process that runs a candidate a second time, for the noise floor."""

ROOM = 0.7
"""Share of the free memory that the candidates of a batch may take."""

PROCESS_BYTES = 200 << 20
"""Memory of an interpreter with a runtime's library: 60 MB with ONNX Runtime or OpenVINO, more with
torch."""

GROWTH_FRAMES = 400
SMALL = (16, 24)
"""LR (h, w) at which growth is measured where steps of the real size would take too long. Memory
that a runtime does not free after a step shows at any size."""

FEWEST_FRAMES = 3
"""Of a clip that is enlarged end to end: two gaps between frames."""

PLAYED_S = 0.6
"""Seconds of a clip that are played, at least."""


@dataclass(frozen=True)
class Failure:
    """What could not be measured of a row, and why."""

    key: str
    why: str


def batches(candidates: Sequence[BenchCandidate], budget: int | None) -> list[list[BenchCandidate]]:
    """Groups of candidates that fit into memory together, by an estimate of each.

    Args:
        candidates: all.
        budget: bytes; None for a share of what is free.
    """
    if budget is None:
        budget = int(ROOM * psutil.virtual_memory().available)
    groups: list[list[BenchCandidate]] = [[]]
    taken = 0
    for one in candidates:
        own = work_of(one.model, one.precision, one.size)
        # Runtimes hold up to twice what is alive: `teco estimate` says how well that is measured.
        need = PROCESS_BYTES + own.weights + 2 * own.activations + own.bytes
        if groups[-1] and taken + need > budget:
            groups.append([])
            taken = 0
        groups[-1].append(one)
        taken += need
    return [group for group in groups if group]


@dataclass
class Runner:
    """One candidate in its process.

    Attributes:
        candidate: what it is.
        process: where it runs.
        timed: its warm-up and blocks.
        work: of a step.
        details: what the session says it runs on.
        memory, end_to_end, playback: as far as measured.
        failed: it takes no further part.
    """

    candidate: BenchCandidate
    process: WorkerProcess
    timed: TimedCandidate
    work: Work
    details: str
    memory: Memory | None = None
    end_to_end: EndToEnd | None = None
    playback: Playback | None = None
    failed: bool = False

    @property
    def key(self) -> str:
        return self.candidate.key

    def read_memory(self) -> Failure | None:
        """After opening and the timed steps, before anything else runs in its process."""
        found = self._ask("memory")
        if isinstance(found, Failure):
            return found
        self.memory = Memory(
            **found, growth_per_1000=None, growth_steps=0, growth_size="",
            weights=self.work.weights, activations=self.work.activations,
            note="" if found["peak"] else "this system does not tell a process's memory",
        )  # fmt: skip
        return None

    def ceilings(self, known: Sequence[Ceiling], threads: int) -> list[Ceiling]:
        """What its library reaches, as far as that is not known already."""
        one = self.candidate

        def kind(c: Ceiling) -> tuple[str, ...]:
            # A copy is measured once for each device, a product once for each library as well.
            return (c.kind, c.device, c.precision, c.library if c.kind == "gemm" else "")

        have = {kind(c) for c in known}
        if ("gemm", one.device, one.precision, library_of(one.runtime)) in have:
            return []
        found = self._ask("ceilings", device=one.device, precision=one.precision, threads=threads)
        if isinstance(found, Failure):
            return []
        ceilings = [from_data(Ceiling, c) for c in found["ceilings"]]
        return [c for c in ceilings if kind(c) not in have]

    def run_clip(self, clip: LrClip, folder: Path, part_ms: float) -> Iterator[Failure]:
        """Enlarge it end to end, play it, and measure growth: each for about ``part_ms``.

        Yields:
            What failed.
        """
        for failure in (
            self._end_to_end(clip, folder, part_ms),
            self._playback(clip, part_ms),
            self._growth(part_ms),
        ):
            if failure is not None:
                yield failure

    def _end_to_end(self, clip: LrClip, folder: Path, part_ms: float) -> Failure | None:
        frames = max(FEWEST_FRAMES, min(60, int(part_ms / self.timed.step_ms)))
        found = self._ask("end_to_end", clip=str(clip.path), folder=str(folder), frames=frames)
        if isinstance(found, Failure):
            return found
        if not found["gaps"]:
            return Failure(self.key, "the clip has too few frames to time end to end")
        self.end_to_end = EndToEnd(
            frames=found["frames"], seconds=found["seconds"],
            fps=found["frames"] / found["seconds"], gaps=samples_of([found["gaps"]]),
            step_ms=found["step_ms"], encoder=ENCODER, source=clip.source,
        )  # fmt: skip
        return None

    def _playback(self, clip: LrClip, part_ms: float) -> Failure | None:
        seconds = min(3.0, max(PLAYED_S, part_ms / 1000))
        found = self._ask("playback", clip=str(clip.path), frames=max(2, int(seconds * clip.rate)))
        if isinstance(found, Failure):
            return found
        late_ms: list[float] = found.pop("late_ms")
        self.playback = Playback(**found, late_ms=tuple(late_ms))
        return None

    def _growth(self, part_ms: float) -> Failure | None:
        size = self.candidate.size
        static = self.candidate.model.static_size or self.candidate.model.engine_manifest
        if not static and self.timed.step_ms * memory.FEWEST_FOR_GROWTH > part_ms:
            size = SMALL
        elif self.timed.step_ms * memory.FEWEST_FOR_GROWTH > max(part_ms, 20_000):
            return Failure(self.key, "growth of memory takes more steps than there was time for")
        found = self._ask("growth", size=list(size), frames=GROWTH_FRAMES, budget_ms=part_ms)
        if isinstance(found, Failure) or self.memory is None:
            return found if isinstance(found, Failure) else None
        private: list[int] = found["private"]
        self.memory = replace(
            self.memory, growth_per_1000=memory.growth_per_1000(private),
            growth_steps=len(private) - len(private) // 2, growth_size=f"{size[0]}x{size[1]}",
        )  # fmt: skip
        return None

    def _ask(self, do: str, **fields: Any) -> dict[str, Any] | Failure:
        if self.failed:
            return Failure(self.key, f"{do}: it failed before")
        try:
            return self.process.ask(do, **fields)
        except WorkerError as error:
            return Failure(self.key, f"{do}: {error.message}")


@dataclass
class _GuardedStepper:
    """A stepper whose failure leaves its blocks empty and does not end the others."""

    process: WorkerProcess
    fail: Callable[[str], None]
    failed: bool = False

    def steps(self, count: int) -> Block:
        if self.failed:
            return Block(())
        try:
            return self.process.steps(count)
        except WorkerError as error:
            self.failed = True
            self.fail(error.message)
            return Block(())


@dataclass
class WorkerPool:
    """All worker processes of a batch; ends them when left.

    Attributes:
        threads: of each.
        runners: candidates that are open.
        failures: of those whose process ended before they were opened or while they were timed.
    """

    threads: int
    runners: list[Runner] = field(default_factory=list[Runner])
    failures: list[Failure] = field(default_factory=list[Failure])
    _processes: dict[str, WorkerProcess] = field(default_factory=dict[str, WorkerProcess])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with suppress(OSError):  # whatever one process makes difficulties with, end the others
                process.close()

    @property
    def pids(self) -> list[int]:
        return [p.pid for p in self._processes.values()]

    def start(self, candidates: Sequence[BenchCandidate], progress: Progress) -> None:
        """Start a process for each, as many at a time as there are processors: nothing is timed."""
        waiting: list[BenchCandidate] = []
        for n, one in enumerate(candidates):
            if len(waiting) == usable_cores():
                self._prepared(waiting.pop(0))
                progress(n - len(waiting), len(candidates))
            self._start(one.key, one)
            waiting.append(one)
        for n, one in enumerate(waiting):
            self._prepared(one)
            progress(len(candidates) - len(waiting) + n + 1, len(candidates))

    def _start(self, name: str, one: BenchCandidate) -> None:
        process = self._processes[name] = WorkerProcess(one.key, self.threads)
        process.send(
            "prepare", runtime=one.runtime.name, threads=self.threads,
            affinity=list(conditions.processors(self.threads)),
        )  # fmt: skip

    def _prepared(self, one: BenchCandidate) -> None:
        try:
            self._processes[one.key].receive()
        except WorkerError as error:
            self.failures.append(Failure(one.key, error.message))
            self._processes.pop(one.key).close()

    def open(self, one: BenchCandidate, name: str = "") -> Failure | None:
        """Open a candidate and warm it up; why not, if not."""
        name = name or one.key
        process = self._processes.get(name)
        if process is None:
            return next((failure for failure in self.failures if failure.key == one.key), None)
        try:
            found = process.ask(
                "open", spec=one.spec, runtime=one.runtime.name, size=list(one.size),
                threads=self.threads,
            )  # fmt: skip
            guarded = _GuardedStepper(process, lambda why: self._failed(name, one.key, why))
            timed = TimedCandidate(name, guarded, found["load_ms"], found["first_ms"])
            timed.warm_up = warm_up(process)
        except WorkerError as error:
            why = f"{error.message}; {error.hint}" if error.hint else error.message
            self._processes.pop(name).close()
            return Failure(one.key, why)
        work = work_of(one.model, one.precision, one.size)
        self.runners.append(Runner(one, process, timed, work, found["details"]))
        return None

    def _failed(self, name: str, key: str, why: str) -> None:
        self.failures.append(Failure(key, why))
        for runner in self.runners:
            if runner.timed.key == name:
                runner.failed = True

    def duplicate(self, runner: Runner) -> Runner | None:
        """The same candidate in a second process, for the noise floor; None where it fails."""
        one = runner.candidate
        try:
            self._start(DUPLICATE, one)
            self._processes[DUPLICATE].receive()
        except WorkerError:
            return None
        if self.open(one, DUPLICATE) is not None:
            return None
        duplicate = self.runners.pop()
        # Its lead-in must be the same, whatever its own warm-up came to.
        duplicate.timed.warm_up = runner.timed.warm_up
        return duplicate

    def dismiss(self, runner: Runner) -> None:
        """End the process of a duplicate."""
        self._processes.pop(runner.timed.key).close()

    def noise(self, duplicate: Runner) -> NoiseFloor | None:
        """The duplicate against its original; None where one of both was not timed."""
        first = next(r for r in self.runners if r.key == duplicate.key)
        if not (first.timed.timed and duplicate.timed.timed):
            return None
        return noise_floor(first.key, first.timed.measured().host, duplicate.timed.measured().host)
