"""The real degradation: everything lies about pixel centres, and the default network is for it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from paths import ROOT

from teco.video.clips import open_source
from teco_calibration.degrade import baseline, degrade, degrade_real
from teco_calibration.errors import ClipError
from teco_calibration.metrics.best_shift import BestShift

CLIP = ROOT / "examples" / "city_hr.mp4"


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (128, 96), interpolation=cv2.INTER_CUBIC))


def shift_of(truth, output) -> tuple[float, float]:
    found = BestShift()
    for _ in range(3):
        found.add(truth, output)
    return found.result()


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("filter", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize("up", ["bicubic", "lanczos", "bilinear"])
def test_shrinking_and_enlarging_move_nothing(texture, filter, up, scale) -> None:
    low = degrade_real(texture, filter, scale)
    assert low.shape == (96 // scale, 128 // scale, 3)
    assert shift_of(texture, baseline(up, "real", scale)(low)) == (0, 0)


def test_bicubic_of_scale_2_is_that_of_others(texture) -> None:
    ours = baseline("bicubic", "real", 2)(texture)
    theirs = cv2.resize(texture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_papers_shrink_by_four(texture) -> None:
    with pytest.raises(ClipError, match="bd makes a picture 4 times smaller, not 2"):
        degrade(texture, "bd", scale=2)


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
    teco("upscale", clip, tmp_path / "c.mp4", "--scale", 3).refuses(2, "3 times", "2 or 4")
    teco("upscale", clip, tmp_path / "c.mp4", "--scale", 2, "--model", "live").refuses(
        2, "live enlarges 4 times", "--model real-cpu-x2"
    )


def test_twice_is_half_of_four_times(teco, tmp_path) -> None:
    """The command, its evaluation, the bench and the table at scale 2."""
    options = ("--runtime", "onnxruntime", "--threads", 1)
    done = teco("upscale", CLIP, tmp_path / "a.mkv", "--scale", 2, "--frames", 3, *options)
    assert done.code == 0, done.stderr
    assert "real-cpu-x2 on" in done.stderr
    with open_source(CLIP) as before, open_source(tmp_path / "a.mkv") as after:
        assert (after.width, after.height) == (2 * before.width, 2 * before.height)
    file = tmp_path / "a.json"
    done = teco(
        "eval", "--model", "real-cpu-x2", "--clip", CLIP, "--frames", 9, "--codec", "x264:23",
        "--metrics", "psnr", "--json", file, *options,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    rows = {r["method"]: r["frame_average"]["psnr"] for r in json.loads(file.read_text())["rows"]}
    assert rows["real-cpu-x2"] > rows["bicubic"] + 0.2
    bd = ("--degradation", "bd", "--metrics", "psnr")
    teco("eval", "--model", "real-cpu-x2", "--clip", CLIP, *bd).refuses(
        2, "enlarges 2 times, and bd makes clips 4 times smaller", "--degradation real"
    )
    teco("bench", "real-cpu", "real-cpu-x2", "--clip", CLIP, *options).refuses(
        2, "real-cpu enlarges 4 times, real-cpu-x2 enlarges 2 times", after=("starting", "opening")
    )
    teco("table", "--data", CLIP, "--no-time", "--model", "live", "--model", "real-cpu-x2").refuses(
        2, "live enlarges 4 times, real-cpu-x2 enlarges 2 times"
    )


def test_one_clip_is_not_made_small_in_two_ways(teco) -> None:
    teco("bench", "real-cpu", "live", "--clip", CLIP, "--runtime", "onnxruntime").refuses(
        2, "real-cpu expects real, live expects bd", "teco table", after=("starting", "opening")
    )


def test_a_codec_that_nothing_goes_through(teco) -> None:
    options = ("--data", CLIP, "--no-time", "--codec", "x264:23")
    teco("table", *options, "--model", "live").refuses(2, "--codec", "there is none")
    teco("table", *options, "--inputs", "given").refuses(2, "--codec", "there is none")
