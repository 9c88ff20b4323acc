"""The size an output ends at, from what people type."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from teco.core.errors import TecoError
from teco.inference.output_size import OutputSize, resized


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
    "text", ["", "big", "1080", "0x0", "1920*1080", "-2x", "x", "1e9p", "p", "0x", "0.5x", "99999p"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(TecoError, match="--to") as error:
        OutputSize.parse(text)
    assert error.value.exit_code == 2
    assert "--to 1080p" in error.value.hint


def test_another_shape_and_a_smaller_picture() -> None:
    with pytest.raises(TecoError, match="another shape") as error:
        OutputSize.parse("1920x1080").of(720, 576)
    assert error.value.hint.startswith("--to 1080p makes 1350x1080")
    with pytest.raises(TecoError, match="64:45, which stays"):
        OutputSize.parse("1920x1080").of(720, 576, Fraction(64, 45))
    with pytest.raises(TecoError, match="another shape") as error:
        OutputSize.parse("1920x1080").of(360, 640)
    assert error.value.hint.startswith("--to 1080p makes 1080x1920")
    assert str(OutputSize.parse("1080p")) == "1080p", "what an unfinished job is told apart by"
    with pytest.raises(TecoError, match="320x180 already"):
        OutputSize.parse("100p").of(320, 180)


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
