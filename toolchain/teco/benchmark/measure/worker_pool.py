"""The candidates of one heat, each in its own process, and what is asked of them.

A candidate that fails says so once and takes no further part; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from teco.benchmark.measure.candidates import BenchCandidate
from teco.benchmark.measure.pipeline import ENCODER
from teco.benchmark.measure.roofline import Work, library_of, work_of
from teco.benchmark.record.record import Ceiling, Memory, Pipeline, Playback
from teco.core.machine import usable_cores
from teco.measurement import conditions, memory
from teco.measurement.process import WorkerError, WorkerProcess, close_all
from teco.measurement.records import NoiseFloor
from teco.measurement.schedule import (
    Block,
    Candidate,
    RoundPlan,
    interleave,
    plan_budget,
    plan_repetitions,
    warm_up,
)
from teco.measurement.statistics import noise_floor, samples_of
from teco_calibration.records import from_data

DUPLICATE = "the same again"

ROOM = 0.7
"""Of the memory that is free, what candidates may take at once."""

PROCESS_BYTES = 200 << 20
"""Of an interpreter with a runtime's library: 60 MB with ONNX Runtime or OpenVINO, more with
torch."""

GROWTH_FRAMES = 400
SMALL = (16, 24)
"""LR (h, w) at which growth is measured where steps of the real size would take too long. What a
runtime forgets to free in each step shows at any size."""

FEWEST_FRAMES = 3
"""Of a pipeline: two gaps."""

PLAYED_S = 0.6
"""Of a clip at least, for playback."""


@dataclass(frozen=True)
class Failure:
    """What could not be measured of a row, and why."""

    key: str
    why: str


def batches(contenders: Sequence[BenchCandidate], budget: int | None) -> list[list[BenchCandidate]]:
    """Groups that fit into memory together, by what the estimate says of each.

    Args:
        contenders: all.
        budget: bytes; None for a share of what is free.
    """
    if budget is None:
        free = _available_bytes()
        budget = None if free is None else int(ROOM * free)
    groups: list[list[BenchCandidate]] = [[]]
    taken = 0
    for one in contenders:
        own = work_of(one.model, one.precision, one.size)
        # Runtimes hold up to twice what is alive: `teco estimate` tells how far that is measured.
        need = PROCESS_BYTES + own.weights + 2 * own.activations + own.bytes
        if groups[-1] and budget is not None and taken + need > budget:
            groups.append([])
            taken = 0
        groups[-1].append(one)
        taken += need
    return [group for group in groups if group]


def _available_bytes() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
        line = next(x for x in text.splitlines() if x.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


@dataclass
class Runner:
    """One candidate in its process.

    Attributes:
        contender: what it is.
        process: where it runs.
        threads: that it has.
        details: what the session says it runs on.
        load_ms, first_ms: of opening it.
        lane: its warm-up and blocks.
        memory, pipeline, playback: as far as measured.
        work: of a step.
        failed: it takes no further part.
    """

    contender: BenchCandidate
    process: WorkerProcess
    threads: int
    lane: Candidate
    work: Work
    details: str = ""
    load_ms: float = 0.0
    first_ms: float = 0.0
    memory: Memory | None = None
    pipeline: Pipeline | None = None
    playback: Playback | None = None
    failed: bool = False

    @property
    def key(self) -> str:
        return self.contender.key

    @property
    def step_ms(self) -> float:
        return self.lane.step_ms

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
        """What its library reaches, unless that is known already."""
        one = self.contender
        library = library_of(one.runtime)
        if any(
            c.kind == "gemm" and c.library == library
            and (c.device, c.precision) == (one.device, one.precision)
            for c in known
        ):  # fmt: skip
            return []
        found = self._ask("ceilings", device=one.device, precision=one.precision, threads=threads)
        if isinstance(found, Failure):
            return []
        return [from_data(Ceiling, c) for c in found["ceilings"]]

    def whole_ways(
        self, clip: Path, source: str, rate: Fraction, folder: Path, part_ms: float
    ) -> list[Failure]:
        """Pipeline, playback and growth, each for about ``part_ms``."""
        lacks = [
            self._pipeline(clip, source, folder, part_ms),
            self._playback(clip, rate, part_ms),
            self._growth(part_ms),
        ]
        return [lack for lack in lacks if lack is not None]

    def _pipeline(self, clip: Path, source: str, folder: Path, part_ms: float) -> Failure | None:
        frames = max(FEWEST_FRAMES, min(60, int(part_ms / self.step_ms)))
        found = self._ask("pipeline", clip=str(clip), folder=str(folder), frames=frames)
        if isinstance(found, Failure):
            return found
        if not found["gaps"]:
            return Failure(self.key, "the pipeline's clip has too few frames to time")
        self.pipeline = Pipeline(
            frames=found["frames"], seconds=found["seconds"],
            fps=found["frames"] / found["seconds"], gaps=samples_of([found["gaps"]]),
            step_ms=found["step_ms"], encoder=ENCODER, source=source,
        )  # fmt: skip
        return None

    def _playback(self, clip: Path, rate: Fraction, part_ms: float) -> Failure | None:
        seconds = min(3.0, max(PLAYED_S, part_ms / 1000))
        found = self._ask("playback", clip=str(clip), frames=max(2, int(seconds * rate)))
        if isinstance(found, Failure):
            return found
        late_ms: list[float] = found.pop("late_ms")
        self.playback = Playback(**found, late_ms=tuple(late_ms))
        return None

    def _growth(self, part_ms: float) -> Failure | None:
        size = self.contender.size
        static = self.contender.model.static_size or self.contender.model.engine_manifest
        if not static and self.step_ms * memory.FEWEST_FOR_GROWTH > part_ms:
            size = SMALL
        elif self.step_ms * memory.FEWEST_FOR_GROWTH > max(part_ms, 20_000):
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
    """A stepper whose failure empties its blocks and does not end the others."""

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
    """All processes of a heat; ends them when left.

    Attributes:
        threads: of each.
        runners: that are open.
        lacks: of those that failed while they were timed.
    """

    threads: int
    runners: list[Runner] = field(default_factory=list[Runner])
    lacks: list[Failure] = field(default_factory=list[Failure])
    _processes: dict[str, WorkerProcess] = field(default_factory=dict[str, WorkerProcess])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close_all(list(self._processes.values()))

    @property
    def pids(self) -> list[int]:
        return [p.pid for p in self._processes.values()]

    def start(
        self, contenders: Sequence[BenchCandidate], report: Callable[[int, int], None]
    ) -> None:
        """Start a process for each, as many at a time as there are processors: nothing is timed."""
        waiting: list[BenchCandidate] = []
        done = 0
        for one in (*contenders, None):
            while waiting and (one is None or len(waiting) >= usable_cores()):
                other = waiting.pop(0)
                self._prepared(other)
                done += 1
                report(done, len(contenders))
            if one is not None:
                self._start(one.key, one)
                waiting.append(one)

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
            self.lacks.append(Failure(one.key, error.message))
            self._processes.pop(one.key).close()

    def open(self, one: BenchCandidate, name: str = "") -> Failure | None:
        """Open a candidate and warm it up; why not, if not."""
        name = name or one.key
        process = self._processes.get(name)
        if process is None:
            return next((lack for lack in self.lacks if lack.key == one.key), None)
        try:
            found = process.ask(
                "open", spec=one.spec, runtime=one.runtime.name, size=list(one.size),
                threads=self.threads,
            )  # fmt: skip
            guarded = _GuardedStepper(process, lambda why: self._failed(name, one.key, why))
            lane = Candidate(name, guarded)
            lane.warm_up = warm_up(process)
        except WorkerError as error:
            why = f"{error.message}; {error.hint}" if error.hint else error.message
            self._processes.pop(name).close()
            return Failure(one.key, why)
        work = work_of(one.model, one.precision, one.size)
        self.runners.append(
            Runner(one, process, self.threads, lane, work, found["details"],
                   found["load_ms"], found["first_ms"])
        )  # fmt: skip
        return None

    def _failed(self, name: str, key: str, why: str) -> None:
        self.lacks.append(Failure(key, why))
        for runner in self.runners:
            if runner.lane.key == name:
                runner.failed = True

    def twin(self, runner: Runner) -> Runner | None:
        """The same candidate in a second process, for the noise floor; None where it fails."""
        one = runner.contender
        try:
            self._start(DUPLICATE, one)
            self._processes[DUPLICATE].receive()
        except WorkerError:
            return None
        if self.open(one, DUPLICATE) is not None:
            return None
        twin = self.runners.pop()
        # Timed in the same manner, whatever its own warm-up came to.
        twin.lane.warm_up = runner.lane.warm_up
        return twin

    def dismiss(self, runner: Runner) -> None:
        """End the process of a twin."""
        self._processes.pop(runner.lane.key).close()

    def interleave(
        self,
        lanes: Sequence[Candidate],
        *,
        repetitions: int | None,
        budget_ms: float,
        seed: int,
        after_round: Callable[[int], None],
        report: Callable[[int, int], None],
    ) -> int:
        """Time them in turns; returns the longest block."""
        plan: RoundPlan = (
            plan_repetitions(len(lanes), repetitions)
            if repetitions
            else plan_budget([lane.step_ms for lane in lanes], budget_ms)
        )
        interleave(lanes, plan, seed=seed, after_round=after_round, report=report)
        return plan.block

    def noise(self, twin: Runner) -> NoiseFloor | None:
        """The twin against its original; None where one of both was not timed."""
        first = next(r for r in self.runners if r.key == twin.key)
        blocks = [[b.host for b in r.lane.blocks if b.host] for r in (first, twin)]
        if not all(blocks):
            return None
        return noise_floor(first.key, samples_of(blocks[0]), samples_of(blocks[1]))
