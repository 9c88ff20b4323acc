"""degrade.py against plain restatements: whole sums, in the words of each definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teco_calibration.degrade import (
    BD_TAPS,
    baseline,
    bd_kernel,
    bicubic_bd,
    bicubic_bi,
    bilinear_bd,
    bilinear_bi,
    crop_to_multiple,
    degrade,
    degrade_bd,
    degrade_bi,
)
from teco_calibration.errors import ClipError

sides = st.integers(1, 7)
seeds = st.integers(0, 2**32 - 1)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def to_8_bits(x):
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


# --- restatements ------------------------------------------------------------------------------


def restated_bd(hr):
    """The full 9x9 sum at every fourth pixel of the reflected picture."""
    g = [math.exp(-(d**2) / (2 * 1.5**2)) for d in range(-4, 5)]
    kernel = np.array([[a * b for b in g] for a in g])
    kernel /= kernel.sum()
    padded = np.pad(hr.astype(float), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    out = np.empty((hr.shape[0] // 4, hr.shape[1] // 4, 3))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            patch = padded[4 * i : 4 * i + 9, 4 * j : 4 * j + 9]
            out[i, j] = (patch * kernel[:, :, None]).sum(axis=(0, 1))
    return to_8_bits(out)


def cubic(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def triangle(x):
    return max(0.0, 1 - abs(x))


def imresize_matrix(n, scale, kernel, support):
    """MATLAB's ``contributions``, one output at a time, on one-based coordinates."""
    stretch = min(scale, 1.0)  # antialiasing: only when shrinking
    width = support / stretch
    mirror = [*range(n), *reversed(range(n))]
    matrix = np.zeros((math.ceil(n * scale), n))
    for row in range(len(matrix)):
        u = (row + 1) / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        taps = {k: stretch * kernel(stretch * (u - k)) for k in range(left, left + 3 + int(width))}
        total = sum(taps.values())
        for k, weight in taps.items():
            matrix[row, mirror[(k - 1) % (2 * n)]] += weight / total
    return matrix


def restated_imresize(picture, scale, kernel, support):
    rows = imresize_matrix(picture.shape[0], scale, kernel, support)
    columns = imresize_matrix(picture.shape[1], scale, kernel, support)
    return to_8_bits(np.einsum("ih,hwc,jw->ijc", rows, picture.astype(float), columns))


def restated_phase_aligned(lr, kernels, before):
    """Output 4i + p is the sum of kernel p over the inputs from i - before on, edges held."""
    h, w = lr.shape[:2]
    along = np.zeros((2, 4 * max(h, w), max(h, w)))
    for axis, n in enumerate((h, w)):
        for i in range(n):
            for p in range(4):
                for k, weight in enumerate(kernels[p]):
                    along[axis, 4 * i + p, min(max(i - before + k, 0), n - 1)] += weight
    rows, columns = along[0, : 4 * h, :h], along[1, : 4 * w, :w]
    return to_8_bits(np.einsum("ih,hwc,jw->ijc", rows, lr.astype(float), columns))


# --- the definitions ---------------------------------------------------------------------------


def test_bd_taps_are_the_published_ones():
    assert BD_TAPS.dtype == np.float64
    half = [0.007614, 0.036075, 0.109586, 0.213445, 0.266560]
    np.testing.assert_allclose(BD_TAPS, half + half[3::-1], atol=5e-7)
    assert BD_TAPS.sum() == pytest.approx(1, abs=1e-15)
    kernel = bd_kernel()
    assert kernel.shape == (9, 9)
    assert kernel.sum() == pytest.approx(1, abs=1e-15)
    assert kernel[4, 4] == pytest.approx(0.266560**2, abs=1e-6)
    np.testing.assert_array_equal(kernel, kernel.T)


def test_bd_taps_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        BD_TAPS[0] = 0


@settings(max_examples=20, deadline=None)
@given(sides.map(lambda n: 4 + 4 * n), sides.map(lambda n: 4 + 4 * n), seeds)
def test_degrade_bd_is_the_whole_sum(height, width, seed):
    hr = noise(height, width, seed)
    np.testing.assert_array_equal(degrade_bd(hr), restated_bd(hr))


@settings(max_examples=20, deadline=None)
@given(sides.map(lambda n: 4 + 4 * n), sides.map(lambda n: 4 + 4 * n), seeds)
def test_degrade_bi_is_imresize(height, width, seed):
    hr = noise(height, width, seed)
    expected = restated_imresize(hr, 0.25, lambda x: cubic(x, -0.5), 4)
    np.testing.assert_array_equal(degrade_bi(hr), expected)


