"""Frames through codecs: in place, worse with the quality asked for, and what is refused."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from teco_calibration import codec
from teco_calibration.errors import ClipError

AVAILABLE = [c.name for c in codec.CODECS if codec.why_unavailable(c) is None]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(5, 64, 96, 3): a texture that moves by a pixel a frame, in little colour."""
    rng = np.random.default_rng(0)
    noise = rng.random((80, 120, 1)) + 0.05 * rng.random((80, 120, 3))
    smooth = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    return np.stack([smooth.astype(np.uint8)[t : t + 64, t : t + 96] for t in range(5)])


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("name", AVAILABLE)
def test_frames_come_back_in_place_and_worse_for_less(frames, name) -> None:
    one = codec.find(name)
    good, bad = (
        codec.through(frames, name, one.best + round(share * (one.worst - one.best)))
        for share in (0.1, 0.8)
    )
    assert good.shape == frames.shape
    assert error(good, frames) < error(bad, frames)
    assert error(good, frames) < 0.5 * error(good[::-1], frames)
    moved = np.roll(good, 1, axis=2)[:, :, 2:-2]
    assert error(good[:, :, 2:-2], frames[:, :, 2:-2]) < error(moved, frames[:, :, 2:-2])


def test_the_same_in_gives_the_same_out_whatever_went_before(frames) -> None:
    first = codec.through(frames, "x264", 23, preset="veryfast")
    for _ in range(20):  # one in five differed where both ran in one thread
        if "x265" in AVAILABLE:
            codec.through(frames, "x265", 40)
        assert np.array_equal(codec.through(frames, "x264", 23, preset="veryfast"), first)


@pytest.mark.parametrize("size", [(32, 32), (40, 44), (64, 96)], ids=str)
@pytest.mark.parametrize("name", AVAILABLE)
def test_small_frames_come_back_the_same_each_time(frames, name, size) -> None:
    """libx265 encoded frames as small as its coding tree unit from memory that it had not set."""
    small = np.ascontiguousarray(frames[:, : size[0], : size[1]])
    first = codec.through(small, name, codec.find(name).best + 20)
    assert first.shape == small.shape
    for _ in range(8):
        assert np.array_equal(codec.through(small, name, codec.find(name).best + 20), first)


def test_chroma_alone(frames) -> None:
    halved = codec.chroma_halved(frames)
    grey = frames.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)
    assert 0 < error(halved, frames) < 3
    assert error(codec.chroma_halved(grey), grey) < 1


@pytest.mark.skipif("svtav1" not in AVAILABLE, reason="this FFmpeg has no libsvtav1")
def test_the_thread_keeps_its_scheduling(frames) -> None:
    before = os.sched_getscheduler(0)
    codec.through(frames, "svtav1", 40)
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [("h264:23", "h264"), ("x264", "0 .* 51"), ("x264:", "0 .* 51"), ("x264:99", "99"),
     ("x264:-1", "51"), ("vp9:best", "63"), (":23", "no codec")],
)  # fmt: skip
def test_codecs_as_users_type_them(text, said) -> None:
    assert codec.parse("x264:23") == ("x264", 23)
    with pytest.raises(ClipError, match=said) as caught:
        codec.parse(text)
    assert caught.value.exit_code == 2


def test_what_is_refused(frames, monkeypatch) -> None:
    with pytest.raises(ClipError, match="x266") as caught:
        codec.through(frames, "x266", 20)
    assert caught.value.exit_code == 2
    with pytest.raises(ClipError, match=r"0 .* 51.* 52"):
        codec.through(frames, "x264", 52)
    with pytest.raises(ClipError, match="95x64"):
        codec.through(frames[:, :, :95], "x264", 20)
    monkeypatch.setattr(codec, "why_unavailable", lambda one: f"no encoder {one.encoder}")
    with pytest.raises(ClipError, match="libx265") as caught:
        codec.through(frames, "x265", 20)
    assert caught.value.exit_code == 3
