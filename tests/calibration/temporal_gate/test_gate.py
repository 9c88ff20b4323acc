"""The temporal gate, its verdicts and records: candidates with known errors."""

from __future__ import annotations

import copy
import json
import math
import re
import tracemalloc
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco_calibration.errors import ClipError
from teco_calibration.metrics.drift import SETTLE, Drift, measure_drift
from teco_calibration.metrics.quality import SequenceQuality, tof
from teco_calibration.temporal_gate.comparison import STAYS, compare, endless
from teco_calibration.temporal_gate.verdict import (
    FP16,
    FP32,
    INT8,
    PRESETS,
    Bounds,
    CutRecovery,
    Numbers,
    Score,
    Verdict,
)  # fmt: skip

H, W = 16, 20
"""LR size; outputs are 64x80."""

NO_TRUTH = replace(INT8, name="int8 without a truth", psnr_loss=None, lpips_loss=None,
                   loss_drift=None, error_drift=0.25)  # fmt: skip
NO_LPIPS = replace(INT8, name="int8 without LPIPS", lpips_loss=None)


# --- steppers with known errors --------------------------------------------------------------


def big(picture):
    return picture.repeat(4, axis=0).repeat(4, axis=1)


class Perfect:
    """Repeats pixels. Subclasses add an error, a whole number of steps per value, (H, W, 3).

    Frames are between 50 and 205, so that no error below is clipped.

    Attributes:
        age: frames since the last reset.
        resets: how many there were.
        steps: frames in all.
    """

    def __init__(self) -> None:
        self.age = self.resets = self.steps = 0

    def reset(self):
        self.age = 0
        self.resets += 1

    def step(self, lr):
        out = big(lr).astype(np.int64) + self.error(lr)
        self.age += 1
        self.steps += 1
        assert 0 <= out.min() <= out.max() <= 255
        return out.astype(np.uint8)

    def error(self, lr):
        return 0


class Errs(Perfect):
    """With the error that a function of itself and the frame says."""

    def __init__(self, error) -> None:
        super().__init__()
        self._error = error

    def error(self, lr):
        return self._error(self, lr)


def sparse(share, size=1, seed=0):
    """An error of +-size on this share of the values, elsewhere each time."""
    rng = np.random.default_rng(seed)
    count = round(share * 16 * H * W * 3)

    def error(_stepper, _lr):
        values = np.zeros(16 * H * W * 3, np.int64)
        values[rng.permutation(values.size)[:count]] = rng.choice((-size, size), count)
        return values.reshape(4 * H, 4 * W, 3)

    return error


def first(share):
    """One step on the first values, this share of all: an RMS of its root."""
    values = np.zeros(16 * H * W * 3, np.int64)
    values[: round(share * values.size)] = 1
    return values.reshape(4 * H, 4 * W, 3)


