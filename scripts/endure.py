"""Play a long synthetic stream and see that nothing is lost, repeated, moved or leaked.

    python scripts/endure.py                                     # 20 minutes at once, varying rate
    python scripts/endure.py --real-time --rate 24 --model live --runtime openvino-bf16

Every frame bears its number as black and white blocks. It goes the whole way of ``teco play``:
stream, deadline, queue, NUT, pipe. The player at the other end reads number and timestamp of each
picture. In real time it takes each picture when it is due, as a screen would, and frames that would
be late are bicubic; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from teco.core.files import as_json
from teco.core.machine import inspect
from teco.inference.recurrence import StreamStats
from teco.measurement.memory import resident_bytes
from teco.model.opening import open_model
from teco.players.playback.play import PlayOptions, play_source
from teco.players.playback.programs import Program
from teco.runtimes import Session, SessionOptions, open_session
from teco.video.colour import Colour
from teco.video.frames import Closing, Frame, Media

BITS = 20
BLOCK = 8
TICKS = (20, 20, 25, 60, 35)
"""Durations of a stream of varying rate, in 1/600 s: 18.75 frames a second in the mean."""
CLOCK = 600

READER = """#!{python}
import json, sys, time
from fractions import Fraction
import av
import numpy as np
found = {{"frames": 0, "lost": 0, "repeated": 0, "moved": 0}}
durations, real_time, last, began = {durations!r}, {real_time!r}, -1, None
def moment(n):
    turns, rest = divmod(n, len(durations))
    return Fraction(turns * sum(durations) + sum(durations[:rest]), {clock})
with av.open("pipe:0", format="nut") as container:
    for frame in container.decode(video=0):
        began = time.monotonic() if began is None else began
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)
        across = [4 * {block} * b + 2 * {block} for b in range({bits})]
        number = sum(1 << b for b, x in enumerate(across) if luma[2 * {block}, x] > 128)
        found["frames"] += 1
        found["lost"] += max(0, number - last - 1)
        found["repeated"] += number <= last
        found["moved"] += frame.pts * frame.time_base != moment(number)
        last = number
        if real_time:
            time.sleep(max(0.0, began + float(moment(number)) - time.monotonic()))
open({out!r}, "w").write(json.dumps(found))
"""


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        frames: that reached the player.
        expected: that went in.
        lost, repeated: numbers that were left out or came again.
        moved: timestamps that are not the original's.
        growth_mib: resident memory, last quarter's mean less that of the second one.
        late_share: frames that were not the network's in time.
        stats: the stream's own count.
        seconds: it took.
    """

    frames: int
    expected: int
    lost: int
    repeated: int
    moved: int
    growth_mib: float
    late_share: float
    stats: StreamStats
    seconds: float


