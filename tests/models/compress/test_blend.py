"""Networks blended: the arithmetic by hand, what cannot be blended, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from teco.training.init import initialise
from teco_models.arch.generator import Generator
from teco_models.checkpoint import Weights, load_weights, save_weights
from teco_models.compress.blend import blend, distance
from teco_models.compress.sharing import SHARED
from teco_models.errors import ModelError
from teco_models.variant import Variant

TINY = Variant(blocks=2, channels=16, flow_channels=8, tail="shuffle")


def network(seed: int, variant: Variant = TINY, **metadata: str) -> Weights:
    generator = Generator(variant)
    initialise(generator, seed)
    return Weights(variant, generator.state_dict(), metadata=metadata)


def test_the_mean_by_hand() -> None:
    a, b, c = (network(n) for n in range(3))
    found = blend([a, b, c], [1, 1, 2])
    assert found.variant == TINY
    assert set(found.tensors) == set(a.tensors)
    for name, tensor in found.tensors.items():
        x, y, z = (p.tensors[name].double().numpy() for p in (a, b, c))
        np.testing.assert_allclose(tensor.numpy(), (x + y + 2 * z) / 4, rtol=1e-6, atol=1e-9)
        assert tensor.dtype == torch.float32
    # The shares' size does not count, and one may lead away from a network.
    same = blend([a, b], [3, 0])
    assert all(torch.equal(same.tensors[k], v) for k, v in a.tensors.items())
    beyond = blend([a, b], [-1, 2]).tensors["srnet.conv_in.0.weight"]
    x, y = (p.tensors["srnet.conv_in.0.weight"] for p in (a, b))
    torch.testing.assert_close(beyond, 2 * y - x)
    assert torch.equal(a.tensors["srnet.conv_in.0.weight"], x), "what was given is left as it was"


def test_ties_stay_where_all_have_them() -> None:
    tied = {SHARED: "0,0"}
    assert blend([network(0, **tied), network(1, **tied)], [1, 1]).metadata == tied
    assert blend([network(0, **tied), network(1)], [1, 1]).metadata == {}


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([1], r"the shares 1 do not fit 2 networks"),
        ([1, 1, 1], "do not fit"),
        ([1, -1], "whose sum is not 0"),
        ([1, float("nan")], "finite"),
        ([1, float("inf")], "finite"),
    ],
)
def test_shares_that_do_not_fit(shares: list[float], words: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        blend([network(0), network(1)], shares)
    assert error.value.exit_code == 2


def test_networks_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="1 network given"):
        blend([network(0)], [1])
    other = Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle")
    with pytest.raises(ModelError, match="cannot be blended"):
        blend([network(0), network(0, other)], [1, 1])


def test_distance_by_hand() -> None:
    a = network(0)
    doubled = Weights(TINY, {k: 2 * v for k, v in a.tensors.items()})
    assert distance(a, a) == 0
    assert distance(a, doubled) == pytest.approx(1)
    assert distance(doubled, a) == pytest.approx(0.5)
    # The convolutions are random; the flow net's first layers compare shifts and are not.
    assert 1 < distance(network(0, Variant(blocks=9)), network(1, Variant(blocks=9))) < 1.5


def test_the_command(teco, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for n, file in enumerate(files):
        generator = Generator(TINY)
        initialise(generator, n)
        save_weights(file, generator)
    out = tmp_path / "out.safetensors"
    done = teco("blend", *files, "-o", out, "--shares", "1,3")
    assert done.code == 0, done.stderr
    assert done.stdout.decode().strip() == str(out)
    assert "length away from it" in done.stderr
    a, b, found = (load_weights(f).tensors for f in (*files, out))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (a[name] + 3 * b[name]) / 4, rtol=1e-5, atol=1e-7)
    teco("blend", *files, "-o", out).refuses(2, "exists")
    assert teco("blend", *files, "-o", out, "--force").code == 0
    teco("blend", *files, "-o", files[0], "--force").refuses(2, "would be made from")
    teco("blend", files[0], "-o", out, "--force").refuses(2, "1 network given")
    teco("blend", *files, "-o", out, "--force", "--shares", "a,b").refuses(2, "no list of numbers")
    teco("blend", *files, "-o", out, "--force", "--shares", "1,-1").refuses(2, "sum is not 0")
    teco("blend", *files, "-o", tmp_path / "x.onnx").refuses(2, "no name for weights")
    teco("blend", files[0], tmp_path / "none", "-o", out).refuses(2, "none")


def test_networks_of_different_families_are_told(teco, tmp_path: Path) -> None:
    """Two from nothing have no common start; the shipped forms of one network have."""
    for n in range(2):
        generator = Generator(Variant(blocks=3))
        initialise(generator, n)
        save_weights(tmp_path / f"{n}.safetensors", generator)
    out = tmp_path / "out.safetensors"
    done = teco("blend", tmp_path / "0.safetensors", tmp_path / "1.safetensors", "-o", out)
    assert "no common start" in done.stderr
    name = "teco-x4-b1-c64-bp-lk"
    done = teco("blend", name, f"{name}-gan", "-o", out, "--force")
    assert done.code == 0, done.stderr
    assert "no common start" not in done.stderr
