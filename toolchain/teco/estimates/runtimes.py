"""From a network's own memory to what a process grows by, by runtime, from what was measured.

A runtime holds more than the tensors that are alive: allocators keep what is freed and round up,
tensors stand in two layouts, weights are packed again. By how much is not derived but fitted: two
numbers a runtime, a constant and a factor on :attr:`teco.estimates.memory.Memory.known`, by least
squares of the relative error over the records. How well that predicts is told by records that the
fit has not seen: each is predicted from the other variants' alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teco.estimates.memory import memory
from teco.estimates.records import Record
from teco.estimates.tensors import Precision
from teco_models.variant import Variant


@dataclass(frozen=True)
class Fit:
    """Growth in bytes = constant + factor * known bytes."""

    constant: float
    factor: float

    def __call__(self, known: float) -> int:
        return round(self.constant + self.factor * known)


@dataclass(frozen=True)
class Comparison:
    """A record beside what would have been predicted for it.

    Attributes:
        record: what was measured.
        known: bytes of the network's own memory, as computed.
        predicted: growth in bytes, fitted without any record of this variant; None where the
            others are too few.
    """

    record: Record
    known: int
    predicted: int | None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        if self.predicted is None:
            return None
        return self.predicted / self.record.grown.peak - 1


def known_bytes(record: Record) -> int:
    """:attr:`Memory.known` of what a record measured.

    bf16 counts as two bytes for activations; its weights are kept in both widths by OpenVINO, which
    the fit has to take up.
    """
    precision: Precision = "fp16" if record.precision == "bf16" else "fp32"
    variant = Variant.parse(record.variant)
    return memory(variant, *record.hw, precision, record.form, dynamic=not record.static).known


def fit(records: Sequence[Record]) -> Fit | None:
    """Least squares of the relative error; None for less than two sizes of memory.

    The constant is not below zero: a runtime takes nothing off.
    """
    known = np.array([known_bytes(r) for r in records], float)
    grown = np.array([r.grown.peak for r in records], float)
    if len(set(known.tolist())) < 2:
        return None
    rows = np.stack((1 / grown, known / grown), axis=1)
    constant, factor = np.linalg.lstsq(rows, np.ones(len(records)), rcond=None)[0]
    if constant < 0:
        shares = known / grown
        constant, factor = 0.0, float(shares.sum() / (shares**2).sum())
    return Fit(float(constant), float(factor))


def compare(records: Sequence[Record]) -> tuple[Comparison, ...]:
    """Each record beside the prediction from the other variants on its runtime."""
    found: list[Comparison] = []
    fits: dict[tuple[str, str], Fit | None] = {}
    for record in records:
        key = record.runtime, record.variant
        if key not in fits:
            fits[key] = fit([r for r in records if r.runtime == key[0] and r.variant != key[1]])
        found_fit, known = fits[key], known_bytes(record)
        found.append(Comparison(record, known, None if found_fit is None else found_fit(known)))
    return tuple(found)


def runtimes_of(records: Sequence[Record]) -> tuple[str, ...]:
    """Names of the runtimes that were measured."""
    return tuple(sorted({r.runtime for r in records}))
