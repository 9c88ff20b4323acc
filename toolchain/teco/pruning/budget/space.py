"""What a teacher can be pruned to, and the budget that decides among it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor, log10

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco_models.errors import ModelError
from teco_models.variant import Cost, Tail, Variant

MULTIPLES = (8, 16, 32)
"""Channel multiples that vector units want: 8 for AVX2 in float32, 16 for AVX-512, 32 for bf16
tiles and tensor cores."""

LIGHTER: dict[Tail, tuple[Tail, ...]] = {
    "transposed": ("transposed", "shuffle"),
    "shuffle": ("shuffle",),
    "egvsr": ("egvsr",),
}
"""Tails a teacher's may become. A shuffle tail in place of a transposed one starts from fresh
weights, which distillation from the teacher then trains; an EGVSR tail adds no upsampled frame, so
the rest of its network means something else and only fits itself."""


def typed(value: float) -> str:
    """A number above zero as one types it: three significant digits, rounded up, no exponent."""
    unit = 10.0 ** (floor(log10(value)) - 2)
    rounded = ceil(value / unit) * unit
    return np.format_float_positional(rounded, precision=3, fractional=False, trim="-")


def figure(value: float, decimals: int) -> str:
    """A number with so many decimals, and more where fewer than two digits would be left of it."""
    if 0 < value < 10.0 ** (1 - decimals):
        decimals = 1 - floor(log10(value))
    return f"{value:.{decimals}f}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of one step; at least one is set.

    Attributes:
        ms: milliseconds, as the runtime takes them.
        gmac: 1e9 multiply-accumulates of the convolutions, counted as the published tables count.
        mb: 1e6 bytes of activations alive at once, in float32 (:meth:`Variant.cost`).
    """

    ms: float | None = None
    gmac: float | None = None
    mb: float | None = None

    def __post_init__(self) -> None:
        limits = {"--target-ms": self.ms, "--target-gmac": self.gmac, "--target-mb": self.mb}
        if all(value is None for value in limits.values()):
            raise TecoError(
                "a budget needs a limit",
                hint="give --target-ms, --target-gmac or --target-mb",
                exit_code=USAGE,
            )
        for flag, value in limits.items():
            if value is not None and not (np.isfinite(value) and value > 0):
                raise TecoError(
                    f"{flag} is {value:g}, expected a number above zero", exit_code=USAGE
                )

    def excess(self, figures: Figures) -> float:
        """Largest ratio of a figure to its limit; the budget is met up to 1."""
        pairs = ((figures.ms, self.ms), (figures.gmac, self.gmac), (figures.mb, self.mb))
        return max(f / limit for f, limit in pairs if f is not None and limit is not None)

    def __str__(self) -> str:
        limits = ((self.ms, "ms"), (self.gmac, "GMAC"), (self.mb, "MB"))
        return ", ".join(f"{value:g} {unit}" for value, unit in limits if value is not None)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one step of a variant takes; units as in :class:`Budget`, ``ms`` None if not modelled.

    Attributes:
        ms: milliseconds.
        gmac: 1e9 multiply-accumulates.
        mb: 1e6 bytes of activations.
        params: parameters.
    """

    ms: float | None
    gmac: float
    mb: float
    params: int

    @classmethod
    def of(cls, cost: Cost, ms: float | None) -> Figures:
        return cls(
            ms=ms,
            gmac=cost.macs["total"] / 1e9,
            mb=4 * cost.activation_elements / 1e6,
            params=cost.params["total"],
        )

    def __str__(self) -> str:
        ms = "" if self.ms is None else f"{self.ms:.1f} ms, "
        return f"{ms}{figure(self.gmac, 2)} GMAC, {figure(self.mb, 0)} MB"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Every variant a teacher can be pruned to: the product of these choices, each ascending.

    Attributes:
        teacher: what is pruned; its degradation and flow norm are everyone's.
        blocks: residual blocks.
        channels: widths of SRNet.
        flows: widths of the flow net's first stage; 0 is none at all.
        tails: the teacher's first.
    """

    teacher: Variant
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    flows: tuple[int, ...]
    tails: tuple[Tail, ...]

    @classmethod
    def below(cls, teacher: Variant, *, multiple: int = 16, flowless: bool = False) -> Space:
        """Everything below ``teacher``.

        SRNet's widths are multiples of ``multiple``. The flow net's first stage takes multiples of
        half of it, because every later stage is a multiple of twice the first. The teacher's own
        widths are kept whatever they are.

        Args:
            teacher: what is pruned.
            multiple: 8, 16 or 32.
            flowless: whether to consider leaving the flow net out.
        """
        if multiple not in MULTIPLES:
            raise TecoError(
                f"--multiple is {multiple}, expected one of {', '.join(map(str, MULTIPLES))}",
                exit_code=USAGE,
            )
        flows = _widths(teacher.flow_channels, multiple // 2)
        channels = _widths(teacher.channels, multiple)
        if flowless and teacher.flow_channels and _possible(teacher, flow_channels=0):
            flows = (0, *flows)
        return cls(
            teacher=teacher,
            blocks=tuple(range(1, teacher.blocks + 1)),
            channels=tuple(c for c in channels if _possible(teacher, channels=c)),
            flows=flows,
            tails=LIGHTER[teacher.tail],
        )

    def variants(self) -> tuple[Variant, ...]:
        """All of them."""
        found: list[Variant] = []
        for b, c, f, tail in product(self.blocks, self.channels, self.flows, self.tails):
            fields = {"blocks": b, "channels": c, "flow_channels": f, "tail": tail}
            if variant := _possible(self.teacher, **fields):
                found.append(variant)
        return tuple(found)


def _widths(most: int, multiple: int) -> tuple[int, ...]:
    return (*range(multiple, most, multiple), most)


def _possible(teacher: Variant, **fields: object) -> Variant | None:
    """The teacher with these fields, None where there is no such variant."""
    try:
        return replace(teacher, **fields)  # pyright: ignore[reportArgumentType]
    except ModelError:
        return None


def undominated(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Those that no other exceeds in one respect while being its equal or more in all.

    Whatever was cut from the others besides only makes them worse, so the best is among these.
    """
    if not variants:
        return ()
    # Only a transposed tail exceeds a shuffle tail; an EGVSR tail has no rival in a space.
    sizes = np.array(
        [(v.blocks, v.channels, v.flow_channels, v.tail == "transposed") for v in variants],
        dtype=np.int64,
    )
    kept: list[Variant] = []
    for variant, own in zip(variants, sizes, strict=True):
        covered = (sizes >= own).all(axis=1) & (sizes > own).any(axis=1)
        if not covered.any():
            kept.append(variant)
    return tuple(kept)
