"""Pictures, one or a folder of them, in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from teco.core.errors import TecoError
from teco.core.files import Output, check_target, link_or_copy, write_errors
from teco.core.pixels import to_8_bits
from teco.video.colour import Colour
from teco.video.frames import (
    Aborting,
    Closing,
    Frame,
    FrameSource,
    Media,
    Pixels,
    Span,
    check_pixels,
)
from teco.video.segments import Segment, Segments, drop_unfinished
from teco.video.side_data import STEREO_IS_LOST

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
"""Pictures that hold 16 bits of a colour."""
DEFAULT_RATE = Fraction(25)


class ImageFolderSource(Closing):
    """The pictures of a folder, in natural order: frame2 comes before frame10; or a single one.

    An alpha channel is dropped, EXIF turns are applied; 16-bit pictures come as uint8 unless
    ``deep``.
    """

    def __init__(
        self,
        path: Path,
        span: Span | None = None,
        *,
        rate: Fraction | None = None,
        deep: bool = False,
    ) -> None:
        self.name = str(path)
        self.rate: Fraction | None = rate or DEFAULT_RATE
        self.notices: list[str] = []
        self.colour = Colour("rgb", True)
        self.media: Media | None = None
        self.pixel_aspect: Fraction | None = None
        folder = path.iterdir() if path.is_dir() else [path]
        files = sorted(
            (
                f
                for f in folder
                if f.suffix.lower() in PICTURE_SUFFIXES
                and f.is_file()
                and (f == path or not f.name.startswith("."))
            ),
            key=lambda f: natural_key(f.name),
        )
        if not files:
            raise TecoError(
                f"the folder {path} holds no pictures",
                hint=f"expected files ending in {', '.join(sorted(PICTURE_SUFFIXES))}",
            )
        first, last = (span or Span()).frame_range(self.rate or DEFAULT_RATE)
        self.files = files[first:last]
        if not self.files:
            raise TecoError(
                f"{path} has {len(files)} pictures, and the range starts at picture {first}",
                hint="give an earlier start",
                exit_code=2,
            )
        self.count: int | None = len(self.files)
        pixels, alpha, self.depth = _read(self.files[0])
        self._deep = deep and self.depth > 8
        if alpha:
            self.notices.append("alpha channel dropped")
        self.height, self.width = pixels.shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self.files):
            pixels, _, _ = _read(file, deep=self._deep)
            if pixels.shape != (self.height, self.width, 3):
                raise TecoError(
                    f"{self.name} mixes sizes: {self.files[0].name} is {self.width}x{self.height}, "
                    f"{file.name} is {pixels.shape[1]}x{pixels.shape[0]}",
                    hint="put pictures of one size into one folder",
                )
            yield Frame(pixels, index, index, 1 / (self.rate or DEFAULT_RATE), 1)

    def close(self) -> None:
        """Nothing is held open."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Numbers in names compare as numbers; the key of a sort."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p.lower()) for p in parts if p] + [
        (0, 0, name)
    ]


def _read(path: Path, *, deep: bool = False) -> tuple[Pixels, bool, int]:
    """A picture file -> (H, W, 3) RGB, whether an alpha channel was dropped, and its bits.

    uint8, or uint16 if deep.
    """
    import cv2

    def broken(reason: str) -> TecoError:
        return TecoError(
            f"the picture {path} cannot be read: {reason}",
            hint="remove it from the folder or save it again as PNG",
        )

    try:
        data = path.read_bytes()
    except OSError as error:
        raise broken(str(error.strerror)) from error
    if not data:
        raise broken("the file is empty")
    coded = np.frombuffer(data, np.uint8)
    try:
        # Any: OpenCV's stubs promise a picture where None is possible.
        as_is = cv2.IMREAD_ANYDEPTH if deep else 0
        bgr: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR | as_is)
        kept: Any = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED) if path.suffix != ".jpg" else bgr
    except cv2.error as error:
        raise broken(str(error.err)) from error
    if bgr is None or kept is None:
        raise broken("it is damaged or no picture")
    if kept.dtype.kind == "f":
        raise broken("it holds floating-point samples, expected 8 or 16 bit")
    rgb: Any = np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    if deep and rgb.dtype == np.uint8:  # one of 8 bits among deeper ones
        rgb = rgb.astype(np.uint16) * 257
    alpha = kept.ndim == 3 and kept.shape[2] in (2, 4)
    return rgb, alpha, 16 if kept.dtype == np.uint16 else 8


_NUMBERED = re.compile(r"\d{6,}\.png")
"""What frames are called that had no names."""


def _of_aspect(source: FrameSource, width: int, height: int) -> list[str]:
    """What to say of pixels that are not square, of which a picture knows nothing."""
    aspect = source.pixel_aspect
    if aspect in (None, 1):
        return []
    plain = Fraction(height * source.width, source.height)
    if abs(width - plain) > 1:  # made square on the way, or two frames side by side
        return []
    shown = f"{round(plain * aspect)}x{height}"
    return [
        f"the clip's pixels are {aspect.numerator}:{aspect.denominator} and those of pictures "
        f"square: in the shape that the clip is shown in, it would be {shown} (--to {shown})"
    ]


