"""The GStreamer element: a plugin folder for the system's GStreamer and its Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from teco.players.base import Emission, EmitRequest, accepts, model_files
from teco.players.gst.formats import FORMATS

PLUGIN = "python/teco_gst.py"

# Roots come first: what runs in the player is the teco that wrote the file.
_TEMPLATE = '''\
"""The GStreamer element `teco`. GST_PLUGIN_PATH is the folder above this file's."""

import site
import sys
from pathlib import Path

VERSION = {version!r}
if sys.version_info[:2] != VERSION:
    raise ImportError(
        f"teco was installed for Python {{VERSION[0]}}.{{VERSION[1]}}, GStreamer runs "
        f"{{sys.version_info[0]}}.{{sys.version_info[1]}}: install teco for that one and emit again"
    )
site.addsitedir({site!r})
sys.path[:0] = {roots!r}

from teco.players.gst import element  # noqa: E402

element.DEFAULTS.update(
    {{
        "model": str(Path(__file__).resolve().parents[1] / {model!r}),
        "runtime": {runtime!r},
        "threads": {threads!r},
        "pre-roll": {pre_roll!r},
    }}
)
__gstelementfactory__ = element.__gstelementfactory__
'''


@dataclass(frozen=True, kw_only=True)
class GStreamer:
    """See the module."""

    name: str = "gstreamer"
    summary: str = "the element `teco` for gst-launch, playbin and applications"

    def text(self, request: EmitRequest) -> str | None:
        return None

    def emission(self, request: EmitRequest) -> Emission:
        plugin = _TEMPLATE.format(
            version=tuple(sys.version_info[:2]),
            site=sysconfig.get_path("purelib"),
            roots=roots(),
            model=next(iter(model_files(request.model))),
            runtime=request.runtime,
            threads=request.threads or 0,
            pre_roll=request.pre_roll,
        )
        run = "env -u VIRTUAL_ENV -u PYTHONPATH PATH=/usr/bin:$PATH GST_PLUGIN_PATH=$PWD"
        return Emission(
            main=PLUGIN,
            files={PLUGIN: plugin},
            commands=(
                f'{run} gst-play-1.0 --videosink="teco ! videoconvert ! autovideosink" in.mp4',
                f"{run} gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! teco ! "
                "videoconvert ! autovideosink",
            ),
            notes=(
                "In applications: playbin's property `video-filter`, or anywhere in a pipeline. "
                f"The element takes and gives {', '.join(FORMATS)}; `gst-inspect-1.0 teco` lists "
                "its properties: model, runtime, threads, pre-roll, reverse-warm-up, scene-cuts, "
                "deadline.\n\n"
                "It runs in the Python that GStreamer was built with, the system's, hence `PATH` "
                f"and `-u VIRTUAL_ENV`. teco is imported from {sysconfig.get_path('purelib')}, so "
                f"that both must be Python {'.'.join(map(str, sys.version_info[:2]))}. Debian: "
                "`apt install gstreamer1.0-python3-plugin-loader python3-gst-1.0 "
                "gir1.2-gst-plugins-base-1.0`. GStreamer 1.22 prints one line about a floating "
                "element for every element written in Python; nothing follows from it. After this "
                "folder has moved, delete `~/.cache/gstreamer-1.0`."
            ),
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        with tempfile.TemporaryDirectory(prefix="teco-emit-") as scratch:
            env = environment(folder, Path(scratch) / "registry.bin")
            if reason := why_not(env):
                return f"not tried: {reason}"
            h, w = request.model.static_size or (24, 32)
            accepts(
                [
                    "gst-launch-1.0", "-q", "videotestsrc", "num-buffers=2", "!",
                    f"video/x-raw,format=I420,width={w},height={h}", "!", "teco", "!", "fakesink",
                ],
                PLUGIN, env=env,
            )  # fmt: skip
        return "gst-launch-1.0 took two frames through it"


def roots() -> list[str]:
    """Folders to import teco from that are not this environment's site-packages."""
    import teco
    import teco_calibration
    import teco_models

    packages = (teco, teco_models, teco_calibration)
    found = [str(Path(str(package.__file__)).parents[1]) for package in packages]
    return [path for path in dict.fromkeys(found) if path != sysconfig.get_path("purelib")]


def environment(folder: Path, registry: Path) -> dict[str, str]:
    """For GStreamer programs: this plugin folder, a registry of its own, the system's Python.

    An embedded Python takes the first python3 on the PATH for its home, and believes VIRTUAL_ENV.
    """
    dropped = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {
        **kept,
        "PATH": os.pathsep.join(["/usr/bin", "/bin", kept.get("PATH", "")]),
        "GST_PLUGIN_PATH": str(folder),
        "GST_REGISTRY": str(registry),
    }


def why_not(env: dict[str, str]) -> str | None:
    """None where GStreamer and its loader of Python plugins are here, else one sentence."""
    for program in ("gst-launch-1.0", "gst-inspect-1.0"):
        if shutil.which(program, path=env["PATH"]) is None:
            return f"there is no {program} here"
    loader = subprocess.run(
        ["gst-inspect-1.0", "python"], env=env, capture_output=True, text=True, check=False
    )
    if loader.returncode != 0:
        return (
            "GStreamer's loader of Python plugins is not here (gstreamer1.0-python3-plugin-loader)"
        )
    version = subprocess.run(
        ["python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
        env=env, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version != ours:
        return f"GStreamer's Python is {version}, this teco is installed for {ours}"
    return None
