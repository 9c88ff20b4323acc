"""Under which conditions a benchmark runs: processors, clocks, other programs, throttling."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

CLOCK = "time.perf_counter_ns"

THREAD_VARIABLES = (
    "OMP_PROC_BIND", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
    "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""Environment variables that change how many threads or which devices there are. OMP_NUM_THREADS is
set for each candidate's process."""


def timer_overhead_ns(readings: int = 2000) -> tuple[float, float]:
    """(median cost of one reading, smallest step seen) of :data:`CLOCK`, ns."""
    clock = time.perf_counter_ns
    costs: list[float] = []
    steps: list[int] = []
    for _ in range(readings):
        began = clock()
        for _ in range(10):
            clock()
        ended = clock()
        costs.append((ended - began) / 11)
        step = clock() - clock()
        if step:
            steps.append(-step)
    return median(costs), float(min(steps, default=0))


def processors(threads: int) -> tuple[int, ...]:
    """Which processors a candidate with so many threads is bound to; () where that cannot be done.

    One of every physical core first, then their siblings; in the order of their numbers.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    usable = sorted(os.sched_getaffinity(0))
    if threads >= len(usable):
        return tuple(usable)

    def rank(cpu: int) -> tuple[int, int]:
        siblings = _numbers(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return sum(1 for other in siblings if other < cpu and other in usable), cpu

    return tuple(sorted(sorted(usable, key=rank)[:threads]))


def pinning(threads: int, affinity: tuple[int, ...]) -> str:
    """How threads were bound, in a sentence."""
    where = (
        f"each candidate's process is bound to processors {', '.join(map(str, affinity))}"
        if affinity
        else "processes are not bound to processors, which this system cannot do"
    )
    found = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    said = f"; the environment says {' '.join(found)}" if found else ""
    return f"{threads} thread{'s' if threads > 1 else ''}, {where}{said}"


def load() -> float:
    """One-minute load average."""
    return psutil.getloadavg()[0]


def throttle_count() -> int | None:
    """How often processors have slowed themselves since the system started; None if not told."""
    found = [
        _number(path)
        for path in Path("/sys/devices/system/cpu").glob(
            "cpu*/thermal_throttle/core_throttle_count"
        )
    ]
    known = [x for x in found if x is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class ProcessorTimes:
    """Processor time of the whole system and of some processes, in seconds.

    Attributes:
        total: of all processors, idle included.
        busy: not idle. Steal, what a hypervisor gave to others, counts as busy.
        own: of this process and the ones named, each by itself.
    """

    total: float
    busy: float
    own: Mapping[int, float]


def processor_times(pids: Iterable[int]) -> ProcessorTimes:
    """Now."""
    times = psutil.cpu_times()._asdict()
    # A guest's time is part of the user's, which counts already.
    total = sum(t for kind, t in times.items() if not kind.startswith("guest"))
    idle = times["idle"] + times.get("iowait", 0.0)
    return ProcessorTimes(
        total, total - idle, {pid: _seconds_of(pid) for pid in (os.getpid(), *pids)}
    )


def busy_share(before: ProcessorTimes, after: ProcessorTimes) -> float | None:
    """What others took of all processors' time in between, 0 to 1; None where none has passed."""
    if after.total <= before.total:
        return None
    # A process that has ended meanwhile tells nothing any more: it must not count as less.
    own = sum(max(0.0, taken - before.own.get(pid, 0.0)) for pid, taken in after.own.items())
    others = (after.busy - before.busy) - own
    return min(1.0, max(0.0, others / (after.total - before.total)))


def _seconds_of(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def _number(path: str | Path) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _numbers(path: str) -> tuple[int, ...]:
    """Of a list as the kernel writes them: ``0-1,4``."""
    try:
        text = Path(path).read_text()
    except OSError:
        return ()
    found: list[int] = []
    for part in re.findall(r"\d+(?:-\d+)?", text):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
