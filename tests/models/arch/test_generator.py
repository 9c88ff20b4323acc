"""The network equals its published description."""

from __future__ import annotations

import pytest
import restatement
import torch

from teco_models.arch.generator import Generator
from teco_models.arch.ops import CubicUpsample, space_to_depth, warp
from teco_models.checkpoint import build, infer
from teco_models.errors import ModelError
from teco_models.variant import Variant


def moving(h: int, w: int, count: int) -> list[torch.Tensor]:
    """Smooth frames that drift by about a pixel."""
    yy, xx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    frames: list[torch.Tensor] = []
    for t in range(count):
        planes = [
            0.5 + 0.3 * torch.sin((xx + t * 1.3) / (5 + c) + c) * torch.cos((yy - t) / (7 - c))
            for c in range(3)
        ]
        frames.append(torch.stack(planes)[None])
    return frames


def worst_difference(blocks: int, size: tuple[int, int], *, bd: bool, frames: int = 10) -> float:
    state = restatement.published_state(blocks, bd=bd)
    generator = build(infer(state, source="test"))
    h, w = size
    worst = 0.0
    lr_prev, expected = torch.zeros(1, 3, h, w), torch.zeros(1, 3, 4 * h, 4 * w)
    ours = expected
    with torch.inference_mode():
        for lr in moving(h, w, frames):
            expected = restatement.step(state, lr, lr_prev, expected, bd=bd)
            ours = generator.step(lr, lr_prev, ours)
            lr_prev = lr
            worst = max(worst, float((ours - expected).abs().max()))
        # A network that ignores its past would pass any comparison of the recurrence.
        without = generator.step(lr, lr_prev, torch.zeros_like(ours))
        assert float((without - ours).abs().max()) > 1e-3
    return worst


@pytest.mark.parametrize("bd", [True, False], ids=["bd", "bi"])
@pytest.mark.parametrize("size", [(8, 8), (9, 15), (20, 29)])
def test_step_equals_the_restatement(size: tuple[int, int], bd: bool) -> None:
    assert worst_difference(2, size, bd=bd) <= 1e-5


# Each large size in one degradation, which the small ones tell apart: a minute a case.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "bd"), [((135, 317), True), ((134, 320), False), ((8, 8), True), ((8, 8), False)]
)
def test_ten_blocks_at_full_size_equal_the_restatement(size: tuple[int, int], bd: bool) -> None:
    assert worst_difference(10, size, bd=bd) <= 1e-5


def test_space_to_depth_order() -> None:
    x = torch.arange(3 * 8 * 8, dtype=torch.float32).view(1, 3, 8, 8)
    out = space_to_depth(x)
    for dy, dx, c in ((0, 0, 0), (1, 3, 2), (3, 0, 1), (2, 2, 2)):
        assert torch.equal(out[0, (dy * 4 + dx) * 3 + c], x[0, c, dy::4, dx::4])


def test_warp_by_whole_pixels_shifts_and_continues_the_border() -> None:
    x = torch.rand(1, 2, 6, 9)
    flow = torch.zeros(1, 2, 6, 9)
    flow[:, 0], flow[:, 1] = 2, -1
    out = warp(x, flow)
    assert torch.allclose(out[..., 1:, :-2], x[..., :-1, 2:], atol=1e-5)
    assert torch.allclose(out[..., 0, :-2], x[..., 0, 2:], atol=1e-5)


def test_cubic_upsampling_keeps_the_samples_and_ramps() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 9, 12)
    out = CubicUpsample()(ramp)
    assert torch.equal(out[..., ::4, ::4], ramp)
    # Halfway the kernel is symmetric, so a ramp is exact there; elsewhere a = -0.75 is not linear.
    assert torch.allclose(
        out[0, 0, 0, 6:-8:4], torch.arange(1.5, 10.4)[: len(out[0, 0, 0, 6:-8:4])]
    )


@pytest.mark.parametrize("tail", ["transposed", "shuffle", "egvsr"])
def test_sequence_equals_steps(tail: str) -> None:
    generator = Generator(Variant(blocks=1, channels=16, flow_channels=8, tail=tail))  # type: ignore[arg-type]
    lr = torch.rand(2, 4, 3, 17, 26)
    with torch.inference_mode():
        together, flows = generator.sequence(lr)
        assert flows is not None
        state = generator.initial_state(lr[:, 0])
        for t in range(4):
            if t:
                assert torch.allclose(
                    flows[:, t - 1], generator.flow(lr[:, t], state[0]), atol=1e-5
                )
            out = generator.step(lr[:, t], *state)
            assert torch.allclose(together[:, t], out, atol=1e-5)
            state = (lr[:, t], out)


def test_without_flow_equals_a_restatement() -> None:
    """The latent recurrence, written out with functions over the bare tensors."""
    from torch.nn import functional as F

    torch.manual_seed(3)
    generator = Generator(Variant(blocks=2, channels=8, flow_channels=0, tail="shuffle"))
    p = generator.state_dict()
    assert not any(key.startswith("fnet") for key in p)

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(x, p[f"srnet.{name}.weight"], p[f"srnet.{name}.bias"], padding=1)

    frames = torch.rand(2, 5, 3, 9, 14)
    lr_prev, latent = torch.zeros(2, 3, 9, 14), torch.zeros(2, 8, 9, 14)
    past = torch.zeros(2, 48, 9, 14)
    with torch.inference_mode():
        found, flows = generator.sequence(frames)
        assert flows is None
        state = generator.initial_state(frames[:, 0])
        for t in range(5):
            lr = frames[:, t]
            x = F.relu(conv(torch.cat((lr, past, lr_prev, latent), 1), "conv_in.0"))
            for i in range(2):
                y = F.relu(conv(x, f"resblocks.{i}.conv.0"))
                x = x + conv(y, f"resblocks.{i}.conv.2")
            hr = F.pixel_shuffle(conv(x, "conv_shuffle"), 4) + CubicUpsample()(lr)
            past = torch.stack(
                [hr[:, c, dy::4, dx::4] for dy in range(4) for dx in range(4) for c in range(3)], 1
            )
            lr_prev, latent = lr, F.relu(x)
            assert torch.allclose(found[:, t], hr, atol=1e-5)
            ours, state = generator.advance(lr, state)
            assert torch.allclose(ours, hr, atol=1e-5)
        without = generator.step(lr, *generator.initial_state(lr))
        assert float((without - hr).abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_upsampling_keeps_its_precision_under_autocast(dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 9, 11)
    with torch.autocast("cpu", dtype):
        assert torch.equal(CubicUpsample()(x), CubicUpsample()(x.clone()).float())
        found = CubicUpsample()(x)
    assert torch.equal(found, CubicUpsample()(x))


def test_pair_norm_ignores_brightness_and_contrast() -> None:
    state = restatement.published_state(1, bd=True)
    raw = build(infer(state, source="raw"))
    paired = build(infer({**state, "fnet.norm.eps": torch.tensor(8 / 255)}, source="pair"))
    a, b = torch.rand(1, 3, 16, 24), torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        change = [
            float((g.flow(a, b) - g.flow(0.5 * a + 0.2, 0.5 * b + 0.2)).abs().max())
            for g in (raw, paired)
        ]
    assert change[1] < 0.1 * change[0]


def test_a_small_frame_is_refused() -> None:
    generator = Generator(Variant(blocks=1, channels=16, flow_channels=8))
    with pytest.raises(ModelError, match="8x8"):
        generator.initial_state(torch.rand(1, 3, 8, 7))
