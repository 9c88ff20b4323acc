"""Two sessions over the same recurrent frames, value by value: is one rounding away from the other?

Used by the export, which verifies a file before it gets its name, and by ``teco verify``, which
does it afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from teco.artifact import Parity
from teco.errors import TecoError
from teco.gating import moving_frames
from teco.runtimes.base import Session
from teco_models.variant import Variant

if TYPE_CHECKING:
    from teco.runtimes.pytorch import PyTorchSession
    from teco_models.checkpoint import Weights

MAX_DIFFERENCE = 1e-4
"""Largest difference from PyTorch that is rounding, pictures in [0, 1]; 1/40 of an 8-bit step."""

MAX_DIFFERENCE_BACK = 1e-3
"""The same with back-projection, a quarter of a step: what rounding puts into the past comes round
again. Random networks reach 5e-4 after 30 frames, the shipped one stays below 1e-4."""


class ParityError(TecoError):
    """A file does not compute what its weights compute."""


def allowed_difference(variant: Variant) -> float:
    """Largest difference from PyTorch that is rounding, for this kind of network."""
    return MAX_DIFFERENCE_BACK if variant.back_projection else MAX_DIFFERENCE


def reference_session(weights: Weights) -> PyTorchSession:
    """The float32 PyTorch step; channels last, which is 1.6 times as fast on AVX-512 CPUs."""
    import torch

    from teco.runtimes.pytorch import PyTorchSession
    from teco_models.checkpoint import build

    return PyTorchSession(build(weights).to(memory_format=torch.channels_last))


def compare(
    candidate: Session,
    reference: Session,
    sizes: tuple[tuple[int, int], ...],
    frames: int,
    *,
    name: str,
) -> Parity:
    """Run both over drifting frames.

    Each keeps its own state, so that differences may grow as they would in use.

    Args:
        candidate: an open session.
        reference: another.
        sizes: LR (h, w), each run from a cold start.
        frames: recurrent frames at each size.
        name: of the candidate, for messages.

    Raises:
        ParityError: the candidate gives pictures of another size, or values that are no numbers.
    """
    worst, steps, psnr = 0.0, 0, float("inf")
    for h, w in sizes:
        state = expected_state = None
        for lr in moving_frames(h, w, frames):
            expected, expected_state = reference.step(lr, expected_state)
            found, state = candidate.step(lr, state)
            if found.shape != expected.shape or not np.isfinite(found).all():
                raise ParityError(
                    f"{name} gave {list(found.shape)} with "
                    f"{int((~np.isfinite(found)).sum())} values that are not finite, expected "
                    f"{list(expected.shape)}"
                )
            worst = max(worst, float(np.abs(found - expected).max()))
            a, b = (np.clip(np.rint(x * 255), 0, 255) for x in (found, expected))
            steps = max(steps, int(np.abs(a - b).max()))
            error = float(np.mean((a - b) ** 2))
            if error:
                psnr = min(psnr, float(10 * np.log10(255**2 / error)))
    return Parity(
        frames=frames,
        sizes=tuple(f"{h}x{w}" for h, w in sizes),
        max_abs=worst,
        max_steps=steps,
        min_psnr=None if psnr == float("inf") else round(psnr, 2),
    )
