"""Quality as a benchmark's record keeps it: every frame's value, and what follows from them.

Definitions are those of :mod:`teco_calibration.metrics.quality`; ``values`` holds one number for
each frame that counts, for metrics of pairs one for each pair. None stands for a PSNR without an
error.
"""

from __future__ import annotations

from dataclasses import dataclass

from teco_models.variant import Degradation


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """The clip of a benchmark.

    Attributes:
        name: of the file, without its folder.
        sha256: of it; "" for a folder of images.
        truth: name of the truth where that is a file of its own; "" where the clip was degraded.
        width, height: of the truth that was compared, after shrinking, fitting and cropping.
        frames: that were used.
        rate: frames a second.
        degradation: that made the LR frames of it, "bd", "bi" or "real" (Lanczos about pixel
            centres).
        shrink: by which the clip was made smaller first.
        fitted: "" or how it was resized to a static file, in a sentence.
    """

    name: str
    sha256: str
    truth: str
    width: int
    height: int
    frames: int
    rate: float
    degradation: Degradation
    shrink: float
    fitted: str = ""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How fast something gets worse, see :mod:`teco_calibration.metrics.drift`.

    Attributes:
        of: "psnr", dB lost on the truth, or "rms", 8-bit steps from the float32 reference.
        per_100: units per 100 frames; above 0 it gets worse.
        at_least: lower limit at 95%, one-sided.
        frames: the slope was fitted to.
        matched: whether only frames that show the same were compared.
    """

    of: str
    per_100: float
    at_least: float
    frames: int
    matched: bool


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Quality against frames since the state was reset
    (:mod:`teco_calibration.temporal_gate.recurrence`).

    Attributes:
        psnr: dB of the frame 0, 1, 2, ... after a reset, mean over the starts.
        settled_psnr: dB that a long running state reaches on the same frames, one for each age.
        lpips, settled_lpips: the same of LPIPS; empty where it was not measured.
        starts: frame numbers at which the state was reset.
        size: LR "HxW" that was run: the middle of the clip's frames.
        pre_roll: frames to run and drop before one is shown, so that no more than ``tolerance`` is
            missing; None where that was not reached.
        tolerance: dB.
        sentence: what it suggests, for people.
    """

    psnr: tuple[float, ...]
    settled_psnr: tuple[float, ...]
    lpips: tuple[float, ...]
    settled_lpips: tuple[float, ...]
    starts: tuple[int, ...]
    size: str
    pre_roll: int | None
    tolerance: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One method on the clip.

    Attributes:
        method: name of the model, "bicubic" or "bilinear".
        measured_on: runtime that made the frames; "" for an interpolation. Rows of the same file
            on other float32 runtimes show the same object: their frames differ by rounding, which
            ``Row.distance`` measures.
        seen: frames of the clip that were enlarged.
        first: index of the first that counts.
        frames: that count.
        window: top, left, height, width of what was compared.
        values: metric -> a value per counted frame or pair.
        means: metric -> mean over them; None where a PSNR is infinite.
        drift: None for too short a clip.
        cold_start: None for too short a clip or an interpolation.
        notes: where the official rules did not fit, in sentences.
    """

    method: str
    measured_on: str
    seen: int
    first: int
    frames: int
    window: tuple[int, ...]
    values: dict[str, tuple[float | None, ...]]
    means: dict[str, float | None]
    drift: Trend | None = None
    cold_start: ColdStart | None = None
    notes: tuple[str, ...] = ()


SAME_STEPS = 1
"""8-bit steps that frames may be from the float32 reference's to count as the same: rounding."""


@dataclass(frozen=True, kw_only=True)
class DistanceRecord:
    """From the float32 step of the same weights, over recurrent frames, each fed its own past.

    Attributes:
        reference: runtime of the float32 step.
        frames: compared.
        size: LR "HxW" at which they were.
        max_steps: largest difference of any value, in 8-bit steps.
        within_one: share of all values that are at most one step away.
        psnr: dB of each frame against the reference; None where equal.
        min_psnr: the lowest; None where all are equal.
        psnr_drop: dB of PSNR on the truth that the reference has more, mean of the clip; 0 where
            the frames are the reference's but for rounding; None where it was not measured.
        drift: of the distance; None of few frames.
    """

    reference: str
    frames: int
    size: str
    max_steps: int
    within_one: float
    psnr: tuple[float | None, ...]
    min_psnr: float | None
    psnr_drop: float | None = None
    drift: Trend | None = None

    @property
    def is_rounding(self) -> bool:
        """Whether the frames are the reference's but for rounding."""
        return self.max_steps <= SAME_STEPS
