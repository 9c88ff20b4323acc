"""What a training run computes, and where it leaves it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from teco.core.errors import USAGE, TecoError

Stage = Literal["flow", "single", "recurrent", "gan"]
STAGES: tuple[Stage, ...] = ("flow", "single", "recurrent", "gan")
"""In the order they run; a stage of no iterations is left out."""

_LEAST = {
    "batch": 1, "flow_batch": 1, "single_batch": 1, "frames": 2, "crop": 32, "max_stride": 1,
    "threads": 1, "clip_norm": 1e-12,
}  # fmt: skip
"""Smallest values that mean something; 0 for the others."""

Schedule = Literal["cosine", "constant", "steps"]
Amp = Literal["bf16", "fp16", "off"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that decides what a run computes.

    Attributes:
        variant: name of the network.
        flow_iterations: of the supervised start of FNet; 0 leaves the stage out.
        single_iterations: of single frames, without a past, before the recurrent stage; the
            cheapest way to many different crops. 0 leaves it out. Computed alignment.
        iterations: of the recurrent stage (FRVSR's: pixels and warp); 0 leaves it out.
        gan_iterations: of the GAN stage; 0 leaves it out.
        batch: sequences an iteration, over all processes together.
        flow_batch: pairs of frames an iteration of the flow stage, over all processes together.
        single_batch: frames an iteration of the single stage, over all processes together.
        short_share: share of the iterations that see four times the sequences of a quarter of the
            length; computed alignment.
        frames: sequence length. The GAN stage runs each sequence forth and back, 2 T - 1 frames.
        crop: HR crop size; the discriminator is built for it.
        still_share: share of sequences made by moving a window over one still frame (TecoGAN's
            "moving first frame"); half of them in the flow stage.
        still_speed: fastest such window, HR pixels a frame.
        burn_in: frames 1 to burn_in - 1 of a sequence only fill the state: no gradient, no loss. A
            short sequence is mostly such frames, of which the past is worth little yet, and a
            network that learns from them learns to trust it too little. Frame 0, the cold start,
            counts. Recurrent stage only; 0 and 1 let every frame count.
        max_stride: largest step between the source frames of the other sequences. Large motion
            teaches a flow net; a network without one only learns to distrust its past from it.
        real_world: how LR frames are spoiled besides, such as ``"noise=2,jpeg=40-90"``; "" for
            clean ones (:mod:`teco.training.data.realworld`).
        lr: peak learning rate of SRNet, and of FNet in the flow stage.
        single_lr: the same in the single stage.
        gan_lr: the same in the GAN stage (5e-5 in both references).
        discriminator_lr: of the discriminator.
        fnet_lr_share: FNet's share of the generator's rate after the flow stage.
        schedule: ``"cosine"`` from the peak to ``lr_floor`` over a stage; ``"constant"``;
            ``"steps"`` halves at each of ``milestones``.
        milestones: iterations of the recurrent stage at which ``"steps"`` halves (TecoGAN-PyTorch:
            150k and 300k of 400k); the GAN stage of both references is constant, and so is ours
            then.
        cool_down: last iterations of a stage over which a constant rate falls linearly to
            ``lr_floor``. With it a long run can be ended from any of its checkpoints.
        lr_floor: the schedule ends at this share of the peak.
        warm_up: iterations of linear warm-up at the start of each stage.
        pixel_loss: ``"charbonnier"`` (TecoGAN-PyTorch) or ``"squared"`` in [-1, 1] (TecoGAN).
        warp_weight: of the photometric loss on warped LR frames. The references use 1; on slow
            footage that pulls the flow to zero, because warping by part of a pixel blurs.
        flow_weight: of the supervision of the flow, LR pixels.
        pingpong_weight: of the ping-pong loss (0.5 in both references).
        pingpong_loss: ``"charbonnier"`` (TecoGAN-PyTorch) or ``"l1"`` (TecoGAN).
        perceptual: VGG whose features are compared, ``"auto"``, ``"vgg19"`` or ``"vgg16"``; or
            ``"lpips-vgg"``, LPIPS on VGG16.
        perceptual_weight: of that comparison (0.2 in both references).
        perceptual_frames: frames of each sequence that are compared so; 0 takes all of them, as the
            references do. VGG costs more than everything else together, which a CPU feels.
        perceptual_shift: pictures are compared from a corner that moves by less than so many pixels
            from iteration to iteration. At 0 a network learns to draw patterns that fall together
            with VGG's grid of pooling.
        pattern_weight: of regular patterns in the GAN stage
            (:func:`teco.training.losses.terms.pattern_loss`); the references have none.
        gan_weight: of the generator's adversarial loss (0.01 in both references).
        feature_weight: of the discriminator feature loss (TecoGAN: 0.02; TecoGAN-PyTorch: none).
        balance_limit: the discriminator learns only while mean log D(real) - mean log D(fake) is
            below this (0.4 in both references).
        distil_output: of the distance to a teacher's pictures.
        distil_flow: of the distance to a teacher's flow, LR pixels.
        distil_feature: of the distance between attention maps after the residual blocks.
        clip_norm: gradients are scaled down to this norm.
        beta2: Adam's second decay.
        ema: decay of the averaged weights, which are what is validated and saved.
        amp: autocast convolutions to bfloat16, or to float16 with loss scaling, or not at all;
            weights and sums are float32 in either case.
        channels_last: memory format of weights and activations.
        threads: CPU threads. Sums are split by them, so another number gives other last digits.
        seed: of initial weights and data.
    """

    variant: str
    flow_iterations: int = 3_000
    single_iterations: int = 0
    iterations: int = 20_000
    gan_iterations: int = 0
    batch: int = 4
    flow_batch: int = 32
    single_batch: int = 32
    short_share: float = 0.0
    frames: int = 6
    crop: int = 128
    still_share: float = 0.3
    still_speed: float = 10.0
    burn_in: int = 0
    max_stride: int = 3
    real_world: str = ""
    lr: float = 4e-4
    single_lr: float = 3e-3
    gan_lr: float = 5e-5
    discriminator_lr: float = 5e-5
    fnet_lr_share: float = 0.25
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    cool_down: int = 0
    lr_floor: float = 0.02
    warm_up: int = 200
    pixel_loss: Literal["charbonnier", "squared"] = "charbonnier"
    warp_weight: float = 0.2
    flow_weight: float = 0.05
    pingpong_weight: float = 0.5
    pingpong_loss: Literal["charbonnier", "l1"] = "charbonnier"
    perceptual: Literal["auto", "vgg19", "vgg16", "lpips-vgg"] = "auto"
    perceptual_weight: float = 0.2
    perceptual_frames: int = 0
    perceptual_shift: int = 0
    pattern_weight: float = 0.0
    gan_weight: float = 0.01
    feature_weight: float = 0.0
    balance_limit: float = 0.4
    distil_output: float = 0.0
    distil_flow: float = 0.0
    distil_feature: float = 0.0
    clip_norm: float = 1.0
    beta2: float = 0.999
    ema: float = 0.999
    amp: Amp = "bf16"
    channels_last: bool = True
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._check(field.name, float(value))
        if not any(self.total(stage) for stage in STAGES):
            raise TecoError(
                "every stage has 0 iterations; there is nothing to train",
                hint="give --iterations, or those of another stage",
                exit_code=USAGE,
            )
        if self.short_share and self.frames // 4 < max(2, self.burn_in + 2 if self.burn_in else 2):
            raise TecoError(
                f"short sequences have {self.frames // 4} of --frames {self.frames}, which leaves "
                f"fewer than 2 to learn from after --burn-in {self.burn_in}",
                hint=f"use --frames {4 * (self.burn_in + 2)} or more, or --short-share 0",
                exit_code=USAGE,
            )
        if self.burn_in > self.frames - 2:
            raise TecoError(
                f"--burn-in {self.burn_in} of --frames {self.frames} leaves fewer than 2 to learn "
                "from",
                hint=f"use --frames {self.burn_in + 2} or more",
                exit_code=USAGE,
            )
        if self.crop % 32:
            raise TecoError(
                f"--crop {self.crop} is no multiple of 32",
                hint=f"use {max(32, self.crop // 32 * 32)}",
                exit_code=USAGE,
            )

    @staticmethod
    def _check(name: str, value: float) -> None:
        least = _LEAST.get(name, 0)
        most = (
            1.0 if name in ("still_share", "short_share", "ema", "beta2", "lr_floor") else math.inf
        )
        free = name == "balance_limit"  # it may be below zero, too
        infinite = math.isinf(value) and name != "clip_norm"
        if math.isnan(value) or infinite or not (free or least <= value <= most):
            within = f" to {most:g}" if most == 1 else ""
            raise TecoError(
                f"{name} is {value:g}, expected a number from {least:g}{within}", exit_code=USAGE
            )

    def total(self, stage: Stage) -> int:
        """Iterations of a stage."""
        return {
            "flow": self.flow_iterations,
            "single": self.single_iterations,
            "recurrent": self.iterations,
            "gan": self.gan_iterations,
        }[stage]

    @property
    def distils(self) -> bool:
        """Whether a teacher is needed."""
        return bool(self.distil_output or self.distil_flow or self.distil_feature)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Where things go and how often, what it runs on, and the files it starts from.

    Attributes:
        out: run folder.
        checkpoint_every: iterations between checkpoints.
        validate_every: iterations between validations.
        workers: data processes.
        device: of the network.
        compile: run the networks through ``torch.compile``.
        init: weights file to start from instead of fresh ones.
        teacher: weights file to distil from.
        masks: file of the weights that stay zero, see :mod:`teco_models.compress.sparsity`.
        discriminator: file of another run's discriminator to start the GAN stage with. A fresh one
            needs hundreds of iterations before it tells the generator anything.
    """

    out: Path
    checkpoint_every: int = 200
    validate_every: int = 500
    workers: int = 1
    device: str = "cpu"
    compile: bool = False
    init: Path | None = None
    teacher: Path | None = None
    masks: Path | None = None
    discriminator: Path | None = None
