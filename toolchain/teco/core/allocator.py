"""Memory that a process frees and takes again with every step, kept by it in between.

glibc gives large blocks back to the system as soon as they are freed, and takes them anew, page by
page and each page zeroed, with the next. For a network whose activations are hundreds of megabytes
that is a quarter of its time: a step of 3 blocks at 180x320 in PyTorch took 400,000 page faults and
0.65 s of the system's time on two cores. PyTorch's own advice is another allocator to be
preloaded; glibc's does as well when it is told to keep what it has.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc; mallopt(3) says what they are.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_NEVER = -1


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process, for its next allocation.

    The process then holds about what it held at its peak, until :func:`give_back`. It affects
    everything in it that uses C's ``malloc``, PyTorch on the CPU among it, from threads that began
    to allocate before as far as their own arenas go: those of large blocks are mappings all the
    same. Threads that begin to allocate later share the main arena.

    Returns:
        Whether it is so: other C libraries than glibc have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Blocks of a mapping of their own go back when they are freed, whatever the threshold; and an
    # arena other than the main one holds 64 MiB and maps what is larger.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_ARENA_MAX, 1))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def give_back() -> None:
    """Give what is free to the system once, where glibc keeps it."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))
