"""`teco preview`: one moment by every choice, and what the whole would take."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from teco.core.errors import TecoError
from teco.model.opening import open_model, ordinary_models
from teco.page.viewer import Crop
from teco.preview import measure as measuring
from teco.preview import page as pages
from teco.preview import run as running
from teco.preview.measure import BicubicSession, measure
from teco.preview.moment import find
from teco.preview.run import Preview, preview
from teco.video.file.encoders import lookahead
from teco.video.file.sink import VideoSink

RUNTIME = ("--runtime", "onnxruntime")
WHOLE = Crop(0, 0, 96, 128, 96, 128)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Enough is less here, where times say nothing."""
    monkeypatch.setattr(measuring, "ENOUGH_S", 0.05)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, make_clip) -> Path:
    """Four seconds of 32x24, with sound."""
    return make_clip(tmp_path_factory.mktemp("clips") / "film.mp4", frames=100, audio=True)


# --- the moment ------------------------------------------------------------------------------


def test_the_moment_is_the_middle_unless_it_is_said(clip) -> None:
    found = find(clip, at=None, seconds=1, frames=None)
    assert (found.start, found.frames, found.count, found.rate) == (1.5, 25, 100, 25)
    with found.open() as source:
        frames = list(source)
    assert [round(f.seconds * 25) for f in frames] == list(range(38, 63))
    assert find(clip, at=0.4, seconds=1, frames=None).start == 0.4
    assert find(clip, at=None, seconds=1, frames=50).start == 1.0


def test_near_the_end_it_begins_earlier_and_beyond_it_is_refused(clip) -> None:
    assert find(clip, at=3.9, seconds=2, frames=None).start == 2.0
    assert find(clip, at=3.9, seconds=20, frames=None).start == 0.0
    with pytest.raises(TecoError, match=r"at 4 s, and .* is 4.00 s long") as error:
        find(clip, at=4.0, seconds=2, frames=None)
    assert error.value.exit_code == 2


def test_files_that_are_read_to_the_moment_are_not_read_to_the_middle(
    tmp_path, make_clip, monkeypatch
) -> None:
    monkeypatch.setattr("teco.preview.moment.FAR", 0.5)
    avi = make_clip(tmp_path / "in.avi", frames=100, codec="mpeg4")
    found = find(avi, at=None, seconds=1, frames=None)
    assert found.start == 0.5
    assert "cannot be sought in" in found.notices[-1]
    assert find(avi, at=2.0, seconds=1, frames=None).start == 2.0
    short = make_clip(tmp_path / "short.avi", frames=30, codec="mpeg4")
    assert find(short, at=None, seconds=1, frames=None).start == pytest.approx(0.1)


def test_folders_and_pictures_are_known(tmp_path, make_pictures, texture) -> None:
    folder = make_pictures(tmp_path / "in", texture(7))
    found = find(folder, at=None, seconds=2, frames=None)
    assert (found.kind, found.start, found.count) == ("folder", 0.0, 7)
    found = find(folder / "0003.png", at=None, seconds=2, frames=None)
    assert (found.kind, found.start, found.count) == ("picture", 0.0, 1)


def test_what_cannot_be_read_twice_is_refused(tmp_path) -> None:
    os.mkfifo(tmp_path / "live")
    for path in (Path("-"), tmp_path / "live", Path("/dev/zero")):
        with pytest.raises(TecoError, match="is no file") as error:
            find(path, at=None, seconds=2, frames=None)
        assert error.value.exit_code == 2


# --- the pace --------------------------------------------------------------------------------


def test_the_slowest_of_network_and_encoder_is_what_counts(clip, fake_session, monkeypatch) -> None:
    moment = find(clip, at=None, seconds=2, frames=None)

    class Slow(fake_session):
        def step(self, lr, state):
            time.sleep(0.03)
            return super().step(lr, state)

    monkeypatch.setattr(measuring, "ENOUGH_S", 0.4)
    found = measure(moment, Slow(), WHOLE, 4)
    assert found.frame_s >= 0.03
    assert found.step_s >= 0.03
    written: list[int] = []
    write = VideoSink.write

    def slow(self, frame) -> None:
        time.sleep(0.03 if len(written) > lookahead("libx264", "medium") else 0)
        written.append(frame.index)
        write(self, frame)

    monkeypatch.setattr(VideoSink, "write", slow)
    found = measure(moment, BicubicSession(4), WHOLE, 4)
    assert found.frame_s >= 0.03, "an encoder that lags behind is waited for"
    assert found.step_s < 0.03
    # It was full before the frames came that were timed: they follow on the fourth.
    fill = len(written) - found.timed
    assert fill > lookahead("libx264", "medium")
    assert written[fill:] == list(range(4, 4 + found.timed))


