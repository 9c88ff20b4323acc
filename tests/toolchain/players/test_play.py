"""`teco play`: what reaches the player, what happens when it leaves, and what is late."""

from __future__ import annotations

import _thread
import json
import os
import shutil
import socket
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from paths import SCRIPTS

from teco.core.errors import TecoError
from teco.inference.deadline import cheap_planes
from teco.players.playback import play as playing
from teco.players.playback.play import MARGIN, PlayOptions, Schedule, play, written_on
from teco.players.playback.programs import MpvControl, Program, find_program
from teco.video.clips import open_source
from teco.video.colour import Converter
from teco_models.errors import ModelError

PLAYER = """#!{python}
import json, sys, time
from pathlib import Path
import av
out, stop, code, seconds = Path({out!r}), {stop!r}, {code!r}, {seconds!r}
found = {{"video": [], "audio": 0, "greys": [], "format": "", "arguments": sys.argv[1:]}}
with av.open("pipe:0", format="nut") as container:
    for packet in container.demux():
        if packet.stream.type == "audio":
            found["audio"] += bool(packet.size)
            continue
        for frame in packet.decode():
            found["video"].append(str(frame.pts * frame.time_base))
            found["greys"].append(float(frame.to_ndarray(format="gray").mean()))
            found["format"] = frame.format.name
            time.sleep(seconds)
        if stop is not None and len(found["video"]) >= stop:
            break
out.write_text(json.dumps(found))
if code:
    print("no screen could be opened", file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def player(tmp_path: Path):
    """A player that takes notes: a function to make one, and one to read its notes."""

    def make(*, stop: int | None = None, code: int = 0, seconds: float = 0.0) -> Program:
        path = tmp_path / "bin" / "ffplay"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            PLAYER.format(python=sys.executable, out=str(tmp_path / "notes.json"), stop=stop,
                          code=code, seconds=seconds)
        )  # fmt: skip
        path.chmod(0o755)
        return Program("ffplay", str(path))

    def notes() -> dict:
        return json.loads((tmp_path / "notes.json").read_text())

    make.notes = notes  # type: ignore[attr-defined]
    return make


QUIET = PlayOptions(osd=False, deadline=False)


def test_every_frame_its_moment_and_the_sound_reach_the_player(
    tmp_path: Path, player, fake_session, make_clip
) -> None:
    # 600 ticks a second; frames come at anything but a constant rate.
    pts = [0, 20, 60, 65, 130, 131, 200, 310]
    pictures = [np.full((16, 24, 3), 20 * n + 30, np.uint8) for n in range(8)]
    clip = make_clip(tmp_path / "in.mp4", pixels=pictures, pts=pts, time_base=Fraction(1, 600),
                     audio=True)  # fmt: skip
    result = play(lambda h, w: fake_session(), clip, player(), QUIET)
    notes = player.notes()
    with open_source(clip) as source:
        moments = [frame.pts * frame.time_base for frame in source]
    assert [Fraction(m) for m in notes["video"]] == moments
    assert notes["greys"] == sorted(notes["greys"])
    assert len(set(notes["greys"])) == 8
    assert notes["audio"] > 5
    assert notes["format"] == "yuv420p"
    assert (result.stats.frames, result.closed, result.late_share) == (8, False, 0.0)


def test_planes_go_to_the_player_as_they_come(
    tmp_path: Path, player, make_clip, monkeypatch
) -> None:
    """A model with planes; text on them is in the luma."""

    class Planes:
        layout = "NV12"
        runtime = details = "fake"
        conversion = None
        asked: ClassVar[list[tuple[int, ...]]] = []

        def convert_by(self, conversion) -> None:
            self.conversion = conversion

        def step(self, lr, state):
            raise AssertionError

        def enlarge_planes(self, picture, state):
            self.asked.append(picture.shape)
            return cheap_planes(picture, "NV12"), ()

        def close(self) -> None: ...

    pictures = [np.full((16, 24, 3), 20 * n + 30, np.uint8) for n in range(8)]
    clip = make_clip(tmp_path / "in.mp4", pixels=pictures)
    for name in ("to_rgb", "from_rgb"):
        monkeypatch.setattr(Converter, name, None)
    options = PlayOptions(deadline=False, planes="NV12", osd=False)
    result = play(lambda h, w: Planes(), clip, player(), options)
    notes = player.notes()
    assert set(Planes.asked) == {(24, 24)}
    assert (result.stats.frames, len(set(notes["greys"])), notes["format"]) == (8, 8, "yuv420p")
    assert notes["greys"] == sorted(notes["greys"])
    marked = written_on(np.zeros((300, 400), np.uint8), "teco 24.0 fps")
    assert marked[:200].any()
    assert not marked[200:].any()


def test_a_cut_range_begins_at_zero_with_its_sound(
    tmp_path: Path, player, fake_session, make_clip
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=20, audio=True)
    options = PlayOptions(start=0.4, end=0.6, osd=False, deadline=False)
    play(lambda h, w: fake_session(), clip, player(), options)
    notes = player.notes()
    assert [Fraction(m) for m in notes["video"]] == [Fraction(n, 25) for n in range(5)]
    assert 5 <= notes["audio"] <= 15


def test_closing_the_player_is_an_end_and_no_error(
    tmp_path: Path, player, fake_session, make_clip
) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=160, height=96, frames=60)
    session = fake_session()
    result = play(lambda h, w: session, clip, player(stop=2), QUIET)
    assert result.closed
    assert session.closed
    assert result.stats.frames < 60


@pytest.mark.parametrize(("screen", "hint"), [(":0", "by itself"), (None, "no screen")])
def test_a_player_that_fails_is_quoted(
    tmp_path: Path, player, fake_session, make_clip, monkeypatch, screen: str | None, hint: str
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen is not None:
        monkeypatch.setenv("DISPLAY", screen)
    clip = make_clip(tmp_path / "in.mp4")
    with pytest.raises(TecoError, match="ffplay ended with 4: no screen could be opened") as caught:
        play(lambda h, w: fake_session(), clip, player(code=4), QUIET)
    assert hint in caught.value.hint


@pytest.mark.parametrize("stuck", [False, True])
def test_an_interrupt_ends_player_and_threads(
    tmp_path: Path, player, fake_session, make_clip, monkeypatch, stuck: bool
) -> None:
    """Before playing begins, and when the player takes nothing and all of us wait for it."""
    clip = make_clip(tmp_path / "in.mp4", width=160, height=96, frames=90)
    before = set(threading.enumerate())
    monkeypatch.setattr(playing, "LEAD", 0.08 if stuck else 10)
    timer = threading.Timer(1 if stuck else 0, _thread.interrupt_main)

    def progress(done, _total) -> None:
        if done == 2:
            timer.start()

    try:
        with pytest.raises(KeyboardInterrupt):
            play(lambda h, w: fake_session(), clip, player(seconds=1000), QUIET, progress)
    finally:
        timer.join()
    assert [t for t in threading.enumerate() if t not in before] == []


def test_what_is_too_slow_is_bicubic_and_counted(
    tmp_path: Path, player, fake_session, make_clip, monkeypatch
) -> None:
    monkeypatch.setattr(playing, "LEAD", 0.08)
    session = fake_session()
    original = session.step

    def slow(lr, state):
        time.sleep(0.1)
        return original(lr, state)

    session.step = slow
    clip = make_clip(tmp_path / "in.mp4", frames=30)
    result = play(lambda h, w: session, clip, player(), PlayOptions())
    assert result.stats.frames == 30
    assert result.stats.fallbacks > 5
    assert result.late_share > 0.2
    assert result.stats.steps == 30 - result.stats.fallbacks
    assert len(player.notes()["video"]) == 30


def test_the_rate_is_written_into_the_picture(
    tmp_path: Path, player, fake_session, make_clip, monkeypatch
) -> None:
    monkeypatch.setattr(playing, "LEAD", 0.08)
    pictures = [np.full((48, 64, 3), 100 + n, np.uint8) for n in range(40)]
    clip = make_clip(tmp_path / "in.mp4", pixels=pictures)
    session = fake_session()
    original = session.step

    def slow(lr, state):
        time.sleep(0.03)
        return original(lr, state)

    session.step = slow
    play(lambda h, w: session, clip, player(seconds=0.01), PlayOptions(deadline=False))
    greys = player.notes()["greys"]
    assert max(abs(b - a) for a, b in pairwise(greys)) > 1.5


def test_text_is_on_a_copy() -> None:
    picture = np.full((144, 256, 3), 90, np.uint8)
    out = written_on(picture, "teco 24.0 fps")
    assert (picture == 90).all()
    changed = (out != picture).any(axis=2)
    assert 50 < changed.sum() < 5000
    assert changed[:40].sum() == changed.sum()


def test_too_small_a_clip(tmp_path: Path, player, fake_session, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=6, height=6, pix_fmt="yuv444p")
    with pytest.raises(ModelError, match="8x8"):
        play(lambda h, w: fake_session(), clip, player(), QUIET)


# --- when a picture is due -------------------------------------------------------------------


def test_the_schedule_counts_from_the_first_picture_and_from_full_pipes() -> None:
    now = [10.0]
    schedule = Schedule(lambda: now[0])
    assert schedule.due(0.0, None) is None
    schedule.wrote(0.0, 0.5)
    assert schedule.due(2.0, None) == 12.0
    now[0] = 11.0
    schedule.wrote(0.04, 0.001)
    assert schedule.due(2.0, None) == 12.0
    # The player let the picture of second 1 wait until now: it is not in a hurry.
    now[0] = 13.0
    schedule.wrote(1.0, 0.3)
    assert schedule.due(2.0, None) == 14.0
    # It never becomes earlier.
    schedule.wrote(2.9, 0.3)
    assert schedule.due(2.0, None) == 14.0


def test_a_player_that_says_where_it_is_is_believed() -> None:
    schedule = Schedule(lambda: 50.0)
    assert schedule.due(3.0, 2.0) == pytest.approx(51.0 - MARGIN)


def test_mpv_says_where_it_is(tmp_path: Path) -> None:
    """Against a server that speaks the protocol of mpv's manual."""
    path = tmp_path / "mpv"
    now = [5.0]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(10)
        control = MpvControl(path, lambda: now[0])
        peer, _ = server.accept()
        with peer, peer.makefile("r") as lines:
            asked = [json.loads(lines.readline())["command"] for _ in range(2)]
            assert asked == [["observe_property", 1, "time-pos"],
                             ["observe_property", 2, "core-idle"]]  # fmt: skip
            assert control.position() is None

            def tell(name: str, data: object) -> None:
                event = {"event": "property-change", "name": name, "data": data}
                peer.sendall(json.dumps(event).encode() + b"\n")

            peer.sendall(b'no json\n{"error": "success"}\n')
            tell("core-idle", False)
            tell("time-pos", 1.5)
            _until(lambda: control.position() == 1.5)
            now[0] = 6.0
            assert control.position() == 2.5
            tell("core-idle", True)
            _until(lambda: control.position() is None)
            control.show("24 fps")
            assert json.loads(lines.readline())["command"][:2] == ["show-text", "24 fps"]
            control.close()
    control.show("nobody listens, and nothing happens")


