"""libteco, its frei0r filter and the GStreamer element, as embeddings and for their own tests."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from libteco import Library, build, ort_library

from teco.model.opening import open_model
from teco.players import emit, frei0r, gstreamer, native
from teco.players.base import EmitRequest

if TYPE_CHECKING:
    from embeddings import Pictures, Play

DRIVER = Path(__file__).with_name("gst_driver.py")


def absent(reason: str | None) -> str | None:
    """The reason to skip; in CI, which installs everything, there is none and the test fails."""
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI installs everything")
    return reason


def why_no_program(*names: str) -> str | None:
    missing = [name for name in names if shutil.which(name) is None]
    return f"there is no {' and no '.join(missing)} here" if missing else None


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="teco-tests-")  # removed when the process ends


@functools.cache
def shared_library() -> Path:
    return build(Path(_folder().name) / "lib", "-DTECO_EXAMPLE=OFF") / "libteco.so"


@functools.cache
def frei0r_folder() -> Path:
    """A folder with the filter alone."""
    folder = Path(_folder().name) / "frei0r"
    folder.mkdir()
    plugin = native.compiled(
        native.SOURCE, frei0r.PLUGIN, "-DTECO_FREI0R=ON", "-DTECO_EXAMPLE=OFF",
        "-DCMAKE_C_FLAGS=-Werror",
    )  # fmt: skip
    (folder / frei0r.PLUGIN).write_bytes(plugin)
    return folder


def frei0r_environment(model: Path) -> dict[str, str]:
    return {
        **frei0r.environment(frei0r_folder()),
        "TECO_MODEL": str(model),
        "TECO_ORT_LIBRARY": str(ort_library()),
        "TECO_THREADS": "1",
    }


def pictures_of(data: bytes, play: Play, times: int = 1) -> list[Pictures]:
    """Raw RGB -> what came of the clip, in so many equal parts."""
    h, w = (play.scale * side for side in play.frames[0].shape[:2])
    frames = list(np.frombuffer(data, np.uint8).reshape(-1, h, w, 3))
    count = len(frames) // times
    assert count * times == len(frames)
    return [frames[n * count : (n + 1) * count] for n in range(times)]


class LibTeco:
    """The C library, called from several threads that take turns."""

    name = "libteco"
    runtime = "onnxruntime"
    tolerance = 0
    scene_cuts = True
    slow = False

    def why_not(self) -> str | None:
        return absent(native.why_no_compiler())

    def play(self, play: Play) -> list[Pictures]:
        handle = Library(shared_library()).open(play.model, library=ort_library())
        found: list[Pictures] = []
        with ThreadPoolExecutor(play.threads) as pool:
            for _ in range(play.times):
                found.append([pool.submit(handle.enlarge, p).result() for p in play.frames])
                handle.reset()
        handle.close()
        return found


class InFfmpeg:
    """The frei0r filter in stock ffmpeg."""

    name = "ffmpeg-frei0r"
    runtime = "onnxruntime"
    tolerance = 0
    scene_cuts = True
    slow = True

    def why_not(self) -> str | None:
        reason = native.why_no_compiler("frei0r.h") or why_no_program("ffmpeg")
        if reason is None and not frei0r.has_filter("ffmpeg"):
            reason = "the ffmpeg here was built without frei0r"
        return absent(reason)

    def play(self, play: Play) -> list[Pictures]:
        command = [
            "ffmpeg", "-v", "error", "-threads", str(play.threads), "-filter_threads",
            str(play.threads), "-i", str(play.clip), "-vf", frei0r.enlarged(play.scale),
            "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
        ]  # fmt: skip
        found: list[Pictures] = []
        for _ in range(play.times):
            done = subprocess.run(
                command, capture_output=True, check=False, env=frei0r_environment(play.model)
            )
            assert (done.returncode, done.stderr) == (0, b"")
            found += pictures_of(done.stdout, play)
        return found


class InMpv(InFfmpeg):
    """The same in stock mpv, which writes what it shows."""

    name = "mpv-frei0r"

    def why_not(self) -> str | None:
        reason = native.why_no_compiler("frei0r.h") or why_no_program("mpv")
        return absent(reason)

    def play(self, play: Play) -> list[Pictures]:
        out = play.scratch / "mpv.rgb"
        command = [
            "mpv", "--no-config", "--msg-level=all=error", "--no-audio", "--demuxer=lavf",
            f"--vd-lavc-threads={play.threads}",
            f"--vf=lavfi=[{frei0r.enlarged(play.scale)}],format=fmt=rgb24", f"--o={out}",
            "--of=rawvideo", "--ovc=rawvideo", str(play.clip),
        ]  # fmt: skip
        found: list[Pictures] = []
        for _ in range(play.times):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False,
                env=frei0r_environment(play.model),
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            found += pictures_of(out.read_bytes(), play)
        return found


def drive(env: dict[str, str], out: Path, **task: Any) -> tuple[dict[str, Any], bytes]:
    """Run :mod:`gst_driver` and read what reached the sink."""
    done = subprocess.run(
        ["/usr/bin/python3", DRIVER, json.dumps({**task, "out": str(out)})],
        capture_output=True, text=True, check=False, env=env, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), out.read_bytes()


def decoded(play: Play) -> str:
    """The clip in a pipeline, in RGB; with several threads, each end in one of its own."""
    queue = " ! queue" if play.threads > 1 else ""
    return (
        f"filesrc location={play.clip} ! matroskademux ! avdec_ffv1 max-threads={play.threads} ! "
        f"videoconvert ! video/x-raw,format=RGB{queue}"
    )


def emitted(model: Path, folder: Path, **options: Any) -> Path:
    """A plugin folder as `teco emit gstreamer` writes it."""
    if not folder.exists():
        request = EmitRequest(
            model=open_model(str(model)),
            spec=str(model),
            runtime="onnxruntime",
            threads=1,
            **options,
        )
        emit.write(gstreamer.GStreamer(), request, folder, force=False, check=False)
    return folder


class InGStreamer:
    """The ``teco`` element."""

    name = "gstreamer"
    runtime = "onnxruntime"
    tolerance = 0
    scene_cuts = True
    slow = True

    def why_not(self) -> str | None:
        with tempfile.TemporaryDirectory() as scratch:
            env = gstreamer.environment(Path(scratch), Path(scratch) / "registry.bin")
            return absent(gstreamer.why_not(env))

    def play(self, play: Play) -> list[Pictures]:
        folder = emitted(play.model, play.scratch / "plugin")
        env = gstreamer.environment(folder, play.scratch / "registry.bin")
        queue = " ! queue" if play.threads > 1 else ""
        result, data = drive(
            env, play.scratch / "gst.rgb", kind="play", times=play.times,
            pipeline=f"{decoded(play)} ! teco name=t{queue}",
        )  # fmt: skip
        assert result["error"] is None, result
        return pictures_of(data, play, play.times)


class Frei0rInGStreamer(InGStreamer):
    """The frei0r filter in GStreamer."""

    name = "gstreamer-frei0r"

    def why_not(self) -> str | None:
        reason = native.why_no_compiler("frei0r.h")
        return absent(reason) or super().why_not()

    def play(self, play: Play) -> list[Pictures]:
        env = gstreamer.environment(play.scratch, play.scratch / "registry.bin")
        env |= {k: v for k, v in frei0r_environment(play.model).items() if k not in env}
        env["FREI0R_PATH"] = str(frei0r_folder())
        h, w = (play.scale * side for side in play.frames[0].shape[:2])
        result, data = drive(
            env, play.scratch / "gst.rgb", kind="play", times=play.times,
            pipeline=f"{decoded(play)} ! videoscale method=nearest-neighbour ! "
            f"videoconvert ! video/x-raw,format=RGBA,width={w},height={h} ! "
            "frei0r-filter-teco ! videoconvert ! video/x-raw,format=RGB",
        )  # fmt: skip
        assert result["error"] is None, result
        return pictures_of(data, play, play.times)
