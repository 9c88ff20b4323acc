"""Photographs in motion: moved as their flow says, decided by the seed; bad photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from teco.core.errors import TecoError
from teco.training.data.motion import (
    Motion,
    MovingClip,
    Photograph,
    PhotographError,
    find_photographs,
    read_photograph,
    render,
)

SIZE = 64


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Photograph]:
    """Two smooth textures, which a bilinear warp moves nearly without a loss."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in (0, 1):
        noise = np.random.default_rng(seed).random((420, 520, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 6)
        cv2.imwrite(
            str(folder / f"{seed}.png"),
            cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8),
        )
    return [read_photograph(p, SIZE) for p in find_photographs(folder)]


def moved(clip: MovingClip, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame t brought to frame t+1 by the flow, and where that is known."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    known = np.isfinite(clip.flow[t, 0])
    dx, dy = np.nan_to_num(clip.flow[t])
    out = cv2.remap(clip.frames[t], x + dx, y + dy, cv2.INTER_LINEAR)
    return out.astype(np.int32), known


@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_the_flow_is_what_moves_the_frames(photographs, covered) -> None:
    worst = []
    motion = Motion(still=0, fast=0.3, covered=covered, cut=0, soft=0.5)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        clip = render(photographs, rng, size=SIZE, frames=5, motion=motion, with_flow=True)
        assert clip.frames.shape == (5, SIZE, SIZE, 3)
        assert clip.flow.shape == (4, 2, SIZE, SIZE)
        for t in range(4):
            out, known = moved(clip, t)
            assert known.mean() > 0.3
            worst.append(np.abs(out - clip.frames[t + 1])[known].mean())
    assert max(worst) < 1.0  # grey levels; a flow that is half a pixel off gives several


def test_what_is_covered_or_uncovered_is_unknown(photographs) -> None:
    motion = Motion(still=1, fast=1, covered=1, cut=0, soft=0)
    clips = [
        render(
            photographs,
            np.random.default_rng(s),
            size=SIZE,
            frames=4,
            motion=motion,
            with_flow=True,
        )
        for s in range(8)
    ]
    unknown = [np.isnan(c.flow[:, 0]).mean() for c in clips]
    assert 0 < np.mean(unknown) < 0.6


def test_a_cut_is_known_of_nowhere(photographs) -> None:
    motion = Motion(cut=1)
    clip = render(
        photographs, np.random.default_rng(3), size=SIZE, frames=6, motion=motion, with_flow=True
    )
    assert [bool(np.isnan(f).all()) for f in clip.flow].count(True) == 1


def test_a_still_camera_repeats_its_frame(photographs) -> None:
    motion = Motion(still=1, covered=0, cut=0)
    clip = render(
        photographs, np.random.default_rng(0), size=SIZE, frames=3, motion=motion, with_flow=True
    )
    assert (clip.frames == clip.frames[0]).all()
    assert np.abs(clip.flow).max() < 1e-4


def test_the_seed_decides_everything(photographs) -> None:
    one, same, other = (
        render(photographs, np.random.default_rng(s), size=SIZE, frames=4, with_flow=True)
        for s in (5, 5, 6)
    )
    assert np.array_equal(one.frames, same.frames)
    assert np.array_equal(one.flow, same.flow, equal_nan=True)
    assert not np.array_equal(one.frames, other.frames)


def cmyk(path: Path) -> None:
    """A JPEG whose frame header names four components; no decoder has to be asked."""
    ok, data = cv2.imencode(".jpg", np.zeros((300, 300, 3), np.uint8))
    assert ok
    content = bytearray(data.tobytes())
    at = content.index(b"\xff\xc0")
    content[at + 9] = 4
    path.write_bytes(bytes(content))


def test_photographs_that_cannot_be_used(tmp_path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    (tmp_path / "empty.png").touch()
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((80, 400, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((300, 400, 3), np.uint8))
    cmyk(tmp_path / "print.jpg")
    for path in find_photographs(tmp_path):
        if path.name != "good.png":
            with pytest.raises(PhotographError, match=path.name):
                read_photograph(path, SIZE)
    assert read_photograph(tmp_path / "good.png", SIZE).pixels.shape == (300, 400, 3)
    with pytest.raises(PhotographError, match=r"400x80.*168"):
        read_photograph(tmp_path / "small.png", SIZE)
    with pytest.raises(PhotographError, match="CMYK"):
        read_photograph(tmp_path / "print.jpg", SIZE)


def test_folders_without_photographs(tmp_path) -> None:
    with pytest.raises(TecoError, match="no folder") as caught:
        find_photographs(tmp_path / "absent")
    assert caught.value.exit_code == 2
    with pytest.raises(TecoError, match="no photographs"):
        find_photographs(tmp_path)
