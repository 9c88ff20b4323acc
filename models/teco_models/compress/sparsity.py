"""Unstructured pruning: the smallest weights become zero, and training starts anew from the rest.

The lottery ticket (Frankle and Carbin 2019): train, mask the smallest weights, put what is left
back to its values at the start, train again under the mask. Frankle et al. 2020 rewind to an early
iteration instead of the first, which is the same call with another checkpoint.

It makes no network faster here. The tensors keep their shapes, dense hardware multiplies zeros as
it multiplies anything else, and no runtime of ours has sparse convolutions. It tells how many
weights a network needs; for speed, see :mod:`teco_models.compress.prune`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from teco_models.checkpoint import Weights, write_tensors
from teco_models.compress.sharing import parse_pattern
from teco_models.errors import ModelError

Score = Literal["lamp", "magnitude"]
"""By what weights of different layers are ranked together.

``"magnitude"``: their size as it is (Frankle and Carbin, for deep networks). ``"lamp"``: relative
to what would be left of the layer (Lee et al. 2021, "Layer-adaptive sparsity for the
magnitude-based pruning"), which leaves every layer something. The layers of this family differ by
ten times and more in scale, because the last ones of a branch start small, and plain magnitude
takes those away first. Untrained masks of half the weights of a 3-block network cost it 1.01 dB by
magnitude (of the flow output's weights none were left), 0.49 dB at half of every layer, and none by
LAMP; masks of 0.8 cost 1.21, 1.15 and 0.53 dB.
"""

Masks = Mapping[str, Tensor]
"""Convolution weight -> bool tensor of its shape, True where a weight stays."""


@dataclass(frozen=True)
class SparsityReport:
    """How much masks leave.

    Attributes:
        weights: of all convolutions.
        kept: of them.
        layers: name -> (weights, kept).
    """

    weights: int
    kept: int
    layers: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, masks: Masks) -> SparsityReport:
        layers = {key: (mask.numel(), int(mask.sum())) for key, mask in masks.items()}
        return cls(sum(n for n, _ in layers.values()), sum(k for _, k in layers.values()), layers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said of it, one sentence each."""
        empty = [key for key, (_, kept) in self.layers.items() if not kept]
        cut_off = f"nothing is left of {', '.join(empty)}: no signal passes there"
        return (
            "masked weights save no time: dense hardware multiplies zeros as well; for speed prune "
            "blocks or channels",
            *([cut_off] if empty else []),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "weights": self.weights,
            "kept": self.kept,
            "layers": {k: {"weights": n, "kept": kept} for k, (n, kept) in self.layers.items()},
        }

    def to_text(self) -> str:
        """For people, several lines."""
        share = self.kept / self.weights
        width = max(map(len, self.layers))
        return "\n".join(
            [
                f"The masks keep {self.kept:,} of {self.weights:,} ({share:.1%}) weights:",
                *(
                    f"  {key:{width}}  {kept:>9,} of {n:>9,} {kept / n:6.1%}"
                    for key, (n, kept) in self.layers.items()
                ),
            ]
        )


def maskable(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The convolution weights among named tensors; never biases or buffers."""
    return {key: value for key, value in tensors if key.endswith(".weight") and value.ndim == 4}


def magnitude_masks(
    weights: Weights, sparsity: float, *, score: Score = "lamp"
) -> dict[str, Tensor]:
    """Masks that drop the smallest weights of all convolutions, ranked together.

    Weights that are zero already go first, so that pruning in rounds means calling this on each
    round's result with a higher sparsity. Tied blocks (:mod:`teco_models.compress.sharing`) count
    once and get the same mask.

    Args:
        weights: trained.
        sparsity: share to drop, above 0 and below 1; met to the nearest weight.
        score: by what they are ranked, see :data:`Score`.

    Raises:
        ModelError: the share is out of range, or rounds to none or all.
    """
    pattern = parse_pattern(weights) or tuple(range(weights.variant.blocks))
    tied = {
        f"srnet.resblocks.{i}.{part}": f"srnet.resblocks.{pattern.index(g)}.{part}"
        for i, g in enumerate(pattern)
        for part in ("conv.0.weight", "conv.2.weight")
    }
    every = maskable(weights.tensors.items())
    convolutions = {key: value for key, value in every.items() if tied.get(key, key) == key}
    total = sum(value.numel() for value in convolutions.values())
    if score not in get_args(Score):
        raise ModelError(
            f"score must be one of {', '.join(get_args(Score))}, got {score!r}", exit_code=2
        )
    if not 0 < sparsity < 1:
        raise ModelError(
            f"sparsity must be above 0 and below 1, got {sparsity:g}",
            hint="0.8 drops four weights of five",
            exit_code=2,
        )
    count = round(sparsity * total)
    if not 0 < count < total:
        raise ModelError(
            f"sparsity {sparsity:g} of {total} weights drops {'none' if count == 0 else 'all'}",
            exit_code=2,
        )
    rank = _lamp if score == "lamp" else torch.abs
    flat = torch.cat([rank(value).flatten() for value in convolutions.values()])
    mask = torch.ones(total, dtype=torch.bool)
    # Stable, so that which of several equals go does not depend on the machine.
    mask[torch.argsort(flat, stable=True)[:count]] = False
    sizes = [value.numel() for value in convolutions.values()]
    parts = dict(zip(convolutions, mask.split(sizes), strict=True))
    return {key: parts[tied.get(key, key)].view(v.shape).clone() for key, v in every.items()}


def _lamp(weight: Tensor) -> Tensor:
    """The LAMP score of each weight of a layer: w^2 / sum of the squares that are no smaller."""
    squares = weight.double().square().flatten()
    order = torch.argsort(squares, stable=True)
    rising = squares[order]
    # Sums from the far end: of itself and all that come after it.
    rest = rising.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = torch.where(rest > 0, rising / rest, rest)
    return scores.view(weight.shape)


def masked(weights: Weights, masks: Masks) -> Weights:
    """The weights with what the masks drop made zero.

    Raises:
        ModelError: the masks belong to another network.
    """
    _check(masks, maskable(weights.tensors.items()), weights.variant.name)
    tensors = {k: v * masks[k] if k in masks else v.clone() for k, v in weights.tensors.items()}
    return replace(weights, tensors=tensors)


def rewind(initial: Weights, masks: Masks) -> Weights:
    """The lottery ticket: initial (or early) weights under masks found after training.

    Raises:
        ModelError: the masks belong to another network.
    """
    return masked(initial, masks)


def apply_masks(module: nn.Module, masks: Masks) -> None:
    """Zero what the masks drop, in place. After each optimizer step: momentum moves masked weights.

    Args:
        module: a generator, not wrapped.
        masks: best on the module's device, for they are copied there otherwise at each call.

    Raises:
        ModelError: the masks belong to another network.
    """
    # Duplicates too: of tied blocks (teco_models.compress.sharing) every name is wanted.
    parameters = maskable(module.named_parameters(remove_duplicate=False))
    _check(masks, parameters, type(module).__name__)
    with torch.no_grad():
        for key, mask in masks.items():
            parameters[key].mul_(mask.to(parameters[key].device))


def save_masks(
    path: str | Path, masks: Masks, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write masks as safetensors (bool), beside the final name and renamed.

    Args:
        path: the final name.
        masks: to write.
        metadata: text fields for the header.
    """
    write_tensors(path, {key: mask.cpu().contiguous() for key, mask in masks.items()}, metadata)


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """Read what :func:`save_masks` wrote.

    Raises:
        ModelError: the file is missing, unreadable or holds anything but bool tensors.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no masks file at {path}", hint="check the path", exit_code=2)
    try:
        with safe_open(path, framework="pt") as file:
            names = cast("list[str]", list(file.keys()))
            masks: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is a damaged safetensors file: {error}", hint="make it again"
        ) from error
    if not masks or any(mask.dtype != torch.bool for mask in masks.values()):
        raise ModelError(
            f"{path} holds no masks: expected bool tensors",
            hint="`teco prune --sparsity` writes them beside its result",
        )
    return masks


def _check(masks: Masks, weights: Mapping[str, Tensor], name: str) -> None:
    odd = sorted(
        key for key in {*masks, *weights}
        if key not in masks or key not in weights or masks[key].shape != weights[key].shape
    )  # fmt: skip
    if odd:
        raise ModelError(
            f"these masks do not fit {name}: {len(odd)} of its convolutions differ, the first is "
            f"{odd[0]}",
            hint="masks belong to one variant; make them from weights of the same one",
        )
