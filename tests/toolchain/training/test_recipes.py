"""Recipes: the shipped ones, the published figures in them, and what is wrong with others."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from teco.cli.research.train import FIELDS, command
from teco.core.errors import TecoError
from teco.training.options import TrainOptions
from teco.training.recipe import load_recipe, shipped
from teco_models.variant import Variant


def test_every_shipped_recipe_is_a_run() -> None:
    assert set(shipped()) == {
        "tecogan-pytorch",
        "tecogan-tensorflow",
        "paper",
        "bd",
        "overnight",
        "real",
        "real-textured",
    }
    for name in shipped():
        options = TrainOptions(**load_recipe(name))
        Variant.parse(options.variant)
        assert options.gan_iterations > 0 or name in ("real", "bd"), (
            "the faithful form has no GAN stage"
        )


def test_published_schedules() -> None:
    """TecoGAN-PyTorch's and the paper's figures, as the facts say them."""
    port = TrainOptions(**load_recipe("tecogan-pytorch"))
    assert (port.iterations, port.milestones, port.gan_iterations) == (
        400_000, (150_000, 300_000), 500_000,
    )  # fmt: skip
    assert (port.lr, port.gan_lr, port.batch, port.frames, port.crop) == (1e-4, 5e-5, 4, 10, 128)
    assert (port.pixel_loss, port.pingpong_loss, port.feature_weight) == (
        "charbonnier", "charbonnier", 0,
    )  # fmt: skip
    assert (port.warp_weight, port.pingpong_weight, port.perceptual_weight, port.gan_weight) == (
        1, 0.5, 0.2, 0.01,
    )  # fmt: skip
    assert port.ema == 0
    assert math.isinf(port.clip_norm)
    tensorflow = TrainOptions(**load_recipe("tecogan-tensorflow"))
    assert (tensorflow.pixel_loss, tensorflow.pingpong_loss) == ("squared", "l1")
    assert tensorflow.feature_weight == 0.02
    assert Variant.parse(tensorflow.variant).blocks == 16
    assert (tensorflow.schedule, tensorflow.lr, tensorflow.gan_lr) == ("constant", 5e-5, 5e-5)
    assert (tensorflow.iterations, tensorflow.gan_iterations) == (500_000, 500_000)
    assert (tensorflow.batch, tensorflow.frames, tensorflow.crop) == (4, 10, 128)
    paper = TrainOptions(**load_recipe("paper"))
    assert paper.iterations + paper.gan_iterations == 300_000


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("iteratons = 5", "unknown key 'iteratons'", "'iterations'"),
        ("xyz = 1", "unknown key 'xyz'", "nearest known key"),
        ("batch = 2.5", "batch = 2.5, expected int", ""),
        ("batch = true", "batch = True, expected int", ""),
        ('schedule = "linear"', "expected one of 'cosine', 'constant', 'steps'", ""),
        ("milestones = [1.5]", "a list of whole numbers", ""),
        ("lr = 'fast'", "lr = 'fast', expected float", ""),
        ("batch = ", "is no TOML", ""),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, says: str, hint: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(TecoError) as error:
        load_recipe(str(tmp_path / "r.toml"))
    assert says in error.value.message
    assert hint in error.value.hint
    assert error.value.exit_code == 2


def test_whole_numbers_serve_as_floats(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("warp_weight = 1")
    value = load_recipe(str(tmp_path / "r.toml"))["warp_weight"]
    assert type(value) is float


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TecoError, match="cannot be read") as error:
        load_recipe("overnigt")
    assert "did you mean overnight?" in error.value.hint
    with pytest.raises(TecoError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_folder_of_that_name_is_not_in_the_way(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "real").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("real")["variant"].endswith("-real")


def test_the_command_offers_what_there_is_with_the_true_defaults() -> None:
    """What --help says in brackets is what the options are."""
    fields = {f.name: f for f in dataclasses.fields(TrainOptions)}
    for name, _, text in FIELDS:
        field = fields[name.replace("-", "_")]
        if "[" in text and "with --teacher" not in text:
            said = text[text.index("[") + 1 : text.index("]")]
            default = field.default
            assert said == (f"{default:g}" if isinstance(default, float) else str(default)), name
    # In recipes only: what nobody types.
    recipe_only = set(fields) - {name.replace("-", "_") for name, _, _ in FIELDS}
    assert recipe_only == {
        "variant", "threads", "fnet_lr_share", "milestones", "lr_floor", "pixel_loss",
        "pingpong_loss", "balance_limit", "clip_norm", "beta2", "ema", "channels_last",
    }  # fmt: skip


def test_the_recipes_are_listed() -> None:
    result = CliRunner().invoke(command, ["--recipes"])
    assert result.exit_code == 0
    for name in shipped():
        assert f"{name}: " in result.output
