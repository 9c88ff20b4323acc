"""The size that an output ends at, "1080p" or "2x", whatever the network enlarges by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError

_LINES = {"4k": 2160, "8k": 4320}
_OTHER_SHAPE = Fraction(2, 100)
"""Relative difference of the shapes from which a picture would look stretched: 854x480 and 720x404
are called 16:9, and are off by 0.08% and 0.2%."""
_WIDE = Fraction(16, 9)


@dataclass(frozen=True)
class OutputSize:
    """What was asked for; :meth:`of` says what that is of a clip.

    Attributes:
        text: as it was given.
        lines: of the shorter side; or
        width, height: pixels; or
        factor: times the clip's own size.
    """

    text: str
    lines: int | None = None
    width: int | None = None
    height: int | None = None
    factor: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> OutputSize:
        """ "1080p", "4k", "1920x1080" (width x height) or "2x".

        Raises:
            TecoError: it is none of these; exit code 2.
        """
        given = text.strip().lower()
        if match := re.fullmatch(r"(\d{2,4})p", given):
            return cls(text, lines=int(match[1]))
        if given in _LINES:
            return cls(text, lines=_LINES[given])
        if match := re.fullmatch(r"(\d{2,5})x(\d{2,5})", given):
            return cls(text, width=int(match[1]), height=int(match[2]))
        if (match := re.fullmatch(r"(\d(?:\.\d{1,3})?)x", given)) and float(match[1]) >= 1:
            return cls(text, factor=Fraction(match[1]))
        likely = "1080p"
        if match := re.fullmatch(r"(\d{2,5})[^\d.]+(\d{2,5})", given):  # 1280*720, 1280:720
            likely = f"{match[1]}x{match[2]}"
        elif match := re.fullmatch(r"(\d{2,4}) ?(?:i|px?|lines)?", given):
            likely = f"{match[1]}p"
        elif match := re.fullmatch(r"x?([1-9])x?", given):
            likely = f"{match[1]}x"
        raise TecoError(
            f"--to {text!r} is no size; expected lines such as 1080p or 4k, WIDTHxHEIGHT or a "
            "factor such as 2x",
            hint=f"for example --to {likely}",
            exit_code=USAGE,
        )

    def __str__(self) -> str:
        return self.text

    def of(self, width: int, height: int, pixel_aspect: Fraction | None = None) -> tuple[int, int]:
        """Width and height of the output of a clip of this size; both even, but for a width and a
        height that were asked for.

        Args:
            width, height: of the clip's frames, upright.
            pixel_aspect: width of a pixel over its height, which stays but for :meth:`is_square`;
                None for square.

        Raises:
            TecoError: the output would be smaller than the clip, or of another shape; exit code 2.
        """
        if self.factor is not None:
            wide, high = _even(width * self.factor), _even(height * self.factor)
        elif self.width is not None and self.height is not None:
            wide, high = self.width, self.height
            self._check_shape(width, height, pixel_aspect)
        else:
            wide, high = self._by_lines(width, height)
        if wide < width or high < height:
            raise TecoError(
                f"--to {self.text} makes {wide}x{high}, and the clip is {width}x{height} already",
                hint="ask for more; to make a clip smaller, use ffmpeg's scale filter",
                exit_code=USAGE,
            )
        return wide, high

    def is_square(self, width: int, height: int, pixel_aspect: Fraction | None) -> bool:
        """Whether the output has square pixels where the clip's are not: its width and height were
        asked for, and are of the shape that players show. Arguments as of :meth:`of`."""
        if self.width is None or pixel_aspect in (None, 1) or self._is_like(width, height):
            return False
        return self._is_like(width * pixel_aspect, height)

    def _is_like(self, width: int | Fraction, height: int) -> bool:
        assert self.width is not None
        assert self.height is not None
        shape = Fraction(self.width, self.height) / (Fraction(width) / height)
        return abs(shape - 1) <= _OTHER_SHAPE

    def _by_lines(self, width: int, height: int) -> tuple[int, int]:
        """The shorter side has so many lines, as on phones that are held upright."""
        assert self.lines is not None
        short, long = sorted((width, height))
        lines = _even(self.lines)
        other = _even(Fraction(lines * long, short))
        if abs(other - lines * _WIDE) <= 2:  # 854x480 is meant to be 16:9
            other = _even(lines * _WIDE)
        return (other, lines) if width >= height else (lines, other)

    def _check_shape(self, width: int, height: int, pixel_aspect: Fraction | None) -> None:
        assert self.width is not None
        assert self.height is not None
        if self._is_like(width, height) or self.is_square(width, height, pixel_aspect):
            return
        lines = min(self.width, self.height)
        wide, high = OutputSize("", lines=lines)._by_lines(width, height)
        pixels = ""
        if pixel_aspect is not None and pixel_aspect != 1:
            ratio = f"{pixel_aspect.numerator}:{pixel_aspect.denominator}"
            pixels = f" with pixels of {ratio}, shown as {round(width * pixel_aspect)}x{height}"
        raise TecoError(
            f"--to {self.text} is of another shape than the clip, {width}x{height}{pixels}",
            hint=f"--to {lines}p makes {wide}x{high} of it",
            exit_code=USAGE,
        )


def _even(value: Fraction | int) -> int:
    return 2 * round(Fraction(value) / 2)


def resized(frame: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """A frame in another size, about pixel centres.

    Args:
        frame: (h, w, 3) uint8 or uint16 RGB.
        width, height: wanted.

    Returns:
        (height, width, 3) of the same dtype: the frame itself where it has that size; by area where
        it shrinks, which averages what the network made of noise and adds no ringing; by Lanczos
        where it grows.
    """
    import cv2

    h, w = frame.shape[:2]
    if (w, h) == (width, height):
        return frame
    how = cv2.INTER_AREA if width <= w and height <= h else cv2.INTER_LANCZOS4
    return np.ascontiguousarray(cv2.resize(frame, (width, height), interpolation=how))
