"""From a network's own memory to what a process grows by, by runtime, from what was measured.

A runtime holds more than the tensors that are alive: allocators keep what is freed and round up,
and tensors stand in two layouts. By how much is not derived but fitted: growth = constant + weights
+ ports + factor * activations, two numbers a runtime, by least squares of the relative error over
the records. Ports and weights count once because they were seen to; of the forms that were tried on
the first 36 records, a factor on everything was off by 36% in the median, this one by 12%.

How well it predicts is told by records that a fit has not seen: each is predicted from those of the
other variants alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teco.estimates.memory import MemoryEstimate, memory
from teco.estimates.records import MemoryRecord
from teco.estimates.tensors import Precision
from teco_models.variant import Variant


@dataclass(frozen=True)
class Fit:
    """What a runtime adds: a constant in bytes, and a factor on activations."""

    constant: float
    factor: float

    def __call__(self, own: MemoryEstimate) -> int:
        """Growth in bytes of a process that runs a network with this memory of its own."""
        return round(self.constant + own.weights + own.ports + self.factor * own.activations)


@dataclass(frozen=True)
class EstimateCheck:
    """A record beside what would have been predicted for it.

    Attributes:
        record: what was measured.
        own: the network's own memory, as computed.
        predicted: growth in bytes, fitted without any record of this variant; None where the
            others are too few.
    """

    record: MemoryRecord
    own: MemoryEstimate
    predicted: int | None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        if self.predicted is None:
            return None
        return self.predicted / self.record.grown.peak - 1


def memory_of(record: MemoryRecord) -> MemoryEstimate:
    """The network's own memory of what a record measured.

    bf16 counts as fp16 does, with float32 islands; OpenVINO keeps some of those in bf16 as well and
    the weights in both widths, which the fit has to take up.
    """
    precision: Precision = "fp16" if record.precision == "bf16" else "fp32"
    variant = Variant.parse(record.variant)
    return memory(variant, *record.hw, precision, record.form, dynamic=not record.static)


def fit(records: Sequence[MemoryRecord]) -> Fit | None:
    """Least squares of the relative error; None for less than two sizes of activations.

    The constant is not below zero: a runtime takes nothing off.
    """
    owns = [memory_of(r) for r in records]
    activations = np.array([m.activations for m in owns], float)
    if len(set(activations.tolist())) < 2:
        return None
    grown = np.array([r.grown.peak for r in records], float)
    rest = grown - np.array([m.weights + m.ports for m in owns], float)
    rows = np.stack((1 / grown, activations / grown), axis=1)
    constant, factor = np.linalg.lstsq(rows, rest / grown, rcond=None)[0]
    if constant < 0:
        shares = activations / grown
        constant, factor = 0.0, (shares * rest / grown).sum() / (shares**2).sum()
    return Fit(float(constant), float(factor))


def compare(records: Sequence[MemoryRecord]) -> tuple[EstimateCheck, ...]:
    """Each record beside the prediction from the other variants on its runtime."""
    found: list[EstimateCheck] = []
    fits: dict[tuple[str, str], Fit | None] = {}
    for record in records:
        key = record.runtime, record.variant
        if key not in fits:
            fits[key] = fit([r for r in records if r.runtime == key[0] and r.variant != key[1]])
        fitted, own = fits[key], memory_of(record)
        found.append(EstimateCheck(record, own, None if fitted is None else fitted(own)))
    return tuple(found)


def runtimes_of(records: Sequence[MemoryRecord]) -> tuple[str, ...]:
    """Names of the runtimes that were measured."""
    return tuple(sorted({r.runtime for r in records}))
