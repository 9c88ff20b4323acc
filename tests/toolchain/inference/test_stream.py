"""stream.py: order, the state handed on, resets and warm-up, with a model that remembers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from teco.core.errors import TecoError
from teco.inference.stream import Stream, to_pixels, to_tensor
from teco_models.errors import ModelError

SHOT = 100
"""Numbered pictures: picture n of shot s has the grey value SHOT * s + n."""


def numbered(*counts: int, width: int = 12, height: int = 10) -> list[np.ndarray]:
    """Plain pictures of several shots of so many frames each."""
    values = [SHOT * shot + n for shot, count in enumerate(counts) for n in range(count)]
    return [np.full((height, width, 3), value, np.uint8) for value in values]


def seen(session) -> list[int]:
    """The grey values of what a fake session was given, in order."""
    return [round(float(lr[0, 0, 0, 0]) * 255) for lr, _ in session.calls]


def given_out(pictures) -> list[int]:
    return [int(p[0, 0, 0]) for p in pictures]


class ShotDetector:
    """A cut where the hundreds of the grey value change."""

    def __init__(self) -> None:
        self.last: int | None = None

    def reset(self) -> None:
        self.last = None

    def is_cut(self, pixels: np.ndarray) -> bool:
        last, self.last = self.last, int(pixels[0, 0, 0]) // SHOT
        return last is not None and last != self.last


@pytest.fixture
def shots(monkeypatch) -> None:
    """Cuts are where :func:`numbered` puts them."""
    monkeypatch.setattr("teco.inference.scene_cuts.SceneCutDetector", ShotDetector)


# --- pictures and tensors --------------------------------------------------------------------


def test_to_tensor_divides_and_is_contiguous():
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(8, 32, 3)
    picture[..., 1] = 255 - picture[..., 1]
    for given_picture in (picture, picture[::-1, ::-1]):
        tensor = to_tensor(given_picture)
        assert tensor.shape == (1, 3, 8, 32)
        assert tensor.dtype == np.float32
        assert tensor.flags.c_contiguous
        expected = given_picture.astype(np.float32) / np.float32(255)
        assert np.array_equal(tensor[0].transpose(1, 2, 0), expected)


def test_pictures_survive_the_way_there_and_back():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    back = to_pixels(to_tensor(every))
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    assert np.array_equal(back, every)


@given(
    arrays.arrays(
        np.float32, (1, 3, 5, 7),
        elements=st.floats(-2, 3, width=32)
        | st.integers(-10, 520).map(lambda n: float(np.float32(n / 510))),
    )
)  # fmt: skip
def test_to_picture_rounds_to_nearest_and_clips(tensor):
    expected = np.clip(np.rint(tensor[0] * np.float32(255)), 0, 255)
    assert np.array_equal(to_pixels(tensor).transpose(2, 0, 1), expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 128), (0.49 / 255, 0), (0.51 / 255, 1), (254.4 / 255, 254), (254.6 / 255, 255),
     (-0.0, 0), (-0.1, 0), (-5.0, 0), (1.0, 255), (1.001, 255), (2.0, 255), (1000.0, 255)],
)  # fmt: skip
def test_to_picture_values(value, expected):
    assert (to_pixels(np.full((1, 3, 4, 4), value, np.float32)) == expected).all()


def test_to_picture_takes_views():
    planes = np.random.default_rng(0).random((1, 3, 8, 10), np.float32)
    assert np.array_equal(to_pixels(planes[..., ::2]), to_pixels(planes[..., ::2].copy()))


# --- order and state -------------------------------------------------------------------------


def test_frames_in_order_and_the_state_of_each_given_to_the_next(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    assert given_out(stream.run(numbered(5))) == [0, 1, 2, 3, 4]
    assert session.states == [None, 0, 1, 2, 3]
    assert (stream.stats.frames, stream.stats.steps, stream.stats.resets) == (5, 5, 1)
    assert stream.stats.step_seconds > 0


def test_pictures_are_enlarged_in_place(fake_session, texture):
    (picture,) = texture(1, 12, 9)
    found = Stream(fake_session()).push(picture)
    assert np.array_equal(found, picture.repeat(4, 0).repeat(4, 1))


def test_push_and_run_give_the_same(fake_session, texture):
    pictures = texture(6, 16, 12) + texture(6, 16, 12, seed=7)
    one, other = Stream(fake_session()), Stream(fake_session())
    pushed = [one.push(p) for p in pictures]
    assert all(np.array_equal(a, b) for a, b in zip(pushed, other.run(pictures), strict=True))
    assert one.session.states == other.session.states


def test_a_second_run_goes_on_where_the_first_ended(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    pictures = numbered(4)
    assert given_out(stream.run(pictures[:2])) == [0, 1]
    assert given_out(stream.run(pictures[2:])) == [2, 3]
    assert session.states == [None, 0, 1, 2]


def test_nothing_in_nothing_out(fake_session):
    for warm_up in (0, 2):
        session = fake_session()
        assert list(Stream(session, reverse_warm_up=warm_up).run([])) == []
        assert session.calls == []


def test_without_recurrence_no_frame_sees_the_past(fake_session):
    session = fake_session()
    assert given_out(Stream(session, recurrent=False).run(numbered(4))) == [0, 1, 2, 3]
    assert session.states == [None] * 4


def test_the_models_own_error_comes_through_and_the_stream_can_go_on(fake_session):
    session = fake_session(fail_at=2)
    stream = Stream(session, scene_cuts=False)
    with pytest.raises(RuntimeError, match="told to fail"):
        list(stream.run(numbered(4)))
    assert stream.stats.frames == 2


def test_run_takes_no_picture_before_it_is_needed(fake_session):
    taken = 0

    def source():
        nonlocal taken
        for picture in numbered(50):
            taken += 1
            yield picture

    for warm_up, most in ((0, 1), (3, 4)):
        taken = 0
        stream = Stream(fake_session(), scene_cuts=False, reverse_warm_up=warm_up)
        for done, _ in enumerate(stream.run(source()), start=1):
            assert taken <= done + most - 1


# --- resets ----------------------------------------------------------------------------------


def test_a_cut_resets_the_state(fake_session, shots):
    session = fake_session()
    stream = Stream(session)
    list(stream.run(numbered(3, 2, 2)))
    assert session.states == [None, 0, 1, None, 3, None, 5]
    assert stream.stats.resets == 3


def test_a_real_cut_is_found_and_a_moving_scene_is_none(fake_session, texture):
    session = fake_session()
    list(Stream(session).run(texture(6, 64, 48) + texture(6, 64, 48, seed=9)))
    assert [n for n, state in enumerate(session.states) if state is None] == [0, 6]


def test_cuts_can_be_ignored(fake_session, shots):
    session = fake_session()
    list(Stream(session, scene_cuts=False).run(numbered(2, 2)))
    assert session.states == [None, 0, 1, 2]


@pytest.mark.parametrize("scene_cuts", [True, False])
def test_a_change_of_size_resets_the_state(fake_session, scene_cuts):
    session = fake_session()
    small, large = numbered(2, width=8, height=8), numbered(2, width=8, height=16)
    pictures = list(Stream(session, scene_cuts=scene_cuts).run(small + large + small))
    assert session.states == [None, 0, None, 2, None, 4]
    assert [p.shape for p in pictures] == [(32, 32, 3)] * 2 + [(64, 32, 3)] * 2 + [(32, 32, 3)] * 2


@pytest.mark.parametrize("scene_cuts", [True, False])
def test_reset_starts_a_scene(fake_session, scene_cuts):
    session = fake_session()
    stream = Stream(session, scene_cuts=scene_cuts)
    pictures = numbered(4)
    list(stream.run(pictures[:2]))
    stream.reset()
    list(stream.run(pictures[2:]))
    assert session.states == [None, 0, None, 2]


def test_too_small_pictures_are_refused_before_the_model_sees_them(fake_session):
    session = fake_session()
    for height, width in ((7, 7), (7, 64), (64, 7)):
        with pytest.raises(ModelError, match="at least 8x8"):
            Stream(session).push(np.zeros((height, width, 3), np.uint8))
    assert session.calls == []
    assert Stream(session).push(np.zeros((8, 8, 3), np.uint8)).shape == (32, 32, 3)


# --- reverse warm-up -------------------------------------------------------------------------


def test_reverse_warm_up_runs_the_coming_frames_backwards(fake_session, shots):
    session = fake_session()
    stream = Stream(session, reverse_warm_up=3)
    assert given_out(stream.run(numbered(6))) == list(range(6))
    assert seen(session) == [3, 2, 1, 0, 1, 2, 3, 4, 5]
    # The state goes on from the reverse warm-up into the scene.
    assert session.states == [None, *range(8)]
    assert (stream.stats.frames, stream.stats.steps, stream.stats.resets) == (6, 9, 1)


def test_reverse_warm_up_does_not_cross_a_cut(fake_session, shots):
    session = fake_session()
    stream = Stream(session, reverse_warm_up=3)
    assert given_out(stream.run(numbered(2, 5))) == [0, 1, 100, 101, 102, 103, 104]
    assert seen(session) == [1, 0, 1, 103, 102, 101, 100, 101, 102, 103, 104]
    assert [n for n, state in enumerate(session.states) if state is None] == [0, 3]
    assert stream.stats.resets == 2


def test_reverse_warm_up_of_scenes_of_one_frame(fake_session, shots):
    session = fake_session()
    assert given_out(Stream(session, reverse_warm_up=2).run(numbered(1, 1, 3))) == [
        0,
        100,
        200,
        201,
        202,
    ]
    assert seen(session) == [0, 100, 202, 201, 200, 201, 202]
    assert session.states == [None, None, None, 2, 3, 4, 5]


def test_reverse_warm_up_longer_than_the_clip(fake_session, shots):
    session = fake_session()
    assert given_out(Stream(session, reverse_warm_up=50).run(numbered(3))) == [0, 1, 2]
    assert seen(session) == [2, 1, 0, 1, 2]


def test_reverse_warm_up_does_not_cross_a_change_of_size(fake_session):
    session = fake_session()
    pictures = numbered(2, width=8, height=8) + numbered(2, width=8, height=16)
    assert given_out(Stream(session, reverse_warm_up=3).run(pictures)) == [0, 1, 0, 1]
    heights = [lr.shape[2] for lr, _ in session.calls]
    assert heights == [8, 8, 8, 16, 16, 16]
    assert [n for n, state in enumerate(session.states) if state is None] == [0, 3]


def test_reverse_warm_up_after_reset(fake_session, shots):
    session = fake_session()
    stream = Stream(session, reverse_warm_up=1)
    list(stream.run(numbered(2)))
    stream.reset()
    list(stream.run(numbered(2)))
    assert seen(session) == [1, 0, 1] * 2
    assert [n for n, state in enumerate(session.states) if state is None] == [0, 3]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=2), st.integers(0, 7))
def test_reverse_warm_up_changes_neither_order_nor_number(fake_session, counts, warm_up):
    pictures = numbered(*counts)
    stream = Stream(fake_session(), scene_cuts=False, reverse_warm_up=warm_up)
    assert given_out(stream.run(pictures)) == given_out(pictures)
    assert stream.stats.steps == len(pictures) + min(warm_up, len(pictures) - 1)


def test_negative_reverse_warm_up(fake_session):
    with pytest.raises(TecoError, match="0 or more") as caught:
        Stream(fake_session(), reverse_warm_up=-1)
    assert caught.value.exit_code == 2


def test_the_older_name_of_reverse_warm_up(fake_session):
    assert Stream(fake_session(), warm_up=3).reverse_warm_up == 3


# --- frames handed over one by one -----------------------------------------------------------


@pytest.mark.parametrize("held", [0, 1, 3, 30])
def test_frames_handed_over_one_by_one_give_what_a_whole_clip_gives(held, fake_session, texture):
    """The same steps in the same order, over held frames, cuts and short scenes."""
    first, second, third = (texture(n, 32, 24, seed=n) for n in (6, 3, 7))
    frames = [*first[:2], first[1], *first[2:], *second, *third, third[-1]]
    whole, parts = fake_session(), fake_session()
    expected = list(Stream(whole, reverse_warm_up=held).run(frames))
    stream = Stream(parts, reverse_warm_up=held)
    found = [item for n, frame in enumerate(frames) for item in stream.feed(frame, n)]
    found += stream.drain()
    assert [tag for tag, _ in found] == list(range(len(frames)))
    assert all(np.array_equal(a, b) for (_, a), b in zip(found, expected, strict=True))
    assert parts.states == whole.states
    assert stream.stats.frames == len(frames)
    assert all(
        np.array_equal(a, b) for (a, _), (b, _) in zip(parts.calls, whole.calls, strict=True)
    )


def test_within_a_scene_nothing_is_held(fake_session, texture):
    stream = Stream(fake_session(), reverse_warm_up=2)
    assert [len(stream.feed(frame)) for frame in texture(6, 32, 24)] == [0, 0, 3, 1, 1, 1]
    assert stream.drain() == []


def test_a_reset_drops_what_is_held(fake_session, texture):
    stream = Stream(fake_session(), reverse_warm_up=2)
    frames = texture(5, 32, 24)
    stream.feed(frames[0])
    stream.reset()
    assert stream.drain() == []
    assert [len(stream.feed(frame)) for frame in frames[:3]] == [0, 0, 3]
