"""The losses of the GAN stage and of distillation: every value derived by hand beside it."""

from __future__ import annotations

import math
import urllib.error
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.training.losses import perceptual as perceptual_module
from teco.training.losses.perceptual import (
    VGG19_URL,
    VGGS,
    LpipsVgg,
    Perceptual,
    Which,
    perceptual,
    vgg19_path,
)
from teco.training.losses.terms import (
    BALANCE_LIMIT,
    charbonnier,
    discriminator_balance,
    discriminator_loss,
    feature_distillation,
    feature_loss,
    flow_distillation,
    generator_adversarial_loss,
    output_distillation,
    pattern_loss,
    ping_pong,
    ping_pong_loss,
    squared_error,
)
from teco_calibration.metrics.lpips_backbone import NETS, backbone_path, write_backbone

# --- pixels and ping-pong --------------------------------------------------------------------


def test_squared_error_by_hand() -> None:
    y = torch.full((1, 1, 3, 1, 2), 0.5)
    x = y.clone()
    x[0, 0, :, 0, 0] += torch.tensor([0.1, 0.2, -0.2])
    # One pixel: 2^2 * (0.01 + 0.04 + 0.04) = 0.36; the other 0; their mean 0.18.
    assert float(squared_error(x, y)) == pytest.approx(0.18, rel=1e-5)
    assert float(squared_error(x[:, 0], y[:, 0])) == pytest.approx(0.18, rel=1e-5)
    assert float(squared_error(x, y)) == pytest.approx(
        12 * float(torch.nn.functional.mse_loss(x, y)), rel=1e-5
    )
    assert float(squared_error(x, y, span=1)) == pytest.approx(0.045, rel=1e-5)


def test_a_pattern_in_every_lr_pixel_alike_is_seen_and_texture_is_not() -> None:
    truth = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    dots = torch.zeros(4, 4)
    dots[1, 2] = 0.16  # the mean is 0.01: fifteen places are 0.01 below it, one is 0.15 above
    expected = (15 * 0.01 + 0.15) / 16
    found = pattern_loss(truth + dots.repeat(24, 16), truth)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    # Brightness is no pattern.
    assert float(pattern_loss(truth + 0.1, truth)) == pytest.approx(0.0, abs=1e-6)
    # Noise of the same power has, over 64 LR pixels, an eighth of its own deviation left.
    power = float(dots.std(correction=0))
    noise = power * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    assert float(pattern_loss(truth + noise, truth)) < 0.3 * expected


def test_ping_pong_goes_there_and_back() -> None:
    frames = torch.arange(10).view(1, 10, 1, 1, 1).expand(2, 10, 3, 2, 2)
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert ping_pong(frames).shape == (2, 19, 3, 2, 2)
    assert ping_pong(frames)[1, :, 2, 1, 0].tolist() == order
    assert ping_pong(frames[:, :1]).shape[1] == 1


def test_ping_pong_loss_by_hand() -> None:
    values = [0.1, 0.2, 9.0, 0.5, 0.1]
    outputs = torch.tensor(values).view(1, 5, 1, 1, 1).expand(2, 5, 3, 4, 4)
    # Pairs (0.1, 0.1) and (0.2, 0.5); the turn, 9, has no twin.
    by_hand = (math.sqrt(1e-6) + math.sqrt(0.09 + 1e-6)) / 2
    assert float(ping_pong_loss(outputs)) == pytest.approx(by_hand, rel=1e-5)
    assert float(ping_pong_loss(outputs, "charbonnier")) == pytest.approx(by_hand, rel=1e-5)
    # In [-1, 1] the differences are 0 and 0.6.
    assert float(ping_pong_loss(outputs, "l1")) == pytest.approx(0.3, rel=1e-5)
    mirrored = ping_pong(torch.rand(2, 4, 3, 4, 4))
    assert float(ping_pong_loss(mirrored, "l1")) == 0


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_ping_pong_loss_of_no_mirrored_sequence(frames: int) -> None:
    with pytest.raises(TecoError, match=f"given {frames} frames") as error:
        ping_pong_loss(torch.zeros(1, frames, 3, 4, 4))
    assert "at least 2 frames" in error.value.hint


