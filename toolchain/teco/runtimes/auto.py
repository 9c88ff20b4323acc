"""``--runtime auto``: which runtime is fastest here, measured once and remembered.

A guess would be wrong: on one machine ONNX Runtime was the faster for the form exported for it and
OpenVINO for the other (see TARGETS in teco_models.deploy.step). A measurement takes a few steps.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path

from teco.core.files import sha256_of, write_beside
from teco.core.machine import inspect
from teco.model.opening import Model
from teco.runtimes.base import Runtime, SessionOptions, on_noise
from teco_calibration.cache import cache_dir

TRIAL_SIZE = (96, 160)
"""LR size of the trial where the model takes any: large enough for the order to hold, quick."""

TRIAL_STEPS = 3


def fastest(candidates: list[Runtime], model: Model, options: SessionOptions) -> Runtime:
    """The fastest of ``candidates`` for this model on this machine.

    The first step of each is warm-up; the best of the others counts. The answer is kept in teco's
    cache folder under everything that could change it: model, threads, machine and versions.
    """
    # Minutes of compiling are for those who ask for it.
    candidates = [c for c in candidates if not c.slow_to_open]
    if len(candidates) == 1:
        return candidates[0]
    path = _cache_file(candidates, model, options)
    try:
        known = json.loads(path.read_text())["fastest"]
        return next(c for c in candidates if c.name == known)
    except (OSError, ValueError, KeyError, StopIteration):
        pass
    times: dict[str, float] = {}
    for candidate in candidates:
        try:
            times[candidate.name] = _trial(candidate, model, options)
        except Exception:
            # Whatever a runtime's library throws: what cannot run it is not the fastest. If none
            # can, the first one is opened and says why.
            continue
    if not times:
        return candidates[0]
    best = min(times, key=lambda name: times[name])
    with suppress(OSError):  # a cache that cannot be written costs a second next time
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"fastest": best, "seconds_per_step": times}
        write_beside(path, json.dumps(record).encode())
    return next(c for c in candidates if c.name == best)


def step_seconds(
    runtime: Runtime,
    model: Model,
    size: tuple[int, int],
    options: SessionOptions,
    *,
    again: bool = False,
) -> float:
    """Seconds of one step here, the best of a few, measured once and remembered.

    Args:
        runtime: that runs it.
        model: what to run.
        size: (h, w) of the LR frame.
        options: how it runs.
        again: measure it whatever is remembered.

    Raises:
        TecoError: the runtime cannot open it.
    """
    path = _cache_file([runtime], model, options, size)
    if not again:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return float(json.loads(path.read_text())["seconds"])
    seconds = _trial(runtime, model, options, size)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({"seconds": seconds}).encode())
    return seconds


def _trial(
    candidate: Runtime, model: Model, options: SessionOptions, size: tuple[int, int] | None = None
) -> float:
    h, w = size or model.static_size or TRIAL_SIZE
    session = candidate.open(model, options)
    try:
        step = on_noise(model, session, h, w)
        state = step(None)
        best = float("inf")
        for _ in range(TRIAL_STEPS):
            began = time.perf_counter()
            state = step(state)
            best = min(best, time.perf_counter() - began)
        return best
    finally:
        session.close()


def _graph_of(model: Model) -> str:
    """Equal for models that run the same operations on different numbers: they take one time."""
    if model.manifest is not None:
        m = model.manifest
        return repr((m.variant, m.size, m.contract.io, sorted(m.rewrites.items()),
                     sorted(m.precision_found.items())))  # fmt: skip
    return sha256_of(file) if (file := model.onnx or model.weights) else ""


def _cache_file(
    candidates: list[Runtime],
    model: Model,
    options: SessionOptions,
    size: tuple[int, int] | None = None,
) -> Path:
    machine = inspect()
    key = {
        "model": _graph_of(model),
        "threads": options.thread_count,
        "machine": (machine.cpu, machine.cores, machine.gpus),
        "packages": machine.packages,
        "candidates": [c.name for c in candidates],
        **({} if size is None else {"size": size}),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "auto" / f"{digest}.json"
