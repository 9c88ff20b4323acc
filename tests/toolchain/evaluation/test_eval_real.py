"""The real degradation: everything lies about pixel centres, and the default network is for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from paths import ROOT

from teco_calibration.degrade import baseline, degrade, degrade_real
from teco_calibration.metrics.best_shift import BestShift

CLIP = ROOT / "examples" / "city_hr.mp4"


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    import cv2

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (128, 96), interpolation=cv2.INTER_CUBIC))


def shift_of(truth, output) -> tuple[float, float]:
    found = BestShift()
    for _ in range(3):
        found.add(truth, output)
    return found.result()


@pytest.mark.parametrize("filter", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize("up", ["bicubic", "lanczos", "bilinear"])
def test_shrinking_and_enlarging_move_nothing(texture, filter, up) -> None:
    low = degrade_real(texture, filter)
    assert low.shape == (24, 32, 3)
    assert shift_of(texture, baseline(up, "real")(low)) == (0, 0)


def test_another_phase_is_found(texture) -> None:
    low = degrade(texture, "real")
    right, down = shift_of(texture, baseline("bicubic", "bd")(low))
    assert (right, down) == (-1.5, -1.5)
    assert shift_of(texture, np.roll(texture, (1, 2), (0, 1))) == (2, 1)


def test_a_mean_of_blocks() -> None:
    hr = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert degrade(hr, "real", "area")[1, 0, 2] == round(hr[4:, :4, 2].mean())


def test_the_usual_network_is_better_than_bicubic_in_its_place(teco, tmp_path) -> None:
    file = tmp_path / "a.json"
    done = teco(
        "eval", "--runtime", "onnxruntime", "--clip", CLIP, "--frames", 9,
        "--degradation", "real", "--codec", "x264:23", "--metrics", "psnr,tof", "--json", file,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = json.loads(file.read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert found["degradation"] == "real"
    assert rows.keys() == {"real-cpu", "bicubic", "lanczos"}
    assert all(row["best_shifts"] == [[0, 0]] for row in rows.values())
    psnr = {name: row["frame_average"]["psnr"] for name, row in rows.items()}
    assert psnr["real-cpu"] > psnr["bicubic"] + 0.2
    assert psnr["real-cpu"] > psnr["lanczos"]


def test_a_network_for_papers_says_so(teco, tmp_path) -> None:
    options = ("--runtime", "onnxruntime", "--frames", 1)
    clip = ROOT / "examples" / "city.mp4"
    usual = teco("upscale", clip, tmp_path / "a.mp4", *options)
    assert usual.code == 0
    assert "paper" not in usual.stderr
    other = teco("upscale", clip, tmp_path / "b.mp4", "--model", "live", *options)
    assert other.code == 0
    assert "for papers" in other.stderr
    assert "real-cpu" in other.stderr
    for scale in (2, 3):
        teco("upscale", clip, tmp_path / "c.mp4", "--scale", scale).refuses(2, "enlarges 4 times")


def test_one_clip_is_not_made_small_in_two_ways(teco) -> None:
    teco("bench", "real-cpu", "live", "--clip", CLIP, "--runtime", "onnxruntime").refuses(
        2, "real-cpu expects real, live expects bd", "teco table", after=("starting", "opening")
    )


def test_a_codec_that_nothing_goes_through(teco) -> None:
    options = ("--data", CLIP, "--no-time", "--codec", "x264:23")
    teco("table", *options, "--model", "live").refuses(2, "--codec", "there is none")
    teco("table", *options, "--inputs", "given").refuses(2, "--codec", "there is none")
