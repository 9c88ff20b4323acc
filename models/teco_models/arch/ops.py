"""The parameter-free operations of the network: warp, space-to-depth, upsampling.

Shape legend: N batch, C channels, H x W the input's size, s = 4 the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 4

CUBIC_KERNELS = (
    (0.0, 1.0, 0.0, 0.0),
    (-0.10546875, 0.87890625, 0.26171875, -0.03515625),
    (-0.09375, 0.59375, 0.59375, -0.09375),
    (-0.03515625, 0.26171875, 0.87890625, -0.10546875),
)
"""Cubic convolution with a = -0.75 at the offsets 0, 1/4, 1/2, 3/4; row p makes out[4i + p] from
in[i - 1 .. i + 2]. Source: Keys 1981; TecoGAN's bicubic_four (ops.py), TecoGAN-PyTorch."""


def space_to_depth(x: Tensor, scale: int = SCALE) -> Tensor:
    """(N, C, sH, sW) -> (N, s*s*C, H, W) with channel = (dy * s + dx) * C + c.

    TensorFlow's order, which the published weights expect; ``torch.pixel_unshuffle`` has
    c * s * s + dy * s + dx.
    """
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // scale, scale, w // scale, scale)
    # (N, C, H, dy, W, dx) -> (N, dy, dx, C, H, W)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, scale * scale * c, h // scale, w // scale)


def depth_to_space(x: Tensor, scale: int = SCALE) -> Tensor:
    """Inverse of :func:`space_to_depth`: (N, s*s*C, H, W) -> (N, C, sH, sW)."""
    n, c, h, w = x.shape
    c //= scale * scale
    x = x.reshape(n, scale, scale, c, h, w)
    # (N, dy, dx, C, H, W) -> (N, C, H, dy, W, dx)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c, scale * h, scale * w)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample ``x`` at ``position + flow``: bilinear, border pixels continued outside.

    Args:
        x: (N, C, H, W).
        flow: (N, 2, H, W) in pixels of x, channel 0 horizontal.

    Returns:
        (N, C, H, W). Computed in float32 whatever the input: half-precision coordinates are too
        coarse for pictures of more than a few hundred pixels.
    """
    h, w = x.shape[-2:]
    flow = flow.float()
    # A grid of one pixel has no extent to normalise by; any coordinate then samples that pixel.
    gx = torch.linspace(-1, 1, w, device=x.device) + flow[:, 0] / (max(w - 1, 1) / 2)
    gy = torch.linspace(-1, 1, h, device=x.device)[:, None] + flow[:, 1] / (max(h - 1, 1) / 2)
    grid = torch.stack((gx, gy), dim=-1)  # (N, H, W, 2)
    return F.grid_sample(
        x.float(), grid, mode="bilinear", padding_mode="border", align_corners=True
    )


class CubicUpsample(nn.Module):
    """x4 cubic convolution aligned at the top-left pixel (out[4i] = in[i]), as BD models use it.

    Borders are replicated, one pixel before and two after. Its kernels are a buffer because the
    published checkpoints store them.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.tensor(CUBIC_KERNELS))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 4H, 4W)."""
        n, c, h, w = x.shape
        # Autocast would round pictures and flows to bfloat16 here: two grey levels of 255.
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x.reshape(n * c, 1, h, w), (1, 2, 1, 2), mode="replicate")
            kernels = self.kernels.to(x.dtype)
            x = F.conv2d(x, kernels.view(SCALE, 1, 4, 1))  # (N*C, 4, H, W+3): rows
            # (N*C, dy, H, W+3) -> (N*C, 1, 4H, W+3)
            x = x.transpose(1, 2).reshape(n * c, 1, SCALE * h, w + 3)
            x = F.conv2d(x, kernels.view(SCALE, 1, 1, 4))  # (N*C, dx, 4H, W): columns
        # (N*C, dx, 4H, W) -> (N, C, 4H, 4W)
        return x.permute(0, 2, 3, 1).reshape(n, c, SCALE * h, SCALE * w)


class BilinearUpsample(nn.Module):
    """x4 bilinear with half-pixel centres, as BI models use it. No buffers, no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 4H, 4W)."""
        return F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)
