"""Scene cuts in Python, in C and in WebAssembly: one table of clips, the same answers."""

from __future__ import annotations

import base64
import ctypes
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from javascript import run_module
from libteco import SOURCE, need
from paths import ROOT

from teco.inference.scene_cuts import SceneCutDetector, sketch

TABLE = ROOT / "tests" / "fixtures" / "scene_cuts.json"
PAGE = ROOT / "toolchain" / "teco" / "players" / "web" / "page"
WASM = PAGE / "scenecut.wasm"

Answers = list[tuple[bool, float]]
"""Of each frame: whether it begins a shot, and how much it differs from the one before."""


def noise(seed: int, height: int, width: int, shift: int) -> np.ndarray:
    """(height, width, 3) made of whole numbers alone, the same on every machine: detail of several
    sizes that moves to the left by ``shift`` pixels."""
    y, x, channel = np.ogrid[:height, shift : shift + width, :3]
    total = np.zeros((height, width, 3), np.uint32)
    for cell in (23, 9, 4, 1):
        mixed = (y // cell) * 73856093 + (x // cell) * 19349663 + (channel + seed * 4) * 83492791
        mixed = (mixed ^ (mixed >> 13)) * 1274126177 % 2**32
        total += ((mixed ^ (mixed >> 16)) % 256).astype(np.uint32)
    return (total // 4).astype(np.uint8)


def frames_of(case: dict[str, Any]) -> list[np.ndarray]:
    """``frames``: [seed, shift, percent of the light] of each."""
    pictures = [
        noise(seed, case["height"], case["width"], shift) for seed, shift, _ in case["frames"]
    ]
    lit = [light for *_, light in case["frames"]]
    return [
        np.minimum(p.astype(np.uint32) * light // 100, 255).astype(np.uint8)
        for p, light in zip(pictures, lit, strict=True)
    ]


CASES: list[dict[str, Any]] = json.loads(TABLE.read_text())
EACH = pytest.mark.parametrize("case", CASES, ids=[f"{c['height']}x{c['width']}" for c in CASES])


def hold(case: dict[str, Any], found: Answers) -> None:
    assert [n for n, (cut, _) in enumerate(found) if cut] == case["cuts"]
    assert [score for _, score in found] == pytest.approx(case["scores"], abs=1e-12)


def in_python(frames: list[np.ndarray]) -> Answers:
    detector = SceneCutDetector()
    return [(detector.is_cut(frame), detector.score) for frame in frames]


@EACH
def test_python(case) -> None:
    hold(case, in_python(frames_of(case)))


class _Sketch(ctypes.Structure):
    _fields_ = (("detail", ctypes.c_uint8 * 4096), ("amount", ctypes.c_double))


class _Detector(ctypes.Structure):
    """``scenecut`` of scenecut.h"""

    _fields_ = (
        ("recent", ctypes.c_double * 4),
        *((name, ctypes.c_int) for name in ("recent_count", "width", "height", "w", "h")),
        ("has_previous", ctypes.c_bool),
        ("score", ctypes.c_double),
        ("previous", _Sketch),
    )


@pytest.fixture(scope="module")
def in_c(tmp_path_factory) -> Callable[[list[np.ndarray]], Answers]:
    need("cc")
    path = tmp_path_factory.mktemp("scenecut") / "scenecut.so"
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", path,
         SOURCE / "src" / "scenecut.c", "-lm"], check=True,
    )  # fmt: skip
    calls = ctypes.CDLL(str(path))
    calls.scenecut_is_cut.restype = ctypes.c_bool
    calls.scenecut_is_cut.argtypes = [
        ctypes.POINTER(_Detector), ctypes.c_char_p, *[ctypes.c_int] * 3,
    ]  # fmt: skip

    def answers(frames: list[np.ndarray]) -> Answers:
        """The sketches are those of Python, too."""
        detector = _Detector()
        calls.scenecut_reset(ctypes.byref(detector))
        found: Answers = []
        for frame in frames:
            h, w, channels = frame.shape
            cut = calls.scenecut_is_cut(detector, frame.tobytes(), channels, w, h)
            found.append((cut, detector.score))
            kept = sketch(frame[..., :3]).detail
            levels = np.frombuffer(detector.previous.detail, np.uint8)[: kept.size]
            assert np.array_equal(levels.reshape(detector.h, detector.w), kept)
        return found

    return answers


def with_alpha(frame: np.ndarray) -> np.ndarray:
    return np.dstack((frame, np.full(frame.shape[:2], 255, np.uint8)))


@EACH
def test_c(case, in_c) -> None:
    frames = frames_of(case)
    hold(case, in_c(frames))
    hold(case, in_c([with_alpha(frame) for frame in frames]))


DETECT = """
import { SceneCutDetector } from %s;
import { readFileSync } from "node:fs";
const { wasm, clips } = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const { instance } = await WebAssembly.instantiate(bytes(wasm));
const detector = new SceneCutDetector(instance);
console.log(JSON.stringify(clips.map(({ height, width, frames }) => {
  detector.reset();
  return frames.map((text) => [detector.isCut(bytes(text), height, width), detector.score]);
})));
"""


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_webassembly() -> None:
    """The file that is shipped, driven by the page's own module; all clips in one memory."""
    clips = [
        {"height": case["height"], "width": case["width"],
         "frames": [text_of(with_alpha(frame).tobytes()) for frame in frames_of(case)]}
        for case in CASES
    ]  # fmt: skip
    script = DETECT % json.dumps((PAGE / "scenecut.js").as_uri())
    found = run_module(script, {"wasm": text_of(WASM.read_bytes()), "clips": clips})
    for case, answers in zip(CASES, found, strict=True):
        hold(case, [(cut, score) for cut, score in answers])


def test_the_shipped_file_is_what_its_source_compiles_to(tmp_path) -> None:
    script = ROOT / "scripts" / "build_scenecut_wasm.sh"
    wanted = re.search(r"clang (\d+)'s", script.read_text())
    assert wanted is not None
    for program in ("clang", "wasm-ld"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here")
    said = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)", said)
    built = tmp_path / "scenecut.wasm"
    subprocess.run([script, built], check=True)
    if version is None or version[1] != wanted[1]:
        pytest.skip(f"the file was compiled by clang {wanted[1]}, here is {said.splitlines()[0]}")
    assert built.read_bytes() == WASM.read_bytes()


def remake(path: Path = TABLE) -> None:
    """Write the table anew from Python's answers; for a changed detector."""
    lines: list[str] = []
    for case in CASES:
        found = in_python(frames_of(case))
        case["cuts"] = [n for n, (cut, _) in enumerate(found) if cut]
        case["scores"] = [score for _, score in found]
        lines.append("  " + json.dumps(case))
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    remake()
