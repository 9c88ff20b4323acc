"""The process of one candidate: opens it once, then does what it is asked, line by line.

Run as ``python -m teco.benchmark.measure.worker``. A request is one line of JSON on standard input,
an answer one on what was standard output when it began; whatever libraries print goes to standard
error. It ends with its standard input, so that nothing outlives a benchmark that was killed.

One process for each candidate makes load time, first step and memory its own, and a candidate that
crashes takes no other with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from teco.core.errors import FAILED, TecoError
from teco.measurement import memory
from teco.measurement.schedule import Block

NANO = 1e-6
"""Milliseconds in a nanosecond."""


class Worker:
    """A candidate, as far as it was opened."""

    def __init__(self) -> None:
        self._session: Any = None
        self._model: Any = None
        self._step: Callable[[Any], Any] = lambda state: state
        self._state: Any = None
        self._base: int | None = None
        self._gpu_free: int | None = None
        self._steps = 0
        self._library = ""

    def prepare(self, *, runtime: str, affinity: list[int], threads: int) -> dict[str, Any]:
        """Bind this process and import the runtime's library: no part of loading a model."""
        if affinity:
            os.sched_setaffinity(0, affinity)
        import numpy as np

        from teco.model.opening import open_model as _
        from teco.runtimes import find

        del _
        self._library = find(runtime).module
        try:
            importlib.import_module(self._library)
        except ImportError as error:
            raise TecoError(f"{runtime} cannot import {self._library}: {error}") from error
        if self._library == "torch":
            importlib.import_module("torch").set_num_threads(threads)
        np.zeros(1)
        self._base = memory.resident_bytes()
        return {"base": self._base}

    def open(self, *, spec: str, runtime: str, size: list[int], threads: int) -> dict[str, Any]:
        """Open the model and make the first step; times in ms."""
        from teco.model.opening import open_model
        from teco.runtimes import SessionOptions, find
        from teco.runtimes.base import on_noise

        self._model = open_model(spec)
        self._gpu_free = memory.gpu_free_bytes()
        began = perf_counter_ns()
        self._session = find(runtime).open(self._model, SessionOptions(threads=threads))
        loaded = perf_counter_ns()
        self._step = on_noise(self._model, self._session, *size)
        made = perf_counter_ns()
        self._state = self._step(None)
        first = perf_counter_ns()
        self._steps = 1
        return {
            "details": str(self._session.details),
            "load_ms": NANO * (loaded - began),
            "first_ms": NANO * (first - made),
        }

    def steps(self, *, count: int) -> dict[str, Any]:
        """So many steps in a row: times by the host, and by the GPU's events where there are."""
        step, state, session = self._step, self._state, self._session
        by_events = getattr(session, "last_step_ms", None) is not None
        host: list[float] = []
        device: list[float] = []
        # A collection in the middle of a step would be measured with it.
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                began = perf_counter_ns()
                state = step(state)
                host.append(NANO * (perf_counter_ns() - began))
                if by_events:
                    device.append(float(session.last_step_ms))
        finally:
            gc.enable()
        self._state = state
        self._steps += count
        return asdict(Block(tuple(host), tuple(device)))

    def memory(self) -> dict[str, Any]:
        """Of this process so far, in bytes."""
        now = memory.gpu_free_bytes()
        gpu = None if now is None or self._gpu_free is None else self._gpu_free - now
        return {
            "peak": memory.peak_resident_bytes(), "private": memory.private_bytes(),
            "base": self._base, "steps": self._steps, "device": gpu,
        }  # fmt: skip

    def growth(self, *, size: list[int], frames: int, budget_ms: float) -> dict[str, Any]:
        """Private bytes after each of many frames of a size, in a scene of their own.

        Ends early, but not before 40 frames, when the budget is spent.
        """
        from teco.runtimes.base import on_noise

        step = on_noise(self._model, self._session, *size)
        state, found = None, list[int]()
        began = perf_counter_ns()
        for n in range(frames):
            state = step(state)
            if (now := memory.private_bytes()) is None:
                break
            found.append(now)
            if n >= 40 and NANO * (perf_counter_ns() - began) > budget_ms:
                break
        del state
        self._state = None  # a session of one state at a time starts a new scene
        return {"private": found}

    def ceilings(self, *, device: str, precision: str, threads: int) -> dict[str, Any]:
        """What the library of this candidate's runtime reaches here."""
        from teco.benchmark.measure.ceilings import measure

        found = measure(self._library, device, precision, threads)
        return {"ceilings": [asdict(one) for one in found]}

    def pipeline(self, *, clip: str, folder: str, frames: int) -> dict[str, Any]:
        """File to file."""
        from teco.benchmark.measure.pipeline import run

        return run(self._session, Path(clip), Path(folder), frames)

    def playback(self, *, clip: str, frames: int) -> dict[str, Any]:
        """As a player would."""
        from teco.benchmark.measure.playback import run

        return run(self._session, Path(clip), frames)

    def close(self) -> dict[str, Any]:
        if self._session is not None:
            self._session.close()
        self._session = self._state = None
        return {}


REQUESTS = (
    "prepare", "open", "steps", "memory", "growth", "ceilings", "pipeline", "playback", "close",
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


if __name__ == "__main__":
    main()