def test_unknown_ping_pong_loss() -> None:
    with pytest.raises(TecoError, match="'l2'") as error:
        ping_pong_loss(torch.zeros(1, 3, 3, 4, 4), "l2")  # type: ignore[arg-type]
    assert "charbonnier, l1" in error.value.hint
    assert error.value.exit_code == USAGE


# --- the two players -------------------------------------------------------------------------

REAL = torch.tensor([[math.log(3)], [0.0]])
"""D = 3/4 and 1/2."""
FAKE = torch.tensor([[-math.log(3)], [0.0]])
"""D = 1/4 and 1/2."""


def test_adversarial_losses_by_hand() -> None:
    # -log D(fake): log 4 and log 2, on average 1.5 log 2 = 1.0397.
    assert float(generator_adversarial_loss(FAKE)) == pytest.approx(1.5 * math.log(2), rel=1e-6)
    # -log D(real) and -log(1 - D(fake)): log(4/3) and log 2 each, together log(8/3) = 0.9808.
    assert float(discriminator_loss(REAL, FAKE)) == pytest.approx(math.log(8 / 3), rel=1e-6)
    # Not the same thing with the players exchanged: log 4 and log 2 each.
    assert float(discriminator_loss(FAKE, REAL)) == pytest.approx(math.log(8), rel=1e-6)


def test_balance_by_hand_and_the_rule() -> None:
    # (log 3/4 + log 1/2) / 2 - (log 1/4 + log 1/2) / 2 = log(3) / 2 = 0.5493: too strong.
    assert discriminator_balance(REAL, FAKE) == pytest.approx(math.log(3) / 2, rel=1e-6)
    assert isinstance(discriminator_balance(REAL, FAKE), float)
    assert discriminator_balance(REAL, FAKE) > BALANCE_LIMIT == 0.4
    # One that cannot tell: 0. One that is wrong: below. Both may learn.
    assert discriminator_balance(torch.zeros(4, 1), torch.zeros(4, 1)) == 0
    assert discriminator_balance(FAKE, REAL) == pytest.approx(-math.log(3) / 2, rel=1e-6)
    # D = 2/3 against 1/2: log(4/3) = 0.2877, still below the limit.
    edge = discriminator_balance(torch.tensor([[math.log(2)]]), torch.zeros(1, 1))
    assert edge == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert edge < BALANCE_LIMIT


def test_players_at_the_ends_of_their_range() -> None:
    """Where sigmoid is 0 or 1 in float32, and in half precision."""
    sure, wrong = torch.full((2, 1), 1000.0), torch.full((2, 1), -1000.0)
    assert discriminator_balance(sure, wrong) == 1000
    assert discriminator_balance(wrong, sure) == -1000
    assert float(discriminator_loss(sure, wrong)) == 0
    assert float(discriminator_loss(wrong, sure)) == 2000
    assert float(generator_adversarial_loss(wrong)) == 1000
    assert generator_adversarial_loss(wrong.bfloat16()).dtype == torch.float32
    assert discriminator_loss(sure.bfloat16(), wrong.bfloat16()).dtype == torch.float32
    assert math.isnan(discriminator_balance(sure * math.nan, wrong))


def test_players_pull_in_opposite_directions() -> None:
    logits = torch.zeros(2, 1, requires_grad=True)
    # d/dx of -log sigmoid(x) at 0 is -1/2, of -log(1 - sigmoid(x)) +1/2; the mean of two halves it.
    (up,) = torch.autograd.grad(generator_adversarial_loss(logits), logits)
    (down,) = torch.autograd.grad(discriminator_loss(torch.zeros(2, 1), logits), logits)
    assert up.flatten().tolist() == pytest.approx([-0.25, -0.25])
    assert down.flatten().tolist() == pytest.approx([0.25, 0.25])