def _until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- the command and the real players --------------------------------------------------------


def test_without_a_player_the_machine_cannot(teco, tmp_path, monkeypatch, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    monkeypatch.setenv("PATH", str(tmp_path))
    teco("play", clip).refuses(3, "neither mpv nor ffplay", "apt install mpv")
    teco("play", clip, "--player", "mpv").refuses(3, "mpv is not")
    teco("play", clip, "--player", "vlc").refuses(2, "no player is called 'vlc'", "mpv, ffplay")


def test_the_fastest_model_is_not_told_to_give_way_to_itself() -> None:
    from teco.cli.watch.play import _too_slow

    assert "--model real-cpu" in _too_slow("teco-x4-b3-c64-bp-lk", None)
    assert "real-cpu" not in _too_slow("real-cpu", None)
    assert "--quality fast" in _too_slow("real-cpu", None)
    assert "--quality fast" not in _too_slow("real-cpu", "fast")


def test_the_first_player_there_is(monkeypatch, player) -> None:
    monkeypatch.setenv("PATH", str(Path(player().path).parent))
    assert find_program(None).name == "ffplay"


def test_the_command_says_what_was_late(teco, tmp_path, monkeypatch, player, make_clip, tiny_onnx):
    player()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    clip = make_clip(tmp_path / "in.mp4")
    done = teco("play", clip, "--model", tiny_onnx, "--runtime", "onnxruntime", "--threads", 1,
                "--player", "ffplay", "--no-deadline", "--player-args",
                "-fs -volume 3")  # fmt: skip
    done.says("8 frames", "0 late (0.0%), 0 of them bicubic")
    assert "-fs -volume 3" in " ".join(player.notes()["arguments"])
    teco("play", clip, "--player-args", "'open").refuses(2, "cannot be split")
    teco("play", tmp_path / "none.mp4", "--player", "ffplay").refuses(2, "none.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mpv", "ffplay"])
