"""Y'CbCr to RGB and back, so that what is read is what is written.

swscale does the arithmetic. Left alone it takes every clip for BT.601, in limited range, and
rounds carelessly; here matrix and range are always given. Measured on flat patches: within half a
step of the exact value in limited range, one step of chroma in full range, 2 steps of RGB after
a round trip in 8 bits.

swscale also takes chroma for centred where a frame does not say where it lies, and makes it
centred where nothing is asked. Codecs and players have it on the left column of each pair instead:
half a pixel of colour, on the way in and on the way out. Here that is always given, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from teco.core.errors import TecoError
from teco.core.planes import PIX_FMT, Layout, frame_size

UNSPECIFIED = 2
"""The "not said" of H.273 for matrix, primaries and transfer alike."""

_LIMITED, _FULL = 1, 2

_MATRIX_OF_TAG = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020nc",
}
_TAG_OF_MATRIX = {"rgb": 0, "bt709": 1, "fcc": 4, "bt601": 6, "smpte240m": 7, "bt2020nc": 9}
_SWS_OF_MATRIX = {"rgb": 1, "bt709": 1, "fcc": 4, "bt601": 5, "smpte240m": 7, "bt2020nc": 9}
Siting = Literal["left", "center", "topleft", "top", "bottomleft", "bottom"]
"""Where in its block of pixels a sample of chroma lies, in libav's words: on the left column or
between two, and between two rows or on one."""

_CENTRED = frozenset({
    "mjpeg", "mjpegb", "ljpeg", "jpegls", "amv", "thp", "webp", "mpeg1video", "h261", "h263",
    "h263p", "h263i", "flv1", "rv10", "rv20", "theora",
})  # fmt: skip
"""Codecs whose definition has chroma between columns and rows: JPEG, MPEG-1, H.261 and H.263, and
Theora. All others have it on the left column where nothing else is said."""

_SAID = frozenset({"h264", "hevc", "vvc"})
"""Codecs that can say where chroma of 4:2:0 lies."""

OF_PLANES = ("yuv420p", "nv12")
"""What planes can be encoded as without a conversion of samples."""

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

_FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)

_FROM_LIMITED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Colour:
    """How a clip's samples stand for RGB, to be read with and written back.

    matrix: bt601, bt709, bt2020nc, smpte240m, fcc; rgb where the samples are RGB already.
    full_range: luma spans 0..255 instead of 16..235.
    primaries, transfer: H.273 numbers, None where unspecified; carried over, never applied.
    tagged: False where the clip named no matrix and it was guessed from the size.
    """

    matrix: str
    full_range: bool
    primaries: int | None = None
    transfer: int | None = None
    tagged: bool = True

    @property
    def matrix_tag(self) -> int:
        """The H.273 number of the matrix."""
        return _TAG_OF_MATRIX[self.matrix]

    @property
    def hdr(self) -> str | None:
        """PQ or HLG; None for ordinary clips."""
        return _HDR_TRANSFERS.get(self.transfer or UNSPECIFIED)


def guess_matrix(width: int, height: int) -> str:
    """What players take an untagged clip for: BT.709 from 1280 wide or above 576 lines, else 601.

    mpv's rule. It is also why a sink tags what it writes: an untagged clip of 180 lines enlarged
    to 720 would change its guess, and with it its colours.
    """
    return "bt709" if width >= 1280 or height > 576 else "bt601"


def read_colour(
    *,
    pix_fmt: str,
    matrix_tag: int,
    range_tag: int,
    primaries: int,
    transfer: int,
    width: int,
    height: int,
    name: str,
) -> Colour:
    """The colour of a stream from its H.273 tags. Errors: TecoError for a matrix we cannot undo."""
    ends = (
        None if primaries in (0, UNSPECIFIED) else primaries,
        None if transfer in (0, UNSPECIFIED) else transfer,
    )
    if av.VideoFormat(pix_fmt).is_rgb or pix_fmt == "pal8":
        return Colour("rgb", True, *ends)
    # The yuvj formats are the old way to say full range.
    full = range_tag == _FULL or pix_fmt.startswith("yuvj")
    if matrix_tag in (0, UNSPECIFIED):
        return Colour(guess_matrix(width, height), full, *ends, tagged=False)
    if matrix_tag not in _MATRIX_OF_TAG:
        raise TecoError(
            f"{name} uses colour matrix {matrix_tag} (H.273), expected one of "
            + ", ".join(f"{n} {m}" for n, m in _MATRIX_OF_TAG.items() if m != "rgb"),
            hint="convert it first: ffmpeg -i IN -vf scale=out_color_matrix=bt709 -c:a copy OUT",
        )
    return Colour(_MATRIX_OF_TAG[matrix_tag], full, *ends)


def output_colour(colour: Colour, pix_fmt: str, width: int, height: int) -> Colour:
    """The colour to write with: the source's, made explicit, or RGB's where the format is RGB.

    RGB sources (pictures, screen recordings) become limited-range BT.709 in Y'CbCr formats.
    """
    if av.VideoFormat(pix_fmt).is_rgb:
        return Colour("rgb", True, colour.primaries, colour.transfer)
    if colour.matrix == "rgb":
        return Colour("bt709", False, colour.primaries or 1, colour.transfer or 1)
    return Colour(colour.matrix, colour.full_range, colour.primaries, colour.transfer)


def siting_of(codec: str) -> Siting:
    """Where chroma lies in what a codec holds, if nothing else is said; libav's name of the codec,
    not of an encoder or a decoder."""
    return "center" if codec in _CENTRED else "left"


def siting_read(frame: av.VideoFrame, codec: str, *, centred: bool = False) -> Siting:
    """Where the chroma of a decoded frame lies.

    Args:
        frame: as decoded; left as it is.
        codec: libav's name of the codec.
        centred: the container says that it is.

    PyAV has no word on what a frame says of it, but swscale goes by that: a small frame that says
    the same is filled with a slope of each colour, and what becomes of it shows where the slopes
    are taken to lie. What is centred there may not have been said: libav decides it for 4:2:0 of
    :data:`_SAID` alone, and of H.264 where the stream has a description (VUI), which then has a
    word on colour or range as well.
    """
    if codec in _CENTRED or not any(_subsampled(frame.format)):
        return siting_of(codec)
    bt601 = _SWS_OF_MATRIX["bt601"]
    small = frame
    for side in (32, 16):  # one of them is not the frame's own, so that this is another frame
        small = VideoReformatter().reformat(
            small, width=side, height=side, format="yuv420p", src_colorspace=bt601,
            dst_colorspace=bt601, threads=1,
        )  # fmt: skip
    slope = (72 + 16 * np.arange(8, dtype=np.uint8))[None].repeat(8, 0)
    planes: tuple[Any, ...] = small.planes
    for plane, values in zip(planes, (np.full((16, 16), 128), slope, slope.T), strict=True):
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        lines[:, : plane.width] = values
    rgb = VideoReformatter().reformat(
        small, format="rgb24", src_colorspace=bt601, src_color_range=_FULL, dst_color_range=_FULL,
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND, threads=1,
    )  # fmt: skip
    middle = rgb.to_ndarray()[4:12, 4:12].astype(np.float64)
    # Cb of the first sample's column is 72, and rises by 8 a pixel; Cr does from row to row.
    blue, red = (middle[..., 2] - 128) / 1.772 + 56, (middle[..., 0] - 128) / 1.402 + 56
    at = np.arange(4, 12)
    across = float((at - blue.mean(0) / 8).mean())
    down = float((at - red.mean(1) / 8).mean())
    column = "left" if across < 0.25 else "center"
    row = "top" if down < 0.25 else "bottom" if down > 0.75 else ""
    if not row:
        told = codec in _SAID and is_420(frame.format.name) and _describes_colour(frame)
        return "center" if column == "center" and (centred or told) else "left"
    named: dict[str, Siting] = {
        "topleft": "topleft", "topcenter": "top", "bottomleft": "bottomleft",
        "bottomcenter": "bottom",
    }  # fmt: skip
    return named[row + column]


def _describes_colour(frame: av.VideoFrame) -> bool:
    """Whether a frame says anything of its matrix or range."""
    return frame.colorspace not in (0, UNSPECIFIED) or frame.color_range not in (0,)


class _Sited:
    """Says of frames where their chroma lies, or is to lie in what is made of them: swscale goes
    by what its input says. PyAV cannot say it of a frame, but a filter can; no sample is copied."""

    def __init__(self, siting: Siting) -> None:
        self._siting = siting
        self._graph: Any = None
        self._kind: tuple[int, int, str] | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same samples in another frame."""
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            self._graph, self._kind = self._begin(*kind), kind
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _begin(self, width: int, height: int, pix_fmt: str) -> Any:
        graph = Graph()
        source = graph.add(
            "buffer",
            f"video_size={width}x{height}:pix_fmt={pix_fmt}:time_base=1/25:pixel_aspect=1/1",
        )
        filtered = graph.add("setparams", f"chroma_location={self._siting}")
        sink = graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        return graph


