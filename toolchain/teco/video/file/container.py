"""Opening a clip of which nothing is known but its name, and what containers say of themselves.

libav opens whatever it is given: playlists that name other files, network addresses, devices. A
clip here is one file: its format is one of a closed list, and nothing but that file is read for it.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.error import FFmpegError
from av.stream import Disposition

from teco.core.errors import USAGE, TecoError
from teco.video.colour import UNSPECIFIED, Colour

FORMATS = (
    "aea", "amv", "apng", "asf", "asf_o", "av1", "avi", "avs2", "avs3", "cavsvideo", "cine",
    "dhav", "dirac", "dnxhd", "dv", "evc", "flic", "flv", "gif", "gxf", "h261", "h263", "h264",
    "hevc", "ifv", "ivf", "jpegxl_anim", "kux", "live_flv", "lvf", "m4v", "matroska,webm", "mjpeg",
    "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts", "mpegtsraw", "mpegvideo", "mpjpeg", "mtv", "mv",
    "mxf", "nsv", "nut", "nuv", "obu", "ogg", "pva", "r3d", "rm", "roq", "smk", "swf", "vc1",
    "vc1test", "vividas", "vivo", "vvc", "webp", "wtv", "yuv4mpegpipe",
    *(f"{picture}_pipe" for picture in (
        "bmp", "dds", "dpx", "exr", "gif", "hdr", "j2k", "jpeg", "jpegls", "jpegxl", "pam", "pbm",
        "pcx", "pgm", "png", "ppm", "psd", "qoi", "sgi", "sunrast", "tiff", "webp", "xbm", "xpm",
    )),
)  # fmt: skip
"""libav's names of the formats that are one file of moving or still pictures.

Left out are all whose reader opens what the file names (hls, dash, concat, image2, imf, sdp and so
on), and those that are taken for something by their name's ending alone (rawvideo).
"""

_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}

_METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {
    "metadata_errors": "replace"
}  # fmt: skip
"""A title that is no UTF-8 is no reason not to open a clip. PyAV 19 keeps such bytes by itself, and
no longer knows the option by which older ones do not raise."""


def open_container(path: Path) -> Any:
    """PyAV's input container.

    Raises:
        TecoError: there is no such file, it is no video, or its format is one that reads other
            files.
    """
    if not path.exists():
        if match := re.match(r"([a-z][a-z0-9+.-]+):/+(?=.)", str(path), re.IGNORECASE):
            address = f"{match[1]}://{str(path)[match.end() :]}"  # a path has lost a slash of it
            raise TecoError(
                f"{address} is an address, and what is enlarged is a file",
                hint=f"fetch it first: ffmpeg -i {shlex.quote(address)} -c copy clip.mkv",
                exit_code=USAGE,
            )
        raise TecoError(
            f"there is no file {path}",
            hint="check the spelling; relative names start at the current folder",
            exit_code=USAGE,
        )
    # The prefix keeps libav from taking a name with a colon for a network address.
    address = f"file:{path}"
    try:
        return av.open(address, options=_OPTIONS, **_METADATA)
    except PermissionError as error:
        raise TecoError(f"{path} is not readable", hint=f"ls -l {path}") from error
    except (FFmpegError, ValueError) as error:
        whole = _whole_boxes(path)
        if 0 < whole < path.stat().st_size:
            # libav reads the index of every fragment before the first frame, and gives up on a
            # recording that was cut inside one. What comes before it can be played.
            with contextlib.suppress(FFmpegError, ValueError):
                part = f"subfile,,start,0,end,{whole},,:{address}"
                options = _OPTIONS | {"protocol_whitelist": "file,subfile"}
                return av.open(part, options=options, **_METADATA)
        if _is_list(path):
            raise TecoError(
                f"{path} is a list of other files, which are not opened for it",
                hint=f"join them first: ffmpeg -i {path} -c copy joined.mkv",
            ) from error
        reason = "it is empty" if not path.stat().st_size else getattr(error, "strerror", None)
        raise TecoError(
            f"{path} is not a video that can be opened ({reason or error})",
            hint="the file is damaged, cut short, or something else by another name; "
            f"see what it is: file {path}",
        ) from error


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]", b"<MPD"))


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a still beside the film: a cover, or thumbnails."""
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


# --- how much a file says that it holds ------------------------------------------------------


