"""No ghost of the previous shot: the first picture after each cut equals a cold start.

    python scripts/check_cuts.py film.mp4 --cuts 52,119,143
    python scripts/check_cuts.py film.mp4 --model live

``--cuts`` are the first frames of the shots, known to whoever looked at the clip; without it the
detector's own are taken, and only their number tells whether it found all. Ends with 1 where a
picture differs, and names the shots whose beginning was not noticed.
"""

from __future__ import annotations

import argparse

import numpy as np

from teco.core.pixels import Pixels
from teco.inference.scene_cuts import SceneCutDetector
from teco.inference.stream import Stream
from teco.model.opening import DEFAULT_MODEL, open_model
from teco.runtimes import Session, SessionOptions, open_session
from teco.video.clips import open_source
from teco_calibration.degrade import shrink_by_area


def ghosts(session: Session, frames: list[Pixels], cuts: list[int]) -> list[int]:
    """The cuts after which sequential play is not what a cold start gives."""
    wanted = set(cuts)
    stream, bad = Stream(session), []
    for n, picture in enumerate(frames):
        out = stream.push(picture)
        # The state is the stream's own, so a second one on this session disturbs nothing.
        if n in wanted and not np.array_equal(out, Stream(session).push(picture)):
            bad.append(n)
    return bad


def detected(frames: list[Pixels]) -> list[int]:
    """Where the detector sees shots begin, the first one not counted."""
    detector = SceneCutDetector()
    return [n for n, picture in enumerate(frames) if detector.is_cut(picture)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--cuts", help="frame numbers, separated by commas")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--shrink", type=float, default=8.0, help="average to 1/N of the size")
    given = parser.parse_args()
    with open_source(given.clip, max_frames=given.frames) as source:
        frames = [shrink_by_area(frame.pixels, given.shrink) for frame in source]
    cuts = [int(x) for x in given.cuts.split(",")] if given.cuts else detected(frames)
    session = open_session(
        open_model(given.model), given.runtime, SessionOptions(threads=given.threads)
    )
    bad = ghosts(session, frames, cuts)
    session.close()
    print(
        f"{len(frames)} frames, {len(cuts) + 1} shots: "
        + (f"not a cold start at {', '.join(map(str, bad))}" if bad else "no ghost in any")
    )
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
