"""Rows of the record, which fill while the candidates are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from teco.benchmark.measure.roofline import library_of, roofline
from teco.benchmark.progress import BenchProgress
from teco.benchmark.record.record import Ceiling, Roofline, Row
from teco.measurement.records import Latency
from teco.runtimes.base import package_version

if TYPE_CHECKING:
    from teco.benchmark.measure.candidates import BenchCandidate
    from teco.benchmark.measure.worker_pool import Failure, Runner


class RowBook:
    """Every candidate's row as far as it is known.

    Args:
        candidates: that take part.
        progress: shown each row that changes.

    Attributes:
        rows: by key, in the order of the candidates.
    """

    def __init__(self, candidates: Sequence[BenchCandidate], progress: BenchProgress) -> None:
        self.rows = {one.key: _bare_row(one) for one in candidates}
        self._progress = progress

    @property
    def timed(self) -> bool:
        """Whether any row has a latency."""
        return any(row.latency is not None for row in self.rows.values())

    def change(self, key: str, **fields: Any) -> None:
        """Give a row these fields."""
        self.rows[key] = replace(self.rows[key], **fields)
        self._progress.row(self.rows[key])

    def note(self, failures: Iterable[Failure | None]) -> None:
        """Say in its row what could not be measured."""
        for failure in failures:
            if failure is not None and failure.why not in self.rows[failure.key].notes:
                self.change(failure.key, notes=(*self.rows[failure.key].notes, failure.why))

    def update(self, runner: Runner, ceilings: Sequence[Ceiling]) -> None:
        """Take over what a runner has measured so far."""
        latency = runner.timed.measured() if runner.timed.timed else None
        row = self.rows[runner.key]
        self.change(
            runner.key, details=runner.details, latency=latency, memory=runner.memory,
            end_to_end=runner.end_to_end, playback=runner.playback,
            roofline=None if latency is None else _roofline(row, runner, latency, ceilings),
        )  # fmt: skip

    def share_speed(self, candidates: Sequence[BenchCandidate]) -> None:
        """Give rows of the same graph the speed that was measured for one of them."""
        for one in candidates:
            if one.same_as:
                other = self.rows[one.same_as]
                names = ("details", "latency", "end_to_end", "playback", "memory", "roofline",
                         "notes")  # fmt: skip
                shared = {name: getattr(other, name) for name in names}
                self.change(one.key, measured_as=one.same_as, **shared)


def _bare_row(one: BenchCandidate) -> Row:
    """What is known before anything is measured."""
    return Row(
        key=one.key, artifact=one.artifact, runtime=one.runtime.name,
        runtime_version=package_version(one.runtime) or "", details="", device=one.device,
        precision=one.precision, exact=one.runtime.exact, size=f"{one.size[0]}x{one.size[1]}",
    )  # fmt: skip


def _roofline(
    row: Row, runner: Runner, latency: Latency, ceilings: Sequence[Ceiling]
) -> Roofline | None:
    """Beside the ceiling of its own library where there is one, else of any on its device."""
    library = library_of(runner.candidate.runtime)
    here = [(i, c) for i, c in enumerate(ceilings) if c.device == row.device]
    gemms = [(i, c) for i, c in here if c.kind == "gemm" and c.precision == row.precision]
    gemms = [(i, c) for i, c in gemms if c.library == library] or gemms
    copies = [(i, c) for i, c in here if c.kind == "copy"]
    if not gemms or not copies:
        return None
    # Device time leaves out the copies of the frames to the GPU and back.
    timed = latency.device or latency.host
    gemm = max(gemms, key=lambda item: item[1].value)[0]
    copy = max(copies, key=lambda item: item[1].value)[0]
    return roofline(runner.work, ceilings, gemm, copy, timed.summary.p50)