class Numbered(Closing):
    """A :class:`teco.video.frames.FrameSource` of frames that bear their numbers."""

    def __init__(self, count: int, durations: tuple[int, ...], h: int, w: int) -> None:
        self.count: int | None = count
        self.width, self.height = w, h
        self.rate: Fraction | None = Fraction(CLOCK * len(durations), sum(durations))
        self.colour = Colour("bt709", False)
        self.name = "synthetic"
        self.notices: list[str] = []
        self.media: Media | None = None
        self._durations = durations
        self._texture = np.random.default_rng(0).integers(0, 256, (h, 2 * w, 3), dtype=np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        assert self.count is not None
        pts = 0
        for n in range(self.count):
            start = n % self.width
            pixels = self._texture[:, start : start + self.width].copy()
            for bit in range(BITS):
                pixels[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (n >> bit & 1)
            duration = self._durations[n % len(self._durations)]
            # An own clock that is finer than the rate, as files have.
            yield Frame(pixels, n, pts, Fraction(1, CLOCK), duration)
            pts += duration

    def close(self) -> None:
        """Nothing is open."""


class Repeat:
    """A session that repeats pixels: everything but the network."""

    runtime = "none"
    details = "pixels repeated"

    def step(self, lr: Any, state: Any) -> tuple[Any, Any]:
        return lr.repeat(4, axis=2).repeat(4, axis=3), (lr, state is not None)

    def close(self) -> None:
        """Nothing is open."""


def resident_mib() -> float:
    return resident_bytes() / 2**20


def run(
    *,
    minutes: float,
    real_time: bool,
    model: str | None,
    runtime: str = "auto",
    threads: int | None = None,
    size: tuple[int, int] = (16, 176),
    rate: int | None = None,
) -> Found:
    """Play so many minutes.

    Args:
        minutes: of the stream.
        real_time: the player takes a picture when it is due, and late ones are bicubic.
        model: None for :class:`Repeat`.
        runtime, threads: of the model.
        size: LR (h, w); w at least BITS * BLOCK.
        rate: frames a second; None for a varying rate.
    """
    durations = TICKS if rate is None else (CLOCK // rate,)
    if rate is not None and CLOCK % rate:
        raise SystemExit(f"--rate {rate}: expected a divisor of {CLOCK}, such as 24, 25, 30 or 60")
    if size[1] < BITS * BLOCK or size[0] < BLOCK:
        raise SystemExit(f"--size: expected at least {BLOCK}x{BITS * BLOCK}")
    count = int(minutes * 60 * CLOCK * len(durations) / sum(durations))
    session: Session = Repeat()
    if model is not None:
        session = open_session(open_model(model), runtime, SessionOptions(threads=threads))
        print(f"{model} on {session.runtime} ({session.details})", file=sys.stderr)
    memory: list[float] = []

    def watch(done: int, _total: int | None) -> None:
        if done % max(1, count // 200) == 0:
            memory.append(resident_mib())

    with tempfile.TemporaryDirectory(prefix="teco-endure-") as scratch:
        out, player = Path(scratch) / "found.json", Path(scratch) / "player"
        player.write_text(
            READER.format(
                python=sys.executable, durations=durations, real_time=real_time, clock=CLOCK,
                block=BLOCK, bits=BITS, out=str(out),
            )
        )  # fmt: skip
        player.chmod(0o755)
        # Without cuts: the numbers jump about, and a detector might well find one there.
        options = PlayOptions(osd=False, deadline=real_time, scene_cuts=False)
        source = Numbered(count, durations, *size)
        result = play_source(session, source, Program("player", str(player)), options, watch)
        found = json.loads(out.read_text())
    session.close()
    quarter = len(memory) // 4
    return Found(
        frames=found["frames"],
        expected=count,
        lost=found["lost"] + max(0, count - found["frames"] - found["lost"]),
        repeated=found["repeated"],
        moved=found["moved"],
        growth_mib=float(np.mean(memory[-quarter:]) - np.mean(memory[quarter : 2 * quarter])),
        late_share=result.late_share,
        stats=result.stats,
        seconds=result.seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--real-time", action="store_true", help="take each picture when it is due")
    parser.add_argument("--model", help="a shipped model or an ONNX file; none repeats pixels")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", default="180x320", help="LR, HxW")
    parser.add_argument("--rate", type=int, help="frames a second; left out, it varies")
    parser.add_argument("--json", type=Path, help="write everything, with the machine")
    given = parser.parse_args()
    h, w = map(int, given.size.split("x"))
    found = run(
        minutes=given.minutes, real_time=given.real_time, model=given.model,
        runtime=given.runtime, threads=given.threads, size=(h, w), rate=given.rate,
    )  # fmt: skip
    if given.json:
        given.json.write_bytes(as_json({"machine": asdict(inspect()), **asdict(found)}))
    stats = found.stats
    print(
        f"{found.frames} of {found.expected} frames in {found.seconds:.0f} s: {found.lost} lost, "
        f"{found.repeated} repeated, {found.moved} timestamps moved; "
        f"{found.late_share:.2%} late ({stats.fallbacks} bicubic, {stats.late} stepped too late); "
        f"memory {found.growth_mib:+.1f} MiB"
    )
    if found.lost or found.repeated or found.moved or found.frames != found.expected:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
