"""How long a step takes, from how long a few real ones took.

A step is a chain: the flow net, the warp, SRNet's head, its blocks, its tail. On a CPU one runs
after the other, so their times add up:

    t = head(channels) + flow(flow channels) + blocks * block(channels) + tail(channels)

with one curve for each kind of head (with a flow net and a warp, or without) and of tail. A
transposed tail starts higher where there is no flow net (9 to 13 ms of 44 to 186 at 180x320 in ONNX
Runtime, whatever the width), so it has two starts.

What decides each part's time is hard to compute (how a kernel fills vector registers, whether a
tensor fits the caches, what HR passes cost) and easy to measure. So each part is a curve through
widths that were measured, as whole exported networks in the runtime itself; a curve is straight in
the part's MACs between them, never falls, and never goes below zero.

The measured networks (the *anchors*) lie in a star around the smallest network, one part varied at
a time, so that few are needed: 15 for the 10-block TecoGAN, 22 if it may lose its flow net. A few
more (the *checks*) are measured with them and left out of the fit; their error is what the model is
worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import median

import numpy as np
from scipy.optimize import nnls

from teco.core.errors import TecoError
from teco.pruning.budget.space import Space
from teco_models.variant import Tail, Variant

MOST_KNOTS = 5
"""Measured widths of each curve: with AVX-512's multiples of 16, every width of a 64-channel
network is measured and nothing is interpolated."""

DEPTH = 5
"""Blocks of the deep anchors. The slope between 1 and this many is a block's time; more would
measure it better and take longer."""

TOLERANCE = 0.10
"""Relative error of an anchor or a check above which a calibration is not to be trusted."""


@dataclass(frozen=True)
class Parts:
    """MACs of a variant's parts: the flow net, what comes before SRNet's blocks, one of them, and
    what comes after."""

    flow: int
    head: int
    block: int
    tail: int


@lru_cache(maxsize=8192)
def parts(variant: Variant, h: int, w: int) -> Parts:
    """The parts of one step on an (h, w) LR frame, at the sizes that really run."""
    flow = head = block = tail = 0
    for layer in variant.layers(h, w):
        if layer.part == "fnet":
            flow += layer.macs
        elif layer.name.startswith("srnet.block"):
            block += layer.macs
        elif block:
            tail += layer.macs
        else:
            head += layer.macs
    return Parts(flow, head, block // variant.blocks, tail)


def head_kind(variant: Variant) -> str:
    """Which curve of heads is a variant's."""
    return "warp" if variant.flow_channels else "no flow net"


def tail_kind(variant: Variant) -> str:
    """Which curve of tails is a variant's. Curves of one tail differ in their starts alone."""
    apart = variant.tail == "transposed" and not variant.flow_channels
    return f"{variant.tail}, no flow net" if apart else variant.tail


