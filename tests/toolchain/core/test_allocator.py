"""Freed memory that stays with the process; asked of a process of its own, since it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, threading
import numpy as np
from teco.core import allocator

if "keep" in sys.argv[1]:
    assert allocator.keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for _ in range(3):
        np.ones(100 << 20, np.uint8)
    before = faults()
    for _ in range(10):
        np.ones(64 << 20, np.uint8)[0]
        np.ones(16 << 20, np.uint8)[0]
        np.ones(100 << 20, np.uint8)[0]
    print(faults() - before)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

if "thread" in sys.argv[1]:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
kept = resident()
allocator.give_back()
print(kept - resident())
"""


def told(how: str) -> tuple[int, int]:
    """Page faults of ten rounds, and bytes that went back at the end."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    faults, back = map(int, run.stdout.split())
    return faults, back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
@pytest.mark.parametrize("where", ["", " in a thread"])
def test_memory_that_is_kept_is_not_taken_anew(where: str) -> None:
    # A page fault per 4 KiB of the 180 MiB, ten times; huge pages make fewer of both.
    usual, _ = told("usual" + where)
    kept, back = told("keep" + where)
    assert kept < usual / 4
    assert back > 90 << 20, "and all of it can be given back"


def test_what_glibc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names and numbers of mallopt(3): no mappings, no trimming at any size, one arena."""
    from teco.core import allocator

    said: list[tuple[int, int]] = []

    class Libc:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            said.append((name, value))
            return int(name != -8)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Libc)
    assert not allocator.keep_freed_memory(), "one of them was refused"
    assert said == [(-4, 0), (-1, -1), (-8, 1)]


def test_elsewhere_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    from teco.core import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
    allocator.give_back()
