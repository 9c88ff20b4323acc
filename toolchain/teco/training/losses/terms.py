"""Losses of the flow-recurrent stage, of the GAN stage and of distillation.

Where the two references differ, the PyTorch port's loss (skycrapers/TecoGAN-PyTorch) is the
default and the TensorFlow one (thunil/TecoGAN, lib/Teco.py) the option. Our pictures are RGB in
[0, 1]; the TensorFlow reference holds HR pictures in [-1, 1]. Its losses are given here in its own
units, so that its published weights mean what they meant.

Shape legend: B sequences, T frames, M pictures in a row, H x W the HR size, h x w the LR size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from teco.core.errors import USAGE, TecoError
from teco_models.arch.ops import warp
from teco_models.variant import SCALE

CHARBONNIER_EPS = 1e-6
"""Added to the squared difference (TecoGAN-PyTorch)."""

FLOW_EPS = 1e-4
"""LR pixels squared: end-point errors below a hundredth of a pixel count as none."""

TF_SPAN = 2.0
"""Width of [-1, 1], the range of the TensorFlow reference's HR pictures, where ours is 1."""

BALANCE_LIMIT = 0.4
"""The discriminator learns only while :func:`discriminator_balance` is below this: beyond it, it is
too strong for the generator to learn from. Both references: ``Dbalance`` of TecoGAN's main.py, on
a moving average (decay 0.99); ``update_threshold`` of TecoGAN-PyTorch's train.yml, on each batch's
own value, averaged over processes."""

FEATURE_SCALES = (12.0, 14.0, 24.0, 100.0)
"""Typical size of each block's feature difference (``layer_norm`` of TecoGAN's lib/Teco.py)."""

PingPongKind = Literal["charbonnier", "l1"]


PATTERN_WINDOW = 8
"""LR pixels, down and across, over which :func:`pattern_loss` averages: less than that and texture
counts as a pattern."""


