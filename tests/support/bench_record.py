"""A record of a benchmark that never ran, and pictures to go with it, for tests of reports."""

from __future__ import annotations

import random

import numpy as np

from teco.benchmark.quality.measure import Gallery
from teco.benchmark.record.quality import ClipRecord, ColdStart, DistanceRecord, Quality, Trend
from teco.benchmark.record.record import (
    Artifact,
    Ceiling,
    Conditions,
    EndToEnd,
    Memory,
    Playback,
    Record,
    Roofline,
    Row,
    Static,
    Unavailable,
)
from teco.core import machine
from teco.measurement.records import Latency, NoiseFloor, TimingWarning, WarmUp
from teco.measurement.statistics import ratio_within, samples_of

MODELS = ("teco-x4-b3-c64-bp-lk", "<b>live</b>")
"""The second must come out as text."""
RUNTIMES = ("onnxruntime", "openvino-bf16")
FRAMES = 12
MACS = 2_000_000_000


def artifact(name: str) -> Artifact:
    return Artifact(
        name=name, file=f"{name}.onnx", kind="onnx", sha256="0" * 64, bytes=8 << 20, variant=name,
        precision="fp32", precision_found={}, proof="float32", size="dynamic", io="fp32",
        weights_sha256="",
    )  # fmt: skip


def quality(method: str, runtime: str, base: float, *, cold: bool) -> Quality:
    rng = random.Random(method + runtime)
    values = {
        "psnr": tuple(base + rng.random() for _ in range(FRAMES - 4)),
        "lpips": tuple(0.3 + rng.random() / 10 for _ in range(FRAMES - 4)),
        "tof": tuple(0.1 + rng.random() / 10 for _ in range(FRAMES - 5)),
    }
    curve = ColdStart(
        psnr=tuple(base - 1 / (n + 1) for n in range(8)), settled_psnr=(base,) * 8,
        lpips=tuple(0.3 + 0.1 / (n + 1) for n in range(8)), settled_lpips=(0.3,) * 8,
        starts=(12, 20), size="45x80", pre_roll=4, tolerance=0.1,
        sentence="run 4 frames first",
    )  # fmt: skip
    return Quality(
        method=method, measured_on=runtime, seen=FRAMES, first=2, frames=FRAMES - 4,
        window=(8, 8, 64, 96), values=values,
        means={k: sum(v) / len(v) for k, v in values.items()},
        drift=Trend(of="psnr", per_100=0.01, at_least=-0.02, frames=60, matched=True),
        cold_start=curve if cold else None,
    )  # fmt: skip


def record() -> Record:
    rng = random.Random(0)
    rows: list[Row] = []
    for m, model in enumerate(MODELS):
        for r, runtime in enumerate(RUNTIMES):
            base = 40.0 / (1 + 3 * m) / (1 + r)
            blocks = [[base * (1 + 0.1 * rng.random()) for _ in range(4)] for _ in range(8)]
            host = samples_of(blocks)
            rows.append(
                Row(
                    key=f"{model} on {runtime}", artifact=artifact(model), runtime=runtime,
                    runtime_version="1", details="", device="cpu",
                    precision="bf16" if r else "fp32", exact=not r, size="24x28",
                    latency=Latency(
                        host=host, device=None, load_ms=120.0, first_ms=2 * base,
                        warm_up=WarmUp(steps=3, stable=True, ms=(base,) * 3),
                    ),
                    end_to_end=EndToEnd(
                        frames=FRAMES, seconds=FRAMES * base / 900, fps=900 / base, gaps=host,
                        step_ms=base, encoder="libx264", source="a clip",
                    ),
                    playback=Playback(
                        rate=25.0, frames=FRAMES, shown=FRAMES - m, late=m, dropped=0,
                        late_ms=(0.0,) * FRAMES, buffer=4,
                    ),
                    memory=Memory(
                        peak=300 << 20, private=200 << 20, base=100 << 20, steps=6, device=None,
                        growth_per_1000=1 << 20, growth_steps=40, growth_size="24x28",
                        weights=4 << 20, activations=50 << 20,
                    ),
                    roofline=Roofline(
                        macs=MACS, bytes=10**8, tensor_bytes=2 * 10**8, gemm=0, copy=1,
                        compute_ms=10.0, memory_ms=5.0, bound="compute",
                        share=10 / host.summary.p50,
                    ),
                    quality=quality(model, runtime, 28 + m - r / 10, cold=True),
                    distance=DistanceRecord(
                        reference="pytorch", frames=8, size="24x28", max_steps=1 + 20 * r,
                        within_one=0.99999, psnr=(None, 50.0), min_psnr=50.0 if r else None,
                    ),
                )
            )  # fmt: skip
    fastest = min(rows, key=lambda row: row.latency.host.summary.p50)
    return Record(
        command="teco bench --html report.html </script>",
        created="2026-11-26T03:00:00+00:00", complete=True, stopped="", seconds=60.0,
        machine=machine.inspect(),
        conditions=Conditions(
            threads=2, affinity=(0, 1), pinning="2 threads on processors 0 and 1", governor=None,
            load_before=0.1, load_after=0.2, busy_share=0.01, throttled=None,
            clock="perf_counter", timer_overhead_ns=50.0, timer_resolution_ns=1.0, block=4,
            seed=0, budget_s=None, repetitions=32,
        ),
        clip=ClipRecord(
            name="clip.mp4", sha256="", truth="", width=112, height=96, frames=FRAMES, rate=25.0,
            degradation="bd", shrink=1.0,
        ),
        rows=tuple(rows),
        static=(
            Static(
                artifact=artifact("engine"), size="180x320", macs=MACS, weights=4 << 20,
                activations=50 << 20, why="it was built for sm_89, and no such GPU is here",
            ),
        ),
        unavailable=(Unavailable(runtime="tensorrt", model="", why="no NVIDIA GPU was found"),),
        interpolations=(
            quality("bicubic", "", 27.0, cold=False), quality("bilinear", "", 26.5, cold=False),
        ),
        ceilings=(
            Ceiling(kind="gemm", library="onnxruntime", device="cpu", precision="fp32",
                    value=2e11, ms=(1.0,), method="1024 cubed"),
            Ceiling(kind="copy", library="numpy", device="cpu", precision="", value=2e10,
                    ms=(1.0,), method="256 MiB"),
        ),
        noise=(NoiseFloor(row=rows[0].key, ratio=1.001, low=0.99, high=1.01, share=0.01),),
        ratios=tuple(
            ratio_within(row.key, fastest.key, row.latency.host, fastest.latency.host, 0.01)
            for row in rows if row is not fastest
        ),
        warnings=(TimingWarning(code="busy", row="", text="the machine was busy"),),
    )  # fmt: skip


def gallery() -> tuple[Gallery, dict[str, str]]:
    """Flat frames, each method in a grey of its own, and which row shows which."""
    found = Gallery(frames=(3, 9))
    shows = {f"{m} on {r}": f"{m} on {r}" for m in MODELS for r in RUNTIMES}
    for n, method in enumerate(["truth", "bicubic", "bilinear", *shows]):
        grey = np.full((96, 112, 3), 30 * (n + 1), np.uint8)
        for frame in found.frames:
            found.offer(method, frame, grey + np.uint8(frame))
    return found, shows
