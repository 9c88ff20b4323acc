"""A clip of the size that is benchmarked, to be enlarged end to end and played.

Its frames differ, so that no codec gets away with nothing; what they show does not change the time
of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from teco.core.pixels import Pixels, to_pixels
from teco.runtimes.base import moving_frames

RATE = Fraction(25)
FRAMES = 75


@dataclass(frozen=True)
class LrClip:
    """A clip of low-resolution frames.

    Attributes:
        path: the file.
        source: what it shows, for the record.
        rate: frames a second.
    """

    path: Path
    source: str
    rate: Fraction


def make_lr_clip(
    folder: Path,
    size: tuple[int, int],
    frames: Iterable[Pixels] | None = None,
    name: str = "",
    rate: Fraction | None = None,
) -> LrClip:
    """Write the clip into a folder.

    Args:
        folder: that exists.
        size: (h, w) of its frames.
        frames: (h, w, 3) uint8, of which the first are taken; None for a texture that drifts.
        name: of the clip that ``frames`` are from.
        rate: of it; None where it tells none.
    """
    h, w = size
    path = folder / f"clip-{h}x{w}.mp4"
    rate = rate or RATE
    count = write_clip(path, moving_texture(size) if frames is None else frames, rate)
    return LrClip(path, f"{count} frames of {name or 'a moving texture'} at {w}x{h}, H.264", rate)


def moving_texture(size: tuple[int, int], count: int = FRAMES) -> Iterator[Pixels]:
    """(h, w, 3) uint8 frames of a texture that drifts."""
    for frame in moving_frames(*size, count):
        yield to_pixels(frame)


def write_clip(
    path: Path, frames: Iterable[Pixels], rate: Fraction = RATE, limit: int = FRAMES
) -> int:
    """Write an H.264 file of the first frames; returns how many it holds.

    4:2:0 needs even sides: frames with an odd one are coded as 4:4:4.
    """
    import av

    count = 0
    with av.open(str(path), "w") as out:
        video = None
        for rgb in islice(frames, limit):
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
