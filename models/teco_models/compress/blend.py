"""One network from several: the weighted mean of their weights.

Networks that were trained on from the same weights lie close enough together that what is between
them is a network as well. Between a form trained for fidelity and its GAN form it is a choice of
how much to invent (network interpolation: ESRGAN, Wang et al. 2018, section 3.4). Of several that
were trained on in different ways the mean often beats each, since their errors differ (model soups:
Wortsman et al. 2022). Networks that share no ancestor make no network at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from teco_models.checkpoint import Weights
from teco_models.compress.sharing import SHARED
from teco_models.errors import ModelError


def blend(parts: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """The weighted mean.

    Args:
        parts: two or more, of one variant.
        shares: of each, finite; they are divided by their sum. Below zero leads away from a network
            and beyond another.

    Returns:
        Weights in float32, summed in float64.

    Raises:
        ModelError: fewer than two networks, of different variants, or shares that do not fit.
    """
    if len(parts) < 2:
        raise ModelError(
            f"{len(parts)} network given, expected two or more", hint="name another", exit_code=2
        )
    first = parts[0]
    other = next((p for p in parts if p.variant != first.variant), None)
    if other is not None:
        raise ModelError(
            f"{other.variant.name} and {first.variant.name} cannot be blended: their weights have "
            "no common shapes",
            hint="take networks of one variant, trained on from the same weights",
            exit_code=2,
        )
    total = math.fsum(shares)
    if len(shares) != len(parts) or not all(map(math.isfinite, shares)) or abs(total) < 1e-6:
        raise ModelError(
            f"the shares {', '.join(f'{x:g}' for x in shares)} do not fit {len(parts)} networks: "
            "expected one finite number for each, whose sum is not 0",
            hint="such as 1,1 for the mean of two",
            exit_code=2,
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in first.tensors.items():
        mean = torch.zeros(tensor.shape, dtype=torch.float64)
        for part, share in zip(parts, shares, strict=True):
            mean += share / total * part.tensors[name].double()
        tensors[name] = mean.float()
    patterns = {(p.metadata or {}).get(SHARED) for p in parts}
    pattern = patterns.pop() if len(patterns) == 1 else None
    metadata = {} if pattern is None else {SHARED: pattern}
    return Weights(variant=first.variant, tensors=tensors, metadata=metadata)


def distance(one: Weights, other: Weights) -> float:
    """How far two networks of one variant are apart, as a share of the first one's length.

    Both are taken as vectors of all their weights. About 1.4 where nothing is common.
    """
    gap = math.fsum(
        float((t.double() - other.tensors[k].double()).square().sum())
        for k, t in one.tensors.items()
    )
    length = math.fsum(float(t.double().square().sum()) for t in one.tensors.values())
    return math.sqrt(gap / length) if length else math.inf
