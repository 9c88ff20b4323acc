"""Everything that needs an NVIDIA GPU, in one run: ``python scripts/gpu_check.py``.

Builds engines for this GPU, runs the tests marked ``gpu``, then drives each GPU runtime over the
same recurrent frames and prints one table: how close it comes to float32 on the CPU, how long a
step takes by CUDA's events and by the host's clock, and what it takes of the GPU's memory.

Where nothing can run, it says what each runtime lacks and exits with 3. As a whole it has
not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np

from teco.core import gpu
from teco.core.errors import MACHINE, TecoError
from teco.exporting.engines.rtx import RtxOptions, build_rtx
from teco.exporting.engines.tensorrt import TensorRtOptions, build_tensorrt
from teco.measurement.statistics import percentile
from teco.model.opening import DEFAULT_MODEL, Model, open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.nvidia import device
from teco.verification.temporal_gate import moving_frames

PARITY_FRAMES = 30
WARM_UP = 10
ONNX_RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx")
RUNTIMES = ("pytorch-cuda", *ONNX_RUNTIMES, "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        runtime, precision: what ran.
        max_abs: largest difference from float32 on the CPU over the frames, pictures in [0, 1].
        min_psnr: PSNR in dB of the worst frame, against the same; infinite when all are equal.
        host_ms: of every step, frame up and picture down included.
        event_ms: of every step, the network alone; empty where the runtime does not tell.
        memory: bytes of the GPU that were taken, None where that cannot be asked.
    """

    runtime: str
    precision: str
    max_abs: float
    min_psnr: float
    host_ms: tuple[float, ...]
    event_ms: tuple[float, ...]
    memory: int | None

    def cells(self) -> tuple[str, ...]:
        def times(samples: tuple[float, ...]) -> tuple[str, str]:
            if not samples:
                return "-", "-"
            return f"{median(samples):.2f}", f"{percentile(samples, 0.99):.2f}"

        taken = "-" if self.memory is None else f"{self.memory / 2**20:.0f}"
        parity = (f"{self.max_abs:.1e}", f"{self.min_psnr:.1f}")
        return (
            self.runtime, self.precision, *parity, *times(self.event_ms), *times(self.host_ms),
            taken,
        )  # fmt: skip


HEADER = (
    "runtime", "precision", "max diff", "min PSNR dB", "event p50 ms", "p99", "host p50 ms", "p99",
    "GPU MiB",
)  # fmt: skip


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns of text, the first two to the left and the numbers to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def measure(
    name: str, model: Model, precision: str, clip: list[Any], expected: list[Any], steps: int
) -> Row:
    """Parity, then times, of one session."""
    gpu = device.open_device() if device.installed() else None
    before = gpu.memory()[0] if gpu else 0
    session: Any = find(name).open(model, SessionOptions())
    try:
        state, largest, worst = None, 0.0, float("inf")
        for lr, truth in zip(clip, expected, strict=True):
            found, state = session.step(lr, state)
            gap = np.abs(found.astype(np.float64) - truth)
            largest = max(largest, float(gap.max()))
            if error := float(np.mean(gap**2)):
                worst = min(worst, -10 * np.log10(error))
        memory = before - gpu.memory()[0] if gpu else None
        host: list[float] = []
        events: list[float] = []
        for n in range(WARM_UP + steps):
            began = perf_counter()
            _, state = session.step(clip[n % len(clip)], state)
            passed = 1000 * (perf_counter() - began)
            if n >= WARM_UP:
                host.append(passed)
                if (inside := getattr(session, "last_step_ms", None)) is not None:
                    events.append(inside)
    finally:
        session.close()
        if gpu:
            gpu.close()
    return Row(name, precision, largest, worst, tuple(host), tuple(events), memory)