def missing_bytes(path: Path, kind: str) -> int:
    """Bytes that a file is shorter than its container says; 0 where that is not told.

    Args:
        path: of the file.
        kind: libav's name of its format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if "mp4" in kind:
            return max(0, _last_box(file, size)[1] - size)
        if "avi" in kind:
            return max(0, int.from_bytes(file.read(8)[4:], "little") + 8 - size)
        if "matroska" in kind:
            with contextlib.suppress(IndexError):  # nothing but its first bytes
                return max(0, (_segment_end(file) or 0) - size)
    return 0


def _whole_boxes(path: Path) -> int:
    """Bytes of an MP4 file before the box in which it was cut; 0 for a file of another kind."""
    with path.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            return 0
        return _last_box(file, path.stat().st_size)[0]


def _last_box(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the last top-level box of an MP4 file begins and, by its own word, ends (ISO 14496-12,
    4.2)."""
    begin = at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            return at, size
        if length < 8:
            return at, at
        begin, at = at, at + length
    return (begin, at) if at >= size else (at, at)


def _number(data: bytes, at: int) -> tuple[int | None, int]:
    """An EBML size and what comes after it (RFC 8794, 4); all ones is "unknown"."""
    # The leading zeros of the first byte tell the length.
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def _segment(data: bytes) -> tuple[int, int | None] | None:
    """Where the contents of a Matroska file's segment begin, and their size if it is known."""
    if not data.startswith(_EBML):
        return None
    size, at = _number(data, 4)
    at += size or 0
    if data[at : at + 4] != _SEGMENT or len(data) < at + 12:
        return None
    size, at = _number(data, at + 4)
    return at, size


def _segment_end(file: BinaryIO) -> int | None:
    """Where a Matroska file says it ends; None for live files, which do not know."""
    found = _segment(file.read(4096))
    return None if found is None or found[1] is None else found[0] + found[1]


# --- what Matroska says of a picture and PyAV does not tell ----------------------------------

_TRACKS, _ENTRY, _VIDEO, _COLOUR = 0x1654AE6B, 0xAE, 0xE0, 0x55B0
_CROP = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
_SITING_ACROSS, _HALF = 0x55B7, 2


def matroska_crop(path: Path) -> dict[str, int]:
    """Pixels that a Matroska file hides at each side of its first picture track, if any
    (PixelCrop..., RFC 9559, 5.1.4.1.28)."""
    return {_CROP[key]: n for key, n in _picture_track(path).items() if key in _CROP and n}


def matroska_centred(path: Path) -> bool:
    """Whether a Matroska file says that chroma lies between two columns (ChromaSitingHorz, RFC
    9559, 5.1.4.1.28.24)."""
    return _picture_track(path).get(_SITING_ACROSS) == _HALF


def _picture_track(path: Path) -> dict[int, int]:
    """The numbers in the description of a Matroska file's first picture track, by their ids."""
    with path.open("rb") as file:
        data = file.read(1 << 20)  # tracks come before the clusters

    def inside(begin: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
        return ((b, e) for key, b, e in _elements(data, begin, end) if key == wanted)

    def numbers(begin: int, end: int) -> dict[int, int]:
        return {k: int.from_bytes(data[b:e], "big") for k, b, e in _elements(data, begin, end)}

    try:
        found = _segment(data)
        if found is None:
            return {}
        for tracks in inside(found[0], len(data), _TRACKS):
            for entry in inside(*tracks, _ENTRY):
                for video in inside(*entry, _VIDEO):
                    return numbers(*video) | {
                        k: n
                        for colour in inside(*video, _COLOUR)
                        for k, n in numbers(*colour).items()
                    }
    except IndexError:  # damaged; libav has read what there was
        return {}
    return {}


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(id, first byte, end) of the EBML elements in a range."""
    while at < end:
        length = 9 - data[at].bit_length()
        key = int.from_bytes(data[at : at + length], "big")
        size, at = _number(data, at + length)
        if size is None:
            return
        yield key, at, min(at + size, end)
        at += size


def describe_picture(context: Any, colour: Colour, aspect: Fraction | None) -> None:
    """Tell an encoder how its samples stand for colours and what shape they have.

    Args:
        context: of the encoder.
        colour: what frames are written with.
        aspect: width of a pixel by its height; None where it is not known.
    """
    context.colorspace = colour.matrix_tag
    context.color_range = 2 if colour.full_range else 1
    context.color_primaries = colour.primaries or UNSPECIFIED
    context.color_trc = colour.transfer or UNSPECIFIED
    if aspect:
        context.sample_aspect_ratio = aspect


def give_up(container: Any) -> None:
    """Close an output that nobody wants any more; None is none.

    Closing writes a trailer, which fails on a full disk or where the reader has gone.
    """
    if container is not None:
        with contextlib.suppress(FFmpegError, OSError, ValueError):
            container.close()
