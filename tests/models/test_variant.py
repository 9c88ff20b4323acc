"""Names, parameters and costs of the family."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teco_models.arch.generator import Generator
from teco_models.errors import ModelError
from teco_models.variant import Variant

# The published table: blocks -> SRNet, total, GFLOP at 134x320, 180x320, 270x480, 540x960.
TABLE = {
    16: (1_286_723, 3_032_229, "132.6", "178.3", "401.0", "1604.6"),
    10: (843_587, 2_589_093, "94.7", "127.3", "286.3", "1145.9"),
    9: (769_731, 2_515_237, "88.4", "118.8", "267.2", "1069.5"),
    7: (622_019, 2_367_525, "75.7", "101.8", "229.0", "916.6"),
    5: (474_307, 2_219_813, "63.1", "84.8", "190.8", "763.7"),
    3: (326_595, 2_072_101, "50.4", "67.8", "152.6", "610.8"),
    1: (178_883, 1_924_389, "37.8", "50.9", "114.4", "457.9"),
}
SIZES = ("134x320", "180x320", "270x480", "540x960")

variants = (
    st.builds(
        Variant,
        blocks=st.integers(1, 30),
        channels=st.sampled_from([16, 32, 48, 64, 80]),
        flow_channels=st.sampled_from([8, 16, 32, 40]),
        tail=st.sampled_from(["transposed", "shuffle", "egvsr"]),
        degradation=st.sampled_from(["bd", "bi"]),
        flow_norm=st.sampled_from(["pair", "raw"]),
    )
    | st.builds(
        Variant,
        blocks=st.integers(1, 30),
        tail=st.sampled_from(["transposed", "shuffle", "egvsr"]),
        flow_norm=st.sampled_from(["pair", "raw"]),
        back_projection=st.booleans(),
        lucas_kanade=st.booleans(),
    )
    | st.builds(
        Variant,
        channels=st.sampled_from([16, 32, 48]),
        flow_channels=st.just(0),
        tail=st.sampled_from(["transposed", "shuffle", "egvsr"]),
        degradation=st.sampled_from(["bd", "bi"]),
    )
)


@given(variants)
def test_name_round_trips(variant: Variant) -> None:
    assert Variant.parse(variant.name) == variant


def test_default_name_is_short() -> None:
    assert Variant(blocks=3).name == "teco-x4-b3-c64"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "teco",
        "teco-x4-b3",
        "teco-x2-b3-c64",
        "teco-x4-b0-c64",
        "teco-x4-b3-c64-",
        "teco-x4-b3-c32-f0-raw",
        "teco-x4-b3-c32-f0-bp",
        "teco-x4-b3-c32-bp-bi",
        "teco-x4-b3-c32-f0-lk",
        "teco-x4-b3-c32-raw-bp",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        Variant.parse(name)


def test_egvsr_tail_needs_a_multiple_of_sixteen() -> None:
    with pytest.raises(ModelError, match="16"):
        Variant(channels=40, tail="egvsr")


@pytest.mark.parametrize("blocks", TABLE)
def test_info_prints_the_published_table(blocks: int) -> None:
    from click.testing import CliRunner

    from teco.cli.deploy.info import command

    for size, gflop in zip(SIZES, TABLE[blocks][2:], strict=True):
        result = CliRunner().invoke(
            command, ["--blocks", str(blocks), "--size", size, "--json"], catch_exceptions=False
        )
        facts = json.loads(result.stdout)
        assert facts["params"]["fnet"] == 1_745_506
        assert (facts["params"]["srnet"], facts["params"]["total"]) == TABLE[blocks][:2]
        assert f"{facts['gflop']:.1f}" == gflop


@pytest.mark.parametrize(
    "variant",
    [
        Variant(blocks=2, channels=16, flow_channels=8),
        Variant(blocks=1, channels=32, flow_channels=8, tail="shuffle", degradation="bi"),
        Variant(blocks=1, channels=48, flow_channels=16, tail="egvsr", flow_norm="raw"),
        Variant(blocks=2, channels=24, flow_channels=0, tail="shuffle"),
    ],
    ids=lambda v: v.name,
)
@pytest.mark.parametrize("size", [(8, 8), (19, 30), (24, 40)])
def test_costs_are_those_of_the_network(variant: Variant, size: tuple[int, int]) -> None:
    """Parameters and MACs as PyTorch's own modules have them, counted while they run."""
    generator = Generator(variant)
    macs = 0

    def count(module: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
        transposed = isinstance(module, torch.nn.ConvTranspose2d)
        pixels = args[0][0, 0].numel() if transposed else out[0, 0].numel()
        macs += pixels * module.weight.numel()

    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)
    lr = torch.rand(1, 3, *size)
    with torch.inference_mode():
        generator.step(lr, *generator.initial_state(lr))
    cost = variant.cost(*size)
    assert cost.executed_macs["total"] == macs
    assert cost.params["total"] == sum(p.numel() for p in generator.parameters())
    assert cost.macs["total"] >= macs
    if size[0] % 8 == size[1] % 8 == 0:
        assert cost.macs == cost.executed_macs


def test_activation_memory_by_hand() -> None:
    """The peak of the smallest net is where its output convolution runs; counted on paper."""
    cost = Variant(blocks=1, channels=16, flow_channels=8).cost(8, 8)
    hr = 16 * 64  # pixels at 32x32
    # state: lr, lr_prev (3 x 64 each), hr_prev (3 x hr); conv_up.2's output beside what it reads
    state = 2 * 3 * 64 + 3 * hr
    assert cost.activation_elements == state + 16 * hr + max(16 * hr // 4, 3 * hr)
    assert cost.state_elements == 3 * 64 + 3 * hr


def test_a_variant_without_flow_by_hand() -> None:
    variant = Variant(blocks=2, channels=32, flow_channels=0, tail="shuffle")
    assert variant.name == "teco-x4-b2-c32-f0-shuffle"
    cost = variant.cost(10, 12)
    # Inputs: two frames, the previous output in phases, the latent state.
    convolutions = ((3 + 3 + 48 + 32) * 32, 4 * 32 * 32, 32 * 48)
    assert cost.macs["total"] == 9 * sum(convolutions) * 120
    assert cost.params == {"fnet": 0, "srnet": 9 * sum(convolutions) + 5 * 32 + 48} | {
        "total": 9 * sum(convolutions) + 5 * 32 + 48
    }
    assert cost.state_elements == (3 + 48 + 32) * 120


def test_too_small_a_frame() -> None:
    with pytest.raises(ModelError, match="8x8"):
        Variant().cost(7, 8)
