"""``--runtime auto``: which runtime is fastest here, measured once and remembered.

A guess would be wrong: on one machine ONNX Runtime was the faster for the form exported for it and
OpenVINO for the other (see TARGETS in teco_models.deploy.step). A measurement takes a few steps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from teco.core.files import as_json, sha256_of, write_beside
from teco.core.machine import inspect
from teco.core.pixels import Array, Pixels, to_pixels
from teco.model.conversion import Conversion
from teco.model.kept_forms import takes
from teco.model.opening import Model, identity_of
from teco.runtimes.base import (
    PlaneSession,
    Runtime,
    Session,
    SessionOptions,
    State,
    moving_frames,
    on_noise,
)
from teco_calibration.cache import cache_dir
from teco_calibration.temporal_gate.verdict import FP16

logger = logging.getLogger(__name__)

TRIAL_SIZE = (96, 160)
"""LR size of the trial where the model takes any: large enough for the order to hold, quick."""

TRIAL_STEPS = 3

AGREEMENT_FRAMES = 8
assert FP16.worst_psnr is not None
LEAST_PSNR = FP16.worst_psnr
"""dB of the worst frame beside float32, as the gate of float16 asks."""


@dataclass(frozen=True)
class RuntimeChoice:
    """What ``auto`` took, or what was asked for.

    Attributes:
        runtime: that opens it.
        model: what it opens.
        kept: whether that is a kept form in float16 (:mod:`teco.model.kept_forms`) of what was
            named.
        why: a sentence on what was taken and why, to be shown; "" where there was no question.
    """

    runtime: Runtime
    model: Model
    kept: bool = False
    why: str = ""

    @property
    def key(self) -> str:
        """Names it in the record, and for people."""
        return f"{self.runtime.name} {self.model.name}" if self.kept else self.runtime.name

    @property
    def identity(self) -> str:
        """Tells it from every other choice, whatever files are called."""
        return f"{self.runtime.name} {identity_of(self.model)}"


@cache  # of many models, as `teco models` lists them, one line says it
def _say_what_takes_time() -> None:
    logger.info("timing the runtimes, once, to remember which is fastest here")


def fastest(
    candidates: list[RuntimeChoice], options: SessionOptions, size: tuple[int, int] | None = None
) -> RuntimeChoice:
    """The fastest of ``candidates`` on this machine that agrees with float32.

    The first step of each is warm-up; the best of the others counts. A form in float16 has passed
    its gate where it was made; before it is taken, it is run beside float32 here as well, and has
    to come as close as that gate asks, as has whatever computes elsewhere than on the processor:
    drivers and GPUs are more than were ever tested. The answer is kept in teco's cache folder under
    everything that could change it: models, threads, machine and versions; not where a candidate
    failed, which may be of this moment.

    Args:
        candidates: at least one; what was named first, then forms of it.
        options: how they run.
        size: LR (h, w) of the frames that are to come, None where that is not known.
    """
    # Minutes of compiling are for those who ask for it, or have nothing else.
    candidates = [c for c in candidates if not c.runtime.slow_to_open] or candidates[:1]
    if len(candidates) == 1:
        (only,) = candidates
        return replace(only, why=_why(only, candidates, {}, {}, []))
    at = _trial_size(candidates, size)
    path = _cache_file(candidates, options, at)
    with suppress(OSError, ValueError, KeyError, StopIteration, TypeError):
        known = json.loads(path.read_text())
        best = next(c for c in candidates if c.key == known["fastest"])
        return replace(best, why=str(known["why"]))
    _say_what_takes_time()
    times: dict[str, float] = {}
    failed: list[RuntimeChoice] = []
    for candidate in candidates:
        try:
            times[candidate.key] = _seconds(candidate, options, at)
        except Exception:
            # Whatever a runtime's library throws: what cannot run it is not the fastest. If none
            # can, the first one is opened and says why.
            failed.append(candidate)
    if not times:
        return candidates[0]
    ordered = sorted((c for c in candidates if c.key in times), key=lambda c: times[c.key])
    small = TRIAL_SIZE if all(takes(c.model, TRIAL_SIZE) for c in candidates) else at
    best, agreement = _first_that_agrees(ordered, options, small, failed)
    best = replace(best, why=_why(best, ordered, times, agreement, failed))
    if failed:
        return best
    with suppress(OSError):  # a cache that cannot be written costs a second next time
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "fastest": best.key, "why": best.why, "seconds_per_step": times,
            "psnr_beside_float32": agreement,
        }  # fmt: skip
        write_beside(path, as_json(record))
    return best


def _seconds(candidate: RuntimeChoice, options: SessionOptions, size: tuple[int, int]) -> float:
    """Of a step at a size. On a processor, where time grows with the picture, it is told from a
    small one: large ones would take it seconds each."""
    own = size
    if candidate.runtime.device == "cpu" and candidate.model.static_size is None:
        own = TRIAL_SIZE
    seconds = _trial(candidate.runtime, candidate.model, options, own)
    return seconds * math.prod(size) / math.prod(own)


def _first_that_agrees(
    ordered: list[RuntimeChoice],
    options: SessionOptions,
    size: tuple[int, int],
    failed: list[RuntimeChoice],
) -> tuple[RuntimeChoice, dict[str, float]]:
    """The first candidate that comes close enough to float32, and how close those came that were
    tried: by key, dB of the worst frame. Those that fail are added to ``failed``.

    Those on the processor need not be tried, unless they are forms. Where there is no float32 to
    hold them against, the gate's own verdict has to do.
    """
    exact = [c for c in ordered if c.runtime.exact and not c.kept]
    reference = min(exact, key=lambda c: c.runtime.device != "cpu", default=None)
    found: dict[str, float] = {}
    for candidate in ordered:
        if reference is None or candidate is reference:
            return candidate, found
        if candidate.runtime.device == "cpu" and not candidate.kept:
            return candidate, found
        try:
            found[candidate.key] = agreement(candidate, reference, options, size)
        except Exception:  # whatever its library throws, as in the trial
            failed.append(candidate)
            continue
        if found[candidate.key] >= LEAST_PSNR:
            return candidate, found
    assert reference is not None
    return reference, found


def agreement(
    candidate: RuntimeChoice,
    reference: RuntimeChoice,
    options: SessionOptions,
    size: tuple[int, int],
) -> float:
    """PSNR in dB of the worst of a few recurrent 8-bit frames; infinite where all are equal."""
    worst = float("inf")
    with (
        closing(candidate.runtime.open(candidate.model, options)) as one,
        closing(reference.runtime.open(reference.model, options)) as other,
    ):
        mine, theirs = _shown(one), _shown(other)
        a = b = None
        for lr in moving_frames(*size, AGREEMENT_FRAMES):
            found, a = mine(lr, a)
            expected, b = theirs(lr, b)
            gap = found.astype(np.float32) - expected
            if error := float(np.mean(gap**2)):
                worst = min(worst, 20 * math.log10(255) - 10 * math.log10(error))
    return worst


def _shown(session: Session) -> Callable[[Array, State | None], tuple[Pixels, State]]:
    """A step from floats to what is shown, 8-bit RGB or planes.

    Of planes, the frame's first two channels stand for luma and chroma.
    """
    if isinstance(session, PlaneSession):
        session.convert_by(Conversion.of("bt709", full_range=False))
        enlarge = session.enlarge_planes

        def planes(lr: Array, state: State | None) -> tuple[Pixels, State]:
            picture = to_pixels(lr)
            luma, chroma = picture[..., 0], picture[: picture.shape[0] // 2, :, 1]
            return enlarge(np.concatenate([luma, chroma]), state)

        return planes

    def step(lr: Array, state: State | None) -> tuple[Pixels, State]:
        hr, state = session.step(lr, state)
        if not np.isfinite(hr.sum()):
            raise FloatingPointError
        return to_pixels(hr), state

    return step


def _why(
    best: RuntimeChoice,
    ordered: list[RuntimeChoice],
    times: dict[str, float],
    agreement: dict[str, float],
    failed: list[RuntimeChoice],
) -> str:
    """One sentence where float16 was a question, or something was refused; else ""."""

    def told(candidate: RuntimeChoice) -> str:
        return f"{1000 * times[candidate.key]:.1f} ms a step on {candidate.runtime.name}"

    forms = [c for c in ordered if c.kept]
    others = [c for c in ordered if not c.kept]
    if best.kept:
        said = f"{best.model.name}, in float16: its gate passed"
        if not others:
            return f"{said}, and nothing here runs it in float32"
        if (close := agreement.get(best.key)) is not None:
            beside = "equal to" if close == float("inf") else f"{close:.1f} dB from"
            said += f" and it is {beside} float32 here"
        return f"{said}; {told(best)}, else {told(others[0])}; --quality balanced keeps to float32"
    left: list[str] = []
    if refused := [f"{k} ({v:.1f} dB)" for k, v in agreement.items() if v < LEAST_PSNR]:
        left.append(f"because under {LEAST_PSNR:g} dB PSNR beside float32: {', '.join(refused)}")
    if broke := [c.key for c in failed if c.kept or c.key in times]:
        left.append(f"because it failed beside float32: {', '.join(broke)}")
    if left:
        return f"left out, {'; '.join(left)}"
    if not forms:
        return ""
    return f"not in float16, which is no faster here: {told(best)}, {told(forms[0])}"


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
    path = _cache_file([RuntimeChoice(runtime, model)], options, size)
    if not again:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return float(json.loads(path.read_text())["seconds"])
    seconds = _trial(runtime, model, options, size)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({"seconds": seconds}).encode())
    return seconds


def _trial(
    candidate: Runtime, model: Model, options: SessionOptions, size: tuple[int, int]
) -> float:
    h, w = size
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
        graph = (m.variant, m.size, m.contract.io, sorted(m.rewrites.items()),
                 sorted(m.precision_found.items()))  # fmt: skip
        if m.gate is None:
            return repr(graph)
        # Whether it agrees with float32 is a question of its numbers.
        return f"{graph!r} {sha256_of(file) if (file := model.engine or model.onnx) else ''}"
    return sha256_of(file) if (file := model.onnx or model.weights) else ""


def _trial_size(candidates: list[RuntimeChoice], size: tuple[int, int] | None) -> tuple[int, int]:
    """LR (h, w) that all candidates are tried at. With small frames a GPU would tell how long it
    takes to begin, so there it is the frames' own size."""
    if size is not None and any(c.runtime.device != "cpu" for c in candidates):
        return size
    fixed = (c.model.static_size for c in candidates)
    return next((at for at in fixed if at is not None), TRIAL_SIZE)


def _cache_file(
    candidates: list[RuntimeChoice], options: SessionOptions, size: tuple[int, int] | None
) -> Path:
    machine = inspect()
    key: dict[str, Any] = {
        "candidates": [(c.runtime.name, _graph_of(c.model)) for c in candidates],
        "threads": options.thread_count,
        "machine": (machine.cpu, machine.cores, machine.gpus),
        "packages": machine.packages,
        "size": size,
    }
    if any(c.runtime.device != "cpu" for c in candidates):
        # How close to float32 a GPU comes is a question of the weights, too.
        manifests = (c.model.manifest for c in candidates)
        key["weights"] = sorted({m.weights_sha256 for m in manifests if m is not None})
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "auto" / f"{digest}.json"
