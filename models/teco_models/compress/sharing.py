"""Weight sharing: several residual blocks that are one and the same.

Sharing leaves fewer weights to learn, not fewer to compute with: each block still runs, so a step
takes the same time. A weights file still writes every block (whoever reads it need not know of
sharing), so it is as large as before. The tying is a *pattern*, one number for each block, equal
where blocks are tied, numbered by first appearance: (0, 0, 1, 1). A file keeps it in its metadata
under :data:`SHARED` as "0,0,1,1", so that training can tie the blocks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from teco_models.arch.generator import Generator
from teco_models.checkpoint import Weights
from teco_models.errors import ModelError

SHARED = "shared_blocks"
"""Metadata field of a weights file."""

Merge = Literal["first", "mean"]

_PARTS = ("conv.0.weight", "conv.0.bias", "conv.2.weight", "conv.2.bias")


def runs(blocks: int, groups: int) -> tuple[int, ...]:
    """The pattern of neighbours tied in runs as even as can be, the longer ones first.

    Neighbours, because in a residual chain they see nearly the same input.

    Raises:
        ModelError: ``groups`` is below 1 or more than there are blocks.
    """
    if not 1 <= groups <= blocks:
        raise ModelError(
            f"{blocks} blocks cannot share {groups} sets of weights; expected 1 to {blocks}",
            exit_code=2,
        )
    size, longer = divmod(blocks, groups)
    return tuple(g for g in range(groups) for _ in range(size + (g < longer)))


def share_blocks(weights: Weights, groups: int, *, merge: Merge = "mean") -> Weights:
    """Tie the blocks to ``groups`` distinct ones; training (:func:`tie_blocks`) must follow.

    Args:
        weights: the network.
        groups: distinct blocks; runs of neighbours are tied, see :func:`runs`.
        merge: ``"mean"`` each run takes its blocks' average, their inner channels being matched to
            the first block's before, because trained blocks hold their channels in different
            orders; ``"first"`` its first block's weights. Three trained blocks tied to two lost
            0.45 dB by the matched mean, 0.61 dB by the plain one, 0.90 dB by the first's.

    Returns:
        The same variant; metadata holds the pattern.

    Raises:
        ModelError: more groups than blocks, or none.
    """
    if merge not in get_args(Merge):
        raise ModelError(f"merge must be one of {', '.join(get_args(Merge))}, got {merge!r}")
    pattern = runs(weights.variant.blocks, groups)
    tensors = dict(weights.tensors)
    for group in range(groups):
        members = [_block(weights, i) for i, g in enumerate(pattern) if g == group]
        shared = members[0]
        if merge == "mean":
            matched = [_in_the_order_of(members[0], member) for member in members]
            shared = {p: torch.stack([m[p] for m in matched]).mean(dim=0) for p in _PARTS}
        for i, g in enumerate(pattern):
            if g == group:
                tensors |= {f"srnet.resblocks.{i}.{p}": v.clone() for p, v in shared.items()}
    return replace(weights, tensors=tensors, metadata={SHARED: format_pattern(pattern)})


def tie_blocks(generator: Generator, pattern: Sequence[int]) -> None:
    """Make the tied blocks of a generator one module, so that training changes them as one.

    The state dict still has every key, with tensors that share memory; a writer that refuses such
    (safetensors) must copy them first. ``parameters()`` lists each once. Tie before the optimizer
    is made.

    Args:
        generator: its blocks with equal numbers hold equal weights, or take those of the first.
        pattern: one number for each block.

    Raises:
        ModelError: the pattern is not one of so many blocks.
    """
    if len(pattern) != len(generator.srnet.resblocks):
        raise ModelError(
            f"a pattern of {len(pattern)} blocks does not fit a network of "
            f"{len(generator.srnet.resblocks)}"
        )
    first = {g: generator.srnet.resblocks[i] for i, g in reversed(list(enumerate(pattern)))}
    for i, g in enumerate(pattern):
        generator.srnet.resblocks[i] = first[g]


def parse_pattern(weights: Weights) -> tuple[int, ...] | None:
    """The pattern in a file's metadata, None where there is none.

    Raises:
        ModelError: it does not fit the network, or blocks said to be tied differ.
    """
    text = (weights.metadata or {}).get(SHARED)
    if text is None:
        return None
    fields = text.split(",")
    if not all(x.isdecimal() for x in fields) or len(fields) != weights.variant.blocks:
        raise ModelError(
            f"metadata field {SHARED} is {text!r}, expected one number for each of the "
            f"{weights.variant.blocks} blocks, such as 0,0,1",
            hint="the file is damaged",
        )
    pattern = tuple(int(x) for x in fields)
    for i, g in enumerate(pattern):
        one, other = _block(weights, i), _block(weights, pattern.index(g))
        if not all(torch.equal(one[p], other[p]) for p in _PARTS):
            raise ModelError(
                f"metadata says that blocks {pattern.index(g)} and {i} are tied ({SHARED} "
                f"{text}), but their weights differ",
                hint="the program that wrote it trained them apart; share them again",
            )
    return pattern


def format_pattern(pattern: Sequence[int]) -> str:
    """(3, 3, 5) -> "0,0,1": numbered by first appearance."""
    numbers = {g: i for i, g in enumerate(dict.fromkeys(pattern))}
    return ",".join(str(numbers[g]) for g in pattern)


def subset(pattern: Sequence[int], keep: Sequence[int]) -> str:
    """The pattern, as text, of the blocks that stay."""
    return format_pattern([pattern[i] for i in keep])


def _block(weights: Weights, i: int) -> dict[str, Tensor]:
    return {part: weights.tensors[f"srnet.resblocks.{i}.{part}"] for part in _PARTS}


def _in_the_order_of(first: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """A block with its inner channels permuted, which changes nothing, to be most like ``first``.

    Greedy: the two most similar channels (cosine of everything that makes and reads them) are
    matched, then the most similar two of the rest.
    """

    def channels(block: dict[str, Tensor]) -> Tensor:
        makes = torch.cat((block["conv.0.weight"].flatten(1), block["conv.0.bias"][:, None]), 1)
        reads = block["conv.2.weight"].transpose(0, 1).flatten(1)
        return torch.nn.functional.normalize(torch.cat((makes, reads), dim=1), dim=1)

    similarity = channels(first) @ channels(other).T  # (C, C)
    order = torch.empty(len(similarity), dtype=torch.long)
    for _ in range(len(similarity)):
        row, column = divmod(int(similarity.argmax()), len(similarity))
        order[row] = column
        similarity[row, :] = similarity[:, column] = -torch.inf
    return {
        "conv.0.weight": other["conv.0.weight"][order],
        "conv.0.bias": other["conv.0.bias"][order],
        "conv.2.weight": other["conv.2.weight"][:, order],
        "conv.2.bias": other["conv.2.bias"],
    }
