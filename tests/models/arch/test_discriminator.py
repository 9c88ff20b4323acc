"""The discriminator and what it looks at, against restatements that share no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import restatement
import torch
from torch import Tensor
from torch.nn import functional as F

from teco.training.losses.terms import generator_adversarial_loss, ping_pong
from teco_models.arch.discriminator import Discriminator, triplet_flows, triplet_input
from teco_models.arch.generator import Generator
from teco_models.errors import ModelError
from teco_models.variant import Variant

# --- the network -----------------------------------------------------------------------------

PUBLISHED_KEYS = ["conv_in.0.weight", "conv_in.0.bias"]
for _block in ("block1", "block2", "block3", "block4"):
    PUBLISHED_KEYS.append(f"discriminator_block.{_block}.0.weight")
    PUBLISHED_KEYS += [
        f"discriminator_block.{_block}.1.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
PUBLISHED_KEYS += ["dense.weight", "dense.bias", "upsample_func.kernels"]


def test_size_at_128() -> None:
    # First conv 27*64*9 + 64 = 15,616. Blocks 16 * cin * cout + 2 * cout: 65,664, 65,664, 131,328,
    # 524,800. Classifier 256 * 8 * 8 + 1 = 16,385.
    by_hand = 15_616 + 65_664 + 65_664 + 131_328 + 524_800 + 16_385
    assert by_hand == 819_457
    assert sum(p.numel() for p in Discriminator().parameters()) == by_hand


def test_state_dict_is_the_published_layout() -> None:
    state = Discriminator().state_dict()
    assert sorted(state) == sorted(PUBLISHED_KEYS)
    assert state["conv_in.0.weight"].shape == (64, 27, 3, 3)
    assert state["discriminator_block.block3.0.weight"].shape == (128, 64, 4, 4)
    assert state["dense.weight"].shape == (1, 16_384)
    assert state["upsample_func.kernels"].shape == (4, 4)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_equals_its_description(training: bool) -> None:
    torch.manual_seed(0)
    net = Discriminator(32)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith(("running_mean", "1.bias")):
                value.normal_()
            if name.endswith(("running_var", "1.weight")):
                value.uniform_(0.5, 2)
    net.train(training)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(3, 27, 32, 32)
    with torch.no_grad():
        logits, features = net(x)
    y = F.conv2d(x, state["conv_in.0.weight"], state["conv_in.0.bias"], padding=1)
    y = torch.where(y < 0, 0.2 * y, y)
    for n, feature in enumerate(features, start=1):
        name = f"discriminator_block.block{n}"
        y = F.conv2d(y, state[f"{name}.0.weight"], stride=2, padding=1)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        if not training:
            mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        y = (y - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
        y = y * state[f"{name}.1.weight"].view(-1, 1, 1) + state[f"{name}.1.bias"].view(-1, 1, 1)
        y = torch.where(y < 0, 0.2 * y, y)
        torch.testing.assert_close(feature, y, rtol=1e-4, atol=1e-5)
    assert [tuple(f.shape) for f in features] == [
        (3, 64, 16, 16), (3, 64, 8, 8), (3, 128, 4, 4), (3, 256, 2, 2),
    ]  # fmt: skip
    expected = y.reshape(3, 1024) @ state["dense.weight"].T + state["dense.bias"]
    assert logits.shape == (3, 1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_it_learns_to_tell_two_kinds_apart_under_autocast() -> None:
    torch.manual_seed(0)
    net = Discriminator(16)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    real, fake = torch.rand(8, 27, 16, 16), 0.5 + 0.05 * torch.rand(8, 27, 16, 16)
    first, last = math.nan, torch.tensor(math.nan)
    for step in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            logits, features = net(torch.cat((real, fake)))
        assert len(features) == 4
        sign = torch.cat((torch.ones(8, 1), -torch.ones(8, 1)))
        last = F.softplus(-sign * logits.float()).mean()
        first = float(last.detach()) if step == 0 else first
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert float(last.detach()) < 0.5 * first


@pytest.mark.parametrize("size", [0, -16, 8, 24, 100])
def test_sizes_it_cannot_have(size: int) -> None:
    with pytest.raises(ModelError, match=f"{size}x{size}.*multiple of 16") as error:
        Discriminator(size)
    assert "crop" in error.value.hint
    assert error.value.exit_code == 2


@pytest.mark.parametrize("shape", [(2, 27, 32, 16), (2, 9, 16, 16), (27, 16, 16), (2, 27, 48, 48)])
def test_input_it_was_not_built_for(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"expected \(any number, 27, 16, 16\)"):
        Discriminator(16)(torch.zeros(shape))


# --- what it looks at: by hand ---------------------------------------------------------------


def nearest(x: Tensor) -> Tensor:
    return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_order_of_channels_by_hand() -> None:
    """Frame t, colour c is 0.3c + 0.1t; nothing moves."""
    value = [[0.3 * c + 0.1 * t for c in range(3)] for t in range(3)]
    lr = torch.tensor(value).view(1, 3, 3, 1, 1).expand(1, 3, 3, 8, 8)
    pictures = torch.tensor(value).view(1, 3, 3, 1, 1).expand(1, 3, 3, 32, 32)
    seen = triplet_input(pictures, lr / 2, torch.zeros(1, 1, 3, 2, 32, 32), nearest)
    assert seen.shape == (1, 27, 32, 32)
    rrrgggbbb = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    at_centre = seen[0, :, 16, 16]
    torch.testing.assert_close(at_centre[:9], rrrgggbbb)
    torch.testing.assert_close(at_centre[9:18], rrrgggbbb)
    torch.testing.assert_close(at_centre[18:], rrrgggbbb / 2)


def test_warp_and_border_by_hand() -> None:
    """Every picture is the ramp x / 32; the flows are 2 to the right, none, and 1.5 to the left."""
    ramp = (torch.arange(32) / 32).expand(1, 3, 3, 32, 32)
    flows = torch.zeros(1, 1, 3, 2, 32, 32)
    flows[:, :, 0, 0] = 2.0
    flows[:, :, 2, 0] = -1.5
    red = triplet_input(ramp, torch.zeros(1, 3, 3, 8, 8), flows, nearest)[0, 9:12]
    x = torch.arange(4, 28)
    for frame, shift in enumerate((2.0, 0.0, -1.5)):
        # A border of 32 / 8 = 4 pixels is black, 24 = 3/4 of 32 are left.
        assert float(red[frame, :4].abs().max()) == 0
        assert float(red[frame, 28:].abs().max()) == 0
        assert float(red[frame, :, :4].abs().max()) == 0
        assert float(red[frame, :, 28:].abs().max()) == 0
        expected = ((x + shift) / 32).expand(24, 24)
        torch.testing.assert_close(red[frame, 4:28, 4:28], expected, rtol=0, atol=1e-5)


class BlockMatcher:
    """A generator's motion, found by trying every whole shift of up to two LR pixels."""

    def flow(self, current: Tensor, previous: Tensor) -> Tensor:
        n, _, h, w = current.shape
        flow = torch.zeros(n, 2, h, w)
        inside = (slice(None), slice(2, h - 2), slice(2, w - 2))
        for i in range(n):
            errors = {
                (dx, dy): float((current[i] - previous[i].roll((-dy, -dx), (1, 2)))[inside].norm())
                for dx in range(-2, 3)
                for dy in range(-2, 3)
            }
            dx, dy = min(errors, key=lambda d: errors[d])
            flow[i, 0], flow[i, 1] = dx, dy
        return flow

    def upsample_func(self, x: Tensor) -> Tensor:
        return nearest(x)


