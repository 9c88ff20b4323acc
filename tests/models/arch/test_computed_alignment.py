"""The generator of computed alignment: zero state, alignment, and its deploy form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from teco_calibration.degrade import degrade
from teco_models import zoo
from teco_models.arch.computed_alignment import (
    AlignedGenerator,
    bicubic,
    coarse_flow,
    luma_of,
    warp_to_phases,
    whole_blocks,
)
from teco_models.arch.ops import CubicUpsample, warp
from teco_models.checkpoint import Weights, build_any, infer, load_weights, save_weights
from teco_models.compress.grow import grow, halve_scale
from teco_models.deploy.aligned import AlignedRewrites
from teco_models.deploy.form import deploy_form, rewrites_for
from teco_models.errors import ModelError
from teco_models.variant import Variant

SIZES = ((48, 64), (45, 75), (8, 9))
VARIANTS = (
    Variant.aligned(blocks=1, channels=8, latent=6),
    Variant.aligned(blocks=1, channels=8, latent=0),
    Variant.aligned(blocks=2, channels=8, latent=4, masks=16, half_channels=12),
    Variant.aligned(blocks=1, channels=8, latent=4, scale=2),
    Variant.aligned(blocks=1, channels=8, latent=0, masks=4, scale=2),
    Variant.aligned(degradation="bd", blocks=1, channels=8, latent=4),
)
each = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")


def made(variant: Variant) -> AlignedGenerator:
    torch.manual_seed(0)
    return AlignedGenerator(variant).eval().requires_grad_(False)


def moving(h: int, w: int, count: int = 5) -> list[Tensor]:
    """A smooth texture that moves by (1, 2) LR pixels a frame; one frame is (1, 3, h, w)."""
    torch.manual_seed(1)
    whole = torch.rand(1, 3, h // 4 + 9, w // 4 + 9)
    whole = F.interpolate(whole, size=(h + count + 8, w + 2 * count + 8), mode="bicubic").clamp(
        0, 1
    )
    return [whole[..., t : t + h, 2 * t : 2 * t + w] for t in range(count)]


@each
@every_size
@pytest.mark.parametrize("gathered", [True, False])
def test_the_deploy_form_is_the_same_function(variant, size, gathered) -> None:
    generator = made(variant)
    step = deploy_form(generator, AlignedRewrites(gathered_warp=gathered))
    state = kept = generator.initial_state(torch.zeros(1, 3, *size))
    for lr in moving(*size):
        frame, state = generator.advance(lr, state)
        found, *kept = step(lr, *kept)
        assert torch.allclose(found, frame, atol=1e-4)
        assert [x.shape for x in kept] == [x.shape for x in state]
        assert torch.allclose(kept[1], state[1], atol=1e-4)


@each
def test_zero_state_is_no_past(variant) -> None:
    generator = made(variant)
    lr = moving(45, 75)[0]
    zero = generator.initial_state(lr)
    y = luma_of(lr)
    cold, state = generator.luma_step(y, zero)
    first, alone = generator.first_step(y)
    assert torch.allclose(cold, first, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(state, alone, strict=True))
    # Features and an output without the frame that they belong to are no past either.
    junk = (zero[0], torch.rand_like(zero[1]), *zero[2:])
    assert torch.allclose(generator.luma_step(y, junk)[0], first, atol=1e-6)


def test_the_whole_sequence_is_its_steps() -> None:
    generator = made(VARIANTS[0])
    frames = [luma_of(x) for x in moving(45, 75)]
    state = generator.initial_state(frames[0])
    expected = []
    for y in frames:
        out, state = generator.luma_step(y, state)
        expected.append(out)
    found = generator.luma_sequence(torch.stack(frames, 1))
    assert torch.allclose(found, torch.stack(expected, 1), atol=1e-5)
    forgotten = generator.luma_sequence(torch.stack(frames, 1), forget=True)
    assert torch.allclose(forgotten[:, 2], generator.first_step(frames[2])[0], atol=1e-6)


def test_flow_is_found_and_followed() -> None:
    before, after = moving(64, 96)[:2]
    flow = coarse_flow(whole_blocks(luma_of(after)), whole_blocks(luma_of(before)))
    inner = flow[0, :, 4:-4, 4:-4]
    assert torch.allclose(inner.mean((1, 2)), torch.tensor([2.0, 1.0]), atol=0.2)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_warp_to_phases_is_a_warp(scale) -> None:
    torch.manual_seed(2)
    hr = torch.rand(1, 1, 8 * scale, 10 * scale)
    flow = torch.full((1, 2, 8, 10), 0.375)
    whole = scale * F.interpolate(flow, scale_factor=scale, mode="nearest")
    found = F.pixel_shuffle(warp_to_phases(hr, flow), scale)
    assert torch.allclose(found, warp(hr, whole), atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_untrained_it_is_bicubic_in_its_place(scale) -> None:
    generator = made(replace(VARIANTS[1], scale=scale))
    torch.nn.init.zeros_(generator.tail.weight)
    lr = moving(24, 32)[0]
    frame = generator.step(lr, *generator.initial_state(lr))
    assert torch.allclose(frame, bicubic(lr, scale).clamp(-1, 2), atol=0.02)
    usual = F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)
    assert torch.allclose(bicubic(lr, scale), usual, atol=1e-5)


def test_bd_has_the_papers_degradation_and_place() -> None:
    """The output that is shrunk is what calibration shrinks by, and bicubic is TecoGAN's."""
    generator = made(VARIANTS[-1])
    torch.manual_seed(3)
    frame = (torch.rand(40, 56, 3) * 255).round().to(torch.uint8)
    expected = degrade(frame.numpy(), "bd")
    picture = frame.permute(2, 0, 1)[:, None].float()
    found = generator.shrink_output(picture)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    wanted = torch.from_numpy(expected).permute(2, 0, 1)[:, None].float()
    assert (found - wanted)[inner].abs().max() <= 0.5 + 1e-3  # which is rounded to 8 bits
    lr = moving(24, 32)[0]
    assert torch.allclose(generator.upsample_func(lr), CubicUpsample()(lr), atol=1e-5)


