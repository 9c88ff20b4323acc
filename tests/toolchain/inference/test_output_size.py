"""The size an output ends at, from what people type."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from teco.core.errors import TecoError
from teco.inference.output_size import OutputSize, resized
from teco.video.clips import open_source


@pytest.mark.parametrize(
    ("text", "clip", "size"),
    [
        ("1080p", (320, 180), (1920, 1080)),
        ("1080p", (854, 480), (1920, 1080)),  # 1921.5 wide by arithmetic, and called 16:9
        ("1080P", (720, 576), (1350, 1080)),
        ("4k", (640, 360), (3840, 2160)),
        ("1920x1080", (720, 404), (1920, 1080)),
        ("2x", (321, 181), (642, 362)),
        ("1.5x", (321, 181), (482, 272)),
        ("1x", (320, 180), (320, 180)),
        ("1080p", (360, 640), (1080, 1920)),  # a phone that was held upright
        ("1080p", (720, 1280), (1080, 1920)),
        ("1081p", (320, 180), (1920, 1080)),
        ("1919x1079", (320, 180), (1919, 1079)),
    ],
)
def test_what_is_meant(text: str, clip: tuple[int, int], size: tuple[int, int]) -> None:
    assert OutputSize.parse(text).of(*clip) == size


@pytest.mark.parametrize(
    ("text", "likely"),
    [
        *(
            (x, "1080p")
            for x in ("", "big", "1080", "0x0", "x", "1e9p", "p", "0x", "0.5x", "99999p")
        ),
        ("1920*1080", "1920x1080"),
        ("1280 : 720", "1280x720"),
        ("720 lines", "720p"),
        ("576i", "576p"),
        ("x2", "2x"),
        ("4", "4x"),
        ("-2x", "1080p"),
    ],
)
def test_what_is_no_size(text: str, likely: str) -> None:
    with pytest.raises(TecoError, match="--to") as error:
        OutputSize.parse(text)
    assert error.value.exit_code == 2
    assert error.value.hint == f"for example --to {likely}"


def test_another_shape_and_a_smaller_picture() -> None:
    with pytest.raises(TecoError, match="another shape") as error:
        OutputSize.parse("1920x1080").of(720, 576)
    assert error.value.hint.startswith("--to 1080p makes 1350x1080")
    with pytest.raises(TecoError, match="pixels of 16:15, shown as 768x576"):
        OutputSize.parse("1920x1080").of(720, 576, Fraction(16, 15))
    with pytest.raises(TecoError, match="another shape") as error:
        OutputSize.parse("1920x1080").of(360, 640)
    assert error.value.hint.startswith("--to 1080p makes 1080x1920")
    assert str(OutputSize.parse("1080p")) == "1080p", "what an unfinished job is told apart by"
    with pytest.raises(TecoError, match="320x180 already"):
        OutputSize.parse("100p").of(320, 180)


@pytest.mark.parametrize(
    ("text", "square"),
    # Of 720x576 that is shown as 1024x576.
    [("1920x1080", True), ("1350x1080", False), ("1080p", False), ("2x", False)],
)
def test_a_size_of_the_shape_that_is_shown_has_square_pixels(text: str, square: bool) -> None:
    wide = Fraction(64, 45)
    size = OutputSize.parse(text)
    assert size.is_square(720, 576, wide) == square
    assert size.of(720, 576, wide) == {
        "1920x1080": (1920, 1080), "2x": (1440, 1152),
    }.get(text, (1350, 1080))  # fmt: skip
    assert not size.is_square(1280, 720, None)
    assert not size.is_square(1280, 720, Fraction(1))


@pytest.mark.parametrize(("target", "text", "aspect", "said"), [
    ("o.mp4", "128x72", Fraction(1), "it is shown in, and the output's pixels are square"),
    ("o.y4m", "128x72", Fraction(1), "pixels are square"),
    ("o.mp4", "90x72", Fraction(64, 45), "are 64:45, and so are the output's: 90x72 is shown as"),
    ("o.mp4", "72p", Fraction(64, 45), "90x72 is shown as 128x72"),
])  # fmt: skip
def test_what_comes_out_is_said_and_tagged(
    tmp_path, teco, target: str, text: str, aspect: Fraction, said: str
) -> None:
    clip = tmp_path / "in.mkv"
    with av.open(str(clip), "w") as made:
        stream = made.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for n in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((32, 40, 3), 90 + n, np.uint8), "rgb24")
            frame.pts = n
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    done = teco("upscale", clip, tmp_path / target, "--to", text, "--runtime", "onnxruntime")
    assert done.code == 0, done.stderr
    assert said in done.stderr
    with open_source(tmp_path / target) as out:
        assert out.pixel_aspect == aspect
        assert (out.width, out.height) == (128 if aspect == 1 else 90, 72)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_keeps_flat_areas_and_the_place_of_things(dtype: type) -> None:
    top = np.iinfo(dtype).max
    frame = np.zeros((64, 96, 3), dtype)
    frame[:, 48:] = top
    for width, height in ((72, 48), (144, 96)):
        out = resized(frame, width, height)
        assert (out.shape, out.dtype) == ((height, width, 3), dtype)
        assert not out[:, : width // 2 - 5].any()
        assert (out[:, width // 2 + 5 :] == top).all()
    assert resized(frame, 96, 64) is frame
