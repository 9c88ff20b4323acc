"""Back-projection of the past, and growing a network into one that has it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from teco.training.init import initialise
from teco_calibration.degrade import BD_TAPS, degrade_bd
from teco_models.arch.backprojection import PHASES, STEP, TRUST, BackProjection, blur_taps, trust
from teco_models.arch.generator import Generator
from teco_models.arch.ops import depth_to_space, space_to_depth, warp
from teco_models.checkpoint import Weights, build, infer, load_weights, save_weights
from teco_models.compress.grow import grow
from teco_models.errors import ModelError
from teco_models.variant import Variant

PLAIN = Variant(blocks=2, channels=8, flow_channels=4)
BACK = replace(PLAIN, back_projection=True)


def weights_of(variant: Variant) -> Weights:
    generator = Generator(variant)
    initialise(generator, seed=2)
    with torch.no_grad():
        generator.fnet.flow[2].weight.mul_(20)  # type: ignore[union-attr, operator]
        if generator.srnet.back is not None:
            generator.srnet.back.mask.weight.normal_(std=0.2)
    return infer(generator.state_dict(), source="test")


def scene(frames: int = 4, h: int = 12, w: int = 17) -> Tensor:
    """(1, T, 3, h, w) that moves."""
    torch.manual_seed(5)
    wide = torch.rand(1, 3, h, w + frames)
    return torch.stack([wide[..., t : t + w] for t in range(frames)], dim=1)


def test_depth_to_space_is_the_inverse() -> None:
    x = torch.rand(2, 3, 16, 24)
    assert torch.equal(depth_to_space(space_to_depth(x)), x)


def test_the_blur_is_that_of_the_degradation() -> None:
    assert np.abs(blur_taps().numpy() - BD_TAPS).max() < 1e-12
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    phases = space_to_depth(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    ours = F.conv2d(F.pad(phases, (1, 1, 1, 1)), BackProjection(8).blur)[0].permute(1, 2, 0)
    expected = degrade_bd(picture).astype(np.float32)  # rounded to 8 bits
    assert np.abs(ours.numpy() - expected)[1:-1, 1:-1].max() <= 0.501


def test_the_spread_starts_as_its_transpose() -> None:
    """<D u, e> = <u, D' e>, which is what transposed means; zeros outside on both sides."""
    back = BackProjection(8)
    torch.manual_seed(0)
    u, e = torch.randn(1, 3 * PHASES, 9, 11), torch.randn(1, 3, 9, 11)
    down = F.conv2d(F.pad(u, (1, 1, 1, 1)), back.blur)
    up = F.conv2d(F.pad(e, (1, 1, 1, 1)).view(3, 1, 11, 13), back.spread / (STEP * PHASES))
    up = up.view(1, 3, PHASES, 9, 11).transpose(1, 2).reshape(u.shape)
    assert float((down * e).sum()) == pytest.approx(float((u * up).sum().detach()), rel=1e-4)


def test_steps_equal_a_restatement_on_pixels() -> None:
    """Blur, subsample, spread and mix written out at HR, with the network's own inner SRNet."""
    weights = weights_of(BACK)
    generator = build(weights)
    bare = build(grow_back(weights))
    back = generator.srnet.back
    assert back is not None
    taps = blur_taps().float()
    spread_kernels = back.spread.detach()
    frames = scene()
    with torch.inference_mode():
        state = generator.initial_state(frames[:, 0])
        for t in range(frames.shape[1]):
            lr, (lr_prev, hr_prev) = frames[:, t], state
            flow = generator.flow(lr, lr_prev)
            past = warp(hr_prev, 4 * generator.upsample_func(flow))
            first = float(lr_prev.max()) <= 0
            if not first:
                # Each colour alone: a margin of one LR pixel continued phase by phase, the blur in
                # both directions, every fourth pixel.
                margin = depth_to_space(F.pad(space_to_depth(past), (1, 1, 1, 1), mode="replicate"))
                kernel = (taps[:, None] * taps[None])[None, None]
                planes = margin.transpose(0, 1)
                low = F.conv2d(planes, kernel, stride=4).transpose(0, 1)
                error = lr - low
                spread = torch.zeros_like(past)
                wide = F.pad(error, (1, 1, 1, 1), mode="replicate")
                h, w = lr.shape[-2:]
                for dy in range(4):
                    for dx in range(4):
                        kernel = spread_kernels[dy * 4 + dx, 0]
                        spread[..., dy::4, dx::4] = sum(
                            kernel[y, x] * wide[..., y : y + h, x : x + w]
                            for y in range(3)
                            for x in range(3)
                        )
                past = past + spread
                misfit = torch.zeros(h, w)
                for y in range(3):
                    for x in range(3):
                        misfit += wide[0, :, y : y + h, x : x + w].abs().mean(dim=0) / 9
                trusted = torch.exp(-((misfit / TRUST) ** 4)).repeat_interleave(4, dim=0)
                trusted = trusted.repeat_interleave(4, dim=1)
            x, features = bare.srnet(lr, space_to_depth(past))
            expected = x
            if not first:
                mask = torch.sigmoid(back.mask(features))
                expected = x + trusted * depth_to_space(mask) * (past - x)
            found, state = generator.advance(lr, state)
            assert torch.allclose(found, expected, atol=2e-5)


