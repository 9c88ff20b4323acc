"""A clip of the size that is benchmarked, for the pipeline and for playback.

Pictures move, so that no frame repeats the one before and no codec gets away with nothing; what
they show does not change the time of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from teco.core.pixels import Pixels, to_pixels
from teco.verification.temporal_gate import moving_frames

RATE = Fraction(25)
FRAMES = 75


def moving_pictures(size: tuple[int, int], count: int = FRAMES) -> Iterator[Pixels]:
    """(h, w, 3) uint8 pictures of a texture that drifts."""
    for frame in moving_frames(*size, count):
        yield to_pixels(frame)


def write_clip(
    path: Path, pictures: Iterable[Pixels], rate: Fraction = RATE, limit: int = FRAMES
) -> int:
    """An H.264 file of the first pictures; returns how many it holds.

    4:2:0 wants even sides: an odd one is coded as 4:4:4.
    """
    import av

    count = 0
    with av.open(str(path), "w") as out:
        video = None
        for rgb in islice(pictures, limit):
            height, width = rgb.shape[:2]
            if video is None:
                video = out.add_stream("libx264", rate=rate, options={"crf": "14"})
                video.height, video.width = height, width
                video.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = count, 1 / rate
            out.mux(video.encode(frame))
            count += 1
        if video is not None:
            out.mux(video.encode(None))
    return count
