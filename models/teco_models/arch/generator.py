"""The generator: FNet estimates motion, SRNet reconstructs from the frame and the warped past.

Architecture: FRVSR (Sajjadi et al. 2018) as TecoGAN (Chu et al. 2020) uses it; thunil/TecoGAN,
lib/frvsr.py (fnet, generator_F), and skycrapers/TecoGAN-PyTorch, tecogan_nets.py (FNet, SRNet).

Module names are those of the published PyTorch checkpoints, so that a state dict of this module
*is* the published format. Pictures are RGB in [0, 1]; nothing is clamped inside the recurrence.

Shape legend: N batch, T frames, h x w the LR size, C ``variant.channels``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.backprojection import SHARE, SHARE_REFINED, BackProjection
from teco_models.arch.lucas_kanade import LucasKanade
from teco_models.arch.ops import (
    SCALE,
    BilinearUpsample,
    CubicUpsample,
    space_to_depth,
    warp,
)
from teco_models.variant import Variant, check_size

MAX_FLOW = 24.0
"""LR pixels; the range of FNet's tanh (FRVSR, TecoGAN)."""

LEAK = 0.2
"""Negative slope of FNet's LeakyReLU (TecoGAN)."""


def _conv(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, 1, 1)


def _double_conv(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(cin, cout), nn.LeakyReLU(LEAK), _conv(cout, cout), nn.LeakyReLU(LEAK)
    )


class PairNorm(nn.Module):
    """Shift and scale two frames by their common mean and deviation.

    Raw [0, 1] pictures are mostly one large constant to a flow network, and it hardly learns
    from a cold start; differences between the two frames are what it needs to see.
    ``eps`` (8 grey levels of 255, added in quadrature) keeps flat pictures from being blown up to
    noise; it is a buffer so that weights say by themselves that they want this normalisation.
    """

    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("eps", torch.tensor(8 / 255))

    def forward(self, pair: Tensor) -> Tensor:
        """(N, 6, h, w) -> the same shape."""
        mean = pair.mean(dim=(1, 2, 3), keepdim=True)
        centred = pair - mean
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        return centred * torch.rsqrt(variance + self.eps.square())


class FNet(nn.Module):
    """Optical flow in LR pixels from the current frame to the previous one."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        f = variant.flow_channels
        self.norm = PairNorm() if variant.flow_norm == "pair" else nn.Identity()
        self.encoder1 = _double_conv(6, f)
        self.encoder2 = _double_conv(f, 2 * f)
        self.encoder3 = _double_conv(2 * f, 4 * f)
        self.decoder1 = _double_conv(4 * f, 8 * f)
        self.decoder2 = _double_conv(8 * f, 4 * f)
        self.decoder3 = _double_conv(4 * f, 2 * f)
        self.flow = nn.Sequential(_conv(2 * f, f), nn.LeakyReLU(LEAK), _conv(f, 2))

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Two (N, 3, h, w) frames -> (N, 2, floor(h/8)*8, floor(w/8)*8)."""
        x = self.norm(torch.cat((current, previous), dim=1))
        for encoder in (self.encoder1, self.encoder2, self.encoder3):
            x = F.max_pool2d(encoder(x), 2)
        for decoder in (self.decoder1, self.decoder2, self.decoder3):
            x = F.interpolate(decoder(x), scale_factor=2, mode="bilinear", align_corners=False)
        return torch.tanh(self.flow(x)) * MAX_FLOW


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, identity; no normalisation and no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(channels, channels), nn.ReLU(), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def _upsampler(variant: Variant) -> nn.Module:
    return CubicUpsample() if variant.degradation == "bd" else BilinearUpsample()


