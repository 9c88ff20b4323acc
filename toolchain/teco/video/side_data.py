"""What decoded frames carry beside their samples: what is kept, and what is named as lost."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import Type

_NAMES = {
    Type.A53_CC: "closed captions (CEA-608/708) in the picture stream are dropped",
    Type.SPHERICAL: "the spherical projection is not described in the output",
    Type.DYNAMIC_HDR_PLUS: "HDR10+ metadata is dropped",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid metadata is dropped",
    Type.DOVI_RPU_BUFFER: "Dolby Vision metadata is dropped",
    Type.DOVI_METADATA: "Dolby Vision metadata is dropped",
    Type.ICC_PROFILE: "the ICC profile is dropped",
    Type.AFD: "the active format description is dropped",
}
"""Kinds that no output carries, and what is said of them. Kinds that describe the old coding
(motion vectors, film grain that was applied, encoder parameters) are not missed."""

_HDR10 = frozenset({Type.MASTERING_DISPLAY_METADATA, Type.CONTENT_LIGHT_LEVEL})


def named(frame: Any) -> Iterator[str]:
    """Sentences on what a frame carries and the output will not."""
    for item in frame.side_data:
        if (text := _NAMES.get(item.type)) is not None:
            yield text


_STEREO = {1: (("left_right", "right_left"), 3), 2: (("top_bottom", "bottom_top"), 4)}
"""libavutil's ``AVStereo3DType`` -> Matroska's words for it, as it is and with the views swapped,
and H.264's frame packing arrangement. Others are mixed line by line, and no longer after enlarging.
"""


@dataclass(frozen=True)
class Stereo:
    """Two views in one picture.

    Attributes:
        arrangement: a number of libavutil's ``AVStereo3DType``.
        swapped: the right view comes first.
    """

    arrangement: int
    swapped: bool

    def tag(self) -> str | None:
        """Of a Matroska track; None where the enlarged picture has no such arrangement."""
        known = _STEREO.get(self.arrangement)
        return None if known is None else known[0][self.swapped]

    def options(self, codec: str) -> dict[str, str] | None:
        """What tells an encoder; None for encoders that have no words for it."""
        known = _STEREO.get(self.arrangement)
        if known is None or self.swapped or codec != "libx264":
            return None
        return {"x264-params": f"frame-packing={known[1]}"}


STEREO_IS_LOST = "the arrangement of the two views (stereo) is not described in the output"


def stereo(frame: Any) -> Stereo | None:
    """The arrangement of a decoded frame with two views, if it is one (``AVStereo3D``)."""
    for item in frame.side_data:
        if item.type == Type.STEREO3D and len(data := bytes(item)) >= 8:
            arrangement, flags = struct.unpack("<2i", data[:8])
            return Stereo(arrangement, bool(flags & 1)) if arrangement else None
    return None


@dataclass(frozen=True)
class Hdr10:
    """The static description of an HDR10 picture (SMPTE ST 2086, CTA-861.3).

    Attributes:
        primaries: CIE 1931 (x, y) of red, green, blue and white; None where not told.
        luminance: (lowest, highest) of the mastering display in cd/m2; None where not told.
        light: (brightest pixel, brightest frame average) in cd/m2; None where not told.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] | None
    luminance: tuple[Fraction, Fraction] | None
    light: tuple[int, int] | None

    def options(self, codec: str) -> dict[str, str] | None:
        """What tells an encoder; None for encoders that have no words for it."""
        if codec == "libx265":
            parts = ["hdr10=1"]
            if self.primaries and self.luminance:
                # Chromaticity in steps of 0.00002, luminance in 0.0001 (x265's documentation).
                parts.append("master-display=" + self._display(50_000, 10_000, whole=True))
            if self.light:
                parts.append("max-cll={},{}".format(*self.light))
            return {"x265-params": ":".join(parts)}
        if codec == "libsvtav1":
            parts = []
            if self.primaries and self.luminance:
                parts.append("mastering-display=" + self._display(1, 1, whole=False))
            if self.light:
                parts.append("content-light={},{}".format(*self.light))
            return {"svtav1-params": ":".join(parts)}
        return None

    def _display(self, chroma: int, luma: int, *, whole: bool) -> str:
        assert self.primaries is not None
        assert self.luminance is not None

        def number(value: Fraction, unit: int) -> str:
            return str(round(value * unit)) if whole else f"{float(value):.6g}"

        red, green, blue, white = (
            f"({number(x, chroma)},{number(y, chroma)})" for x, y in self.primaries
        )
        low, high = (number(x, luma) for x in self.luminance)
        return f"G{green}B{blue}R{red}WP{white}L({high},{low})"


def hdr10(frame: Any) -> Hdr10 | None:
    """The HDR10 description that a decoded frame carries, if any.

    The layouts are those of libavutil's ``AVMasteringDisplayMetadata`` and
    ``AVContentLightMetadata``.
    """
    found = {item.type: bytes(item) for item in frame.side_data if item.type in _HDR10}
    if not found:
        return None
    primaries = luminance = light = None
    data = found.get(Type.MASTERING_DISPLAY_METADATA, b"")
    if len(data) >= 88:
        *numbers, has_primaries, has_luminance = struct.unpack("<20i2i", data[:88])
        if all(numbers[1::2]):
            values = [Fraction(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
            if has_primaries:
                primaries = tuple(zip(values[0:8:2], values[1:8:2], strict=True))
            if has_luminance:
                luminance = values[8], values[9]
    data = found.get(Type.CONTENT_LIGHT_LEVEL, b"")
    if len(data) >= 8:
        light = struct.unpack("<2I", data[:8])
    return Hdr10(primaries, luminance, light)
