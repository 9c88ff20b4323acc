"""The pool of degraded clips: a function of its seed, in place, and safe against kills."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from teco.core.errors import TecoError  # noqa: E402
from teco.training.data import real_degradation  # noqa: E402
from teco.training.data.pool import ClipPool, PoolDataset, PoolOptions  # noqa: E402
from teco.training.data.sequences import SampleOptions, Shot  # noqa: E402

OPTIONS = PoolOptions(clips=4, size=128, frames=5)
SAMPLE = SampleOptions(crop=64, frames=3, batch=4, with_flow=False)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8, smooth, so that a shift shows."""
    rng = np.random.default_rng(seed)
    noise = (rng.random((height, width, 1)) + 0.1 * rng.random((height, width, 3))).astype("f4")
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
    return smooth.astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in (0, 1):
        cv2.imwrite(str(folder / f"{seed}.png"), texture(400, 500, seed))
    return sorted(folder.iterdir())


@pytest.fixture
def shot() -> Shot:
    return Shot("a", np.stack([texture(136, 160)[:, t:][:, :140] for t in range(8)]), 5.0)


def enlarged(low: np.ndarray, scale: int = 4) -> np.ndarray:
    """Centre-aligned: OpenCV's pixels are areas."""
    return cv2.resize(low, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC).astype(float)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kind", real_degradation.SHRINKS)
