"""What pruning costs in quality: a prior from published figures, corrected by short fine-tunings.

The loss, in dB of PSNR-Y against the teacher, is taken to grow with the logarithm of what is cut
from each part: so much for each halving of the blocks, of SRNet's width and of the flow net's, and
so much at once for a new tail and for leaving the flow net out. None of these can be negative, so
a network that another contains is never predicted to be the better one.

A handful of networks is pruned and briefly fine-tuned, and the weights are what explains their
losses best while staying near the prior: ridge regression towards it, non-negative. The ranks are
what this is for. Short fine-tunings do not give the decibels that long training ends with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from teco.pruning.budget.space import Space
from teco_models.variant import Variant

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

NOISE = 0.05
"""dB by which a short fine-tuning and the surrogate may differ without either being wrong; an
assumption, of the size of what another seed changes."""


@dataclass(frozen=True)
class Weight:
    """One weight of the surrogate before anything is measured.

    Attributes:
        mean: dB a unit.
        spread: how far off it may well be.
        source: where it comes from.
    """

    mean: float
    spread: float
    source: str


PRIOR: dict[str, Weight] = {
    "pruned at all": Weight(0.0, 0.3, "what any cut leaves to mend so soon after; unknown"),
    "halving of blocks": Weight(
        0.29, 0.29, "Kim, Lee, Park, table 3: 30.75 dB with 10 blocks, 29.78 with one"
    ),
    "halving of channels": Weight(
        0.59, 0.59, "RLSP on Vid4: 27.48, 26.90 and 26.65 dB with 128, 64 and 48 filters"
    ),
    "halving of flow channels": Weight(0.1, 0.1, "an assumption; nobody published it"),
    "no flow net": Weight(
        0.2, 0.2, "an assumption: the temporal gain of our own first 3-block model, all of it"
    ),
    "new tail": Weight(0.17, 0.17, "EGVSR against TecoGAN on Vid4: 25.84 and 26.01 dB"),
}
"""Without fine-tunings networks are ranked by this alone."""


@dataclass(frozen=True)
class Surrogate:
    """Predicted quality loss of the variants of one space.

    Attributes:
        space: whose teacher loses nothing.
        weights: dB a unit of each feature, in the order of :data:`PRIOR`.
        inverse: covariance of the weights, dB squared.
    """

    space: Space
    weights: Vector
    inverse: Matrix

    @classmethod
    def fit(cls, space: Space, tuned: Mapping[Variant, float]) -> Surrogate:
        """The surrogate that explains measured losses.

        Args:
            space: all variants come from it.
            tuned: variant -> dB lost after its fine-tuning; may be empty, must be finite.
        """
        means = np.array([w.mean for w in PRIOR.values()])
        spreads = np.array([w.spread for w in PRIOR.values()])
        rows = np.array([features(space, v) for v in tuned]).reshape(len(tuned), len(PRIOR))
        losses = np.array(list(tuned.values()), dtype=np.float64)
        a = np.vstack([rows / NOISE, np.diag(1 / spreads)])
        b = np.concatenate([losses / NOISE, means / spreads])
        weights, _ = nnls(a, b)
        return cls(space, weights, np.asarray(np.linalg.inv(a.T @ a), np.float64))

    def __call__(self, variant: Variant) -> float:
        """dB lost, at least 0."""
        return float(features(self.space, variant) @ self.weights)

    def uncertainty(self, variant: Variant) -> float:
        """dB of standard deviation: how little is known about the variant's mix of cuts."""
        x = features(self.space, variant)
        return float(np.sqrt(x @ self.inverse @ x))

    def as_dict(self) -> dict[str, float]:
        """The weights by name."""
        return dict(zip(PRIOR, self.weights.tolist(), strict=True))


def features(space: Space, variant: Variant) -> Vector:
    """How much of each thing in :data:`PRIOR` was done to the teacher."""
    teacher = space.teacher
    no_flow = teacher.flow_channels > 0 and variant.flow_channels == 0
    # Without a flow net more is missing than with the narrowest.
    flow = min(f for f in space.flows if f) if no_flow else variant.flow_channels
    return np.array(
        [
            float(variant != teacher),
            log2(teacher.blocks / variant.blocks),
            log2(teacher.channels / variant.channels),
            log2(teacher.flow_channels / flow) if teacher.flow_channels else 0.0,
            float(no_flow),
            float(variant.tail != teacher.tail),
        ]
    )
