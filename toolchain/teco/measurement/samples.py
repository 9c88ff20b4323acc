"""The timing of one model on one runtime, as other commands' reports hold it.

The record of ``teco bench`` is :mod:`teco.benchmark.record.record`.
"""

from __future__ import annotations

from dataclasses import dataclass

from teco.measurement.statistics import percentile


@dataclass(frozen=True)
class LatencySamples:
    """One model on one runtime, and how fast it was.

    Attributes:
        model: name.
        runtime: name.
        details: what the runtime reports it runs on.
        samples: seconds of every measured step, in the order measured.
        load_seconds: opening the model.
        first_seconds: the first step, which allocates and plans.
    """

    model: str
    runtime: str
    details: str
    samples: tuple[float, ...]
    load_seconds: float
    first_seconds: float

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


__all__ = ["LatencySamples", "percentile"]