class Recurrent(Perfect):
    """A quarter of the last output of this scene is in the next; exact in whole steps of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.previous = None

    def reset(self):
        super().reset()
        self.previous = None

    def step(self, lr):
        now = big(lr).astype(np.int64)
        before = now if self.previous is None else self.previous
        self.previous = (3 * now + before) // 4
        return self.previous.astype(np.uint8)


@pytest.fixture(scope="module")
def clip(texture):
    """25 frames that move; played to and fro they repeat every 48."""
    return [(50 + frame.astype(np.int64) * 155 // 255).astype(np.uint8)
            for frame in texture(25, W, H)]  # fmt: skip


def run(candidate, clip, bounds, reference=None, **options) -> Verdict:
    frames = options.pop("frames", None) or endless(clip, bounds.frames)
    verdict = compare(candidate, reference or Perfect(), frames, bounds=bounds, **options)
    # Whatever it is, it survives a manifest.
    assert Verdict.from_dict(json.loads(json.dumps(verdict.as_dict(), allow_nan=False))) == verdict
    return verdict


def broken(verdict) -> list[str]:
    return [check.bound for check in verdict.checks if not check.passed]


def rms_of(psnr):
    return 0.0 if psnr is None else 255 * 10 ** (-psnr / 20)


# --- endless ---------------------------------------------------------------------------------


def test_endless_goes_to_and_fro():
    assert list(endless("abcd", 12)) == list("abcdcbabcdcb")
    assert list(endless("abcd", 3)) == list("abc")
    assert list(endless("a", 3)) == list("aaa")
    assert list(endless("ab", 0)) == []


@given(st.integers(2, 12), st.integers(0, 60))
def test_endless_has_no_cuts(length, count):
    shown = list(endless(range(length), count))
    assert len(shown) == count
    assert all(abs(a - b) == 1 for a, b in pairwise(shown))
    period = 2 * (length - 1)
    assert shown[period:] == shown[: max(0, count - period)]


def test_endless_refuses_what_it_cannot_play():
    for frames, count in (((), 3), ("ab", -1)):
        with pytest.raises(ClipError, match="were asked of a clip") as error:
            endless(frames, count)
        assert error.value.exit_code == 2


# --- what is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [FP32, FP16, NO_TRUTH])
def test_identical_is_accepted_by_all(clip, bounds):
    verdict = run(Recurrent(), clip, bounds, Recurrent())
    assert verdict.accepted
    assert len(verdict.reasons) == len(verdict.checks) >= 4
    n = verdict.numbers
    assert n.frames == bounds.frames
    assert n.psnr == (None,) * n.frames
    assert n.max_steps == (0,) * n.frames
    assert (n.within_one, n.worst_psnr, n.on_truth) == (1.0, None, False)
    assert (n.tof.candidate, n.flicker.candidate) == (0.0, 0.0)
    assert n.psnr_y is n.lpips is n.late_loss is n.loss_drift is None
    assert (n.error_drift.per_100, n.error_drift.at_least) == (0.0, 0.0)
    assert (n.cut.reset_excess, n.cut.recovery) == (0.0, 0)


def test_dithering_by_one_step_is_fp16_and_not_fp32(clip):
    verdict = run(Errs(sparse(0.5)), clip, FP16)
    assert verdict.accepted, verdict.reasons
    # half of the values, one step
    assert verdict.numbers.worst_psnr == pytest.approx(10 * math.log10(255**2 / 0.5), abs=1e-4)
    assert set(verdict.numbers.max_steps) == {1}
    assert verdict.numbers.within_one == 1.0
    assert broken(run(Errs(sparse(0.5)), clip, FP32)) == ["worst_psnr"]
    assert broken(run(Errs(sparse(0.8)), clip, FP16)) == ["worst_psnr"]  # 49.1 dB


@pytest.mark.parametrize(("share", "fine"), [(0.0009, True), (0.0012, False)])
def test_fp16_counts_values_that_are_two_steps_off(clip, share, fine):
    verdict = run(Errs(sparse(share, size=2)), clip, FP16)
    off = round(share * 16 * H * W * 3) / (16 * H * W * 3)
    assert verdict.numbers.within_one == pytest.approx(1 - off, abs=1e-12)
    assert broken(verdict) == ([] if fine else ["within_one"])
    assert "max_steps" in broken(run(Errs(sparse(share, size=2)), clip, FP32))


def test_float_pictures_are_rounded_and_clipped(clip):
    class Floats(Perfect):
        def step(self, lr):
            out = big(lr).astype(np.float32) / 255
            out[0, 0] = (-0.3, 1.7, 0.5 / 255)  # black, white, and a tie that goes to even
            out[0, 1] = (0.6 / 255, 7.4 / 255, 7.6 / 255)
            return out

    class Same(Perfect):
        def step(self, lr):
            out = big(lr)
            out[0, 0] = (0, 255, 0)
            out[0, 1] = (1, 7, 8)
            return out

    assert run(Floats(), clip, FP32, Same()).numbers.psnr == (None,) * FP32.frames


# --- what is caught --------------------------------------------------------------------------


def test_a_constant_offset(clip):
    verdict = run(Errs(lambda *_: 3), clip, FP16)
    assert not verdict.accepted
    assert broken(verdict) == ["within_one", "worst_psnr"]
    n = verdict.numbers
    assert n.psnr == pytest.approx([20 * math.log10(255 / 3)] * 30, abs=1e-4)
    assert n.max_steps == (3,) * 30
    assert n.within_one == 0.0
    assert n.flicker.loss == pytest.approx(0, abs=1e-9)  # it stands still
    assert n.error_drift.per_100 == pytest.approx(0, abs=1e-9)
    assert verdict.reasons == (
        "0% of values are within one step of 255 of the reference, required 99.9%",
        "the worst frame (0) has 38.59 dB against the reference, required 50 dB",
    )


def test_one_bad_frame(clip):
    candidate = Errs(lambda self, _: 5 if self.steps == 17 else 0)
    verdict = run(candidate, clip, FP16)
    assert broken(verdict) == ["within_one", "worst_psnr"]
    assert verdict.numbers.max_steps == (0,) * 17 + (5,) + (0,) * 12
    assert verdict.numbers.within_one == pytest.approx(29 / 30)
    assert "(17)" in verdict.reasons[1]


def luma(picture):
    return picture / 255.0 @ np.array([65.481, 128.553, 24.966]) + 16


def inner(picture):
    """The official window of 64x80: 32x64 in the middle, 16 from the top and 8 from the left."""
    return picture[16:48, 8:72]


def psnr_y_of(truth, outputs):
    """Mean over the frames that count officially."""
    values = [
        20 * math.log10(255 / math.sqrt(np.mean((inner(luma(t)) - inner(luma(o))) ** 2)))
        for t, o in list(zip(truth, outputs, strict=True))[2:-2]
    ]
    return np.array(values)


def outputs_of(stepper, frames):
    stepper.reset()
    return [stepper.step(lr) for lr in frames]


def truth_for(clip, size=20):
    """A truth from which the perfect stepper is a fixed pattern of +-size away."""
    pattern = np.where(np.random.default_rng(9).random((4 * H, 4 * W, 3)) < 0.5, -size, size)
    return [(big(lr) + pattern).astype(np.uint8) for lr in clip]


@pytest.mark.parametrize(("size", "expected"), [(4, []), (8, ["psnr_loss", "psnr_loss"])])
def test_noise_on_a_truth(clip, size, expected):
    truth = truth_for(clip)
    verdict = run(Errs(sparse(1, size)), clip, NO_LPIPS, truth=endless(truth, 200))
    assert broken(verdict) == expected
    n = verdict.numbers
    frames, truths = list(endless(clip, 200)), list(endless(truth, 200))
    found = psnr_y_of(truths, outputs_of(Errs(sparse(1, size)), frames))
    against = psnr_y_of(truths, outputs_of(Perfect(), frames))
    assert n.psnr_y.candidate == pytest.approx(found.mean(), abs=1e-9)
    assert n.psnr_y.reference == pytest.approx(against.mean(), abs=1e-9)
    assert n.psnr_y.loss == pytest.approx((against - found).mean(), abs=1e-9)
    assert n.late_loss == pytest.approx((against - found)[-49:].mean(), abs=1e-9)
    assert n.psnr == pytest.approx([20 * math.log10(255 / size)] * 200, abs=1e-4)
    assert n.on_truth
    # Flicker: the truth moves and the pattern does not, so all of it is the noise's.
    noisy = [luma(o) - luma(t) for t, o in
             zip(truths, outputs_of(Errs(sparse(1, size)), frames), strict=True)]  # fmt: skip
    steps = [np.abs(inner(b - a)).mean() for a, b in pairwise(noisy[2:-2])]
    assert n.flicker.candidate == pytest.approx(np.mean(steps), abs=1e-9)
    assert n.flicker.reference == pytest.approx(0, abs=1e-9)
    assert n.flicker.loss > 1
    # tOF on every tenth pair.
    noisy = outputs_of(Errs(sparse(1, size)), frames)
    flows = [tof(truths[t - 1], truths[t], noisy[t - 1], noisy[t]) for t in range(9, 200, 10)]
    assert n.tof.candidate == pytest.approx(np.mean(flows), abs=1e-9)
    clean = outputs_of(Perfect(), frames)
    flows = [tof(truths[t - 1], truths[t], clean[t - 1], clean[t]) for t in range(9, 200, 10)]
    assert n.tof.reference == pytest.approx(np.mean(flows), abs=1e-9)
    assert n.tof.loss == n.tof.candidate - n.tof.reference


def test_without_a_truth_scores_are_against_the_reference(clip):
    frames = list(endless(clip, 30))
    verdict = run(Errs(sparse(1, 8)), clip, replace(FP16, flicker_loss=5, tof_loss=0), every=1)
    n = verdict.numbers
    quality = SequenceQuality(("flicker",))
    good, bad = outputs_of(Perfect(), frames), outputs_of(Errs(sparse(1, 8)), frames)
    for pair in zip(good, bad, strict=True):
        quality.add(*pair)
    assert n.flicker.candidate == n.flicker.loss == quality.result().means["flicker"]
    flows = [tof(good[t - 1], good[t], bad[t - 1], bad[t]) for t in range(1, 30)]
    assert n.tof.candidate == n.tof.loss == pytest.approx(np.mean(flows), abs=1e-12)
    assert {"flicker_loss", "tof_loss"} <= set(broken(verdict))
    assert any("flicker on the reference" in reason for reason in verdict.reasons)


def test_an_output_that_equals_the_truth_counts_as_100_db(clip):
    truth = [big(lr) for lr in clip]
    verdict = run(Errs(lambda *_: 1), clip, NO_LPIPS, truth=endless(truth, 200))
    # An offset of one step in R, G and B is 219/255 of one in luma.
    lost = 100 - 20 * math.log10(255 / (219 / 255))
    assert verdict.numbers.psnr_y.reference == 100
    assert verdict.numbers.psnr_y.loss == pytest.approx(lost, abs=1e-9)
    assert broken(verdict) == ["psnr_loss", "psnr_loss"]


class Brightness:
    """In place of LPIPS: how far apart the means of two pictures are, 100 steps counting as 1."""

    @staticmethod
    def encode(picture):
        return float(picture.mean())

    @staticmethod
    def between(a, b):
        return np.array([abs(a - b) / 100])


@pytest.mark.parametrize(("every", "measured"), [(10, (9, 19)), (1, range(20)), (7, (6, 13))])
def test_lpips_is_measured_on_every_kth_frame(clip, every, measured):
    bounds = Bounds(name="few", frames=20, lpips_loss=0.01)
    truth = [big(lr) for lr in clip[:20]]
    verdict = run(
        Errs(lambda self, _: self.steps % 5), clip, bounds, truth=truth, lpips=Brightness(),
        every=every,
    )  # fmt: skip
    assert verdict.numbers.lpips.loss == pytest.approx(np.mean([n % 5 for n in measured]) / 100)
    assert verdict.numbers.lpips.reference == 0
    assert broken(verdict) == ["lpips_loss"]
    assert "lost, allowed 0.01" in verdict.reasons[0]


# --- drift -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("per_frame", "fine"), [(0.002, True), (0.004, False)])
def test_a_slow_drift(clip, per_frame, fine):
    verdict = run(Errs(lambda self, _: first((per_frame * self.age) ** 2)), clip, NO_TRUTH)
    drift = verdict.numbers.error_drift
    assert drift.per_100 == pytest.approx(100 * per_frame, rel=0.01)
    assert 0 < drift.at_least <= drift.per_100
    assert (drift.frames, drift.matched) == (200 - SETTLE, True)
    assert broken(verdict) == ([] if fine else ["error_drift"])
    if not fine:
        assert verdict.reasons[0].startswith("the error against the reference grows by 0.4 steps")


def test_a_slow_drift_of_the_loss_is_in_db(clip):
    """The loss grows by 0.08 dB per 100 frames, and its mean stays below what is allowed."""
    per_frame, rng = 0.0008, np.random.default_rng(3)
    signs = np.where(rng.random((4 * H, 4 * W, 1)) < 0.5, -1, 1)
    truth = [(big(lr) + 20 * signs).astype(np.uint8) for lr in clip]
    order = rng.permutation(16 * H * W).reshape(4 * H, 4 * W, 1) / (16 * H * W)

    def error(stepper, _lr):
        # From 20 steps off to 22 on a share s: the mean square goes from 400 to 400 + 84 s.
        share = 400 / 84 * (10 ** (per_frame * stepper.age / 10) - 1)
        return -2 * signs * (order < share)

    verdict = run(Errs(error), clip, NO_LPIPS, truth=endless(truth, 200))
    assert verdict.numbers.loss_drift.per_100 == pytest.approx(0.08, rel=0.05)
    assert verdict.numbers.psnr_y.loss == pytest.approx(0.08, rel=0.1)
    assert "loss_drift" in broken(verdict)
    assert "psnr_loss" not in broken(verdict)


def test_a_reference_that_drifts_is_not_the_candidates_fault(clip):
    """The distance between them grows, and on the truth the candidate loses nothing by it."""
    signs = np.where(np.random.default_rng(3).random((4 * H, 4 * W, 3)) < 0.5, -1, 1)
    truth = [(big(lr) + 20 * signs).astype(np.uint8) for lr in clip]

    def away(stepper, _lr):
        return -signs * first((0.004 * stepper.age) ** 2)

    verdict = run(Perfect(), clip, NO_LPIPS, Errs(away), truth=endless(truth, 200))
    assert verdict.numbers.error_drift.per_100 == pytest.approx(0.4, rel=0.01)
    assert verdict.numbers.loss_drift.per_100 < -0.05
    assert verdict.accepted, verdict.reasons
    other = run(Errs(away), clip, NO_LPIPS, truth=endless(truth, 200))
    assert other.numbers.loss_drift.per_100 == pytest.approx(
        -verdict.numbers.loss_drift.per_100, rel=1e-6
    )
    assert "loss_drift" in broken(other)


def test_content_is_no_drift(clip):
    """The error follows the place in the clip, and the sequence ends on a bad place."""
    places = {lr.tobytes(): n for n, lr in enumerate(clip)}
    count = 4 * 48 + 25  # four times to and fro, and once more to the end
    bounds = replace(NO_TRUTH, frames=count)

    def content(_stepper, lr):
        return first((places.get(lr.tobytes(), 0) / 25) ** 2)

    verdict = run(Errs(content), clip, bounds)
    assert verdict.numbers.error_drift.per_100 == pytest.approx(0, abs=1e-9)
    assert verdict.accepted

    def both(stepper, lr):
        return first((places.get(lr.tobytes(), 0) / 50 + 0.002 * stepper.age) ** 2)

    drift = run(Errs(both), clip, bounds).numbers.error_drift
    assert drift.per_100 == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize(("count", "matched"), [(49, False), (97, True)])
def test_the_way_back_is_another_place(clip, count, matched):
    """Once to and fro, every picture comes twice, but never by the same motion."""
    verdict = run(Perfect(), clip, replace(NO_TRUTH, frames=count))
    assert verdict.numbers.error_drift.matched == matched


def test_a_model_that_goes_wrong_late(clip):
    """Nothing for 160 frames, then 1.2 dB: 0.24 on the mean, and no median sees it."""
    truth = truth_for(clip)

    def error(stepper, _lr):
        return noise(stepper, _lr) if stepper.age >= 160 else 0

    noise = sparse(1, 11)
    verdict = run(Errs(error), clip, NO_LPIPS, truth=endless(truth, 200))
    assert verdict.numbers.psnr_y.loss < 0.3 < verdict.numbers.late_loss
    assert broken(verdict) == ["psnr_loss"]
    assert "last quarter" in verdict.reasons[0]


def slopes(points):
    return [
        (v2 - v1) / (t2 - t1)
        for i, (t1, v1, p1) in enumerate(points)
        for t2, v2, p2 in points[i + 1 :]
        if p1 == p2
    ]


@given(st.integers(2, 30), st.integers(20, 70), st.integers(0, 10_000))
def test_drift_is_the_median_of_the_slopes_between_like_frames(period, count, seed):
    values = np.random.default_rng(seed).normal(size=count)
    times = range(count)
    points = [(t, values[t], t % period) for t in times][SETTLE:]
    sizes = [sum(p == k for _, _, p in points) for k in range(period)]
    matched = sum(n for n in sizes if n > 1) >= len(points) / 2
    if not matched:
        points, sizes = [(t, v, 0) for t, v, _ in points], [len(points)]
    drift = measure_drift(times, values, [t % period for t in times])
    assert drift.matched == matched
    assert drift.frames == count - SETTLE
    expected = sorted(slopes(points))
    assert drift.per_100 == pytest.approx(100 * np.median(expected))
    variance = sum(n * (n - 1) * (2 * n + 5) for n in sizes) / 18
    rank = int((len(expected) - 1.6449 * variance**0.5) // 2)
    assert drift.at_least == pytest.approx(100 * expected[max(0, rank)])


def test_chance_is_rarely_sure_to_be_drift():
    """The limit is of 95%: of noise without drift, about one in twenty lies above zero."""
    rng = np.random.default_rng(1)
    places = [t % 48 for t in range(200)]
    found = [measure_drift(range(200), rng.normal(size=200), places) for _ in range(400)]
    above = sum(drift.at_least > 0 for drift in found) / len(found)
    assert 0.02 < above < 0.09
    assert abs(np.mean([drift.per_100 for drift in found])) < 0.02


def test_drift_holds_out_against_outliers():
    rng = np.random.default_rng(2)
    values = 1 + 0.01 * np.arange(200.0)
    values[rng.permutation(200)[:30]] += 50
    drift = measure_drift(range(200), values, [t % 40 for t in range(200)])
    assert drift.per_100 == pytest.approx(1, rel=0.01)
    assert measure_drift(range(SETTLE + 7), values[: SETTLE + 7], [0] * (SETTLE + 7)) is None


def test_drift_of_a_long_sequence_does_not_compare_everything():
    values = 0.001 * np.arange(6000.0)
    tracemalloc.start()
    drift = measure_drift(range(6000), values, [0] * 6000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drift.per_100 == pytest.approx(0.1)
    assert most < 150e6  # 18 million slopes alone would take as much


# --- scene cuts ------------------------------------------------------------------------------


def test_a_candidate_that_ignores_resets(clip):
    class Forgetless(Recurrent):
        def reset(self):
            self.resets += 1

    verdict = run(Forgetless(), clip, FP16, Recurrent())
    assert broken(verdict) == ["reset_excess"]
    # What is left of the other scene (the first frames turned around) after a reset, by hand.
    tail = FP16.recovery_frames + STAYS
    other = [lr[::-1, ::-1] for lr in clip[:tail]]
    memory = Recurrent()
    for lr in [*endless(clip, 30), *other]:
        memory.step(lr)
    left = memory.step(clip[0]).astype(float) - big(clip[0])
    cut = verdict.numbers.cut
    assert cut.worst_frame == 0
    assert cut.reset_excess == pytest.approx(np.sqrt(np.mean(left**2)), abs=1e-9)
    assert cut.reset_excess > 1
    assert cut.frames == tail
    assert "after a reset the error is up to" in verdict.reasons[0]


@pytest.mark.parametrize("scene", [2, 3])
def test_a_candidate_that_is_wrong_only_after_a_reset(clip, scene):
    """Scene 1 is the sequence, 2 its first frames again, 3 the other scene for comparison."""
    candidate = Errs(lambda self, _: 6 if self.resets == scene and self.age == 2 else 0)
    verdict = run(candidate, clip, FP16)
    assert verdict.numbers.max_steps == (0,) * 30
    cut = verdict.numbers.cut
    if scene == 2:
        assert broken(verdict) == ["reset_excess"]
        assert (cut.reset_excess, cut.worst_frame) == (6.0, 2)
    assert candidate.resets == 3
    assert candidate.steps == 30 + 3 * (FP16.recovery_frames + STAYS)


@pytest.mark.parametrize(("wrong", "took"), [(3, 3), (10, 10), (11, None), (99, None)])
def test_recovery_after_a_cut_that_nobody_noticed(clip, wrong, took):
    """The sequence has 30 frames; what comes after them without a reset is the other scene."""
    candidate = Errs(lambda self, _: 4 if 30 <= self.age < 30 + wrong else 0)
    verdict = run(candidate, clip, FP16)
    assert verdict.numbers.cut.recovery == took
    assert verdict.numbers.cut.reset_excess == 0
    assert broken(verdict) == ([] if took is not None else ["recovery_frames"])
    assert verdict.numbers.max_steps == (0,) * 30
    if took is None:
        assert verdict.reasons == (
            "after a cut without a reset the error does not fall back within 14 frames, allowed 10",
        )


def test_an_error_that_comes_back_after_a_cut_has_not_fallen_back(clip):
    verdict = run(Errs(lambda self, _: 4 if self.age in (30, 38) else 0), clip, FP16)
    assert verdict.numbers.cut.recovery == 9
    strict = replace(FP16, recovery_frames=4)
    verdict = run(Errs(lambda self, _: 4 if self.age in (30, 36) else 0), clip, strict)
    assert broken(verdict) == ["recovery_frames"]


def test_a_usual_error_after_a_cut_is_no_finding(clip):
    """An error that is the same at a cold start is not a cut's."""
    candidate = Errs(lambda self, _: 5 if self.age < 2 or 30 <= self.age < 32 else 2)
    cut = run(candidate, clip, FP16).numbers.cut
    assert (cut.reset_excess, cut.recovery) == (0.0, 0)


