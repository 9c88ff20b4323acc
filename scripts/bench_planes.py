"""What planes at the ports save: `teco upscale` with floats, 8-bit RGB and NV12, in turns.

    python scripts/bench_planes.py [MODEL] [--runtime onnxruntime] [--outputs 4k] [--json FILE]

Two measurements on this machine, which should be idle:

1. The host's own work on a frame, on one core, by its parts: from the decoder's frame to what the
   network takes, and from what it gives to the encoder's frame. No network runs.
2. The whole way, decoder to file, frames a second: the three files in a new order in each round, so
   that what else the machine does meets all of them. Sessions stay open over the rounds. The first
   round is not counted.

A shipped model's name makes the files, with the form that suits the runtime (`teco export` needs
the `train` extra). For engines give `--files RGB.plan,NV12.plan`, of one network.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from teco.core.errors import TecoError
from teco.core.files import as_json
from teco.core.machine import inspect
from teco.core.pixels import to_pixels, to_tensor
from teco.core.planes import packed, planes_of
from teco.inference.upscale import UpscaleOptions, upscale
from teco.model.opening import Model, open_model
from teco.runtimes import Session, SessionOptions, open_session
from teco.video.colour import Colour, Converter
from teco.video.file.encoders import EncoderSettings

OUTPUTS = {"4k": (2160, 3840), "1080p": (1080, 1920)}
COLOUR = Colour("bt709", False, 1, 1)


def clip_of(source: Path, h: int, w: int, frames: int, target: Path) -> None:
    """A clip of so many frames of LR (h, w), as a camera would have it: H.264, 4:2:0."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream("libx264", rate=25, options={"crf": "16", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
        pictures = [f.reformat(width=w, height=h, format="yuv420p") for f in given.decode(video=0)]
        for n in range(frames):
            picture = pictures[n % len(pictures)]
            picture.pts, picture.time_base = n, Fraction(1, 25)
            made.mux(stream.encode(picture))
        made.mux(stream.encode(None))