def test_of_bd_the_past_is_back_projected_to_the_frame() -> None:
    """An output that is wrong everywhere is nearer the frame after the correction."""
    generator = made(VARIANTS[-1])
    truth = moving(96, 128, 1)[0][:, :1]
    y = generator.shrink_output(truth)
    wrong = F.pixel_unshuffle(truth + 0.1, 4)
    error = y - generator.shrink(wrong)
    corrected = wrong + F.conv2d(F.pad(error, (1,) * 4, mode="replicate"), generator.spread)
    left = y - generator.shrink(corrected)
    assert left.abs().mean() < 0.35 * error.abs().mean()


def test_another_blur_is_refused() -> None:
    tensors = made(VARIANTS[-1]).state_dict()
    half = {k: v.half() for k, v in tensors.items()}
    assert torch.equal(infer(half, source="a test").tensors["blur"], tensors["blur"])
    with pytest.raises(ModelError, match="blur"):
        infer(tensors | {"blur": tensors["blur"] * 1.1}, source="a test")


@pytest.mark.parametrize(
    "fields",
    [
        {"degradation": "real", "alignment": "learned"},
        {"degradation": "bi", "alignment": "computed"},
        {"degradation": "bd", "latent": 4},
        {"degradation": "bd", "alignment": "computed"},
        {"degradation": "bd", "alignment": "computed", "flow_channels": 0, "tail": "shuffle",
         "scale": 2},
    ],
)  # fmt: skip
def test_alignment_and_degradation_that_do_not_go_together(fields) -> None:
    with pytest.raises(ModelError):
        Variant(**fields)


@each
def test_weights_say_what_they_are(variant, tmp_path) -> None:
    generator = made(variant)
    save_weights(tmp_path / "a.safetensors", generator)
    found = load_weights(tmp_path / "a.safetensors")
    assert found.variant == variant == Variant.parse(variant.name)
    assert variant.cost(45, 75).params["total"] == sum(p.numel() for p in generator.parameters())
    lr = moving(24, 32)[0]
    state = generator.initial_state(lr)
    assert torch.equal(build_any(found).step(lr, *state), generator.step(lr, *state))