def test_feature_loss_by_hand() -> None:
    real = [torch.ones(1, 2, 1, 2), torch.ones(2, 1, 1, 1)]
    fake = [
        real[0] + torch.tensor([[1.0, -2.0], [0.0, 3.0]]).view(1, 2, 1, 2),
        real[1] + torch.tensor([0.7, -2.1]).view(2, 1, 1, 1),
    ]
    # First block: the channels' sums are 1 + 0 and 2 + 3, their mean 3, over 12: 0.25.
    # Second: 0.7 and 2.1, their mean 1.4, over 14: 0.1.
    loss = feature_loss(real, fake, (12.0, 14.0))
    assert float(loss) == pytest.approx(0.35, rel=1e-5)
    # All four blocks of the default, each different by 1 in one of one channel: the scales alone.
    ones = [torch.ones(1, 1, 2, 2)] * 4
    zeros = [torch.zeros(1, 1, 2, 2)] * 4
    by_hand = 1 / 12 + 1 / 14 + 1 / 24 + 1 / 100
    assert float(feature_loss(ones, zeros)) == pytest.approx(by_hand, rel=1e-6)


def test_feature_loss_moves_the_generated_alone() -> None:
    real = [torch.ones(1, 1, 2, 2, requires_grad=True)]
    fake = [torch.zeros(1, 1, 2, 2, requires_grad=True)]
    feature_loss(real, fake, (2.0,)).backward()
    assert real[0].grad is None
    # d|1 - x| / dx = -1, over four positions and the scale of 2.
    assert fake[0].grad is not None
    assert fake[0].grad.flatten().tolist() == pytest.approx([-0.125] * 4)
    with pytest.raises(ValueError, match="zip"):
        feature_loss(real, fake)


# --- distillation ----------------------------------------------------------------------------


def test_output_distillation_by_hand() -> None:
    student = torch.zeros(1, 2, 3, 1, 1, requires_grad=True)
    teacher = torch.zeros(1, 2, 3, 1, 1)
    teacher[0, 1] = 0.3
    teacher.requires_grad_(True)
    loss = output_distillation(student, teacher)
    by_hand = (math.sqrt(1e-6) + math.sqrt(0.09 + 1e-6)) / 2
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad[0, 1].max()) < 0


def test_flow_distillation_by_hand() -> None:
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    teacher = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]], requires_grad=True)
    # One pixel misses by 5, the other by nothing, which counts sqrt(1e-4) = 0.01.
    loss = flow_distillation(student, teacher)
    assert float(loss.detach()) == pytest.approx((5 + 0.01) / 2, rel=1e-4)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    # Towards (3, 4), by its direction over two pixels: -(0.6, 0.8) / 2.
    assert student.grad[0, :, 0, 0].tolist() == pytest.approx([-0.3, -0.4], rel=1e-4)
    assert student.grad[0, :, 0, 1].tolist() == [0, 0]
    broken = torch.full_like(teacher, math.nan)
    assert math.isnan(float(flow_distillation(student, broken).detach()))


def test_feature_distillation_by_hand() -> None:
    """Three pictures of two positions; the student has two channels, the teacher one."""
    student = torch.zeros(3, 2, 1, 2)
    student[0, :, 0] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    student[1, :, 0] = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
    student[2, :, 0] = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    teacher = torch.zeros(3, 1, 1, 2)
    teacher[0, 0, 0] = torch.tensor([math.sqrt(3), 2.0])
    teacher[1, 0, 0] = torch.tensor([-2.0, 1.0])
    teacher[2, 0, 0] = torch.tensor([0.0, 0.1])
    # 1: mean squares (1, 0) -> (1, 0); (3, 4) -> (0.6, 0.8). 0.4^2 + 0.8^2 = 0.8.
    # 2: (8, 2) and (4, 1) are one direction: 0.
    # 3: (1, 0) and (0, 1) have nothing in common: 2. The mean of the three is 2.8 / 3.
    assert float(feature_distillation(student, teacher)) == pytest.approx(2.8 / 3, rel=1e-5)
    # Only where they respond counts, not how strongly.
    assert float(feature_distillation(-7 * student, teacher)) == pytest.approx(2.8 / 3, rel=1e-5)