def test_shrinking_moves_nothing(kind, scale) -> None:
    truth = texture(128, 128)[None]
    low = real_degradation.shrink(truth, kind, np.random.default_rng(1), scale)
    assert low.shape == (1, 128 // scale, 128 // scale, 3)
    inner = (slice(16, -16), slice(16, -16))
    here = enlarged(low[0], scale)[inner]
    errors = {
        (dy, dx): np.abs(np.roll(truth[0], (dy, dx), (0, 1))[inner] - here).mean()
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert min(errors, key=lambda k: errors[k]) == (0, 0)


def test_a_clip_is_a_function_of_its_number(photographs, shot, tmp_path) -> None:
    first = ClipPool(OPTIONS, photographs, [shot], tmp_path / "a")
    seen: list[tuple[int, int | None]] = []
    first.fill(2, lambda n, of: seen.append((n, of)))
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    clips = [first.clip(n) for n in range(4)]
    assert all(t.shape == (5, 128, 128, 3) and g.shape == (5, 32, 32, 3) for t, g in clips)
    assert len(list(first.folder.iterdir())) == 8
    other = ClipPool(replace(OPTIONS, clips=3), photographs, [shot], tmp_path / "b")
    assert other.folder.name == first.folder.name, "a larger pool goes on from a smaller one"
    for n in (2, 0):  # in another order, one at a time
        assert all(np.array_equal(x, y) for x, y in zip(other.clip(n), clips[n], strict=True))
    seeded = ClipPool(replace(OPTIONS, seed=1), photographs, [shot], tmp_path / "a")
    assert seeded.folder != first.folder
    assert not np.array_equal(seeded.clip(0)[0], clips[0][0])


def test_what_is_there_is_kept_and_what_is_cut_off_made_again(photographs, tmp_path) -> None:
    made = ClipPool(OPTIONS, photographs, [], tmp_path)
    made.fill(1)
    truth, given = (np.array(x) for x in made.clip(0))
    files = sorted(made.folder.iterdir())
    before = [f.stat().st_mtime_ns for f in files]
    made.fill(1)
    assert [f.stat().st_mtime_ns for f in files] == before
    cut = made.folder / "000000-truth.npy"
    cut.write_bytes(cut.read_bytes()[:1000])
    assert np.array_equal(made.clip(0)[0], truth)
    shutil.rmtree(made.folder)
    assert np.array_equal(made.clip(0)[1], given)


def test_short_batches_hold_four_times_as_many(photographs, tmp_path) -> None:
    pool = ClipPool(replace(OPTIONS, frames=9), photographs, [], tmp_path)
    sample = replace(SAMPLE, frames=8, batch=2, short_share=0.5)
    shapes = [tuple(PoolDataset(pool, sample, 12)[n].hr.shape[:2]) for n in range(12)]
    assert set(shapes) == {(2, 8), (8, 2)}
    parts = [PoolDataset(pool, replace(sample, part=(1, 2)), 12)[n].hr for n in range(12)]
    assert [p.shape[0] * 2 for p in parts] == [b for b, _ in shapes], "processes decide alike"


def test_scale_2_has_inputs_of_half_the_size_in_their_place(photographs, tmp_path) -> None:
    pool = ClipPool(replace(OPTIONS, scale=2), photographs, [], tmp_path)
    assert pool.clip(0)[1].shape == (5, 64, 64, 3)
    # What nobody had to say once must not change the name of what is there.
    assert pool.folder != ClipPool(OPTIONS, photographs, [], tmp_path).folder
    sample = PoolDataset(pool, SAMPLE, 1)[0]
    assert sample.lr is not None
    assert sample.lr.shape[-1] == SAMPLE.crop // 2
    for truth, low in zip(sample.hr.flatten(0, 1), sample.lr.flatten(0, 1), strict=True):
        large = enlarged((255 * low).round().byte().permute(1, 2, 0).numpy(), 2)
        picture = truth[:, 4:-4, 4:-4].permute(1, 2, 0).numpy().astype(float)
        inner = (slice(8, -8), slice(8, -8))
        errors = {
            (dy, dx): np.abs(np.roll(picture, (dy, dx), (0, 1))[inner] - large[inner]).mean()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        assert min(errors, key=lambda key: errors[key]) == (0, 0)


def test_input_and_truth_lie_over_each_other(photographs, tmp_path) -> None:
    data = PoolDataset(ClipPool(OPTIONS, photographs, [], tmp_path), SAMPLE, 6)
    found: dict[tuple[int, int], int] = {}
    for index in range(6):
        sample = data[index]
        assert sample.hr.shape == (4, 3, 3, 72, 72)
        assert sample.lr is not None
        assert sample.lr.shape == (4, 3, 3, 16, 16)
        truth = sample.hr[..., 4:-4, 4:-4].float().numpy()
        for b in range(4):
            for t in range(3):
                low = (sample.lr[b, t].permute(1, 2, 0).numpy() * 255).astype(np.float32)
                up = enlarged(low)[8:-8, 8:-8]
                here = truth[b, t].transpose(1, 2, 0)
                places = {
                    (y, x): np.abs(up - here[8 + y :, 8 + x :][: len(up), : len(up)]).mean()
                    for y in (-1, 0, 1)
                    for x in (-1, 0, 1)
                }
                best = min(places, key=lambda p: places[p])
                found[best] = found.get(best, 0) + 1
    assert max(found, key=lambda p: found[p]) == (0, 0)
    assert found[0, 0] > 0.6 * sum(found.values()), "some are too flat or coarse to tell"


def test_parts_of_a_batch_are_the_batch(photographs, tmp_path) -> None:
    whole = ClipPool(OPTIONS, photographs, [], tmp_path)
    full = PoolDataset(whole, SAMPLE, 2)[1]
    parts = [PoolDataset(whole, replace(SAMPLE, part=(r, 2)), 2)[1] for r in (0, 1)]
    assert torch.equal(full.hr, torch.cat([p.hr for p in parts]))
    assert torch.equal(full.lr, torch.cat([p.lr for p in parts]))


def test_what_is_refused(photographs, shot, tmp_path) -> None:
    with pytest.raises(TecoError, match="multiple of 8"):
        PoolOptions(size=100)
    with pytest.raises(TecoError, match="no clip has 14 frames of 320"):
        ClipPool(PoolOptions(), [], [shot], tmp_path)
    made = ClipPool(OPTIONS, photographs, [], tmp_path)
    with pytest.raises(TecoError, match="7 frames"):
        PoolDataset(made, replace(SAMPLE, frames=7), 1)
    with pytest.raises(TecoError, match="crops of 128"):
        PoolDataset(made, replace(SAMPLE, crop=128), 1)


def test_codecs_that_are_missing_are_named(monkeypatch) -> None:
    monkeypatch.setattr(
        real_degradation.codec,
        "why_unavailable",
        lambda c: f"no {c.encoder}" if c.name == "vp9" else None,
    )
    real_degradation.available.cache_clear()
    assert "vp9" not in real_degradation.available()
    assert real_degradation.missing() == ["no libvpx-vp9"]
    real_degradation.available.cache_clear()
