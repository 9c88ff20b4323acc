"""libteco as Python sees it: built with cmake, called through ctypes. Shared by test files."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

SOURCE = ROOT / "toolchain" / "teco" / "players" / "c"
RGB, RGBA, NV12 = 1, 2, 3
ARGUMENT, LIBRARY, MODEL, CONTRACT, SIZE, MEMORY, RUN = range(1, 8)


def need(*programs: str) -> None:
    """Skip where a program is missing; in CI, which installs them, fail instead."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        absent(f"{', '.join(missing)} not installed")


def absent(reason: str) -> None:
    """Skip with a sentence, or fail where nothing may be absent."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI installs everything")
    pytest.skip(reason)


def ort_library() -> Path:
    """ONNX Runtime's shared library of this environment's wheel."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def build(folder: Path, *options: str, flags: str = "-Werror") -> Path:
    """Configure and build into a folder, warnings being errors."""
    need("cmake", "cc")
    configure = ["cmake", "-S", SOURCE, "-B", folder, f"-DCMAKE_C_FLAGS={flags}", *options]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


class Image(ctypes.Structure):
    """``teco_image``"""

    _fields_ = (
        ("format", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("plane", ctypes.c_void_p * 2),
        ("stride", ctypes.c_ssize_t * 2),
        ("matrix", ctypes.c_int),
        ("range", ctypes.c_int),
    )


class Options(ctypes.Structure):
    """``teco_options``"""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("scene_cuts", ctypes.c_int),
        ("library", ctypes.c_char_p),
    )


class Info(ctypes.Structure):
    """``teco_info``"""

    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_int) for name in ("scale", "minimum", "multiple_of", "width", "height")),
        ("frames", ctypes.c_uint64),
        ("scenes", ctypes.c_uint64),
        ("repeats", ctypes.c_uint64),
        *((name, ctypes.c_char_p) for name in ("variant", "runtime", "library")),
    )


def image(pixels: np.ndarray, *, matrix: int = 0, full: bool = False) -> Image:
    """A view of (h, w, 3) RGB or (h, w, 4) RGBA with any row stride; the array must stay alive."""
    h, w, channels = pixels.shape
    kind = {3: RGB, 4: RGBA}[channels]
    assert pixels.strides[1:] == (channels, 1)
    planes, strides = (ctypes.c_void_p * 2)(pixels.ctypes.data), (ctypes.c_ssize_t * 2)()
    strides[0] = pixels.strides[0]
    return Image(kind, w, h, planes, strides, matrix, full)


def nv12(luma: np.ndarray, chroma: np.ndarray, *, matrix: int = 0, full: bool = False) -> Image:
    """A view of (h, w) luma and ((h + 1) // 2, (w + 1) // 2, 2) chroma; both must stay alive."""
    planes = (ctypes.c_void_p * 2)(luma.ctypes.data, chroma.ctypes.data)
    strides = (ctypes.c_ssize_t * 2)(luma.strides[0], chroma.strides[0])
    return Image(NV12, luma.shape[1], luma.shape[0], planes, strides, matrix, full)


class TecoCallError(Exception):
    """A call gave another status than 0."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Library:
    """The shared library's calls.

    Args:
        path: libteco.so.
    """

    def __init__(self, path: Path) -> None:
        self.calls = ctypes.CDLL(str(path))
        for name in ("teco_version", "teco_last_error", "teco_status_text"):
            getattr(self.calls, name).restype = ctypes.c_char_p
        self.calls.teco_close.restype = None

    def check(self, status: int) -> None:
        if status:
            raise TecoCallError(status, self.calls.teco_last_error().decode())

    def open(self, model: Path | str, *, library: Path | str | None, **options: int) -> Handle:
        o = Options()
        self.calls.teco_options_init(ctypes.byref(o))
        o.threads = options.pop("threads", 1)
        o.scene_cuts = options.pop("scene_cuts", 1)
        assert not options
        o.library = None if library is None else os.fsencode(library)
        pointer = ctypes.c_void_p()
        self.check(self.calls.teco_open(os.fsencode(model), ctypes.byref(o), ctypes.byref(pointer)))
        return Handle(self, pointer)


class Handle:
    """An open model."""

    def __init__(self, library: Library, pointer: ctypes.c_void_p) -> None:
        self._library, self._pointer = library, pointer

    def __getattr__(self, name: str):
        """``reset()`` for ``teco_reset(handle)``, checked."""
        call = getattr(self._library.calls, f"teco_{name}")
        return lambda *arguments: self._library.check(call(self._pointer, *arguments))

    def enlarge(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, 3) RGB, enlarged."""
        h, w, c = pixels.shape
        scale = self.info.scale
        out = np.empty((scale * h, scale * w, c), np.uint8)
        self.step(ctypes.byref(image(pixels)), ctypes.byref(image(out)))
        return out

    def run(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.enlarge(picture) for picture in pictures]

    @property
    def info(self) -> Info:
        info = Info(size=ctypes.sizeof(Info))
        self.get_info(ctypes.byref(info))
        return info

    def close(self) -> None:
        self._library.calls.teco_close(self._pointer)
