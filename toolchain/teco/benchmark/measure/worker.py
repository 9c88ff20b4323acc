"""The process of one candidate: opens it once, then does what it is asked, line by line.

:class:`teco.benchmark.measure.process.WorkerProcess` runs it as
``python -m teco.benchmark.measure.worker``. It is no command of ``teco``, since nobody types it: a
request is one line of JSON on standard input, an answer one on what was standard output when it
began, and whatever libraries print goes to standard error. It ends with its standard input, so that
nothing outlives a benchmark that was killed.

One process for each candidate makes load time, first step and memory its own, and a candidate that
crashes takes no other with it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from teco.core import gpu
from teco.core.errors import FAILED, TecoError
from teco.measurement import memory

if TYPE_CHECKING:
    from teco.measurement.latency import StepTimer
    from teco.model.opening import Model


class Worker:
    """A candidate, as far as it was opened."""

    timer: StepTimer
    model: Model

    def __init__(self) -> None:
        self._base: int | None = None
        self._gpu_taken: int | None = None
        self._steps = 0
        self._library = ""

    def prepare(self, *, runtime: str, affinity: list[int], threads: int) -> dict[str, Any]:
        """Bind this process and import the runtime's library: no part of loading a model."""
        if affinity:
            os.sched_setaffinity(0, affinity)
        from teco.runtimes import find

        importlib.import_module("teco.measurement.latency")  # what opening a model needs of teco
        self._library = find(runtime).module
        try:
            importlib.import_module(self._library)
        except ImportError as error:
            raise TecoError(f"{runtime} cannot import {self._library}: {error}") from error
        if self._library == "torch":
            importlib.import_module("torch").set_num_threads(threads)
        self._base = memory.resident_bytes()
        return {"base": self._base}

    def open(self, *, spec: str, runtime: str, size: list[int], threads: int) -> dict[str, Any]:
        """Open the model and make the first step; times in ms."""
        from teco.measurement.latency import StepTimer
        from teco.model.opening import open_model
        from teco.runtimes import find

        self.model = open_model(spec)
        free = memory.gpu_free_bytes()
        h, w = size
        self.timer = StepTimer.open(self.model, find(runtime), (h, w), threads)
        # Before any other candidate is opened: what it takes would count as this one's.
        left = memory.gpu_free_bytes()
        self._gpu_taken = None if free is None or left is None else free - left
        self._steps = 1
        return {
            "details": str(self.timer.session.details),
            "load_ms": self.timer.load_ms,
            "first_ms": self.timer.first_ms,
        }

    def steps(self, *, count: int) -> dict[str, Any]:
        """So many steps in a row: times by the host, and by the GPU's events where there are."""
        self._steps += count
        return asdict(self.timer.steps(count))

    def memory(self) -> dict[str, Any]:
        """Of this process so far, in bytes."""
        held = gpu.process_bytes(os.getpid())
        return {
            "peak": memory.peak_resident_bytes(), "private": memory.private_bytes(),
            "base": self._base, "steps": self._steps,
            "device": self._gpu_taken if held is None else held,
        }  # fmt: skip

    def growth(self, *, size: list[int], frames: int, budget_ms: float) -> dict[str, Any]:
        """Private bytes after each of many frames of a size, in a scene of their own.

        Ends early, but not before 40 frames, when the budget is spent.
        """
        from teco.runtimes.base import on_noise

        step = on_noise(self.model, self.timer.session, *size)
        state, found = None, list[int]()
        began = perf_counter()
        for n in range(frames):
            state = step(state)
            if (now := memory.private_bytes()) is None:
                break
            found.append(now)
            if n >= memory.FEWEST_FOR_GROWTH and 1000 * (perf_counter() - began) > budget_ms:
                break
        self.timer.reset()  # a session of one state at a time has begun a new scene
        return {"private": found}

    def ceilings(self, *, device: str, precision: str, threads: int) -> dict[str, Any]:
        """What the library of this candidate's runtime reaches here."""
        from teco.benchmark.measure.ceilings import measure

        found = measure(self._library, device, precision, threads)
        return {"ceilings": [asdict(one) for one in found]}

    def end_to_end(self, *, clip: str, folder: str, frames: int) -> dict[str, Any]:
        """From a file to a file."""
        from teco.benchmark.measure.end_to_end import run

        scale = self.model.variant.scale
        return run(self.timer.session, scale, Path(clip), Path(folder), frames)

    def playback(self, *, clip: str, frames: int) -> dict[str, Any]:
        """At the clip's rate, as for a player."""
        from teco.benchmark.measure.playback import run

        return run(self.timer.session, Path(clip), frames)


REQUESTS = (
    "prepare", "open", "steps", "memory", "growth", "ceilings", "end_to_end", "playback",
)  # fmt: skip


def answer(worker: Worker, line: str) -> dict[str, Any]:
    """The answer to a request; what went wrong is an answer too."""
    request: dict[str, Any] = json.loads(line)
    name = request.pop("do")
    assert name in REQUESTS, name
    try:
        return getattr(worker, name)(**request)
    except MemoryError:
        return {"error": "out of memory", "hint": "", "exit_code": FAILED}
    except Exception as error:
        # Whatever a runtime throws: the benchmark goes on with the others and says so.
        message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        return {
            "error": str(message).splitlines()[0][:500],
            "hint": str(getattr(error, "hint", "")),
            "exit_code": int(getattr(error, "exit_code", FAILED)),
        }


def main() -> None:
    """Answer until standard input ends."""
    # Ctrl-C is for the benchmark, which then ends this process through its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        out.write(json.dumps(answer(worker, line)) + "\n")
        out.flush()
    if hasattr(worker, "timer"):
        worker.timer.session.close()


if __name__ == "__main__":
    main()