# --- no pictures -----------------------------------------------------------------------------


class Instead(Perfect):
    """Gives something else at one frame."""

    def __init__(self, at, what) -> None:
        super().__init__()
        self.at, self.what = at, what

    def step(self, lr):
        out = super().step(lr)
        return self.what(out) if self.steps == self.at + 1 else out


def not_a_number(out):
    values = out.astype(np.float32) / 255
    values[5, 6, 1] = np.nan
    return values


def infinite(out):
    values = out.astype(np.float32) / 255
    values[0, 0, 0] = np.inf
    return values


def raises(out):
    raise FloatingPointError("overflow")


NO_PICTURES = [
    (not_a_number, "NaN or infinite values"),
    (infinite, "NaN or infinite values"),
    (raises, "NaN or infinite values"),
    (lambda out: out[:-4], "a picture of 80x60"),
    (lambda out: out[..., 0], r"\(64, 80\), not"),
    (lambda out: out[..., :1], r"\(64, 80, 1\), not"),
    (lambda out: out.astype(np.float64), "float64, not uint8 or float32"),
    (lambda out: None, "NoneType, not"),
]


@pytest.mark.parametrize(("what", "says"), NO_PICTURES)
@pytest.mark.parametrize(
    ("at", "where"),
    [(0, "at frame 0"), (12, "at frame 12"), (33, "3 frames after a cut without a reset"),
     (44, "0 frames after a reset"), (71, "13 frames after a second reset")],
)  # fmt: skip
def test_what_is_no_picture_breaks_it_off(clip, what, says, at, where):
    verdict = run(Instead(at, what), clip, FP16)
    assert not verdict.accepted
    assert broken(verdict) == ["pictures"]
    (reason,) = verdict.reasons
    assert where in reason
    assert re.search(says, reason)
    assert verdict.numbers.frames == min(at, 30)
    assert verdict.numbers.psnr == (None,) * min(at, 30)


