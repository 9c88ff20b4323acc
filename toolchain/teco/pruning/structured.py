"""Weights to smaller weights: what is cut, what that costs on a clip, proved before it is written.

The cutting itself is :mod:`teco_models.compress.prune`, :mod:`teco_models.compress.sharing` and
:mod:`teco_models.compress.sparsity`. Here it is measured what a cut costs, each structural cut is
compared with the large network silenced in the same places, and the result is written with its
parent's hash. Torch is imported by this module's functions, not by this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.core.log import Progress, no_progress
from teco.core.pixels import Pixels
from teco.evaluation.quality import QualityMeter, network, truth_frames, truth_size
from teco.model.weights_digest import weights_digest
from teco.verification.parity import MAX_DIFFERENCE
from teco_calibration.degrade import degrade

if TYPE_CHECKING:
    from torch import Tensor

    from teco_models.checkpoint import Weights
    from teco_models.compress.prune import ChannelCut, Criterion, PruneReport, RemovedBlock
    from teco_models.compress.sharing import Merge
    from teco_models.compress.sparsity import Score, SparsityReport
    from teco_models.variant import Variant

Order = Literal["plain", "sensitivity"]

MIN_FRAMES = 5
"""Shortest clip with a frame that counts: the official measure drops two at each end."""

VERIFIED_FRAMES = 10
VERIFIED_SIZE = (20, 36)
"""LR (h, w) of the verification; no multiple of 8, so that the flow is mirrored."""


class PruneError(TecoError):
    """The pruned network does not compute what the silenced large one computes."""


# --- sensitivity -----------------------------------------------------------------------------


class ClipSensitivity:
    """PSNR-Y that networks lose on one clip, run with the recurrence in float32 on the CPU.

    PSNR-Y as in ``teco eval`` (official frames and window), without scene cuts: a short clip for
    this should be one shot.

    Args:
        truth: uint8 (H, W, 3) frames, at least :data:`MIN_FRAMES`, sizes multiples of 4.
        reference: what others are compared with; its degradation makes the LR frames.

    Attributes:
        reference: its PSNR-Y in dB.
        frames: of the clip.
    """

    def __init__(self, truth: list[Pixels], reference: Weights) -> None:
        variant = reference.variant
        self._pairs = [(t, degrade(t, variant.degradation, scale=variant.scale)) for t in truth]
        self.frames = len(truth)
        self.reference = self.psnr(reference)

    def psnr(self, weights: Weights) -> float:
        """Mean PSNR-Y of a network in dB."""
        from teco.runtimes.pytorch import PyTorchSession
        from teco_models.checkpoint import build_any

        method = network("", PyTorchSession(build_any(weights)), scene_cuts=False)
        return QualityMeter(("psnr",)).clip(method.start(), self._pairs).means["psnr"]

    def __call__(self, weights: Weights) -> float:
        """dB lost against the reference; below zero where the network is better."""
        return self.reference - self.psnr(weights)


def clip_sensitivity(clip: str, shrink: float, frames: int, reference: Weights) -> ClipSensitivity:
    """Read a clip (:func:`read_truth`) and measure the reference on it."""
    return ClipSensitivity(read_truth(clip, shrink, frames), reference)


def read_truth(clip: str, shrink: float, frames: int) -> list[Pixels]:
    """The first frames of a clip that networks are to be measured on.

    Args:
        clip: video file or folder of pictures; the truth.
        shrink: area-average it to 1/shrink of its size first.
        frames: to use, at least :data:`MIN_FRAMES`.

    Returns:
        uint8 (H, W, 3), cropped to multiples of 4.

    Raises:
        TecoError: ``shrink`` is below 1, or the clip is too short.
        ClipError, ModelError: it cannot be read, or is too small.
    """
    if frames < MIN_FRAMES:
        raise TecoError(
            f"{frames} frames are too few to measure on, expected at least {MIN_FRAMES}: the first "
            "and last two do not count",
            hint="give a larger --frames",
            exit_code=USAGE,
        )
    truth_size(clip, shrink)
    truth = list(truth_frames(clip, shrink, frames))
    if len(truth) < MIN_FRAMES:
        raise TecoError(
            f"{clip} has {len(truth)} frames, expected at least {MIN_FRAMES}: the first and last "
            "two do not count",
            hint="give a longer clip",
            exit_code=USAGE,
        )
    return truth


def _run(weights: Weights, frames: list[np.ndarray[Any, Any]]) -> Iterator[np.ndarray[Any, Any]]:
    """The float32 PyTorch step over (1, 3, h, w) frames, from the zero state."""
    import torch

    from teco_models.checkpoint import build_any

    generator = build_any(weights)
    state = None
    for frame in frames:
        with torch.inference_mode():
            lr = torch.from_numpy(frame)
            picture, state = generator.advance(lr, state or generator.initial_state(lr))
        yield picture.numpy()


# --- pruning ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """What to take. None leaves a thing as it is.

    Attributes:
        blocks: to keep.
        order: which blocks go: ``"plain"`` the last ones, as in the paper, ``"sensitivity"`` those
            that are missed least on a clip.
        channels: width of SRNet to keep.
        flow_channels: width of FNet's first stage to keep.
        criterion: norm by which channels are ranked.
        share: distinct blocks to tie all blocks to.
        merge: how tied blocks are made one.
        sparsity: share of all convolution weights to mask.
        score: by which weights of different layers are ranked for the masks.
    """

    blocks: int | None = None
    order: Order = "plain"
    channels: int | None = None
    flow_channels: int | None = None
    criterion: Criterion = "l2"
    share: int | None = None
    merge: Merge = "mean"
    sparsity: float | None = None
    score: Score = "lamp"

    @property
    def structural(self) -> bool:
        """Whether anything becomes smaller or tied."""
        wanted = (self.blocks, self.channels, self.flow_channels, self.share)
        return any(x is not None for x in wanted)


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A pruned network, verified, not yet written.

    Attributes:
        weights: the network, with the metadata for its file.
        parent: digest of what it was made from.
        report: of blocks and channels; its two variants are equal where neither was cut.
        pattern: of tied blocks, None where none are.
        masks: convolution weight -> bool, None where none were made.
        sparsity: of the masks.
        notes: one sentence each.
    """

    weights: Weights
    parent: str
    report: PruneReport
    pattern: tuple[int, ...] | None = None
    masks: dict[str, Tensor] | None = field(default=None, repr=False)
    sparsity: SparsityReport | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "parent_sha256": self.parent,
            "weights_sha256": weights_digest(self.weights),
            **self.report.as_dict(),
            "shared_blocks": None if self.pattern is None else list(self.pattern),
            "sparsity": None if self.sparsity is None else self.sparsity.as_dict(),
            "notes": list(self.notes),
        }


