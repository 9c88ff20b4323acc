"""The spatio-temporal discriminator: is this triplet of frames filmed or made up?

It sees three consecutive frames t-1, t, t+1 in three ways: as they are (detail), warped onto the
middle one (what moves should stay the same), and the LR frames they stand for, upsampled. Real and
generated triplets are warped by the same motion, which is the generator's own estimate, so that
only the pictures can tell them apart.

Sources: TecoGAN (Chu et al. 2020; thunil/TecoGAN, lib/Teco.py) and its PyTorch port
(skycrapers/TecoGAN-PyTorch, SpatioTemporalDiscriminator), whose names of weights, linear
classifier and logits these are; the TensorFlow network classifies each of its last 8x8 positions
instead and ends in a sigmoid. Pictures are RGB in [0, 1].

Shape legend: B sequences, T frames, K = T // 3 triplets of a sequence, M = B * K triplets in a
row, h x w the LR size, H x W = 4h x 4w, S the discriminator's square picture size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from teco_models.arch.ops import CubicUpsample, warp
from teco_models.errors import ModelError

TRIPLET = 3
"""Frames the discriminator sees at once; what is left over at a sequence's end is not judged."""

CHANNELS = 27
"""3 views (as they are, warped, upsampled LR) x 3 colours x 3 frames."""

REDUCTION = 16
"""Four convolutions of stride 2."""

LEAK = 0.2
"""Negative slope of every LeakyReLU (TecoGAN)."""