@settings(max_examples=20, deadline=None)
@given(sides, sides, seeds)
def test_bicubic_bd_has_the_published_kernels(height, width, seed):
    lr = noise(height, width, seed)
    kernels = [
        [0, 1, 0, 0],
        [-0.10546875, 0.87890625, 0.26171875, -0.03515625],
        [-0.09375, 0.59375, 0.59375, -0.09375],
        [-0.03515625, 0.26171875, 0.87890625, -0.10546875],
    ]
    np.testing.assert_array_equal(bicubic_bd(lr), restated_phase_aligned(lr, kernels, before=1))


@settings(max_examples=20, deadline=None)
@given(sides, sides, seeds)
def test_bilinear_bd_mixes_neighbours_by_quarters(height, width, seed):
    lr = noise(height, width, seed)
    kernels = [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    np.testing.assert_array_equal(bilinear_bd(lr), restated_phase_aligned(lr, kernels, before=0))


@settings(max_examples=20, deadline=None)
@given(sides, sides, seeds)
def test_bi_upsampling_is_imresize(height, width, seed):
    lr = noise(height, width, seed)
    expected = restated_imresize(lr, 4.0, lambda x: cubic(x, -0.5), 4)
    np.testing.assert_array_equal(bicubic_bi(lr), expected)
    np.testing.assert_array_equal(bilinear_bi(lr), restated_imresize(lr, 4.0, triangle, 2))


# --- what follows from them --------------------------------------------------------------------


def test_phase_aligned_upsampling_keeps_the_inputs():
    lr = noise(9, 13)
    np.testing.assert_array_equal(bicubic_bd(lr)[::4, ::4], lr)
    np.testing.assert_array_equal(bilinear_bd(lr)[::4, ::4], lr)


def test_phases_on_a_ramp():
    """A ramp of 2 per pixel: BD keeps pixel 4i (8i), BI the middle of four, 4i + 1.5 (8i + 3)."""
    ramp = np.broadcast_to(2 * np.arange(96, dtype=np.uint8)[None, :, None], (32, 96, 3))
    inside = slice(3, -3)
    i = np.arange(24)[inside]
    np.testing.assert_array_equal(degrade_bd(ramp)[4, inside, 0], 8 * i)
    np.testing.assert_array_equal(degrade_bi(ramp)[4, inside, 0], 8 * i + 3)
    # Each interpolation puts its own ramp back where it was; the other one would shift it.
    middle = slice(16, -16)
    for kind in ("bd", "bi"):
        for name in ("bicubic", "bilinear"):
            back = baseline(name, kind)(degrade(ramp, kind))
            np.testing.assert_array_equal(back[16, middle], ramp[16, middle], f"{name} {kind}")


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(value):
    hr = np.full((16, 24, 3), value, np.uint8)
    for kind in ("bd", "bi"):
        lr = degrade(hr, kind)
        np.testing.assert_array_equal(lr, np.full((4, 6, 3), value))
        for name in ("bicubic", "bilinear"):
            np.testing.assert_array_equal(baseline(name, kind)(lr), hr)


def test_channels_are_independent():
    hr = noise(24, 32)
    for kind in ("bd", "bi"):
        lr = degrade(hr, kind)
        np.testing.assert_array_equal(degrade(hr[..., ::-1], kind), lr[..., ::-1])
        swapped = degrade(hr.transpose(1, 0, 2), kind)
        np.testing.assert_array_equal(swapped, lr.transpose(1, 0, 2))


def test_crop_to_multiple_cuts_bottom_and_right():
    picture = noise(30, 43)
    cut = crop_to_multiple(picture)
    assert cut.base is picture
    np.testing.assert_array_equal(cut, picture[:28, :40])
    assert crop_to_multiple(picture, 8).shape == (24, 40, 3)
    with pytest.raises(ClipError, match="43x30 is smaller than 64"):
        crop_to_multiple(picture, 64)


@pytest.mark.parametrize("shape", [(30, 32), (32, 30), (4, 32), (32, 4)])
def test_sizes_that_cannot_be_made_smaller_are_refused(shape):
    for kind in ("bd", "bi"):
        with pytest.raises(ClipError, match="multiples of 4") as caught:
            degrade(noise(*shape), kind)
        assert "crop_to_multiple" in caught.value.hint


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(picture):
    for operation in (degrade_bd, degrade_bi, bicubic_bd, bilinear_bd, bicubic_bi, bilinear_bi):
        with pytest.raises(ClipError, match="picture"):
            operation(picture)
