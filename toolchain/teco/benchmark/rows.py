"""Rows of the record, made of what candidates have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from teco.benchmark.measure.roofline import library_of, roofline
from teco.benchmark.record.record import Ceiling, Kernel, Roofline, Row
from teco.measurement.statistics import samples_of
from teco.runtimes.base import package_version

if TYPE_CHECKING:
    from teco.benchmark.measure.candidates import BenchCandidate
    from teco.benchmark.measure.worker_pool import Runner


def bare_row(one: BenchCandidate) -> Row:
    """What is known before anything is measured."""
    return Row(
        key=one.key, artifact=one.artifact, runtime=one.runtime.name,
        runtime_version=package_version(one.runtime) or "", details="", device=one.device,
        precision=one.precision, exact=one.runtime.exact, size=f"{one.size[0]}x{one.size[1]}",
    )  # fmt: skip


def fill_speed(row: Row, runner: Runner, ceilings: Sequence[Ceiling]) -> Row:
    """A row with what its runner has measured so far."""
    blocks = [b for b in runner.lane.blocks if b.host]
    kernel: Kernel | None = None
    if blocks and runner.lane.warm_up is not None:
        device = [b.device for b in blocks if b.device]
        kernel = Kernel(
            host=samples_of([b.host for b in blocks]),
            device=samples_of(device) if device else None,
            load_ms=runner.load_ms,
            first_ms=runner.first_ms,
            warm_up=runner.lane.warm_up,
        )
    return replace(
        row, details=runner.details, kernel=kernel, memory=runner.memory,
        pipeline=runner.pipeline, playback=runner.playback,
        roofline=None if kernel is None else _roofline(row, runner, kernel, ceilings),
    )  # fmt: skip


def _roofline(
    row: Row, runner: Runner, kernel: Kernel, ceilings: Sequence[Ceiling]
) -> Roofline | None:
    """Beside the ceiling of its own library where there is one, else of any on its device."""
    library = library_of(runner.contender.runtime)
    here = [(i, c) for i, c in enumerate(ceilings) if c.device == row.device]
    gemms = [(i, c) for i, c in here if c.kind == "gemm" and c.precision == row.precision]
    gemms = [(i, c) for i, c in gemms if c.library == library] or gemms
    copies = [(i, c) for i, c in here if c.kind == "copy"]
    if not gemms or not copies:
        return None
    # By the GPU's own events the frame's way to it and the picture's way back do not count.
    timed = kernel.device or kernel.host
    gemm = max(gemms, key=lambda item: item[1].value)[0]
    copy = max(copies, key=lambda item: item[1].value)[0]
    return roofline(runner.work, ceilings, gemm, copy, timed.summary.p50)