def _block(cin: int, cout: int) -> nn.Sequential:
    """Half the size: a bias would be taken out again by the normalisation."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 4, 2, 1, bias=False), nn.BatchNorm2d(cout), nn.LeakyReLU(LEAK)
    )


class DiscriminatorBlocks(nn.Module):
    """Four halvings; the published names are those of this module."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(64, 64)
        self.block2 = _block(64, 64)
        self.block3 = _block(64, 128)
        self.block4 = _block(128, 256)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(M, 64, S, S) -> (M, 64, S/2, S/2), (M, 64, S/4, S/4), (M, 128, ...), (M, 256, ...)."""
        outputs: list[Tensor] = []
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = block(x)
            outputs.append(x)
        return outputs


class Discriminator(nn.Module):
    """The network alone; :func:`triplet_input` makes what it looks at.

    Its state dict is the published format. ``upsample_func`` is part of that format; it has no
    weights and takes no part in :meth:`forward`.

    Args:
        size: S, the side of the pictures, which fixes the classifier's width; 819,457 parameters
            at 128.

    Raises:
        ModelError: size is not a positive multiple of 16.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        if size < REDUCTION or size % REDUCTION:
            raise ModelError(
                f"a discriminator for pictures of {size}x{size} cannot be built: the size must be "
                f"a positive multiple of {REDUCTION}",
                hint=f"take a crop of {max(size // REDUCTION, 1) * REDUCTION} or 128",
                exit_code=2,
            )
        self.size = size
        self.conv_in = nn.Sequential(nn.Conv2d(CHANNELS, 64, 3, 1, 1), nn.LeakyReLU(LEAK))
        self.discriminator_block = DiscriminatorBlocks()
        self.dense = nn.Linear(256 * (size // REDUCTION) ** 2, 1)
        self.upsample_func = CubicUpsample()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge triplets.

        Args:
            x: (M, 27, S, S), from :func:`triplet_input`.

        Returns:
            (M, 1) logits, positive for "filmed", and the four blocks' outputs after LeakyReLU:
            (M, 64, S/2, S/2), (M, 64, S/4, S/4), (M, 128, S/8, S/8), (M, 256, S/16, S/16).

        Raises:
            ModelError: x has another number of channels or another size.
        """
        if x.ndim != 4 or x.shape[1:] != (CHANNELS, self.size, self.size):
            raise ModelError(
                f"the discriminator was given {tuple(x.shape)}, expected "
                f"(any number, {CHANNELS}, {self.size}, {self.size})",
                hint=f"train it on crops of {self.size}",
            )
        features = self.discriminator_block(self.conv_in(x))
        return self.dense(features[-1].flatten(1)), features


class MovesFrames(Protocol):
    """What is asked of a generator here."""

    def flow(self, current: Tensor, previous: Tensor) -> Tensor:
        """(N, 3, h, w) each -> (N, 2, h, w) LR pixels, from the current frame to the previous."""
        ...

    @property
    def upsample_func(self) -> Callable[[Tensor], Tensor]:
        """(N, C, h, w) -> (N, C, sh, sw), as the generator enlarges the frame."""
        ...


def triplet_flows(generator: MovesFrames, lr: Tensor) -> Tensor:
    """The motion inside each triplet, as the generator sees it.

    The triplets of a sequence are frames 0 1 2, 3 4 5, ...; a rest of one or two frames is left
    out. For a mirrored (ping-pong) sequence this gives what both references take from the
    generator's own pass, whose flows serve in both directions there.

    Args:
        generator: only its ``flow`` and ``upsample_func`` are used.
        lr: (B, T, 3, h, w).

    Returns:
        (B, K, 3, 2, sh, sw) float32 in HR pixels, s the scale, channel 0 horizontal: of each
        triplet with the middle frame t = 3k + 1 the flow from t to t-1, zero, and the flow from t
        to t+1. Warping frame i of the triplet by entry i aligns it with t. No gradient reaches the
        generator: the references stop it there, or FNet would learn to make the task easy.

    Raises:
        ModelError: fewer than three frames.
    """
    b, t, c, h, w = lr.shape
    k = t // TRIPLET
    if k == 0:
        raise ModelError(
            f"a sequence of {t} frames has no triplet for the discriminator, which judges three "
            "frames at a time",
            hint="train on sequences of at least 3 frames",
            exit_code=2,
        )
    before, middle, after = lr[:, : TRIPLET * k].reshape(b * k, TRIPLET, c, h, w).unbind(1)
    with torch.no_grad():
        # Both directions in one batch: (2*B*K, 2, h, w).
        flow = generator.flow(torch.cat((middle, middle)), torch.cat((before, after)))
        with torch.autocast(lr.device.type, enabled=False):  # half precision is too coarse
            wide = generator.upsample_func(flow.float())
        s = wide.shape[-1] // w
        back, forth = (s * wide).chunk(2)
        flows = torch.stack((back, torch.zeros_like(back), forth), dim=1)
    return flows.view(b, k, TRIPLET, 2, s * h, s * w)


def _by_colour(frames: Tensor) -> Tensor:
    """(3*M, 3, H, W) frames of M triplets -> (M, 9, H, W): three reds, greens, blues (RRRGGGBBB).

    TensorFlow's order; the published weights expect it.
    """
    _, c, h, w = frames.shape
    # (M, frame, colour, H, W) -> (M, colour, frame, H, W)
    return frames.view(-1, TRIPLET, c, h, w).transpose(1, 2).reshape(-1, c * TRIPLET, h, w)


def _black_border(x: Tensor) -> Tensor:
    """Keep the middle 3/4 of each side of (N, C, H, W) and put zeros around it.

    Warping has nothing to fetch from outside the crop, and the discriminator would learn from
    what stands there instead (TecoGAN's supplement; crop_dt = 0.75).
    """
    h, w = x.shape[-2:]
    top, left = h // 8, w // 8
    inside = x[..., top : h - top, left : w - left]
    return nn.functional.pad(inside, (left, left, top, top))


def triplet_input(
    pictures: Tensor, lr: Tensor, flows: Tensor, upsample: Callable[[Tensor], Tensor]
) -> Tensor:
    """What the discriminator looks at; the same for filmed and for generated pictures.

    Args:
        pictures: (B, T, 3, sh, sw), the truth or the generator's output.
        lr: (B, T, 3, h, w), what they stand for.
        flows: (B, K, 3, 2, sh, sw) of :func:`triplet_flows`; they are taken as constants.
        upsample: (N, 3, h, w) -> (N, 3, sh, sw), the generator's ``upsample_func``.

    Returns:
        (B*K, 27, sh, sw) float32: 9 channels of the pictures, 9 of the pictures warped onto the
        middle frame with a black border of 1/8 on each side, 9 of the upsampled LR frames; each
        red, green, blue of frames t-1, t, t+1 (RRRGGGBBB). Gradients flow to ``pictures``.

    Raises:
        ModelError: the three do not belong together.
    """
    b, t, c, h, w = lr.shape
    k = flows.shape[1]
    s = flows.shape[-1] // w
    expected = (b, t, c, s * h, s * w)
    if pictures.shape != expected or flows.shape != (b, t // TRIPLET, TRIPLET, 2, *expected[3:]):
        raise ModelError(
            f"pictures {tuple(pictures.shape)} and flows {tuple(flows.shape)} do not fit LR frames "
            f"of {tuple(lr.shape)}; expected {expected} and "
            f"{(b, t // TRIPLET, TRIPLET, 2, *expected[3:])}",
            hint="mirror the frames, the LR frames and the flows' LR frames alike",
        )
    # All in float32, so that filmed and generated pictures cannot be told apart by their rounding.
    with torch.autocast(lr.device.type, enabled=False):
        frames = pictures[:, : TRIPLET * k].flatten(0, 1).float()  # (B*K*3, 3, sh, sw)
        warped = _black_border(warp(frames, flows.detach().flatten(0, 2)))
        condition = upsample(lr[:, : TRIPLET * k].flatten(0, 1).float())
        views = [_by_colour(x) for x in (frames, warped, condition)]
        return torch.cat(views, dim=1)  # (B*K, 27, sh, sw)
