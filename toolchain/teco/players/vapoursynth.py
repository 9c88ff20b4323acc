"""VapourSynth: a script for vspipe, editors, and mpv builds that have its filter."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from teco.core.machine import install_elsewhere
from teco.players.base import Emission, EmitRequest, accepts, model_files
from teco_models import zoo

SCRIPT = "sr.vpy"

_TEMPLATE = '''\
"""Enlarge {scale} times with {name}. Needs teco in the Python that VapourSynth runs on.

vspipe -a source=in.mp4 -c y4m {script} - | ffmpeg -i - -i in.mp4 -map 0:v -map 1:a? out.mp4
mpv --vf=vapoursynth={script}:concurrent-frames=1 in.mp4
"""
{imports}
import vapoursynth as vs

from teco.vs import upscale

clip = globals().get("video_in")  # mpv gives the clip, which it can only play in order
serial = clip is not None
if not serial:
    if "source" not in globals():
        raise vs.Error("no clip: add -a source=FILE to vspipe's command")
    clip = vs.core.bs.VideoSource(source)  # noqa: F821  # pip install vapoursynth-bestsource
upscale({arguments}).set_output()
'''

_TRIAL = """\
import runpy
import vapoursynth as vs

blank = vs.core.std.BlankClip(format=vs.YUV420P8, width={w}, height={h}, length=2)
blank = blank.std.SetFrameProps(_Matrix=1, _ColorRange=1)
runpy.run_path({script!r}, init_globals={{"video_in": blank}})
"""


@dataclass(frozen=True, kw_only=True)
class VapourSynth:
    """See the module."""

    name: str = "vapoursynth"
    summary: str = "a script for vspipe, editors and mpv's VapourSynth filter"

    def text(self, request: EmitRequest) -> str | None:
        model = request.spec
        if zoo.find(model) is None:
            model = str(Path(model).resolve())
        return script(request, repr(model))

    def emission(self, request: EmitRequest) -> Emission:
        main = next(iter(model_files(request.model)))
        beside = f"str(Path(__file__).resolve().with_name({main!r}))"
        return Emission(
            main=SCRIPT,
            files={SCRIPT: script(request, beside, "from pathlib import Path\n")},
            commands=(
                f"vspipe -a source=in.mp4 -c y4m {SCRIPT} - | "
                "ffmpeg -i - -i in.mp4 -map 0:v -map 1:a? -c:a copy -c:v libx264 out.mp4",
                f"mpv --vf=vapoursynth={SCRIPT}:concurrent-frames=1 in.mp4",
            ),
            notes=(
                "teco must be installed in the Python that VapourSynth runs on, 3.12 or newer for "
                "PyPI's:\n\n"
                f"```sh\n{install_elsewhere('players')}\nvapoursynth config\n```\n\n"
                "mpv has the filter where it was built with VapourSynth (`mpv --vf=help` says so)."
            ),
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        vspipe = find_vspipe()
        if vspipe is None:
            return "not tried: there is no vspipe here"
        h, w = request.model.static_size or (32, 48)
        with tempfile.TemporaryDirectory(prefix="teco-emit-") as scratch:
            trial = Path(scratch) / "trial.vpy"
            trial.write_text(_TRIAL.format(w=w, h=h, script=str(folder / SCRIPT)))
            accepts([vspipe, str(trial), "."], SCRIPT)
        return "vspipe ran it on two frames"


def script(request: EmitRequest, model: str, imports: str = "") -> str:
    """The script's text.

    Args:
        request: runtime, threads and pre-roll.
        model: a Python expression for the model.
        imports: what that expression needs.
    """
    given = {"runtime": request.runtime, "threads": request.threads, "pre_roll": request.pre_roll}
    usual = {"runtime": "auto", "threads": None, "pre_roll": 0}
    options = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
    return _TEMPLATE.format(
        name=request.title,
        scale=request.model.variant.scale,
        script=SCRIPT,
        imports=imports,
        arguments=", ".join(["clip", f"model={model}", *options, "serial=serial"]),
    )


def find_vspipe() -> str | None:
    """vspipe beside this Python, where pip puts it, or on the PATH."""
    beside = Path(sys.executable).with_name("vspipe")
    return str(beside) if beside.is_file() else shutil.which("vspipe")
