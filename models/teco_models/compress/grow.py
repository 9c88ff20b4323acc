"""Growing: weights -> weights of a deeper network, or of one that knows its past better.

The opposite of :mod:`teco_models.compress.prune`, for a training that is to start from a smaller
network's
weights: new residual blocks begin as the identity (their last convolution is zero, as in Net2Net's
deepening, Chen et al. 2016), so the grown network begins where the smaller one ended.
Back-projection and the refinement of the flow have their classical values to begin with, and *do*
change the pictures.
"""

from __future__ import annotations

import re
from dataclasses import replace

from teco_models.checkpoint import Weights, generator_of
from teco_models.compress.prune import BLOCK_KEY
from teco_models.errors import ModelError
from teco_models.variant import Variant

_BODY_KEY = re.compile(r"(body\.)(\d+)(\..+)")


def can_grow(old: Variant, new: Variant) -> bool:
    """Whether ``new`` is ``old`` with more blocks, back-projection or a refined flow, or equal."""
    added = ("blocks", "back_projection", "lucas_kanade")
    more = {name: getattr(new, name) for name in added}
    return replace(old, **more) == new and all(more[n] >= getattr(old, n) for n in added)


def grow(weights: Weights, variant: Variant) -> Weights:
    """Weights of ``variant`` that begin as ``weights`` end.

    The old blocks are spread over the new depth: block i of m goes to place i * n // m of n. What
    is new and not zero is drawn from torch's global random state. Metadata is dropped.

    Raises:
        ModelError: ``variant`` is no deeper form of what the weights are, see :func:`can_grow`.
    """
    old = weights.variant
    if not can_grow(old, variant):
        raise ModelError(
            f"{old.name} cannot grow to {variant.name}: only blocks, back-projection (-bp) and a "
            "refined flow (-lk) can be added",
            hint=f"give weights of {variant.name}",
            exit_code=2,
        )
    tensors = generator_of(variant).state_dict()
    last = "body.{}.second" if variant.computed_alignment else "srnet.resblocks.{}.conv.2"
    for i in range(variant.blocks):
        for part in ("weight", "bias"):
            tensors[f"{last.format(i)}.{part}"].zero_()
    for key, value in weights.tensors.items():
        name = key
        if match := BLOCK_KEY.fullmatch(key) or _BODY_KEY.fullmatch(key):
            place = int(match[2]) * variant.blocks // old.blocks
            name = f"{match[1]}{place}{match[3]}"
        tensors[name] = value.clone()
    return Weights(variant, tensors, weights.notes, {})
