"""Structured pruning: weights -> smaller weights of the same family.

Blocks or channels go for good, and what is left is an ordinary, smaller variant. It computes
exactly what the large network computes with the same blocks and channels silenced
(:func:`silence`); a test and ``teco prune`` prove that on recurrent frames.

Which tensors a channel lives in is a table, :func:`groups_of`: one group for each width of the
network that can be cut by itself, with every (key, axis) that the group's channels index. Channels
that must go together are one group: SRNet's residual sums tie the output of the input convolution,
of every block, the input of the tail and, without a flow net, the latent state that the next step
reads; each block's inside is a group of its own. Never cut are the channels of frames and pictures
at the input (3 + 48, and 3 of the previous frame without a flow net), the 48 that a shuffle makes
pixels of, the 3 of a picture and the 2 of a flow.

Shape legend: C ``variant.channels``, F ``variant.flow_channels``; a unit is one channel, or the 16
channels that EGVSR's shuffle makes one of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from teco_models.checkpoint import Weights
from teco_models.compress.sharing import SHARED, parse_pattern, subset
from teco_models.errors import ModelError
from teco_models.variant import SCALE, Variant

Criterion = Literal["l1", "l2"]

COST_SIZE = (180, 320)
"""(h, w) of the LR frame at which a report counts MACs, as the field's tables do."""

MULTIPLE = 8
"""Widths that CPUs and GPUs fill: AVX2 holds 8 floats, AVX-512 and tensor cores 16 or more."""

BLOCK_KEY = re.compile(r"(srnet\.resblocks\.|body\.)(\d+)(\..+)")
"""A tensor of a residual block, of either generator."""


def last_of_block(variant: Variant) -> str:
    """The layer that ends a residual block, with {} for the block's number."""
    return "body.{}.second" if variant.computed_alignment else "srnet.resblocks.{}.conv.2"


# --- the table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """Where a group's units lie in one tensor: units * run indices of an axis, from start.

    Attributes:
        key: name of the tensor.
        axis: which axis.
        writes: True where the tensor makes the channels (filters, biases), False where it reads
            them.
        run: neighbouring indices that make one unit.
        start: index of the first unit.
    """

    key: str
    axis: int
    writes: bool
    run: int = 1
    start: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that can only go together.

    Attributes:
        name: the layer that makes them, as in the state dict; ``srnet.stream`` for the residual
            sums.
        units: how many there are.
        slots: every place that indexes them.
    """

    name: str
    units: int
    slots: tuple[Slot, ...]


def groups_of(variant: Variant) -> tuple[Group, ...]:
    """All groups of a variant. The same names in a narrower one, with fewer units."""
    if variant.computed_alignment:
        return tuple(_computed_groups(variant))
    return (*_fnet_groups(variant), *_srnet_groups(variant))


def _filters(layer: str, *, transposed: bool = False, run: int = 1) -> tuple[Slot, Slot]:
    """The slots of a convolution's outputs. Transposed convolutions hold (in, out, k, k)."""
    return (
        Slot(f"{layer}.weight", 1 if transposed else 0, writes=True, run=run),
        Slot(f"{layer}.bias", 0, writes=True, run=run),
    )


def _inputs(layer: str, *, transposed: bool = False, run: int = 1, start: int = 0) -> Slot:
    """The slot of a convolution's inputs."""
    return Slot(f"{layer}.weight", 0 if transposed else 1, writes=False, run=run, start=start)


def _fnet_groups(variant: Variant) -> Iterator[Group]:
    """A plain chain: each layer's channels are read by the next layer alone."""
    f = variant.flow_channels
    if not variant.has_flow:
        return
    widths = [
        (f"fnet.{stage}.{i}", factor * f)
        for stage, factor in (
            ("encoder1", 1),
            ("encoder2", 2),
            ("encoder3", 4),
            ("decoder1", 8),
            ("decoder2", 4),
            ("decoder3", 2),
        )
        for i in (0, 2)
    ]
    widths.append(("fnet.flow.0", f))
    readers = [name for name, _ in widths[1:]] + ["fnet.flow.2"]
    for (name, units), reader in zip(widths, readers, strict=True):
        yield Group(name, units, (*_filters(name), _inputs(reader)))


