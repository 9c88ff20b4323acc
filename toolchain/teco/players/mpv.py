"""mpv with the VapourSynth filter: the script and a profile that switches it on and off."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from teco.players.base import Emission, EmitRequest, accepts
from teco.players.vapoursynth import SCRIPT, VapourSynth

CONF = "teco.conf"

# concurrent-frames: the recurrence is serial, and frames asked for beyond the next one only wait.
_PROFILE = """\
# Use it with: mpv --include=FOLDER/{conf} --profile=teco CLIP, started in this folder.
[teco]
profile-desc=enlarge {scale} times with {name}
vf=vapoursynth={script}:concurrent-frames=1:buffered-frames=4
"""


@dataclass(frozen=True, kw_only=True)
class Mpv:
    """See the module."""

    name: str = "mpv"
    summary: str = "a profile for an mpv that has the VapourSynth filter"

    def text(self, request: EmitRequest) -> str | None:
        return None

    def emission(self, request: EmitRequest) -> Emission:
        inner = VapourSynth().emission(request)
        profile = _PROFILE.format(
            conf=CONF, name=request.title, script=SCRIPT, scale=request.model.variant.scale
        )
        return Emission(
            main=CONF,
            files={**inner.files, CONF: profile},
            commands=(f"mpv --include={CONF} --profile=teco in.mp4",),
            notes=(
                f"{inner.notes}\n\nA stock mpv without the filter plays through `teco play`, or "
                "through the frei0r plugin (`teco emit frei0r`)."
            ),
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        mpv = shutil.which("mpv")
        if mpv is None:
            return "not tried: there is no mpv here"
        if not has_filter(mpv):
            return "not tried: the mpv here was built without the VapourSynth filter"
        h, w = request.model.static_size or (32, 48)
        with tempfile.TemporaryDirectory(prefix="teco-emit-") as scratch:
            log = Path(scratch) / "log"
            accepts(
                [
                    mpv, "--no-config", f"--include={CONF}", "--profile=teco", "--vo=null",
                    "--ao=null", f"--log-file={log}", "--frames=2",
                    f"av://lavfi:testsrc=size={w}x{h}:rate=25,format=yuv420p",
                ],
                CONF, cwd=folder,
            )  # fmt: skip
        return "mpv played two frames through it"


def has_filter(mpv: str) -> bool:
    """Whether this mpv was built with the VapourSynth filter."""
    listed = subprocess.run([mpv, "--vf=help"], capture_output=True, text=True, check=False)
    return any(line.split()[:1] == ["vapoursynth"] for line in listed.stdout.splitlines())
