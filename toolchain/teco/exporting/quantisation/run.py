"""A graph in floats to one in eight-bit integers that has passed the temporal gate.

    ranges from a rollout -> each layer tried alone -> the worst stay in float -> the gate

Everything is measured on the same network traced for small frames, because hundreds of steps are
run; the integers and scales found there are put into the graph that is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from teco.core.errors import TecoError
from teco.core.log import ShowProgress, show_no_progress
from teco.exporting.quantisation.clips import CalibrationScenes, CalibrationSet, read_scenes
from teco.exporting.quantisation.qdq import insert, learned, same_integers
from teco.exporting.quantisation.rollout import OnnxRollout
from teco.exporting.quantisation.scene_gate import SceneGate
from teco.exporting.quantisation.sensitivity import Probe, keep_in_float, measure_sensitivity
from teco.model.contract import StreamContract
from teco.model.engine.precision_check import LEAST_SHARE, of_onnx
from teco.model.int8 import Int8, Kept
from teco.model.opening import Model
from teco.runtimes.base import Session
from teco.verification.temporal_gate import GateClip, lossy_bounds
from teco_calibration.int8_ranges import RANGES, observe
from teco_calibration.temporal_gate.verdict import Bounds, Verdict

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

PROBE_FRAMES = 8
"""Recurrent frames of all scenes together on which a layer is tried."""

PROBE_SCENES = 3
"""Scenes of which they are taken."""

HEADROOM = 0.5
"""Share of the allowed loss of PSNR that the layers in int8 may take on those few frames; the gate
runs many times as many, over which errors feed on themselves."""

MOST_GATES = 4
"""After so many refusals, each with fewer layers in int8, none is expected to pass."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What came out.

    Attributes:
        model: the graph in int8.
        record: how, without timings.
        verdict: of the gate; of several scenes the one where most was lost.
    """

    model: ModelProto
    record: Int8
    verdict: Verdict


class QuantisationError(TecoError):
    """No choice of layers in int8 passes the gate."""


def quantise(
    model: ModelProto,
    trace: Callable[[tuple[int, int]], ModelProto],
    about: Model,
    reference: Session,
    calibration: CalibrationSet,
    *,
    target: str = "onnxruntime",
    progress: ShowProgress = show_no_progress,
) -> Quantised:
    """Choose ranges and layers, and judge.

    Args:
        model: the deploy form in floats; not changed.
        trace: the same form for frames of another size.
        about: name, variant and, in the manifest, how the step is driven.
        reference: the float32 step, for the gate.
        calibration: clips and ranges.
        target: runtime the file is for; the gate runs there if it can, else on ONNX Runtime.
        progress: shows how far the trial of single layers is, and the gate.

    Raises:
        QuantisationError: fewer layers than
            :data:`teco.model.engine.precision_check.LEAST_SHARE` of the
            convolutions bear int8.
        TecoError, ClipError, ModelError: a clip cannot be used, or a runtime failed.
    """
    material = read_scenes(calibration.clips, about.variant.degradation)
    size = f"{material.size[0]}x{material.size[1]}"
    clips = ", ".join(material.names) or "moving test frames, because no clip was named"
    logger.info("ranges (%s) from %s, at %s", calibration.range, clips, size)
    small = trace(material.size)
    assert about.manifest is not None
    contract = about.manifest.contract
    thresholds = _thresholds(model, small, contract, material, calibration.range)
    few = material.scenes[:PROBE_SCENES]
    bounds, note = lossy_bounds(few[0].truth is not None)
    gate = SceneGate(about, reference, material.scenes, bounds, target)
    probe = _probe(small, contract, thresholds, few, gate)
    if note:
        logger.info("note: %s", note)
    tolerance = Tolerance.of(probe, few, bounds)
    choice = _LayerChoice(probe, progress)
    total = sum(of_onnx(model).convolutions.values())
    least = max(1, LEAST_SHARE["int8"] * total)

    # Mostly all bear it together, and then none has to be tried alone.
    allowed = HEADROOM * tolerance.allowed
    kept = choice.kept_in_float(allowed) if probe.error(set()) > allowed else {}
    reasons: tuple[str, ...] = ()
    for _ in range(MOST_GATES):
        count = len(thresholds) - len(kept)
        if count < least:
            break
        stay = f"{len(kept)} stay in float: {', '.join(kept)}" if kept else "none stays in float"
        logger.info("%d of %d learned convolutions in int8; %s", count, len(thresholds), stay)
        judged = insert(small, thresholds, set(kept))
        logger.info(
            "the gate's %d frames and scene cuts at %s on %s", bounds.frames, size, gate.runtime
        )
        with progress("gate", "frames") as told:
            verdict = gate.judge(judged, told)
        if verdict.accepted:
            whole = insert(model, thresholds, set(kept))
            if not same_integers(judged, whole):
                raise TecoError("the file that was judged has other integers than the one kept")
            record = Int8(
                clips=material.names,
                range=calibration.range,
                frames=sum(len(s.frames) for s in material.scenes),
                size=size,
                on_truth=tolerance.truth is not None,
                judged_on=gate.runtime,
                kept=tuple(Kept(layer=n, loss=tolerance.loss(c)) for n, c in kept.items()),
            )
            return Quantised(model=whole, record=record, verdict=verdict)
        reasons = verdict.reasons
        logger.info("refused: %s", "; ".join(reasons))
        # Half the error next time, and one layer less at least.
        kept = choice.kept_in_float(probe.error(set(kept)) / 2, len(kept) + 1)
    why = "; ".join(reasons) or f"{len(thresholds) - len(kept)} of {total} convolutions bear it"
    raise QuantisationError(
        f"{about.name} in int8 is not close enough to float32: {why}; no file was written "
        f"({tolerance.unit} lost by single layers: {choice.worst(tolerance)})",
        hint="give clips like what it is for with --calibrate, another --range, or take --fp16",
    )


def _thresholds(
    model: ModelProto,
    small: ModelProto,
    contract: StreamContract,
    material: CalibrationScenes,
    range_name: str,
) -> dict[str, float]:
    """Weight of each learned convolution -> the largest magnitude of its input that is kept."""
    shown = {weight: node.input[0] for weight, node in learned(small).items()}
    if shown.keys() != learned(model).keys():
        raise TecoError("the same network traced at two sizes has not the same convolutions")
    seen = observe(OnnxRollout(small, contract, shown), (s.frames for s in material.scenes))
    return {name: RANGES[range_name].threshold(seen[name]) for name in shown}


def _probe(
    small: ModelProto,
    contract: StreamContract,
    thresholds: Mapping[str, float],
    scenes: tuple[GateClip, ...],
    gate: SceneGate,
) -> Probe:
    frames = [s.frames[: PROBE_FRAMES // len(scenes)] for s in scenes]
    in_float = OnnxRollout(small, contract)
    return Probe(
        model=small,
        contract=contract,
        thresholds=thresholds,
        scenes=frames,
        expected=[in_float.hr_frames(scene) for scene in frames],
        run=gate.hr_frames,
    )


class _LayerChoice:
    """Which layers stay in float; what each costs in int8 is measured when it is first asked."""

    def __init__(self, probe: Probe, progress: ShowProgress) -> None:
        self._probe = probe
        self._progress = progress
        self._costs: dict[str, float] = {}

    def kept_in_float(self, allowed: float, fewest: int = 0) -> dict[str, float]:
        """The worst layers, at least ``fewest``, without which the others err no more than
        ``allowed``; weight -> mean squared error of it alone in int8."""
        if not self._costs:
            frames = sum(map(len, self._probe.scenes))
            count = len(self._probe.thresholds)
            logger.info("trying %d convolutions alone over %d frames", count, frames)
            with self._progress("layers", "layers") as told:
                self._costs = measure_sensitivity(self._probe, told)
        count = keep_in_float(self._costs, allowed, self._probe.error, fewest)
        return dict(list(self._costs.items())[:count])

    def worst(self, tolerance: Tolerance) -> str:
        """The three worst layers that were measured, for a message."""
        worst = list(self._costs.items())[:3]
        return ", ".join(f"{name} ({tolerance.loss(cost):g})" for name, cost in worst)


@dataclass(frozen=True)
class Tolerance:
    """What int8 may lose.

    Attributes:
        allowed: mean squared error against the reference, values in [0, 1].
        truth: mean squared error of the reference on the truth; None without one.
    """

    allowed: float
    truth: float | None

    @classmethod
    def of(cls, probe: Probe, scenes: tuple[GateClip, ...], bounds: Bounds) -> Tolerance:
        """What the gate's bounds allow on the frames of a probe."""
        if bounds.psnr_loss is None:
            assert bounds.worst_psnr is not None
            return cls(10 ** (-bounds.worst_psnr / 10), None)
        errors: list[float] = []
        for scene, frames in zip(scenes, probe.expected, strict=True):
            assert scene.truth is not None
            for found, truth in zip(frames, scene.truth, strict=False):
                clipped = found[0].clip(0, 1).transpose(1, 2, 0)
                errors.append(float(np.mean((clipped - truth / np.float32(255)) ** 2)))
        base = max(float(np.mean(errors)), 1e-10)
        return cls(base * (10 ** (bounds.psnr_loss / 10) - 1), base)

    @property
    def unit(self) -> str:
        return "share of what is allowed" if self.truth is None else "dB"

    def loss(self, error: float) -> float:
        """What a squared error costs: dB on the truth if it is independent of the reference's own
        error, else its share of what is allowed. Three digits."""
        value = error / self.allowed
        if self.truth is not None:
            value = 10 * float(np.log10(1 + error / self.truth))
        return float(f"{min(value, 1e9):.3g}")
