"""Choices in plain words, and what they are."""

from __future__ import annotations

import pytest

from teco.core.errors import TecoError
from teco.core.names import did_you_mean
from teco.model.choice import LARGEST, TEXTURED, ModelChoice, choose, shipped
from teco.model.opening import DEFAULT_OF_SCALE, open_model
from teco.video.file.encoders import encoder_meant
from teco_models import zoo


def test_words_choose_shipped_models_of_the_right_scale_and_kind() -> None:
    assert LARGEST.keys() == DEFAULT_OF_SCALE.keys()
    for table in (DEFAULT_OF_SCALE, LARGEST, TEXTURED):
        for scale, name in table.items():
            variant = open_model(name).variant
            assert (variant.scale, variant.degradation) == (scale, "real"), name


def test_choices() -> None:
    assert choose(None, None, None, None) == ModelChoice(None, "gated")
    assert choose(None, 2, "balanced", "faithful") == ModelChoice(None, "float32")
    assert choose(None, None, "fast", None) == ModelChoice(None, "any")
    assert choose(None, 4, "best", None) == ModelChoice(LARGEST[4], "float32")
    assert choose(None, None, "fast", "textured") == ModelChoice(TEXTURED[4], "any")
    assert choose("mine.onnx", None, "fast", None) == ModelChoice("mine.onnx", "any")
    # Of a scale that there is no network for, whoever opens it says so.
    assert choose(None, 3, "best", "textured") == ModelChoice(None, "float32")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("live", None, "best", None), "--quality best"),
        (("live", None, None, "textured"), "--look"),
        ((None, 2, None, "textured"), "no textured network that enlarges 2 times"),
    ],
)
def test_what_cannot_be_chosen(asked, words: str) -> None:
    with pytest.raises(TecoError, match=words) as error:
        choose(*asked)
    assert error.value.exit_code == 2


def test_every_shipped_model_is_described() -> None:
    found = {m.name: m for m in shipped()}
    assert set(found) == {e.name for e in zoo.entries()}
    assert next(iter(found)) == DEFAULT_OF_SCALE[4]
    first = found["real-cpu"]
    assert (first.scale, first.purpose, first.look) == (4, "ordinary clips", "faithful")
    assert first.parameters == 74_623
    entry = zoo.find("real-cpu")
    assert entry is not None
    assert first.bytes == entry.onnx.stat().st_size + entry.weights.stat().st_size
    assert found["teco-x4-b3-c64-bp-lk-gan"].look == "textured"


@pytest.mark.parametrize(
    ("word", "meant"),
    [("liv", "live"), ("Real-CPU", "real-cpu"), ("real-cpu-text", "real-cpu-textured"), ("x", "")],
)
def test_the_nearest_name(word: str, meant: str) -> None:
    found = did_you_mean(word, [e.name for e in zoo.entries()])
    assert found == (f"did you mean {meant}? " if meant else "")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("h265", "libx265"), ("HEVC", "libx265"), ("x264", "libx264"), ("H.264", "libx264"),
     ("lbx264", "libx264"), ("av1", "libsvtav1"), ("nothing", "")],
)  # fmt: skip
def test_the_encoder_that_is_meant(word: str, meant: str) -> None:
    assert encoder_meant(word) == (f"did you mean {meant}? " if meant else "")
