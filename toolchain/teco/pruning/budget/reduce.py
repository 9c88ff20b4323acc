"""A teacher's weights cut down to one variant of its space, in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from teco_models.errors import ModelError
from teco_models.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor

    from teco_models.checkpoint import Weights


def reduce_to(
    teacher: Weights, variant: Variant, *, verified: bool = False
) -> tuple[Weights, tuple[str, ...]]:
    """The teacher pruned to ``variant``; what it lacks for that starts fresh.

    Blocks (the last ones, the paper's order) and channels are cut as ``teco prune`` cuts them. Not
    a cut, and said so in the notes: a shuffle tail in place of a transposed one (fresh weights),
    and the inputs that SRNet has only without a flow net (zeros, which training moves at once).

    Args:
        teacher: the weights.
        variant: of a :class:`teco.pruning.budget.space.Space` of the teacher.
        verified: compare each cut with the teacher silenced in the same places
            (:func:`teco.pruning.structured.verify`), as weights that are written must be.

    Returns:
        The weights, and a sentence for each thing that starts fresh.

    Raises:
        ModelError: the variant is not below the teacher.
        PruneError: a cut does not compute what it must.
    """
    from teco.pruning.structured import verify
    from teco_models.checkpoint import Weights
    from teco_models.compress.prune import first_blocks, prune_blocks, prune_channels

    shorter = prune_blocks(teacher, first_blocks(teacher.variant, variant.blocks))
    narrower = variant.channels if variant.channels != teacher.variant.channels else None
    flow = variant.flow_channels or teacher.variant.flow_channels
    smaller = prune_channels(
        shorter.weights,
        channels=narrower,
        flow_channels=flow if flow != teacher.variant.flow_channels else None,
    )
    weights = smaller.weights
    if verified:
        for whole, step in ((teacher, shorter), (shorter.weights, smaller)):
            verify(whole, step.cut, step.weights)
    if weights.variant == variant:
        return weights, ()
    rest = replace(weights.variant, tail=variant.tail, flow_channels=variant.flow_channels)
    if rest != variant:
        raise ModelError(f"{teacher.variant.name} cannot be pruned to {variant.name}")
    tensors, notes = _fresh(variant), list[str]()
    if variant.tail != weights.variant.tail:
        notes.append(
            f"the {variant.tail} tail of {variant.name} starts from fresh weights; train it with "
            "the teacher's pictures (--teacher)"
        )
    for key, value in weights.tensors.items():
        if key not in tensors:
            continue
        if tensors[key].shape == value.shape:
            tensors[key] = value.clone()
        elif key == "srnet.conv_in.0.weight":
            # The frame and the past picture come first; what is added is the previous frame and
            # the latent state.
            tensors[key].zero_()
            tensors[key][:, : value.shape[1]] = value
            notes.append(
                f"{variant.name} has no flow net: its inputs for the previous frame and the latent "
                "state start at zero"
            )
    return Weights(variant, tensors, weights.notes, weights.metadata), tuple(notes)


def _fresh(variant: Variant) -> dict[str, Tensor]:
    """Initial weights of a variant, the same each time, leaving torch's random state alone."""
    import torch

    from teco.training.init import initialise
    from teco_models.arch.generator import Generator

    with torch.random.fork_rng(devices=[]):
        generator = Generator(variant)
        initialise(generator)
    return {key: value.detach().clone() for key, value in generator.state_dict().items()}
