"""Freed memory that stays with the process; asked of a process of its own, since it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from teco import allocator

if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    np.ones(16 << 20, np.uint8)
before = faults()
for _ in range(10):
    np.ones(64 << 20, np.uint8)[0]
    np.ones(16 << 20, np.uint8)[0]
print(faults() - before)
"""


def faults(keep: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, keep], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_memory_that_is_kept_is_not_taken_anew() -> None:
    # A page fault per 4 KiB of the 80 MiB, ten times; huge pages make fewer of both.
    usual, kept = faults("usual"), faults("keep")
    assert kept < usual / 4


def test_elsewhere_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    from teco import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
