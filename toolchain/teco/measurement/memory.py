"""What this process and its GPU hold now, as the system tells; None where it does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import psutil

from teco.core import gpu

STEPS = 6
"""Enough for both sets of buffers to exist and for allocators to settle."""

FEWEST_FOR_GROWTH = 40
"""Frames below which a line through their second half says nothing about a thousand."""


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int | None:
    """Largest resident memory of this process so far.

    Not getrusage: its maximum survives exec, so a child would report its parent's size at fork.
    """
    return _status("VmHWM")


def private_bytes() -> int | None:
    """Anonymous resident memory of this process now: what is not a file's pages."""
    return _status("RssAnon")


def _status(key: str) -> int | None:
    """A figure of this process that Linux tells and psutil does not."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def gpu_free_bytes() -> int | None:
    """Free memory of the first NVIDIA GPU; None without one.

    By torch where this process has it with CUDA, whose context then counts as there before; else by
    the driver.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return gpu.free_bytes()


def growth_per_1000(private: list[int]) -> int | None:
    """Bytes by which 1,000 frames would grow, from private memory after each frame.

    The median of the slopes between all pairs of frames of the second half (Theil and Sen): the
    first half fills caches and pools, and one page more at some moment is no growth.
    """
    if len(private) < FEWEST_FOR_GROWTH:
        return None
    half = np.array(private[len(private) // 2 :], np.float64)
    first, second = np.triu_indices(len(half), 1)
    return round(1000 * float(np.median((half[second] - half[first]) / (second - first))))
