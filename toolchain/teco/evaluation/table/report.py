"""What the table found, as plain records; ``render`` and ``plot`` beside this show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from teco.core.machine import Machine
from teco.evaluation.quality import BASELINES, QualityRow
from teco.evaluation.table.published import (
    STUDY_BLOCKS_NOTE,
    STUDY_NOTE,
    STUDY_ROWS,
    Published,
    rows_for,
)
from teco.evaluation.table.sets import FRAMES, ClipSet
from teco.measurement.latency import LatencyResult
from teco_calibration.metrics.quality import Metric
from teco_models.variant import Cost, Degradation, Variant

SCHEMA = 1
"""Version of the JSON's layout."""

Average = Literal["frame", "folder"]
Inputs = Literal["made", "given"]


SHOWN: dict[Degradation, str] = {"bd": "BD", "bi": "BI", "real": "real"}
"""Degradations as tables name them."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How the table is measured.

    Attributes:
        metrics: the columns, in order.
        size: (h, w) of the LR frame that MACs and milliseconds are of.
        inputs: ``"made"`` degrades the truth here; ``"given"`` takes the low-resolution pictures
            that lie beside it.
        shrink: area-average the truth to 1/shrink of its size first, see
            :class:`teco.evaluation.quality.EvaluateOptions`.
        max_frames: of each clip.
        reverse_warm_up: see :class:`teco.inference.stream.Stream`.
        runtime: name, or ``"auto"`` for the fastest exact one of each model.
        threads: CPU threads of the network; None for all cores.
        repetitions: timed steps of each model; None leaves time out.
        average: which one the tables and the plot show; the record holds both.
        published: also show the published figures.
        codec: what the low-resolution frames go through, of networks for ordinary clips; "" for
            none.
    """

    metrics: tuple[Metric, ...]
    size: tuple[int, int] = (180, 320)
    inputs: Inputs = "made"
    shrink: float = 1.0
    max_frames: int | None = None
    reverse_warm_up: int = 0
    runtime: str = "auto"
    threads: int | None = None
    repetitions: int | None = 100
    average: Average = "frame"
    published: bool = True
    codec: str = ""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A network in the table.

    Attributes:
        name: to show; unique in the table.
        spec: as the user named it.
        variant: its structure.
        cost: of one step at the table's size.
        sha256: of the file that ran.
        runtime: that ran it.
        details: what the runtime reports it runs on.
        timing: every sample; None where time was left out.
    """

    name: str
    spec: str
    variant: Variant
    cost: Cost
    sha256: str
    runtime: str
    details: str
    timing: LatencyResult | None = None

    @property
    def gmac(self) -> float:
        """Multiply-accumulates of the convolutions / 1e9, as published tables count."""
        return self.cost.macs["total"] / 1e9

    @property
    def params(self) -> int:
        """Learnable parameters."""
        return self.cost.params["total"]

    @property
    def milliseconds(self) -> float | None:
        """Median of a step."""
        return None if self.timing is None else self.timing.p50_ms

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the derived figures beside the samples."""
        timing: dict[str, Any] | None = None
        if self.timing is not None:
            latency = self.timing.latency
            host = latency.host.summary
            timing = {
                "p50": host.p50 / 1e3, "p90": host.p90 / 1e3, "p99": host.p99 / 1e3,
                "fps": host.fps, "samples": [ms / 1e3 for ms in latency.host.all],
                "load_seconds": latency.load_ms / 1e3, "first_seconds": latency.first_ms / 1e3,
            }  # fmt: skip
        return {
            "name": self.name,
            "spec": self.spec,
            "variant": self.variant.name,
            "sha256": self.sha256,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "executed_macs": self.cost.executed_macs,
            "gmac": self.gmac,
            "runtime": self.runtime,
            "details": self.details,
            "timing": timing,
        }


@dataclass(frozen=True)
class MethodResult:
    """One method on one set.

    Attributes:
        degradation: how its inputs were made small.
        row: its figures; ``row.method`` names it.
        entrant: the network; None for an interpolation.
    """

    degradation: Degradation
    row: QualityRow
    entrant: Entrant | None = None

    def value(self, metric: str, average: Average) -> float | None:
        """A mean over the set; None where it was not measured."""
        row = self.row
        return (row.frame_average if average == "frame" else row.folder_average).get(metric)


@dataclass(frozen=True)
class SetResult:
    """One set: the interpolations first, then the networks from cheap to dear."""

    clips: ClipSet
    methods: tuple[MethodResult, ...]

    def notes(self) -> list[str]:
        """Where the official rules or the official clips did not fit, in sentences."""
        found: list[str] = []
        row = self.methods[0].row
        for clip, result in zip(self.clips.clips, row.per_clip, strict=True):
            found += [f"{clip.name}: {note}" for note in result.notes]
            wanted = FRAMES.get(clip.name) if self.clips.kind == "Vid4" else None
            if wanted is not None and result.seen != wanted:
                found.append(
                    f"{clip.name} was measured on {result.seen} frames, Vid4's has {wanted}"
                )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data: per method the averages, and every clip's values by its name."""
        methods: list[dict[str, Any]] = []
        for judged in self.methods:
            record = judged.row.as_dict()
            for clip, plain, result in zip(
                self.clips.clips, record["per_clip"], judged.row.per_clip, strict=True
            ):
                means = {str(k): v for k, v in result.means.items()}
                plain |= {"clip": clip.name, "seen": result.seen, "means": means}
            network = None if judged.entrant is None else judged.entrant.name
            methods.append(record | {"degradation": judged.degradation, "model": network})
        return {
            "name": self.clips.name,
            "root": None if self.clips.root is None else str(self.clips.root),
            "clips": [
                {
                    "name": clip.name,
                    "truth": str(clip.truth),
                    "given": {k: str(v) for k, v in clip.given.items()},
                }
                for clip in self.clips.clips
            ],
            "methods": methods,
            "notes": self.notes(),
        }


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """One run of ``teco table``.

    Attributes:
        options: as asked, the metrics without those that could not be measured.
        threads: CPU threads each network was given.
        entrants: from cheap to dear.
        sets: in the order given.
        machine: where it ran.
        left_out: what was asked for and could not be measured, in sentences.
        warnings: what makes the times less sure.
        command: as typed.
        started: UTC, ISO 8601.
    """

    options: TableOptions
    threads: int
    entrants: tuple[Entrant, ...]
    sets: tuple[SetResult, ...]
    machine: Machine
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""
    started: str = ""
    schema: int = field(default=SCHEMA, kw_only=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        options = asdict(self.options)
        options["size"] = "{}x{}".format(*self.options.size)
        published: Sequence[Published] = ()
        if self.options.published:
            kinds = dict.fromkeys(one.clips.kind for one in self.sets)
            published = [*(row for kind in kinds for row in rows_for(kind)), *STUDY_ROWS]
        return {
            "schema": self.schema,
            "kind": "teco table",
            "command": self.command,
            "started": self.started,
            "options": options,
            "threads": self.threads,
            "machine": asdict(self.machine),
            "models": [entrant.as_dict() for entrant in self.entrants],
            "sets": [one.as_dict() for one in self.sets],
            "published": [row.as_dict() for row in published],
            "published_note": f"{STUDY_BLOCKS_NOTE} {STUDY_NOTE}" if published else None,
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
        }


def is_baseline(name: str) -> bool:
    """Whether a name is an interpolation's, which every table has."""
    return any(name in names for names in BASELINES.values())


def folder_of(path: Path) -> str:
    """A path's folder and name, to tell two files of one name apart."""
    return f"{path.parent.name}/{path.name}"