def test_it_ends_when_there_was_time_enough(clip, fake_session, monkeypatch) -> None:
    moment = find(clip, at=None, seconds=2, frames=None)
    monkeypatch.setattr(measuring, "MOST_S", 0.0)
    few = measure(moment, fake_session(), WHOLE, 4)
    assert measuring.LEAST <= few.timed < moment.frames - measuring.WARM
    assert few.length is None
    whole = measure(moment, fake_session(), WHOLE, 4, patient=True)
    assert whole.timed >= moment.frames - measuring.WARM
    assert len(whole.pictures) > len(few.pictures)


@pytest.mark.parametrize("frames", [1, 2, 5, 30])
def test_short_clips_are_gone_through_again(tmp_path, make_clip, fake_session, frames) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=frames)
    moment = find(clip, at=None, seconds=2, frames=None)
    session = fake_session()
    found = measure(moment, session, WHOLE, 4)
    assert found.length == frames
    if frames == 1:
        assert found.timed == 1
    elif frames > measuring.FEW:
        assert found.timed == frames - measuring.WARM, "once, and with its decoding"
    else:
        assert found.timed >= measuring.LEAST
    assert set(found.pictures) == set(range(0, frames, 4))
    with moment.open() as source:
        for n, frame in enumerate(source):
            if n in found.pictures:
                assert np.array_equal(found.pictures[n], frame.pixels.repeat(4, 0).repeat(4, 1))
                assert np.array_equal(found.thumbnails[n], frame.pixels)


# --- the choices -----------------------------------------------------------------------------


