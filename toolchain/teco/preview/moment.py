"""The moment of a clip that a preview looks at, and what is known of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from teco.core.errors import USAGE, TecoError
from teco.video.clips import FrameSource, open_source
from teco.video.file.source import VideoSource
from teco.video.image_folder import ImageFolderSource
from teco.video.y4m import Y4MSource
from teco_models.variant import check_size

FAR = 60.0
"""Seconds into a clip where the moment is at most, if all before it has to be read."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Some frames of a clip; made by :func:`find`.

    Attributes:
        path: video file, folder of pictures, or one picture.
        kind: "clip", "folder" or "picture".
        start: seconds from the clip's beginning.
        frames: that are looked at, at most.
        rate: frames a second.
        count: frames of the whole, None where that is not known.
        width, height: of the frames.
        notices: what the source had to say.
    """

    path: Path
    kind: str
    start: float
    frames: int
    rate: Fraction
    count: int | None
    width: int
    height: int
    notices: tuple[str, ...]

    def open(self) -> FrameSource:
        """Its frames, read as ``teco upscale`` reads them."""
        return open_source(
            self.path, start=self.start or None, max_frames=self.frames, forgiving=True
        )


def find(path: Path, *, at: float | None, seconds: float, frames: int | None) -> Moment:
    """Look at a clip.

    Args:
        path: of the clip.
        at: seconds from its beginning; None for the middle. Nearer to the end than ``seconds``, it
            ends with the clip.
        seconds: how much of it.
        frames: how many instead.

    Raises:
        TecoError: it is a pipe or a device, holds no pictures, or ends before ``at``.
        ModelError: frames smaller than 8x8.
    """
    if str(path) == "-" or (path.exists() and not (path.is_file() or path.is_dir())):
        what = "standard input" if str(path) == "-" else path
        raise TecoError(
            f"{what} is no file, and a preview reads the same moment once for each choice",
            hint="save some of it as a file first, and give that",
            exit_code=USAGE,
        )
    if at is not None and not 0 <= at < float("inf"):
        raise TecoError(f"the moment is at {at:g} s, expected 0 or more", exit_code=USAGE)
    with open_source(path, forgiving=True) as source:
        check_size(source.height, source.width)
        kind = "clip"
        if isinstance(source, ImageFolderSource):
            kind = "folder" if path.is_dir() else "picture"
        rate = source.rate or Fraction(25)
        count = 1 if kind == "picture" else source.count
        wanted = frames or max(1, round(seconds * rate))
        notices = [*source.notices]
        length = None if count is None else float(count / rate)
        if at is None:
            at = 0.0 if length is None else max(0.0, (length - float(wanted / rate)) / 2)
            is_read = isinstance(source, Y4MSource) or (
                isinstance(source, VideoSource) and source.decodes_from_start
            )
            if is_read and at > FAR:
                at = FAR
                notices.append(
                    f"{path} cannot be sought in: the moment is {FAR:g} s from the beginning "
                    "instead of in the middle"
                )
        elif length is not None and at >= length:
            raise TecoError(
                f"the moment is at {at:g} s, and {path} is {length:.2f} s long",
                hint="give an earlier --at, or leave it out for the middle",
                exit_code=USAGE,
            )
        elif length is not None:
            # Near the end it begins earlier: a frame or two would say little of the rest.
            at = max(0.0, min(at, length - float(wanted / rate)))
        return Moment(
            path=path,
            kind=kind,
            start=at,
            frames=wanted,
            rate=rate,
            count=count,
            width=source.width,
            height=source.height,
            notices=tuple(notices),
        )
