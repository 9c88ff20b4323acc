"""How long the training steps of a chain take: from what was measured here, else as published.

A run's ``log.jsonl`` has the seconds of each stage at its iterations. What a step has not run yet
is estimated from its own log, else from another step's, else from a short run that was made to be
timed (:data:`MEASURED`), else from what the study says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teco.reproduction.steps import Step

PUBLISHED_HOURS = 43.0
PUBLISHED_ITERATIONS = 300_000
"""What the study says a model takes on a V100 (PyTorch 1.11, CUDA 10.2)."""

PUBLISHED = f"the study's {PUBLISHED_HOURS:g} h for {PUBLISHED_ITERATIONS:,} iterations on a V100"

MEASURED = "measured-{device}"
"""Folder, below that of the chain, of the short run that is made to be timed on a device."""


@dataclass(frozen=True)
class Estimate:
    """What a step has still to run.

    Attributes:
        hours: of it.
        done: iterations that have run.
        total: iterations of all its stages.
        source: what the hours are from.
    """

    hours: float
    done: int
    total: int
    source: str


@dataclass(frozen=True)
class _Log:
    """How far each stage of a run is, and seconds an iteration."""

    done: Mapping[str, int]
    pace: Mapping[str, float]


def estimates(steps: Sequence[Step], out: Path, device: str) -> dict[str, Estimate]:
    """The training steps by name.

    Args:
        steps: of the chain.
        out: its folder, which holds each run in a folder of the step's name.
        device: ``"cpu"`` or ``"cuda"``: of runs that were made to be timed the one that counts.
    """
    trained = [step for step in steps if step.iterations]
    names = (*(step.name for step in trained), MEASURED.format(device=device))
    logs = {name: _read(out / name) for name in names}
    return {step.name: _estimate(step, logs) for step in trained}


def _estimate(step: Step, logs: Mapping[str, _Log]) -> Estimate:
    done = sum(min(logs[step.name].done.get(s, 0), n) for s, n in step.iterations.items())
    total = sum(step.iterations.values())
    own = [step.name, *(name for name in logs if name != step.name)]
    seconds, sources = 0.0, dict[str, None]()
    for stage, count in step.iterations.items():
        left = count - min(logs[step.name].done.get(stage, 0), count)
        found = next(((n, logs[n].pace[stage]) for n in own if stage in logs[n].pace), None)
        if found is None:
            seconds += left * PUBLISHED_HOURS * 3600 / PUBLISHED_ITERATIONS
            sources[PUBLISHED] = None
        else:
            name, pace = found
            seconds += left * pace
            pace_of = f"{pace:.3g} seconds an iteration" if pace > 1 else f"{1 / pace:.3g} a second"
            sources[f"{pace_of} in stage {stage} of the run `{name}`"] = None
    return Estimate(seconds / 3600, done, total, "; ".join(sources))


def _read(run: Path) -> _Log:
    """What a run's log says; nothing where there is none."""
    places: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = (run / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            record: dict[str, Any] = json.loads(line)
            place = int(record["iteration"]), float(record["seconds"])
            if place[0] > 0:
                places.setdefault(record["stage"], []).append(place)
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # half written when the process or the machine went down
    pace: dict[str, float] = {}
    for stage, found in places.items():
        (first, began), (last, ended) = found[0], found[-1]
        # The first iterations of a stage start data processes and choose algorithms.
        seconds = (ended - began) / (last - first) if last > first else ended / last
        if seconds > 0:
            pace[stage] = seconds
    return _Log({stage: found[-1][0] for stage, found in places.items()}, pace)
