"""upscale.py and `teco upscale`: file to file, three threads, one order, little memory."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from teco.core.errors import Interrupted, TecoError
from teco.core.log import no_progress
from teco.inference.upscale import Prospect, UpscaleOptions, upscale
from teco.inference.upscale import pump as pump_frames
from teco.video.clips import Frame, open_source
from teco.video.file.encoders import EncoderSettings
from teco.video.overlap import QUEUE
from teco_models.errors import ModelError

RUNTIME = ("--runtime", "onnxruntime", "--threads", "1")
FAST = UpscaleOptions(encoder=EncoderSettings(preset="ultrafast"))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Whatever happens, the decoder's and the encoder's threads end."""
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before] == []


def enlarged(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(4, 0).repeat(4, 1)


def packets(path: Path, kind: str) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(bytes(p), p.pts * p.time_base) for p in container.demux(stream) if p.size]


def moments(path: Path) -> list[Fraction]:
    with open_source(path) as source:
        return [frame.pts * frame.time_base for frame in source]


def read(path: Path, **span) -> list[np.ndarray]:
    with open_source(path, **span) as source:
        return [frame.pixels for frame in source]


# --- file to file ----------------------------------------------------------------------------


def test_pictures_in_pictures_out_in_order(
    tmp_path, fake_session, texture, make_pictures, load_pictures
):
    pictures = texture(12, 20, 12)
    source = make_pictures(tmp_path / "in", pictures)
    session = fake_session()
    said: list[tuple[int, int | None]] = []
    result = upscale(
        lambda _source: session, source, tmp_path / "out", FAST, lambda *done: said.append(done)
    )
    found = load_pictures(tmp_path / "out")
    assert all(np.array_equal(a, enlarged(b)) for a, b in zip(found, pictures, strict=True))
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        f"{n:04d}.png" for n in range(12)
    ]
    assert said == [(n, 12) for n in range(1, 13)]
    assert (result.frames, result.scenes) == (12, 1)
    assert 0 < result.step_seconds < result.seconds
    assert result.fps == pytest.approx(12 / result.seconds)
    assert session.states == [None, *range(11)]
    assert session.closed


