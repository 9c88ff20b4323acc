"""Back-projection of the past: what the new frame says is put into the warped previous output.

A low-resolution frame is a known function of the picture that is wanted: BD's blur and every fourth
pixel. So whatever the past suggests can be degraded and compared with the frame, and the
difference spread back over the pixels it came from: P' = P + S(lr - D(P)), one step of iterative
back-projection (Irani and Peleg 1991), with D fixed and S learned. In the recurrence the steps add
up over frames that sample the scene at different places, which is where the detail of video
super-resolution comes from; a plain SRNet must learn all of this, and hardly does in short
training. SRNet then reads P' in place of P, and a mask made from its features says how much of each
output pixel is P' itself, as far as P can be trusted there: where it did not fit the frame by much,
it lies in the wrong place, and its detail would be drawn over the right one.

The frame before which there is nothing is known by its black predecessor: then P' = P = 0 and the
mask is 0, so that the first frame of a scene is SRNet's alone.

Both operations run on phases, 48 channels at LR, where D is one 3x3 convolution and S another:
nearly free beside SRNet.

Shape legend: N batch, h x w the LR size, C ``variant.channels``, phases (N, 48, h, w) with
channel = (dy * 4 + dx) * 3 + c as :func:`teco_models.arch.ops.space_to_depth` gives them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.ops import SCALE, depth_to_space

PHASES = SCALE * SCALE

SIGMA = 1.5
"""Standard deviation of BD's Gaussian in HR pixels, cut off at 4 (TecoGAN, main.py and its port).
teco_calibration.degrade makes the same kernel for pictures; a test holds them together."""

STEP = 1.2
"""Length of the first correction, which training goes on from. 1 is exact for what the blur leaves
untouched; untrained, with a refined flow and a share of 0.65, 1, 1.2 and 1.5 gave 28.88, 28.89 and
28.90 dB on 24 frames of GoPro's walking clip."""


SHARE, SHARE_REFINED = 0.5, 0.8
"""Share of the corrected past in the output to begin with, with FNet's flow and with a refined one.
Measured best, untrained, on 24 frames of that clip with teco-x4-b3-c64's weights: 0.5, 0.65 and 0.8
gave 28.68, 28.68 and 28.60 dB, with a refined flow 28.82, 28.89 and 28.93 (without any: 28.53)."""


def blur_taps() -> Tensor:
    """(9,) float64, the Gaussian at -4 .. 4, sums to 1."""
    x = torch.arange(-SCALE, SCALE + 1, dtype=torch.float64)
    taps = torch.exp(-(x**2) / (2 * SIGMA**2))
    return taps / taps.sum()


def phase_blur() -> Tensor:
    """(16, 3, 3) float32: what each phase of the 3x3 LR pixels around gives to one LR pixel."""
    taps = blur_taps()
    rows = torch.zeros(SCALE, 3, dtype=torch.float64)  # (phase, LR offset + 1)
    for phase in range(SCALE):
        for k in range(3):
            # LR pixel i is centred on HR pixel 4i; this one lies at 4 (i + k - 1) + phase.
            place = SCALE * (k - 1) + phase + SCALE
            if 0 <= place < len(taps):
                rows[phase, k] = taps[place]
    return torch.einsum("ai,bj->abij", rows, rows).reshape(PHASES, 3, 3).float()


TRUST = 0.04
"""Mean misfit m, of pictures in [0, 1], at which the past counts for 1/e of what the mask says:
exp(-(m / TRUST)^4). Without it -> with it (dB, tOF), on 12 frames each: the 3-block network on the
development clip with cups, where a hand moves, 28.82 and .262 -> 29.02 and .182 (without any past
28.98 and .169, bicubic's tOF .227); the 10-block one on GoPro's walking clip, most of which is
followed well, 28.730 and .238 -> 28.725 and .238. exp(-(m / 0.04)^2) gave 29.02 and 28.70 dB,
exp(-(m / 0.06)^4) 29.00 and 28.73."""


class BackProjection(nn.Module):
    """Correct the past by the frame, and mix it into the output.

    Args:
        channels: C, width of SRNet's features.
        share: of the corrected past in the output, before training.
    """

    blur: Tensor

    def __init__(self, channels: int, share: float = SHARE) -> None:
        super().__init__()
        one = phase_blur()
        # (3, 48, 3, 3); a constant of BD, so it is not stored with the weights.
        blur = torch.einsum("pyx,cd->cpdyx", one, torch.eye(3)).reshape(3, 3 * PHASES, 3, 3)
        self.register_buffer("blur", blur, persistent=False)
        # The transpose of D: seen from the phase, its LR neighbours lie the other way round.
        self.spread = nn.Parameter(STEP * PHASES * one.flip(1, 2).unsqueeze(1))  # (16, 1, 3, 3)
        self.mask = nn.Conv2d(channels, PHASES, 3, padding=1)
        self.share = share
        self.reset()

    def reset(self) -> None:
        """The mask as it is before training: the same share everywhere."""
        nn.init.zeros_(self.mask.weight)
        assert self.mask.bias is not None
        nn.init.constant_(self.mask.bias, math.log(self.share / (1 - self.share)))

    @staticmethod
    def known(lr_prev: Tensor) -> Tensor:
        """(N, 3, h, w) previous frames -> (N, 1, 1, 1), 1 where there is a past, else 0."""
        return (lr_prev.amax(dim=(1, 2, 3), keepdim=True) > 0).to(lr_prev.dtype)

    def correct(self, lr: Tensor, past: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """P', (N, 48, h, w), and how far to trust it, (N, 1, h, w) in [0, 1].

        In float32 whatever autocast says.

        Args:
            lr: (N, 3, h, w).
            past: (N, 48, h, w), P.
            known: from :meth:`known`.
        """
        n, _, h, w = past.shape
        with torch.autocast(lr.device.type, enabled=False):
            lr, past = lr.float(), past.float()
            error = _edged(lr - F.conv2d(_edged(past), self.blur.float()))
            # Every colour by itself with the same 16 kernels.
            spread = F.conv2d(error.view(n * 3, 1, h + 2, w + 2), self.spread.float())
            spread = spread.view(n, 3, PHASES, h, w).transpose(1, 2).reshape(past.shape)
            return past + known * spread, known * trust(error)

    def blend(self, x: Tensor, past: Tensor, features: Tensor, trusted: Tensor) -> Tensor:
        """(N, 3, 4h, 4w) SRNet's picture, P' and the trust in it -> the output."""
        mask = trusted * torch.sigmoid(self.mask(features).to(x.dtype))
        return x + depth_to_space(mask) * (depth_to_space(past.to(x.dtype)) - x)


def trust(error: Tensor) -> Tensor:
    """(N, 3, h + 2, w + 2) misfit of P, continued by a pixel -> (N, 1, h, w) trust in (0, 1].

    The mean of the absolute misfit over colours and 3x3 LR pixels: one alone may fit by chance.
    """
    misfit = F.avg_pool2d(error.abs().mean(dim=1, keepdim=True), 3, stride=1)
    square = (1 / TRUST**2) * misfit * misfit
    return torch.exp(-square * square)


def _edged(x: Tensor) -> Tensor:
    """One pixel more on each side, continued."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
