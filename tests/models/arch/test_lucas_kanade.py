"""The Lucas-Kanade step on FNet's flow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from teco.training.init import initialise
from teco.training.losses.terms import FLOW_EPS
from teco.training.options import TrainOptions
from teco.training.stages import Batch, GeneratorLosses
from teco_models.arch.generator import Generator
from teco_models.arch.lucas_kanade import DERIVATIVE, EPS, LIMIT, RADIUS, SIGMA, LucasKanade
from teco_models.arch.ops import warp
from teco_models.checkpoint import build, infer, load_weights, save_weights
from teco_models.compress.grow import grow
from teco_models.errors import ModelError
from teco_models.variant import Variant

PLAIN = Variant(blocks=1, channels=8, flow_channels=4)
REFINED = replace(PLAIN, lucas_kanade=True)


def texture(h: int, w: int, dx: float, dy: float) -> Tensor:
    """(1, 3, h, w) of smooth waves whose content lies (dx, dy) pixels further right and down."""
    y, x = torch.meshgrid(torch.arange(h) - float(dy), torch.arange(w) - float(dx), indexing="ij")
    waves = [
        torch.sin(0.7 * x + 0.2 * y) + torch.cos(0.5 * y),
        torch.cos(0.4 * x - 0.6 * y) + torch.sin(0.3 * x),
        torch.sin(0.5 * x) * torch.cos(0.55 * y),
    ]
    return (torch.stack(waves)[None].float() + 2) / 4


@pytest.mark.parametrize(("dx", "dy"), [(0.3, -0.2), (0.0, 0.4), (-0.25, -0.35)])
def test_it_finds_a_known_fraction_of_a_pixel(dx: float, dy: float) -> None:
    """previous(x + flow) = current(x), so content that moved by (dx, dy) came from -(dx, dy)."""
    previous, current = texture(40, 48, 0, 0), texture(40, 48, dx, dy)
    found = LucasKanade()(current, previous, torch.zeros(1, 2, 40, 48))
    error = found - torch.tensor([-dx, -dy]).view(1, 2, 1, 1)
    inside = error[..., 8:-8, 8:-8].abs()
    assert float(inside.mean()) < 0.02
    assert float(inside.max()) < 0.08
    # From a flow that is off by as much, in a motion of several pixels.
    far = texture(40, 48, 3 + dx, dy)
    found = LucasKanade()(
        far, previous, torch.tensor([-3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 40, 48)
    )
    error = found - torch.tensor([-3 - dx, -dy]).view(1, 2, 1, 1)
    assert float(error[..., 8:-8, 12:-12].abs().mean()) < 0.02


def test_one_pixel_equals_least_squares_written_out() -> None:
    torch.manual_seed(0)
    current, previous = texture(20, 22, 0, 0), texture(20, 22, 0.3, 0.2)
    step = LucasKanade().correction(current, previous)[0, :, 10, 11].numpy()
    a, b = current[0].double().numpy(), previous[0].double().numpy()
    mean = (a + b) / 2
    rows, right, weights = [], [], []
    for y in range(10 - RADIUS, 11 + RADIUS):
        for x in range(11 - RADIUS, 12 + RADIUS):
            weight = np.exp(-((y - 10) ** 2 + (x - 11) ** 2) / (2 * SIGMA**2))
            for c in range(3):
                # Borders are continued, in the derivative and in the window.
                yy, xx = min(max(y, 0), 19), min(max(x, 0), 21)
                across = [mean[c, yy, min(max(xx + k - 2, 0), 21)] for k in range(5)]
                down = [mean[c, min(max(yy + k - 2, 0), 19), xx] for k in range(5)]
                rows.append((np.dot(DERIVATIVE, across), np.dot(DERIVATIVE, down)))
                right.append(a[c, yy, xx] - b[c, yy, xx])
                weights.append(weight)
    weight = np.array(weights) / (np.sum(weights) / 3)  # one picture's weights sum to 1
    m, r = np.array(rows), np.array(right)
    normal = m.T @ (weight[:, None] * m) + EPS * np.eye(2)
    expected = np.linalg.solve(normal, m.T @ (weight * r))
    assert np.abs(expected).max() < LIMIT
    assert step == pytest.approx(expected, abs=1e-3)


def test_without_texture_the_flow_stays() -> None:
    flow = torch.rand(1, 2, 16, 16)
    grey = torch.full((1, 3, 16, 16), 0.4)
    assert torch.equal(LucasKanade()(grey, grey, flow), flow)
    # A change of light tells nothing of motion either.
    assert torch.allclose(LucasKanade()(grey + 0.1, grey, flow), flow, atol=1e-4)


def test_it_never_goes_further_than_its_limit() -> None:
    torch.manual_seed(1)
    flow = torch.zeros(2, 2, 17, 23)
    found = LucasKanade()(torch.rand(2, 3, 17, 23), torch.rand(2, 3, 17, 23), flow)
    assert torch.isfinite(found).all()
    assert 0.1 < float(found.abs().max()) <= LIMIT


def test_gradients_pass_it_by() -> None:
    torch.manual_seed(2)
    flow = torch.rand(1, 2, 12, 12, requires_grad=True)
    weight = torch.rand(1, 2, 12, 12)
    (
        LucasKanade()(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12), flow) * weight
    ).sum().backward()
    assert flow.grad is not None
    assert torch.equal(flow.grad, weight)


def test_the_generator_refines_and_its_flow_stage_does_not() -> None:
    generator = Generator(REFINED)
    initialise(generator)
    torch.manual_seed(3)
    truth = torch.rand(1, 2, 3, 64, 64)
    lr = torch.cat((texture(16, 16, 0.3, 0), texture(16, 16, 0, 0)))[None]
    coarse = generator.coarse_flow(lr[:, 1], lr[:, 0])
    fine = generator.flow(lr[:, 1], lr[:, 0])
    expected = LucasKanade().correction(lr[:, 1], warp(lr[:, 0], coarse))
    assert torch.allclose(fine, coarse + expected, atol=1e-6)
    assert float((fine - coarse).detach().abs().mean()) > 0.1
    # Supervised by FNet's own answer there is nothing to learn: the loss sees FNet alone.
    batch = Batch(lr, truth, coarse.detach()[None])
    losses, _ = GeneratorLosses(generator, TrainOptions(variant=REFINED.name, amp="off"), "flow")(
        batch
    )
    # An error counts as none below FLOW_EPS squared pixels, and as a hundredth of a pixel.
    assert float(losses["flow"].detach()) == pytest.approx(FLOW_EPS**0.5, rel=1e-3)


def test_files_keep_it_and_weights_can_gain_it(tmp_path: Path) -> None:
    generator = Generator(REFINED)
    save_weights(tmp_path / "w.safetensors", generator)
    assert load_weights(tmp_path / "w.safetensors").variant == REFINED
    plain = infer(Generator(PLAIN).state_dict(), source="test")
    grown = grow(plain, REFINED)
    assert infer(grown.tensors, source="test").variant == REFINED
    assert build(grown).refine is not None
    with pytest.raises(ModelError, match="cannot grow"):
        grow(grown, PLAIN)


def test_it_needs_a_flow_and_costs_no_parameters() -> None:
    with pytest.raises(ModelError, match="no flow to refine"):
        Variant(flow_channels=0, lucas_kanade=True)
    assert REFINED.cost(16, 24).params == PLAIN.cost(16, 24).params
    assert REFINED.cost(16, 24).macs == PLAIN.cost(16, 24).macs