def _subsampled(pix_fmt: av.VideoFormat) -> tuple[bool, bool]:
    """Whether there is less chroma than luma, across and down."""
    return pix_fmt.chroma_width(64) < 64, pix_fmt.chroma_height(64) < 64


def is_420(pix_fmt: str) -> bool:
    """Whether there is less chroma than luma both ways: codecs say of no other where it lies."""
    return all(_subsampled(av.VideoFormat(pix_fmt)))


class Converter:
    """RGB <-> a clip's pixel format, for one colour. Keeps swscale's tables between frames.

    Args:
        colour: matrix and range, of what is read and what is written.
        siting: where chroma lies in frames that are read, and is put in frames that are written;
            of no meaning where each pixel has its own.
    """

    def __init__(self, colour: Colour, siting: Siting = "left") -> None:
        self.colour = colour
        self.siting: Siting = siting
        self._sws = VideoReformatter()
        self._read, self._written = _Sited(siting), _Sited(siting)

    def to_rgb(
        self, frame: av.VideoFrame, *, deep: bool = False, size: tuple[int, int] | None = None
    ) -> Any:
        """A decoded frame of any format -> RGB, full range, C-contiguous.

        Args:
            frame: as decoded.
            deep: uint16, 0 to 65535, instead of uint8.
            size: (width, height) to scale it to; None leaves its own.

        Returns:
            (H, W, 3) uint8, or uint16 if deep.
        """
        matrix = _SWS_OF_MATRIX[self.colour.matrix]
        width, height = size or (frame.width, frame.height)
        if any(_subsampled(frame.format)):
            frame = self._read(frame)
        rgb = self._sws.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if deep else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL if self.colour.full_range else _LIMITED,
            dst_color_range=_FULL,
            interpolation=_FLAGS,
            threads=1,
        )
        pixels: Any = np.ascontiguousarray(rgb.to_ndarray())
        if frame.format.name.startswith("gray") and not self.colour.full_range:
            # swscale takes grey for full range whatever it is told.
            if deep:
                wide = (pixels.astype(np.float32) - 16 * 257) * (255 / 219)
                return np.clip(np.rint(wide), 0, 65535).astype(np.uint16)
            pixels = _FROM_LIMITED[pixels]
        return pixels

    def to_planes(self, frame: av.VideoFrame, layout: Layout) -> npt.NDArray[np.uint8] | None:
        """A decoded frame of 8-bit 4:2:0 and even sides, left-sited, -> a packed picture of the
        same samples; None of any other."""
        kind = frame.format.name
        if self.siting != "left":
            return None
        if kind not in (*OF_PLANES, "yuvj420p") or frame.width % 2 or frame.height % 2:
            return None
        if kind != PIX_FMT[layout] and (kind, layout) != ("yuvj420p", "I420"):
            # Of one size, range and matrix this only moves samples.
            matrix = _SWS_OF_MATRIX[self.colour.matrix]
            ends = _FULL if self.colour.full_range else _LIMITED
            frame = self._sws.reformat(
                frame, format=PIX_FMT[layout], src_colorspace=matrix, dst_colorspace=matrix,
                src_color_range=ends, dst_color_range=ends, threads=1,
            )  # fmt: skip
        packed: Any = frame.to_ndarray()
        return np.ascontiguousarray(packed)

    def frame_of(
        self, pixels: npt.NDArray[Any], layout: Layout | None, pix_fmt: str
    ) -> av.VideoFrame:
        """RGB pixels, or the packed picture of a layout in this colour, as a frame of pix_fmt.

        Of planes, pix_fmt must be one of :data:`OF_PLANES`; samples stay what they are. Their
        height is a multiple of 4, as that of every enlarged picture is: PyAV rounds others down.
        Where chroma is to be centred, they go by way of RGB.
        """
        if layout is None:
            return self.from_rgb(pixels, pix_fmt)
        given = PIX_FMT[layout]
        assert frame_size(pixels)[0] % 4 == 0
        frame = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), given)
        if self.siting != "left":
            return self.from_rgb(Converter(self.colour).to_rgb(frame), pix_fmt)
        if pix_fmt != given:
            frame = self._sws.reformat(frame, format=pix_fmt, threads=1)
        return self._tagged(frame)

    def from_rgb(self, pixels: npt.NDArray[Any], pix_fmt: str) -> av.VideoFrame:
        """uint8 or uint16 (H, W, 3) RGB full range -> a frame of pix_fmt, carrying the colour's
        tags."""
        matrix = _SWS_OF_MATRIX[self.colour.matrix]
        kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
        # The frame borrows this memory, which therefore has a name.
        whole = np.ascontiguousarray(pixels)
        source = av.VideoFrame.from_numpy_buffer(whole, kind)
        if any(_subsampled(av.VideoFormat(pix_fmt))):
            source = self._written(source)
        frame = self._sws.reformat(
            source,
            format=pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL,
            dst_color_range=_FULL if self.colour.full_range else _LIMITED,
            interpolation=_FLAGS,
            threads=1,
        )
        return self._tagged(frame)

    def _tagged(self, frame: av.VideoFrame) -> av.VideoFrame:
        frame.colorspace = self.colour.matrix_tag
        frame.color_range = _FULL if self.colour.full_range else _LIMITED
        frame.color_primaries = self.colour.primaries or UNSPECIFIED
        frame.color_trc = self.colour.transfer or UNSPECIFIED
        return frame


def inverse(aspect: Fraction | None) -> Fraction | None:
    """A pixel's aspect after a quarter turn."""
    return None if not aspect else 1 / aspect
