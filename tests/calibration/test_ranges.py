"""Ranges of activations, beside computations that share nothing with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from teco_calibration.errors import ClipError
from teco_calibration.int8_ranges import (
    BINS,
    LEVELS,
    RANGES,
    Entropy,
    Magnitudes,
    MinMax,
    Percentile,
    observe,
)


def seen(*pieces: np.ndarray) -> Magnitudes:
    found = Magnitudes()
    for piece in pieces:
        found.add(piece.astype(np.float32))
    return found


def test_order_and_pieces_do_not_matter() -> None:
    """Also where the histogram had to widen many times on the way."""
    rng = np.random.default_rng(0)
    pieces = [rng.normal(0, scale, 500) for scale in (1e-3, 5, 0.2, 40, 1)]
    whole = seen(np.concatenate(pieces))
    for order in (pieces, pieces[::-1]):
        found = seen(*order)
        assert np.array_equal(found.counts, whole.counts)
        assert (found.width, found.peak) == (whole.width, whole.peak)
    assert whole.total == 2500
    assert whole.width * BINS / 2 < whole.peak <= whole.width * BINS


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).normal(0, 3, 4000).astype(np.float32)
    found = seen(values)
    # numpy's bins hold their lower border, ours the upper one.
    edges = -np.arange(BINS, -1, -1) * found.width
    assert np.array_equal(found.counts[::-1], np.histogram(-np.abs(values), edges)[0])


def test_zeros_are_not_counted() -> None:
    values = np.array([0.0, 0.0, 0.0, -2.0, 1.0])
    assert seen(values).total == 2
    for chosen in RANGES.values():
        assert chosen.threshold(seen(np.zeros(9))) == 1.0


def test_no_numbers_are_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ClipError, match="NaN"):
            seen(np.array([1.0, bad]))


def test_minmax_and_percentile() -> None:
    values = np.random.default_rng(2).laplace(0, 1, 50_000)
    found = seen(values)
    assert MinMax().threshold(found) == np.abs(values.astype(np.float32)).max()
    for share in (50.0, 99.0, 99.9):
        expected = np.percentile(np.abs(values), share, method="inverted_cdf")
        assert Percentile(share).threshold(found) == pytest.approx(expected, abs=found.width)
    assert Percentile(100).threshold(found) == found.peak
    for share in (0, -1, 101):
        with pytest.raises(ClipError, match="percentile"):
            Percentile(share)


def divergence(counts: list[int], cut: int) -> float:
    """KL of one cut, written out in loops."""
    p = [float(c) for c in counts[:cut]]
    q = [0.0] * cut
    borders = [level * cut // LEVELS for level in range(LEVELS)] + [cut]
    for first, last in itertools.pairwise(borders):
        filled = [n for n in range(first, last) if counts[n]]
        for n in filled:
            q[n] = sum(counts[first:last]) / len(filled)
    p[-1] += sum(counts[cut:])
    if p[-1] and not q[-1]:
        return float("inf")
    return sum(
        a / sum(p) * np.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a
    )


def test_entropy_is_the_least_divergence() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate((rng.normal(0, 1, 20_000), rng.uniform(10, 16, 20)))
    found = seen(values)
    counts = [int(c) for c in found.counts]
    cuts = range(LEVELS, 1 + max(n for n, c in enumerate(counts) if c) + 1, 97)
    at = round(Entropy().threshold(found) / found.width)
    least = divergence(counts, at)
    assert all(divergence(counts, cut) >= least - 1e-12 for cut in cuts)
    assert divergence(counts, at + 1) >= least <= divergence(counts, at - 1)
    # Twenty outliers do not stretch the range of twenty thousand values.
    assert 2 < Entropy().threshold(found) < 10 < MinMax().threshold(found)


def test_observe_starts_every_scene_anew() -> None:
    class Counter:
        state = 0

        def reset(self) -> None:
            self.state = 0

        def step(self, lr: np.ndarray) -> dict[str, np.ndarray]:
            self.state += 1
            return {"state": np.array([self.state], np.float32), "lr": lr.astype(np.float32)}

    frame = np.full((2, 2, 3), 7, np.uint8)
    found = observe(Counter(), [[frame] * 3, [frame] * 5])
    assert found["state"].peak == 5
    assert found["state"].total == 8
    assert found["lr"].total == 8 * 12
    with pytest.raises(ClipError, match="no frame"):
        observe(Counter(), [])
