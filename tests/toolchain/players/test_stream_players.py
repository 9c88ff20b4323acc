"""What players need of the stream: held frames, any frame when asked, deadlines, many threads."""

from __future__ import annotations

import random
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from teco.core.errors import TecoError
from teco.inference.deadline import FORGET, RECENT, Deadline, cheap, cheap_centred
from teco.inference.recurrence import STALE
from teco.inference.stream import Stream
from teco_calibration.degrade import bicubic_bd
from teco_models.errors import ModelError


def grey(value: int, height: int = 8, width: int = 9) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


CLIP = [grey(n) for n in range(250)]


def seen(session) -> list[int]:
    return [round(float(lr[0, 0, 0, 0]) * 255) for lr, _ in session.calls]


def value(picture: np.ndarray) -> int:
    return int(picture[0, 0, 0])


def chained(session) -> bool:
    """Every step that was given a state was given that of the frame just before its own."""
    frames = seen(session)
    return all(
        state is None or frames[state] == frame - 1
        for frame, state in zip(frames, session.states, strict=True)
    )


# --- held frames -----------------------------------------------------------------------------


def test_a_held_frame_is_not_stepped_and_leaves_no_trace(fake_session):
    plain, held = fake_session(), fake_session()
    pictures = [grey(n) for n in (10, 20, 30)]
    one, other = Stream(plain), Stream(held)
    out = [one.push(p) for p in pictures]
    found = [other.push(pictures[n]) for n in (0, 1, 1, 1, 2, 2)]
    assert [value(p) for p in found] == [10, 20, 20, 20, 30, 30]
    assert found[1] is found[2] is found[3]
    assert held.states == plain.states == [None, 0, 1]
    assert (other.stats.frames, other.stats.steps, other.stats.repeats) == (6, 3, 3)
    assert all(np.array_equal(out[a], found[b]) for a, b in ((0, 0), (1, 1), (2, 4)))


def test_pictures_given_out_cannot_be_spoiled(fake_session):
    stream = Stream(fake_session())
    with pytest.raises(ValueError, match="read-only"):
        stream.push(grey(1))[0, 0, 0] = 7


