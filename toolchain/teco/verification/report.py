"""What verifying a file was asked and what it answered, one finding for each check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teco.core.errors import FAILED, MACHINE, USAGE
from teco.model.manifest import Parity

if TYPE_CHECKING:
    from teco_calibration.temporal_gate.verdict import Verdict


Answer = Literal["yes", "no", "not run"]


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was asked, a word or two.
        answer: whether it holds; "not run" where it could not be asked.
        text: with what numbers, or why not.
    """

    check: str
    answer: Answer
    text: str


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What to verify with.

    Attributes:
        weights: file the model claims to be made from; None to look among the shipped models.
        model: name of a shipped model, in place of ``weights``.
        clip: ground truth for the gate; None for frames made on the spot.
        frames: recurrent frames of the gate; None for what its bounds ask for.
        runtime: that runs the candidate; None for the file's usual one, where it can run here.
        threads: CPU threads; None for all.
    """

    weights: Path | None = None
    model: str | None = None
    clip: str | None = None
    frames: int | None = None
    runtime: str | None = None
    threads: int | None = None


@dataclass
class Report:
    """What was found. Filled while verifying, read afterwards.

    Attributes:
        path: of the file.
        kind: what it is.
        variant, precision, size: what it says it is; "" where that could not be read.
        findings: in the order in which they were asked.
        parity: of the values, where they were compared.
        gate: the temporal gate's verdict, where it was run.
        wanting: the option that would let what was not run be run, a sentence, or "".
        refused: why a runtime that was asked for by name did not run it, or "".
    """

    path: Path
    kind: Literal["onnx", "engine"]
    variant: str = ""
    precision: str = ""
    size: str = ""
    findings: list[Finding] = field(default_factory=list[Finding])
    parity: Parity | None = None
    gate: Verdict | None = None
    wanting: str = ""
    refused: str = ""

    def add(self, check: str, holds: bool | None, text: str) -> None:
        """Note a finding; None is "not run"."""
        answer: Answer = "not run" if holds is None else "yes" if holds else "no"
        self.findings.append(Finding(check, answer, text))

    @property
    def holds(self) -> bool:
        """Whether nothing that was asked was answered with no."""
        return all(f.answer != "no" for f in self.findings)

    @property
    def exit_code(self) -> int:
        """1 something does not hold, 2 an option is wanting, 3 a runtime asked for cannot run."""
        if not self.holds:
            return FAILED
        return MACHINE if self.refused else USAGE if self.wanting else 0

    @property
    def verdict(self) -> str:
        """One sentence."""
        if bad := [f.check for f in self.findings if f.answer == "no"]:
            return f"{self.path.name} is not what it says: {', '.join(dict.fromkeys(bad))}"
        if open_ := [f.check for f in self.findings if f.answer == "not run"]:
            return (
                f"what could be asked of {self.path.name} holds; not run here: {', '.join(open_)}"
            )
        return f"{self.path.name} is what it says"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "variant": self.variant,
            "precision": self.precision,
            "size": self.size,
            "holds": self.holds,
            "complete": all(f.answer != "not run" for f in self.findings),
            "verdict": self.verdict,
            "wanting": self.wanting or self.refused,
            "checks": [asdict(f) for f in self.findings],
            "parity": None if self.parity is None else asdict(self.parity),
            "gate": None if self.gate is None else self.gate.as_dict(),
        }


DEFAULT_RUNTIME = "onnxruntime"
"""Runs ONNX files: the runtime of the base install, which their manifests' parity speaks of."""