def test_damaged_weights_are_named() -> None:
    tensors = made(VARIANTS[0]).state_dict()
    short = {k: v for k, v in tensors.items() if k != "tail.bias"}
    with pytest.raises(ModelError, match=r"tail\.bias"):
        infer(short, source="a file")
    with pytest.raises(ModelError, match=r"makes 9 pixels of one, expected 4 \(x2\) or 16 \(x4\)"):
        infer(tensors | {"base": torch.zeros(9, 1, 7, 7)}, source="a file")


@pytest.mark.parametrize("masks", [1, 16])
def test_scale_2_begins_as_scale_4_shrunk_by_area(masks) -> None:
    large = made(Variant.aligned(blocks=1, channels=8, latent=4, masks=masks))
    with torch.no_grad():  # all that is learned differs from what it begins with
        for value in large.parameters():
            value += 0.02 * torch.randn_like(value)
    weights = Weights(large.variant, dict(large.state_dict()))
    small = build_any(halve_scale(weights))
    assert small.variant == Variant.aligned(
        blocks=1, channels=8, latent=4, masks=4 if masks == 16 else 1, scale=2
    )
    # Of grey frames: colours are enlarged by bicubic, which is not that of scale 4 shrunk.
    frames = [luma_of(x).expand(-1, 3, -1, -1) for x in moving(24, 32, 3)]
    first = [g.step(frames[0], *g.initial_state(frames[0])) for g in (large, small)]
    assert torch.allclose(F.avg_pool2d(first[0], 2), first[1], atol=1e-5)
    # With a past, too, as far as the warp of shrunk pixels is the shrunk warp.
    whole = [g.sequence(torch.stack(frames, 1))[0][0, -1] for g in (large, small)]
    assert (F.avg_pool2d(whole[0], 2) - whole[1]).abs().mean() < 0.02
    grown = grow(weights, replace(small.variant, blocks=2))
    assert grown.variant.blocks == 2
    with pytest.raises(ModelError, match="no network of scale 4"):
        halve_scale(halve_scale(weights))


def test_a_wider_one_begins_where_the_narrow_one_ended() -> None:
    """More channels and blocks change nothing until they are trained; a step of training does."""
    small, frames = made(VARIANTS[0]), moving(45, 75)
    wider = replace(VARIANTS[0], channels=12, blocks=3)
    weights = Weights(VARIANTS[0], dict(small.state_dict()), (), {})
    torch.manual_seed(3)
    large = build_any(grow(weights, wider))
    y = torch.stack([luma_of(x) for x in frames], 1)
    with torch.no_grad():
        before = small.luma_sequence(y)
        torch.testing.assert_close(large.luma_sequence(y), before, atol=2e-6, rtol=0)
    large.requires_grad_(True)
    large.luma_sequence(y).square().mean().backward()
    gradients = large.get_parameter("body.1.second.weight").grad, large.tail.weight.grad
    assert all(g is not None and g[:, 8:].abs().max() > 0 for g in gradients)
    with pytest.raises(ModelError, match="cannot grow"):
        grow(Weights(wider, dict(large.state_dict()), (), {}), VARIANTS[0])


def test_what_cannot_be_combined() -> None:
    for other in (
        {"back_projection": True}, {"lucas_kanade": True}, {"flow_channels": 32}, {"tail": "egvsr"},
        {"masks": 3}, {"latent": -1}, {"scale": 3},
    ):  # fmt: skip
        with pytest.raises(ModelError):
            replace(VARIANTS[0], **other)
    with pytest.raises(ModelError, match="latent"):
        Variant(latent=4)
    with pytest.raises(ModelError, match="phase_up"):
        rewrites_for(VARIANTS[0], "onnxruntime", ["phase_up"])


def test_the_shipped_one_uses_its_past() -> None:
    entry = zoo.find("real-cpu")
    assert entry is not None
    generator = build_any(load_weights(entry.weights))
    frames = [luma_of(x) for x in moving(64, 96)]
    with torch.no_grad():
        found = generator.luma_sequence(torch.stack(frames, 1))
        alone = generator.luma_sequence(torch.stack(frames, 1), forget=True)
    assert (found[:, -1] - alone[:, -1]).abs().max() > 1e-3