def test_the_callers_picture_may_change_afterwards(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    picture = grey(5)
    stream.push(picture)
    picture[:] = 6
    assert value(stream.push(picture)) == 6
    assert stream.stats.repeats == 0


def test_a_cut_that_is_said_is_stepped_even_if_nothing_changed(fake_session):
    session = fake_session()
    stream = Stream(session)
    for cut in (None, True, None):
        stream.push(grey(5), cut=cut)
    assert session.states == [None, None]
    assert stream.stats.repeats == 1


def test_reverse_warm_up_passes_over_held_frames(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, reverse_warm_up=3)
    out = [value(p) for p in stream.run([grey(n) for n in (0, 0, 1, 1, 2)])]
    assert out == [0, 0, 1, 1, 2]
    assert seen(session) == [1, 0, 1, 2]
    assert stream.stats.repeats == 2


def test_after_an_error_the_same_picture_is_stepped_again(fake_session):
    session = fake_session(fail_at=1)
    stream = Stream(session, scene_cuts=False)
    stream.push(grey(1))
    with pytest.raises(RuntimeError):
        stream.push(grey(2))
    session.fail_at = None
    assert value(stream.push(grey(2))) == 2
    assert stream.stats.repeats == 0


# --- any frame -------------------------------------------------------------------------------


def test_frames_in_order_are_stepped_once(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    assert [value(stream.at(n, CLIP.__getitem__)) for n in range(6)] == list(range(6))
    assert session.states == [None, 0, 1, 2, 3, 4]


def test_a_small_gap_is_caught_up_and_what_was_passed_is_kept(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, catch_up=4)
    for n in (0, 3, 1, 2, 4):
        assert value(stream.at(n, CLIP.__getitem__)) == n
    assert seen(session) == [0, 1, 2, 3, 4]
    assert session.states == [None, 0, 1, 2, 3]


def test_what_is_asked_for_first_may_be_a_little_late(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, catch_up=4)
    assert value(stream.at(2, CLIP.__getitem__)) == 2
    assert seen(session) == [0, 1, 2]


@pytest.mark.parametrize("pre_roll", [0, 3, 20])
@pytest.mark.parametrize("target", [40, 5])
def test_a_jump_begins_a_scene_before_it(fake_session, pre_roll, target):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, catch_up=2, cache=1, pre_roll=pre_roll)
    for n in range(18, 20):
        stream.at(n, CLIP.__getitem__)
    before = len(session.calls)
    assert value(stream.at(target, CLIP.__getitem__)) == target
    first = 20 if target == 40 and pre_roll == 20 else max(0, target - pre_roll)
    assert seen(session)[before:] == list(range(first, target + 1))
    # Within reach of the pre-roll nothing is lost by going on.
    assert (session.states[before] is None) == (first != 20)
    assert chained(session)


def test_recent_pictures_cost_nothing(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, cache=5)
    for n in range(8):
        stream.at(n, CLIP.__getitem__)
    for n in (7, 3, 5, 4, 6):
        assert value(stream.at(n, CLIP.__getitem__)) == n
    assert len(session.calls) == 8
    stream.at(2, CLIP.__getitem__)
    assert session.states[-1] is None


def test_a_known_cut_begins_a_scene(fake_session):
    session = fake_session()
    stream = Stream(session)
    for n in range(5):
        stream.at(n, CLIP.__getitem__, cut_at=lambda i: i == 3)
    assert session.states == [None, 0, 1, None, 3]


def test_an_error_leaves_no_half_state(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    stream.at(0, CLIP.__getitem__)

    def broken(n: int) -> np.ndarray:
        if n == 2:
            raise OSError("the disk is gone")
        return CLIP[n]

    with pytest.raises(OSError, match="disk"):
        stream.at(3, broken)
    assert value(stream.at(3, CLIP.__getitem__)) == 3
    assert session.states == [None, 0, None]


def test_a_change_of_size_in_the_middle(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    clip = [grey(1), grey(2), grey(3, 16, 8), grey(4, 16, 8)]
    shapes = [stream.at(n, clip.__getitem__).shape for n in range(4)]
    assert shapes == [(32, 36, 3)] * 2 + [(64, 32, 3)] * 2
    assert session.states == [None, 0, None, 2]
    with pytest.raises(ModelError, match="8x8"):
        stream.at(4, lambda _: grey(5, 4, 4))


def test_the_model_says_which_sizes_it_takes(fake_session):
    def only(h: int, w: int) -> None:
        if (h, w) != (8, 9):
            raise TecoError(f"exported for 8x9, these are {h}x{w}")

    stream = Stream(fake_session(), check_size=only)
    stream.push(grey(1))
    for _ in range(2):  # and once more: a refused picture does not become a held one
        with pytest.raises(TecoError, match="16x9"):
            stream.push(grey(1, 16, 9))
    assert value(stream.push(grey(2))) == 2


def test_200_random_seeks(fake_session):
    rng = random.Random(1)
    session = fake_session()
    stream = Stream(session, scene_cuts=False, pre_roll=2, cache=4, catch_up=3)
    for _ in range(200):
        n = rng.randrange(250)
        assert value(stream.at(n, CLIP.__getitem__)) == n
    assert chained(session)
    assert stream.stats.steps == len(session.calls) < 200 * 5


def test_many_threads_at_once(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, catch_up=16, cache=32)
    inside = threading.Lock()

    def fetch(n: int) -> np.ndarray:
        assert inside.acquire(blocking=False), "two threads are in the stream at once"
        inside.release()
        return CLIP[n]

    # As players do: so many frames under way, and the next asked for when the first is there.
    with ThreadPoolExecutor(8) as pool:
        waiting = deque(pool.submit(stream.at, n, fetch) for n in range(8))
        for n in range(200):
            assert value(waiting.popleft().result()) == n
            if n + 8 < 200:
                waiting.append(pool.submit(stream.at, n + 8, fetch))
    assert seen(session) == list(range(200))
    assert session.states == [None, *range(199)]


def test_pushing_in_between_makes_the_index_unknown(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False)
    stream.at(0, CLIP.__getitem__)
    stream.push(grey(200))
    stream.at(1, CLIP.__getitem__)
    stream.at_time(9.0, grey(201))
    stream.at(2, CLIP.__getitem__)
    assert session.states == [None, 0, None, 2, None]


def test_frame_minus_one(fake_session):
    with pytest.raises(TecoError, match="the first is 0"):
        Stream(fake_session()).at(-1, CLIP.__getitem__)


@pytest.mark.parametrize("name", ["pre_roll", "catch_up", "cache", "jump", "reverse_warm_up"])
def test_negative_numbers(fake_session, name):
    with pytest.raises(TecoError, match="0 or more"):
        Stream(fake_session(), **{name: -1})


# --- timestamps ------------------------------------------------------------------------------


def test_timestamps_go_on_jump_and_repeat(fake_session):
    session = fake_session()
    stream = Stream(session, scene_cuts=False, jump=0.5)
    for moment, n in ((0.0, 0), (0.04, 1), (0.04, 1), (0.5, 2), (3.0, 3), (3.04, 4), (1.0, 5)):
        assert value(stream.at_time(moment, grey(n))) == n
    assert seen(session) == [0, 1, 2, 3, 4, 5]
    assert session.states == [None, 0, 1, None, 3, None]
    assert stream.stats.repeats == 1


# --- deadlines -------------------------------------------------------------------------------


class Clock:
    """A session and a clock that agree on how long a step takes."""

    def __init__(self, session) -> None:
        self.now = 0.0
        self.step_seconds = 0.1
        self.session = session
        original = session.step

        def step(lr, state):
            self.now += self.step_seconds
            return original(lr, state)

        session.step = step

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(fake_session, monkeypatch):
    session = fake_session()
    clock = Clock(session)
    monkeypatch.setattr("teco.inference.recurrence.perf_counter", clock)
    return Stream(session, scene_cuts=False, deadline=Deadline(clock)), session, clock


def test_a_frame_that_would_be_late_is_cheap_and_the_state_is_the_last_steps(timed):
    stream, session, clock = timed
    assert value(stream.push(grey(1), due=1.0)) == 1
    late = stream.push(grey(2), due=clock.now + 0.05)
    assert np.array_equal(late, cheap(grey(2)))
    assert value(stream.push(grey(3), due=clock.now + 1)) == 3
    assert seen(session) == [1, 3]
    assert session.states == [None, 0]
    stats = stream.stats
    assert (stats.frames, stats.steps, stats.fallbacks, stats.late) == (3, 2, 1, 0)


def test_without_a_due_time_everything_is_stepped(timed):
    stream, session, clock = timed
    clock.step_seconds = 100
    for n in range(5):
        stream.push(grey(n))
    assert len(session.calls) == 5
    assert stream.stats.fallbacks == 0


def test_a_step_that_took_too_long_after_all_is_counted(timed):
    stream, _, clock = timed
    stream.push(grey(1), due=1.0)
    clock.step_seconds = 5
    stream.push(grey(2), due=clock.now + 0.2)
    assert (stream.stats.late, stream.stats.fallbacks) == (1, 0)


def test_one_stall_is_not_slowness(timed):
    stream, _, clock = timed
    for n in range(RECENT):
        clock.step_seconds = 9.0 if n == 2 else 0.1
        stream.push(grey(n))
    assert stream.expected_seconds == pytest.approx(0.1)


def test_a_machine_that_was_busy_is_tried_again(timed):
    stream, session, clock = timed
    clock.step_seconds = 1.0
    for n in range(RECENT):
        stream.push(grey(n))
    clock.step_seconds = 0.1
    tried = None
    for n in range(100):
        steps = len(session.calls)
        stream.push(grey(10 + n), due=clock.now + 0.3)
        if len(session.calls) > steps:
            tried = n
            break
    assert tried is not None
    assert tried == pytest.approx(np.log(0.3) / np.log(FORGET), abs=1)


def test_too_old_a_state_is_dropped(timed):
    for passed, goes_on in ((STALE, True), (STALE + 1, False)):
        stream, session, clock = timed
        stream.reset()
        stream.push(grey(0), due=None)
        for n in range(passed):
            stream.push(grey(n + 1), due=clock.now)
        stream.push(grey(100))
        assert (session.states[-1] is not None) == goes_on


def test_a_cut_in_a_late_frame_still_begins_a_scene(timed):
    stream, session, clock = timed
    stream.push(grey(1))
    stream.push(grey(2), cut=True, due=clock.now)
    stream.push(grey(3), cut=False)
    assert session.states == [None, None]


def test_a_held_late_frame_is_made_good_when_there_is_time(timed):
    stream, session, clock = timed
    stream.push(grey(1))
    first = stream.push(grey(2), due=clock.now)
    assert stream.push(grey(2), due=clock.now) is first
    assert stream.stats.fallbacks == 2
    better = stream.push(grey(2), due=clock.now + 1)
    assert seen(session) == [1, 2]
    assert stream.push(grey(2), due=clock.now) is better


@given(arrays.arrays(np.uint8, st.tuples(st.integers(8, 13), st.integers(8, 13), st.just(3))))
def test_cheap_is_bicubic_bd(picture):
    assert np.array_equal(cheap(picture), bicubic_bd(picture))


@pytest.mark.parametrize("enlarge", [cheap, cheap_centred])
def test_late_frames_of_16_bits_have_16(enlarge, texture):
    picture = texture(1, 24, 16)[0].astype(np.uint16) * 257
    out = enlarge(picture)
    assert out.dtype == np.uint16
    difference = out / 257 - enlarge((picture // 257).astype(np.uint8))
    assert np.abs(difference).max() <= 0.51  # the rounding of 8 bits
    assert len(np.unique(out % 257)) > 100


def test_cheap_is_bicubic_bd_in_pictures_too(texture):
    for picture in texture(3, 61, 37):
        assert np.array_equal(cheap(picture), bicubic_bd(picture))


# --- the public name -------------------------------------------------------------------------


def test_teco_stream(tiny_onnx):
    import teco

    with teco.Stream.open(str(tiny_onnx), runtime="onnxruntime", threads=1) as stream:
        assert stream.push(grey(3)).shape == (32, 36, 3)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = teco.Nothing


# --- shots -----------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_no_ghost_of_the_shot_before(tiny_onnx, texture, held):
    """The first picture after each cut is that of a cold start, whatever came before."""
    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, open_session

    frames: list[np.ndarray] = []
    cuts: list[int] = []
    for shot, count in enumerate((6, 5, 7, 5, 6)):
        if shot:
            cuts.append(len(frames))
        pictures = texture(count, 48, 32, seed=20 + shot)
        frames += [p for p in pictures for _ in range(2)] if held else pictures
    session = open_session(open_model(str(tiny_onnx)), "onnxruntime", SessionOptions(threads=1))
    stream, other = Stream(session), Stream(session, scene_cuts=False)
    for n, picture in enumerate(frames):
        out = stream.push(picture)
        if n in cuts:
            assert np.array_equal(out, Stream(session).push(picture)), n
            assert not np.array_equal(out, other.push(picture)), "without cuts there is a ghost"
        else:
            other.push(picture)
    assert stream.stats.resets == len(cuts) + 1