@pytest.mark.parametrize("what", [not_a_number, raises, lambda out: None])
def test_a_reference_without_pictures_is_an_error(clip, what):
    with pytest.raises(ClipError, match=r"the reference gave .* at frame 4: it is no reference"):
        run(Perfect(), clip, FP16, Instead(4, what))


# --- questions that cannot be answered -------------------------------------------------------


def refused(words, *, exit_code=2, bounds=FP16, **options):
    with pytest.raises(ClipError, match=words) as error:
        compare(Perfect(), Perfect(), options.pop("frames"), bounds=bounds, **options)
    assert error.value.exit_code == exit_code
    return error.value


def test_bad_questions_are_refused(clip):
    thirty = list(endless(clip, 30))
    truth = [big(lr) for lr in thirty]
    error = refused("has 29 frames, the bounds fp16 need 30", frames=thirty[:29])
    assert "endless" in error.hint
    refused("has 3 frames, the bounds fp16 need 30", frames=thirty[:3])
    refused("has 0 frames", frames=[])
    few = Bounds(name="few", frames=2, recovery_frames=10)
    refused("has 13 frames, the bounds few need 14", frames=thirty[:13], bounds=few, every=1)
    assert run(Perfect(), clip, few, frames=thirty[:14], every=1).accepted
    refused("for a clip with a ground truth", frames=thirty, bounds=INT8)
    error = refused("limit LPIPS", frames=thirty, truth=truth, exit_code=3,
                    bounds=replace(FP16, lpips_loss=0.01))  # fmt: skip
    assert "LPIPS" in error.hint or "lpips" in error.hint
    for every in (0, 31):
        refused(f"every is {every}, expected 1 to 30", frames=thirty, every=every)
    refused("the truth ends before frame 29", frames=thirty, truth=truth[:29])
    refused("the truth goes on after the 30 frames", frames=thirty[:30], truth=[*truth, truth[0]])
    refused("the truth of frame 0 is", frames=thirty, truth=[t[:-4] for t in truth])
    refused("at frame 20 the sequence changes", exit_code=1,
            frames=[*thirty[:20], *(lr[:-1] for lr in thirty[20:])])  # fmt: skip
    refused("not a picture", frames=[lr.astype(np.float32) for lr in thirty], exit_code=1)