# --- pictures and motion ---------------------------------------------------------------------


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6), a differentiable absolute difference."""
    return torch.sqrt((x - y).square() + CHARBONNIER_EPS).mean()


def squared_error(x: Tensor, y: Tensor, span: float = TF_SPAN) -> Tensor:
    """The TensorFlow reference's pixel loss (``l2_content_loss``).

    The squares of the three colours are added, then averaged over pixels and pictures. For the
    default span this is 3 * 2^2 = 12 times the mean squared error of pictures in [0, 1].

    Args:
        x: (..., 3, H, W).
        y: the same shape.
        span: width of the reference's range where ours is 1: 2 for HR pictures; 1 for LR
            pictures, which it holds in [0, 1] (its ``l2_warp_loss``).
    """
    return (span * (x - y)).square().sum(dim=-3).mean()


def pattern_loss(out: Tensor, truth: Tensor, scale: int = SCALE) -> Tensor:
    """How much of a regular pattern was added to the pictures, in their units.

    A network that enlarges LR pixels can draw, in every one of them alike, a pattern of its own:
    dots and lines that a perceptual loss takes for texture. Here the error of every HR pixel is
    averaged with those at its place in other LR pixels nearby. What these means differ by is the
    pattern; texture has none on average.

    Args:
        out: (M, 3, H, W).
        truth: the same shape.
        scale: HR pixels of an LR pixel, across.
    """
    places = F.pixel_unshuffle(out - truth, scale).unflatten(1, (-1, scale**2))
    means = F.avg_pool2d(places.flatten(1, 2), PATTERN_WINDOW, PATTERN_WINDOW // 2)
    means = means.unflatten(1, (-1, scale**2))
    return (means - means.mean(dim=2, keepdim=True)).abs().mean()


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
    return _end_point_error(difference)


def _end_point_error(difference: Tensor) -> Tensor:
    """Mean length of (M, 2, h, w) differences of flows, smooth at zero."""
    return torch.sqrt(difference.square().sum(dim=1) + FLOW_EPS).mean()


# --- ping-pong -------------------------------------------------------------------------------


def ping_pong(sequence: Tensor) -> Tensor:
    """There and back again: frames 0 .. T-1 become 0 .. T-1, T-2 .. 0.

    A network that drifts or lets detail pile up cannot return to the picture it came from
    (TecoGAN, section 3.3).

    Args:
        sequence: (B, T, ...).

    Returns:
        (B, 2T-1, ...).
    """
    return torch.cat((sequence, sequence[:, :-1].flip(1)), dim=1)


def ping_pong_loss(outputs: Tensor, kind: PingPongKind = "charbonnier") -> Tensor:
    """Each frame on the way there against the same frame on the way back; the turn has none.

    Args:
        outputs: (B, 2T-1, 3, H, W), what the network made of :func:`ping_pong`'s sequence.
        kind: ``charbonnier`` as in TecoGAN-PyTorch, or ``l1`` as in the TensorFlow reference: the
            mean absolute difference of pictures in [-1, 1], twice that of ours.

    Raises:
        TecoError: the sequence is no mirrored one of at least two frames, or an unknown kind.
    """
    n = outputs.shape[1]
    if n < 3 or n % 2 == 0:
        raise TecoError(
            f"the ping-pong loss was given {n} frames; a mirrored sequence of T frames has 2T-1, "
            "at least 3",
            hint="train on at least 2 frames, or leave the ping-pong loss out",
            exit_code=USAGE,
        )
    there, back = outputs[:, : n // 2], outputs[:, n // 2 + 1 :].flip(1)
    if kind == "charbonnier":
        return charbonnier(there, back)
    if kind == "l1":
        return (TF_SPAN * (there - back)).abs().mean()
    raise TecoError(
        f"there is no ping-pong loss called {kind!r}",
        hint="kinds: charbonnier, l1",
        exit_code=USAGE,
    )


# --- the two players -------------------------------------------------------------------------


def generator_adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Mean of -log D(fake): the generator wants its pictures taken for filmed ones.

    Args:
        fake_logits: (M, 1) of the discriminator; D is their sigmoid. Computed in float32.
    """
    return F.softplus(-fake_logits.float()).mean()  # -log sigmoid(x) = log(1 + exp(-x))


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of -log D(real) plus mean of -log(1 - D(fake)): binary cross-entropy, both halves.

    Args:
        real_logits: (M, 1) for filmed triplets. Computed in float32.
        fake_logits: (M, 1) for generated ones.
    """
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def discriminator_balance(real_logits: Tensor, fake_logits: Tensor) -> float:
    """Mean log D(real) - mean log D(fake): 0 for one that cannot tell, large for one too strong.

    Compare it to :data:`BALANCE_LIMIT`. The references add 1e-8 or 1e-12 before the logarithm,
    which bounds them; here it is exact for any finite logits.

    Args:
        real_logits: (M, 1) for filmed triplets.
        fake_logits: (M, 1) for generated ones.
    """
    real = F.logsigmoid(real_logits.detach().float()).mean()
    fake = F.logsigmoid(fake_logits.detach().float()).mean()
    return float(real - fake)


def feature_loss(
    real_features: Sequence[Tensor],
    fake_features: Sequence[Tensor],
    scales: Sequence[float] = FEATURE_SCALES,
) -> Tensor:
    """Distance of what the discriminator makes of filmed and of generated triplets.

    The TensorFlow reference's ``D_LAYERLOSS``: absolute differences, added over channels, averaged
    over positions and triplets, divided by the block's scale, added up. Its weight there is 0.02;
    TecoGAN-PyTorch's recipes leave it out.

    Args:
        real_features: (M, C, height, width) of each block; taken as constants.
        fake_features: the same shapes.
        scales: a divisor for each block.

    Raises:
        ValueError: not as many of each.
    """
    losses = [
        (real.detach().float() - fake.float()).abs().sum(dim=1).mean() / scale
        for real, fake, scale in zip(real_features, fake_features, scales, strict=True)
    ]
    return torch.stack(losses).sum()


# --- distillation ----------------------------------------------------------------------------


def output_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Charbonnier between the student's pictures and the teacher's.

    Args:
        student: (B, T, 3, H, W).
        teacher: the same shape; taken as a constant.
    """
    return charbonnier(student, teacher.detach())


def flow_distillation(student_flow: Tensor, teacher_flow: Tensor) -> Tensor:
    """Mean end-point error between the student's motion and the teacher's, in LR pixels.

    Args:
        student_flow: (M, 2, h, w) LR pixels.
        teacher_flow: the same shape; taken as a constant. Unlike :func:`flow_loss`, NaN is not
            "unknown" here but a teacher gone wrong, and the loss is NaN too.
    """
    return _end_point_error(student_flow - teacher_flow.detach())


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Do student and teacher respond in the same places? For networks of different widths.

    Attention transfer (Zagoruyko and Komodakis 2017, activation-based, p = 2): the mean squared
    activation of each position makes a map, each map is scaled to length 1, and the squared
    distance of the two maps is averaged over pictures. It has no weights of its own and lies in
    0 .. 2 whatever the size and width. (The authors' code divides by h * w as well, which makes the
    right weight depend on the crop.)

    Args:
        student: (M, Cs, h, w).
        teacher: (M, Ct, h, w); taken as a constant.
    """
    difference = _attention_map(student) - _attention_map(teacher.detach())
    return difference.square().sum(dim=1).mean()


def _attention_map(features: Tensor) -> Tensor:
    """(M, C, h, w) -> (M, h*w) of length 1, or zeros where nothing responds."""
    return F.normalize(features.float().square().mean(dim=1).flatten(1), dim=1)
