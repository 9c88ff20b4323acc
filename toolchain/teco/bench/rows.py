"""Rows of the record, made of what candidates have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from teco.bench.record import Ceiling, Kernel, Roofline, Row
from teco.bench.roofline import library_of, roofline
from teco.bench.statistics import samples_of
from teco.machine import Machine

if TYPE_CHECKING:
    from teco.bench.crew import Runner
    from teco.bench.lineup import Contender

_PACKAGES = {
    "pytorch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
}


def version_of(runtime: str, machine: Machine) -> str:
    """Version of the package that a runtime is; "" where the machine has none."""
    names = _PACKAGES.get(runtime) or _PACKAGES[runtime.split("-")[0]]
    return next((machine.packages[n] for n in names if n in machine.packages), "")


def bare_row(one: Contender, machine: Machine) -> Row:
    """What is known before anything is measured."""
    return Row(
        key=one.key, artifact=one.artifact, runtime=one.runtime.name,
        runtime_version=version_of(one.runtime.name, machine), details="", device=one.device,
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
    library = library_of(row.runtime, row.device)
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
