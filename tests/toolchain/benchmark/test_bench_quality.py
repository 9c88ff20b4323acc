"""The benchmark's quality: official figures, who shares them, and clips that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from official_metrics import (
    restated_crop,
    restated_lpips,
    restated_psnr,
    restated_ssim,
    restated_tof,
    restated_y,
)

from teco.benchmark.quality.clip import open_truth, resize_to_cover
from teco.benchmark.quality.measure import (
    Gallery,
    MeasuredQuality,
    QualityOptions,
    measure_interpolations,
    measure_quality,
)
from teco.core.errors import TecoError
from teco.core.pixels import to_pixels, to_tensor
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
from teco_calibration.degrade import bicubic_bd
from teco_calibration.metrics.quality import Lpips
from teco_calibration.records import from_data, to_data

OPTIONS = QualityOptions(
    metrics=("psnr", "ssim", "tof", "flicker"), threads=1, distance_frames=5, scene_frames=18,
    places=2, length=6, run=30, crop=(16, 20),
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory, make_clip):
    path = make_clip(tmp_path_factory.mktemp("clip") / "truth.mp4", width=112, height=96, frames=20)
    return open_truth(path, max_frames=9)


@pytest.fixture(scope="module")
def model(tiny_onnx, tiny_weights):
    """The file with its weights, so that there is a float32 step to compare with."""
    return replace(open_model(str(tiny_onnx)), weights=tiny_weights)


class Bent:
    """A runtime that makes everything brighter, and may say that it is exact."""

    name = "bent"
    suffixes = (".onnx",)

    def __init__(self, steps: float, *, exact: bool) -> None:
        self.steps, self.exact = steps, exact

    def open(self, model, options):
        session = find("onnxruntime").open(model, options)
        step = session.step

        class Brighter:
            runtime, details = "bent", ""

            def step(inner, lr, state):
                hr, state = step(lr, state)
                return hr + np.float32(self.steps / 255), state

            def close(inner) -> None:
                session.close()

        return Brighter()


def by_hand(model, clip, *, brighter: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(truth, outputs) of ONNX Runtime, frame after frame, by the plainest loop."""
    session = find("onnxruntime").open(model, SessionOptions(threads=1))
    truth, outputs, state = [], [], None
    for gt, lr in clip.pairs():
        hr, state = session.step(to_tensor(lr), state)
        truth.append(gt)
        outputs.append(to_pixels(hr + np.float32(brighter / 255)))
    session.close()
    return truth, outputs


def check_official(values, truth, outputs) -> None:
    """Every value of a record beside a restatement: frames 2 .. N-3, the centred window."""
    counted = range(2, len(truth) - 2)
    crop = restated_crop
    for metric, restated in (("psnr", restated_psnr), ("ssim", restated_ssim)):
        expected = [restated(crop(truth[n]), crop(outputs[n])) for n in counted]
        assert values[metric] == pytest.approx(expected, rel=1e-6), metric
    pairs = list(counted)[1:]
    expected = [restated_tof(truth[n - 1], truth[n], outputs[n - 1], outputs[n]) for n in pairs]
    assert values["tof"] == pytest.approx(expected, rel=1e-5)
    error = {n: restated_y(crop(outputs[n])) - restated_y(crop(truth[n])) for n in counted}
    assert values["flicker"] == pytest.approx(
        [np.abs(error[n] - error[n - 1]).mean() for n in pairs]
    )


@pytest.fixture(scope="module")
def measured(model, clip) -> tuple[list[MeasuredQuality], Gallery]:
    gallery = Gallery()
    measure_interpolations(clip, OPTIONS, gallery=gallery, wanted=2)
    runtimes = [
        find("onnxruntime"),
        Bent(0, exact=True),
        Bent(3, exact=True),
        Bent(3, exact=False),
    ]
    found = measure_quality(
        [(model, runtime) for runtime in runtimes], clip, OPTIONS, frames=9, gallery=gallery
    )
    return list(found), gallery


def test_figures_are_the_official_ones(measured, model, clip) -> None:
    """Restated in the test, on what a hand-written loop gives."""
    truth, outputs = by_hand(model, clip, brighter=3)
    one = measured[0][3].quality
    assert (one.seen, one.first, one.frames, one.window[2:]) == (9, 2, 5, (64, 96))
    assert one.measured_on == "bent"
    check_official(one.values, truth, outputs)
    for metric, values in one.values.items():
        assert one.means[metric] == pytest.approx(fmean(values))


@pytest.mark.fetched
def test_perceptual_figures_are_the_official_ones(model, clip) -> None:
    if reason := Lpips.why_unavailable():
        pytest.skip(reason)
    truth, outputs = by_hand(model, clip, brighter=3)
    options = replace(OPTIONS, metrics=("lpips", "tlp"), places=1)
    (one,) = measure_quality([(model, Bent(3, exact=False))], clip, options, frames=9)
    assert len(one.quality.cold_start.lpips) == len(one.quality.cold_start.settled_lpips) == 6
    distance, crop = restated_lpips(), restated_crop
    counted = range(2, 7)
    expected = [distance(crop(truth[n]), crop(outputs[n])) for n in counted]
    assert one.quality.values["lpips"] == pytest.approx(expected, rel=1e-4)
    expected = [
        100
        * abs(
            distance(crop(truth[n - 1]), crop(truth[n]))
            - distance(crop(outputs[n - 1]), crop(outputs[n]))
        )
        for n in list(counted)[1:]
    ]
    assert one.quality.values["tlp"] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_interpolations_and_the_clip(clip) -> None:
    found, (bicubic, bilinear) = measure_interpolations(clip, OPTIONS)
    assert (found.name, found.width, found.height, found.frames) == ("truth.mp4", 112, 96, 9)
    assert found.truth == ""
    assert len(found.sha256) == 64
    assert (bicubic.method, bilinear.method) == ("bicubic", "bilinear")
    pairs = list(clip.pairs())
    check_official(bicubic.values, [gt for gt, _ in pairs], [bicubic_bd(lr) for _, lr in pairs])
    assert bicubic.cold_start is None


