"""``upscale --compare``: bicubic on the left, the network on the right, in every kind of output."""

from __future__ import annotations

import io
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from teco.core.errors import Interrupted, TecoError
from teco.estimates.room import Encoding
from teco.inference.beside import WIDTHS, beside
from teco.inference.upscale import UpscaleOptions, upscale
from teco.video.clips import open_source
from teco.video.file.encoders import EncoderSettings
from teco.video.y4m import Y4MSource

FAST = EncoderSettings(preset="ultrafast", crf=0, pix_fmt="yuv444p")
RUNTIME = ("--runtime", "onnxruntime", "--threads", "1")


def cubic(frame: np.ndarray, scale: int = 4) -> np.ndarray:
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [2, 4])
def test_both_pictures_are_there_and_a_line_between(dtype, scale) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, np.iinfo(dtype).max, (9, 15, 3), dtype, endpoint=True)
    network = np.full((9 * scale, 15 * scale, 3), 77, dtype)
    side = beside("side", frame, network, scale=scale)
    width = 15 * scale
    assert side.dtype == dtype
    assert side.shape == (9 * scale, WIDTHS["side"] * width, 3)
    assert np.array_equal(side[:, : width - 2], cubic(frame, scale)[:, :-2])
    assert (side[:, width + 2 :] == 77).all()
    split = beside("split", frame, network, scale=scale)
    middle = width // 2
    assert split.shape == network.shape
    assert np.array_equal(split[:, : middle - 2], cubic(frame, scale)[:, : middle - 2])
    assert (split[:, middle + 2 :] == 77).all()
    for picture, at in ((side, width), (split, middle)):
        line = [0, np.iinfo(dtype).max, np.iinfo(dtype).max, 0]
        assert picture[0, at - 2 : at + 2, 0].tolist() == line
    assert (network == 77).all(), "what the network keeps for repeats is not drawn upon"


def test_a_network_of_other_centres_is_met_by_bicubic_of_its_own() -> None:
    """A ramp goes on across the line, whichever centres the network has."""
    from teco.inference.deadline import cheap, cheap_centred

    frame = np.ascontiguousarray(np.tile(np.arange(24, dtype=np.uint8)[:, None] * 8, (12, 1, 3)))
    frame = frame.reshape(12, 24, 3)
    for centred, enlarge in ((True, cheap_centred), (False, cheap)):
        split = beside("split", frame, enlarge(frame), centred=centred)
        whole = enlarge(frame)
        keep = np.r_[0:46, 50:96]
        assert np.array_equal(split[:, keep], whole[:, keep])


@pytest.mark.parametrize(("how", "size"), [("side", (256, 96)), ("split", (128, 96))])
def test_a_video_holds_both(tmp_path, fake_session, make_clip, texture, how, size) -> None:
    source = make_clip(tmp_path / "in.mp4", 32, 24, 5, audio=True)
    options = UpscaleOptions(encoder=FAST, compare=how)
    upscale(lambda _: fake_session(), source, tmp_path / "out.mkv", options)
    with open_source(tmp_path / "out.mkv") as out, open_source(source) as clip:
        assert (out.width, out.height) == size
        for written, frame in zip(out, clip, strict=True):
            small = frame.pixels
            expected = beside(how, small, small.repeat(4, 0).repeat(4, 1))
            assert np.abs(written.pixels.astype(int) - expected).max() <= 2
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert len(out.streams.audio) == 1


def test_pictures_and_pipes_hold_both(
    tmp_path, tiny_x2, make_clip, load_pictures, run_teco
) -> None:
    source = make_clip(tmp_path / "in.mp4", 32, 24, 3)
    run = ("--model", tiny_x2, *RUNTIME)
    run_teco("upscale", source, tmp_path / "alone", *run).says("3 frames")
    run_teco("upscale", source, tmp_path / "both", *run, "--compare", "side").says("3 frames")
    with open_source(source) as clip:
        frames = [f.pixels for f in clip]
    pairs = zip(
        frames, load_pictures(tmp_path / "alone"), load_pictures(tmp_path / "both"), strict=True
    )
    for frame, alone, both in pairs:
        assert np.array_equal(both, beside("side", frame, alone, scale=2))
    done = run_teco("upscale", source, "-", *run, "--compare", "split")
    done.says("3 frames")
    piped = Y4MSource(io.BytesIO(done.stdout), "-", None)
    assert (piped.width, piped.height) == (64, 48)
    assert sum(1 for _ in piped) == 3


def test_ten_bits_stay(tmp_path, fake_session) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv444p10le"
        ramp = np.broadcast_to(np.arange(32)[None, :, None] * 64 + 32768, (24, 32, 3))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(ramp, np.uint16), "rgb48le")
        out.mux(video.encode(frame.reformat(format="yuv444p10le")))
        out.mux(video.encode(None))
    encoder = EncoderSettings(codec="ffv1", pix_fmt="yuv444p10le")
    options = UpscaleOptions(encoder=encoder, compare="split")
    upscale(lambda _: fake_session(), source, tmp_path / "out.mkv", options)
    with av.open(str(tmp_path / "out.mkv")) as out:
        luma = next(out.decode(video=0)).reformat(format="gray10le").to_ndarray()
    # Bicubic on the left makes levels between the ten-bit ones, which eight bits have not.
    assert len(set(luma[40, :60].tolist())) > 12


def written_to_the_end(part: Path) -> None:
    """Wait for the writer, which may be some frames behind the network."""
    end = time.monotonic() + 60
    while not part.is_file():
        assert time.monotonic() < end, f"{part} was not written"
        time.sleep(0.01)


def test_a_long_comparison_goes_on_and_is_no_other_job(
    tmp_path, fake_session, make_clip, monkeypatch
) -> None:
    for name, value in (("LEAST", 6), ("FEWEST", 6), ("MOST", 1)):
        monkeypatch.setattr(f"teco.inference.segments.{name}", value)
    monkeypatch.setattr("teco.inference.upscale.LONGEST_AT_ONCE", 6)
    source = make_clip(tmp_path / "in.mp4", 32, 24, 20)

    class Ends(fake_session):  # as a power cut does
        def step(self, lr, state):
            if len(self.calls) == 15:
                written_to_the_end(tmp_path / ".out.mkv.teco-segments" / "0000.json")
                raise KeyboardInterrupt
            return super().step(lr, state)

    def run(session, target, **options) -> object:
        how = UpscaleOptions(encoder=FAST, **options)
        return upscale(lambda _: session(), source, tmp_path / target, how)

    run(fake_session, "whole.mkv", compare="side")
    with pytest.raises(Interrupted):
        run(Ends, "out.mkv", compare="side")
    for other in (None, "split"):
        with pytest.raises(TecoError) as error:
            run(fake_session, "out.mkv", compare=other)
        assert error.value.exit_code == 2
    result = run(fake_session, "out.mkv", compare="side")
    assert (result.frames, result.resumed > 0) == (20, True)
    with open_source(tmp_path / "out.mkv") as out, open_source(tmp_path / "whole.mkv") as whole:
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(out, whole, strict=True))


def test_two_pictures_take_the_memory_of_two() -> None:
    one, two = Encoding(frames=100), Encoding(frames=100, written=(2 * 1280, 720))
    free = 64 * 2**30
    assert 1.8 < two.bytes(180, 320, 4, free) / one.bytes(180, 320, 4, free) < 2.1


def test_only_two_ways(teco, tmp_path, make_clip) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    teco("upscale", clip, tmp_path / "o.mp4", "--compare", "up").refuses(2, "'side', 'split'")