def test_the_real_player(
    name: str, teco, monkeypatch, tmp_path: Path, make_clip, tiny_onnx
) -> None:
    if shutil.which(name) is None:
        assert "CI" not in os.environ, f"CI has no {name}"
        pytest.skip(f"{name} is not installed here")
    clip = make_clip(tmp_path / "in.mp4", width=64, height=48, frames=50, audio=True)
    for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.setenv(variable, "dummy")
    silent = "--vo=null --ao=null" if name == "mpv" else ""
    done = teco("play", clip, "--model", tiny_onnx, "--runtime", "onnxruntime", "--threads", 1,
                    "--player", name, "--player-args", silent)  # fmt: skip
    done.says("50 frames in", f"in {name}")


@pytest.mark.slow
def test_the_real_mpv_is_quoted(teco, make_clip, tmp_path: Path, tiny_onnx) -> None:
    """It says on stdout why it ends, and only where it is not told to be silent."""
    if shutil.which("mpv") is None:
        assert "CI" not in os.environ, "CI has no mpv"
        pytest.skip("mpv is not installed here")
    teco("play", make_clip(tmp_path / "in.mp4"), "--model", tiny_onnx, "--runtime", "onnxruntime",
         "--player", "mpv", "--player-args=--nonsense").refuses(
        1, "mpv ended with 1", "nonsense (option not found)",
        after=("tiny on onnxruntime", "note: tiny is for papers"),
    )  # fmt: skip


@pytest.mark.slow
def test_a_long_stream_loses_nothing_and_does_not_grow(
    tmp_path: Path, player, fake_session, monkeypatch
) -> None:
    """Four minutes at a varying rate, as fast as it goes; scripts/endure.py does twenty."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import endure
    finally:
        sys.path.pop(0)
    found = endure.run(minutes=4, real_time=False, model=None)
    assert found.frames == found.expected == 4500
    assert found.lost == found.repeated == found.moved == 0
    assert found.growth_mib < 2, found
