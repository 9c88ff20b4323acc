"""What only shows on long or whole runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PEAK = """
from pathlib import Path
from teco.cli import main
try:
    main()
finally:
    print("PEAK", Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak_kib(environment: dict[str, str], *arguments: object) -> int:
    """Peak resident KiB of a teco command in a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's peak memory")
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = re.search(r"PEAK (\d+)", done.stdout)
    assert found
    return int(found[1])


def test_memory_does_not_grow_with_the_clip(
    tmp_path: Path, make_clip, texture, tiny_onnx, teco_environment
) -> None:
    """2,000 frames peak within 5% of 200 frames."""
    pictures = texture(200, 64, 48)
    peaks: list[int] = []
    for count in (200, 2000):
        clip = make_clip(tmp_path / f"{count}.mp4", pixels=pictures * (count // 200), audio=True)
        options = ("--model", tiny_onnx, "--runtime", "onnxruntime", "--threads", "1",
                   "--no-scene-cuts", "--preset", "ultrafast")  # fmt: skip
        out = tmp_path / f"out{count}.mp4"
        peaks.append(peak_kib(teco_environment, "upscale", clip, out, *options))
    assert peaks[1] <= 1.05 * peaks[0], peaks