def prune(
    weights: Weights,
    options: PruneOptions,
    *,
    sensitivity: Callable[[Weights], float] | None = None,
    initial: Weights | None = None,
    progress: Progress = no_progress,
) -> PruneResult:
    """Blocks, then channels, then sharing, then masks; structural cuts are verified.

    Args:
        weights: the network.
        options: what to take.
        sensitivity: what a network has lost; needed for the order "sensitivity".
        initial: weights to rewind to under the masks, of the same variant.
        progress: told the networks that are measured, of how many.

    Raises:
        TecoError: nothing would change, or options do not go together.
        ModelError: more is asked for than there is, nothing would be left, ``initial`` is another
            variant.
        PruneError: a cut does not compute what it must.
    """
    from teco_models.compress.prune import rank_blocks

    o = options
    check_options(weights, o, measured=sensitivity is not None, initial=initial)
    keep: Sequence[int] | None = None
    removed: Sequence[RemovedBlock] = ()
    if o.blocks is not None and o.order == "sensitivity":
        assert sensitivity is not None
        keep, removed = rank_blocks(weights, o.blocks, sensitivity, progress)
    result = _cut(weights, o, initial, verify, keep, removed)
    metadata = _metadata(result, o, initial)
    return replace(result, weights=replace(result.weights, metadata=metadata))


