"""What a manifest says of a file in eight-bit integers."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

EXAMPLE = "city_hr.mp4"
"""The example clip of a checkout, which is taken where none is named."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A convolution that stayed in float because eight bits hurt it.

    Attributes:
        layer: its weight's name.
        loss: dB of PSNR on the truth that are lost with this layer alone in int8; against the
            reference (see :attr:`Int8.on_truth`) the share of the allowed error, 1 is all of it.
    """

    layer: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians of one interleaved run.

    Attributes:
        runtime: that ran both files.
        size: LR "HxW".
        samples: of each.
        fp32_ms: the float32 file.
        int8_ms: the int8 file.
    """

    runtime: str
    size: str
    samples: int
    fp32_ms: float
    int8_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast int8 is."""
        return self.fp32_ms / self.int8_ms

    @property
    def sentence(self) -> str:
        """Both numbers, and whether int8 is worth it."""
        said = f"{self.int8_ms:.1f} ms beside {self.fp32_ms:.1f} in fp32"
        if self.ratio > 1:
            return f"int8 is {self.ratio:.2f} times as fast on {self.runtime} ({said})"
        return f"int8 is not faster on {self.runtime}: {said}"


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How a file came to its integers.

    Attributes:
        clips: names of the clips that ranges were taken from; empty: moving test frames.
        range: of :data:`teco_calibration.int8_ranges.RANGES`.
        frames: that ranges were taken from.
        size: LR "HxW" of them, of the sensitivity's and of the gate's.
        on_truth: whether losses are on the truth; the moving test frames have none.
        judged_on: runtime on which the gate ran.
        kept: convolutions in float, the most sensitive first.
        timings: of the file beside the same one in float32.
    """

    clips: tuple[str, ...]
    range: str
    frames: int
    size: str
    on_truth: bool
    judged_on: str
    kept: tuple[Kept, ...] = ()
    timings: tuple[Timing, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """What says the same to ``teco export``; clips without their folders, which only their
        user knows."""
        named = () if self.clips == (EXAMPLE,) else self.clips
        clips = [f"--calibrate {shlex.quote(clip)}" for clip in named]
        return [f"--range {self.range}", *clips]

    @property
    def lines(self) -> tuple[str, ...]:
        """For people: where it was calibrated, what stayed in float and why, how fast it is."""
        where = ", ".join(self.clips) or "moving test frames"
        unit = "dB lost each" if self.on_truth else "of the allowed error each"
        stay = ", ".join(f"{x.layer} {x.loss:g}" for x in self.kept)
        return (
            f"int8: {self.range} ranges from {self.frames} frames of {where} at {self.size}",
            f"kept in float by measured sensitivity: {f'{stay} ({unit})' if stay else 'none'}",
            *(t.sentence for t in self.timings),
        )
