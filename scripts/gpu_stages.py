"""One stage of ``scripts/gpu_check.py``, in a process of its own: ``gpu_stages.py JOB.json``.

What is known is written into the job's ``part`` as soon as it is, beside and renamed, so that a
stage which hangs or crashes leaves what it had found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from teco.core import gpu
from teco.core.errors import TecoError
from teco.core.files import as_json, sha256_of, write_beside
from teco.model.manifest import METADATA_KEY, Manifest, manifest_path
from teco.model.opening import Model, open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import moving_frames

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "examples" / "city.mp4"
PARITY_FRAMES = 12
WARM_UP = 10
FEWEST_FRAMES = 12
"""Of a pipeline: below that, filling its queues is most of it."""
MOST_FRAMES = 240


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a stage is told.

    Attributes:
        kind: one of :data:`KINDS`.
        model: shipped name or weights file.
        folder: of files that stages hand on.
        part: file for what is found.
        seconds: that the stage may take; it ends by itself where it can.
        runtime, precision, io: of the candidate; empty where the stage has none.
        size: LR (h, w).
        steps: timed, at most.
        sm: compute capability of the GPU, 0 without one.
        runtimes: for the bench.
    """

    kind: str
    model: str
    folder: str
    part: str
    seconds: float
    runtime: str = ""
    precision: str = "fp32"
    io: str = "fp32"
    size: tuple[int, int] = (270, 480)
    steps: int = 200
    sm: int = 0
    runtimes: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Name of the ONNX file, without its suffix."""
        h, w = self.size
        return f"{Path(self.model).stem}-{h}x{w}-{self.precision}-{self.io}io"

    def file(self, name: str) -> Path:
        return Path(self.folder) / name

    @property
    def engine(self) -> Path:
        return self.file(f"{self.stem}-{self.runtime}.plan")


Tell = Callable[..., None]
"""Adds what was found to the part file."""


def export(job: Job, tell: Tell) -> None:
    """The ONNX file of one size, form and precision, and what it costs by count.

    Not by ``teco export``, which verifies on the CPU for minutes: the next stages compare it with
    float32 where it runs. A file that is there already is kept.
    """
    path = job.file(f"{job.stem}.onnx")
    if not path.exists():
        graph, manifest = traced(job)
        data = graph.SerializeToString()
        write_beside(path, data)
        manifest = replace(manifest, sha256=sha256_of(path))
        write_beside(manifest_path(path), manifest.to_json().encode())
    tell(file=path.name, bytes=path.stat().st_size)


def traced(job: Job) -> tuple[Any, Manifest]:
    """The graph for engines and its manifest, neither of them verified."""
    from teco.exporting.options import ExportOptions
    from teco.exporting.trace import DeployForm, forget_origins
    from teco.model.onnx_types import tensor_types
    from teco.model.weights_digest import weights_digest
    from teco_models.checkpoint import load_weights

    loaded = load_weights(weights_of(job.model))
    options: Any = ExportOptions(
        size=job.size, precision=job.precision, io=job.io, target="tensorrt"
    )  # type: ignore[arg-type]
    options.check(loaded.variant)
    form = DeployForm.of(loaded, options)
    graph = form.graph(job.size)
    forget_origins(graph)
    manifest = Manifest(
        variant=loaded.variant.name, precision_asked=job.precision,
        precision_found=tensor_types(graph), size=options.size_text, contract=form.contract,
        rewrites=form.rewrites, parity=None, weights_sha256=weights_digest(loaded), versions={},
        target="tensorrt",
    )  # fmt: skip
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.to_json()
    return graph, manifest


def weights_of(model: str) -> Path:
    found = open_model(model).weights
    if found is None:
        raise TecoError(f"{model} has no weights to export from", hint="give a name or weights")
    return found


def count(job: Job, tell: Tell) -> None:
    """What a step moves and computes, and frames per second that each known GPU allows."""
    path = job.file(f"{job.stem}-count.json")
    if not path.exists():
        import count_traffic as traffic

        h, w = job.size
        row = traffic.row_of(job.model, f"{h}x{w}", job.precision, 0)  # type: ignore[arg-type]
        allowed = {card: fps / traffic.SHARE for card, fps in row.fps_fused.items()}
        write_beside(path, as_json({"gflop": row.gflop, "gb": row.gb_fused, "allowed": allowed}))
    tell(count=json.loads(path.read_text()))


def reference(job: Job, tell: Tell) -> None:
    """The pictures of the float32 file by ONNX Runtime's CPU, which the others are held against."""
    path = job.file(f"{job.stem}-reference.npy")
    if path.exists():
        return
    h, w = job.size
    model = open_model(str(job.file(f"{job.stem}.onnx")))
    session = find("onnxruntime").open(model, SessionOptions())
    made: list[Any] = []
    state = None
    began = time.monotonic()
    try:
        for lr in moving_frames(h, w, PARITY_FRAMES):
            picture, state = session.step(lr, state)
            made.append(picture[0].copy())
            # Fewer frames are better than none; the state is what must not be missing.
            if len(made) >= 3 and time.monotonic() - began > job.seconds / 2:
                break
    finally:
        session.close()
    part = path.with_suffix(".part.npy")
    np.save(part, np.stack(made))
    part.rename(path)
    tell(frames=len(made))


