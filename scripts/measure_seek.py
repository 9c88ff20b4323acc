"""How far a picture after a seek is from that of sequential play, by pre-roll.

    python scripts/measure_seek.py clip.mp4 --models teco-x4-b3-c64-bp-lk,live --shrink 3

The clip is played once from its beginning; then the stream is asked for frames far from each other,
with each pre-roll, and also for the frames that follow. Prints PSNR and the mean absolute
difference in 8-bit steps against sequential play, over all seeks. Where a shot begins nearer to the
target than the longest pre-roll, that target is left out: sequential play has no more past there.

Then, for deadline mode, how much a state is worth that is some frames old.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from teco.core.files import as_json
from teco.core.pixels import Pixels
from teco.inference.scene_cuts import SceneCutDetector
from teco.inference.stream import Stream
from teco.model.opening import open_model
from teco.runtimes import Session, SessionOptions, open_session
from teco.video.clips import open_source
from teco_calibration.degrade import crop_to_multiple, degrade_bd, shrink_by_area

FOLLOWING = (0, 1, 4)
"""Frames after the target at which the difference is taken as well."""


@dataclass(frozen=True)
class Row:
    """Differences from sequential play.

    Attributes:
        model: its name.
        pre_roll: frames run before the target and dropped.
        after: frames after the target.
        psnr: dB, of the mean squared difference over all targets; None where there is none.
        steps: mean absolute difference, 8-bit steps.
        worst: largest difference of any value.
        targets: how many.
    """

    model: str
    pre_roll: int
    after: int
    psnr: float | None
    steps: float
    worst: int
    targets: int


def read(path: str, frames: int, shrink: float) -> list[Pixels]:
    """LR pictures: the clip averaged to 1/shrink of its size, then degraded (BD) by four."""
    with open_source(path, max_frames=frames) as source:
        return [
            degrade_bd(crop_to_multiple(shrink_by_area(frame.pixels, shrink))) for frame in source
        ]


def measure(
    session: Session, name: str, frames: list[Pixels], targets: list[int], pre_rolls: list[int]
) -> list[Row]:
    """One row for each pre-roll and each of FOLLOWING."""
    sequential: dict[int, Pixels] = {}
    wanted = {t + after for t in targets for after in FOLLOWING}
    stream = Stream(session)
    for n, picture in enumerate(frames):
        out = stream.push(picture)
        if n in wanted:
            sequential[n] = out
    rows: list[Row] = []
    for pre_roll in pre_rolls:
        seeking = Stream(session, pre_roll=pre_roll, catch_up=1, cache=0)
        differences: dict[int, list[np.ndarray]] = {after: [] for after in FOLLOWING}
        for target in targets:
            seeking.reset()
            # A frame long before: what follows is a jump, as after a seek in a player.
            seeking.at(0, frames.__getitem__)
            for after in range(max(FOLLOWING) + 1):
                out = seeking.at(target + after, frames.__getitem__)
                if after in FOLLOWING:
                    exact = sequential[target + after].astype(np.int16)
                    differences[after].append(out.astype(np.int16) - exact)
        for after, found in differences.items():
            square = float(np.mean([np.square(d.astype(np.float64)).mean() for d in found]))
            rows.append(
                Row(
                    name, pre_roll, after,
                    10 * float(np.log10(255**2 / square)) if square else None,
                    float(np.mean([np.abs(d).mean() for d in found])),
                    max(int(np.abs(d).max()) for d in found), len(found),
                )
            )  # fmt: skip
            print(rows[-1], file=sys.stderr)
    return rows


def measure_gaps(
    session: Session, name: str, frames: list[Pixels], targets: list[int], gaps: list[int]
) -> list[str]:
    """Table rows: PSNR against sequential play where so many frames before were passed over.

    The state is then that of an earlier frame, as after late frames in deadline mode; gap 0 stands
    for a cold start.
    """
    stream, exact = Stream(session), dict[int, Pixels]()
    for n, picture in enumerate(frames):
        out = stream.push(picture)
        if n in targets:
            exact[n] = out
    cells: list[str] = []
    for gap in gaps:
        squares: list[float] = []
        for target in targets:
            other = Stream(session, scene_cuts=False)
            if gap:
                for n in range(target - gap):
                    other.push(frames[n])
            difference = other.push(frames[target]).astype(np.float64) - exact[target]
            squares.append(float(np.square(difference).mean()))
        cells.append(f"{10 * np.log10(255**2 / np.mean(squares)):.1f} dB")
    return [f"| `{name}` | " + " | ".join(cells) + " |"]


def pick_targets(frames: list[Pixels], count: int, longest: int) -> list[int]:
    """Frames spread over the clip with at least ``longest`` of their shot before them."""
    detector = SceneCutDetector()
    cuts = [0, *(n for n, picture in enumerate(frames) if detector.is_cut(picture))]
    last = len(frames) - 1 - max(FOLLOWING)
    fit = [
        n for n in range(longest + 2, last + 1)
        # One frame more than the pre-roll, so that even the longest lacks something.
        if all(not n - longest - 1 < cut <= n + max(FOLLOWING) for cut in cuts if cut)
    ]  # fmt: skip
    if len(fit) < count:
        raise SystemExit(f"the clip has {len(fit)} frames that would do, expected {count}: "
                         "give a longer one, or more --frames")  # fmt: skip
    return [fit[round(i * (len(fit) - 1) / max(1, count - 1))] for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--models", default="teco-x4-b3-c64-bp-lk,live")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--shrink", type=float, default=3.0)
    parser.add_argument("--seeks", type=int, default=6)
    parser.add_argument("--pre-rolls", default="0,4,16")
    parser.add_argument("--gaps", default="0,1,2,4,8,16")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pre_rolls = [int(x) for x in given.pre_rolls.split(",")]
    frames = read(given.clip, given.frames, given.shrink)
    targets = pick_targets(frames, given.seeks, max(pre_rolls))
    h, w = frames[0].shape[:2]
    print(f"{len(frames)} frames of {h}x{w}, seeks to {targets}", file=sys.stderr)
    rows: list[Row] = []
    gaps = [int(x) for x in given.gaps.split(",")]
    lines: list[str] = []
    for name in given.models.split(","):
        session = open_session(
            open_model(name), given.runtime, SessionOptions(threads=given.threads)
        )
        rows += measure(session, name, frames, targets, pre_rolls)
        lines += measure_gaps(session, name, frames, targets[-3:], gaps)
        session.close()
    print("| model | pre-roll | " + " | ".join(f"{a} frames later" for a in FOLLOWING) + " |")
    print("|---|---|" + "---|" * len(FOLLOWING))
    for name in given.models.split(","):
        for pre_roll in pre_rolls:
            here = [r for r in rows if (r.model, r.pre_roll) == (name, pre_roll)]
            cells = [f"{r.psnr:.1f} dB, {r.steps:.2f}" if r.psnr else "equal" for r in here]
            print(f"| `{name}` | {pre_roll} | " + " | ".join(cells) + " |")
    print("\n| frames passed over | " + " | ".join(str(g) if g else "cold" for g in gaps) + " |")
    print("|---|" + "---|" * len(gaps))
    print("\n".join(lines))
    if given.json:
        given.json.write_bytes(as_json([asdict(r) for r in rows]))


if __name__ == "__main__":
    main()
