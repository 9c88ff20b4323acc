"""What the past is worth, how soon it is worth it, and whether it does harm in the long run.

**Cold-start curve.** A recurrent network that starts from nothing (the first frame, a scene cut, a
seek) gives worse pictures until its state has filled. The curve is what is missing, as a function
of the frames since the reset: the recurrence is reset at several places of a scene, and each frame
after it is compared, on the truth, with the same frame of a run that started far back. Both see
the same frame, so content cancels, which it would not between frame 0 and frame 20 of one run.

**Warm-up.** A player that seeks runs so many frames before the one it shows, and drops them. The
suggestion is the fewest after which the mean of what is missing stays within

    the larger of 0.05 dB and a tenth of what is missing with none, at most 0.3 dB.

0.05 dB is 1.2% of the error's energy, and what the temporal gate lets an int8 file lose in 100
frames without calling it drift. A tenth, because each further frame costs a whole step and delays
the picture while the curve flattens. 0.3 dB is what the gate lets an int8 file lose for good, so a
picture after a seek misses no more than that.

**Drift.** The same run goes on, the scene played to and fro, and the PSNR of frames that show the
same is compared over time (:mod:`teco_calibration.metrics.drift`): does it fall?

Pictures are uint8 (h, w, 3) RGB; truths (H, W, 3) of the size of the outputs. PSNR is of luma, by
:func:`teco_calibration.metrics.quality.psnr_y` on
:func:`teco_calibration.metrics.quality.official_window`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError
from teco_calibration.metrics.drift import Drift, measure_drift
from teco_calibration.metrics.quality import (
    HIGHER_IS_BETTER,
    Lpips,
    Metric,
    official_window,
    psnr_y,
)
from teco_calibration.temporal_gate.comparison import PSNR_CAP, GateStepper, endless

Pixels = npt.NDArray[np.uint8]

NOTHING = 0.05
"""dB that may be missing whatever the past is worth."""
SHARE = 0.1
"""Of what is missing on a first frame, that may still be missing."""
MOST = 0.3
"""dB that may be missing at most."""
PLACES = 4
"""Resets in a scene."""
LENGTH = 12
"""Frames run after each, at most: a third of the scene."""
SHORTEST = 6
"""Frames after a reset that make a curve."""
STAYS = 2
"""Frames at the end of the curve for which what is missing must have stayed within what may be."""


@dataclass(frozen=True, kw_only=True)
class ResetCurve:
    """One metric after resets, beside the same frames without them.

    Attributes:
        metric: psnr or lpips.
        cold: [place][frames since the reset].
        steady: the same frames of the run that started far back.
    """

    metric: Metric
    cold: tuple[tuple[float, ...], ...]
    steady: tuple[tuple[float, ...], ...]

    @property
    def missing(self) -> tuple[float, ...]:
        """By frames since the reset, how much worse the cold start is; mean over places."""
        sign = 1 if self.metric in HIGHER_IS_BETTER else -1
        gaps = [
            [sign * (s - c) for c, s in zip(cold, steady, strict=True)]
            for cold, steady in zip(self.cold, self.steady, strict=True)
        ]
        return tuple(fmean(column) for column in zip(*gaps, strict=True))


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """How many frames to run and drop before one is shown.

    Attributes:
        frames: so many; None where what is missing does not stay within :attr:`allowed` before the
            curve ends.
        allowed: dB that may be missing.
        at_once: dB that are missing on a first frame, without warm-up.
        left: dB that are missing after :attr:`frames`; after the whole curve where that is None.
    """

    frames: int | None
    allowed: float
    at_once: float
    left: float

    @property
    def sentence(self) -> str:
        """For people."""
        if self.frames == 0:
            if self.at_once < 0:
                return f"no warm-up: a first frame is {-self.at_once:.2f} dB better without a past"
            return f"no warm-up: a first frame misses {self.at_once:.2f} dB"
        if self.frames is None:
            return (
                f"a first frame misses {self.at_once:.2f} dB, and {self.left:.2f} dB are still "
                f"missing where the curve ends (allowed {self.allowed:.2f})"
            )
        plural = "s" if self.frames > 1 else ""
        return (
            f"warm up with {self.frames} frame{plural}: a first frame misses {self.at_once:.2f} "
            f"dB, after {self.frames} {self.left:.2f} dB are left (allowed {self.allowed:.2f})"
        )


def suggest(missing: Sequence[float]) -> Suggestion:
    """The warm-up that a curve of PSNR suggests; the module says by which rule.

    Args:
        missing: dB by frames since the reset, the first frame's own first.

    Raises:
        ClipError: an empty curve.
    """
    if not missing:
        raise ClipError("an empty cold-start curve suggests nothing")
    allowed = min(MOST, max(NOTHING, SHARE * missing[0]))
    over = [n for n, gap in enumerate(missing) if gap > allowed]
    frames = over[-1] + 1 if over else 0
    reached = frames <= len(missing) - STAYS
    return Suggestion(
        frames=frames if reached else None,
        allowed=allowed,
        at_once=missing[0],
        left=missing[frames] if reached else missing[-1],
    )


@dataclass(frozen=True, kw_only=True)
class RecurrenceReport:
    """What was found.

    Attributes:
        frames: of the scene.
        run: frames of the long run, the scene played to and fro.
        height, width: LR size it was measured at.
        places: frames of the scene before which the recurrence was reset.
        curves: of psnr, and of lpips where that was measured.
        drift: growth of the loss of PSNR in dB per 100 frames; above 0 the pictures get worse. None
            of few frames.
    """

    frames: int
    run: int
    height: int
    width: int
    places: tuple[int, ...]
    curves: tuple[ResetCurve, ...]
    drift: Drift | None

    @property
    def suggestion(self) -> Suggestion:
        """From the curve of PSNR."""
        return suggest(self.curves[0].missing)


def measure_recurrence(
    stepper: GateStepper,
    frames: Sequence[Pixels],
    truth: Sequence[Pixels],
    *,
    places: int = PLACES,
    length: int = LENGTH,
    run: int | None = None,
    lpips: Lpips | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> RecurrenceReport:
    """The cold-start curve and the drift of a recurrent upscaler on one scene.

    Steps it ``run + places * length`` times. The long run must have come at least ``length`` frames
    before a place, so that it is steady there; a short scene makes the curve shorter.

    Args:
        stepper: reset before use.
        frames: one scene, h x w.
        truth: H x W of each.
        places: how often to reset, spread over the scene.
        length: frames after each reset.
        run: frames of the long run; None for the scene to and fro twice, which is the least that
            tells drift from content. Never less than the scene.
        lpips: also measure it.
        report: told the steps done and how many there will be.

    Raises:
        ClipError: the scene is too short for :data:`SHORTEST` frames after a reset, or the truth
            does not fit it; exit code 2.
    """
    count = len(frames)
    length = min(length, count // 3)
    if length < SHORTEST or places < 1:
        raise ClipError(
            f"a cold-start curve needs a scene of {3 * SHORTEST} frames or more, this one has "
            f"{count}",
            hint="give a longer clip",
            exit_code=2,
        )
    if len(truth) != count:
        raise ClipError(f"{count} frames have {len(truth)} truths", exit_code=2)
    starts = sorted({round(x) for x in np.linspace(length, count - length, places)})
    run = max(count, 4 * (count - 1) if run is None else run)
    total = run + len(starts) * length
    done = 0
    wanted = {start + n for start in starts for n in range(length)}
    steady: dict[int, _Values] = {}
    loss: list[float] = []

    def step(lr: Pixels, gt: Pixels, *, perceived: bool) -> _Values:
        nonlocal done
        out = stepper.step(lr)
        done += 1
        report(done, total)
        return _measure(out, gt, lpips if perceived else None)

    stepper.reset()
    pairs = zip(endless(frames, run), endless(truth, run), strict=True)
    for n, (lr, gt) in enumerate(pairs):
        values = step(lr, gt, perceived=n in wanted)
        loss.append(-values[0])
        if n in wanted:
            steady[n] = values
    cold: list[list[_Values]] = []
    for start in starts:
        stepper.reset()
        span = range(start, start + length)
        cold.append([step(frames[n], truth[n], perceived=True) for n in span])
    metrics: tuple[Metric, ...] = ("psnr",) if lpips is None else ("psnr", "lpips")
    return RecurrenceReport(
        frames=count,
        run=run,
        height=frames[0].shape[0],
        width=frames[0].shape[1],
        places=tuple(starts),
        curves=tuple(
            ResetCurve(
                metric=metric,
                cold=tuple(tuple(values[m] for values in place) for place in cold),
                steady=tuple(tuple(steady[s + n][m] for n in range(length)) for s in starts),
            )
            for m, metric in enumerate(metrics)
        ),
        drift=measure_drift(range(run), loss, _places(count, run)),
    )


_Values = tuple[float, ...]
"""PSNR, and LPIPS where it was measured."""


def _measure(out: npt.NDArray[np.generic], gt: Pixels, lpips: Lpips | None) -> _Values:
    if out.dtype != np.uint8 or out.shape != gt.shape:
        raise ClipError(f"an output of {out.dtype} {out.shape} has a truth of {gt.shape}")
    picture = out.astype(np.uint8, copy=False)
    window = official_window(*gt.shape[:2])
    a, b = window.cut(gt), window.cut(picture)
    psnr = min(psnr_y(a, b), PSNR_CAP)
    return (psnr,) if lpips is None else (psnr, lpips(a, b))


def _places(count: int, run: int) -> list[tuple[int, int]]:
    """(frame before, frame) of the scene at each frame of the long run: equal where it repeats."""
    order = list(endless(range(count), run))
    return [(order[n - 1] if n else -1, order[n]) for n in range(run)]