@dataclass(frozen=True)
class AnchorPlan:
    """What to measure.

    Attributes:
        anchors: networks that the model is fitted to.
        checks: networks it is judged by.
    """

    anchors: tuple[Variant, ...]
    checks: tuple[Variant, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        return (*self.anchors, *self.checks)


def knots(values: Sequence[int], most: int = MOST_KNOTS) -> tuple[int, ...]:
    """Up to ``most`` of ascending values, evenly taken, both ends among them."""
    if len(values) <= most:
        return tuple(values)
    return tuple(values[round(float(p))] for p in np.linspace(0, len(values) - 1, most))


def plan(space: Space) -> AnchorPlan:
    """Anchors and checks for a space.

    Raises:
        TecoError: the space is empty.
    """
    possible = frozenset(space.variants())
    if not possible:
        raise TecoError(f"nothing can be pruned from {space.teacher.name}")
    widths = knots(space.channels)
    flows = knots([f for f in space.flows if f]) if any(space.flows) else (0,)
    # The smallest flow net there is, for its own time says nothing about the other parts.
    flow = flows[0]
    shallow, deep = space.blocks[0], min(space.blocks[-1], max(DEPTH, space.blocks[0]))
    light = space.tails[-1]

    def variant(blocks: int, channels: int, flow_channels: int, tail: Tail) -> Variant:
        return replace(
            space.teacher, blocks=blocks, channels=channels, flow_channels=flow_channels, tail=tail
        )

    wanted = [variant(shallow, c, flow, tail) for tail in space.tails for c in widths]
    if deep > shallow:
        wanted += [variant(deep, c, flow, light) for c in widths]
    wanted += [variant(shallow, widths[0], f, light) for f in flows[1:]]
    if flow and 0 in space.flows:
        # Both depths at the narrowest, where blocks are cheap and many fit: without a flow net
        # a runtime may keep another layout, and ten times a small error is a large one.
        wanted += [variant(shallow, c, 0, light) for c in widths]
        wanted += [variant(space.blocks[-1], c, 0, light) for c in widths[:2]]
        wanted += [variant(shallow, widths[0], 0, tail) for tail in space.tails]
    anchors = tuple(dict.fromkeys(v for v in wanted if v in possible))
    # Away from the star: parts that were varied one at a time are varied together.
    blocks = space.blocks[len(space.blocks) // 2]
    channels = space.channels[-1 - len(space.channels) // 3]
    wide = (space.flows[-1], space.flows[len(space.flows) // 2])
    beside = [
        variant(blocks, channels, f, tail) for tail, f in zip(space.tails, wide, strict=False)
    ]
    if flow and 0 in space.flows:
        # Wide, with the tail that only the narrowest anchor without a flow net has.
        beside.append(variant(blocks, channels, 0, space.tails[0]))
    checks = tuple(v for v in dict.fromkeys(beside) if v in possible and v not in anchors)
    return AnchorPlan(anchors, checks)


@dataclass(frozen=True)
class CostCurve:
    """A part's time, straight between measured MACs and never falling.

    Attributes:
        at: MACs of the measured widths, ascending.
        start: milliseconds at the first of them.
        rises: milliseconds from each to the next, none negative.
    """

    at: tuple[int, ...]
    start: float
    rises: tuple[float, ...]

    def __call__(self, macs: int) -> float:
        return float(self.start + np.dot(_ramps(self.at, macs), self.rises))


def _ramps(at: tuple[int, ...], macs: int) -> list[float]:
    """How much of each rise lies below ``macs``: 0 to 1, the last one going on straight."""
    values = [(macs - a) / (b - a) for a, b in pairwise(at)]
    last = len(values) - 1
    return [max(0.0, v if i == last else min(1.0, v)) for i, v in enumerate(values)]


@dataclass(frozen=True)
class CostModel:
    """Milliseconds of a step at one size, on one runtime and machine.

    Attributes:
        size: (h, w) of the LR frame.
        heads: per kind, see :func:`head_kind`; fixed costs and the smallest flow net included.
        tails: per kind, see :func:`tail_kind`.
        block: one block.
        flow: what a flow net adds to the smallest one.
        errors: measured variant -> relative error of the prediction; the checks are ``checked``.
        checked: names of those that the fit did not see.
    """

    size: tuple[int, int]
    heads: Mapping[str, CostCurve]
    tails: Mapping[str, CostCurve]
    block: CostCurve
    flow: CostCurve
    errors: Mapping[str, float]
    checked: tuple[str, ...]

    def __call__(self, variant: Variant) -> float:
        """Predicted milliseconds of a variant of the space it was fitted for.

        Raises:
            TecoError: nothing of its kind was measured.
        """
        kind, tail = head_kind(variant), tail_kind(variant)
        if tail not in self.tails or kind not in self.heads:
            raise TecoError(
                f"the time of {variant.name} is not known: the cost model was measured for the "
                f"tails {'; '.join(self.tails)} and the heads {'; '.join(self.heads)}"
            )
        p = parts(variant, *self.size)
        return (
            self.heads[kind](p.head)
            + (self.flow(p.flow) if p.flow else 0.0)
            + variant.blocks * self.block(p.block)
            + self.tails[tail](p.tail)
        )

    @property
    def worst(self) -> float:
        """Largest relative error of a measured variant."""
        return max((abs(e) for e in self.errors.values()), default=0.0)


def middle(samples: Sequence[float]) -> float:
    """The median; NaN where there are no samples, or one is no time. A clock that failed once
    cannot be trusted for the others."""
    if not len(samples) or not all(0 < s < float("inf") for s in samples):
        return float("nan")
    return float(median(samples))


def check_time(variant: Variant, ms: float) -> float:
    """``ms``, or a TecoError where no step can have taken that."""
    if not 0 < ms < float("inf"):
        raise TecoError(
            f"{variant.name} was timed at {ms:g} ms, which no step takes",
            hint="run it again; if it stays so, this machine's clock cannot be relied on",
        )
    return ms


def fit(measured: Mapping[Variant, float], chosen: AnchorPlan, size: tuple[int, int]) -> CostModel:
    """The model that fits measured times.

    Relative errors are minimised, by non-negative least squares.

    Args:
        measured: milliseconds of each variant of ``chosen``.
        chosen: what was measured.
        size: (h, w).

    Raises:
        TecoError: a time is missing, not finite or not above zero.
    """
    for variant in chosen.variants:
        check_time(variant, measured.get(variant, float("nan")))
    p = {v: parts(v, *size) for v in chosen.anchors}
    heads = {
        kind: _ascending(x.head for v, x in p.items() if head_kind(v) == kind)
        for kind in dict.fromkeys(head_kind(v) for v in p)
    }
    tails = {
        tail: _ascending(x.tail for v, x in p.items() if v.tail == tail)
        for tail in dict.fromkeys(v.tail for v in p)
    }
    kinds = {tail_kind(v): v.tail for v in p}
    at_block = _ascending(x.block for x in p.values())
    at_flow = _ascending(x.flow for x in p.values() if x.flow) or (0,)

    def row(variant: Variant) -> list[float]:
        x = p[variant]
        values: list[float] = []
        for kind, at in heads.items():
            own = float(head_kind(variant) == kind)
            values += [own * v for v in (1.0, *_ramps(at, x.head))]
        values += [float(tail_kind(variant) == kind) for kind in kinds]
        for tail, at in tails.items():
            own = float(variant.tail == tail)
            values += [own * v for v in _ramps(at, x.tail)]
        values += [variant.blocks * v for v in (1.0, *_ramps(at_block, x.block))]
        return values + _ramps(at_flow, x.flow)

    # Times, and so errors, relative to what was measured. Head and tail grow together, so how they
    # share their sum is not determined; the sum is, and no more is asked of them.
    times = np.array([measured[v] for v in chosen.anchors])
    matrix = np.array([row(v) for v in chosen.anchors]) / times[:, None]
    found = iter(nnls(matrix, np.ones(len(times)))[0].tolist())

    def take(at: tuple[int, ...], start: float | None = None) -> CostCurve:
        first = next(found) if start is None else start
        return CostCurve(at, first, tuple(next(found) for _ in at[1:]))

    found_heads = {kind: take(at) for kind, at in heads.items()}
    starts = {kind: next(found) for kind in kinds}
    rises = {tail: take(at, 0.0) for tail, at in tails.items()}
    model = CostModel(
        size=size,
        heads=found_heads,
        tails={kind: replace(rises[tail], start=starts[kind]) for kind, tail in kinds.items()},
        block=take(at_block),
        flow=take(at_flow, 0.0),
        errors={},
        checked=tuple(v.name for v in chosen.checks),
    )
    errors = {v.name: model(v) / measured[v] - 1 for v in chosen.variants}
    return replace(model, errors=errors)


def _ascending(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