def _srnet_groups(variant: Variant) -> Iterator[Group]:
    c = variant.channels
    # EGVSR's shuffle makes one HR channel of 16 neighbours, and they go or stay together.
    run = SCALE * SCALE if variant.tail == "egvsr" else 1
    stream: list[Slot] = [*_filters("srnet.conv_in.0", run=run)]
    if not variant.has_flow:
        # The latent state is the stream's end, rectified; it is read after all pictures.
        stream.append(_inputs("srnet.conv_in.0", run=run, start=variant.input_channels - c))
    for i in range(variant.blocks):
        block = f"srnet.resblocks.{i}.conv"
        stream += [_inputs(f"{block}.0", run=run), *_filters(f"{block}.2", run=run)]
        yield Group(f"{block}.0", c, (*_filters(f"{block}.0"), _inputs(f"{block}.2")))
    if variant.tail == "transposed":
        first, second = "srnet.conv_up.0", "srnet.conv_up.2"
        stream.append(_inputs(first, transposed=True))
        yield Group(first, c, (*_filters(first, transposed=True), _inputs(second, transposed=True)))
        yield Group(second, c, (*_filters(second, transposed=True), _inputs("srnet.conv_out")))
    elif variant.tail == "shuffle":
        stream.append(_inputs("srnet.conv_shuffle"))
    else:
        stream.append(_inputs("srnet.conv_out"))
    if variant.back_projection:
        stream.append(_inputs("srnet.back.mask", run=run))
    yield Group("srnet.stream", c // run, tuple(stream))


def _computed_groups(variant: Variant) -> Iterator[Group]:
    """Of computed alignment; what is handed from step to step stays whole."""
    c, half = variant.channels, variant.half_channels
    body: list[Slot] = []
    for i in range(variant.blocks):
        first, second = f"body.{i}.first", f"body.{i}.second"
        body += [_inputs(first), *_filters(second)]
        yield Group(first, half or c, (*_filters(first), _inputs(second)))
    stream = [*_filters("head"), _inputs("tail")]
    if half:
        yield Group("body.stream", half, (*_filters("down"), *body, _inputs("up")))
        # What comes up is shuffled, four channels to one.
        yield Group("head", c, (*stream, _inputs("down"), *_filters("up", run=4)))
    else:
        yield Group("body.stream", c, (*stream, *body))


# --- what went -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemovedBlock:
    """A block that went.

    Attributes:
        index: in the network it was taken from.
        sensitivity: loss of the network without it and those removed before it, in the measure's
            unit (dB of PSNR-Y lost, for ``teco prune``); None where nothing was measured.
    """

    index: int
    sensitivity: float | None = None


@dataclass(frozen=True)
class GroupCut:
    """What was kept of a group's channels.

    Attributes:
        name: of the group, numbered as in the network before its channels were cut.
        before: channels.
        after: channels.
        kept: share of the group's importance that stayed, 0 to 1.
    """

    name: str
    before: int
    after: int
    kept: float


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What structured pruning took, and what it saves.

    Attributes:
        before, after: the variants.
        blocks: that went, in the order of removal.
        channels: of every group that was cut.
        criterion: by which channels were ranked; None where none were.
        notes: one sentence each.
    """

    before: Variant
    after: Variant
    blocks: tuple[RemovedBlock, ...] = ()
    channels: tuple[GroupCut, ...] = ()
    criterion: Criterion | None = None
    notes: tuple[str, ...] = ()

    def then(self, later: PruneReport) -> PruneReport:
        """Both steps as one.

        Raises:
            ModelError: the later one does not begin where this one ends, or both cut blocks, whose
                numbers would not mean the same.
        """
        if self.after != later.before or (self.blocks and later.blocks):
            raise ModelError(
                f"a report that begins with {later.before.name} does not continue one that ends "
                f"with {self.after.name}, or both removed blocks"
            )
        return PruneReport(
            before=self.before,
            after=later.after,
            blocks=self.blocks + later.blocks,
            channels=self.channels + later.channels,
            criterion=later.criterion or self.criterion,
            notes=self.notes + later.notes,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; MACs at :data:`COST_SIZE`."""
        return {
            "before": _cost(self.before),
            "after": _cost(self.after),
            "size": f"{COST_SIZE[0]}x{COST_SIZE[1]}",
            "blocks": [{"index": b.index, "damage": b.sensitivity} for b in self.blocks],
            "criterion": self.criterion,
            "channels": [
                {"group": g.name, "before": g.before, "after": g.after, "kept": g.kept}
                for g in self.channels
            ],
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """For people, several lines; block sensitivity is taken to be in dB."""
        lines = [f"{self.before.name} -> {self.after.name}"]
        if self.blocks:
            gone = ", ".join(
                f"{b.index}" + ("" if b.sensitivity is None else f" ({b.sensitivity:+.3f} dB)")
                for b in self.blocks
            )
            measured = any(b.sensitivity is not None for b in self.blocks)
            meaning = "; in brackets what is lost in all once it has gone too" if measured else ""
            lines.append(f"blocks removed, in this order: {gone}{meaning}")
        if self.channels:
            width = max(len(g.name) for g in self.channels)
            lines.append(f"channels kept, and the share of the group's {self.criterion} importance")
            lines += [
                f"  {g.name:{width}}  {g.before:>4} -> {g.after:<4} {g.kept:6.1%}"
                for g in self.channels
            ]
        before, after = _cost(self.before), _cost(self.after)
        size = f"{COST_SIZE[0]}x{COST_SIZE[1]}"
        for label, key, scale, digits in (
            ("parameters", "params", 1, 0),
            (f"GMAC at {size}", "macs", 1e9, 2),
        ):
            old, new = before[key]["total"], after[key]["total"]
            lines.append(
                f"{label}: {old / scale:,.{digits}f} -> {new / scale:,.{digits}f} ({new / old:.1%})"
            )
        return "\n".join(lines)


def _cost(variant: Variant) -> dict[str, Any]:
    cost = variant.cost(*COST_SIZE)
    return {"variant": variant.name, "params": cost.params, "macs": cost.macs}


class Pruned(NamedTuple):
    """A smaller network, how it came about, and the cut that made it."""

    weights: Weights
    report: PruneReport
    cut: ChannelCut


# --- cutting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelCut:
    """What of a network stays.

    Attributes:
        variant: what is left.
        blocks: indices of the blocks that stay, ascending.
        units: group name -> indices of the units that stay, ascending; a group that is not named
            stays whole.
    """

    variant: Variant
    blocks: tuple[int, ...]
    units: Mapping[str, tuple[int, ...]]


def apply_cut(weights: Weights, cut: ChannelCut) -> Weights:
    """The network without what the cut leaves out; new tensors, which share no memory.

    The parent's metadata is dropped, because it described the parent; only the tying of blocks
    (:mod:`teco_models.compress.sharing`) is carried on.
    """
    dropped: dict[str, dict[int, set[int]]] = {}
    for slot, gone in _gone(weights.variant, cut):
        dropped.setdefault(slot.key, {}).setdefault(slot.axis, set()).update(gone)
    tensors: dict[str, Tensor] = {}
    for key, whole in weights.tensors.items():
        name, value = key, whole
        if match := BLOCK_KEY.fullmatch(key):
            if int(match[2]) not in cut.blocks:
                continue
            name = f"{match[1]}{cut.blocks.index(int(match[2]))}{match[3]}"
        for axis, gone in dropped.get(key, {}).items():
            kept = [i for i in range(value.shape[axis]) if i not in gone]
            value = value.index_select(axis, torch.tensor(kept))
        tensors[name] = value.clone()
    pattern = parse_pattern(weights)
    metadata = {} if pattern is None else {SHARED: subset(pattern, cut.blocks)}
    return Weights(cut.variant, tensors, weights.notes, metadata)


def silence(weights: Weights, cut: ChannelCut) -> Weights:
    """The whole network with what the cut leaves out made zero: what a cut must be equal to.

    Only what *makes* a channel is zeroed, filters and biases, and the last convolution of a block;
    what reads it meets zeros. (All activations of the family map zero to zero.)
    """
    tensors = {key: value.clone() for key, value in weights.tensors.items()}
    for slot, gone in _gone(weights.variant, cut):
        if slot.writes:
            tensors[slot.key].index_fill_(slot.axis, torch.tensor(sorted(gone)), 0.0)
    last = last_of_block(weights.variant)
    for i in set(range(weights.variant.blocks)) - set(cut.blocks):
        for part in ("weight", "bias"):
            tensors[f"{last.format(i)}.{part}"].zero_()
    return replace(weights, tensors=tensors)


def _gone(variant: Variant, cut: ChannelCut) -> Iterator[tuple[Slot, set[int]]]:
    """Every slot that loses something, with the indices it loses."""
    for group in groups_of(variant):
        units = cut.units.get(group.name)
        if units is None:
            continue
        lost = set(range(group.units)) - set(units)
        for slot in group.slots:
            yield slot, {slot.start + u * slot.run + i for u in lost for i in range(slot.run)}


# --- blocks ----------------------------------------------------------------------------------


def first_blocks(variant: Variant, count: int) -> tuple[int, ...]:
    """The paper's plain order: the first ``count`` blocks stay, the last ones go.

    Raises:
        ModelError: ``count`` is below 1 or more than there are.
    """
    _check_count("blocks", count, variant.blocks)
    return tuple(range(count))


def prune_blocks(
    weights: Weights, keep: Sequence[int], *, removed: Sequence[RemovedBlock] = ()
) -> Pruned:
    """Leave out residual blocks. The others keep their order, and get new numbers from 0.

    Args:
        weights: the network.
        keep: indices of the blocks that stay, in any order.
        removed: those that go, in the order and with the loss that :func:`rank_blocks` found, for
            the report; without it they are reported from the last to the first.

    Raises:
        ModelError: nothing would be left, an index is no block's or comes twice, or ``removed``
            is not the rest.
    """
    blocks = weights.variant.blocks
    _check_count("blocks", len(keep), blocks)
    if bad := sorted({i for i in keep if not 0 <= i < blocks}):
        raise ModelError(
            f"{weights.variant.name} has no block {bad[0]}; its blocks are 0 to {blocks - 1}",
            exit_code=2,
        )
    if len(set(keep)) != len(keep):
        raise ModelError(f"blocks to keep are named twice: {sorted(keep)}", exit_code=2)
    kept = tuple(sorted(keep))
    gone = sorted(set(range(blocks)) - set(kept), reverse=True)
    removed = tuple(removed) or tuple(RemovedBlock(i) for i in gone)
    if sorted((b.index for b in removed), reverse=True) != gone:
        raise ModelError(
            f"blocks {[b.index for b in removed]} were to be removed, but keeping {list(kept)} "
            f"removes {gone}"
        )
    cut = ChannelCut(replace(weights.variant, blocks=len(kept)), kept, {})
    report = PruneReport(before=weights.variant, after=cut.variant, blocks=removed)
    return Pruned(apply_cut(weights, cut), report, cut)


def rank_blocks(
    weights: Weights,
    count: int,
    sensitivity: Callable[[Weights], float],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[int, ...], tuple[RemovedBlock, ...]]:
    """Find the ``count`` blocks to keep: the least harmful one goes, again and again.

    Greedy: after each removal every block left is measured anew, because what a block is worth
    depends on which others are there.

    Args:
        weights: the network.
        count: blocks to keep.
        sensitivity: what a candidate network has lost, higher is worse; called
            ``blocks + (blocks - 1) + ... + (count + 1)`` times.
        report: told how many measurements are done, of how many.

    Returns:
        The blocks to keep, ascending, and those to remove, in this order with their sensitivity.

    Raises:
        ModelError: ``count`` is below 1 or more than there are, or a sensitivity is NaN.
    """
    blocks = weights.variant.blocks
    _check_count("blocks", count, blocks)
    total = sum(range(count + 1, blocks + 1))
    left, removed, done = list(range(blocks)), list[RemovedBlock](), 0
    while len(left) > count:
        measured: list[tuple[float, int]] = []
        for i in left:
            loss = sensitivity(prune_blocks(weights, [j for j in left if j != i]).weights)
            if loss != loss:
                raise ModelError(f"the sensitivity without block {i} is NaN")
            # Of equals the last one goes, as in the plain order.
            measured.append((loss, -i))
            done += 1
            report(done, total)
        loss, least = min(measured)
        left.remove(-least)
        removed.append(RemovedBlock(-least, loss))
    return tuple(left), tuple(removed)


# --- channels --------------------------------------------------------------------------------


def importance(weights: Weights, group: Group, criterion: Criterion = "l2") -> Tensor:
    """How much each unit of a group matters: (units,), at least 0.

    The norm of everything that makes the unit (filters and biases, over all layers of the group)
    times the norm of everything that reads it. Li et al. 2017 ("Pruning filters for efficient
    ConvNets") rank by the L1 norm of the filters; norms over all layers of a group are DepGraph's
    (Fang et al. 2023). The product is ours: scaling a unit up and its readers down by the same
    factor does not change the network (ReLU lets positive factors through), so it must not change
    the rank either.
    """
    order = {"l1": 1, "l2": 2}[criterion]
    sums = {True: torch.zeros(group.units), False: torch.zeros(group.units)}
    for slot in group.slots:
        value = weights.tensors[slot.key].narrow(slot.axis, slot.start, group.units * slot.run)
        # (units * run, ...) -> (units, everything of the unit)
        rows = value.movedim(slot.axis, 0).reshape(group.units, -1)
        sums[slot.writes] += rows.abs().pow(order).sum(dim=1)
    return (sums[True] * sums[False]).pow(1 / order)


def prune_channels(
    weights: Weights,
    *,
    channels: int | None = None,
    flow_channels: int | None = None,
    criterion: Criterion = "l2",
) -> Pruned:
    """Make SRNet, FNet or both narrower: in every group the least important units go.

    Args:
        weights: the network.
        channels: new width of SRNet, None leaves it.
        flow_channels: new width of FNet's first stage, None leaves it; the others stay multiples
            of it.
        criterion: norm of :func:`importance`.

    Raises:
        ModelError: a width is below 1 or more than there is, the network has no flow net to make
            narrower, the egvsr tail is given a width that is no multiple of 16, or the criterion is
            unknown.
    """
    variant = weights.variant
    if criterion not in get_args(Criterion):
        raise ModelError(
            f"criterion must be one of {', '.join(get_args(Criterion))}, got {criterion!r}",
            exit_code=2,
        )
    notes: list[str] = []
    target = variant
    if channels is not None:
        _check_count("channels", channels, variant.channels)
        if variant.tail == "egvsr" and channels % (SCALE * SCALE):
            below = channels // SCALE**2 * SCALE**2
            raise ModelError(
                f"the egvsr tail shuffles {SCALE**2} channels into one, so channels must be a "
                f"multiple of {SCALE**2}, got {channels}",
                hint=f"use {below or SCALE**2}",
                exit_code=2,
            )
        target = replace(target, channels=channels)
        notes += _odd_width("channels", channels)
    if flow_channels is not None:
        _check_count("flow_channels", flow_channels, variant.flow_channels)
        target = replace(target, flow_channels=flow_channels)
        notes += _odd_width("flow_channels", flow_channels)
    units = {group.name: group.units for group in groups_of(target)}
    keep: dict[str, tuple[int, ...]] = {}
    cuts: list[GroupCut] = []
    for group in groups_of(variant):
        count = units[group.name]
        if count == group.units:
            continue
        value = importance(weights, group, criterion)
        # Stable, so that equal blocks (tied ones) lose the same channels.
        order = torch.argsort(value, descending=True, stable=True)[:count].sort().values
        keep[group.name] = tuple(int(i) for i in order)
        total = float(value.sum())
        run = group.slots[0].run
        kept = float(value[order].sum()) / total if total else 1.0
        cuts.append(GroupCut(group.name, group.units * run, count * run, kept))
    cut = ChannelCut(target, tuple(range(variant.blocks)), keep)
    report = PruneReport(
        before=variant,
        after=target,
        channels=tuple(cuts),
        criterion=criterion if cuts else None,
        notes=tuple(notes),
    )
    return Pruned(apply_cut(weights, cut), report, cut)


def _odd_width(what: str, width: int) -> list[str]:
    if width % MULTIPLE == 0:
        return []
    near = max(MULTIPLE, width // MULTIPLE * MULTIPLE)
    return [
        f"{what} {width} is no multiple of {MULTIPLE}; vector units are filled by whole "
        f"{MULTIPLE}s, so {near} or {near + MULTIPLE} may be as fast"
    ]


def _check_count(what: str, count: int, available: int) -> None:
    """Refuse nothing, and more than there is."""
    if available < 1:
        raise ModelError(f"this network has no {what} to prune", exit_code=2)
    if count < 1:
        raise ModelError(
            f"{what} {count} would leave nothing; expected 1 to {available}", exit_code=2
        )
    if count > available:
        raise ModelError(
            f"{what} {count} is more than there is ({available})",
            hint="pruning only takes away; give a smaller number",
            exit_code=2,
        )
