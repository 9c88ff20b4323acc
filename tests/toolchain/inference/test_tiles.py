"""Frames in tiles: the seams cannot be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco.core.errors import TecoError
from teco.core.pixels import to_pixels, to_tensor
from teco.inference.tiles import (
    GRID,
    LEAST,
    OVERLAP,
    largest_window,
    tiled,
    window_of,
    window_side,
    windows,
)
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, open_session
from teco.runtimes.base import FrameSession


@given(st.integers(8, 5000), st.integers(1, 5000))
def test_windows_cover_a_side_on_the_frames_own_grid(length: int, asked: int) -> None:
    window = window_side(length, asked)
    assert window <= length
    assert window >= min(length, LEAST)
    laid = windows(length, window)
    assert [w.first for w in laid] == [0, *(w.last for w in laid[:-1])]
    assert laid[-1].last == length
    for w in laid:
        assert w.at % GRID == 0
        assert 0 <= w.at <= w.first < w.last <= w.at + window <= length
        # What is kept lies within the window by the overlap, but at the frame's own edges.
        assert w.first == 0 or w.first - w.at >= OVERLAP
        assert w.last == length or w.at + window - w.last >= OVERLAP


def test_the_window_that_fits_and_overlaps_least_is_taken() -> None:
    assert largest_window(540, 960, lambda h, w: True) == (540, 960)
    size = largest_window(1080, 1920, lambda h, w: h * w <= 1080 * 1010)
    assert size[0] * size[1] <= 1080 * 1010
    assert len(windows(1080, size[0])) * len(windows(1920, size[1])) == 2
    with pytest.raises(TecoError, match="not even a tile"):
        largest_window(1080, 1920, lambda h, w: False)


def clip(h: int, w: int, count: int) -> list[np.ndarray]:
    """Noise with structure that moves by several pixels a frame, dark at its beginning."""
    rng = np.random.default_rng(3)
    wide = rng.random((h // 4 + 20, w // 4 + 20, 3), np.float32).repeat(4, 0).repeat(4, 1)
    frames = [wide[3 * n : 3 * n + h, 5 * n : 5 * n + w] for n in range(count)]
    return [np.ascontiguousarray(f * 255).astype(np.uint8) for f in frames]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model", ["real-cpu", "live"])
@pytest.mark.parametrize("size", [(160, 272), (167, 291)])
def test_tiles_differ_from_the_whole_by_one_step_at_most(runtime, model, size) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    opened, options = open_model(model), SessionOptions(threads=1)
    whole = open_session(opened, runtime, options)
    below = open_session(opened, runtime, options)
    tiles = tiled(below, window_of((128, 160), *size))
    assert "tiles of" in tiles.details
    before = after = None
    other = again = None
    for frame in clip(*size, 5):
        picture, before = whole.step(to_tensor(frame), before)
        same, after = tiles.step(to_tensor(frame), after)
        steps = np.abs(to_pixels(picture).astype(int) - to_pixels(same))
        assert steps.max() <= 1
        assert (steps > 0).mean() < 1e-3
        if isinstance(whole, FrameSession):
            assert isinstance(tiles, FrameSession)
            shown, other = whole.enlarge(frame, other)
            found, again = tiles.enlarge(frame, again)
            assert np.abs(shown.astype(int) - found).max() <= 1
    whole.close()
    tiles.close()


def test_a_runtime_whose_state_cannot_be_taken_apart_is_refused(tiny_weights) -> None:
    session = open_session(open_model(str(tiny_weights)), "pytorch", SessionOptions(threads=1))
    with pytest.raises(TecoError, match="pytorch cannot step a frame in tiles") as caught:
        tiled(session, (128, 128))
    assert caught.value.exit_code == 3
    session.close()


def test_the_command_takes_a_tile(tmp_path, make_clip, teco) -> None:
    path = make_clip(tmp_path / "in.mp4", 272, 160, 3)
    for name, tile in (("whole", "off"), ("tiles", "128x160")):
        done = teco(
            "upscale", path, tmp_path / f"{name}.y4m", "--runtime", "onnxruntime", "--threads", 1,
            "--tile", tile,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        assert ("tiles of" in done.stderr) == (tile != "off")
    a, b = (np.frombuffer((tmp_path / f"{n}.y4m").read_bytes(), np.uint8).astype(int)
            for n in ("whole", "tiles"))  # fmt: skip
    assert np.abs(a - b).max() <= 2  # a step of RGB, in Y'CbCr
    teco("upscale", path, tmp_path / "x.mp4", "--tile", "big").refuses(2, "HEIGHTxWIDTH")
