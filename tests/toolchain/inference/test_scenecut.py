"""scenecut.py on moving pictures made here, so that where the cuts are is known."""

import os
import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from teco.inference.scene_cuts import SceneCutDetector, change, sketch

WIDTH, HEIGHT = 320, 180
MEAN = 110


def canvas(seed, height=HEIGHT, width=WIDTH, mean=MEAN):
    """A scene in RGB: detail at several scales, the same mean luma for every seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (60, 24, 10, 4):
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    total += 2 * total.mean(axis=2, keepdims=True)  # mostly luma, a little colour
    total -= total.mean()
    return np.clip(mean + total * (35 / total.std()), 0, 255).astype(np.uint8)


def pan(seed, count, step, height=HEIGHT, width=WIDTH):
    """``count`` frames of one scene, moved by ``step`` = (down, right) pixels a frame."""
    down, right = step
    room = (abs(down) * count, abs(right) * count)
    scene = canvas(seed, height + room[0], width + room[1])
    tops = [down * i if down >= 0 else room[0] + down * i for i in range(count)]
    lefts = [right * i if right >= 0 else room[1] + right * i for i in range(count)]
    pairs = zip(tops, lefts, strict=True)
    return [np.ascontiguousarray(scene[t : t + height, x : x + width]) for t, x in pairs]


def lit(frame, gain, offset=0.0):
    return np.clip(frame * gain + offset, 0, 255).astype(np.uint8)


def cuts(frames, detector=None):
    detector = detector or SceneCutDetector()
    return [i for i, frame in enumerate(frames) if detector.is_cut(frame)]


def test_the_first_frame_is_no_cut():
    detector = SceneCutDetector()
    assert detector.is_cut(canvas(0)) is False
    assert detector.score == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_between_equally_lit_scenes_is_found_at_its_first_frame(seed):
    before, after = pan(seed, 6, (1, 2)), pan(seed + 100, 6, (0, -2))
    assert abs(float(before[-1].mean()) - float(after[0].mean())) < 6
    assert cuts(before + after) == [6]


def test_shots_of_few_frames_are_each_found():
    shots = [pan(seed, length, (0, 2)) for seed, length in enumerate((3, 1, 2, 1, 4))]
    starts = np.cumsum([len(shot) for shot in shots])[:-1].tolist()
    assert cuts([frame for shot in shots for frame in shot]) == starts


def test_cuts_are_found_between_the_smallest_pictures():
    first, second = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert cuts([*[first] * 6, second, second]) == [6]


@pytest.mark.parametrize("size", [(30, 40), (9, 31), (64, 64), (180, 320), (300, 130), (721, 1283)])
def test_cuts_are_found_at_any_size(size):
    height, width = size
    before, after = (canvas(seed, 800, 1300) for seed in (3, 4))
    before, after = (
        cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA)
        for scene in (before, after)
    )
    assert cuts([before, before, before, after, after]) == [3]


@pytest.mark.parametrize("step", [(0, 36), (0, -36), (18, 0), (-16, 30), (3, 7)])
def test_a_fast_pan_is_no_cut(step):
    frames = pan(5, 12, step)
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]
    if max(map(abs, step)) > 10:
        assert min(apart) > 20  # by plain difference as far apart as two scenes
    assert cuts(frames) == []


def test_a_cut_in_the_middle_of_fast_pans_is_found():
    assert cuts(pan(6, 8, (0, 30)) + pan(7, 8, (16, -24))) == [8]


def test_hand_held_shake_is_no_cut():
    rng = np.random.default_rng(8)
    scene = canvas(8, HEIGHT + 40, WIDTH + 40)
    offsets = rng.integers(0, 25, (20, 2))
    assert cuts([scene[y : y + HEIGHT, x : x + WIDTH] for y, x in offsets]) == []


def test_noise_is_no_cut_and_hides_none():
    rng = np.random.default_rng(9)
    frames = [lit(f, 1.0, rng.normal(0, 25, f.shape)) for f in [canvas(9)] * 8 + [canvas(10)] * 8]
    assert cuts(frames) == [8]


@pytest.mark.parametrize(("gain", "offset"), [(1.6, 0), (1.0, 70), (0.45, 0), (0.6, 90)])
def test_a_flash_of_one_frame_is_no_cut(gain, offset):
    frames = pan(11, 9, (0, 3))
    frames[4] = lit(frames[4], gain, offset)
    assert abs(float(frames[4].mean()) - MEAN) > 35
    assert cuts(frames) == []


@pytest.mark.parametrize("contrast", [1 / 3, 2.5])
def test_a_sudden_change_of_contrast_is_no_cut(contrast):
    scene = lit(canvas(51), 0.4, 0.6 * MEAN)
    other = lit(scene, contrast, (1 - contrast) * MEAN)
    assert cuts([scene, scene, scene, other, other, scene]) == []


@pytest.mark.parametrize("length", [10, 24])
def test_fades_from_and_to_black_are_no_cuts(length):
    levels = np.concatenate([np.linspace(0, 1, length), np.linspace(1, 0, length)])
    frames = pan(12, len(levels), (0, 2))
    assert cuts([lit(f, level) for f, level in zip(frames, levels, strict=True)]) == []


def test_flat_pictures_are_no_cuts_but_detail_after_them_is():
    black, grey = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    assert cuts([black, black, grey, grey, canvas(13), canvas(13), black]) == [4, 6]


def wild(base, seeds):
    """Frames of one scene that change a lot: a quarter of each is new."""
    shared = canvas(base).astype(float)
    return [lit(0.7 * shared + 0.3 * canvas(seed), 1.0) for seed in seeds]


def test_violent_motion_raises_what_a_cut_must_exceed():
    frames, other = wild(40, range(41, 49)), canvas(50)
    assert cuts(frames, SceneCutDetector(threshold=0.35, caution=0.0)) == list(range(1, 8))
    assert cuts([*frames, other], SceneCutDetector(threshold=0.35, caution=0.7)) == [8]


def test_memory_is_how_far_back_violent_motion_counts():
    frames = [*wild(60, range(61, 66)), *[canvas(60)] * 5, canvas(70)]
    assert cuts(frames, SceneCutDetector(caution=1.8, memory=3)) == [10]
    assert cuts(frames, SceneCutDetector(caution=1.8, memory=50)) == []


@pytest.mark.parametrize("begin", ["cut", "reset"])
def test_a_shot_only_begun_is_judged_as_violent_motion(begin):
    """By what came before alone, a still shot, the last frame would be a cut: it is one there."""
    detector = SceneCutDetector(caution=0.9, memory=8)
    still = [canvas(71)] * 20
    assert cuts([*still, canvas(72)], detector) == [20]
    if begin == "reset":
        assert cuts(still, detector) == []
        detector.reset()
        assert cuts([canvas(72)], detector) == []
    assert cuts([canvas(73)], detector) == []
    assert cuts([*[canvas(73)] * 20, canvas(74)], detector) == [20]


def test_a_new_size_starts_anew():
    detector = SceneCutDetector()
    small = cv2.resize(canvas(15), (160, 90), interpolation=cv2.INTER_AREA)
    assert cuts([canvas(14), canvas(14)], detector) == []
    assert not detector.is_cut(small)
    assert detector.score == 0.0
    assert not detector.is_cut(small)
    assert detector.is_cut(cv2.resize(canvas(14), (160, 90), interpolation=cv2.INTER_AREA))


def test_reset_makes_the_next_frame_a_first_frame():
    detector = SceneCutDetector()
    assert cuts([canvas(16), canvas(17)], detector) == [1]
    detector.reset()
    assert detector.score == 0.0
    assert not detector.is_cut(canvas(16))
    assert detector.is_cut(canvas(17))


def test_the_answer_depends_on_no_later_frame_and_on_no_buffer_of_the_caller():
    frames = pan(18, 4, (0, 5)) + pan(19, 4, (0, 5))
    apart = cuts(frames)
    buffer = np.empty_like(frames[0])
    detector = SceneCutDetector()
    found = []
    for i, frame in enumerate(frames):
        buffer[:] = frame
        found += [i] if detector.is_cut(buffer) else []
        buffer[:] = 0
    assert found == apart == [4]


def test_change_is_nought_for_the_same_and_about_one_for_unrelated():
    a, b = sketch(canvas(20)), sketch(canvas(21))
    assert change(a, a) == 0.0
    assert 0.8 < change(a, b) < 1.1
    assert change(a, b) == pytest.approx(change(b, a))


def test_change_is_the_block_search_it_says_it_is():
    """Against loops over blocks and shifts, to the rounding of the block means."""
    a, b = sketch(canvas(22, 90, 160)), sketch(canvas(23, 90, 160))

    def unexplained(target, source):
        h, w = target.detail.shape
        padded = np.pad(source.detail, 8, mode="edge").astype(int)
        best = []
        for y in range(0, h, 16):
            for x in range(0, w, 16):
                block = target.detail[y : y + 16, x : x + 16].astype(int)
                best.append(
                    min(
                        np.abs(padded[y + j : y + j + 16, x + i : x + i + 16] - block).mean()
                        for j in range(17)
                        for i in range(17)
                    )
                )
        return np.mean(best) / 2

    both = unexplained(a, b) + unexplained(b, a)
    assert change(a, b) == pytest.approx(both / (a.amount + b.amount + 4), abs=0.03)


def test_importing_the_module_imports_no_opencv():
    code = "import sys, teco.inference.scene_cuts; sys.exit('cv2' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
