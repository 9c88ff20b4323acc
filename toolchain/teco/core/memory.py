"""How much memory this process may still take, and how to tell that it was refused some."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None

_REFUSED = (
    "bad_alloc", "bad allocation", "out of memory", "allocate memory", "failed to allocate",
    "allocation failed",
)  # fmt: skip
"""What runtimes and the C++ library say of an allocation that failed."""


def is_refused_memory(error: BaseException) -> bool:
    """Whether an error of an extension module says that the system gave it no more memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _REFUSED)


def taken_bytes() -> int:
    """What this process has in memory."""
    return psutil.Process().memory_info().rss


def free_bytes() -> int:
    """What this process may still take: the least of the machine's free memory, what its control
    group leaves (containers, version 1 and 2), and its limit of address space."""
    free = [psutil.virtual_memory().available]
    for limit, used in _groups():
        free.append(max(0, limit - used))
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            free.append(max(0, limit - psutil.Process().memory_info().vms))
    return min(free)


def _groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[tuple[int, int]]:
    """(limit, taken) in bytes of the control groups this process is in, their parents included.

    What is taken counts without the page cache that the kernel gives up when memory is short.
    """
    found: list[tuple[int, int]] = []
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return found
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            base, limit, used, idle = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            base, limit, used, idle = (
                root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        # Within a container the group is often mounted as the root itself.
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(base):
                break
            with contextlib.suppress(OSError, ValueError):  # no such group here, or "max"
                most, taken = (int((place / name).read_text()) for name in (limit, used))
                stat = dict(x.split() for x in (place / "memory.stat").read_text().splitlines())
                found.append((most, max(0, taken - int(stat.get(idle, 0)))))
    return found
