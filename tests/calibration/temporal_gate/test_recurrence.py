"""The cold-start curve and its suggestion, on upscalers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from teco_calibration.errors import ClipError
from teco_calibration.metrics.distance import Distances
from teco_calibration.temporal_gate.recurrence import (
    MOST,
    NOTHING,
    SHARE,
    measure_recurrence,
    suggest,
)


class Fading:
    """Gives the truth with an error of some steps that depends on the frames since the reset.

    The truth of a frame is found by the frame, which is its top-left quarter of pixels.
    """

    def __init__(self, truth: list[np.ndarray], error) -> None:
        self._truth = {low(t).tobytes(): t for t in truth}
        self._error = error
        self.since = 0
        self.steps = 0
        self.resets = 0

    def reset(self) -> None:
        self.since = 0
        self.resets += 1

    def step(self, lr: np.ndarray) -> np.ndarray:
        steps = self._error(self.since)
        self.since += 1
        self.steps += 1
        return (self._truth[lr.tobytes()].astype(int) + steps).astype(np.uint8)


def low(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:12, :16])


@pytest.fixture(scope="module")
def truth(texture) -> list[np.ndarray]:
    return [np.clip(p, 40, 200) for p in texture(40, 64, 48)]


def measured(truth, error, **options):
    stepper = Fading(truth, error)
    found = measure_recurrence(stepper, [low(t) for t in truth], truth, **options)
    return found, stepper


def decibels(steps: float) -> float:
    """PSNR-Y of an error of so many steps in R, G and B."""
    return 20 * math.log10(255 / (steps * (65.481 + 128.553 + 24.966) / 255))


def test_the_curve_is_what_is_missing_after_a_reset(truth) -> None:
    """The error falls from 8 steps to 4, 2, 1 and stays: exactly so, whatever the pictures show."""
    found, stepper = measured(truth, lambda n: max(1, 8 >> n), places=3, length=8)
    expected = [decibels(1) - decibels(max(1, 8 >> n)) for n in range(8)]
    assert found.curves[0].missing == pytest.approx(expected, abs=1e-9)
    assert found.places[0] >= 8, "the long run must be steady at the first place"
    assert found.places[-1] + 8 <= 40
    assert len(found.places) == 3
    assert stepper.resets == 4
    assert stepper.steps == found.run + 3 * 8
    assert found.suggestion.frames == 3
    assert found.suggestion.left == pytest.approx(0, abs=1e-9)
    assert "warm up with 3 frames: a first frame misses 18.06 dB" in found.suggestion.sentence


def test_no_drift_and_drift(truth) -> None:
    still, _ = measured(truth, lambda n: 2, places=1, length=6)
    assert still.drift is not None
    assert still.drift.matched
    assert still.drift.per_100 == 0
    worse, _ = measured(truth, lambda n: 1 + n // 20, places=1, length=6)
    assert worse.drift is not None
    assert worse.drift.at_least > 1


def test_a_past_that_does_harm_needs_no_warm_up(truth) -> None:
    found, _ = measured(truth, lambda n: 1 if n == 0 else 2, places=2, length=6)
    assert found.suggestion.frames == 0
    assert found.suggestion.at_once < 0
    better = "no warm-up: a first frame is 6.02 dB better without a past"
    assert found.suggestion.sentence == better
    assert suggest([0.04, 0.0, 0.0]).sentence == "no warm-up: a first frame misses 0.04 dB"


def test_which_warm_up_is_suggested() -> None:
    """A tenth of what is missing at once, at least 0.05 dB, at most 0.3."""
    assert suggest([0.04, 0.05, 0.0]).frames == 0
    assert suggest([1.0, 0.5, 0.1, 0.09, 0.0, 0.0]).frames == 2
    assert suggest([1.0, 0.5, 0.1]).frames is None, "two frames must stay within"
    assert suggest([0.2, 0.051, 0.05, 0.0]).frames == 2
    assert suggest([9.0, 0.31, 0.29, 0.2]).frames == 2
    late = suggest([0.5, 0.0, 0.0, 0.2, 0.01, 0.0])
    assert late.frames == 4, "what comes back is not over"
    never = suggest([1.0] * 6)
    assert never.frames is None
    assert "still missing where the curve ends" in never.sentence
    for first in (0.0, 0.3, 1.0, 20.0):
        allowed = suggest([first, 0, 0]).allowed
        assert NOTHING <= allowed <= MOST
        assert allowed in (NOTHING, MOST, SHARE * first)
    with pytest.raises(ClipError):
        suggest([])


def test_scenes_that_are_too_short_or_do_not_fit(truth) -> None:
    with pytest.raises(ClipError, match="needs a scene of 18 frames or more, this one has 17"):
        measured(truth[:17], lambda n: 1)
    short, _ = measured(truth[:18], lambda n: 1)
    assert len(short.curves[0].missing) == 6
    with pytest.raises(ClipError, match="40 frames have 39 truths"):
        measure_recurrence(Fading(truth, lambda n: 1), [low(t) for t in truth], truth[:-1])
    with pytest.raises(ClipError, match="has a truth of"):
        measure_recurrence(
            Fading(truth, lambda n: 1), [low(t) for t in truth], [t[:40] for t in truth]
        )


def test_distances_by_hand() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0], b[1, 1, 1] = 3, 1
    distances = Distances()
    distances.add(a, a)
    distances.add(a, b)
    found = distances.result()
    assert found.frames == 2
    assert found.psnr[0] is None
    assert found.psnr[1] == pytest.approx(10 * math.log10(255**2 / (10 / 48)), abs=1e-4)
    assert found.worst_psnr == found.psnr[1]
    assert found.rms == pytest.approx((0, math.sqrt(10 / 48)))
    assert found.max_steps == (0, 3)
    assert found.largest == 3
    assert found.within_one == pytest.approx(95 / 96)
    with pytest.raises(ClipError, match="4x4 and 3x4"):
        distances.add(a, b[:, :3])
    with pytest.raises(ClipError):
        Distances().result()
