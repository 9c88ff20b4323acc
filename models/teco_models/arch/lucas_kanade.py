"""One Lucas-Kanade step on FNet's flow, at LR: what FNet's pooled features cannot place, this can.

FNet answers from features at an eighth of the LR size and is right to about half an HR pixel; a
past that is to be corrected pixel by pixel needs better. Where the flow is nearly right, what is
left of the frames' difference is gradient times error (Lucas and Kanade 1981):

    previous(x + f + d) - current(x) ~ it + gx dx + gy dy,

which a window around each pixel overdetermines; least squares gives d by a 2x2 system. No
parameters, a few small filters and elementwise operations on LR frames.

Measured on GoPro's walking clip (16 frames; PSNR of the true previous picture warped onto the
current one by the flow times four): no motion 26.8 dB, FNet of teco-x4-b3-c64 31.3, with this step
33.1, classical flow of the true HR pictures (DIS) 34.9. Windows of sigma 1, 1.5, 2.5 and 3.5 gave
31.5, 32.6, 33.1 and 33.2; a second step gave nothing.

Shape legend: N batch, h x w the LR size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.ops import warp

SIGMA = 2.5
"""Of the window, LR pixels."""

RADIUS = 6
"""Where the window is cut off, LR pixels."""

EPS = 1e-4
"""Added to both squared-gradient sums: where there is no texture, the flow stays as it is."""

LIMIT = 0.5
"""Largest correction, LR pixels; beyond it the linear model says nothing."""

DERIVATIVE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)
"""Central difference of fourth order."""


def window_taps() -> Tensor:
    """(2 * RADIUS + 1,) float32, sums to 1."""
    x = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    taps = torch.exp(-(x**2) / (2 * SIGMA**2))
    return (taps / taps.sum()).float()


class LucasKanade(nn.Module):
    """The step, as a function of frames and flow.

    ``eps`` is a buffer that is stored, so that weights say whether they were trained with this.
    """

    eps: Tensor
    window: Tensor
    derivative: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("eps", torch.tensor(EPS))
        self.register_buffer("window", window_taps(), persistent=False)
        self.register_buffer("derivative", torch.tensor(DERIVATIVE), persistent=False)

    def forward(self, current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """The corrected flow; the correction takes part in no gradient, the flow in it does.

        Args:
            current: (N, 3, h, w).
            previous: (N, 3, h, w).
            flow: (N, 2, h, w) LR pixels, current to previous.

        Returns:
            (N, 2, h, w) float32, each component at most :data:`LIMIT` from ``flow``.
        """
        # In float32 whatever autocast says: these are differences of products of small numbers.
        with torch.no_grad(), torch.autocast(current.device.type, enabled=False):
            current, previous = current.float(), previous.float()
            step = self.correction(current, warp(previous, flow))
        return flow + step

    def correction(self, current: Tensor, warped: Tensor) -> Tensor:
        """(N, 3, h, w) frames, the second warped onto the first -> (N, 2, h, w)."""
        n, _, h, w = current.shape
        mean = F.pad((current + warped) / 2, (2, 2, 2, 2), mode="replicate")
        planes = mean.reshape(n * 3, 1, h + 4, w + 4)
        taps = self.derivative
        gx = F.conv2d(planes[:, :, 2:-2], taps.view(1, 1, 1, 5)).view(n, 3, h, w)
        gy = F.conv2d(planes[..., 2:-2], taps.view(1, 1, 5, 1)).view(n, 3, h, w)
        it = warped - current
        products = [(a * b).sum(1) for a, b in ((gx, gx), (gx, gy), (gy, gy), (gx, it), (gy, it))]
        sums = self._window(torch.stack(products, dim=1))
        xx, xy, yy, xt, yt = sums.chunk(5, dim=1)
        xx, yy = xx + self.eps, yy + self.eps
        # Positive by at least eps squared, as xy^2 <= xx yy before eps was added.
        determinant = xx * yy - xy * xy
        step = torch.cat((xy * yt - yy * xt, xy * xt - xx * yt), dim=1) / determinant
        return step.clamp(-LIMIT, LIMIT)

    def _window(self, x: Tensor) -> Tensor:
        """Weighted sums around each pixel, borders continued."""
        n, c, h, w = x.shape
        taps = self.window
        x = F.pad(x, (RADIUS,) * 4, mode="replicate").reshape(n * c, 1, h + 2 * RADIUS, -1)
        x = F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
        return x.view(n, c, h, w)