def test_what_a_candidate_raises_otherwise_is_not_hidden(clip):
    def fails(out):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compare(Instead(3, fails), Perfect(), endless(clip, 30), bounds=FP16)


# --- streaming -------------------------------------------------------------------------------


def test_pictures_are_not_held(clip):
    """Whatever the length, a few of the pictures that went in and came out are alive."""
    alive, most = weakref.WeakSet(), 0

    class Held(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def watched(picture):
        nonlocal most
        picture = picture.view(Held)
        alive.add(picture)
        most = max(most, len(alive))
        return picture

    class Watched(Perfect):
        def step(self, lr):
            return watched(super().step(np.asarray(lr)))

    done = []
    truth = (watched(big(lr)) for lr in endless(clip, 200))
    compare(Watched(), Perfect(), endless(clip, 200), bounds=NO_LPIPS, truth=truth, every=1,
            report=done.append)  # fmt: skip
    assert most <= 6
    assert done == list(range(1, 201))


# --- bounds and verdicts ---------------------------------------------------------------------


def test_presets_are_what_the_acceptance_says():
    assert list(PRESETS) == ["fp32", "fp16", "int8"]
    assert (FP16.frames, FP16.within_one, FP16.worst_psnr) == (30, 0.999, 50.0)
    assert (INT8.frames, INT8.psnr_loss, INT8.lpips_loss) == (200, 0.3, 0.01)
    assert 200 / 100 * INT8.loss_drift <= INT8.psnr_loss / 3 + 1e-9
    assert INT8.error_drift is None
    assert INT8.needs_truth
    assert not FP16.needs_truth
    assert Bounds.named("int8") is INT8
    with pytest.raises(ClipError, match="no bounds called 'int4'") as error:
        Bounds.named("int4")
    assert "fp32, fp16, int8" in error.value.hint


def test_fp32_follows_from_what_export_calls_rounding():
    from teco.verification.parity import MAX_DIFFERENCE

    assert FP32.max_steps == 1
    lowest = 10 * math.log10(255**2 / (MAX_DIFFERENCE * 255))
    assert FP32.worst_psnr <= lowest < FP32.worst_psnr + 0.1
    # and measured: values that differ by so much and are rounded
    rng = np.random.default_rng(0)
    a = rng.random(200_000) * 255
    b = a + MAX_DIFFERENCE * 255
    assert 10 * math.log10(255**2 / np.mean((np.rint(a) - np.rint(b)) ** 2)) > FP32.worst_psnr - 0.2


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 1}, {"worst_psnr": -1.0}, {"worst_psnr": math.nan}, {"within_one": 1.5},
     {"recovery_frames": -1}, {"error_drift": -0.1}],
)  # fmt: skip
def test_bounds_that_are_none(wrong):
    with pytest.raises(ClipError):
        Bounds(**{"name": "wrong", "frames": 30, **wrong})