def grow_back(weights: Weights) -> Weights:
    """The same weights without back-projection."""
    tensors = {k: v for k, v in weights.tensors.items() if not k.startswith("srnet.back.")}
    return infer(tensors, source="test")


def test_without_a_past_it_is_srnet_alone() -> None:
    weights = weights_of(BACK)
    generator, plain = build(weights), build(grow_back(weights))
    lr = scene()[:, 0]
    with torch.inference_mode():
        state = generator.initial_state(lr)
        assert torch.equal(generator.step(lr, *state), plain.step(lr, *state))
        # A black frame is no past either, for that sample of the batch alone.
        hr = torch.rand(2, 3, 48, 68)
        black = torch.cat((lr, torch.zeros_like(lr)))
        known = BackProjection.known(black)
        assert known.flatten().tolist() == [1, 0]
        out = generator.step(torch.cat((lr, lr)), black, hr)
        alone = plain.step(lr, torch.zeros_like(lr), hr[1:])
        assert torch.allclose(out[1:], alone, atol=1e-6)
        assert float((out[:1] - alone).abs().max()) > 1e-2


def test_a_past_that_does_not_fit_is_not_shown() -> None:
    """A wrong past in one half of the picture: there SRNet's picture alone, beyond it the mix."""
    assert trust(torch.zeros(1, 3, 4, 5)).flatten().tolist() == [1.0] * 6
    assert float(trust(torch.full((1, 3, 3, 3), TRUST))) == pytest.approx(math.exp(-1), rel=1e-5)
    back = BackProjection(8)
    lr = torch.full((1, 3, 12, 20), 0.5)
    past = torch.full((1, 48, 12, 20), 0.5)
    past[..., :8] = 1.0
    known = torch.ones(1, 1, 1, 1)
    with torch.inference_mode():
        corrected, trusted = back.correct(lr, past, known)
        x = torch.zeros(1, 3, 48, 80)
        out = back.blend(x, corrected, torch.zeros(1, 8, 12, 20), trusted)
    assert float(out[..., :24].abs().max()) < 1e-6
    assert torch.allclose(out[..., 44:], torch.full((), 0.5 * back.share), atol=1e-5)
    assert float(back.correct(lr, past, 0 * known)[1].max()) == 0


def test_sequence_equals_steps() -> None:
    generator = build(weights_of(BACK))
    frames = scene()
    with torch.inference_mode():
        together, _ = generator.sequence(frames)
        state = generator.initial_state(frames[:, 0])
        for t in range(frames.shape[1]):
            out, state = generator.advance(frames[:, t], state)
            assert torch.allclose(together[:, t], out, atol=1e-5)


def test_a_still_scene_gains_frame_by_frame() -> None:
    """What it is for: a moved picture is known better with each frame, before any training."""
    rng = np.random.default_rng(1)
    wide = rng.random((3, 160, 160))
    for axis in (1, 2):
        for _ in range(2):
            wide = (wide + np.roll(wide, 1, axis)) / 2
    picture = torch.from_numpy(wide).float()
    generator = Generator(replace(BACK, blocks=1))
    initialise(generator)
    for p in (generator.srnet.conv_out.weight, generator.srnet.conv_out.bias):
        torch.nn.init.zeros_(p)  # SRNet adds nothing: cubic upsampling
    back = generator.srnet.back
    assert back is not None
    torch.nn.init.constant_(back.mask.bias, 3.0)
    shifts = [(0, 0), (1, 2), (3, 1), (2, 3), (0, 1), (3, 3), (1, 0), (2, 2)]
    errors: list[float] = []
    taps = blur_taps().float()
    hr = torch.zeros(1, 3, 128, 128)
    lr_prev = torch.zeros(1, 3, 32, 32)
    place = shifts[0]
    with torch.inference_mode():
        for dy, dx in shifts:
            crop = picture[:, 8 + dy : 144 + dy, 8 + dx : 144 + dx][:, None]  # margin of 4 around
            kernel = (taps[:, None] * taps[None])[None, None]
            lr = F.conv2d(crop, kernel, stride=4).transpose(0, 1)[..., :32, :32]
            truth = crop.transpose(0, 1)[..., 4:132, 4:132]
            # The true motion, in LR pixels.
            flow = torch.tensor([dx - place[1], dy - place[0]]).view(1, 2, 1, 1) / 4
            flow = flow.expand(1, 2, 32, 32)
            hr = generator.step_with_flow(lr, flow, lr_prev, hr)
            lr_prev, place = lr, (dy, dx)
            errors.append(float(((hr - truth)[..., 8:-8, 8:-8] ** 2).mean()))
    assert errors[3] < 0.8 * errors[0]
    assert errors[-1] < errors[3]


