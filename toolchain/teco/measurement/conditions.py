"""Under which conditions a benchmark runs: processors, clocks, other programs, throttling."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from teco.core.machine import nvidia_smi

CLOCK = "time.perf_counter_ns"

THREAD_VARIABLES = (
    "OMP_PROC_BIND", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
    "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""Environment variables that change how many threads or which devices there are. OMP_NUM_THREADS is
set for each candidate's process."""

THROTTLE_BITS = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's clock event reasons that are no choice of anybody's: slowdown by the hardware, thermal by
software and by hardware, power brake (nvml.h, nvmlClocksEventReason...)."""


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


def load() -> float | None:
    """One-minute load average; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


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


def gpus_throttled() -> bool:
    """Whether an NVIDIA GPU holds its clocks down now, for heat or power supply."""
    for line in nvidia_smi("clocks_throttle_reasons.active"):
        try:
            if int(line, 16) & THROTTLE_BITS:
                return True
        except ValueError:
            continue
    return False


@dataclass(frozen=True)
class Ticks:
    """Processor time of the whole system and of some processes, in the kernel's ticks.

    Attributes:
        total: of all processors, idle included.
        busy: not idle. Steal, what a hypervisor gave to others, counts as busy.
        own: of this process and the ones named, each by itself.
    """

    total: int
    busy: int
    own: Mapping[int, int]


def ticks(pids: Iterable[int]) -> Ticks | None:
    """Now; None where /proc does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        values = [int(x) for x in fields]
    except (OSError, ValueError, IndexError):
        return None
    idle = values[3] + values[4]
    own = {pid: _ticks_of(pid) for pid in (os.getpid(), *pids)}
    return Ticks(sum(values), sum(values) - idle, own)


def busy_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """What others took of all processors' time in between, 0 to 1."""
    if before is None or after is None or after.total <= before.total:
        return None
    # A process that has ended meanwhile tells nothing any more: it must not count as less.
    own = sum(max(0, ticks - before.own.get(pid, 0)) for pid, ticks in after.own.items())
    others = (after.busy - before.busy) - own
    return min(1.0, max(0.0, others / (after.total - before.total)))


def _ticks_of(pid: int) -> int:
    try:
        # The name of a program may hold spaces and parentheses: what follows the last one counts.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


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
