"""Measuring: candidates interleaved in one run, every sample kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

from teco.artifact import Model
from teco.bench import memory
from teco.bench.report import Candidate
from teco.machine import usable_cores
from teco.runtimes import Runtime, Session, SessionOptions
from teco.runtimes.base import State, on_noise

WARM_UP = 3
"""Steps of each candidate before any counts: allocation, planning and, for compilers, compiling."""

BLOCK = 3
"""Steps of one candidate in a row. One alone would pay for the caches the others emptied."""


@dataclass
class _Open:
    """A candidate with its session and what it has produced so far."""

    session: Session
    step: Callable[[State | None], State]
    candidate: Candidate
    state: State | None
    samples: list[float]


def measure_latency(
    pairs: list[tuple[Model, Runtime]],
    size: tuple[int, int],
    *,
    repetitions: int,
    threads: int | None = None,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[Candidate]:
    """Step latency of each (model, runtime), interleaved in blocks.

    Args:
        pairs: what to measure.
        size: (h, w) of the LR frame.
        repetitions: samples of each.
        threads: for each; None for all cores.
        report: progress in steps.

    Raises:
        TecoError: a candidate cannot be opened.
    """
    opened: list[_Open] = []
    total = len(pairs) * repetitions
    try:
        for model, runtime in pairs:
            began = perf_counter()
            session = runtime.open(model, SessionOptions(threads=threads))
            loaded = perf_counter()
            step = on_noise(model, session, *size)
            made = perf_counter()
            state = step(None)
            first = perf_counter()
            candidate = Candidate(
                model=model.name,
                runtime=runtime.name,
                details=session.details,
                samples=(),
                load_seconds=loaded - began,
                first_seconds=first - made,
            )
            opened.append(_Open(session, step, candidate, state, []))
        for one in opened:
            for _ in range(WARM_UP):
                one.state = one.step(one.state)
        done = 0
        while done < total:
            for one in opened:
                for _ in range(min(BLOCK, repetitions - len(one.samples))):
                    began = perf_counter()
                    one.state = one.step(one.state)
                    one.samples.append(perf_counter() - began)
                    done += 1
                report(done, total)
    finally:
        for one in opened:
            one.session.close()
    return [replace(one.candidate, samples=tuple(one.samples)) for one in opened]


def with_memory(
    candidates: list[Candidate],
    specs: list[str],
    size: tuple[int, int],
    threads: int | None = None,
) -> list[Candidate]:
    """The same candidates with the peak memory of a process of their own.

    Args:
        candidates: measured.
        specs: each one's model as the user named it.
        size: (h, w).
        threads: as in the latency run.
    """
    result: list[Candidate] = []
    for candidate, spec in zip(candidates, specs, strict=True):
        peak, base = memory.measure(spec, candidate.runtime, size, threads or usable_cores())
        result.append(replace(candidate, peak_bytes=peak, base_bytes=base))
    return result


def warnings_for(candidates: list[Candidate], load_before: float | None) -> list[str]:
    """What makes the numbers less sure, in sentences.

    Args:
        candidates: measured.
        load_before: one-minute load average before measuring began.
    """
    found: list[str] = []
    cores = usable_cores()
    if load_before is not None and load_before > 0.5 * cores:
        found.append(
            f"the machine was busy before measuring began (load {load_before:.1f} on {cores} "
            "cores); stop other programs and run it again"
        )
    for c in candidates:
        if c.p90 > 1.25 * c.p50:
            found.append(
                f"{c.model} on {c.runtime} varies widely (p90 is {c.p90 / c.p50:.2f} of p50); "
                "another program may have run beside it"
            )
        if len(c.samples) < 100:
            found.append(
                f"p99 of {c.model} on {c.runtime} is the slowest of {len(c.samples)} samples; "
                "--repetitions 100 or more makes it a percentile"
            )
    return found