def models(
    name: str, onnx: dict[str, Model], folder: Path, say: Callable[[str], None]
) -> dict[str, Model]:
    """Precision -> what a runtime runs; engines are built here."""
    if name == "pytorch-cuda":
        return {"fp32": onnx["fp32"]}
    if name in ONNX_RUNTIMES:
        return {p: m for p, m in onnx.items() if find(name).why_not(m) is None}
    built: dict[str, Model] = {}
    for precision, source in onnx.items():
        say(f"building {precision} for {name}")
        try:
            if name == "tensorrt":
                path = build_tensorrt(source, folder, TensorRtOptions())
            else:
                sm = (gpu.find()[0].compute_capability,)
                path = build_rtx(source, folder, RtxOptions(sm=sm))
        except TecoError as error:
            say(f"not built: {error.message}")
            continue
        built[precision] = open_model(str(path))
    return built


def export_all(
    spec: str, size: tuple[int, int], folder: Path, say: Callable[[str], None]
) -> dict[str, Model]:
    """Precision -> ONNX file of one size, in every precision that can be exported."""
    from teco.exporting.onnx import export_onnx
    from teco.exporting.options import ExportOptions, Precision
    from teco_models.checkpoint import load_weights

    weights = open_model(spec).weights
    if weights is None:
        raise TecoError(f"{spec} has no weights to export from", hint="give a name or weights")
    made: dict[str, Model] = {}
    for precision in get_args(Precision):
        say(f"exporting {precision}")
        options = ExportOptions(size=size, precision=precision, target="tensorrt")
        try:
            path = export_onnx(load_weights(weights), folder, options)
        except TecoError as error:
            if precision == "fp32":
                raise  # the reference of all others
            say(f"not exported: {error.message}")
            continue
        made[precision] = replace(open_model(str(path)), weights=weights)
    return made


def main() -> int:
    """Exit code: 0 all ran, 1 a test or a runtime failed, 3 nothing can run here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="shipped name or weights file")
    parser.add_argument("--size", default="180x320", help="LR size HEIGHTxWIDTH")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of each")
    parser.add_argument("--no-tests", action="store_true", help="only the table")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    lacking = {name: find(name).why_unavailable() for name in RUNTIMES}
    for name, reason in lacking.items():
        print(f"{name:21} {'can run' if reason is None else reason}", flush=True)
    if all(lacking.values()):
        return MACHINE
    h, w = (int(x) for x in options.size.split("x"))
    failed = False
    if not options.no_tests:
        root = Path(__file__).resolve().parents[1]
        tests = ["-m", "pytest", "-m", "gpu", "-q", "-rs", "-n0", str(root / "tests")]
        command = [sys.executable, *tests]
        failed = subprocess.run(command, check=False, cwd=root).returncode != 0
    rows = [HEADER]
    with tempfile.TemporaryDirectory(prefix="teco-gpu-") as place:
        onnx = export_all(options.model, (h, w), Path(place), say)
        clip = moving_frames(h, w, PARITY_FRAMES)
        reference = find("onnxruntime").open(onnx["fp32"], SessionOptions())
        expected: list[Any] = []
        state = None
        for lr in clip:
            picture, state = reference.step(lr, state)
            expected.append(picture.copy())
        reference.close()
        for name in (n for n, reason in lacking.items() if reason is None):
            for precision, model in models(name, onnx, Path(place), say).items():
                say(f"measuring {precision} on {name}")
                try:
                    row = measure(name, model, precision, clip, expected, options.steps)
                except TecoError as error:
                    say(f"failed: {name} {precision}: {error.message}")
                    failed = True
                    continue
                rows.append(row.cells())
    print(f"\n{', '.join(map(str, gpu.find()))}; {options.model} at {options.size}, "
          f"{options.steps} steps each, one after the other; the GPU's memory is what all programs "
          "took meanwhile")  # fmt: skip
    print(table(rows))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TecoError as caught:
        print(f"gpu_check: {caught.message}", file=sys.stderr)
        if caught.hint:
            print(f"  hint: {caught.hint}", file=sys.stderr)
        sys.exit(caught.exit_code)
