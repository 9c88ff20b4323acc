"""The losses of each stage, as modules whose call is one forward pass.

They are modules so that DistributedDataParallel can wrap them: what is called computes losses, and
the gradients that come back are averaged over the processes.

Shape legend: B sequences (this process's part of the batch), T frames, h x w the LR crop,
H = 4h, W = 4w.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco.training.data.sequences import Sample, degrade_crop
from teco.training.losses.terms import (
    charbonnier,
    discriminator_loss,
    feature_distillation,
    flow_distillation,
    flow_loss,
    output_distillation,
    ping_pong,
    squared_error,
    warp_loss,
)
from teco.training.options import Stage, TrainOptions
from teco_models.arch.computed_alignment import AlignedGenerator, luma_of
from teco_models.arch.discriminator import Discriminator
from teco_models.arch.ops import warp
from teco_models.checkpoint import AnyGenerator

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One batch on the training device.

    Attributes:
        lr: (B, T, 3, h, w) float32, not rounded to 8 bits.
        truth: (B, T, 3, H, W) float32 in [0, 1].
        flow: (B, T-1, 2, h, w) known motion in LR pixels from frame t+1 to t, NaN where unknown.
    """

    lr: Tensor
    truth: Tensor
    flow: Tensor

    @classmethod
    def of(cls, sample: Sample, crop: int, device: torch.device) -> Batch:
        """Degrade a sample's HR crops, which carry the blur's margin."""
        b, t = sample.hr.shape[:2]
        hr = sample.hr.to(device).flatten(0, 1).float() / 255
        truth = hr[..., 4:-4, 4:-4].reshape(b, t, 3, crop, crop)
        if sample.lr is not None:
            lr = sample.lr.to(device)
        else:
            lr = degrade_crop(hr).view(b, t, 3, crop // 4, crop // 4)
        return cls(lr, truth, sample.flow.to(device))

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """(B * (T-1), 3, h, w) current and previous LR frames."""
        _, _, c, h, w = self.lr.shape
        return self.lr[:, 1:].reshape(-1, c, h, w), self.lr[:, :-1].reshape(-1, c, h, w)


class GeneratorLosses(nn.Module):
    """Forward pass of the generator in one stage.

    Args:
        generator: being trained.
        options: the run's.
        stage: whose losses.
        teacher: for distillation; frozen.
    """

    def __init__(
        self,
        generator: AnyGenerator,
        options: TrainOptions,
        stage: Stage,
        teacher: AnyGenerator | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.options = options
        self.stage: Stage = stage
        half = torch.float16 if options.amp == "fp16" else torch.bfloat16
        for one in (generator, teacher):
            if isinstance(one, AlignedGenerator):
                one.amp = None if options.amp == "off" else half
        # In a tuple, which keeps it out of this module's parameters.
        self._teacher = (teacher,) if teacher is not None else ()

    def forward(self, batch: Batch) -> tuple[Losses, Tensor]:
        """Weighted losses, and the (B, T', 3, H, W) outputs (T' = 2T-1 in the GAN stage).

        The flow stage has no outputs; an empty tensor stands for them.
        """
        generator = self.generator
        if isinstance(generator, AlignedGenerator):
            return self._aligned(generator, batch)
        autocast = amp(self.options, batch.lr.device)
        if self.stage == "flow":
            with autocast:
                flow = generator.coarse_flow(*batch.pairs)
            return {"flow": flow_loss(flow, batch.flow.flatten(0, 1))}, batch.lr.new_empty(0)
        gan = self.stage == "gan"
        lr, truth = batch.lr, batch.truth
        if gan:
            lr, truth = ping_pong(lr), ping_pong(truth)
        features: list[Tensor] = []
        with autocast, _Recorded(generator, features, self.options.distil_feature > 0):
            out, flow = generator.sequence(lr, burn_in=0 if gan else self.options.burn_in)
        out = out.float()
        return self._losses(batch, lr, truth, out, flow, features), out

    def _aligned(self, generator: AlignedGenerator, batch: Batch) -> tuple[Losses, Tensor]:
        """The same of a generator that computes its alignment: on luma, which is all it learns.

        The GAN stage wants colours, as the discriminator and the perceptual loss look at them.
        """
        o = self.options
        pixel = charbonnier if o.pixel_loss == "charbonnier" else squared_error
        lr, truth = batch.lr, batch.truth
        features: list[Tensor] = []
        recorded = _Recorded(generator, features, o.distil_feature > 0)
        if self.stage == "gan":
            lr, truth = ping_pong(lr), ping_pong(truth)
            with recorded:
                out, _ = generator.sequence(lr)
            losses: Losses = {"pixel": pixel(out, truth)}
        else:
            b, t = lr.shape[:2]
            with recorded:
                y = luma_of(lr.flatten(0, 1)).unflatten(0, (b, t))
                out = generator.luma_sequence(y, burn_in=o.burn_in)
            scale = generator.variant.scale
            wanted = F.pixel_unshuffle(luma_of(truth.flatten(0, 1)), scale).unflatten(0, (b, t))
            shown = self._counted(t)
            # One channel, over whose squares the squared error adds up.
            losses = {"pixel": pixel(out[:, shown].unsqueeze(-3), wanted[:, shown].unsqueeze(-3))}
        if self._teacher and o.distils:
            seen = out if self.stage == "gan" else generator.in_colour(lr, out)
            losses |= self._distillation(self._teacher[0], lr, seen, None, features)
        return losses, out

    def _counted(self, frames: int) -> slice | list[int]:
        """Which of a sequence's frames the losses compare."""
        burn_in = self.options.burn_in
        if self.stage != "recurrent" or not 2 <= burn_in < frames:
            return slice(None)
        return [0, *range(burn_in, frames)]

    def _losses(
        self,
        batch: Batch,
        lr: Tensor,
        truth: Tensor,
        out: Tensor,
        flow: Tensor | None,
        features: list[Tensor],
    ) -> Losses:
        o = self.options
        pixel = charbonnier if o.pixel_loss == "charbonnier" else squared_error
        shown = self._counted(out.shape[1])
        losses: Losses = {"pixel": pixel(out[:, shown], truth[:, shown])}
        if flow is not None:
            # Warping by NaN gives border pixels, which look like numbers, and the gradient of that
            # crashes the process on a CPU.
            losses["pixel"] = torch.where(torch.isfinite(flow).all(), losses["pixel"], torch.nan)
            # The way back of a ping-pong sequence adds nothing to the supervision.
            forth = flow[:, : batch.lr.shape[1] - 1].flatten(0, 1)
            if o.warp_weight:
                losses["warp"] = o.warp_weight * self._warp_loss(batch, forth)
            if o.flow_weight:
                losses["flow"] = o.flow_weight * flow_loss(forth, batch.flow.flatten(0, 1))
        if self._teacher and o.distils:
            losses |= self._distillation(self._teacher[0], lr, out, flow, features)
        return losses

    def _warp_loss(self, batch: Batch, flow: Tensor) -> Tensor:
        current, previous = batch.pairs
        if self.options.pixel_loss == "charbonnier":
            return warp_loss(current, previous, flow)
        # TecoGAN's LR frames are in [0, 1], unlike its HR ones.
        return squared_error(warp(previous, flow), current, span=1.0)

    def _distillation(
        self,
        teacher: AnyGenerator,
        lr: Tensor,
        out: Tensor,
        flow: Tensor | None,
        features: list[Tensor],
    ) -> Losses:
        o = self.options
        shown: list[Tensor] = []
        wanted = o.distil_feature > 0
        # Computed alignment stays float32; that generator casts its own convolutions.
        cast = nullcontext() if isinstance(teacher, AlignedGenerator) else amp(o, lr.device)
        with torch.no_grad(), cast, _Recorded(teacher, shown, wanted):
            pictures, teacher_flow = teacher.sequence(lr)
        losses: Losses = {}
        if o.distil_output:
            shown_frames = self._counted(out.shape[1])
            losses["distil_output"] = o.distil_output * output_distillation(
                out[:, shown_frames], pictures.float()[:, shown_frames]
            )
        if o.distil_flow and flow is not None and teacher_flow is not None:
            losses["distil_flow"] = o.distil_flow * flow_distillation(
                flow.flatten(0, 1), teacher_flow.flatten(0, 1)
            )
        if wanted:
            per_frame = [
                feature_distillation(a.float(), b.float())
                for a, b in zip(features, shown, strict=True)
            ]
            losses["distil_feature"] = o.distil_feature * torch.stack(per_frame).mean()
        return losses


class DiscriminatorLosses(nn.Module):
    """Forward pass of the discriminator on real and on generated triplets.

    Args:
        discriminator: being trained.
        options: the run's.
    """

    def __init__(self, discriminator: Discriminator, options: TrainOptions) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.options = options

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M, 27, H, W) inputs -> loss, (M, 1) logits of each."""
        with amp(self.options, real.device, scaled=False):
            real_logits, _ = self.discriminator(real)
            fake_logits, _ = self.discriminator(fake)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        return discriminator_loss(real_logits, fake_logits), real_logits, fake_logits


def amp(options: TrainOptions, device: torch.device, *, scaled: bool = True) -> torch.autocast:
    """Autocast as the options say.

    Args:
        options: the run's.
        device: where to.
        scaled: whether the loss is scaled; float16 gradients vanish where it is not.
    """
    half = options.amp == "fp16"
    enabled = options.amp != "off" and (scaled or not half)
    return torch.autocast(device.type, torch.float16 if half else torch.bfloat16, enabled=enabled)


class _Recorded:
    """Collect what the residual blocks give, frame by frame, while the context lasts."""

    def __init__(self, generator: AnyGenerator, into: list[Tensor], wanted: bool) -> None:
        self._generator = generator
        self._into = into
        self._wanted = wanted

    def __enter__(self) -> None:
        def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._into.append(output)

        own = self._generator
        blocks = own.body if isinstance(own, AlignedGenerator) else own.srnet.resblocks
        self._hook = blocks.register_forward_hook(keep) if self._wanted else None

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()