@pytest.fixture(scope="module")
def full(clip):
    """A rejected verdict in which every number there is has a value."""
    bounds = replace(INT8, name="all", error_drift=0.25, max_steps=1, within_one=0.999,
                     worst_psnr=50.0, tof_loss=0.01, flicker_loss=0.01)  # fmt: skip
    verdict = run(
        Errs(sparse(0.9, 12)), clip, bounds, lpips=Brightness(),
        truth=endless(truth_for(clip), 200),
    )  # fmt: skip
    assert None not in verdict.as_dict()["numbers"].values()
    assert None not in verdict.as_dict()["bounds"].values()
    return verdict


def test_every_bound_is_judged(full):
    judged = {check.bound for check in full.checks}
    assert judged == set(full.as_dict()["bounds"]) - {"name"}
    assert full.reasons == tuple(c.sentence for c in full.checks if not c.passed)
    for check in full.checks:
        assert check.sentence.count("allowed") + check.sentence.count("required") == 1


def judged(bounds, **numbers):
    """The only check besides that of frames, of made-up numbers; which must be needed."""
    (name, bound) = bounds
    bounds = Bounds(name="one", frames=30, **{name: bound})
    nothing = Verdict(bounds=bounds, numbers=Numbers(frames=30, every=1, on_truth=False))
    if name not in ("max_steps", "worst_psnr"):
        assert set(broken(nothing)) == {name}
    numbers = Numbers(**{"frames": 30, "every": 1, "on_truth": False, **numbers})
    return Verdict(bounds=bounds, numbers=numbers)


@pytest.mark.parametrize(
    ("slope", "at_least", "fine"),
    [(0.2, 0.1, True), (0.25, 0.1, True), (0.3, 0.1, False), (0.3, 0.0, True), (0.3, -1, True)],
)
@pytest.mark.parametrize("name", ["error_drift", "loss_drift"])
def test_only_a_sure_drift_counts(name, slope, at_least, fine):
    drift = Drift(per_100=slope, at_least=at_least, frames=20, matched=True)
    verdict = judged((name, 0.25), **{name: drift})
    assert verdict.accepted == fine
    assert ("not surely above 0" in verdict.checks[1].sentence) == (fine and slope > 0.25)