def test_warping_aligns_with_the_middle_frame() -> None:
    """A scene that moves by (1, -1) LR pixels a frame stands still once it is warped."""
    torch.manual_seed(0)
    scene = torch.rand(3, 32, 32)
    views = [scene[:, 6 + t : 22 + t, 6 - t : 22 - t] for t in range(6)]
    lr = torch.stack(views)[None]  # (1, 6, 3, 16, 16)
    pictures = nearest(lr[0])[None]
    generator = BlockMatcher()
    flows = triplet_flows(generator, lr)  # type: ignore[arg-type]
    assert flows.shape == (1, 2, 3, 2, 64, 64)
    # What is seen at x was seen at x - 1 a frame ago; HR pixels are four times as many.
    for k in range(2):
        assert [flows[0, k, i, :, 9, 9].tolist() for i in range(3)] == [[-4, 4], [0, 0], [4, -4]]
    seen = triplet_input(pictures, lr, flows, generator.upsample_func)
    plain = seen[:, :9, 8:56, 8:56].unflatten(1, (3, 3))
    warped = seen[:, 9:18, 8:56, 8:56].unflatten(1, (3, 3))
    for frame in (0, 2):
        assert float((plain[:, :, frame] - plain[:, :, 1]).abs().mean()) > 0.1
        torch.testing.assert_close(warped[:, :, frame], plain[:, :, 1], rtol=0, atol=1e-4)


