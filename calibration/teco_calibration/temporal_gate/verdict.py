"""What a candidate may lose against its reference, what it lost, and the verdict on it.

Here are only numbers: :mod:`teco_calibration.temporal_gate.comparison` measures them. A verdict
holds the bounds and the numbers, and everything else about it is computed from these two; so one
that was read from a manifest cannot say anything else than its numbers do.

"Steps" are 8-bit steps, 1/255 of full range. Losses are positive where the candidate is worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from teco_calibration.errors import ClipError
from teco_calibration.metrics.drift import Drift
from teco_calibration.metrics.quality import HIGHER_IS_BETTER, UNITS, Metric
from teco_calibration.records import from_data, to_data


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is allowed. A bound that is None is measured where it can be, and not judged.

    Attributes:
        name: for people; a changed preset should change it.
        frames: recurrent frames that a sequence must have.
        max_steps: largest difference from the reference of any value, in steps.
        within_one: least share of all values that are at most one step from the reference's.
        worst_psnr: lowest PSNR of a frame against the reference in dB, over R, G and B in 8 bits.
        psnr_loss: dB of mean PSNR-Y on the truth, over the sequence and over its last quarter
            alone, where a model ends that went wrong on the way.
        lpips_loss: of mean LPIPS on the truth.
        tof_loss: pixels of mean tOF.
        flicker_loss: steps of mean flicker.
        error_drift: growth of the error against the reference, steps RMS per 100 frames: for want
            of a truth. It also grows where the reference drifts away and the candidate does not.
        loss_drift: growth of the loss of PSNR-Y on the truth, dB per 100 frames. Both kinds of
            drift count only where the slope is also surely above zero (:class:`Drift.at_least`).
        reset_excess: steps RMS that a frame after a reset may be further from the reference than
            the same frame at a cold start.
        recovery_frames: frames after a scene cut that nobody noticed (no reset) within which the
            error must have fallen back to that of a cold start, or to what it was before the cut
            if that was more.

    Raises:
        ClipError: a bound that is none.
    """

    name: str
    frames: int
    max_steps: int | None = None
    within_one: float | None = None
    worst_psnr: float | None = None
    psnr_loss: float | None = None
    lpips_loss: float | None = None
    tof_loss: float | None = None
    flicker_loss: float | None = None
    error_drift: float | None = None
    loss_drift: float | None = None
    reset_excess: float | None = None
    recovery_frames: int | None = None

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ClipError(f"a gate over {self.frames} frames, expected at least 2", exit_code=2)
        for field in fields(self)[2:]:
            value: float | None = getattr(self, field.name)
            if value is not None and not value >= 0:
                raise ClipError(f"{field.name} is {value}, expected 0 or more", exit_code=2)
        if self.within_one is not None and self.within_one > 1:
            raise ClipError(f"within_one is {self.within_one}, expected a share", exit_code=2)

    @classmethod
    def named(cls, name: str) -> Bounds:
        """The preset of this name.

        Raises:
            ClipError: there is none; exit code 2.
        """
        if name not in PRESETS:
            raise ClipError(
                f"there are no bounds called {name!r}",
                hint=f"known: {', '.join(PRESETS)}",
                exit_code=2,
            )
        return PRESETS[name]

    @property
    def needs_truth(self) -> bool:
        """Whether they can only be judged beside a ground truth."""
        return any(x is not None for x in (self.psnr_loss, self.lpips_loss, self.loss_drift))


# What all presets say of cuts. A tenth of a step RMS is one value in a hundred off by one step. 10
# frames are twice the warm-up that the reference implementation of TecoGAN in PyTorch gives a
# fresh state; by then a stale one must have been forgotten too.
_CUTS: Mapping[str, Any] = {"reset_excess": 0.1, "recovery_frames": 10}

FP32 = Bounds(name="fp32", frames=30, max_steps=1, worst_psnr=61.0, **_CUTS)
"""Rounding only. teco calls two float32 steps equal when no value differs by more than 2e-4, which
is 0.051 steps: then at most 5.1% of values fall on the other side of a rounding border, by one
step, which makes 10 log10(255^2 / 0.051) = 61.06 dB."""

FP16 = Bounds(name="fp16", frames=30, within_one=0.999, worst_psnr=50.0, **_CUTS)
"""Half precision: the acceptance of teco's fp16 export. Over 30 recurrent frames 99.9% of values
within one step of float32, and the worst frame at 50 dB. 30 frames are too few to judge drift."""