@pytest.mark.parametrize(
    ("option", "warm_up"), [("--reverse-warm-up", 0), ("--reverse-warm-up", 2), ("--warm-up", 2)]
)  # the last is the older name
def test_the_same_as_stepping_by_hand(
    option, warm_up, tmp_path, tiny_onnx, texture, make_pictures, load_pictures, teco
):
    """The whole command, compared with a loop that knows only the runtime's step."""
    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, open_session

    first, second = texture(4, 32, 24), texture(3, 32, 24, seed=5)
    source = make_pictures(tmp_path / "in", first + second)
    done = teco("upscale", source, tmp_path / "out", "--model", tiny_onnx, *RUNTIME,
                option, warm_up)  # fmt: skip
    done.says("7 frames, 2 scenes")

    session = open_session(open_model(str(tiny_onnx)), "onnxruntime", SessionOptions(threads=1))
    expected = []
    for scene in (first, second):
        state = None
        for n in [*range(warm_up, 0, -1), *range(-len(scene), 0)]:
            lr = scene[n].astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
            hr, state = session.step(np.ascontiguousarray(lr), state)
            if n < 0:
                scaled = np.rint(hr[0] * np.float32(255))
                expected.append(np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    found = load_pictures(tmp_path / "out")
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_recurrence_and_cuts_change_the_pictures(
    tmp_path, tiny_onnx, texture, make_pictures, load_pictures, teco
):
    source = make_pictures(tmp_path / "in", texture(3, 32, 24) + texture(3, 32, 24, seed=5))
    for name, options in (("cuts", ()), ("one", ("--no-scene-cuts",))):
        teco("upscale", source, tmp_path / name, "--model", tiny_onnx, *RUNTIME, *options).says()
    cuts, one = load_pictures(tmp_path / "cuts"), load_pictures(tmp_path / "one")
    same = [np.array_equal(a, b) for a, b in zip(cuts, one, strict=True)]
    assert same[:3] == [True] * 3
    assert not same[3]


def test_a_video_keeps_its_sound_and_its_timestamps(tmp_path, fake_session, make_clip):
    # 600 ticks a second; frames come at anything but a constant rate.
    pts = [0, 20, 60, 65, 130, 131, 200, 310]
    source = make_clip(tmp_path / "in.mp4", pts=pts, time_base=Fraction(1, 600), audio=True)
    result = upscale(lambda _source: fake_session(), source, tmp_path / "out.mp4", FAST)
    assert result.frames == len(pts)
    assert moments(tmp_path / "out.mp4") == [Fraction(t, 600) for t in pts]
    assert packets(tmp_path / "out.mp4", "audio") == packets(source, "audio")
    (first, *_) = read(tmp_path / "out.mp4")
    assert first.shape == (96, 128, 3)


def test_lossless_video_comes_close_to_the_pictures(tmp_path, fake_session, make_clip):
    source = make_clip(tmp_path / "in.mp4")
    options = UpscaleOptions(encoder=EncoderSettings(crf=0, pix_fmt="yuv444p", preset="ultrafast"))
    upscale(lambda _source: fake_session(), source, tmp_path / "out.mkv", options)
    for a, b in zip(read(tmp_path / "out.mkv"), read(source), strict=True):
        assert np.abs(a.astype(int) - enlarged(b)).max() <= 2


def test_a_range(tmp_path, tiny_onnx, make_clip, teco):
    source = make_clip(tmp_path / "in.mp4", frames=20, audio=True)
    run = ("--model", tiny_onnx, *RUNTIME)
    teco("upscale", source, tmp_path / "a.mp4", *run, "--start", 0.2, "--end", 0.4).says("5 frames")
    teco("upscale", source, tmp_path / "b.mp4", *run, "--frames", 3).says("3 frames")
    teco("upscale", source, tmp_path / "c.mp4", *run, "--start", 0.7).says("2 frames")
    assert moments(tmp_path / "a.mp4") == [Fraction(n, 25) for n in range(5)]
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert {s.type for s in container.streams} == {"video", "audio"}


def test_the_range_is_what_the_network_sees(tmp_path, fake_session, make_clip):
    source = make_clip(tmp_path / "in.mp4", frames=10)
    session = fake_session()
    options = UpscaleOptions(start=0.12, max_frames=4, encoder=EncoderSettings(preset="ultrafast"))
    upscale(lambda _source: session, source, tmp_path / "out", options)
    wanted = [p.astype(np.float32).transpose(2, 0, 1) / np.float32(255) for p in read(source)[3:7]]
    assert all(np.array_equal(lr[0], p) for (lr, _), p in zip(session.calls, wanted, strict=True))


def test_notices_of_both_ends(tmp_path, fake_session, make_clip):
    source = make_clip(tmp_path / "in.mp4", audio=True)
    result = upscale(lambda _source: fake_session(), source, tmp_path / "out", FAST)
    assert any("no sound" in notice for notice in result.notices)


# --- order of events -------------------------------------------------------------------------


def test_the_model_is_opened_only_once_both_ends_are_good(tmp_path, make_clip, make_pictures):
    def never(_h: int, _w: int):
        raise AssertionError("opened in vain")

    good = make_clip(tmp_path / "in.mp4")
    small = make_pictures(tmp_path / "small", [np.zeros((7, 9, 3), np.uint8)])
    with pytest.raises(TecoError, match="there is no file"):
        upscale(never, tmp_path / "none.mp4", tmp_path / "out.mp4", FAST)
    with pytest.raises(ModelError, match="too small"):
        upscale(never, small, tmp_path / "out.mp4", FAST)
    with pytest.raises(TecoError, match="does not exist"):
        upscale(never, good, tmp_path / "none" / "out.mp4", FAST)


def test_the_model_is_opened_for_the_frames_size(tmp_path, fake_session, make_clip):
    sizes: list[tuple[int, int]] = []

    def make(source):
        sizes.append((source.height, source.width))
        return fake_session()

    upscale(make, make_clip(tmp_path / "in.mp4", 40, 24), tmp_path / "out.mp4", FAST)
    assert sizes == [(24, 40)]


def test_a_model_that_cannot_be_opened_leaves_nothing(tmp_path, make_clip, untouched):
    def fails(_source):
        raise TecoError("no")

    source = make_clip(tmp_path / "in.mp4")
    for name in ("out.mp4", "out"):
        with untouched(tmp_path), pytest.raises(TecoError, match="no"):
            upscale(fails, source, tmp_path / name, FAST)


@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_a_model_that_fails_leaves_nothing(fail_at, tmp_path, fake_session, make_clip, untouched):
    source = make_clip(tmp_path / "in.mp4", frames=30)
    for name in ("out.mp4", "out"):
        session = fake_session(fail_at=fail_at)
        with untouched(tmp_path), pytest.raises(RuntimeError, match="told to fail"):
            upscale(lambda _source, s=session: s, source, tmp_path / name, FAST)
        assert session.closed


def test_a_report_that_raises_ends_it(tmp_path, fake_session, make_clip, untouched):
    def interrupt(done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    source = make_clip(tmp_path / "in.mp4", frames=30)
    with untouched(tmp_path), pytest.raises(KeyboardInterrupt):
        upscale(lambda _source: fake_session(), source, tmp_path / "out.mp4", FAST, interrupt)


# --- the three threads -----------------------------------------------------------------------


class FakeSource:
    """Frames out of nowhere, counted.

    Args:
        frames: how many; None never ends.
        error: raised after them.
    """

    name = "fake"
    width, height = 16, 12
    count: int | None = None

    def __init__(self, frames: int | None = None, error: BaseException | None = None) -> None:
        self.frames = frames
        self.error = error
        self.given = 0

    def __iter__(self) -> Iterator[Frame]:
        while self.frames is None or self.given < self.frames:
            pixels = np.full((self.height, self.width, 3), self.given % 256, np.uint8)
            self.given += 1
            yield Frame(pixels, self.given - 1, self.given - 1, Fraction(1, 25), 1)
        if self.error is not None:
            raise self.error


class FakeSink:
    """Keeps the frames' numbers.

    Args:
        fail_at: raise TecoError at this frame.
        seconds: that each frame takes.
    """

    name = "fake"

    def __init__(self, fail_at: int | None = None, seconds: float = 0) -> None:
        self.fail_at = fail_at
        self.seconds = seconds
        self.written: list[tuple[int, int]] = []
        self.committed = False

    def write(self, frame: Frame) -> None:
        if frame.index == self.fail_at:
            raise TecoError("the fake disk is full")
        time.sleep(self.seconds)
        self.written.append((frame.index, int(frame.pixels[0, 0, 0])))

    def commit(self) -> None:
        self.committed = True


def pump(source: FakeSource, sink: FakeSink, session, report=no_progress, warm_up: int = 0):
    from teco.inference.stream import Stream

    return pump_frames(
        Stream(session, scene_cuts=False, reverse_warm_up=warm_up), source, sink, report
    )


@pytest.mark.parametrize("warm_up", [0, 3])
def test_each_picture_keeps_the_moment_of_its_frame(warm_up, fake_session):
    sink = FakeSink()
    pump(FakeSource(40), sink, fake_session(), warm_up=warm_up)
    assert sink.written == [(n, n) for n in range(40)]
    assert sink.committed


def test_errors_of_the_source_come_through_after_its_frames(fake_session):
    sink = FakeSink()
    with pytest.raises(TecoError, match="ends early"):
        pump(FakeSource(5, TecoError("the clip ends early")), sink, session := fake_session())
    assert len(session.calls) == 5
    assert not sink.committed


@pytest.mark.parametrize("error", [OSError(5, "disk"), MemoryError(), KeyboardInterrupt()])
def test_other_errors_of_the_source_come_through(error, fake_session):
    sink = FakeSink()
    with pytest.raises(type(error)):
        pump(FakeSource(2, error), sink, fake_session())
    assert not sink.committed


@pytest.mark.parametrize("fail_at", [0, 1, 20, 39])
def test_errors_of_the_sink_come_through(fail_at, fake_session):
    sink = FakeSink(fail_at)
    with pytest.raises(TecoError, match="fake disk is full"):
        pump(FakeSource(40), sink, fake_session())
    assert [index for index, _ in sink.written] == list(range(fail_at))
    assert not sink.committed


def test_an_error_of_the_sink_stops_an_endless_source(fake_session):
    source = FakeSource()
    with pytest.raises(TecoError, match="fake disk is full"):
        pump(source, FakeSink(10), fake_session())
    assert source.given < 10 + 4 * QUEUE


def test_an_error_of_the_model_stops_an_endless_source(fake_session):
    source, sink = FakeSource(), FakeSink()
    with pytest.raises(RuntimeError, match="told to fail"):
        pump(source, sink, fake_session(fail_at=10))
    assert source.given < 10 + 3 * QUEUE
    assert not sink.committed


def test_what_waits_is_not_written_after_an_interrupt(fake_session):
    """Encoding may be slow: an interrupt waits for the frame at hand, not for all that queue."""
    sink = FakeSink(seconds=0.1)

    def interrupt(done: int, _total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump(FakeSource(), sink, fake_session(), interrupt)
    assert len(sink.written) <= 3


def test_no_frames_is_an_error(fake_session):
    sink = FakeSink()
    with pytest.raises(TecoError, match="fake has no frames"):
        pump(FakeSource(0), sink, fake_session())
    assert not sink.committed


@pytest.mark.parametrize("warm_up", [0, 5])
def test_few_frames_are_ever_in_flight(warm_up, fake_session):
    """A slow sink holds back an endless source; a slow model does too."""
    source, sink = FakeSource(), FakeSink(seconds=0.005)
    most = 0

    def watch(done: int, _total: int | None) -> None:
        nonlocal most
        most = max(most, source.given - len(sink.written))
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump(source, sink, fake_session(), watch, warm_up)
    # Two queues, one frame in the hands of each thread, and what the warm-up looks ahead.
    assert most <= 2 * QUEUE + 4 + warm_up


def test_the_decoder_runs_ahead_no_further_than_its_queue(fake_session):
    source = FakeSource()

    def watch(done: int, _total: int | None) -> None:
        time.sleep(0.01)
        assert source.given <= done + QUEUE + 2
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump(source, FakeSink(), fake_session(), watch)


def test_decoding_stepping_and_encoding_overlap(fake_session):
    """20 frames of 20 ms in each of three stages take far less than 1.2 s."""
    source, sink = FakeSource(20), FakeSink(seconds=0.02)
    slow_source = iter(source)

    class Slow(FakeSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in slow_source:
                time.sleep(0.02)
                yield frame

    session = fake_session()
    step = session.step

    def slow_step(lr, state):
        time.sleep(0.02)
        return step(lr, state)

    session.step = slow_step
    assert pump(Slow(), sink, session) < 1
    assert len(sink.written) == 20


# --- pipes -----------------------------------------------------------------------------------


def as_y4m(pictures: list[np.ndarray]) -> bytes:
    """Grey pictures as 4:4:4 y4m, in full range."""
    height, width = pictures[0].shape[:2]
    data = f"YUV4MPEG2 W{width} H{height} F30:1 C444 XCOLORRANGE=FULL\n".encode()
    neutral = bytes([128]) * (2 * width * height)
    return data + b"".join(b"FRAME\n" + p[..., 0].tobytes() + neutral for p in pictures)


def test_y4m_through_pipes(tmp_path, tiny_onnx, texture, make_pictures, load_pictures, run_teco):
    pictures = [p[..., :1].repeat(3, axis=2) for p in texture(5, 24, 16)]
    run = ("--model", tiny_onnx, *RUNTIME)
    done = run_teco("upscale", "-", "-", *run, "--pix-fmt", "yuv444p", stdin=as_y4m(pictures))
    done.says("5 frames")
    header, _, rest = done.stdout.partition(b"\n")
    assert header.startswith(b"YUV4MPEG2 W96 H64 F30:1 ")
    assert len(rest) == 5 * (len(b"FRAME\n") + 96 * 64 * 3)

    # The same pictures from a folder, to a folder: the pipe's colour conversion rounds.
    source = make_pictures(tmp_path / "in", pictures)
    run_teco("upscale", source, tmp_path / "out", *run).says("5 frames")
    (tmp_path / "piped.y4m").write_bytes(done.stdout)
    for a, b in zip(read(tmp_path / "piped.y4m"), load_pictures(tmp_path / "out"), strict=True):
        assert np.abs(a.astype(int) - b).max() <= 3


def test_a_pipe_into_a_file_and_a_file_into_a_pipe(tmp_path, tiny_onnx, texture, run_teco):
    run = ("--model", tiny_onnx, *RUNTIME)
    data = as_y4m(texture(4, 24, 16))
    run_teco("upscale", "-", tmp_path / "out.mp4", *run, stdin=data).says("4 frames")
    assert len(read(tmp_path / "out.mp4")) == 4
    assert read(tmp_path / "out.mp4")[0].shape == (64, 96, 3)
    done = run_teco("upscale", tmp_path / "out.mp4", "-", *run, "--frames", 2)
    done.says("2 frames")
    assert done.stdout.count(b"FRAME\n") == 2


def test_nothing_but_pictures_on_standard_output(tmp_path, tiny_onnx, texture, teco):
    source = tmp_path / "in.y4m"
    source.write_bytes(as_y4m(texture(2, 24, 16)))
    done = teco("upscale", source, tmp_path / "out.mp4", "--model", tiny_onnx, *RUNTIME)
    done.says("tiny on onnxruntime", "2 frames, 1 scene, ")
    assert done.stdout == b""


def test_a_clip_through_python_streams_matches_pyav(tmp_path, fake_session, texture):
    """The y4m that comes out is one that libav reads."""
    source = tmp_path / "in.y4m"
    source.write_bytes(as_y4m(texture(3, 24, 16)))
    upscale(lambda _source: fake_session(), source, tmp_path / "out.y4m", FAST)
    with av.open(io.BytesIO((tmp_path / "out.y4m").read_bytes())) as container:
        frames = list(container.decode(video=0))
    assert [(f.width, f.height) for f in frames] == [(96, 64)] * 3


# --- the command -----------------------------------------------------------------------------


def test_upscale_runs_without_torch(tmp_path, tiny_onnx, make_clip, teco_environment):
    import subprocess
    import sys

    source = make_clip(tmp_path / "in.mp4", frames=2)
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "from teco.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "upscale", source, tmp_path / "out.mp4",
               "--model", tiny_onnx, *RUNTIME]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=teco_environment)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "out.mp4")) == 2


