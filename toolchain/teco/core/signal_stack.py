"""Keeping the signal stack of a thread through calls that would leave another one behind.

Where the CPU has AMX, OpenVINO's CPU plugin gives the thread that loads it a signal stack
(``sigaltstack``) of its own, and when it is unloaded puts back the one that it found. Two plugins
that are not unloaded in the reverse order leave the freed stack of one: the next signal with
a handler, a Ctrl-C or the end of a child, then kills the process with a segmentation fault. (Found
with OpenVINO 2026.4.1 in a core dump: killed at the return of ``wait4``, by SIGCHLD.) Python's
handlers do next to nothing and need no other stack than the thread's.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux, whose fields have another order elsewhere."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Generator[None]:
    """Leave this thread the signal stack that it has now. Nothing to do outside Linux."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    before = _Stack()
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(before), None)
