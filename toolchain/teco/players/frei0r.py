"""The frei0r filter, compiled, with everything it needs beside it: for stock ffmpeg and mpv."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from teco.players import native
from teco.players.base import Emission, EmitRequest, accepts

PLUGIN = "teco.so"
SOURCE = "frei0r/teco_frei0r.c"

_OPTIONS = ("-DTECO_FREI0R=ON", "-DTECO_EXAMPLE=OFF")
_BUILD = (f"cmake -B build {' '.join(_OPTIONS)} && cmake --build build && cp build/{PLUGIN} .",)


def enlarged(scale: int) -> str:
    """The filter, and what must come before it for a model of this scale."""
    return f"scale=iw*{scale}:ih*{scale}:flags=neighbor,format=rgba,frei0r=filter_name=teco"


# ffmpeg takes chroma to lie between columns where nothing else is said; H.264 and HEVC, and so the
# swscale that teco reads clips with, put it on the left one.
_RGB = "in_h_chr_pos=0:flags=bicubic+accurate_rnd+full_chroma_inp+full_chroma_int,format=rgb24"


def exact(scale: int) -> str:
    """The same with the conversion to RGB that ``teco upscale`` uses."""
    return f"scale={_RGB},{enlarged(scale)}"


_TAGGED = (
    "scale=out_color_matrix=bt709:out_range=tv:out_h_chr_pos=0:"
    "flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p"
)


@dataclass(frozen=True, kw_only=True)
class Frei0r:
    """See the module."""

    name: str = "frei0r"
    summary: str = "a filter that stock ffmpeg, mpv and GStreamer load"

    def text(self, request: EmitRequest) -> str | None:
        return None

    def emission(self, request: EmitRequest) -> Emission:
        files: dict[str, str | bytes | Path] = {
            **native.onnx_files(request.model),
            **native.runtime_files(),
            **native.sources("include", "src", "frei0r"),
        }
        build: tuple[str, ...] = _BUILD
        if native.why_no_compiler("frei0r.h") is None:
            files[PLUGIN] = native.compiled(native.SOURCE, PLUGIN, *_OPTIONS)
            build = ()
        scale = request.model.variant.scale
        return Emission(
            main=PLUGIN if PLUGIN in files else SOURCE,
            files=files,
            commands=(
                *build,
                "export FREI0R_PATH=$PWD",
                f'mpv --vf="lavfi=[{enlarged(scale)}]" in.mp4',
                f'ffmpeg -i in.mp4 -vf "{exact(scale)},{_TAGGED}" -colorspace bt709 '
                "-color_primaries bt709 -color_trc bt709 -c:a copy out.mp4",
                "gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! videoscale "
                "method=nearest-neighbour ! video/x-raw,format=RGBA,"
                f"width={320 * scale},height={180 * scale} ! "
                "frei0r-filter-teco ! videoconvert ! autovideosink",
            ),
            notes=(
                "frei0r filters cannot change a picture's size: it is enlarged by nearest "
                "neighbour first, and the filter reads one pixel of each block. In the GStreamer "
                f"command the numbers are {scale} times the clip's size. The filter takes "
                f"`{native.MODEL}` beside itself, unless `TECO_MODEL` or its parameter `model` "
                "names another; ONNX Runtime's library likewise, by `TECO_ORT_LIBRARY`. The "
                "conversion before it in ffmpeg's command is the one of `teco upscale`.\n\n"
                f"`{PLUGIN}` is compiled from the sources here and is under GPL-3.0-or-later as a "
                "whole (`frei0r/LICENCE.md`); ONNX Runtime is under MIT (`onnxruntime/`)."
            ),
            with_model=False,
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        if reason := native.why_no_compiler("frei0r.h"):
            return f"not compiled: {reason} (apt install cmake gcc frei0r-plugins-dev)"
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None:
            return "not tried: there is no ffmpeg here"
        if not has_filter(ffmpeg):
            return "not tried: the ffmpeg here was built without frei0r"
        h, w = request.model.static_size or (24, 32)
        accepts(
            [
                ffmpeg, "-v", "error", "-f", "lavfi", "-i", f"testsrc=size={w}x{h}:rate=25",
                "-frames:v", "2", "-vf", enlarged(request.model.variant.scale), "-f", "null", "-",
            ],
            PLUGIN, env=environment(folder),
        )  # fmt: skip
        return "ffmpeg took two frames through it"


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with the folder's filter, model and library, and no others."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TECO_MODEL", "TECO_ORT_LIBRARY")}
    return {**kept, "FREI0R_PATH": str(folder)}


def has_filter(ffmpeg: str) -> bool:
    """Whether this ffmpeg was built with frei0r."""
    command = [ffmpeg, "-hide_banner", "-filters"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return any(line.split()[1:2] == ["frei0r"] for line in listed.stdout.splitlines())