def build(job: Job, tell: Tell) -> None:
    """An engine for the GPU that is here."""
    if not job.engine.exists():
        from teco.exporting.engines.rtx import RtxOptions, build_rtx
        from teco.exporting.engines.tensorrt import TensorRtOptions, build_tensorrt

        source = open_model(str(job.file(f"{job.stem}.onnx")))
        name, folder = job.engine.stem, Path(job.folder)
        if job.runtime == "tensorrt":
            build_tensorrt(source, folder, TensorRtOptions(name=name))
        else:
            build_rtx(source, folder, RtxOptions(name=name, sm=(job.sm,)))
    tell(file=job.engine.name, bytes=job.engine.stat().st_size)


def model_of(job: Job) -> Model:
    """What the candidate opens."""
    suffixes = find(job.runtime).suffixes
    if job.engine.suffix in suffixes:
        return open_model(str(job.engine))
    if ".onnx" in suffixes:
        return open_model(str(job.file(f"{job.stem}.onnx")))
    return open_model(str(weights_of(job.model)))


def step(job: Job, tell: Tell) -> None:
    """Parity with float32 on the CPU, memory, then times of single steps."""
    h, w = job.size
    model, free = model_of(job), gpu.free_bytes()
    began = time.monotonic()
    session: Any = find(job.runtime).open(model, SessionOptions())
    try:
        tell(details=session.details, open_s=time.monotonic() - began)
        truth = np.load(job.file(f"{replace(job, precision='fp32').stem}-reference.npy"),
                        mmap_mode="r")  # fmt: skip
        clip = moving_frames(h, w, PARITY_FRAMES)
        state, largest, worst = None, 0.0, float("inf")
        for lr, expected in zip(clip, truth, strict=False):
            found, state = session.step(lr, state)
            gap = np.abs(found[0] - expected)
            largest = max(largest, float(gap.max()))
            if error := float(np.mean(gap.astype(np.float64) ** 2)):
                worst = min(worst, float(-10 * np.log10(error)))
        tell(
            parity={"frames": len(truth), "max_abs": largest, "min_psnr": worst},
            memory_bytes=memory_taken(job.runtime, free),
        )
        host: list[float] = []
        kernel: list[float] = []
        for n in range(WARM_UP + job.steps):
            past = time.perf_counter()
            _, state = session.step(clip[n % len(clip)], state)
            if n >= WARM_UP:
                host.append(1000 * (time.perf_counter() - past))
                if (inside := getattr(session, "last_step_ms", None)) is not None:
                    kernel.append(inside)
            if len(host) >= 10 and time.monotonic() - began > 0.8 * job.seconds:
                break
        tell(host_ms=host, kernel_ms=kernel)
    finally:
        session.close()


