"""Is a candidate as good as its float32 reference over a sequence? One verdict with its numbers.

A recurrent network takes its own output back in, so what a precision, a pruning or an engine
changes shows not in one frame but in how differences live on. The gate runs candidate and
reference side by side, each with its own state:

1. the sequence from a cold start, where everything is measured that :class:`Numbers` lists;
2. a scene cut that nobody notices: both go on into another scene, and the error must fall back to
   what it is for that scene at a cold start, or was before the cut if that was more;
3. a scene cut that is noticed: both are reset and see the sequence's first frames again, which must
   come out as well as the first time, or something has survived the reset.

The other scene is the sequence's own first frames upside down (turned by 180 degrees), which needs
no second clip and is as natural as the first.

LR pictures are uint8 (h, w, 3) RGB, full range; outputs (H, W, 3), H and W multiples of h and w.
Memory does not grow with the length of the sequence but by a few numbers a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice, repeat
from statistics import fmean, median
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError
from teco_calibration.metrics.distance import Counts, Distances, mean_square, step_counts
from teco_calibration.metrics.drift import measure_drift
from teco_calibration.metrics.quality import Lpips, Metric, SequenceQuality, SequenceResult, tof
from teco_calibration.temporal_gate.verdict import Bounds, CutRecovery, Numbers, Score, Verdict

Pixels = npt.NDArray[np.uint8]
_Item = TypeVar("_Item")

EVERY = 10
"""LPIPS and tOF are measured on every tenth frame: they take most of the time."""

STAYS = 4
"""Frames for which an error that has fallen back after a cut must stay there."""

PSNR_CAP = 100.0
"""dB that a frame counts at most on the truth; rounding to 8 bits alone leaves 58.9 dB."""

_CUT_FRAMES = 14
"""Frames run after a cut where no bound says how many."""


class GateStepper(Protocol):
    """What the gate drives: a recurrent upscaler with its state inside."""

    def reset(self) -> None:
        """Start a new scene with the next frame."""
        ...

    def step(self, lr: Pixels) -> npt.NDArray[Any]:
        """The next frame, enlarged.

        Args:
            lr: uint8 (h, w, 3) RGB, not to be changed.

        Returns:
            (H, W, 3) RGB: uint8, or float32 in [0, 1], which is rounded to nearest and clipped.
            The caller's to keep.

        Raises:
            FloatingPointError: it gave NaN or infinite values.
        """
        ...


def endless(frames: Sequence[_Item], count: int) -> Iterator[_Item]:
    """A sequence of any length without cuts out of a short clip: played to and fro.

    f0 f1 ... f8 f9 f8 ... f1 f0 f1 ...: neighbours are always neighbours of the clip, and no frame
    is shown twice in a row. A clip of n frames repeats every 2 (n - 1), so a truth of the same
    length goes along. A single frame stands still.

    Args:
        frames: the clip.
        count: how many to give; may be less than the clip has.

    Raises:
        ClipError: no frames, or a count below 0; exit code 2.
    """
    if len(frames) == 0 or count < 0:
        raise ClipError(f"{count} frames were asked of a clip of {len(frames)}", exit_code=2)
    last = len(frames) - 1
    period = max(1, 2 * last)
    return (frames[last - abs(n % period - last)] for n in range(count))


def compare(
    candidate: GateStepper,
    reference: GateStepper,
    frames: Iterable[Pixels],
    *,
    bounds: Bounds,
    truth: Iterable[Pixels] | None = None,
    lpips: Lpips | None = None,
    every: int = EVERY,
    report: Callable[[int], None] = lambda done: None,
) -> Verdict:
    """Run both over a sequence and judge the candidate.

    What is wrong with the candidate (NaN or infinite values, pictures of another size) is a
    verdict; what is wrong with the question is an error.

    Args:
        candidate: reset before use.
        reference: likewise; trusted.
        frames: one scene, at least ``bounds.frames`` long; see :func:`endless`. To judge drift
            fairly it should repeat itself at least twice (:mod:`teco_calibration.metrics.drift`).
        bounds: what is allowed.
        truth: (H, W, 3) of every frame, for PSNR-Y, LPIPS, and tOF and flicker on the truth.
        lpips: to measure LPIPS, which needs a truth.
        every: measure LPIPS and tOF on every such frame only, 1 to ``bounds.frames``; tOF between
            it and the one before. The very first frame makes no pair.
        report: told how many frames of the sequence are done.

    Raises:
        ClipError: the bounds need a truth or LPIPS that was not given, the sequence is too short
            or changes size, the truth does not fit, or the reference gave no pictures.
    """
    _check_question(bounds, truth, lpips, every)
    source = iter(frames)
    tail, needed = _CUT_FRAMES, bounds.frames
    if bounds.recovery_frames is not None:
        tail = bounds.recovery_frames + STAYS
        needed = max(needed, tail)
    scene = list(islice(source, tail))
    if len(scene) < min(tail, needed):
        raise _too_short(len(scene), needed, bounds)
    other = [np.ascontiguousarray(lr[::-1, ::-1]) for lr in scene]
    both = _Both(candidate, reference)
    measured = _Sequence(every, truth is not None, lpips)
    cut: CutRecovery | None = None
    broken_off = None
    try:
        both.reset()
        pictures: Iterator[Pixels | None] = chain(iter(truth or ()), repeat(None))
        for n, lr in enumerate(chain(scene, source)):
            measured.add(lr, both.step(lr, f"at frame {n}"), next(pictures))
            report(n + 1)
        if truth is not None and next(pictures) is not None:
            raise ClipError(f"the truth goes on after the {measured.frames} frames", exit_code=2)
        if measured.frames < needed:
            raise _too_short(measured.frames, needed, bounds)
        through = both.errors(other, "after a cut without a reset")
        both.reset()
        again = both.errors(scene, "after a reset")
        both.reset()
        usual = both.errors(other, "after a second reset")
        before = median(measured.distances.rms[-tail:])
        usual = [max(before, error) for error in usual]
        cut = _cut(
            first=measured.distances.rms[: len(scene)], again=again, usual=usual, through=through
        )
    except _NotFinite as error:
        broken_off = str(error)
    return Verdict(bounds=bounds, numbers=measured.numbers(cut), broken_off=broken_off)


def _too_short(frames: int, needed: int, bounds: Bounds) -> ClipError:
    return ClipError(
        f"the sequence has {frames} frames, the bounds {bounds.name} need {needed}",
        hint="make it longer: teco_calibration.temporal_gate.comparison.endless",
        exit_code=2,
    )


def _check_question(
    bounds: Bounds, truth: Iterable[Pixels] | None, lpips: Lpips | None, every: int
) -> None:
    if not 1 <= every <= bounds.frames:
        raise ClipError(
            f"every is {every}, expected 1 to {bounds.frames}, the frames of the bounds",
            exit_code=2,
        )
    if truth is None and bounds.needs_truth:
        raise ClipError(
            f"the bounds {bounds.name} are for a clip with a ground truth, and none was given",
            hint="give the clip at full size, or bounds without losses on the truth",
            exit_code=2,
        )
    if lpips is None and bounds.lpips_loss is not None:
        raise ClipError(
            f"the bounds {bounds.name} limit LPIPS, and it was not to be measured",
            hint=Lpips.why_unavailable() or "pass lpips=Lpips(), or set lpips_loss=None",
            exit_code=3,
        )


# --- driving both ----------------------------------------------------------------------------


class _NotFinite(Exception):
    """The candidate gave something that is no picture; a sentence."""


class _Pair(NamedTuple):
    """What both gave for one frame, uint8 (H, W, 3), and how far apart it is.

    ``counts[d]``: values that are d steps apart.
    """

    candidate: Pixels
    reference: Pixels
    counts: Counts


class _Both:
    """Candidate and reference in lockstep."""

    def __init__(self, candidate: GateStepper, reference: GateStepper) -> None:
        self._candidate = candidate
        self._reference = reference
        self._shape: tuple[int, ...] = ()

    def reset(self) -> None:
        self._candidate.reset()
        self._reference.reset()

    def step(self, lr: Pixels, where: str) -> _Pair:
        if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3 or 0 in lr.shape:
            raise ClipError(f"{where} the sequence has {lr.dtype} {lr.shape}, not a picture")
        self._shape = self._shape or lr.shape
        if lr.shape != self._shape:
            raise ClipError(f"{where} the sequence changes from {self._shape} to {lr.shape}")
        try:
            expected = _picture(self._reference, lr)
        except _NotFinite as error:
            raise ClipError(f"the reference gave {error} {where}: it is no reference") from error
        try:
            found = _picture(self._candidate, lr)
        except _NotFinite as error:
            raise _NotFinite(f"the candidate gave {error} {where}") from error
        if found.shape != expected.shape:
            raise _NotFinite(
                f"the candidate gave a picture of {_size(found)} {where}, the reference one of "
                f"{_size(expected)}"
            )
        return _Pair(found, expected, step_counts(found, expected))

    def errors(self, frames: Sequence[Pixels], after: str) -> list[float]:
        """RMS difference of each frame in steps, without a reset."""
        pairs = (self.step(lr, f"{n} frames {after}") for n, lr in enumerate(frames))
        return [math.sqrt(mean_square(pair.counts)) for pair in pairs]


def _picture(stepper: GateStepper, lr: Pixels) -> Pixels:
    try:
        found: Any = stepper.step(lr)
    except FloatingPointError as error:
        raise _NotFinite("NaN or infinite values") from error
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.shape[2] != 3:
        raise _NotFinite(f"{getattr(found, 'shape', type(found).__name__)}, not (H, W, 3),")
    if found.dtype == np.uint8:
        return found
    if found.dtype != np.float32:
        raise _NotFinite(f"{found.dtype}, not uint8 or float32,")
    if not np.isfinite(found).all():
        raise _NotFinite("NaN or infinite values")
    return np.clip(np.rint(found * np.float32(255)), 0, 255).astype(np.uint8)


def _size(picture: Pixels) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


# --- measuring -------------------------------------------------------------------------------


class _Sequence:
    """Takes pairs in order and measures them.

    Args:
        every: see :func:`compare`.
        on_truth: whether a truth comes with every pair.
        lpips: to measure LPIPS on it.

    Attributes:
        frames: taken so far.
        distances: of each frame from the reference.
    """

    def __init__(self, every: int, on_truth: bool, lpips: Lpips | None) -> None:
        self._every = every
        self._on_truth = on_truth
        self.frames = 0
        self.distances = Distances()
        self._places: list[bytes] = []
        metrics: tuple[Metric, ...] = ("psnr", "flicker") if on_truth else ("flicker",)
        # [candidate, reference]; against the reference only the candidate is measured.
        each = range(2 if on_truth else 1)
        self._quality = [SequenceQuality(metrics) for _ in each]
        self._tof: list[list[float]] = [[] for _ in each]
        self._lpips = [
            SequenceQuality(("lpips",), lpips=lpips, drop_ends=0)
            for _ in each
            if on_truth and lpips is not None
        ]
        self._lpips_frames = 0
        self._last: tuple[Pixels, tuple[Pixels, ...]] | None = None
        self._last_lr = b""

    def add(self, lr: Pixels, pair: _Pair, truth: Pixels | None) -> None:
        """The next frame; ``truth`` where there is one."""
        if self._on_truth:
            self._check_truth(pair, truth)
        target = pair.reference if truth is None else truth
        outputs = (pair.candidate,) if truth is None else (pair.candidate, pair.reference)
        self.distances.add_counts(pair.counts)
        digest = blake2b(np.ascontiguousarray(lr).data, digest_size=8).digest()
        self._places.append(self._last_lr + digest)
        self._last_lr = digest
        for quality, output in zip(self._quality, outputs, strict=True):
            quality.add(target, output)
        self.frames += 1
        if self.frames % self._every == 0:
            for quality, output in zip(self._lpips, outputs, strict=False):
                quality.add(target, output)
            self._lpips_frames += 1
            if self._last is not None:
                target_last, outputs_last = self._last
                for values, before, now in zip(self._tof, outputs_last, outputs, strict=True):
                    values.append(tof(target_last, target, before, now))
        self._last = target, outputs

    def _check_truth(self, pair: _Pair, truth: Pixels | None) -> None:
        if truth is None:
            raise ClipError(f"the truth ends before frame {self.frames}", exit_code=2)
        if truth.shape != pair.reference.shape:
            raise ClipError(
                f"the truth of frame {self.frames} is {truth.shape}, the output of the reference "
                f"{pair.reference.shape}",
                exit_code=2,
            )

    def numbers(self, cut: CutRecovery | None) -> Numbers:
        """Everything, of what was taken."""
        if not self.frames:
            return Numbers(frames=0, every=self._every, on_truth=self._on_truth)
        results = [quality.result() for quality in self._quality]
        times = range(self.frames)
        psnr_y = late = loss_drift = None
        if self._on_truth:
            candidate, reference = (_capped(result) for result in results)
            loss = [r - c for c, r in zip(candidate, reference, strict=True)]
            psnr_y = Score(metric="psnr", candidate=fmean(candidate), reference=fmean(reference))
            late = fmean(loss[-math.ceil(len(loss) / 4) :])
            counted = slice(results[0].first, results[0].first + len(loss))
            loss_drift = measure_drift(times[counted], loss, self._places[counted])
        values = [result.values["flicker"] for result in results]
        perceived = [q.result().values["lpips"] for q in self._lpips if self._lpips_frames]
        return Numbers(
            frames=self.frames,
            every=self._every,
            on_truth=self._on_truth,
            psnr=tuple(self.distances.psnr),
            max_steps=tuple(self.distances.max_steps),
            within_one=self.distances.within_one,
            psnr_y=psnr_y,
            late_loss=late,
            lpips=_score("lpips", perceived),
            tof=_score("tof", self._tof),
            flicker=_score("flicker", values),
            error_drift=measure_drift(times, self.distances.rms, self._places),
            loss_drift=loss_drift,
            cut=cut,
        )


def _capped(result: SequenceResult) -> list[float]:
    return [min(psnr, PSNR_CAP) for psnr in result.values["psnr"]]


def _score(metric: Metric, values: Sequence[Sequence[float]]) -> Score | None:
    """Of [candidate, reference], or of [candidate] against the reference, whose own is 0."""
    if not values or not values[0]:
        return None
    means = [fmean(v) for v in values]
    return Score(metric=metric, candidate=means[0], reference=means[1] if means[1:] else 0.0)


def _cut(
    *, first: list[float], again: list[float], usual: list[float], through: list[float]
) -> CutRecovery:
    """Judge errors after cuts by what they are otherwise; all in steps RMS.

    Args:
        first, again: the sequence's first frames at their start, and after a reset.
        usual, through: what the other scene may have, and what it has after a missed cut.
    """
    excess = [max(0.0, b - a) for a, b in zip(first, again, strict=True)]
    worst = max(range(len(excess)), key=excess.__getitem__)
    # The states before these frames were different, so their errors are, a little, as well: a
    # quarter more is about 2 dB, and a tenth of a step is nothing to speak of.
    back = [b <= 1.25 * a + 0.1 for a, b in zip(usual, through, strict=True)]
    recovery = max((n + 1 for n, fine in enumerate(back) if not fine), default=0)
    return CutRecovery(
        frames=len(through),
        reset_excess=excess[worst],
        worst_frame=worst,
        recovery=recovery if recovery <= len(back) - STAYS else None,
    )