def host_parts(h: int, w: int, scale: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Path -> part -> what the host does of it to one frame of LR (h, w)."""
    rng = np.random.default_rng(0)
    low = (rng.random((3 * h // 2, w)) * 219 + 16).astype(np.uint8)
    high = (rng.random((3 * scale * h // 2, scale * w)) * 219 + 16).astype(np.uint8)
    decoded = av.VideoFrame.from_ndarray(low, "yuv420p")
    converter = Converter(COLOUR)
    lr = converter.to_rgb(decoded)
    hr = rng.random((1, 3, scale * h, scale * w), np.float32)
    pixels, planes = to_pixels(hr), planes_of(high, "NV12")
    return {
        "floats": {
            "to RGB": lambda: converter.to_rgb(decoded),
            "to floats": lambda: to_tensor(lr),
            "is it finite": lambda: np.isfinite(hr.sum()),
            "to pixels": lambda: to_pixels(hr),
            "to yuv420p": lambda: converter.from_rgb(pixels, "yuv420p"),
        },
        "8-bit RGB": {
            "to RGB": lambda: converter.to_rgb(decoded),
            "copy": lambda: lr.copy(),
            "to yuv420p": lambda: converter.from_rgb(pixels, "yuv420p"),
        },
        "NV12": {
            "to NV12": lambda: converter.to_planes(decoded, "NV12"),
            "put together": lambda: packed(*planes),
            "the encoder's frame": lambda: converter.frame_of(high, "NV12", "nv12"),
        },
    }


def host_times(h: int, w: int, scale: int, rounds: int) -> dict[str, dict[str, float]]:
    """Path -> part -> milliseconds, medians; every part of every path in each round."""
    parts = host_parts(h, w, scale)
    jobs = [(path, part, work) for path, of in parts.items() for part, work in of.items()]
    times: dict[tuple[str, str], list[float]] = {(path, part): [] for path, part, _ in jobs}
    cv2.setNumThreads(1)
    for n in range(rounds + 1):
        random.Random(n).shuffle(jobs)
        for path, part, work in jobs:
            began = time.perf_counter()
            work()
            if n:
                times[path, part].append(1e3 * (time.perf_counter() - began))
    cv2.setNumThreads(-1)
    return {
        path: {part: statistics.median(times[path, part]) for part in of}
        for path, of in parts.items()
    }


class Open:
    """A model with a session that stays open: ``upscale`` closes what it is given."""

    def __init__(self, model: Model, runtime: str, threads: int | None) -> None:
        self.model = model
        self.session = open_session(model, runtime, SessionOptions(threads=threads))
        self.close = self.session.close
        self.session.close = lambda: None  # type: ignore[method-assign]

    def run(
        self, clip: Path, target: Path, encoder: EncoderSettings, frames: int | None = None
    ) -> tuple[float, float]:
        """Frames a second of the whole way, and milliseconds of a step; over so many frames."""

        def session(_clip: object) -> Session:
            return self.session

        done = upscale(
            session, clip, target,
            UpscaleOptions(
                encoder=encoder, overwrite=True, scene_cuts=False, max_frames=frames
            ),
            scale=self.model.variant.scale, planes=self.model.planes,
        )  # fmt: skip
        return done.fps, 1e3 * done.step_seconds / done.frames


def exported(name: str, runtime: str, folder: Path) -> dict[str, Path]:
    """The three files of a shipped model."""
    from teco.exporting.onnx import export_onnx
    from teco.exporting.options import ExportOptions
    from teco_models import zoo
    from teco_models.checkpoint import load_weights

    entry = zoo.find(name)
    if entry is None:
        raise TecoError(f"no shipped model is called {name}", hint="`teco info NAME` knows one")
    weights = load_weights(entry.weights)
    target = "openvino" if runtime.startswith("openvino") else "onnxruntime"
    if "cuda" in runtime or "tensorrt" in runtime or "rtx" in runtime:
        target = "tensorrt"
    return {
        path: export_onnx(weights, folder, ExportOptions(io=io, target=target, name=f"{name}-{io}"))
        for path, io in (("floats", "fp32"), ("8-bit RGB", "uint8"), ("NV12", "nv12"))
    }


def main() -> None:
    try:
        _main()
    except TecoError as error:
        raise SystemExit(f"{error.message}. {error.hint}".rstrip()) from error


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="real-cpu")
    parser.add_argument("--files", help="files of one network instead, separated by commas")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--outputs", default="4k,1080p", help="of 4k and 1080p")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", default="libx264")
    parser.add_argument("--preset", default="ultrafast")
    parser.add_argument("--clip", type=Path, default=Path("examples/city.mp4"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = inspect()
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load}")
    encoder = EncoderSettings(codec=arguments.codec, preset=arguments.preset, crf=20)
    given = {name: str(value) for name, value in vars(arguments).items()}
    record: dict[str, Any] = {"machine": asdict(machine), "arguments": given}
    with tempfile.TemporaryDirectory(prefix="teco-planes-") as name:
        folder = Path(name)
        if arguments.files:
            files = {Path(file).stem: Path(file) for file in arguments.files.split(",")}
        else:
            files = exported(arguments.model, arguments.runtime, folder)
        models = {path: open_model(str(file)) for path, file in files.items()}
        scale = next(iter(models.values())).variant.scale
        for output in arguments.outputs.split(","):
            h, w = (side // scale for side in OUTPUTS[output])
            print(f"\n{output}, from {w}x{h}")
            host = host_times(h, w, scale, 5 * arguments.rounds)
            for path, parts in host.items():
                told = ", ".join(f"{part} {ms:.1f}" for part, ms in parts.items())
                print(f"  {path:10} host {sum(parts.values()):6.1f} ms a frame: {told}")
            clip, made = folder / f"{output}.mp4", folder / f"{output}-made.mkv"
            clip_of(arguments.clip, h, w, arguments.frames, clip)
            opened = {
                path: Open(model, arguments.runtime, arguments.threads)
                for path, model in models.items()
            }
            rates: dict[str, list[float]] = {path: [] for path in opened}
            steps: dict[str, list[float]] = {path: [] for path in opened}
            order = list(opened)
            for n in range(arguments.rounds + 1):
                random.Random(n).shuffle(order)
                for path in order:
                    fps, step = opened[path].run(clip, made, encoder)
                    if n:
                        rates[path].append(fps)
                        steps[path].append(step)
            for path, one in opened.items():
                one.close()
                low, high = min(rates[path]), max(rates[path])
                print(
                    f"  {path:10} {statistics.median(rates[path]):7.2f} fps ({low:.2f} to "
                    f"{high:.2f}), a step {statistics.median(steps[path]):.1f} ms"
                )
            record[output] = {"host_ms": host, "fps": rates, "step_ms": steps}
    if arguments.json:
        arguments.json.write_bytes(as_json(record))


if __name__ == "__main__":
    main()
