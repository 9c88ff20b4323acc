"""Does a model keep up with playback, and with the peer of its class?

    python scripts/bench_live.py [MODEL] [--runtime openvino-bf16] [--json FILE]

Two measurements on this machine, which should be idle:

1. One step of the model and one of RLSP 7-48 (Fuoli, Gu, Timofte 2019: six 3x3 convolutions of 48
   channels over three frames, a latent state and the previous output; luma only), random weights,
   in turns on the same runtime at 180x320.
2. The whole way for a player: a clip (as shipped 320x180) decoded, enlarged fourfold, handed out as
   yuv420p, with the time between pictures. Nothing is encoded, because a player does not.

Exits with 1 where the model's median step is longer than the peer's, or its mean rate of pictures
below 24 a second. The 99th percentile between pictures is shown and not judged: a player's queue
evens it out, and on a shared machine it is the neighbours'.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco.core.errors import TecoError
from teco.core.files import as_json
from teco.core.machine import inspect, usable_cores
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find

H, W = 180, 320
RNG = np.random.default_rng(0)
FLOOR = 24.0
"""Pictures a second."""
SKIPPED = 5
"""Pictures of each run that are not timed: the first ones wait for memory and clocks."""


class Rlsp(nn.Module):
    """RLSP 7-F: the step with its recurrent tensors as arguments and results."""

    def __init__(self, f: int = 48) -> None:
        super().__init__()
        widths = [3 * 3 + 16 + f, *[f] * 6]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in pairwise(widths))
        self.state = nn.Conv2d(f, f, 3, 1, 1)
        self.out = nn.Conv2d(f, 16, 3, 1, 1)

    def forward(
        self, frames: Tensor, luma: Tensor, state: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 9, h, w), (1, 1, h, w), (1, F, h, w), (1, 16, h, w)."""
        x = torch.cat((frames, state, previous), dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        out = self.out(x) + luma
        return F.pixel_shuffle(out, 4), F.relu(self.state(x)), out


def export_peer(path: Path) -> None:
    """RLSP 7-48 with random weights as static ONNX, opset 18."""
    step = Rlsp().eval().requires_grad_(False)
    shapes = ((9, H, W), (1, H, W), (48, H, W), (16, H, W))
    program = torch.onnx.export(
        step, tuple(torch.rand(1, *s) for s in shapes), dynamo=True, opset_version=18,
        external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path))


class Peer:
    """The peer on OpenVINO or ONNX Runtime; its state goes round as the runtime's own does."""

    def __init__(self, path: Path, runtime: str, threads: int) -> None:
        self.inputs = [RNG.random((1, c, H, W), dtype=np.float32) for c in (9, 1, 48, 16)]
        if runtime.startswith("openvino"):
            import openvino as ov

            precision = "bf16" if runtime.endswith("bf16") else "f32"
            settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
                        "INFERENCE_NUM_THREADS": threads}  # fmt: skip
            compiled = ov.Core().compile_model(str(path), "CPU", settings)
            requests = [compiled.create_infer_request() for _ in range(2)]
            for request in requests:
                for i, value in enumerate(self.inputs):
                    request.set_input_tensor(i, ov.Tensor(value))
            self.turn = 0

            def step() -> None:
                one, other = requests[self.turn], requests[1 - self.turn]
                one.set_input_tensor(2, other.get_output_tensor(1))
                one.set_input_tensor(3, other.get_output_tensor(2))
                one.infer()
                self.turn = 1 - self.turn

            requests[1].infer()
        else:
            import onnxruntime as ort

            settings = ort.SessionOptions()
            settings.intra_op_num_threads = threads
            session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            names = [x.name for x in session.get_inputs()]

            def step() -> None:
                _, state, previous = session.run(None, dict(zip(names, self.inputs, strict=True)))
                self.inputs[2:] = [state, previous]

        self.step = step


