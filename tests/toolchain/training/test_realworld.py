"""Noise and compression of low-resolution training frames."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from teco.core.errors import TecoError
from teco.training.data.realworld import RealWorld, corrupt
from teco.training.data.sequences import SampleOptions, SequenceDataset, degrade_crop, shot_of


@pytest.fixture(scope="module")
def lr(texture) -> torch.Tensor:
    """(4, 5, 3, 32, 32) in [0, 1]."""
    clips = [np.stack(texture(5, 32, 32, seed=seed)) for seed in range(4)]
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 255


def always(**fields) -> RealWorld:
    chances = dict.fromkeys(("noise_chance", "jpeg_chance", "h264_chance"), 1.0)
    return RealWorld(**{**chances, **fields})


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


ALL = always(noise=4, shot=4, jpeg=(30, 90), h264=(18, 40))


@pytest.mark.parametrize(
    "options",
    [
        None, RealWorld(), RealWorld.parse("none"), RealWorld.parse(""),
        RealWorld(jpeg=(1, 1), h264=(51, 51), noise=9, jpeg_chance=0, h264_chance=0,
                  noise_chance=0),
    ],
)  # fmt: skip
def test_none_gives_back_what_it_got(lr, options) -> None:
    before = lr.clone()
    assert corrupt(lr, options, 1, 2) is lr
    assert torch.equal(lr, before)


def test_it_depends_on_seed_and_index_alone(lr) -> None:
    first = corrupt(lr, ALL, 3, 7)
    torch.manual_seed(99)
    np.random.default_rng(99).random()
    assert torch.equal(first, corrupt(lr, ALL, 3, 7))
    for seed, index in ((4, 7), (3, 8)):
        assert not torch.equal(first, corrupt(lr, ALL, seed, index))
    assert not torch.equal(first[0] - lr[0], first[1] - lr[1])


def test_small_h264_sequences_come_out_the_same_each_time(lr) -> None:
    """x264's macroblock tree reads uninitialised memory at these sizes: 1 in 40 would differ."""
    options = always(h264=(28, 32))
    runs = [[corrupt(lr, options, 0, n) for n in range(16)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_parts_of_a_batch_are_what_they_are_in_the_whole(lr) -> None:
    whole = corrupt(lr, ALL, 5, 0)
    assert torch.equal(corrupt(lr[2:], ALL, 5, 0, first=2), whole[2:])
    assert not torch.equal(corrupt(lr[2:], ALL, 5, 0), whole[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_type_and_range_stay(lr, dtype) -> None:
    given = (2 * lr - 0.5).to(dtype)  # beyond the range, as interpolation may make it
    kept = given.clone()
    for options in (ALL, always(noise=50), always(jpeg=(5, 5)), always(h264=(40, 40))):
        out = corrupt(given, options, 0, 0)
        assert (out.shape, out.dtype, out.device) == (given.shape, dtype, given.device)
        assert float(out.min()) >= 0
        assert float(out.max()) <= 1
        assert torch.equal(given, kept)


@pytest.mark.parametrize(("name", "steps"), [("jpeg", (95, 60, 20, 5)), ("h264", (8, 24, 36, 51))])
def test_psnr_falls_with_quality(lr, name, steps) -> None:
    gray = lr.mean(dim=2, keepdim=True).expand_as(lr)  # halved chroma is a loss of its own
    figures = [psnr(corrupt(gray, always(**{name: (q, q)}), 0, 0), gray) for q in steps]
    assert all(a > b for a, b in pairwise(figures))
    assert figures[0] > 35
    assert 12 < figures[-1] < 27


def test_compressed_frames_stay_where_and_when_they_were(lr) -> None:
    """The frame nearest to each coded one is its own, and moving it by a pixel makes it worse."""
    gray = lr.mean(dim=2, keepdim=True).expand_as(lr)  # so that chroma does not matter
    for options in (always(jpeg=(90, 90)), always(h264=(10, 10))):
        for index in range(4):
            out = corrupt(gray, options, 0, index)
            for t in range(5):
                errors = [float((out[:, t] - gray[:, s]).square().mean()) for s in range(5)]
                assert errors.index(min(errors)) == t
            for shift in ((0, 1), (1, 0)):
                moved = out.roll(shift, (3, 4))[..., 1:, 1:]
                assert psnr(moved, gray[..., 1:, 1:]) < psnr(out, gray)


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (17, 34)])
def test_odd_and_small_sizes_can_be_coded(size) -> None:
    lr = torch.rand(1, 3, 3, *size)
    for options in (always(jpeg=(50, 50)), always(h264=(30, 30))):
        assert corrupt(lr, options, 0, 0).shape == lr.shape
        assert corrupt(lr[:, :1], options, 0, 0).shape == (1, 1, 3, *size)


def test_noise_is_as_strong_as_it_says() -> None:
    dark, bright = torch.full((1, 2, 3, 48, 48), 0.25), torch.full((1, 2, 3, 48, 48), 0.75)
    flat = torch.cat([torch.cat([dark, bright], 4)] * 60)
    noise = (corrupt(flat, always(noise=4), 0, 0) - flat) * 255
    per_sequence = noise.flatten(1).std(dim=1)
    assert 3.5 < float(per_sequence.max()) <= 4.05  # uniform between 0 and 4
    assert float(per_sequence.mean()) == pytest.approx(2, abs=0.5)
    assert abs(float(noise.mean())) < 0.02
    frames = noise[:20].flatten(2)  # new in every frame
    assert abs(float((frames[:, 0] * frames[:, 1]).mean() / frames.var())) < 0.02
    shot = (corrupt(flat, always(shot=8), 0, 1) - flat) * 255
    low, high = shot[..., :48].var(), shot[..., 48:].var()
    assert float(high / low) == pytest.approx(3, rel=0.05)


def test_a_share_of_the_sequences_stays_clean() -> None:
    lr = torch.full((200, 1, 3, 16, 16), 0.5)
    out = corrupt(lr, RealWorld(noise=5, noise_chance=0.3), 0, 0)
    touched = (out != lr).flatten(1).any(dim=1)
    assert 40 <= int(touched.sum()) <= 80


def test_samples_carry_corrupted_frames_only_when_asked() -> None:
    picture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (8, 80, 96, 3), np.uint8).reshape(640, 96, 3),
        (0, 0), 2,
    ).reshape(8, 80, 96, 3)  # fmt: skip
    shots = [shot_of("a", picture)]
    fields = {"crop": 64, "frames": 3, "batch": 2, "with_flow": False}
    plain = SequenceDataset(shots, SampleOptions(**fields), 3)[1]
    assert plain.lr is None
    clean = SequenceDataset(shots, SampleOptions(**fields, realworld=RealWorld()), 3)[1]
    assert clean.lr is None
    sample = SequenceDataset(shots, SampleOptions(**fields, realworld=ALL), 3)[1]
    assert torch.equal(sample.hr, plain.hr)  # the truth is what it was
    assert sample.lr is not None
    assert sample.lr.shape == (2, 3, 3, 16, 16)
    made = degrade_crop(plain.hr.flatten(0, 1).float() / 255).view(2, 3, 3, 16, 16)
    assert torch.equal(sample.lr, corrupt(made, ALL, 0, 1))
    assert 15 < psnr(sample.lr, made) < 45


