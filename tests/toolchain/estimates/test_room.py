"""What fits into memory, what is stepped in tiles, and what is refused before the work."""

from __future__ import annotations

import re

import pytest

from teco.core.errors import TecoError
from teco.core.memory import taken_bytes
from teco.estimates.room import Encoding, growth, tiles_for
from teco.model.opening import open_model
from teco.video.file.encoders import EncoderSettings, encoder_bytes, lookahead, lookahead_within

GIB = 2**30
FAST = Encoding("libx264", "ultrafast", 24)


def test_what_fits_is_stepped_whole() -> None:
    variant = open_model("real-cpu").variant
    assert tiles_for(variant, 180, 320, "onnxruntime", Encoding(), 2 * GIB) is None
    assert tiles_for(variant, 1080, 1920, "onnxruntime", Encoding(), 64 * GIB) is None
    # Nothing is known of other runtimes' memory.
    assert tiles_for(variant, 1080, 1920, "tensorrt", Encoding(), GIB) is None


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "openvino"])
def test_what_does_not_fit_is_stepped_in_tiles_that_do(runtime) -> None:
    variant = open_model("real-cpu").variant
    window = tiles_for(variant, 1080, 1920, runtime, FAST, 4 * GIB)
    assert window is not None
    took = growth(variant, *window, "onnxruntime" if runtime == "auto" else runtime)
    assert took is not None
    assert took < 3 * GIB
    smaller = tiles_for(variant, 1080, 1920, runtime, FAST, 5 * GIB // 2)
    assert smaller is not None
    assert smaller[0] * smaller[1] < window[0] * window[1]


def test_a_file_with_planes_is_judged_by_its_own_tensors() -> None:
    """More than one with float ports on ONNX Runtime: 1409 and 1169 MiB were measured at
    540x960."""
    variant = open_model("real-cpu").variant
    floats = growth(variant, 540, 960, "onnxruntime")
    planes = growth(variant, 540, 960, "onnxruntime", "nv12")
    assert floats is not None
    assert planes is not None
    assert planes / floats == pytest.approx(1409 / 1169, rel=0.1)
    between = (floats + planes) // 2 + FAST.bytes(540, 960, 4, 8 * GIB)
    assert tiles_for(variant, 540, 960, "onnxruntime", FAST, between) is None
    assert tiles_for(variant, 540, 960, "onnxruntime", FAST, between, "nv12") is not None


def test_what_fits_in_no_way_is_refused_with_the_remedy() -> None:
    with pytest.raises(TecoError, match=r"frames of 1920x1080 need about .* GiB are free") as error:
        tiles_for(open_model("real-cpu").variant, 1080, 1920, "onnxruntime", FAST, GIB // 2)
    assert error.value.exit_code == 3
    assert "--preset" in error.value.hint
    # A flow net that looks at the whole frame cannot be run in tiles.
    with pytest.raises(TecoError) as error:
        tiles_for(
            open_model("teco-x4-b3-c64-bp-lk").variant, 1080, 1920, "onnxruntime", FAST, 4 * GIB
        )
    assert "real-cpu can" in error.value.hint


def test_the_encoder_looks_ahead_as_far_as_memory_allows() -> None:
    assert lookahead("libx264", "medium") == 40
    assert lookahead_within("libx264", "medium", 1280, 720, 8 * GIB) == 40
    held = lookahead_within("libx264", "medium", 7680, 4320, 3 * GIB)
    assert 0 < held < 40
    assert encoder_bytes("libx264", "medium", 7680, 4320, held) <= 3 * GIB
    assert encoder_bytes("libx264", "medium", 7680, 4320, held + 1) > 3 * GIB
    assert lookahead_within("libx264", "medium", 7680, 4320, 0) == 0
    # x265 must look ahead further than it has B-frames in a row.
    assert lookahead_within("libx265", "medium", 7680, 4320, 0) == 5
    assert lookahead_within("h264_nvenc", "medium", 7680, 4320, 0) == 0


def test_the_command_refuses_before_the_work(tmp_path, make_clip, teco, monkeypatch) -> None:
    path = make_clip(tmp_path / "in.mp4", 320, 180, 2)
    monkeypatch.setattr("teco.estimates.room.free_bytes", lambda: 64 * 2**20)
    done = teco("upscale", path, tmp_path / "o.mp4", "--runtime", "onnxruntime")
    done.refuses(3, "frames of 320x180 need about", after=("note:",))
    assert not (tmp_path / "o.mp4").exists()


def test_the_command_says_what_is_ahead_with_the_memory(
    tmp_path, make_clip, teco, monkeypatch
) -> None:
    path = make_clip(tmp_path / "in.mp4", 64, 48, 12)
    monkeypatch.setattr("teco.inference.upscale.MINUTE", 1e-6)
    done = teco("upscale", path, tmp_path / "o.mp4", "--runtime", "onnxruntime", "--threads", 1)
    assert done.code == 0
    said = re.search(r"about 8 frames of 256x192 will take about .* and (\d\.\d) GiB", done.stderr)
    assert said, done.stderr
    # The interpreter and its libraries count, too.
    assert float(said[1]) == pytest.approx(taken_bytes() / 2**30, abs=0.3)


@pytest.mark.parametrize(
    ("target", "codec", "found"),
    [("o.mp4", None, "libx264"), ("o.webm", None, "libvpx-vp9"), ("o.y4m", None, ""),
     ("-", None, ""),
     ("pictures", None, ""), ("p.v2/", "libx265", ""), ("o.mkv", "libx265", "libx265")],
)  # fmt: skip
def test_what_is_encoded_follows_from_the_outputs_name(
    tmp_path, make_clip, target, codec, found
) -> None:
    from teco.video.clips import open_source

    with open_source(make_clip(tmp_path / "in.mp4", 32, 24, 3)) as clip:
        assert Encoding.of(target, EncoderSettings(codec=codec), clip).codec == found
