"""A digest of weights that is the same in every container format."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from teco_models.checkpoint import Weights


def weights_digest(weights: Weights) -> str:
    """sha256 over names, shapes and float32 values: the same for every container format."""
    digest = hashlib.sha256()
    for key in sorted(weights.tensors):
        value = weights.tensors[key].numpy()
        digest.update(f"{key}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
    return digest.hexdigest()
