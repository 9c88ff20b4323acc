"""Which convolutions bear eight bits: each is tried alone, and the worst stay in float.

The squared errors that layers add at the output hardly correlate, so what one layer does alone
predicts what many do together; the prediction is then measured and mended before the gate, which
takes longer, has its say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from teco.core.log import Progress, no_progress
from teco.core.pixels import Array, Pixels
from teco.exporting.quantisation.qdq import insert
from teco.exporting.quantisation.rollout import OnnxRollout
from teco.model.contract import StreamContract

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A short rollout to measure on.

    Attributes:
        model: float32 step for frames of this size.
        contract: how it is driven.
        thresholds: see :func:`teco.exporting.quantisation.qdq.insert`.
        scenes: frames, uint8 (h, w, 3).
        expected: HR frames that the float32 step makes of each.
        run: the HR frames of a model for scenes from a cold start, on the runtime that will serve;
            None for ONNX Runtime. What a layer costs depends on it: OpenVINO 2026.4 is wrong by 20
            dB where a convolution in int8 reads a Concat of the graph's own inputs.
    """

    model: ModelProto
    contract: StreamContract
    thresholds: Mapping[str, float]
    scenes: Sequence[Sequence[Pixels]]
    expected: Sequence[Sequence[Array]]
    run: Callable[[ModelProto, Sequence[Sequence[Pixels]]], list[list[Array]]] | None = None

    def error(self, float_layers: set[str]) -> float:
        """Mean squared difference from float32 with all layers but these in int8, of values in
        [0, 1]; infinite where they are not finite."""
        quantised = insert(self.model, self.thresholds, float_layers)
        try:
            scenes = (self.run or self._run)(quantised, self.scenes)
        except FloatingPointError:
            return float("inf")
        errors = [
            float(np.mean((found - wanted) ** 2))
            for scene, expected in zip(scenes, self.expected, strict=True)
            for found, wanted in zip(scene, expected, strict=True)
        ]
        mean = float(np.mean(errors))
        return mean if np.isfinite(mean) else float("inf")

    def _run(self, model: ModelProto, scenes: Sequence[Sequence[Pixels]]) -> list[list[Array]]:
        rollout = OnnxRollout(model, self.contract)
        return [rollout.hr_frames(frames) for frames in scenes]


def measure_sensitivity(probe: Probe, progress: Progress = no_progress) -> dict[str, float]:
    """What each layer costs when it alone is in int8: weight -> mean squared error, worst first."""
    layers = list(probe.thresholds)
    costs: dict[str, float] = {}
    for n, layer in enumerate(layers):
        costs[layer] = probe.error(set(layers) - {layer})
        progress(n + 1, len(layers))
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def keep_in_float(
    costs: Mapping[str, float],
    allowed: float,
    error: Callable[[set[str]], float],
    first: int = 0,
) -> int:
    """How many of the worst layers must stay in float for the rest to err no more than allowed.

    Args:
        costs: of :func:`measure_sensitivity`, worst first.
        allowed: mean squared error.
        error: measures it with a set of layers in float.
        first: fewest to keep.

    Returns:
        A number from ``first`` to ``len(costs)``, in which case nothing is left.
    """
    layers, values = list(costs), np.array(list(costs.values()))
    kept = first
    while kept < len(layers) and values[kept:].sum() > allowed:
        kept += 1
    while kept < len(layers):
        found = error(set(layers[:kept]))
        if found <= allowed:
            break
        # What is too much, by the share that each takes of the prediction.
        rest = values[kept:].sum()
        target = rest * allowed / found if np.isfinite(found) and rest > 0 else 0.0
        kept += 1
        while kept < len(layers) and values[kept:].sum() > target:
            kept += 1
    return kept