class ImageFolderSink(Aborting):
    """A folder of PNGs, named like the source's pictures if it is a folder of those.

    The folder appears on commit. An existing one is replaced only with ``overwrite`` and only if
    it holds nothing but pictures of names that this one writes: it is deleted as a whole.
    """

    def __init__(
        self, path: Path, source: FrameSource, width: int, height: int, *, overwrite: bool = False
    ) -> None:
        self.name = str(path)
        self._size = (width, height)
        self.notices: list[str] = []
        existing = list(path.iterdir()) if path.is_dir() else []
        origin = (
            Path(source.name) if source.media or isinstance(source, ImageFolderSource) else None
        )
        check_target(path, overwrite=overwrite or (path.is_dir() and not existing), source=origin)
        if path.exists() and not path.is_dir():
            raise TecoError(
                f"{path} is a file, expected a folder for pictures",
                hint="give a name that ends in .mp4 or .mkv for a video file",
                exit_code=2,
            )
        names: list[str] = []
        if isinstance(source, ImageFolderSource):
            names = [f"{f.stem}.png" for f in source.files]
        self._names = names if names and len(set(names)) == len(names) else None
        own = set(self._names or ())
        other = [f.name for f in existing if f.name not in own and not _NUMBERED.fullmatch(f.name)]
        if other:
            raise TecoError(
                f"{path} is not replaced: it holds {sorted(other)[0]}, which teco did not write",
                hint="give a new folder",
                exit_code=2,
            )
        if source.media is not None and source.media.other_streams:
            self.notices.append("a folder of pictures holds no sound; only pictures are written")
        if source.media is not None and source.media.stereo is not None:
            self.notices.append(STEREO_IS_LOST)
        self.notices += _of_aspect(source, width, height)
        self._written = self._in_segment = 0
        self._overwrite = overwrite
        self._segments: Segments | None = None
        self.kept = 0
        self._output = Output(path, folder=True)

    def resume(self, job: Mapping[str, str]) -> int:
        """See :class:`teco.video.frames.ResumableSink`."""
        with write_errors(self.name):
            self._segments = Segments(
                self._output.path, job, start_again=self._overwrite, pictures=True
            )
        self._written = self._segments.frames
        return self._written

    def write(self, frame: Frame) -> None:
        """Add one frame: uint8 (height, width, 3) RGB."""
        check_pixels(frame, *self._size, self.name)
        index = frame.index
        name = f"{index:06d}.png"
        if self._names is not None and index < len(self._names):
            name = self._names[index]
        coded = _coded(frame.pixels)
        with write_errors(self.name):
            if frame.starts_segment:
                self._finish_segment()
            folder = self._output.part
            if self._segments is not None:
                folder = self._segments.pictures
                folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(coded)
        self._written += 1
        self._in_segment += 1

    def _finish_segment(self) -> None:
        if self._segments is not None and self._in_segment:
            self._segments.finish(Segment(self._in_segment))
            self._in_segment = 0

    def commit(self) -> None:
        """Give the folder its name."""
        if not self._written:
            raise TecoError(f"nothing was written to {self.name}")
        with write_errors(self.name):
            self._finish_segment()
            if self._segments is not None:
                # Both places have them until the folder has its name: nothing is lost on the way.
                for picture in self._segments.all_pictures():
                    link_or_copy(picture, self._output.part / picture.name)
        self._output.commit()
        segments, self._segments = self._segments, None
        if segments is not None:
            segments.forget()
        else:
            drop_unfinished(self._output.path)

    def abort(self) -> None:
        """Remove what was written, unless committed or a part that another run can go on from."""
        self._output.abort()
        segments, self._segments = self._segments, None
        if segments is not None and segments.keep():
            self.kept = segments.frames


class PictureSink(Aborting):
    """A single picture, which appears on commit.

    Args:
        path: ends in one of :data:`PICTURE_SUFFIXES`.
        source: of one frame.
        width, height: of the picture.
        overwrite: replace an existing file.

    Raises:
        TecoError: the source has more frames than one, or a place where nothing can be written.
    """

    def __init__(
        self, path: Path, source: FrameSource, width: int, height: int, *, overwrite: bool = False
    ) -> None:
        self.name = str(path)
        self._size = (width, height)
        self.notices: list[str] = []
        if source.count is not None and source.count > 1:
            raise self._too_many(f"about {source.count} frames")
        check_target(path, overwrite=overwrite, source=Path(source.name))
        if source.media is not None and source.media.other_streams:
            self.notices.append("a picture holds no sound")
        self.notices += _of_aspect(source, width, height)
        self._written = False
        self._output = Output(path)

    def _too_many(self, what: str) -> TecoError:
        return TecoError(
            f"{self.name} is one picture, and the clip has {what}",
            hint="--frames 1 takes the first; a name without a suffix makes a folder of pictures",
            exit_code=2,
        )

    def write(self, frame: Frame) -> None:
        """The frame: uint8 or uint16 (height, width, 3) RGB."""
        check_pixels(frame, *self._size, self.name)
        if self._written:
            raise self._too_many("more than one frame")
        suffix = self._output.path.suffix.lower()
        pixels = frame.pixels if suffix in DEEP_SUFFIXES else to_8_bits(frame.pixels)
        coded = _coded(pixels, suffix)
        with write_errors(self.name):
            self._output.part.write_bytes(coded)
        self._written = True

    def commit(self) -> None:
        """Give the file its name."""
        self._output.commit()

    def abort(self) -> None:
        """Remove what was written, unless committed."""
        self._output.abort()


def _coded(pixels: Pixels, suffix: str = ".png") -> bytes:
    import cv2

    # Level 1 is four times as fast as the default and about a tenth larger.
    options = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 1], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 97],
               ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 97]}  # fmt: skip
    done, coded = cv2.imencode(
        suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options.get(suffix, [])
    )
    if not done:
        raise TecoError(f"OpenCV could not make a {suffix[1:].upper()} of a frame")
    return coded.tobytes()