# --- reading options -------------------------------------------------------------------------


def test_text_and_table_say_the_same() -> None:
    text = RealWorld.parse(" noise=2, jpeg=40-90 ,h264=23,jpeg-chance=0.25")
    table = {"noise": 2, "jpeg": [40, 90], "h264": 23, "jpeg_chance": 0.25}
    expected = RealWorld(noise=2, jpeg=(40, 90), h264=(23, 23), jpeg_chance=0.25)
    assert text == RealWorld.from_table(table) == expected
    assert RealWorld.parse(str(text)) == text
    assert str(RealWorld()) == "none"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("noise", "'noise' is no entry"),
        ("noise=", "no entry"),
        (",", "'' is no entry"),
        ("noise=much", "'much', expected a number"),
        ("noise=-1", "-1.0, expected grey levels"),
        ("noise=nan", "nan, expected grey levels"),
        ("noise=1,noise=2", "noise is twice"),
        ("jpg=40-90", "no 'jpg'"),
        ("jpeg=0-90", "0-90, expected a range within 1-100"),
        ("jpeg=90-40", "90-40"),
        ("jpeg=40:90", "'40:90', expected a range such as 1-100"),
        ("jpeg=40-101", "40-101"),
        ("h264=20-52", "20-52, expected a range within 0-51"),
        ("h264=-3", "'-3'"),
        ("jpeg_chance=2", "share from 0 to 1"),
    ],
)
def test_bad_text(text, says) -> None:
    with pytest.raises(TecoError) as error:
        RealWorld.parse(text)
    assert says in error.value.message
    assert error.value.exit_code == 2


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(TecoError) as error:
        RealWorld.parse("h265=20-30")
    assert error.value.hint == "did you mean h264?"


@pytest.mark.parametrize(
    "table",
    [
        {"jpeg": [40]}, {"jpeg": [40, 90, 95]}, {"jpeg": [40.0, 90]}, {"jpeg": True},
        {"jpeg": {"low": 1}}, {"noise": True}, {"noise": [1]}, {"noise": None},
    ],
)  # fmt: skip
def test_bad_tables(table) -> None:
    with pytest.raises(TecoError, match="expected a"):
        RealWorld.from_table(table)