def test_feature_distillation_gradients() -> None:
    student = torch.rand(2, 3, 4, 4, requires_grad=True)
    teacher = torch.rand(2, 5, 4, 4, requires_grad=True)
    feature_distillation(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad.abs().min()) > 0
    silent = torch.zeros(1, 3, 4, 4, requires_grad=True)
    feature_distillation(silent, teacher[:1]).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_one_fixed_batch_of_pictures() -> None:
    """Pixel losses of one batch side by side: half the values differ by 0.3, half by 0.4."""
    truth = torch.zeros(2, 3, 3, 4, 4)
    output = torch.full_like(truth, 0.3)
    output[1] = -0.4
    # (0.3 + 0.4) / 2, the 1e-6 under the root being lost in the sixth digit.
    assert float(charbonnier(output, truth)) == pytest.approx(0.35, rel=1e-5)
    # 12 * (0.09 + 0.16) / 2.
    assert float(squared_error(output, truth)) == pytest.approx(1.5, rel=1e-5)


# --- perceptual ------------------------------------------------------------------------------

CONFIGURATIONS: dict[Which, str] = {"vgg16": "D", "vgg19": "E", "lpips-vgg": "D"}
"""torchvision's letters (those of the VGG paper's table 1)."""


def torchvision_features(which: Which, weights: dict[str, Tensor] | None = None) -> nn.Sequential:
    """torchvision's own layers, with these weights or with none at all."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        features = make_layers(cfgs[CONFIGURATIONS[which]])
    if weights is not None:
        state = {name: weights[f"features.{name}"] for name in features.state_dict()}
        features.load_state_dict(state, assign=True)
    return features


def random_weights(which: Which) -> dict[str, Tensor]:
    """Random weights that keep the signal's size through all layers."""
    random = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, empty in torchvision_features(which).state_dict().items():
        scale = 0.1 if name.endswith("bias") else math.sqrt(2 / empty[0].numel())
        weights[f"features.{name}"] = scale * torch.randn(empty.shape, generator=random)
    return weights


@pytest.fixture(scope="module", params=["vgg19", "vgg16"])
def random_vgg(request) -> tuple[Which, dict[str, Tensor]]:
    return request.param, random_weights(request.param)


@pytest.fixture(scope="module")
def random_vgg16() -> dict[str, Tensor]:
    return random_weights("vgg16")


def test_layers_are_the_last_relus_of_their_stages() -> None:
    for which, vgg in VGGS.items():
        features = torchvision_features(which)
        pools = [i for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
        assert len(pools) == 5
        # A stage's last ReLU stands before its pooling; LPIPS compares the first stage as well.
        first = 0 if which == "lpips-vgg" else 1
        assert list(vgg.layers) == [i - 1 for i in pools[first:]]
        assert all(isinstance(features[i], nn.ReLU) for i in vgg.layers)
    assert VGGS["vgg19"].layers == (8, 17, 26, 35)
    assert VGGS["vgg16"].layers == (8, 15, 22, 29)


def test_perceptual_equals_a_restatement_with_torchvision(random_vgg) -> None:
    which, weights = random_vgg
    loss = Perceptual.from_weights(which, weights)
    torch.manual_seed(3)
    x, y = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = torchvision_features(which, weights)
    expected = 0.0
    with torch.no_grad():
        encoded = loss.encode(x)
        for depth, layer in enumerate(VGGS[which].layers):
            a, b = (features[: layer + 1]((p - mean) / deviation) for p in (x, y))
            torch.testing.assert_close(encoded[depth], a, rtol=1e-3, atol=1e-4)
            assert a.shape[2] == 32 // 2 ** (depth + 1)
            a, b = a.double().numpy(), b.double().numpy()
            cosine = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
            assert np.isfinite(cosine).all()
            expected += 1 - cosine.mean()
        found = loss(x, y)
        same = loss(x, x)
    assert found.shape == ()
    assert expected > 0.05
    assert float(found) == pytest.approx(expected, rel=1e-3)
    assert float(same) == pytest.approx(0, abs=1e-5)


def test_perceptual_gradients_reach_the_first_picture_alone(random_vgg) -> None:
    which, weights = random_vgg
    loss = Perceptual.from_weights(which, weights)
    outer = nn.Sequential(loss)
    outer.train()
    assert not any(module.training for module in loss.modules())
    assert not any(p.requires_grad for p in loss.parameters())
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    y = torch.rand(1, 3, 16, 16, requires_grad=True)
    loss(x, y).backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    assert y.grad is None
    assert all(p.grad is None for p in loss.parameters())
    # One step against the gradient brings the pictures closer.
    with torch.no_grad():
        nearer = loss(x - 0.1 * x.grad / x.grad.abs().max(), y)
        assert float(nearer) < float(loss(x, y))


def test_perceptual_of_silent_features_by_hand() -> None:
    """Zero weights, biases of one channel: all vectors are parallel, or nothing at all."""
    weights = {
        f"features.{name}": torch.zeros(empty.shape)
        for name, empty in torchvision_features("vgg16").state_dict().items()
    }
    x, y = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16)
    # No feature answers: the cosine of nothing counts as 0, the distance as 1, four times.
    loss = Perceptual.from_weights("vgg16", weights)(x, y)
    loss.backward()
    assert float(loss.detach()) == 4
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    # The two last compared layers (their convolutions have the indices 21 and 28) always answer 1.
    for index in (21, 28):
        weights[f"features.{index}.bias"] = torch.ones(512)
    with torch.no_grad():
        assert float(Perceptual.from_weights("vgg16", weights)(x, y)) == pytest.approx(2)


