"""What else the machine does while steps are timed: other programs, heat, clocks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from teco.core import gpu, machine
from teco.measurement import conditions
from teco.measurement.records import TimingWarning
from teco.measurement.warnings import machine_warnings


class DisturbanceMonitor:
    """Begins to look when it is made; its figures are those of the time since.

    Attributes:
        load_before: one-minute load average when it was made; None where the system tells none.
        timer_overhead_ns: cost of reading the clock.
        timer_resolution_ns: the clock's smallest step.
    """

    def __init__(self) -> None:
        self.timer_overhead_ns, self.timer_resolution_ns = conditions.timer_overhead_ns()
        self.load_before = conditions.load()
        self._throttled_before = conditions.throttle_count()
        self._gpu_throttled = 0
        self._shares: list[float] = []

    @contextmanager
    def watching(self, pids: Sequence[int] = ()) -> Generator[None]:
        """While steps are timed, by this process and by ``pids``."""
        before = conditions.processor_times(pids)
        try:
            yield
        finally:
            share = conditions.busy_share(before, conditions.processor_times(pids))
            self._shares += [] if share is None else [share]

    def look_at_gpu(self) -> None:
        """Count it if an NVIDIA GPU holds its clocks down now."""
        self._gpu_throttled += gpu.throttled()

    @property
    def busy_share(self) -> float | None:
        """The most that other programs took of the processors' time while steps were timed."""
        return max(self._shares, default=None)

    @property
    def throttled(self) -> int | None:
        """Times that processors or a GPU slowed themselves; None where the system does not tell."""
        before, after = self._throttled_before, conditions.throttle_count()
        slowed = None if before is None or after is None else after - before
        return (slowed or 0) + self._gpu_throttled if self._gpu_throttled else slowed

    def warnings(self) -> tuple[TimingWarning, ...]:
        """What of this makes figures less sure."""
        return machine_warnings(
            load_before=self.load_before, cores=machine.usable_cores(),
            busy_share=self.busy_share, throttled=self.throttled,
            governor=machine.inspect().governor,
        )  # fmt: skip