class SRNet(nn.Module):
    """Reconstruction and upsampling, from the frame and what is known of the past."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        c, s = variant.channels, SCALE
        self.tail = variant.tail
        self.conv_in = nn.Sequential(_conv(variant.input_channels, c), nn.ReLU())
        self.resblocks = nn.Sequential(*(ResidualBlock(c) for _ in range(variant.blocks)))
        if variant.tail == "transposed":
            self.conv_up = nn.Sequential(
                nn.ConvTranspose2d(c, c, 3, 2, 1, output_padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(c, c, 3, 2, 1, output_padding=1),
                nn.ReLU(),
            )
            self.conv_out = _conv(c, 3)
        elif variant.tail == "shuffle":
            self.conv_shuffle = _conv(c, 3 * s * s)
        else:
            self.conv_out = _conv(c // (s * s), 3)
        self.upsample_func = _upsampler(variant) if variant.has_residual else None
        share = SHARE_REFINED if variant.lucas_kanade else SHARE
        self.back = BackProjection(c, share) if variant.back_projection else None

    def forward(self, lr: Tensor, *past: Tensor) -> tuple[Tensor, Tensor]:
        """The picture, and the features it was made from.

        Args:
            lr: (N, 3, h, w).
            past: (N, 48, h, w), the warped previous output, with back-projection followed by
                (N, 3, h, w), the previous frame; without a flow net the previous output
                as it is, (N, 3, h, w) the previous frame, and (N, C, h, w) the latent state.

        Returns:
            (N, 3, 4h, 4w) and (N, C, h, w).
        """
        if self.back is None:
            return self._reconstruct(lr, *past)
        warped, lr_prev = past
        known = self.back.known(lr_prev)
        warped, trusted = self.back.correct(lr, warped, known)
        x, features = self._reconstruct(lr, warped)
        return self.back.blend(x, warped, features, trusted), features

    def _reconstruct(self, lr: Tensor, *past: Tensor) -> tuple[Tensor, Tensor]:
        features = self.resblocks(self.conv_in(torch.cat((lr, *past), dim=1)))
        if self.tail == "transposed":
            x = self.conv_out(self.conv_up(features))
        elif self.tail == "shuffle":
            x = F.pixel_shuffle(self.conv_shuffle(features), SCALE)
        else:
            x = self.conv_out(F.relu(F.pixel_shuffle(features, SCALE)))
        if self.upsample_func is not None:
            # The sum is made in the picture's own precision, so autocast costs no grey levels.
            x = self.upsample_func(lr) + x.to(lr.dtype)
        return x, features


State = tuple[Tensor, ...]
"""The recurrent state: (N, 3, h, w) previous frame and (N, 3, 4h, 4w) previous output; without a
flow net also the (N, C, h, w) latent state."""


class Generator(nn.Module):
    """FNet and SRNet with the recurrence between them.

    Args:
        variant: which member of the family.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.fnet = FNet(variant) if variant.has_flow else None
        self.refine = LucasKanade() if variant.lucas_kanade else None
        self.srnet = SRNet(variant)
        self.upsample_func = _upsampler(variant)

    def flow(self, current: Tensor, previous: Tensor) -> Tensor:
        """Two (N, 3, h, w) frames -> (N, 2, h, w) flow in LR pixels, current to previous."""
        flow = self.coarse_flow(current, previous)
        return flow if self.refine is None else self.refine(current, previous, flow)

    def coarse_flow(self, current: Tensor, previous: Tensor) -> Tensor:
        """FNet's own flow, shapes as of :meth:`flow`.

        FNet's output misses up to 7 rows and columns; they are mirrored in at the bottom and right.
        Without a flow net there is no motion: zeros.
        """
        n, _, h, w = current.shape
        if self.fnet is None:
            return current.new_zeros(n, 2, h, w)
        # float() because under autocast FNet answers in bf16, too coarse for positions.
        flow = self.fnet(current, previous).float()
        return F.pad(flow, (0, w - w // 8 * 8, 0, h - h // 8 * 8), mode="reflect")

    def step_with_flow(self, lr: Tensor, flow: Tensor, lr_prev: Tensor, hr_prev: Tensor) -> Tensor:
        """One step of a variant with a flow net when the (N, 2, h, w) LR flow is known already."""
        hr_flow = SCALE * self.upsample_func(flow)  # (N, 2, 4h, 4w), in HR pixels
        return self._reconstruct(lr, space_to_depth(warp(hr_prev, hr_flow)), lr_prev)

    def _reconstruct(self, lr: Tensor, past: Tensor, lr_prev: Tensor) -> Tensor:
        """SRNet's picture from the warped past, for variants with a flow net."""
        rest = (lr_prev,) if self.variant.back_projection else ()
        return self.srnet(lr, past, *rest)[0]

    def step(self, lr: Tensor, lr_prev: Tensor, hr_prev: Tensor, *latent: Tensor) -> Tensor:
        """One recurrent step, the picture alone; :meth:`advance` also gives the next state.

        Args:
            lr: (N, 3, h, w) current frame.
            lr_prev: (N, 3, h, w) previous frame; zeros at the start of a scene.
            hr_prev: (N, 3, 4h, 4w) previous output; zeros at the start of a scene.
            latent: without a flow net, (N, C, h, w) of the previous step; zeros likewise.

        Returns:
            (N, 3, 4h, 4w) output, not clamped.
        """
        return self.advance(lr, (lr_prev, hr_prev, *latent))[0]

    forward = step

    def advance(self, lr: Tensor, state: State) -> tuple[Tensor, State]:
        """One recurrent step: the (N, 3, 4h, 4w) output, not clamped, and the state for the next.

        Args:
            lr: (N, 3, h, w) current frame.
            state: of the last step, or :meth:`initial_state`.
        """
        if self.fnet is not None:
            lr_prev, hr_prev = state
            hr = self.step_with_flow(lr, self.flow(lr, lr_prev), lr_prev, hr_prev)
            return hr, (lr, hr)
        lr_prev, hr_prev, latent = state
        hr, features = self.srnet(lr, space_to_depth(hr_prev), lr_prev, latent)
        return hr, (lr, hr, F.relu(features))

    def initial_state(self, lr: Tensor) -> State:
        """The zero state for frames like ``lr``.

        Raises:
            ModelError: the frame is smaller than 8x8.
        """
        n, c, h, w = lr.shape
        check_size(h, w)
        state = (torch.zeros_like(lr), lr.new_zeros(n, c, SCALE * h, SCALE * w))
        if self.fnet is None:
            state = (*state, lr.new_zeros(n, self.variant.channels, h, w))
        return state

    def sequence(self, lr: Tensor, *, burn_in: int = 0) -> tuple[Tensor, Tensor | None]:
        """All frames of a scene from the zero state, for training.

        The motion of all pairs is estimated in one batch, which is the same function and keeps
        the processor busier than frame by frame.

        Args:
            lr: (N, T, 3, h, w).
            burn_in: frames 1 to burn_in - 1 are run without gradient, and none flows through them.

        Returns:
            (N, T, 3, 4h, 4w) outputs and (N, T-1, 2, h, w) flows, flow[:, t] from t+1 to t; None
            without a flow net.
        """
        n, t, c, h, w = lr.shape
        if self.fnet is None:
            state = self.initial_state(lr[:, 0])
            outputs: list[Tensor] = []
            for i in range(t):
                with torch.set_grad_enabled(torch.is_grad_enabled() and not 0 < i < burn_in):
                    hr, state = self.advance(lr[:, i], state)
                outputs.append(hr)
            return torch.stack(outputs, dim=1), None
        pairs = (lr[:, 1:].reshape(-1, c, h, w), lr[:, :-1].reshape(-1, c, h, w))
        flows = self.flow(*pairs).view(n, t - 1, 2, h, w)
        # The zero state: whatever the flow, warping zeros gives zeros.
        warped = lr.new_zeros(n, c * SCALE * SCALE, h, w)
        hr = self._reconstruct(lr[:, 0], warped, torch.zeros_like(lr[:, 0]))
        outputs = [hr]
        for i in range(1, t):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not 0 < i < burn_in):
                hr = self.step_with_flow(lr[:, i], flows[:, i - 1], lr[:, i - 1], hr)
            outputs.append(hr)
        return torch.stack(outputs, dim=1), flows