def test_the_pictures_are_those_of_upscale(clip, tiny_x2, tmp_path, load_pictures, teco) -> None:
    moment = find(clip, at=None, seconds=1, frames=None)
    said: list[str] = []
    found = preview(moment, [open_model(str(tiny_x2))], "onnxruntime", tell=said.append)
    assert [c.name for c in found.choices] == ["bicubic", "tiny-x2"]
    assert said[0] == "bicubic"
    assert said[1].startswith("tiny-x2 on onnxruntime")
    assert found.scale == 2
    assert found.frames[0] >= measuring.WARM
    assert len(found.frames) == running.SHOWN
    teco("upscale", clip, tmp_path / "out", "--model", tiny_x2, *RUNTIME,
         "--start", moment.start, "--frames", moment.frames).says()  # fmt: skip
    made = load_pictures(tmp_path / "out")
    with moment.open() as source:
        frames = [f.pixels for f in source]
    for name, pictures in found.pictures().items():
        for n, picture in zip(found.frames, pictures, strict=True):
            cubic = cv2.resize(frames[n], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            assert np.array_equal(picture, made[n] if name == "tiny-x2" else cubic)
    for choice in found.choices:
        assert choice.whole.frames == 100
        assert choice.whole.seconds == pytest.approx(100 * choice.measured.frame_s)
    bicubic, network = found.choices
    assert bicubic.memory is not None
    assert network.memory is not None
    assert network.memory > bicubic.memory


def test_what_cannot_be_tried_is_told_and_the_others_are(clip, tiny_x2, monkeypatch) -> None:
    moment = find(clip, at=None, seconds=1, frames=None)
    good = open_model(str(tiny_x2))
    bad = replace(good, name="other", onnx=Path("/absent.onnx"))
    found = preview(moment, [bad, good], "onnxruntime")
    assert [r.name for r in found.refused] == ["other"]
    assert [c.name for c in found.choices] == ["bicubic", "tiny-x2"]
    with pytest.raises(TecoError):
        preview(moment, [bad], "onnxruntime")
    with pytest.raises(TecoError, match="no runtime is called 'openvno'"):
        preview(moment, [good], "openvno")


def test_one_graph_takes_one_time(clip, tiny_x2, monkeypatch) -> None:
    """With other weights, or as busy as the machine was the second time."""
    moment = find(clip, at=None, seconds=1, frames=None)
    one = open_model(str(tiny_x2))
    base = measure(moment, BicubicSession(2), Crop(0, 0, 48, 64, 48, 64), 2)
    times = iter([0.01, 0.1, 0.2])
    monkeypatch.setattr(
        running, "measure", lambda *_, **__: replace(base, frame_s=next(times), timed=10)
    )
    found = preview(moment, [one, replace(one, name="again")], "onnxruntime")
    assert [c.measured.frame_s for c in found.choices] == pytest.approx([0.01, 0.15, 0.15])


def test_a_length_that_is_not_told_is_found_or_an_hour_is_meant(clip, tiny_x2) -> None:
    known = find(clip, at=0.0, seconds=10, frames=None)
    model = [open_model(str(tiny_x2))]
    found = preview(replace(known, count=None), model, "onnxruntime")
    assert found.moment.count == 100
    unknown = replace(known, count=None, frames=25)
    found = preview(unknown, model, "onnxruntime")
    assert found.choices[0].whole.frames == 25 * 3600
    assert pages.answer(found).startswith("An hour of film.mp4 takes about ")
    assert any("does not say how long it is" in note for note in pages.notes(found))


def test_the_choices_are_those_for_ordinary_clips() -> None:
    assert [m.name for m in ordinary_models(4)][:2] == ["real-cpu", "real-cpu-textured"]
    for scale in (2, 4):
        models = ordinary_models(scale)
        assert {m.variant.scale for m in models} == {scale}
        assert {m.variant.degradation for m in models} == {"real"}


# --- the page --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(clip, tiny_x2) -> Preview:
    moment = find(clip, at=None, seconds=1, frames=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "ENOUGH_S", 0.05)
        return preview(moment, [open_model(str(tiny_x2))], "onnxruntime")


def shown_in(text: str) -> dict:
    block = re.search(r'<script type="application/json" id="shown">(.*?)</script>', text)
    assert block
    return json.loads(block[1])


def test_the_answer_stands_first(found) -> None:
    text = pages.page(found)
    assert re.search(
        r"<h1>Preview of film.mp4</h1><p class=\"answer\">film.mp4, 100 frames, ", text
    )
    sentence = pages.answer(found)
    for choice in found.choices:
        assert choice.whole.time in sentence
    assert "64x48" in sentence
    for row in pages.rows(found):
        assert all(cell in text for cell in row[1:])


def test_one_time_is_said_once(found) -> None:
    network = found.choices[1]
    two = replace(found, choices=(*found.choices, replace(network, name="other")))
    assert f"{network.whole.time} with tiny-x2 or other on this" in pages.answer(two)
    assert f"{network.whole.time} with tiny-x2 on this" in pages.answer(found)


def test_the_page_needs_no_network_and_names_are_text(found) -> None:
    evil = "<b>&\"'.mp4"
    text = pages.page(replace(found, moment=replace(found.moment, path=Path(evil))))
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    words = pages.command_of(replace(found, moment=replace(found.moment, path=Path(evil))),
                             found.choices[1])  # fmt: skip
    assert words[2] == "'<b>&\"'\"'\"'.mp4'"


def test_pictures_are_lossless_and_the_page_is_small(found, monkeypatch) -> None:
    text = pages.page(found)
    data = shown_in(text)
    assert (data["width"], data["height"]) == (64, 48)
    assert [p["name"] for p in data["panes"]] == ["left", "right"]
    assert "the outline is what" not in text
    assert set(data["images"]) == {"bicubic", "tiny-x2"}
    large = sum(len(uri) for some in data["images"].values() for uri in some)
    monkeypatch.setattr(pages, "MOST_BYTES", large // 2)
    text = pages.page(found)
    data = shown_in(text)
    assert sum(len(uri) for some in data["images"].values() for uri in some) <= large // 2
    assert data["width"] < 64
    assert f"the middle {data['width']}x{data['height']} of 64x48" in text
    outline = re.search(r'<span style="top: ([\d.]+)%; left: ([\d.]+)%', text)
    assert outline
    assert float(outline[1]) == pytest.approx(100 * (48 - data["height"]) // 2 / 48, abs=1)


def test_what_limits_the_answer_is_said(found) -> None:
    moment = found.moment
    assert pages.notes(found) == []
    still = replace(found.choices[0], measured=replace(found.choices[0].measured, repeats=0.8))
    for changed, words in (
        (replace(found, choices=(still, *found.choices[1:])), "80% of these frames repeat"),
        (replace(found, moment=replace(moment, kind="folder")), "are taken for the frames"),
        (replace(found, moment=replace(moment, kind="picture", count=1)), "is one picture"),
        (replace(found, refused=(running.Refused(name="x", why="too large"),)), "x was not tried"),
    ):
        assert any(words in note for note in pages.notes(changed)), words
        assert words in pages.page(changed)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.00"), (59.999, "1:00.00"), (62.5, "1:02.50"), (3723.25, "1:02:03.25")],
)
def test_moments_are_said_as_players_do(seconds, text) -> None:
    assert pages.spoken_moment(seconds) == text


def test_the_command_is_the_one_that_was_timed(found, tiny_x2) -> None:
    def target(path: str, kind: str = "clip") -> str:
        moment = replace(found.moment, path=Path(path), kind=kind)
        return pages.command_of(replace(found, moment=moment), found.choices[1])[3]

    assert target("a/film.mp4") == "film_x2.mp4"
    assert target("film.ts") == "film_x2.mkv"
    assert target("film.webm") == "film_x2.mkv", "WebM would be encoded by another encoder"
    assert target("a/pictures", "folder") == "pictures_x2"
    words = pages.command_of(found, found.choices[1])
    assert words[4:] == ["--model", str(tiny_x2), "--runtime", "onnxruntime"]
    assert pages.command_of(replace(found, runtime="auto"), found.choices[1])[4:] == words[4:6]


# --- the command -----------------------------------------------------------------------------


def test_the_command_writes_a_table_and_a_page(clip, tiny_x2, tmp_path, teco, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    done = teco("preview", clip, "--model", tiny_x2, *RUNTIME, "--at", "0:01.2", "--open")
    done.says("tiny-x2 on onnxruntime", "page: film-preview.html", "teco upscale")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split("  ")[0] == "choice"
    assert [line.split()[0] for line in lines[1:]] == ["bicubic", "tiny-x2"]
    assert all(line.endswith(" GiB") for line in lines[1:])
    page = tmp_path / "film-preview.html"
    assert opened == [page.as_uri()]
    # Its own page is replaced, another file is not.
    again = ("preview", clip, "--model", tiny_x2, *RUNTIME, "--seconds", 1)
    teco(*again).says()
    page.write_text("<h1>mine</h1>")
    teco(*again).refuses(2, "no page that teco wrote")
    assert page.read_text() == "<h1>mine</h1>"
    assert [p.name for p in tmp_path.iterdir()] == ["film-preview.html"]


def test_without_a_browser_it_says_so(clip, tiny_x2, tmp_path, teco, monkeypatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    run = ("preview", clip, "--model", tiny_x2, *RUNTIME, "-o", tmp_path / "p.html")
    teco(*run, "--open").says("no browser here")


def test_what_cannot_work_is_refused_before_the_work(
    clip, tiny_x2, tiny_onnx, tmp_path, teco, make_clip
) -> None:
    sound = make_clip(tmp_path / "sound.mka", audio=True, picture=False)
    teco("preview", "-").refuses(2, "is no file")
    teco("preview", sound).refuses(1, "no picture stream")
    teco("preview", tmp_path / "absent.mp4").refuses(2, "there is no file")
    teco("preview", clip, "--at", 99).refuses(2, "is 4.00 s long")
    teco("preview", clip, "--at", "1:xx").refuses(2, "'1:xx' is no time")
    teco("preview", clip, "--at", -1).refuses(2)
    teco("preview", clip, "--seconds", 0).refuses(2)
    teco("preview", clip, "--scale", 3).refuses(2, "no network enlarges 3 times")
    teco("preview", clip, "--model", "liv").refuses(2, "no model is called 'liv'")
    teco("preview", clip, "--model", tiny_x2, "--model", tiny_onnx).refuses(2, "two sizes")
    copy = tmp_path / "other" / tiny_x2.name
    copy.parent.mkdir()
    for file in (tiny_x2, tiny_x2.with_suffix(".json")):
        (copy.parent / file.name).write_bytes(file.read_bytes())
    done = teco("preview", clip, "--model", tiny_x2, "--model", copy)
    done.refuses(2, "two choices are called tiny-x2")
    teco("preview", clip, "-o", tmp_path / "p.txt").refuses(2, "should end in .html")
    small = make_clip(tmp_path / "small.mp4", 6, 6)
    assert teco("preview", small).code != 0
