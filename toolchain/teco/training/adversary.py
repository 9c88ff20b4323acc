"""The GAN stage's other half: the discriminator, and what it tells the generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from teco.training.distributed import Processes, parallel, share_batch_norm
from teco.training.losses.terms import (
    discriminator_balance,
    feature_loss,
    generator_adversarial_loss,
    pattern_loss,
    ping_pong,
    ping_pong_loss,
)
from teco.training.options import TrainOptions
from teco.training.stages import Batch, DiscriminatorLosses, Losses, amp
from teco_models.arch.discriminator import Discriminator, triplet_flows, triplet_input
from teco_models.checkpoint import AnyGenerator


def frames_shown(length: int, count: int) -> list[int]:
    """Which frames the perceptual loss sees of a ping-pong sequence.

    Args:
        length: 2T - 1, of the sequence.
        count: how many are wanted; at most T are given.

    Returns:
        Indices evenly spread over the way there, from its end, where the recurrence has settled.
    """
    t = (length + 1) // 2
    n = min(count, t)
    return [t - 1 - i * t // n for i in range(n)]


class Adversary:
    """Judges generated sequences beside real ones, learns, and returns the generator's losses.

    Args:
        generator: whose flow warps the triplets, and whose pictures are judged.
        options: the run's.
        perceptual: the perceptual loss; None leaves it out.
        processes: this process among its peers.
        device: of the networks.
        start: state dict that the discriminator begins with; None for fresh weights.
    """

    def __init__(
        self,
        generator: AnyGenerator,
        options: TrainOptions,
        perceptual: nn.Module | None,
        processes: Processes,
        device: torch.device,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.generator = generator
        self.options = options
        self.processes = processes
        # Its own seed, so that a resumed run and an earlier stage's length change nothing.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.discriminator = Discriminator(options.crop).to(device)
        if start is not None:
            self.discriminator.load_state_dict(start)
        if processes.world > 1:
            share_batch_norm(self.discriminator)
        self.perceptual = perceptual
        if options.channels_last:
            self.discriminator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=options.discriminator_lr, betas=(0.9, 0.999)
        )
        self._losses = parallel(DiscriminatorLosses(self.discriminator, options), processes)

    def set_learning_rate(self, share: float) -> None:
        """``share`` of the peak rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.discriminator_lr * share

    def __call__(
        self, batch: Batch, out: Tensor, iteration: int
    ) -> tuple[Losses, dict[str, float]]:
        """One learning step of the discriminator, then the generator's losses.

        Args:
            batch: B sequences of T frames.
            out: (B, 2T-1, 3, H, W) the generator's pictures of the ping-pong sequences.
            iteration: its number, from which the perceptual loss's corner follows.

        Returns:
            Weighted losses, and figures for the log: the discriminator's loss, the balance
            mean log D(real) - mean log D(fake), and whether it learned (1 or 0). Where nothing is
            asked of the discriminator, it is left alone.
        """
        o = self.options
        truth = ping_pong(batch.truth)
        losses: Losses = {}
        figures: dict[str, float] = {}
        if o.gan_weight or o.feature_weight:
            losses, figures = self._judged(batch, out, truth)
        losses["pingpong"] = o.pingpong_weight * ping_pong_loss(out, o.pingpong_loss)
        pictures, wanted = out.flatten(0, 1), truth.flatten(0, 1)
        if o.pattern_weight:
            scale = self.generator.variant.scale
            losses["pattern"] = o.pattern_weight * pattern_loss(pictures, wanted, scale)
        if self.perceptual is not None:
            if o.perceptual_frames:
                shown = frames_shown(out.shape[1], o.perceptual_frames)
                pictures, wanted = out[:, shown].flatten(0, 1), truth[:, shown].flatten(0, 1)
            if o.perceptual_shift:
                down, across = np.random.default_rng((o.seed, iteration)).integers(
                    o.perceptual_shift, size=2
                )
                pictures, wanted = (x[..., down:, across:] for x in (pictures, wanted))
            with amp(o, out.device):
                distance = self.perceptual(pictures, wanted)
            losses["perceptual"] = o.perceptual_weight * distance.float()
        return losses, figures

    def _judged(self, batch: Batch, out: Tensor, truth: Tensor) -> tuple[Losses, dict[str, float]]:
        lr = ping_pong(batch.lr)
        flows = triplet_flows(self.generator, lr)
        upsample = self.generator.upsample_func
        with torch.no_grad():
            real = triplet_input(truth, lr, flows, upsample)
        fake = triplet_input(out, lr, flows, upsample)
        figures = self._learn(real, fake.detach())
        return self._generator_losses(real, fake), figures

    def _learn(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        o = self.options
        self.discriminator.requires_grad_(True)
        loss, real_logits, fake_logits = self._losses(real, fake)
        balance = self.processes.mean(discriminator_balance(real_logits, fake_logits))
        learns = balance < o.balance_limit
        if learns:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), o.clip_norm)
            self.optimizer.step()
        return {
            "discriminator": float(loss.detach()),
            "balance": balance,
            "discriminator_learns": float(learns),
        }

    def _generator_losses(self, real: Tensor, fake: Tensor) -> Losses:
        o = self.options
        self.discriminator.requires_grad_(False)
        losses: Losses = {}
        with amp(o, fake.device):
            logits, features = self.discriminator(fake)
            wanted: list[Tensor] = []
            if o.feature_weight:
                with torch.no_grad():
                    _, wanted = self.discriminator(real)
        losses["gan"] = o.gan_weight * generator_adversarial_loss(logits.float())
        if o.feature_weight:
            losses["feature"] = o.feature_weight * feature_loss(
                [f.float() for f in wanted], [f.float() for f in features]
            )
        return losses

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """From the checkpoint."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        return self