def test_who_shares_figures_is_decided_by_pictures(measured) -> None:
    """Not by labels: a runtime that says it is exact and is not, is measured itself."""
    honest, zero, liar, lossy = measured[0]
    assert [m.index for m in measured[0]] == [0, 1, 2, 3]
    assert honest.quality is zero.quality
    assert honest.quality.measured_on == "pytorch"
    assert honest.distance.max_steps <= 1
    assert honest.distance.frames == 5
    for bent in (liar, lossy):
        assert bent.quality.measured_on == "bent"
        assert bent.quality is not honest.quality
        assert 2 <= bent.distance.max_steps <= 4
        assert bent.distance.within_one < 0.5
        # 3 steps everywhere, but where that would be beyond white.
        assert bent.distance.min_psnr == pytest.approx(20 * np.log10(255 / 3), abs=1.5)
        assert len(bent.quality.values["psnr"]) == 5
    assert honest.quality.drift.of == "psnr"
    assert honest.quality.cold_start.size == "16x20"
    assert len(honest.quality.cold_start.psnr) == 6
    assert honest.quality.cold_start.starts == (6, 12)
    for one in measured[0]:
        record = to_data(one.quality), to_data(one.distance)
        assert from_data(type(one.quality), record[0]) == one.quality
        assert from_data(type(one.distance), record[1]) == one.distance


def test_pictures_for_the_report(measured, model, clip) -> None:
    found, gallery = measured
    assert gallery.frames == (2, 5)
    truth, outputs = by_hand(model, clip, brighter=3)
    assert [m.shows for m in found[:2]] == ["tiny in float32"] * 2
    assert found[3].shows == "tiny on bent"
    for n, frame in enumerate(gallery.frames):
        assert np.array_equal(gallery.pixels["truth"][n], truth[frame])
        assert np.array_equal(gallery.pixels["tiny on bent"][n], outputs[frame])


def test_without_a_reference_each_is_measured_itself(tiny_onnx, clip) -> None:
    model = open_model(str(tiny_onnx))
    options = replace(OPTIONS, metrics=("psnr",), recurrence=False)
    pair = (model, find("onnxruntime"))
    (one,) = measure_quality([pair], clip, options, frames=9)
    assert one.quality.measured_on == "onnxruntime"
    assert one.distance is None
    assert "weights that are not shipped" in one.note


def test_short_clips_have_no_curve(model, tmp_path, make_clip) -> None:
    clip = open_truth(make_clip(tmp_path / "short.mp4", width=64, height=64, frames=9))
    (one,) = measure_quality([(model, find("onnxruntime"))], clip, OPTIONS, frames=9)
    assert one.quality.cold_start is None
    assert one.quality.drift is None
    note = "the first scene has 9 frames, a cold-start curve and drift need 18"
    assert note in one.quality.notes


# --- clips that do not fit ---------------------------------------------------------------------


@pytest.fixture
def two_clips(tmp_path, make_clip):
    def make(low: tuple[int, int, int], high: tuple[int, int, int]) -> tuple[Path, Path]:
        paths = tmp_path / "low.mp4", tmp_path / "high.mp4"
        for path, (width, height, frames) in zip(paths, (low, high), strict=True):
            make_clip(path, width=width, height=height, frames=frames)
        return paths

    return make


def test_a_truth_of_its_own(two_clips) -> None:
    low, high = two_clips((28, 24, 6), (112, 96, 6))
    clip = open_truth(low, truth=high)
    pairs = list(clip.pairs())
    assert len(pairs) == 6
    assert clip.size == (24, 28)
    assert pairs[0][1].shape == (24, 28, 3)
    assert pairs[0][0].shape == (96, 112, 3)
    found, _ = measure_interpolations(clip, replace(OPTIONS, metrics=("psnr",)))
    assert found.truth == "high.mp4"


@pytest.mark.parametrize("longer", ["low", "high"])
def test_a_truth_of_another_length_is_refused_before_measuring(two_clips, longer) -> None:
    counts = (7, 6) if longer == "low" else (6, 7)
    low, high = two_clips((28, 24, counts[0]), (112, 96, counts[1]))
    with pytest.raises(TecoError, match=r"has 6 frames, and .* has more") as caught:
        open_truth(low, truth=high)
    assert caught.value.exit_code == 2
    assert "--frames 6" in caught.value.hint
    assert len(list(open_truth(low, truth=high, max_frames=6).pairs())) == 6


def test_a_truth_of_another_size_is_refused(two_clips) -> None:
    low, high = two_clips((28, 24, 2), (110, 96, 2))
    with pytest.raises(TecoError, match="is 110x96, expected 112x96: 4 times") as caught:
        open_truth(low, truth=high)
    assert caught.value.exit_code == 2
    for option in ({"shrink": 2.0}, {"fit": (24, 28)}):
        with pytest.raises(TecoError, match="changes the size of a truth"):
            open_truth(low, truth=high, **option)


def test_fitting_covers_and_cuts(tmp_path, make_clip) -> None:
    clip = open_truth(make_clip(tmp_path / "c.mp4", width=112, height=96, frames=2), fit=(16, 16))
    (truth, lr), *_ = clip.pairs()
    assert lr.shape == (16, 16, 3)
    assert truth.shape == (64, 64, 3)
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    assert resize_to_cover(picture, (40, 40)).min() == 255, "the middle, at its own scale"
    assert resize_to_cover(picture, (80, 160)).shape == (80, 160, 3)
