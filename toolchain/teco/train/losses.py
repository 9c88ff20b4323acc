"""Losses of the flow-recurrent stage."""

from __future__ import annotations

import torch
from torch import Tensor

from teco_models.ops import warp

CHARBONNIER_EPS = 1e-6
"""Added to the squared difference (TecoGAN-PyTorch)."""

FLOW_EPS = 1e-4
"""LR pixels squared: end-point errors below a hundredth of a pixel count as none."""


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6), a differentiable absolute difference."""
    return torch.sqrt((x - y).square() + CHARBONNIER_EPS).mean()


def warp_loss(current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
    """Charbonnier between a frame and the previous one warped onto it.

    Args:
        current: (M, 3, h, w).
        previous: (M, 3, h, w).
        flow: (M, 2, h, w) LR pixels, current to previous.
    """
    return charbonnier(warp(previous, flow), current)


def flow_loss(flow: Tensor, known: Tensor) -> Tensor:
    """Mean end-point error in LR pixels where the motion is known.

    Args:
        flow: (M, 2, h, w) estimated.
        known: (M, 2, h, w) with NaN where unknown; those pixels count as zero error, so that a
            sample with little known motion weighs little.
    """
    ok = ~torch.isnan(known)
    difference = torch.where(ok, flow - torch.nan_to_num(known), 0.0)
    return torch.sqrt(difference.square().sum(dim=1) + FLOW_EPS).mean()