INT8 = Bounds(
    name="int8",
    frames=200,
    psnr_loss=0.3,
    lpips_loss=0.01,
    loss_drift=0.05,
    **_CUTS,
)
"""Eight-bit integers: the acceptance of teco's int8 export. At most 0.3 dB and 0.01 LPIPS lost
against float32 on the truth, and no drift over 200 frames. "No drift" in numbers is ours: over the
200 frames the loss grows by less than 0.1 dB, a third of what is allowed. The distance from the
reference is not asked for, because where it grows the candidate need not be what moves: measured
on a 3-block TecoGAN in OpenVINO's bf16 at 50x90, it rose from 2.9 to 3.9 steps RMS over 150 frames
and stayed there, while the candidate kept its 23.17 dB on the truth and the reference fell from
23.22 to 23.13."""

PRESETS: Mapping[str, Bounds] = {b.name: b for b in (FP32, FP16, INT8)}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's mean over the sequence, for the candidate and for the reference.

    Both are measured on the truth. Without one the reference takes its place, whose own value then
    is that of a perfect output.
    """

    metric: Metric
    candidate: float
    reference: float

    @property
    def loss(self) -> float:
        """Above 0 where the candidate is worse."""
        difference = self.candidate - self.reference
        return -difference if self.metric in HIGHER_IS_BETTER else difference


@dataclass(frozen=True, kw_only=True)
class CutRecovery:
    """What happens at a scene cut.

    Attributes:
        frames: that were run after each cut.
        reset_excess: steps RMS by which a frame after a reset is further from the reference than
            the same frame at a cold start; the largest, 0 where none is.
        worst_frame: the frame after the reset at which that was.
        recovery: frames until, without a reset, the error has fallen back and stays so; 0 where it
            never left. None where it does not within :attr:`frames`.
    """

    frames: int
    reset_excess: float
    worst_frame: int
    recovery: int | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured.

    Attributes:
        frames: that were compared.
        every: LPIPS and tOF were measured on every such frame.
        on_truth: whether the scores are against a ground truth, not against the reference.
        psnr: of each frame in dB, candidate against reference, over R, G and B in 8 bits; None
            where they are equal.
        max_steps: of each frame, the largest difference of any value, in steps.
        within_one: share of all values of all frames that are at most one step apart.
        psnr_y: on the truth; a frame counts as 100 dB at most, so that one that equals the truth
            can be averaged. Frames and window as in the official evaluation.
        late_loss: dB of PSNR-Y lost over the last quarter of the frames that count.
        lpips: on the truth.
        tof: in pixels.
        flicker: in steps.
        error_drift: of the RMS difference from the reference, in steps.
        loss_drift: of the loss of PSNR-Y on the truth, in dB.
        cut: what happens at scene cuts.
    """

    frames: int
    every: int
    on_truth: bool
    psnr: tuple[float | None, ...] = ()
    max_steps: tuple[int, ...] = ()
    within_one: float | None = None
    psnr_y: Score | None = None
    late_loss: float | None = None
    lpips: Score | None = None
    tof: Score | None = None
    flicker: Score | None = None
    error_drift: Drift | None = None
    loss_drift: Drift | None = None
    cut: CutRecovery | None = None

    @property
    def worst_psnr(self) -> float | None:
        """Lowest PSNR of a frame against the reference in dB; None where all are equal."""
        return min((p for p in self.psnr if p is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One bound and what became of it.

    Attributes:
        bound: the field of :class:`Bounds`; "pictures" where the candidate gave none.
        passed: whether it was kept.
        sentence: what was measured and what was allowed.
    """

    bound: str
    passed: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Is the candidate good enough?

    Attributes:
        bounds: what was allowed.
        numbers: what was measured; up to where it ended, if it was broken off.
        broken_off: why the candidate could not be measured to the end, a sentence, or None.
    """

    bounds: Bounds
    numbers: Numbers
    broken_off: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether every bound was kept."""
        return all(check.passed for check in self.checks)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every bound that is not None, in the order of :class:`Bounds`."""
        if self.broken_off is not None:
            return (Check(bound="pictures", passed=False, sentence=self.broken_off),)
        return tuple(_judge(self.bounds, self.numbers))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was not accepted, one sentence for each bound that was broken; why, if it was."""
        return tuple(c.sentence for c in self.checks if c.passed == self.accepted)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the judgement spelt out for readers that do not compute it."""
        return {"accepted": self.accepted, "reasons": list(self.reasons), **to_data(self)}

    @classmethod
    def from_dict(cls, data: object) -> Verdict:
        """Inverse of :meth:`as_dict`; ``data`` is left as it is.

        Raises:
            ValueError: fields missing, unknown or of another kind, or a judgement that does not
                follow from the numbers.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a verdict is {data!r}, expected an object")
        rest = dict(cast("Mapping[str, object]", data))
        said = {name: rest.pop(name, None) for name in ("accepted", "reasons")}
        try:
            verdict = from_data(cls, rest, "verdict")
        except ClipError as error:
            raise ValueError(error.message) from error
        for name, found in said.items():
            follows = verdict.as_dict()[name]
            if type(found) is not type(follows) or found != follows:
                raise ValueError(
                    f"verdict.{name} is {found!r}, from its numbers follows {follows!r}"
                )
        return verdict


def _judge(bounds: Bounds, numbers: Numbers) -> Iterator[Check]:
    """What became of every bound that is not None."""

    def check(bound: str, passed: bool, sentence: str) -> Check:
        return Check(bound=bound, passed=passed, sentence=sentence)

    yield check(
        "frames",
        numbers.frames >= bounds.frames,
        f"{numbers.frames} frames were compared, required {bounds.frames}",
    )
    if (most := bounds.max_steps) is not None:
        found = max(numbers.max_steps, default=0)
        where = f" (frame {numbers.max_steps.index(found)})" if found else ""
        yield check(
            "max_steps",
            found <= most,
            f"the largest difference from the reference is {found} of 255{where}, allowed {most}",
        )
    if (share := bounds.within_one) is not None:
        found = numbers.within_one
        yield check(
            "within_one",
            found is not None and found >= share,
            f"{_percent(found)} of values are within one step of 255 of the reference, required "
            f"{_percent(share)}",
        )
    if (lowest := bounds.worst_psnr) is not None:
        worst = numbers.worst_psnr
        if worst is None:
            text = "every frame equals the reference"
        else:
            n = numbers.psnr.index(worst)
            text = f"the worst frame ({n}) has {worst:.2f} dB against the reference"
        yield check(
            "worst_psnr", worst is None or worst >= lowest, f"{text}, required {lowest:g} dB"
        )
    if (most := bounds.psnr_loss) is not None:
        yield _score_check("psnr_loss", numbers.psnr_y, most, "the truth")
        late = numbers.late_loss
        yield check(
            "psnr_loss",
            late is not None and late <= most,
            f"over the last quarter {_number(late, 'dB')} of PSNR is lost on the truth, allowed "
            f"{most:g}",
        )
    target = "the truth" if numbers.on_truth else "the reference"
    for name, score in (
        ("lpips_loss", numbers.lpips),
        ("tof_loss", numbers.tof),
        ("flicker_loss", numbers.flicker),
    ):
        if (most := getattr(bounds, name)) is not None:
            yield _score_check(name, score, most, target)
    for name, drift, unit, what in (
        ("error_drift", numbers.error_drift, "steps", "the error against the reference"),
        ("loss_drift", numbers.loss_drift, "dB", "the loss on the truth"),
    ):
        if (most := getattr(bounds, name)) is None:
            continue
        if drift is None:
            yield check(name, False, f"too few frames to tell whether {what} drifts")
            continue
        sure = "" if drift.per_100 <= most or drift.at_least > 0 else ", not surely above 0"
        yield check(
            name,
            drift.per_100 <= most or drift.at_least <= 0,
            f"{what} grows by {drift.per_100:.3g} {unit} per 100 frames (at least "
            f"{drift.at_least:.3g} at 95%), allowed {most:g}{sure}",
        )
    cut = numbers.cut
    if (most := bounds.reset_excess) is not None:
        excess = None if cut is None else cut.reset_excess
        where = f" (frame {cut.worst_frame} after it)" if cut is not None and excess else ""
        yield check(
            "reset_excess",
            excess is not None and excess <= most,
            f"after a reset the error is up to {_number(excess, 'steps')} RMS above that of a "
            f"cold start{where}, allowed {most:g}",
        )
    if (most := bounds.recovery_frames) is not None:
        took = None if cut is None else cut.recovery
        within = f"falls back after {took} frames" if took is not None else "does not fall back"
        if took is None and cut is not None:
            within += f" within {cut.frames} frames"
        yield check(
            "recovery_frames",
            took is not None and took <= most,
            f"after a cut without a reset the error {within}, allowed {most}",
        )


def _score_check(bound: str, score: Score | None, most: float, target: str) -> Check:
    if score is None:
        what = bound.partition("_")[0]
        return Check(bound=bound, passed=False, sentence=f"{what} was not measured")
    name, unit = _NAMES[score.metric], UNITS[score.metric]
    return Check(
        bound=bound,
        passed=score.loss <= most,
        sentence=f"{name} on {target} is {score.candidate:.4g} beside the reference's "
        f"{score.reference:.4g}{unit and ' ' + unit}: {score.loss:.3g} lost, allowed {most:g}",
    )


_NAMES: Mapping[Metric, str] = {
    "psnr": "PSNR-Y", "ssim": "SSIM", "lpips": "LPIPS", "tof": "tOF", "tlp": "tLP",
    "flicker": "flicker",
}  # fmt: skip


def _percent(share: float | None) -> str:
    # Rounded down, so that what falls short of a round number does not look like it.
    return "an unknown share" if share is None else f"{int(share * 1e6) / 1e4:g}%"


def _number(value: float | None, unit: str) -> str:
    return f"an unknown number of {unit}" if value is None else f"{value:.3g} {unit}"