def test_bounds_are_kept_at_their_very_value():
    for excess, took, fine in ((0.1, 10, True), (0.11, 11, False), (0.1, None, False)):
        cut = CutRecovery(frames=20, reset_excess=excess, worst_frame=1, recovery=took)
        assert judged(("recovery_frames", 10), cut=cut).accepted == fine
        assert judged(("reset_excess", 0.1), cut=cut).accepted == (excess <= 0.1)
    for psnr, fine in ((50.0, True), (49.99, False), (None, True)):
        assert judged(("worst_psnr", 50.0), psnr=(None, psnr, 60.0)).accepted == fine
    for share, fine in ((0.999, True), (0.99899, False)):
        assert judged(("within_one", 0.999), within_one=share).accepted == fine
    for steps, fine in ((1, True), (2, False)):
        assert judged(("max_steps", 1), max_steps=(0, steps)).accepted == fine
    for better, worse, metric, name in (
        (26.0, 25.75, "psnr", "psnr_loss"), (0.5, 0.75, "lpips", "lpips_loss"),
        (0.5, 0.75, "tof", "tof_loss"), (0.5, 0.75, "flicker", "flicker_loss"),
    ):  # fmt: skip
        field = {"psnr": "psnr_y"}.get(metric, metric)
        score = Score(metric=metric, candidate=worse, reference=better)
        numbers = {field: score, "late_loss": 0.0}
        assert score.loss == 0.25
        assert judged((name, 0.25), **numbers).accepted
        assert not judged((name, 0.24), **numbers).accepted
        swapped = {field: Score(metric=metric, candidate=better, reference=worse), "late_loss": 0.0}
        assert judged((name, 0.0), **swapped).accepted
    verdict = judged(("max_steps", 1), frames=29)
    assert verdict.reasons == ("29 frames were compared, required 30",)
    assert "99.8999%" in judged(("within_one", 0.999), within_one=0.8 + 0.19899995).reasons[0]


def leaves(data, path=()):
    if isinstance(data, dict | list):
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in pairs:
            yield from leaves(value, (*path, key))
        yield path
    else:
        yield path


def at(data, path):
    for key in path:
        data = data[key]
    return data


def test_a_verdict_is_read_strictly(full):
    data = json.loads(json.dumps(full.as_dict()))
    before = copy.deepcopy(data)
    assert Verdict.from_dict(data) == full
    assert data == before
    paths = [p for p in leaves(data) if p and not (isinstance(p[-1], int) and p[-1] > 2)]
    assert len(paths) > 60
    for path in paths:
        for wrong in (b"other", [[]], {"a": 1}, math.nan, "?", True, 10**400):
            right = at(data, path)
            if (path[-1] == "name" and wrong == "?") or right is wrong:
                continue
            if wrong == 10**400 and type(right) is int:
                continue
            changed = copy.deepcopy(data)
            at(changed, path[:-1])[path[-1]] = wrong
            with pytest.raises(ValueError, match="verdict"):
                Verdict.from_dict(changed)
        if isinstance(path[-1], str):
            changed = copy.deepcopy(data)
            if path != ("broken_off",):
                del at(changed, path[:-1])[path[-1]]
                with pytest.raises(ValueError, match="verdict"):
                    Verdict.from_dict(changed)
    for path in [(), ("numbers",), ("numbers", "cut"), ("bounds",)]:
        changed = copy.deepcopy(data)
        at(changed, path)["surplus"] = 1
        with pytest.raises(ValueError, match="unknown 'surplus'"):
            Verdict.from_dict(changed)
    for nothing in (None, [], "verdict", 3):
        with pytest.raises(ValueError, match="expected an object"):
            Verdict.from_dict(nothing)


def test_a_verdict_cannot_be_flipped(full, clip):
    lies = [{"accepted": True}, {"reasons": []}, {"accepted": 0}]
    for lie in lies:
        with pytest.raises(ValueError, match="from its numbers follows"):
            Verdict.from_dict({**full.as_dict(), **lie})
    kind = full.as_dict()
    kind["bounds"]["psnr_loss"] = 40.0
    with pytest.raises(ValueError, match="from its numbers follows"):
        Verdict.from_dict(kind)
    kind = run(Perfect(), clip, FP16).as_dict()
    kind["numbers"]["max_steps"] = [3] * 30
    assert Verdict.from_dict(kind).accepted  # FP16 does not limit the largest difference
    kind["numbers"]["psnr"][4] = 20.0
    with pytest.raises(ValueError, match="from its numbers follows"):
        Verdict.from_dict(kind)
    kind = run(Perfect(), clip, FP16).as_dict()
    kind["numbers"]["cut"] = None  # a bound without its number is a broken one
    with pytest.raises(ValueError, match="from its numbers follows"):
        Verdict.from_dict(kind)


# --- models ----------------------------------------------------------------------------------


def test_sessions_are_driven_as_the_contract_says(clip, fake_session):
    from teco.verification.temporal_gate import GateClip, run_temporal_gate

    candidate, reference = fake_session(), fake_session()
    done = []
    verdict = run_temporal_gate(
        candidate, reference, GateClip(clip), bounds=FP16, progress=lambda *told: done.append(told)
    )
    assert verdict.accepted
    assert done[-1] == (30, 30)
    tail = FP16.recovery_frames + STAYS
    starts = [n for n, state in enumerate(candidate.states) if state is None]
    assert starts == [0, 30 + tail, 30 + 2 * tail]
    assert all(state in (None, n - 1) for n, state in enumerate(candidate.states))
    given = [np.rint(lr[0].transpose(1, 2, 0) * 255).astype(np.uint8) for lr, _ in candidate.calls]
    assert all(np.array_equal(a, b) for a, b in zip(given[:30], endless(clip, 30), strict=True))
    assert np.array_equal(given[30], clip[0][::-1, ::-1])
    assert np.array_equal(given[30 + tail], clip[0])
    assert reference.states == candidate.states