def test_the_shipped_model_is_the_default(tmp_path, make_clip, teco):
    from teco_models import zoo

    if not zoo.entries():
        pytest.skip("no weights are shipped")
    source = make_clip(tmp_path / "in.mp4", 16, 16, 2)
    teco("upscale", source, tmp_path / "out.mp4", *RUNTIME).says("real-cpu on onnxruntime")


# --- long work is asked about ----------------------------------------------------------------


def test_long_work_says_how_long_and_can_be_given_up(
    tmp_path, fake_session, make_clip, monkeypatch, untouched
):
    source = make_clip(tmp_path / "in.mp4", 40, 24, 12)
    asked: list[Prospect] = []

    def no(ahead: Prospect) -> bool:
        asked.append(ahead)
        return False

    upscale(lambda _source: fake_session(), source, tmp_path / "short.mp4", FAST, go_on=no)
    assert asked == []  # it is not long
    monkeypatch.setattr("teco.inference.upscale.MINUTE", -1.0)
    with untouched(tmp_path), pytest.raises(Interrupted, match="given up"):
        upscale(lambda _source: fake_session(), source, tmp_path / "out.mp4", FAST, go_on=no)
    assert len(asked) == 1
    assert (asked[0].frames, asked[0].width, asked[0].height) == (8, 160, 96)
    assert asked[0].seconds > 0
    upscale(
        lambda _source: fake_session(), source, tmp_path / "out.mp4", FAST, go_on=lambda _: True
    )
    assert (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4000, "1 hour 7 minutes"),
        (7200, "2 hours"),
        (200_000, "2 days 7 hours"),
        (65, "1 minute"),
        (10, "10 seconds"),
        (0.2, "1 second"),
        (59.7, "1 minute"),
    ],
)
def test_how_long_is_said_in_days_and_hours(seconds, text):
    assert Prospect(3, 160, 96, seconds).time == text


def test_notices_are_told_before_the_work_and_once(tmp_path, fake_session, make_clip):
    """A clip of 10 bits says so before the model is opened."""
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 40, 24, "yuv420p10le"
        for _ in range(3):
            out.mux(video.encode(av.VideoFrame(40, 24, "yuv420p10le")))
        out.mux(video.encode(None))
    said: list[str] = []

    def opened(_source):
        assert any("10 bits of the clip become 8" in s for s in said)
        return fake_session()

    result = upscale(opened, source, tmp_path / "out.mp4", FAST, tell=said.append)
    assert list(result.notices) == said
    assert len(set(said)) == len(said)