def memory_taken(runtime: str, free: int | None) -> int | None:
    """Bytes of the GPU that this process holds, or else that went since; None on a CPU."""
    if find(runtime).device == "cpu":
        return None
    held, now = gpu.process_bytes(os.getpid()), gpu.free_bytes()
    if held is None and free is not None and now is not None:
        return free - now
    return held


def pipeline(job: Job, tell: Tell) -> None:
    """Decoder to encoder and file, as ``teco upscale`` does it, with the session kept open."""
    from bench_planes import Open, clip_of

    from teco.video.file.encoders import EncoderSettings

    h, w = job.size
    clip, made = job.file(f"clip-{h}x{w}.mp4"), job.file(f"made-{os.getpid()}.mkv")
    if not clip.exists():
        part = clip.with_name(f"part-{os.getpid()}-{clip.name}")
        clip_of(CLIP, h, w, MOST_FRAMES, part)
        part.rename(clip)
    codec = "h264_nvenc" if find(job.runtime).device == "cuda" and encodes("h264_nvenc") else ""
    encoder = EncoderSettings(codec=codec or "libx264", preset="ultrafast", crf=20)
    began = time.monotonic()
    opened = Open(model_of(job), job.runtime, None)
    try:
        fps, _ = opened.run(clip, made, encoder, FEWEST_FRAMES)  # warms up, and says how fast it is
        left = 0.7 * job.seconds - (time.monotonic() - began)
        frames = int(min(MOST_FRAMES, max(FEWEST_FRAMES, fps * left)))
        fps, step_ms = opened.run(clip, made, encoder, frames)
        tell(pipeline={"fps": fps, "step_ms": step_ms, "frames": frames, "codec": encoder.codec,
                       "io": opened.model.manifest.contract.io
                       if opened.model.manifest else "fp32"})  # fmt: skip
    finally:
        opened.close()
        made.unlink(missing_ok=True)


def encodes(codec: str) -> bool:
    """Whether this encoder takes a frame here; that libav knows it says nothing of the GPU (an H200
    has no encoder)."""
    import av

    try:
        context: Any = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.framerate = 25
        context.encode(av.VideoFrame(256, 256, "yuv420p"))
    except Exception:  # PyAV's errors have many bases
        return False
    return True


def bench(job: Job, tell: Tell) -> None:
    """``teco bench`` of the shipped model: the record that ``teco catalogue check`` takes."""
    h, w = job.size
    path = job.file("bench.json")
    path.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "teco", "bench", job.model, "--runtime", ",".join(job.runtimes),
        "--size", f"{h}x{w}", "--budget", str(max(10, int(0.6 * job.seconds))),
        "--json", path.name,  # in its folder: a record that names a path goes into no catalogue
    ]  # fmt: skip
    done = subprocess.run(command, check=False, cwd=job.folder)
    if done.returncode:
        raise TecoError(f"teco bench ended with {done.returncode}")


def tests(job: Job, tell: Tell) -> None:
    """The tests with the mark ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-n0", str(ROOT / "tests")]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    tell(said=done.stdout[-4000:])
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["no word"]
        raise TecoError(f"pytest ended with {done.returncode}: {last[0]}")


KINDS: dict[str, Callable[[Job, Tell], None]] = {
    "export": export, "count": count, "reference": reference, "build": build, "step": step,
    "pipeline": pipeline, "bench": bench, "tests": tests,
}  # fmt: skip


def main() -> int:
    data = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**{**data, "size": tuple(data["size"]), "runtimes": tuple(data["runtimes"])})
    found: dict[str, Any] = {}

    def tell(**facts: Any) -> None:
        found.update(facts)
        write_beside(Path(job.part), as_json(found))

    try:
        KINDS[job.kind](job, tell)
    except TecoError as error:
        tell(error=error.message, hint=error.hint)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
