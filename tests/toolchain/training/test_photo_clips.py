"""Clips made of photographs: the same for the same seed, kept, and trained on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from teco.core.errors import TecoError  # noqa: E402
from teco.training.data.photo_clips import PhotoClipOptions, photo_shots  # noqa: E402

OPTIONS = PhotoClipOptions(clips=3, size=144, frames=4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that can be used and one that is too small."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in (0, 1):
        noise = np.random.default_rng(seed).integers(0, 255, (110, 140, 3), np.uint8)
        cv2.imwrite(str(folder / f"{seed}.png"), cv2.resize(noise, (840, 700)))
    cv2.imwrite(str(folder / "small.png"), np.zeros((60, 60, 3), np.uint8))
    return folder


def test_clips_are_a_function_of_the_seed_and_kept(photographs, tmp_path, caplog) -> None:
    seen: list[tuple[int, int | None]] = []
    first = photo_shots(photographs, tmp_path, OPTIONS, lambda n, of: seen.append((n, of)))
    assert "small.png" in caplog.text
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [s.frames.shape for s in first] == [(4, 144, 144, 3)] * 3
    before = [np.array(s.frames) for s in first]
    (kept,) = tmp_path.iterdir()
    made = {f: f.stat().st_mtime_ns for f in kept.iterdir()}
    photo_shots(photographs, tmp_path, OPTIONS)
    assert {f: f.stat().st_mtime_ns for f in kept.iterdir()} == made
    (kept / "000001.npy").unlink()
    again = photo_shots(photographs, tmp_path, replace(OPTIONS, clips=2))
    assert all(np.array_equal(s.frames, b) for s, b in zip(again, before, strict=False))
    other = photo_shots(photographs, tmp_path, replace(OPTIONS, seed=1))
    assert not np.array_equal(other[0].frames, before[0])


def test_photographs_of_which_none_can_be_used(photographs, tmp_path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(photographs / "small.png", folder)
    with pytest.raises(TecoError, match="328") as caught:
        photo_shots(folder, tmp_path, OPTIONS)
    assert caught.value.exit_code == 2


def test_a_network_is_trained_on_photographs_alone(photographs, tmp_path, teco) -> None:
    bigger = tmp_path / "photos"
    bigger.mkdir()
    image = cv2.imread(str(photographs / "0.png"))
    cv2.imwrite(str(bigger / "0.png"), cv2.resize(image, (1000, 800)))
    out = tmp_path / "run"
    done = teco(
        "train", "--photos", bigger, "--photo-clips", 2, "--out", out, "--workers", 0,
        "--variant", "teco-x4-b1-c8-f0-shuffle", "--flow-iterations", 0, "--iterations", 2,
        "--frames", 3, "--crop", 32, "--batch", 1,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert (out / "weights.safetensors").exists()
    assert len(list((out / "frames").glob("photographs-*/*.npy"))) == 2


def test_nothing_to_train_on(tmp_path, teco) -> None:
    teco("train", "--out", tmp_path / "run").refuses(2, "--photos", "--data")
    teco("train", "--photos", tmp_path / "no", "--out", tmp_path / "run").refuses(2, "no folder")