def test_costs() -> None:
    plain, back = PLAIN.cost(20, 30), BACK.cost(20, 30)
    # Per LR pixel: 3 colours from 16 phases each, the same back, the mask; all 3x3.
    per_pixel = 9 * 16 * 3 + 9 * 3 * 16 + 9 * 8 * 16
    assert back.macs["total"] - plain.macs["total"] == per_pixel * 20 * 30
    # The 16 kernels and the mask's weights and biases.
    assert back.params["total"] - plain.params["total"] == 16 * 9 + 9 * 8 * 16 + 16
    assert back.params["total"] == sum(p.numel() for p in Generator(BACK).parameters())


def test_files_keep_it(tmp_path: Path) -> None:
    weights = weights_of(BACK)
    path = tmp_path / "w.safetensors"
    save_weights(path, build(weights))
    again = load_weights(path)
    assert again.variant == BACK
    assert not any("blur" in key for key in again.tensors)
    assert all(torch.equal(again.tensors[k], v) for k, v in weights.tensors.items())


def test_it_needs_flow_and_a_known_blur() -> None:
    for wrong in (replace(PLAIN, flow_channels=0), replace(PLAIN, degradation="bi")):
        with pytest.raises(ModelError, match="back-projection"):
            replace(wrong, back_projection=True)


# --- growing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [PLAIN, BACK], ids=lambda v: v.name)
def test_a_grown_network_begins_where_the_smaller_ended(base: Variant) -> None:
    weights = weights_of(base)
    grown = grow(weights, replace(base, blocks=5))
    assert infer(grown.tensors, source="x").variant == replace(base, blocks=5)
    frames = scene()
    with torch.inference_mode():
        small, _ = build(weights).sequence(frames)
        large, _ = build(grown).sequence(frames)
    assert torch.equal(small, large)
    # Old blocks are spread; the new ones can learn.
    first = "srnet.resblocks.{}.conv.0.weight"
    assert torch.equal(grown.tensors[first.format(2)], weights.tensors[first.format(1)])
    assert float(grown.tensors[first.format(1)].abs().max()) > 0


def test_back_projection_is_added_at_its_start() -> None:
    grown = grow(weights_of(PLAIN), BACK)
    fresh = BackProjection(PLAIN.channels)
    assert torch.equal(grown.tensors["srnet.back.spread"], fresh.spread)
    assert float(grown.tensors["srnet.back.mask.weight"].abs().max()) == 0


@pytest.mark.parametrize("target", [
    replace(BACK, blocks=1), PLAIN, replace(BACK, channels=16), replace(BACK, tail="shuffle"),
], ids=lambda v: v.name)  # fmt: skip
def test_other_growth_is_refused(target: Variant) -> None:
    with pytest.raises(ModelError, match="cannot grow") as caught:
        grow(weights_of(BACK), target)
    assert caught.value.exit_code == 2


# --- burn-in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant", [BACK, Variant(blocks=1, channels=8, flow_channels=0, tail="shuffle")]
)
def test_burn_in_frames_take_no_part(variant: Variant) -> None:
    """The same pictures, no gradient through frames 1 and 2, and a loss of frames 0, 3 and 4."""
    from teco.training.losses.terms import charbonnier
    from teco.training.options import TrainOptions
    from teco.training.stages import Batch, GeneratorLosses

    generator = Generator(variant)
    initialise(generator)
    lr = scene(5).requires_grad_()
    plain, _ = generator.sequence(lr)
    burnt, _ = generator.sequence(lr, burn_in=3)
    assert torch.equal(plain, burnt)
    (gradient,) = torch.autograd.grad(burnt[:, 1:3].sum(), lr, allow_unused=True, retain_graph=True)
    assert gradient is None or float(gradient.abs().max()) == 0
    # Frame 4 depends on frame 0 through the state alone.
    (through,) = torch.autograd.grad(plain[:, 4].sum(), lr, retain_graph=True)
    assert float(through[:, 0].abs().max()) > 0
    (cut,) = torch.autograd.grad(burnt[:, 4].sum(), lr)
    assert float(cut[:, 0].abs().max()) == 0
    torch.manual_seed(1)
    truth = torch.rand(1, 5, 3, 48, 68)
    options = TrainOptions(
        variant=variant.name, frames=5, burn_in=3, amp="off", warp_weight=0, flow_weight=0
    )
    batch = Batch(lr.detach(), truth, torch.full((1, 4, 2, 12, 17), torch.nan))
    losses, _ = GeneratorLosses(generator, options, "recurrent")(batch)
    expected = charbonnier(plain[:, [0, 3, 4]], truth[:, [0, 3, 4]])
    assert float(losses["pixel"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_burn_in_must_leave_something() -> None:
    from teco.core.errors import TecoError
    from teco.training.options import TrainOptions

    with pytest.raises(TecoError, match="fewer than 2"):
        TrainOptions(variant=BACK.name, frames=6, burn_in=5)
