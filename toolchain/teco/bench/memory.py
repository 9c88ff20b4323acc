"""Peak memory of one candidate, measured in a process of its own.

Run as ``python -m teco.bench.memory MODEL RUNTIME H W THREADS STEPS``; prints one JSON line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

STEPS = 6
"""Enough for both sets of buffers to exist and for allocators to settle."""


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where /proc does not tell."""
    return _status("VmRSS")


def peak_resident_bytes() -> int | None:
    """Largest resident memory of this process so far; None where /proc does not tell.

    Not getrusage: its maximum survives exec, so a child would report its parent's size at fork.
    """
    return _status("VmHWM")


def _status(key: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def measure(
    model: str, runtime: str, size: tuple[int, int], threads: int
) -> tuple[int | None, int | None]:
    """(peak, before) resident bytes of a fresh process that opens the model and steps.

    Returns (None, None) where the child fails or the system does not tell: a missing figure, not
    a reason to lose the timings.
    """
    arguments = [model, runtime, *map(str, size), str(threads), str(STEPS)]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "teco.bench.memory", *arguments],
            capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        record = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError, OSError):
        return None, None
    return record["peak"], record["base"]


def main(arguments: list[str]) -> None:
    """Body of the child process."""
    from teco.artifact import open_model
    from teco.runtimes import SessionOptions, find
    from teco.runtimes.base import on_noise

    model, runtime, h, w, threads, steps = arguments
    base = resident_bytes()
    opened = open_model(model)
    session = find(runtime).open(opened, SessionOptions(threads=int(threads)))
    step = on_noise(opened, session, int(h), int(w))
    state = None
    for _ in range(int(steps)):
        state = step(state)
    print(json.dumps({"peak": peak_resident_bytes(), "base": base}))


if __name__ == "__main__":
    main(sys.argv[1:])
