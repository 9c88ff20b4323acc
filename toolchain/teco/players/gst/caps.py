# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Caps: which raw video goes in and out, and what GStreamer says of it in teco's terms."""

from __future__ import annotations

from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstVideo  # noqa: E402

from teco.core.errors import TecoError  # noqa: E402
from teco.players.gst.formats import FORMATS, Layout  # noqa: E402
from teco.video.colour import Colour, Siting, guess_matrix  # noqa: E402

MOST = 2**15 - 1
"""GStreamer's own limit for raw video is higher, its rounding up to strides is not."""

_MATRICES = {
    GstVideo.VideoColorMatrix.RGB: "rgb",
    GstVideo.VideoColorMatrix.FCC: "fcc",
    GstVideo.VideoColorMatrix.BT709: "bt709",
    GstVideo.VideoColorMatrix.BT601: "bt601",
    GstVideo.VideoColorMatrix.SMPTE240M: "smpte240m",
    GstVideo.VideoColorMatrix.BT2020: "bt2020nc",
}


def raw_video(least: int, most: int) -> Gst.Caps:
    """Everything that the element takes or gives, with sides from least to most."""
    formats = ", ".join(FORMATS)
    return Gst.Caps.from_string(
        f"video/x-raw, format=(string){{ {formats} }}, width=(int)[ {least}, {most} ], "
        f"height=(int)[ {least}, {most} ], framerate=(fraction)[ 0/1, 2147483647/1 ]"
    )


def transformed(
    caps: Gst.Caps, scale: int, larger: bool, template: Gst.Caps, chosen: Gst.Caps | None
) -> Gst.Caps:
    """What the other pad can have.

    Args:
        caps: of one pad.
        scale: of the model.
        larger: that one is the sink's, so that the other one's pictures are larger.
        template: of the other pad.
        chosen: what of it is asked for, None for all.
    """
    result = Gst.Caps.new_empty()
    for n in range(caps.get_size()):
        structure = caps.get_structure(n).copy()
        sides = [_scaled(structure, name, scale, larger) for name in ("width", "height")]
        if all(sides):
            result.append_structure(structure)
    # What is not raw video of ours went through; the template takes it out again.
    result = result.intersect_full(template, Gst.CapsIntersectMode.FIRST)
    if chosen is not None:
        result = chosen.intersect_full(result, Gst.CapsIntersectMode.FIRST)
    return result


def fixated(caps: Gst.Caps, other: Gst.Caps, incoming: bool) -> Gst.Caps:
    """One of ``other``, for a pad that has ``caps``; incoming: ``caps`` are the sink's."""
    if other.is_empty():
        return other
    structure = other.get_structure(0).copy()
    if incoming and not caps.get_structure(0).has_field("colorimetry"):
        # What is not said is guessed from the size, which changes here.
        info = GstVideo.VideoInfo.new_from_caps(caps)
        text = info.colorimetry.to_string() if info is not None else None
        if text:
            structure.set_value("colorimetry", text)
    result = Gst.Caps.new_empty()
    result.append_structure(structure)
    return result.fixate()


def _scaled(structure: Gst.Structure, name: str, scale: int, larger: bool) -> bool:
    """Change a side to the other pad's, fixed or a range; False where there is no such size."""
    value = structure.get_value(name)
    if value is None:
        return True
    if isinstance(value, int):
        if not larger and value % scale:
            return False
        value = value * scale if larger else value // scale
        structure.set_value(name, value)
        return 0 < value <= MOST
    if isinstance(value, Gst.IntRange):
        least, most = value.range.start, value.range.stop
        if larger:
            least, most = min(least, MOST // scale) * scale, min(most, MOST // scale) * scale
        else:
            least, most = -(-least // scale), most // scale
        if least > most:
            return False
        text = f"{least}" if least == most else f"[ {least}, {most} ]"
        structure.set_value(name, _value(text))
        return True
    structure.remove_field(name)  # a list: the template's range, and the peer decides
    return True


def _value(text: str) -> Any:
    """A GStreamer value from its text; ranges cannot be made otherwise from Python."""
    structure, _ = Gst.Structure.from_string(f"x, v=(int){text}")
    return structure.get_value("v")


def layout_of(info: GstVideo.VideoInfo) -> Layout:
    """Where planes lie where a buffer says nothing."""
    return Layout(
        GstVideo.VideoFormat.to_string(info.finfo.format),
        info.width,
        info.height,
        tuple(info.stride[: info.finfo.n_planes]),
        tuple(info.offset[: info.finfo.n_planes]),
    )


def placed(buffer: Gst.Buffer, usual: Layout) -> Layout:
    """Where planes lie in this buffer, which may say so itself."""
    meta = GstVideo.buffer_get_video_meta(buffer)
    if meta is None:
        return usual
    n = meta.n_planes
    return Layout(usual.format, usual.width, usual.height, tuple(meta.stride[:n]),
                  tuple(meta.offset[:n]))  # fmt: skip


def check_progressive(info: GstVideo.VideoInfo) -> None:
    """Raise TecoError for video whose frames are two fields of different moments.

    Mixed video passes: most of it is progressive film whose container promises nothing.
    """
    mode = info.interlace_mode
    if mode not in (GstVideo.VideoInterlaceMode.PROGRESSIVE, GstVideo.VideoInterlaceMode.MIXED):
        raise TecoError(
            f"the video is interlaced ({GstVideo.video_interlace_mode_to_string(mode)}), expected "
            "progressive frames",
            hint="take its fields apart first: ... ! deinterlace ! teco ! ...",
        )


def colour_of(info: GstVideo.VideoInfo) -> Colour:
    """Matrix and range; what is not said is guessed as for clips."""
    if GstVideo.VideoFormat.to_string(info.finfo.format) == "RGB":
        return Colour("rgb", True)
    matrix = _MATRICES.get(info.colorimetry.matrix)
    if matrix is None or matrix == "rgb":
        matrix = guess_matrix(info.width, info.height)
    # GST_VIDEO_COLOR_RANGE_0_255 is 1; Python has no attribute that begins with a digit.
    return Colour(matrix, int(info.colorimetry.range) == 1)


def siting_of(caps: Gst.Caps) -> Siting:
    """Where chroma lies (``chroma-site``); on the left where that is not said, as for upscale.

    GstVideoInfo does not tell: of caps without colorimetry it guesses by the number of rows, even
    where they say it (gst_video_info_from_caps, 1.22).
    """
    named = caps.get_structure(0).get_string("chroma-site")
    said = int(GstVideo.video_chroma_site_from_string(named)) if named else 0
    if said & int(GstVideo.VideoChromaSite.NONE):
        return "center"
    if said & int(GstVideo.VideoChromaSite.V_COSITED):
        return "topleft" if said & int(GstVideo.VideoChromaSite.H_COSITED) else "top"
    return "left"
