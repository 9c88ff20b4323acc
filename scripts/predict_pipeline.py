"""What a pipeline of stages will make of the times of its stages, and how right that is here.

    python scripts/predict_pipeline.py [--models real-cpu,live,...] [--size 180x320] [--frames 80]
    python scripts/predict_pipeline.py --stages decode=2@nvdec,step=6@gpu,encode=7@nvenc

`teco upscale` decodes, steps and encodes at the same time, in bounded queues. Each stage alone
takes so long for a frame and keeps so many processors busy; together they share the processors. The
simulator runs frames through the stages: a stage begins when it has a frame and the queue behind it
has room, and stages that want more of a resource than there is are slowed down alike. It is what
there is to go by for a GPU that was never seen: a stage may name another resource, of which there
is one (``@nvdec``, ``@gpu``, ``@bus``, ``@nvenc``).

Without ``--stages`` the stages of each model are measured here, each by itself, the pipeline is
predicted from them, then measured, in turns; prints both and the difference. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

CPU = "cpu"
QUEUE = 4
"""Frames that may wait between two stages (teco.video.overlap)."""


@dataclass(frozen=True)
class Stage:
    """A part of a pipeline.

    Attributes:
        name: to show.
        seconds: that a frame takes in it, by itself.
        uses: of its resource while it runs: processors of the CPU, else 1.
        resource: what it shares with others.
    """

    name: str
    seconds: float
    uses: float = 1.0
    resource: str = CPU


@dataclass(frozen=True)
class Prediction:
    """What comes of the stages.

    Attributes:
        fps: frames a second once the queues have settled.
        busy: by name, the share of the time that a stage runs.
        limit: name of the stage that runs most.
    """

    fps: float
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        return max(self.busy, key=lambda name: self.busy[name])


def simulate(
    stages: Sequence[Stage], processors: int, frames: int = 400, queue: int = QUEUE
) -> Prediction:
    """Run frames through the stages.

    Args:
        stages: in order; the first has a frame whenever it wants one.
        processors: of the CPU; of every other resource there is one.
        frames: simulated; the first quarter fills the queues and is not counted.
        queue: frames that may wait before each stage but the first.

    Returns:
        The prediction. Stages that share a resource are slowed by as much as they ask for too much.
    """
    room = {s.resource: (float(processors) if s.resource == CPU else 1.0) for s in stages}
    left: list[float | None] = [None] * len(stages)  # seconds of work, alone; None: idle
    waiting = [0] * (len(stages) + 1)  # frames before each stage
    held = [False] * len(stages)  # done, and the queue behind it is full
    ran = [0.0] * len(stages)
    now, done, counted_from, counted = 0.0, 0, 0.0, 0
    while done < frames:
        for n in reversed(range(len(stages))):
            if held[n] and waiting[n + 1] < queue:
                held[n] = False
                waiting[n + 1] += 1
            if left[n] is None and not held[n] and (n == 0 or waiting[n]):
                waiting[n] -= n > 0
                left[n] = stages[n].seconds
        active = [n for n, work in enumerate(left) if work is not None]
        wanted = {r: sum(stages[n].uses for n in active if stages[n].resource == r) for r in room}
        speed = {r: min(1.0, room[r] / wanted[r]) if wanted[r] else 1.0 for r in room}
        times = {n: (left[n] or 0.0) / speed[stages[n].resource] for n in active}
        step = min(times.values())
        now += step
        for n in active:
            ran[n] += step if counted else 0.0
            rest = (left[n] or 0.0) - step * speed[stages[n].resource]
            left[n] = rest
            if rest > 1e-12:
                continue
            left[n] = None
            if n == len(stages) - 1:
                done += 1
                if done == frames // 4:
                    counted_from, counted = now, done
            elif waiting[n + 1] < queue:
                waiting[n + 1] += 1
            else:
                held[n] = True
    span = now - counted_from
    return Prediction(
        (done - counted) / span, {s.name: ran[n] / span for n, s in enumerate(stages)}
    )


_STAGE = re.compile(r"([\w-]+)=(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?(?:@(\w+))?")


def parse_stages(text: str) -> list[Stage]:
    """ "decode=2x1.5,step=6@gpu" -> stages: milliseconds, processors that it uses, resource.

    Raises:
        ArgumentTypeError: a part is no stage.
    """
    found: list[Stage] = []
    for part in text.split(","):
        match = _STAGE.fullmatch(part.strip())
        if match is None or not float(match[2]):
            raise argparse.ArgumentTypeError(
                f"{part!r} is no stage; expected NAME=MILLISECONDS[xPROCESSORS][@WHERE]"
            )
        uses = float(match[3] or 1)
        found.append(Stage(match[1], float(match[2]) / 1000, uses, match[4] or CPU))
    return found


# --- measured here ------------------------------------------------------------------------------


def timed(work: Iterator[object], name: str, skip: int) -> Stage:
    """A stage from an iterator that does the work of a frame each time it is asked.

    The first ``skip`` frames are not counted; seconds are the mean of the others, since queues even
    out what is slow now and then. Processors are CPU time over wall time.
    """
    for _ in range(skip):
        next(work)
    began, used = time.perf_counter(), time.process_time()
    count = sum(1 for _ in work)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    return Stage(name, wall / count, cpu / wall)


def main() -> None:
    from teco.core.machine import usable_cores
    from teco.model.opening import open_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="real-cpu,live,teco-x4-b1-c64-bp-lk")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--size", default="180x320", help="LR height x width")
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processors", type=int, help="with --stages; of this machine if not said")
    parser.add_argument("--stages", type=parse_stages, help="predict these; nothing is measured")
    options = parser.parse_args()
    if options.stages is not None:
        show(options.stages, simulate(options.stages, options.processors or usable_cores()))
        return
    h, w = (int(x) for x in options.size.split("x"))
    print(
        f"{'model':26}{'decode':>9}{'step':>9}{'encode':>9}{'predicted':>11}{'measured':>10}  off"
    )
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder) / "in.mp4", h, w, options.frames)
        for name in options.models.split(","):
            model = open_model(name)
            rounds = [measure(model, options.runtime, clip) for _ in range(options.rounds)]
            stages = [
                Stage(s[0].name, median(x.seconds for x in s), median(x.uses for x in s))
                for s in zip(*(r[0] for r in rounds), strict=True)
            ]
            found = median(r[1] for r in rounds)
            predicted = simulate(stages, usable_cores())
            times = "".join(f"{1000 * s.seconds:6.1f} ms" for s in stages)
            off = predicted.fps / found - 1
            print(f"{name:26}{times}{predicted.fps:11.2f}{found:10.2f}  {off:+.0%}", flush=True)


def show(stages: Sequence[Stage], found: Prediction) -> None:
    for stage in stages:
        print(
            f"{stage.name:12}{1000 * stage.seconds:8.2f} ms  {stage.uses:.2f} of {stage.resource}, "
            f"runs {found.busy[stage.name]:.0%} of the time"
        )
    print(f"{found.fps:.1f} frames a second; {found.limit} limits it")


def make_clip(path: Path, h: int, w: int, frames: int) -> Path:
    """The shipped clip in another size, to and fro."""
    import cv2

    from teco.benchmark import SHIPPED_CLIP
    from teco.video.clips import Frame, open_sink, open_source

    with open_source(SHIPPED_CLIP) as source:
        shown = [cv2.resize(f.pixels, (w, h), interpolation=cv2.INTER_AREA) for f in source]
        shown = [*shown, *shown[::-1]]
        with open_sink(path, source=source, width=w, height=h, rate=25) as sink:
            for n in range(frames):
                sink.write(Frame(shown[n % len(shown)], n, n, 1 / source.rate, 1))
            sink.commit()
    return path


def measure(model: object, runtime: str, clip: Path) -> tuple[list[Stage], float]:
    """The stages of a model by themselves, and the frames a second of `teco upscale` with it."""
    from teco.benchmark.measure.end_to_end import run
    from teco.inference.stream import Stream
    from teco.model.opening import Model
    from teco.runtimes import SessionOptions, open_session
    from teco.video.clips import open_sink, open_source

    assert isinstance(model, Model)
    skip = 8
    session = open_session(model, runtime, SessionOptions())
    try:
        with open_source(clip) as source:
            decode = timed(iter(source), "decode", skip)
        with open_source(clip) as source:
            frames = list(source)
            stream = Stream(session, cache=0)
            step = timed((stream.push(f.pixels) for f in frames), "step", skip)
            enlarged = [frames[n].with_pixels(stream.push(frames[n].pixels)) for n in range(12)]
            scale = model.variant.scale
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.mp4"
                size = {"width": scale * source.width, "height": scale * source.height}
                with open_sink(out, source=source, **size) as sink:
                    # Written to the end: an encoder that looks ahead works after its last frame.
                    def encoded() -> Iterator[None]:
                        for n, frame in enumerate(frames):
                            sink.write(frame.with_pixels(enlarged[n % len(enlarged)].pixels))
                            if n == len(frames) - 1:
                                sink.commit()
                            yield

                    encode = timed(encoded(), "encode", 0)
        with tempfile.TemporaryDirectory() as folder:
            whole = run(session, scale, clip, Path(folder), len(frames))
    finally:
        session.close()
    return [decode, step, encode], whole["frames"] / whole["seconds"]


if __name__ == "__main__":
    main()