def test_of_a_long_clip_only_what_comes_again_is_used(clip, fake_session):
    from teco.verification.temporal_gate import GateClip, run_temporal_gate

    bounds = replace(NO_TRUTH, frames=60)
    session = fake_session()
    verdict = run_temporal_gate(session, fake_session(), GateClip(clip), bounds=bounds)
    assert verdict.numbers.error_drift.matched
    given = [np.rint(lr[0].transpose(1, 2, 0) * 255).astype(np.uint8) for lr, _ in session.calls]
    assert all(np.array_equal(a, b) for a, b in zip(given, endless(clip[:15], 60), strict=False))
    truth = [big(lr) for lr in clip]
    bounds = replace(bounds, psnr_loss=0.1)
    verdict = run_temporal_gate(session, fake_session(), GateClip(clip, truth), bounds=bounds)
    assert verdict.numbers.psnr_y.reference == 100
    scene = GateClip(clip, truth)
    longer = run_temporal_gate(session, fake_session(), scene, bounds=bounds, count=80)
    assert longer.numbers.frames == 80
    bounds = Bounds(name="all of it", frames=60, psnr_loss=0.1)
    session = fake_session()
    run_temporal_gate(session, fake_session(), GateClip(clip, truth), bounds=bounds)
    assert len({lr.tobytes() for lr, _ in session.calls[:60]}) == 25


def test_a_session_is_rounded_as_a_user_would_see_it(clip, fake_session):
    from teco.core.pixels import to_pixels, to_tensor
    from teco.verification.temporal_gate import GateClip, run_temporal_gate

    class Half(fake_session):
        """Off by 0.4 steps, which rounding hides; with a NaN or too much once if told to."""

        once = None

        def step(self, lr, state):
            hr, state = super().step(lr, state)
            hr += np.float32(0.4 / 255)
            if self.once is not None and len(self.calls) == 6:
                hr[0, 1, 2, 3] = self.once
            return hr, state

    class Pictures(Half):
        def enlarge(self, frame, state):
            hr, state = self.step(to_tensor(frame), state)
            if not np.isfinite(hr).all():
                raise FloatingPointError
            return to_pixels(hr) + np.uint8(1), state

    verdict = run_temporal_gate(Half(), fake_session(), GateClip(clip), bounds=FP32)
    assert verdict.numbers.psnr == (None,) * 30
    session = Pictures()
    verdict = run_temporal_gate(session, fake_session(), GateClip(clip), bounds=FP32)
    assert set(verdict.numbers.max_steps) == {1}
    assert session.states[:30] == [None, *range(29)]
    assert session.states.count(None) == 3
    for kind in (Half, Pictures):
        session = kind()
        session.once = np.nan
        verdict = run_temporal_gate(session, fake_session(), GateClip(clip), bounds=FP32)
        assert verdict.reasons == ("the candidate gave NaN or infinite values at frame 5",)
    session = fake_session(fail_at=8)
    with pytest.raises(RuntimeError, match="told to fail"):
        run_temporal_gate(session, fake_session(), GateClip(clip), bounds=FP32)


def test_read_clip_takes_the_first_scene(texture, make_pictures, tmp_path):
    from teco.verification.temporal_gate import read_clip
    from teco_calibration.degrade import degrade

    shots = texture(9, 192, 128, seed=1) + texture(4, 192, 128, seed=2)
    make_pictures(tmp_path / "clip", shots)
    clip = read_clip(str(tmp_path / "clip"), "bd")
    assert len(clip.frames) == len(clip.truth) == 9
    for lr, truth, shot in zip(clip.frames, clip.truth, shots, strict=False):
        assert np.array_equal(truth, shot)
        assert np.array_equal(lr, degrade(shot, "bd"))
    assert len(read_clip(str(tmp_path / "clip"), "bi", max_frames=5).frames) == 5
    assert read_clip(str(tmp_path / "clip"), "bd", shrink=2).truth[0].shape == (64, 96, 3)


def test_default_frames_move(fake_session):
    from teco.verification.temporal_gate import GateClip, default_frames, run_temporal_gate
    from teco_models.errors import ModelError

    frames = default_frames(20, 36, 12)
    assert len(frames) == 12
    assert all(f.shape == (20, 36, 3) and f.dtype == np.uint8 for f in frames)
    assert all((a != b).mean() > 0.5 for a, b in pairwise(frames))
    assert np.array_equal(frames[0][1:], frames[1][:-1])  # a row further, where it began
    assert run_temporal_gate(fake_session(), fake_session(), GateClip(frames), bounds=FP16).accepted
    with pytest.raises(ModelError):
        default_frames(7, 36, 12)


def test_a_real_model_on_two_runtimes(tiny_weights, tiny_onnx):
    """ONNX Runtime is PyTorch to rounding; the same with a worn state is not."""
    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, find
    from teco.verification.temporal_gate import GateClip, default_frames, run_temporal_gate

    options = SessionOptions(threads=1)
    reference = find("pytorch").open(open_model(str(tiny_weights)), options)
    session = find("onnxruntime").open(open_model(str(tiny_onnx)), options)
    clip = GateClip(default_frames(16, 24, 16))
    verdict = run_temporal_gate(session, reference, clip, bounds=FP32)
    assert verdict.accepted, verdict.reasons

    class Stale:
        """Never starts a scene anew after its first one."""

        runtime = details = "stale"

        def __init__(self):
            self.last = None

        def step(self, lr, state):
            hr, self.last = session.step(lr, self.last)
            return hr, self.last

        def close(self):
            pass

    assert broken(run_temporal_gate(Stale(), reference, clip, bounds=FP32)) == ["reset_excess"]
    session.close()
    reference.close()
