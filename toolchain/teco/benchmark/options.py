"""What a benchmark is asked to do, as typed records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teco.benchmark.quality.clip import TruthClip
    from teco.benchmark.quality.measure import Gallery, QualityOptions


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """The clip to measure quality on, as the user asks for it.

    Attributes:
        path: the clip; None for none, or the shipped one with :attr:`BenchRequest.family` and for
            an engine that is named alone.
        truth: its ground truth; None degrades the clip, which then is the truth itself.
        fit: resize it to the size that is measured.
        shrink: area-average it to 1/shrink of its size first.
        frames: at most so many of the first ones; None for all.
    """

    path: Path | None = None
    truth: Path | None = None
    fit: bool = False
    shrink: float = 1.0
    frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """A benchmark as the user asks for it; :func:`teco.benchmark.prepare.prepare` checks it.

    Attributes:
        models: names or files; () for the default model. An engine that is named alone is measured
            beside what it was made from (:mod:`teco.benchmark.siblings`).
        family: measure every shipped model of the papers' degradation instead.
        runtimes: names, or "all" or "auto" alone.
        size: LR (h, w); None for the clip's, or 180x320.
        clip: to measure quality on.
        metrics: names with commas; None for all that can be measured here.
        repetitions: samples of each candidate; None allots them from the budget.
        budget_s: about how long the whole run may take, in seconds.
        latency_only: time the step alone.
        gate: judge each candidate by the temporal gate.
        fail_if: conditions, see :mod:`teco.benchmark.record.fail_if`.
        threads: of each candidate; None for all cores.
        gallery: keep frames for a report.
        command: as typed, for the record.
    """

    models: tuple[str, ...] = ()
    family: bool = False
    runtimes: tuple[str, ...] = ("all",)
    size: tuple[int, int] | None = None
    clip: ClipRequest = ClipRequest()
    metrics: str | None = None
    repetitions: int | None = None
    budget_s: float = 150.0
    latency_only: bool = False
    gate: bool = False
    fail_if: tuple[str, ...] = ()
    threads: int | None = None
    gallery: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured and for how long.

    Attributes:
        threads: of each candidate; None for all processors.
        repetitions: samples of each candidate; None allots them from the budget.
        budget_s: about how long the whole run may take.
        latency_only: time the step alone: neither end to end nor playback, growth and ceilings.
        clip: with a truth, to measure quality on; None leaves quality out.
        quality: how; with a clip.
        gallery: filled with frames for a report.
        gate: judge each candidate beside the float32 step.
        seed: of the order of blocks.
        memory_bytes: that all candidates together may take; None for a share of what is free.
        command: as typed, for the record.
    """

    threads: int | None = None
    repetitions: int | None = None
    budget_s: float = 150.0
    latency_only: bool = False
    clip: TruthClip | None = None
    quality: QualityOptions | None = None
    gallery: Gallery | None = None
    gate: bool = False
    seed: int = 0
    memory_bytes: int | None = None
    command: str = ""