def lpips_vgg(weights: dict[str, Tensor]) -> tuple[LpipsVgg, nn.Module]:
    """The loss and the package's own network, with the package's heads on these weights."""
    import lpips

    package: Any
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated")
        warnings.filterwarnings("ignore", "Arguments other than a weight enum or `None`")
        package = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False)
    state = {key: weights["features." + key.partition(".")[2]] for key in package.net.state_dict()}
    package.net.load_state_dict(state)
    heads = {k: v for k, v in package.state_dict().items() if k.startswith("lin") and "." in k}
    return LpipsVgg.from_weights("lpips-vgg", {**weights, **heads}), package


def test_lpips_vgg_equals_the_package(random_vgg16) -> None:
    loss, package = lpips_vgg(random_vgg16)
    random = torch.Generator().manual_seed(4)
    x, y = (torch.rand(2, 3, 32, 48, generator=random, requires_grad=True) for _ in range(2))
    found, expected = loss(x, y), package(x, y, normalize=True).mean()
    assert expected.item() > 0.05
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    (wanted,) = torch.autograd.grad(expected, x)
    found.backward()
    torch.testing.assert_close(x.grad, wanted, rtol=1e-3, atol=1e-7)
    assert y.grad is None
    assert loss(x, x).item() == 0


def test_lpips_vgg_where_no_feature_answers_has_a_gradient() -> None:
    weights = {
        f"features.{name}": torch.zeros(empty.shape)
        for name, empty in torchvision_features("vgg16").state_dict().items()
    }
    loss, _ = lpips_vgg(weights)
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    loss(x, torch.rand(1, 3, 16, 16)).backward()
    assert torch.isfinite(x.grad).all()


def test_lpips_vgg_wants_its_heads(random_vgg16, monkeypatch, tmp_path) -> None:
    weights = random_vgg16
    with pytest.raises(TecoError, match=r"lin0\.model\.1\.weight is absent"):
        LpipsVgg.from_weights("lpips-vgg", weights)
    wrong = {**weights, "lin0.model.1.weight": torch.zeros(1, 63, 1, 1)}
    with pytest.raises(TecoError, match=r"of shape \(1, 63, 1, 1\)"):
        LpipsVgg.from_weights("lpips-vgg", wrong)
    monkeypatch.setattr(perceptual_module, "_load_vgg16", lambda: weights)
    assert perceptual("lpips-vgg", "cpu").which == "lpips-vgg"
    broken = ModuleSpec("lpips", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(perceptual_module.importlib.util, "find_spec", lambda _: broken)
    with pytest.raises(TecoError, match="cannot be read as the heads of LPIPS"):
        perceptual("lpips-vgg", "cpu")
    monkeypatch.setattr(perceptual_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TecoError, match="needs lpips, which is not installed") as caught:
        perceptual("lpips-vgg", "cpu")
    assert caught.value.exit_code == 3


def test_perceptual_refuses_what_it_cannot_compare(random_vgg) -> None:
    which, weights = random_vgg
    loss = Perceptual.from_weights(which, weights)
    for x, y in (
        (torch.zeros(1, 3, 8, 32), torch.zeros(1, 3, 8, 32)),
        (torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16)),
        (torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 3, 16, 16)),
    ):
        with pytest.raises(TecoError, match="16x16"):
            loss(x, y)