# --- what it looks at: an independent restatement --------------------------------------------


def sample(x: np.ndarray, at_x: float, at_y: float) -> np.ndarray:
    """The colour of (C, H, W) at a position between pixels, the border's beyond it."""
    _, h, w = x.shape
    at_x, at_y = min(max(at_x, 0.0), w - 1.0), min(max(at_y, 0.0), h - 1.0)
    left, top = int(at_x), int(at_y)
    right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
    a, b = at_x - left, at_y - top
    upper = (1 - a) * x[:, top, left] + a * x[:, top, right]
    lower = (1 - a) * x[:, bottom, left] + a * x[:, bottom, right]
    return (1 - b) * upper + b * lower


def restated(generator: Generator, pictures: np.ndarray, lr: Tensor, *, bd: bool) -> np.ndarray:
    """One sequence's triplets, (K, 27, H, W); only ``generator.flow`` is taken on trust."""
    frames, _, height, width = pictures.shape
    conditions = restatement.upsample(lr, bd=bd).double().numpy()
    out = np.zeros((frames // 3, 27, height, width))
    for k in range(frames // 3):
        middle = 3 * k + 1
        for i, frame in enumerate((middle - 1, middle, middle + 1)):
            flow = np.zeros((2, height, width))
            if frame != middle:
                pair = (lr[middle : middle + 1], lr[frame : frame + 1])
                with torch.no_grad():
                    low = generator.flow(*pair)
                flow = 4 * restatement.upsample(low, bd=bd)[0].double().numpy()
            for y in range(height):
                for x in range(width):
                    warped = np.zeros(3)
                    if height // 8 <= y < height - height // 8 and width // 8 <= x < width * 7 // 8:
                        warped = sample(pictures[frame], x + flow[0, y, x], y + flow[1, y, x])
                    for colour in range(3):
                        out[k, 3 * colour + i, y, x] = pictures[frame, colour, y, x]
                        out[k, 9 + 3 * colour + i, y, x] = warped[colour]
                        out[k, 18 + 3 * colour + i, y, x] = conditions[frame, colour, y, x]
    return out


def tiny_generator(degradation: str = "bd") -> Generator:
    """Random weights that move pictures by several pixels, differently everywhere."""
    torch.manual_seed(1)
    variant = Variant(
        blocks=1, channels=16, flow_channels=8, tail="shuffle", degradation=degradation
    )
    generator = Generator(variant)
    with torch.no_grad():
        for p in generator.fnet.parameters():
            p.mul_(2.0)
    return generator


@pytest.mark.parametrize("degradation", ["bd", "bi"])
def test_input_equals_a_restatement(degradation: str) -> None:
    """Two sequences of seven frames, wider than high: two triplets each, the seventh is left."""
    generator = tiny_generator(degradation)
    lr, pictures = torch.rand(2, 7, 3, 8, 16), torch.rand(2, 7, 3, 32, 64)
    flows = triplet_flows(generator, lr)
    assert flows.shape == (2, 2, 3, 2, 32, 64)
    assert float(flows[:, :, (0, 2)].abs().max()) > 3
    assert float(flows.flatten(3).std(3).max()) > 0.3
    assert float(flows[:, :, 1].abs().max()) == 0
    seen = triplet_input(pictures, lr, flows, generator.upsample_func)
    assert seen.dtype == torch.float32
    bd = degradation == "bd"
    both = [restated(generator, pictures[b].double().numpy(), lr[b], bd=bd) for b in range(2)]
    expected = torch.from_numpy(np.concatenate(both)).float()
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)


def test_input_of_a_ping_pong_sequence_equals_a_restatement() -> None:
    """Ten frames there and back are 19: six triplets, the last frame is left."""
    generator = tiny_generator()
    lr, pictures = torch.rand(1, 10, 3, 8, 8), torch.rand(1, 19, 3, 32, 32)
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    mirrored = ping_pong(lr)
    flows = triplet_flows(generator, mirrored)
    seen = triplet_input(pictures, mirrored, flows, generator.upsample_func)
    assert seen.shape == (6, 27, 32, 32)
    expected = restated(generator, pictures[0].double().numpy(), lr[0, order], bd=True)
    torch.testing.assert_close(seen, torch.from_numpy(expected).float(), rtol=0, atol=1e-4)


def test_ping_pong_flows_are_those_of_the_generators_own_pass() -> None:
    """The references reuse the pass: its flows 0, 3, 6, ... and, read backwards, 1, 4, 7, ..."""
    generator = tiny_generator()
    lr = ping_pong(torch.rand(2, 10, 3, 8, 8))
    with torch.no_grad():
        _, low = generator.sequence(lr)  # (2, 18, 2, 8, 8)
        high = 4 * generator.upsample_func(low.flatten(0, 1)).unflatten(0, (2, 18))
    flows = triplet_flows(generator, lr)
    torch.testing.assert_close(flows[:, :, 0], high[:, 0:18:3], rtol=0, atol=1e-4)
    torch.testing.assert_close(flows[:, :, 2], high.flip(1)[:, 1:18:3], rtol=0, atol=1e-4)


# --- gradients, precision, errors ------------------------------------------------------------


def test_gradients_reach_the_pictures_and_nothing_else() -> None:
    generator, net = tiny_generator(), Discriminator(64)
    lr = torch.rand(1, 7, 3, 16, 16)
    pictures = torch.rand(1, 7, 3, 64, 64, requires_grad=True)
    flows = triplet_flows(generator, lr)
    assert not flows.requires_grad
    flows.requires_grad_(True)
    logits, _ = net(triplet_input(pictures, lr, flows, generator.upsample_func))
    assert logits.shape == (2, 1)
    generator_adversarial_loss(logits).backward()
    assert pictures.grad is not None
    assert (pictures.grad[0, :6].flatten(1).abs().amax(1) > 0).all()
    assert float(pictures.grad[0, 6].abs().max()) == 0  # belongs to no triplet
    assert flows.grad is None
    assert all(p.grad is None for p in generator.parameters())


def test_autocast_does_not_coarsen_what_is_seen() -> None:
    generator = tiny_generator()
    lr, pictures = torch.rand(1, 3, 3, 8, 8), torch.rand(1, 3, 3, 32, 32)
    flows = triplet_flows(generator, lr)
    plain = triplet_input(pictures, lr, flows, generator.upsample_func)
    with torch.autocast("cpu", torch.bfloat16):
        cast = triplet_input(pictures, lr, flows, generator.upsample_func)
        cast_flows = triplet_flows(generator, lr)
    assert torch.equal(plain, cast)
    assert cast_flows.dtype == torch.float32
    # FNet itself answers in bfloat16; its interpolation does not: it is no grid of 8 bits.
    assert not torch.equal(cast_flows, cast_flows.bfloat16().float())


def test_too_few_frames() -> None:
    with pytest.raises(ModelError, match="2 frames has no triplet") as error:
        triplet_flows(tiny_generator(), torch.rand(1, 2, 3, 8, 8))
    assert "at least 3" in error.value.hint
    assert error.value.exit_code == 2


def test_parts_that_do_not_belong_together() -> None:
    lr, flows = torch.rand(1, 4, 3, 8, 8), torch.zeros(1, 1, 3, 2, 32, 32)
    triplet_input(torch.rand(1, 4, 3, 32, 32), lr, flows, nearest)
    for pictures, other in (
        (torch.rand(1, 7, 3, 32, 32), flows),  # mirrored, but the LR frames are not
        (torch.rand(1, 4, 3, 32, 64), flows),
        (torch.rand(1, 4, 3, 32, 32), flows.repeat(1, 2, 1, 1, 1, 1)),
    ):
        with pytest.raises(ModelError, match="do not fit LR frames"):
            triplet_input(pictures, lr, other, nearest)
