"""Growing: weights -> weights of a deeper or wider network, one that knows its past better, or of
scale 2.

The opposite of :mod:`teco_models.compress.prune`, for a training that is to start from another
network's weights: new residual blocks begin as the identity (their last convolution is zero, as in
Net2Net's deepening, Chen et al. 2016), and nothing that was there reads new channels (their weights
are zero), so the grown network begins where the smaller one ended.
Back-projection and the refinement of the flow have their classical values to begin with, and *do*
change the pictures.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from teco_models.checkpoint import Weights, generator_of
from teco_models.compress.prune import BLOCK_KEY, last_of_block
from teco_models.errors import ModelError
from teco_models.variant import Variant


def can_grow(old: Variant, new: Variant) -> bool:
    """Whether ``new`` is ``old`` with more blocks, back-projection or a refined flow, or equal.

    With computed alignment also with more channels, or of scale 2 where the old one has 4.
    """
    if new.scale < old.scale:
        old = _halved(old)
    added = ["blocks", "back_projection", "lucas_kanade"]
    if old.computed_alignment and not old.half_channels:
        added.append("channels")
    more = {name: getattr(new, name) for name in added}
    return replace(old, **more) == new and all(more[n] >= getattr(old, n) for n in added)


def grow(weights: Weights, variant: Variant) -> Weights:
    """Weights of ``variant`` that begin as ``weights`` end.

    The old blocks are spread over the new depth: block i of m goes to place i * n // m of n. What
    is new and not zero is drawn from torch's global random state. Metadata is dropped.

    Raises:
        ModelError: ``variant`` is no deeper form of what the weights are, see :func:`can_grow`.
    """
    if can_grow(weights.variant, variant) and variant.scale < weights.variant.scale:
        weights = halve_scale(weights)
    old = weights.variant
    if not can_grow(old, variant):
        raise ModelError(
            f"{old.name} cannot grow to {variant.name}: only blocks, back-projection (-bp), a "
            "refined flow (-lk) and channels of computed alignment can be added, and scale 4 of "
            "-real become 2",
            hint=f"give weights of {variant.name}",
            exit_code=2,
        )
    tensors = generator_of(variant).state_dict()
    last = last_of_block(variant)
    for i in range(variant.blocks):
        for part in ("weight", "bias"):
            tensors[f"{last.format(i)}.{part}"].zero_()
    for key, value in weights.tensors.items():
        name = key
        if match := BLOCK_KEY.fullmatch(key):
            place = int(match[2]) * variant.blocks // old.blocks
            name = f"{match[1]}{place}{match[3]}"
        tensors[name] = _widened(value, tensors[name])
    return Weights(variant, tensors, weights.notes, {})


def _widened(old: Tensor, new: Tensor) -> Tensor:
    """``new`` with ``old`` as its first channels, which read none of the others."""
    if old.shape == new.shape:
        return old.clone()
    widened = new.clone()
    outputs = old.shape[0]
    widened[:outputs] = 0.0
    widened[tuple(slice(n) for n in old.shape)] = old
    return widened


def halve_scale(weights: Weights) -> Weights:
    """Weights of scale 2 that begin as weights of scale 4, shrunk by area, end.

    For computed alignment. Each of the four phases of an LR pixel is the mean of the four it covers
    of sixteen, in what is enlarged, corrected and answered; what is read is given to all four.

    Raises:
        ModelError: the weights are of another kind or scale.
    """
    old = weights.variant
    if not old.computed_alignment or old.scale != 4:
        raise ModelError(
            f"{old.name} is no network of scale 4 with the real degradation",
            hint="give weights of one, such as real-cpu",
            exit_code=2,
        )
    new = _halved(old)
    tensors = {key: value.clone() for key, value in weights.tensors.items()}
    for key in ("base", "spread"):
        tensors[key] = _quarters(tensors[key]).mean(1)
    first, past, latent = tensors["head.weight"].split((2, old.phases, old.latent), dim=1)
    given = _quarters(past.transpose(0, 1)).sum(1).transpose(0, 1)
    tensors["head.weight"] = torch.cat((first, given, latent), dim=1)
    for part in ("weight", "bias"):
        detail, mask, latent = tensors[f"tail.{part}"].split((old.phases, old.masks, old.latent))
        mask = mask if old.masks == 1 else _quarters(mask).mean(1)
        tensors[f"tail.{part}"] = torch.cat((_quarters(detail).mean(1), mask, latent))
    return Weights(new, tensors, weights.notes, {})


def _halved(variant: Variant) -> Variant:
    return replace(variant, scale=2, masks=1 if variant.masks == 1 else 4)


def _quarters(phases: Tensor) -> Tensor:
    """(16, ...) phases of scale 4 -> (4, 4, ...): of each phase of scale 2 those it covers."""
    grid = phases.unflatten(0, (2, 2, 2, 2))  # down: half, within; across: half, within
    return grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)