def test_weights_of_another_network() -> None:
    absent: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(1)}
    with pytest.raises(TecoError, match=r"no vgg19 weights: features\.0\.weight is absent"):
        Perceptual.from_weights("vgg19", absent)
    other = {"features.0.weight": torch.zeros(64, 3, 11, 11)}
    with pytest.raises(TecoError, match=r"\(64, 3, 11, 11\), expected \(64, 3, 3, 3\)"):
        Perceptual.from_weights("vgg16", other)


# --- where its weights come from -------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Path, monkeypatch) -> Path:
    """Empty caches, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "teco"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def offline(url: str, *_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path


def flat_weights(which: Which) -> dict[str, Tensor]:
    """Of the right shapes, with one stored value each, so that a file of them is small."""
    state = torchvision_features(which).state_dict()
    return {f"features.{name}": torch.zeros(1).expand(e.shape) for name, e in state.items()}


def write_vgg19(weights: dict[str, Tensor]) -> Path:
    path = vgg19_path()
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    return path


def test_auto_without_any_weights_says_what_to_type(caches: Path) -> None:
    with pytest.raises(TecoError, match="neither VGG19 nor VGG16") as error:
        perceptual("auto", "cpu")
    assert "teco fetch lpips --vgg" in error.value.hint
    assert error.value.exit_code == MACHINE


def test_auto_takes_vgg16_from_our_cache(caches: Path) -> None:
    shapes = zip(NETS["vgg16"].features, NETS["vgg16"].shapes, strict=True)
    weights: dict[str, np.ndarray] = {}
    for index, shape in shapes:
        weights[f"features.{index}.weight"] = np.full(shape, index, np.float32)
        weights[f"features.{index}.bias"] = np.full(shape[:1], -index, np.float32)
    write_backbone(weights, backbone_path("vgg16"))
    loss = perceptual("auto", "cpu")
    assert loss.which == "vgg16"
    for index in NETS["vgg16"].features:
        convolution = loss.features[index]
        assert isinstance(convolution, nn.Conv2d)
        assert float(convolution.weight[0, 0, 0, 0]) == index
    # The references' VGG19 is preferred where it is cached.
    write_vgg19({**flat_weights("vgg19"), "classifier.0.bias": torch.zeros(1)})
    assert perceptual("auto", torch.device("cpu")).which == "vgg19"
    assert perceptual("vgg16", "cpu").which == "vgg16"


def test_vgg19_without_a_network(caches: Path, capfd) -> None:
    with pytest.raises(TecoError, match=r"could not be downloaded.*no route to host") as error:
        perceptual("vgg19", "cpu")
    assert str(vgg19_path()) in error.value.hint
    assert "teco fetch lpips --vgg" in error.value.hint
    assert error.value.exit_code == MACHINE
    assert capfd.readouterr().out == ""
    assert not vgg19_path().exists()


def test_a_broken_vgg19(caches: Path) -> None:
    path = write_vgg19(flat_weights("vgg16"))
    with pytest.raises(TecoError, match="no vgg19 weights: features"):
        perceptual("vgg19", "cpu")
    for content in (path.read_bytes()[:5000], b"not a file of torch's", b""):
        path.write_bytes(content)
        with pytest.raises(TecoError, match="cannot be read as VGG19") as error:
            perceptual("auto", "cpu")
        assert "\n" not in error.value.message
        assert "delete it" in error.value.hint
    torch.save([1, 2], path)
    with pytest.raises(TecoError, match="holds a list"):
        perceptual("vgg19", "cpu")


def test_the_address_is_torchvisions() -> None:
    from torchvision.models import VGG19_Weights

    assert VGG19_Weights.IMAGENET1K_V1.url == VGG19_URL


def test_unknown_perceptual_loss() -> None:
    with pytest.raises(TecoError, match="'vgg11'") as error:
        perceptual("vgg11", "cpu")  # type: ignore[arg-type]
    assert error.value.exit_code == USAGE
