"""A long job that was broken off goes on, and the pictures are those of an unbroken one."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import make

from teco.core.errors import Interrupted, TecoError
from teco.inference import segments
from teco.inference.recurrence import Kind
from teco.inference.segments import FramePlace, SegmentPlan, least_frames
from teco.inference.upscale import UpscaleOptions, upscale
from teco.model.opening import open_model
from teco.runtimes import Session, SessionOptions, open_session
from teco.video import image_folder
from teco.video.file.encoders import EncoderSettings
from teco.video.segments import Begun, unfinished

BROKEN = (KeyboardInterrupt, Interrupted)


# --- where parts begin -----------------------------------------------------------------------


@given(st.lists(st.sampled_from(list(Kind)), max_size=120), st.integers(1, 9), st.data())
def test_a_plan_that_goes_on_finds_the_same_parts(kinds, least, data) -> None:
    kinds = [Kind.STARTS, *kinds]
    frames = [np.full((8, 8, 3), n, np.uint8) for n in range(len(kinds))]
    whole = SegmentPlan(least)
    parts = [(whole.takes(f, k), whole.lead_in) for f, k in zip(frames, kinds, strict=True)]
    begins = [n for n, (part, _) in enumerate(parts) if part is not FramePlace.GOES_ON]
    lengths = np.diff([0, *begins])
    assert all(least <= n <= segments.MOST * least for n in lengths)
    assert len(kinds) - ([0, *begins][-1]) <= segments.MOST * least
    if not begins:
        return
    done = data.draw(st.sampled_from(begins))
    again = SegmentPlan(least, done)
    for n, (frame, kind) in enumerate(zip(frames, kinds, strict=True)):
        part = again.takes(frame, kind)
        assert part is (FramePlace.SKIPPED if n < done else parts[n][0])
        if part is FramePlace.BEGINS_WITHIN_A_SCENE:
            found, expected = again.lead_in, parts[n][1]
            assert len(found) == len(expected)
            assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_parts_of_large_frames_are_shorter() -> None:
    assert least_frames(180, 320) == segments.LEAST
    assert segments.FEWEST < least_frames(1080, 1920) < segments.LEAST
    assert least_frames(4320, 7680) == segments.FEWEST


# --- breaking off and going on ---------------------------------------------------------------


def shots(count: int, length: int, still: bool = False) -> list[np.ndarray]:
    """Shots of moving texture; the cuts between them are found."""
    frames: list[np.ndarray] = []
    for shot in range(-(-count // length)):
        rng = np.random.default_rng(shot)
        wide = rng.integers(0, 256, (40, 400, 3), np.uint8).repeat(3, 0).repeat(3, 1)
        for n in range(length):
            at = 0 if still else 2 * n % 800
            frames.append(np.ascontiguousarray(wide[:40, at : at + 56]))
    return frames[:count]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make(
        tmp_path_factory.mktemp("clips") / "in.mp4", shots(150, 33), sound=True,
        options={"crf": "10", "preset": "ultrafast"},
    )  # fmt: skip


@pytest.fixture
def short_parts(monkeypatch) -> None:
    monkeypatch.setattr("teco.inference.segments.LEAST", 12)
    monkeypatch.setattr("teco.inference.segments.FEWEST", 12)
    monkeypatch.setattr("teco.inference.segments.MOST", 2)
    monkeypatch.setattr("teco.inference.upscale.LONGEST_AT_ONCE", 12)


class Breaking:
    """A session that fails after so many steps, as a machine does."""

    def __init__(self, session: Session, steps: int) -> None:
        self._session, self._left = session, steps
        self.runtime, self.details = session.runtime, session.details

    def step(self, lr, state):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._session.step(lr, state)

    def close(self) -> None:
        self._session.close()


def run(clip: Path, out: Path, model: Path, *, steps: int = 10**9, **options) -> list[str]:
    """One run; what it said."""
    said: list[str] = []

    def opened(_source) -> Session:
        session = open_session(open_model(str(model)), "onnxruntime", SessionOptions(threads=1))
        return Breaking(session, steps)

    names = {f.name for f in fields(EncoderSettings)}
    encoder = {"preset": "ultrafast", **{k: v for k, v in options.items() if k in names}}
    others = {k: v for k, v in options.items() if k not in names}
    how = UpscaleOptions(encoder=EncoderSettings(**encoder), **others)
    upscale(opened, clip, out, how, tell=said.append, model_id=lambda: "tiny")
    return said


def coded(path: Path, kind: str = "video") -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(bytes(p), float(p.pts * p.time_base)) for p in container.demux(stream) if p.size]


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_what_was_broken_off_goes_on_with_the_same_pictures(
    clip, tmp_path, tiny_onnx, suffix
) -> None:
    run(clip, tmp_path / f"whole{suffix}", tiny_onnx)
    out = tmp_path / f"out{suffix}"
    rng = random.Random(1)
    went_on = 0
    for _ in range(8):
        try:
            said = run(clip, out, tiny_onnx, steps=rng.randrange(5, 60))
        except BROKEN:
            assert not out.exists()
            continue
        went_on += any("going on after" in s for s in said)
        break
    else:
        assert any("going on after" in s for s in run(clip, out, tiny_onnx))
        went_on = 1
    assert went_on == 1
    for kind in ("video", "audio"):
        assert coded(out, kind) == coded(tmp_path / f"whole{suffix}", kind)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({f"whole{suffix}", out.name})


@pytest.mark.usefixtures("short_parts")
def test_the_parts_hold_the_pictures_of_the_clip(clip, tmp_path, tiny_onnx, monkeypatch) -> None:
    """In parts or at once: as many frames, at the same moments, nearly the same pictures."""
    run(clip, tmp_path / "parts.mkv", tiny_onnx, crf=1)
    monkeypatch.setattr("teco.inference.upscale.LONGEST_AT_ONCE", 10**6)
    run(clip, tmp_path / "once.mkv", tiny_onnx, crf=1)
    pictures = []
    for name in ("parts", "once"):
        with av.open(str(tmp_path / f"{name}.mkv")) as container:
            pictures.append([(f.time, f.to_ndarray(format="rgb24").astype(int))
                             for f in container.decode(video=0)])  # fmt: skip
    assert [t for t, _ in pictures[0]] == [t for t, _ in pictures[1]]
    assert len(pictures[0]) == 150
    for (_, a), (_, b) in zip(*pictures, strict=True):
        assert np.mean((a - b) ** 2) < 4


@pytest.mark.usefixtures("short_parts")
def test_unfinished_work_of_other_options_is_not_gone_on_with(clip, tmp_path, tiny_onnx) -> None:
    out = tmp_path / "out.mkv"
    with pytest.raises(BROKEN):
        run(clip, out, tiny_onnx, steps=60)
    with pytest.raises(TecoError, match="made otherwise: crf was 16, is 20") as caught:
        run(clip, out, tiny_onnx, crf=20)
    assert caught.value.exit_code == 2
    assert "--force" in caught.value.hint
    said = run(clip, out, tiny_onnx, crf=20, overwrite=True)
    assert not any("going on" in s for s in said)
    assert len(coded(out)) == 150


@pytest.mark.usefixtures("short_parts")
def test_a_clip_that_changed_meanwhile_is_noticed(clip, tmp_path, tiny_onnx) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes(clip.read_bytes())
    with pytest.raises(BROKEN):
        run(own, tmp_path / "out.mkv", tiny_onnx, steps=60)
    make(own, shots(150, 40), options={"crf": "10"})
    with pytest.raises(TecoError, match="made otherwise: clip was"):
        run(own, tmp_path / "out.mkv", tiny_onnx)


@pytest.mark.usefixtures("short_parts")
def test_a_damaged_part_is_made_again(clip, tmp_path, tiny_onnx) -> None:
    run(clip, tmp_path / "whole.mkv", tiny_onnx)
    with pytest.raises(BROKEN):
        run(clip, tmp_path / "out.mkv", tiny_onnx, steps=100)
    folder = tmp_path / ".out.mkv.teco-segments"
    assert len(list(folder.glob("*.packets"))) >= 2
    (folder / "0001.json").write_text("{")
    run(clip, tmp_path / "out.mkv", tiny_onnx)
    assert coded(tmp_path / "out.mkv") == coded(tmp_path / "whole.mkv")


def test_two_runs_of_one_output_do_not_meet(clip, tmp_path) -> None:
    from teco.video.segments import Segments

    first = Segments(tmp_path / "out.mkv", {"a": "1"}, start_again=False)
    with pytest.raises(TecoError, match="another run is writing"):
        Segments(tmp_path / "out.mkv", {"a": "1"}, start_again=False)
    first.forget()
    Segments(tmp_path / "out.mkv", {"a": "1"}, start_again=False).forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("short_parts")
def test_what_is_kept_is_said_and_dropped_when_the_output_is_whole(
    clip, tmp_path, tiny_onnx
) -> None:
    out = tmp_path / "out.mkv"
    with pytest.raises(Interrupted, match=r"interrupted; .* frames are kept in .*segments") as said:
        run(clip, out, tiny_onnx, steps=60)
    assert said.value.hint == "the same command goes on from there"
    # Another, shorter job for the same output leaves nothing behind.
    run(clip, out, tiny_onnx, max_frames=5)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mkv"]


@pytest.mark.usefixtures("short_parts")
def test_an_encoder_whose_parts_cannot_be_joined_makes_all_at_once(
    clip, tmp_path, tiny_onnx, monkeypatch
) -> None:
    from teco.video.file.sink import VideoSink

    def other(_self) -> None:
        raise TecoError("it describes each part otherwise")

    monkeypatch.setattr(VideoSink, "_another_encoder", other)
    said = run(clip, tmp_path / "out.mkv", tiny_onnx)
    assert any("nothing is kept where the work breaks off" in s for s in said)
    assert len(coded(tmp_path / "out.mkv")) == 150


@pytest.mark.usefixtures("short_parts")
def test_a_full_disk_keeps_what_is_whole(clip, tmp_path, tiny_onnx, monkeypatch) -> None:
    """The part under way is lost, with its file; the message names the output."""
    from teco.video.segments import Segments

    out = tmp_path / "out.mkv"
    add, added = Segments.add, []

    def full(self, packet) -> None:
        added.append(packet)
        if len(added) > 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, packet)

    with monkeypatch.context() as patch:
        patch.setattr(Segments, "add", full)
        said: list[str] = []
        with pytest.raises(TecoError, match=r"out\.mkv could not be written: no space left"):
            said += run(clip, out, tiny_onnx)
    folder = tmp_path / ".out.mkv.teco-segments"
    assert len(list(folder.glob("*.packets"))) >= 1
    assert not list(folder.glob(".*"))
    assert any("going on after" in s for s in run(clip, out, tiny_onnx))
    assert len(coded(out)) == 150


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "libx265"), (".webm", "libvpx-vp9"), (".avi", "libx264"), (".mov", "ffv1"),
     (".mkv", "mpeg4")],
)  # fmt: skip
@pytest.mark.usefixtures("short_parts")
def test_parts_of_every_usual_codec_are_joined(clip, tmp_path, tiny_onnx, suffix, codec) -> None:
    out = tmp_path / f"out{suffix}" if codec != "ffv1" else tmp_path / "out.mkv"
    with pytest.raises(BROKEN):
        run(clip, out, tiny_onnx, steps=90, codec=codec, start=0.4)
    run(clip, out, tiny_onnx, codec=codec, start=0.4)
    run(clip, tmp_path / f"whole{out.suffix}", tiny_onnx, codec=codec, start=0.4)
    assert coded(out) == coded(tmp_path / f"whole{out.suffix}")
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        # Matroska's reader knows no decoding times of some codecs.
        times = [p.dts for p in container.demux(stream) if p.size and p.dts is not None]
        assert all(a < b for a, b in pairwise(times))
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 140


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("harm", ["taken away", "cut off", "of the part under way"])
def test_a_folder_of_pictures_goes_on_too(clip, tmp_path, tiny_onnx, harm) -> None:
    """Also where a picture is half a file, as a power cut leaves it, or gone: its part and the
    later ones are made again. How pictures of a video would be encoded does not matter."""
    out = tmp_path / "out"
    run(clip, tmp_path / "whole", tiny_onnx)
    with pytest.raises(Interrupted, match="frames are kept in"):
        run(clip, out, tiny_onnx, steps=90)
    assert not out.exists()
    parts = tmp_path / ".out.teco-segments"
    pictures = sorted(parts.glob("*/*.png"))
    assert len(pictures) >= 40
    first = len(list((parts / "0000").iterdir()))
    done = sum(json.loads(p.read_text())["frames"] for p in parts.glob("0*.json"))
    assert first < done < len(pictures)
    if harm == "taken away":
        pictures[first + 1].unlink()
    else:
        cut = pictures[first + 1 if harm == "cut off" else -1]
        cut.write_bytes(cut.read_bytes()[:100])
    expected = done if harm == "of the part under way" else first
    said = run(clip, out, tiny_onnx, crf=30)
    assert f"going on after {expected} frames of an earlier run" in said
    made = {p.name: p.read_bytes() for p in out.iterdir()}
    assert len(made) == 150
    assert made == {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.usefixtures("short_parts")
def test_pictures_are_kept_where_the_folder_does_not_get_its_name(
    clip, tmp_path, tiny_onnx, monkeypatch
) -> None:
    """Broken off among the last renames, or on a full disk: everything is still there."""
    run(clip, tmp_path / "whole", tiny_onnx)
    link, linked = image_folder.link_or_copy, []

    def full(source: Path, target: Path) -> None:
        linked.append(source)
        if len(linked) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "link_or_copy", full)
        with pytest.raises(TecoError, match="no space left"):
            run(clip, tmp_path / "out", tiny_onnx)
    assert not (tmp_path / "out").exists()
    assert "going on after 150 frames of an earlier run" in run(clip, tmp_path / "out", tiny_onnx)
    names = [sorted(p.name for p in (tmp_path / x).iterdir()) for x in ("out", "whole")]
    assert names[0] == names[1]
    assert len(names[0]) == 150


def test_links_become_copies_where_there_are_none(tmp_path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    (tmp_path / "a").write_bytes(b"picture")
    image_folder.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"runtime": "openvino", "tile": "48x64"}, Begun("openvino", (48, 64))),
        ({"runtime": "onnxruntime", "tile": ""}, Begun("onnxruntime", None)),
        ({"runtime": "glow", "tile": "", "model": "m 1"}, Begun("glow", None, "m 1")),
        ({"runtime": "onnxruntime (CPU, 1 threads, float32)"}, None),
        ({"runtime": "openvino", "tile": "garbage"}, None),
        ({}, None),
        ([1], None),
    ],
)
def test_what_was_begun_is_read_or_left(tmp_path, job, expected) -> None:
    folder = tmp_path / ".out.mkv.teco-segments"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    assert unfinished(tmp_path / "out.mkv") == expected


@pytest.mark.slow
def test_killed_twenty_times_it_is_as_if_nothing_had_been(tmp_path, tiny_onnx) -> None:
    """3,000 frames, SIGKILL at 20 random moments: at most one part is made twice each time."""
    source = make(
        tmp_path / "in.mkv", shots(3000, 410), sound=True,
        options={"crf": "10", "preset": "ultrafast"},
    )  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "teco", "upscale", str(source), str(out), "--model",
             str(tiny_onnx), "--runtime", "onnxruntime", "--threads", "1", "--preset", "ultrafast"],
            stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    began = time.monotonic()
    assert start(tmp_path / "whole.mkv").wait(300) == 0
    whole = time.monotonic() - began
    rng = random.Random(7)
    out = tmp_path / "out.mkv"
    kills = finished = 0
    while kills < 20:
        process = start(out)
        try:
            code = process.wait(rng.uniform(0.1, whole / 4))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert not out.exists()
        else:
            assert code == 0
            finished += 1
            assert coded(out) == coded(tmp_path / "whole.mkv")
            out.unlink()
    if not out.exists():
        assert start(out).wait(300) == 0
    for kind in ("video", "audio"):
        assert coded(out, kind) == coded(tmp_path / "whole.mkv", kind)
    left = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert left == []
