"""What a benchmark found, as plain records; renderers turn it into tables and JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from teco.bench.gate import Judged
from teco.evaluate import Row
from teco.machine import Machine

SCHEMA = 1
"""Version of the JSON's layout."""


def percentile(samples: tuple[float, ...], share: float) -> float:
    """The smallest sample that at least ``share`` of all samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Candidate:
    """One model on one runtime, and how it did.

    Attributes:
        model: name.
        runtime: name.
        details: what the runtime reports it runs on.
        samples: seconds of every measured step, in the order measured.
        load_seconds: opening the model.
        first_seconds: the first step, which allocates and plans.
        peak_bytes: largest resident memory of a process of its own that runs the step; None where
            the system does not tell.
        base_bytes: resident memory of the same process before the model was opened.
    """

    model: str
    runtime: str
    details: str
    samples: tuple[float, ...]
    load_seconds: float
    first_seconds: float
    peak_bytes: int | None = None
    base_bytes: int | None = None

    @property
    def p50(self) -> float:
        return percentile(self.samples, 0.5)

    @property
    def p90(self) -> float:
        return percentile(self.samples, 0.9)

    @property
    def p99(self) -> float:
        return percentile(self.samples, 0.99)

    @property
    def fps(self) -> float:
        """Steps a second at the median."""
        return 1 / self.p50


@dataclass(frozen=True)
class BenchReport:
    """One run of the benchmark.

    Attributes:
        size: LR size, "HxW".
        threads: CPU threads each candidate was given.
        candidates: in the order asked for.
        quality: rows of the clip, empty without one.
        machine: where it ran.
        skipped: runtime -> why it could not run.
        warnings: what makes the numbers less sure.
        command: as typed.
        started: UTC, ISO 8601.
        gate: every candidate beside the float32 step, empty where that was not asked for.
    """

    size: str
    threads: int
    candidates: tuple[Candidate, ...]
    quality: tuple[Row, ...]
    machine: Machine
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: str = ""
    started: str = ""
    gate: tuple[Judged, ...] = ()
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the derived figures beside the samples."""
        record = asdict(replace(self, gate=()))
        record["kind"] = "teco bench"
        record["gate"] = [judged.as_dict() for judged in self.gate]
        record["quality"] = [row.as_dict() for row in self.quality]
        for plain, candidate in zip(record["candidates"], self.candidates, strict=True):
            plain |= {"p50": candidate.p50, "p90": candidate.p90, "p99": candidate.p99}
            plain["fps"] = candidate.fps
        return record