def steps(model: str, runtime: str, repetitions: int) -> dict[str, list[float]]:
    """Milliseconds of each step of the model and of the peer, in turns."""
    threads = usable_cores()
    session = find(runtime).open(open_model(model), SessionOptions(threads=threads))
    frame = RNG.random((1, 3, H, W), dtype=np.float32)
    times: dict[str, list[float]] = {model: [], "RLSP 7-48": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rlsp.onnx"
        export_peer(path)
        peer = Peer(path, runtime, threads)
        state: Any = None
        for n in range(-10, repetitions):
            began = time.perf_counter()
            _, state = session.step(frame, state)
            between = time.perf_counter()
            peer.step()
            ended = time.perf_counter()
            if n >= 0:
                times[model].append(1e3 * (between - began))
                times["RLSP 7-48"].append(1e3 * (ended - between))
    session.close()
    return times


def playback(model: str, runtime: str, clip: Path, repeats: int) -> list[float]:
    """Milliseconds between the pictures that `teco upscale` hands out, first ones left out.

    Raises:
        TecoError: it ended with an error, or with too few pictures to time.
    """
    gaps: list[float] = []
    for _ in range(repeats):
        command = [
            sys.executable, "-m", "teco", "upscale", str(clip), "-", "--pix-fmt", "yuv420p",
            "--model", model, "--runtime", runtime,
        ]  # fmt: skip
        # Into a file, because a pipe that nobody reads would fill up and block.
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process:
                assert process.stdout is not None
                header = process.stdout.readline()
                times = picture_times(process.stdout, picture_bytes(header)) if header else []
                code = process.wait()
            said.seek(0)
            told = said.read().decode(errors="replace").strip()
        if code:
            raise TecoError(f"teco upscale ended with {code}: {told}")
        if len(times) < SKIPPED + 2:
            raise TecoError(
                f"{clip} gave {len(times)} pictures, expected {SKIPPED + 2} or more",
                hint="give a longer --clip",
            )
        gaps += list(1e3 * np.diff(times[SKIPPED:]))
    return gaps


def picture_bytes(header: bytes) -> int:
    """Bytes of a yuv420p picture of the stream that a y4m header begins.

    Raises:
        TecoError: it is no header.
    """
    fields = {field[:1]: field[1:] for field in header.split()[1:]}
    width, height = fields.get(b"W", b""), fields.get(b"H", b"")
    if not (header.startswith(b"YUV4MPEG2 ") and width.isdigit() and height.isdigit()):
        raise TecoError(f"teco upscale began with {header[:60]!r}, expected a y4m header")
    w, h = int(width), int(height)
    return w * h + 2 * ((w + 1) // 2) * ((h + 1) // 2)


def picture_times(stream: IO[bytes], size: int) -> list[float]:
    """Seconds at which each picture of ``size`` bytes after its line ``FRAME`` was there whole.

    Raises:
        TecoError: the stream is not made of such pictures.
    """
    times: list[float] = []
    while line := stream.readline():
        if not line.startswith(b"FRAME") or len(stream.read(size)) < size:
            raise TecoError(f"picture {len(times)} of teco upscale is not {size} bytes after FRAME")
        times.append(time.perf_counter())
    return times


def main() -> None:
    try:
        _main()
    except TecoError as error:
        raise SystemExit(f"{error.message}. {error.hint}".rstrip()) from error


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="real-cpu")
    parser.add_argument("--runtime", default="openvino-bf16")
    parser.add_argument("--clip", type=Path, default=Path("examples/city.mp4"))
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = inspect()
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load}")
    times = steps(arguments.model, arguments.runtime, arguments.repetitions)
    for name, values in times.items():
        p50, p99 = np.percentile(values, (50, 99))
        print(f"{name:28} one step: median {p50:.1f} ms, p99 {p99:.1f}")
    gaps = playback(arguments.model, arguments.runtime, arguments.clip, 3)
    rate = 1e3 / float(np.mean(gaps))
    print(
        f"playback without encoding: {rate:.1f} pictures a second; between two: median "
        f"{np.median(gaps):.1f} ms, p99 {np.percentile(gaps, 99):.1f} ({len(gaps)} pictures)"
    )
    if arguments.json:
        record = {"machine": machine, "times": times, "gaps": gaps, "runtime": arguments.runtime}
        arguments.json.write_bytes(as_json({**record, "machine": asdict(machine)}))
    slower = np.median(times[arguments.model]) > np.median(times["RLSP 7-48"])
    if slower or rate < FLOOR:
        print(f"too slow: {'slower than the peer' if slower else f'below {FLOOR:g} a second'}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