def _cut(
    weights: Weights,
    o: PruneOptions,
    initial: Weights | None,
    verified: Callable[[Weights, ChannelCut, Weights], object],
    keep: Sequence[int] | None = None,
    removed: Sequence[RemovedBlock] = (),
) -> PruneResult:
    """Everything that is asked for, with the blocks that stay, None for the first ones."""
    from teco_models.compress.prune import PruneReport, first_blocks, prune_blocks, prune_channels
    from teco_models.compress.sharing import parse_pattern, share_blocks
    from teco_models.compress.sparsity import SparsityReport, magnitude_masks, masked, rewind

    variant, now = weights.variant, weights
    whole = PruneReport(before=variant, after=variant)
    notes: list[str] = []
    if o.blocks is not None:
        if keep is None:
            keep = first_blocks(variant, o.blocks)
        step = prune_blocks(now, keep, removed=removed)
        verified(now, step.cut, step.weights)
        now, whole = step.weights, whole.then(step.report)
    if o.channels is not None or o.flow_channels is not None:
        step = prune_channels(
            now, channels=o.channels, flow_channels=o.flow_channels, criterion=o.criterion
        )
        verified(now, step.cut, step.weights)
        now, whole = step.weights, whole.then(step.report)
    notes += whole.notes
    if o.share is not None:
        now = share_blocks(now, o.share, merge=o.merge)
        notes.append(
            "tied blocks save neither time nor file size: each still runs, and is stored; they "
            "have fewer weights to learn"
        )
    pattern = parse_pattern(now)
    masks, sparsity = None, None
    if o.sparsity is not None:
        masks = magnitude_masks(now, o.sparsity, score=o.score)
        sparsity = SparsityReport.of(masks)
        notes += sparsity.notes
        now = masked(now, masks) if initial is None else rewind(initial, masks)
    if now.variant == variant and weights_digest(now) == weights_digest(weights):
        raise TecoError(
            f"nothing would change: {variant.name} already is what was asked for",
            hint="ask for fewer blocks or channels than it has",
            exit_code=USAGE,
        )
    return PruneResult(
        weights=now, parent=weights_digest(weights), report=whole, pattern=pattern,
        masks=masks, sparsity=sparsity, notes=tuple(notes),
    )  # fmt: skip


def check_options(
    weights: Weights, options: PruneOptions, *, measured: bool, initial: Weights | None = None
) -> Variant:
    """Refuse what cannot be done, in about a second, before minutes of measuring.

    Args:
        weights: the network.
        options: what to take.
        measured: whether there is a clip to measure on.
        initial: weights to rewind to.

    Returns:
        The variant that comes out.

    Raises:
        TecoError, ModelError: as :func:`prune` does.
    """
    _check_together(weights, options, measured, initial)
    # A rehearsal: how many blocks go decides what is possible, which ones does not.
    return _cut(weights, options, initial, lambda *_: None).weights.variant


def _check_together(
    weights: Weights, o: PruneOptions, measured: bool, initial: Weights | None
) -> None:
    """Raise TecoError for options that do not go together."""
    from teco_models.compress.sharing import format_pattern, parse_pattern

    if not o.structural and o.sparsity is None:
        raise TecoError(
            "nothing to prune was named",
            hint="give --blocks, --channels, --flow-channels, --share-blocks or --sparsity",
            exit_code=USAGE,
        )
    if o.order == "sensitivity" and not measured:
        raise TecoError(
            "the order by sensitivity needs a clip to measure it on",
            hint="give --clip, or take --order plain",
            exit_code=USAGE,
        )
    if weights.variant.computed_alignment and (o.share is not None or o.sparsity is not None):
        raise TecoError(
            f"{weights.variant.name} computes its alignment; blocks are tied and weights masked in "
            "networks that learn it",
            hint="give --blocks or --channels, or other weights",
            exit_code=USAGE,
        )
    if initial is None:
        return
    if o.sparsity is None:
        raise TecoError(
            "rewinding needs masks, and none were asked for",
            hint="give --sparsity, for example 0.8",
            exit_code=USAGE,
        )
    if o.structural:
        raise TecoError(
            "rewinding goes with --sparsity alone: blocks and channels chosen in the trained "
            "network are others in the initial one",
            hint="prune blocks and channels first, train, then mask that network and rewind it",
            exit_code=USAGE,
        )
    if initial.variant != weights.variant:
        raise TecoError(
            f"the weights to rewind to are {initial.variant.name}, the trained ones are "
            f"{weights.variant.name}",
            hint="give the weights that training started from",
            exit_code=USAGE,
        )
    apart = tuple(range(weights.variant.blocks))
    trained, start = (format_pattern(parse_pattern(w) or apart) for w in (weights, initial))
    if trained != start:
        raise TecoError(
            f"the trained blocks and those to rewind to are not tied alike: {trained} and {start} "
            "(equal numbers are tied)",
            hint="give the tied weights that training started from"
            if start == format_pattern(apart)
            else "give weights that are tied as the trained ones are",
            exit_code=USAGE,
        )


