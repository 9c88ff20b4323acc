"""A candidate's verdict by the temporal gate, as the record keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teco_calibration.temporal_gate.verdict import Verdict


@dataclass(frozen=True)
class GateResult:
    """A candidate beside its reference.

    Attributes:
        model: name.
        runtime: name.
        reference: runtime of the float32 step, "" where nothing was compared.
        verdict: of the gate, or None.
        note: why there is no verdict, or which of the bounds could not be judged.
    """

    model: str
    runtime: str
    reference: str = ""
    verdict: Verdict | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        verdict = None if self.verdict is None else self.verdict.as_dict()
        return {
            "model": self.model, "runtime": self.runtime, "reference": self.reference,
            "verdict": verdict, "note": self.note,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GateResult:
        """Inverse of :meth:`as_dict`."""
        rest = dict(data)
        verdict = rest.pop("verdict")
        return cls(**rest, verdict=None if verdict is None else Verdict.from_dict(verdict))