def _metadata(result: PruneResult, o: PruneOptions, initial: Weights | None) -> dict[str, str]:
    """Text fields for the file: the parent's hash, and what went."""
    from teco_models.compress.sharing import SHARED, format_pattern

    report = result.report
    what: dict[str, Any] = {}
    if report.blocks:
        what |= {"blocks": [b.index for b in report.blocks], "order": o.order}
    if report.channels:
        what |= {"channels": [report.before.channels, report.after.channels]}
        what |= {"flow_channels": [report.before.flow_channels, report.after.flow_channels]}
        what |= {"criterion": report.criterion}
    if o.share is not None:
        what["shared"] = {"groups": o.share, "merge": o.merge}
    if o.sparsity is not None:
        what |= {"sparsity": o.sparsity, "score": o.score}
    if initial is not None:
        what["rewound_to"] = weights_digest(initial)
    fields = {
        "pruned_from": result.parent,
        "pruned_from_variant": report.before.name,
        "pruned": json.dumps(what),
    }
    if result.pattern is not None:
        fields[SHARED] = format_pattern(result.pattern)
    return fields


def verify(whole: Weights, cut: ChannelCut, smaller: Weights) -> float:
    """Compare a cut network with the whole one silenced in the same places, recurrently.

    Returns:
        The largest difference of any value over :data:`VERIFIED_FRAMES` frames, relative to the
        largest value where that is above 1 (pictures are in [0, 1], untrained networks are not).

    Raises:
        PruneError: it is larger than :data:`teco.verification.parity.MAX_DIFFERENCE`, or an output
            not finite.
    """
    from teco_models.compress.prune import silence

    h, w = VERIFIED_SIZE
    rng = np.random.default_rng(0)
    scene = rng.random((1, 3, h, w + VERIFIED_FRAMES), dtype=np.float32)
    frames = [np.ascontiguousarray(scene[..., t : t + w]) for t in range(VERIFIED_FRAMES)]
    worst = 0.0
    for a, b in zip(_run(silence(whole, cut), frames), _run(smaller, frames), strict=True):
        scale = max(1.0, float(np.abs(a).max()))
        # Not max(), which would pass over NaN.
        difference = float(np.abs(a - b).max()) / scale
        if not difference <= MAX_DIFFERENCE:
            raise PruneError(
                f"the pruned {smaller.variant.name} differs from {whole.variant.name} without the "
                f"same parts by {difference:.2e} (allowed {MAX_DIFFERENCE:.0e}); nothing was "
                "written",
                hint="report this with the versions that `teco doctor` prints",
            )
        worst = max(worst, difference)
    return worst


# --- writing ---------------------------------------------------------------------------------


def default_output(variant: Variant) -> Path:
    """Where weights go that were given no name: in the working folder, called after the variant."""
    return Path(f"{variant.name}.safetensors")


def masks_path(path: Path) -> Path:
    """``ticket.safetensors`` -> ``ticket.masks.safetensors``."""
    return path.with_suffix(".masks.safetensors")


def check_output(path: Path, sources: list[Path], *, masks: bool, overwrite: bool) -> None:
    """Refuse a place that the result cannot or must not be written to, before the work.

    Args:
        path: of the result.
        sources: files that it is made from.
        masks: whether a masks file comes with it.
        overwrite: replace existing files.

    Raises:
        TecoError: another suffix than .safetensors, no such folder, a folder of that name, one of
            the sources, or a file that exists.
    """
    if path.suffix.lower() != ".safetensors":
        raise TecoError(
            f"{path} is no name for weights, expected one that ends in .safetensors",
            hint=f"-o {path.with_suffix('.safetensors')}",
            exit_code=USAGE,
        )
    if not path.resolve().parent.is_dir():
        raise TecoError(f"the folder {path.parent} does not exist", exit_code=USAGE)
    for file in (path, masks_path(path)) if masks else (path,):
        if file.is_dir():
            raise TecoError(f"{file} is a folder, expected a file", exit_code=USAGE)
        if any(file.exists() and source.exists() and file.samefile(source) for source in sources):
            raise TecoError(
                f"{file} is what the result would be made from", hint="give another -o",
                exit_code=USAGE,
            )  # fmt: skip
        if file.exists() and not overwrite:
            raise TecoError(
                f"{file} exists", hint="give another -o, or --force to replace it",
                exit_code=USAGE,
            )  # fmt: skip


def write(result: PruneResult, path: Path) -> None:
    """Write the weights, and the masks beside them first where there are any.

    Raises:
        TecoError: a file cannot be written.
    """
    from teco_models.checkpoint import build_any, save_weights
    from teco_models.compress.sparsity import save_masks

    try:
        if result.masks is not None:
            save_masks(masks_path(path), result.masks, metadata=result.weights.metadata)
        save_weights(path, build_any(result.weights), metadata=result.weights.metadata)
    except OSError as error:
        raise TecoError(f"{path} could not be written: {error.strerror or error}") from error
