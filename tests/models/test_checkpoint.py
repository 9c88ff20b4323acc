"""Weights files: published and our own, whole and broken."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import restatement
import torch
from training_runs import of_scale

from teco_models.arch.generator import Generator
from teco_models.checkpoint import build, infer, load_weights, save_weights
from teco_models.errors import ModelError
from teco_models.variant import Variant


@pytest.mark.parametrize(("bd", "keys"), [(True, 78), (False, 76)])
def test_published_files_load(tmp_path: Path, bd: bool, keys: int) -> None:
    state = restatement.published_state(10, bd=bd)
    assert len(state) == keys
    torch.save(state, tmp_path / "published.pth")
    weights = load_weights(tmp_path / "published.pth")
    expected = Variant(blocks=10, flow_norm="raw", degradation="bd" if bd else "bi")
    assert weights.variant == expected
    assert all(torch.equal(weights.tensors[k], v) for k, v in state.items())


def test_wrapped_and_parallel_state_dicts_load(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in restatement.published_state(1, bd=True).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    assert load_weights(tmp_path / "w.pth").variant.blocks == 1


def test_egvsr_files_load_and_say_what_is_unused() -> None:
    state = restatement.published_state(10, bd=False)
    state["srnet.conv_out.weight"] = torch.rand(3, 4, 3, 3)
    weights = infer(state, source="egvsr")
    assert weights.variant.tail == "egvsr"
    assert not any(key.startswith("srnet.conv_up") for key in weights.tensors)
    assert any("srnet.conv_up.0.weight" in note for note in weights.notes)
    lr = torch.rand(1, 3, 8, 16)
    out = build(weights).step(lr, torch.zeros_like(lr), torch.zeros(1, 3, 32, 64))
    assert out.shape == (1, 3, 32, 64)


def test_weights_without_a_flow_net_are_recognised() -> None:
    generator = Generator(Variant(blocks=1, channels=24, flow_channels=0, tail="shuffle"))
    state = generator.state_dict()
    assert infer(state, source="test").variant == generator.variant
    # A flow variant that lost its flow net is damaged, not another variant.
    other = Generator(Variant(blocks=1, channels=24, tail="shuffle")).state_dict()
    damaged = {k: v for k, v in other.items() if not k.startswith("fnet.")}
    with pytest.raises(ModelError, match=r"fnet\.encoder1"):
        infer(damaged, source="test")


@pytest.mark.parametrize("half", [False, True])
def test_our_own_files_round_trip(tmp_path: Path, half: bool) -> None:
    generator = Generator(Variant(blocks=2, channels=32, flow_channels=16, tail="shuffle"))
    path = tmp_path / "w.safetensors"
    save_weights(path, generator, metadata={"iterations": "7"}, half=half)
    weights = load_weights(path)
    assert weights.variant == generator.variant
    assert weights.metadata is not None
    assert weights.metadata["iterations"] == "7"
    for key, value in generator.state_dict().items():
        expected = value.half().float() if half else value
        assert torch.equal(weights.tensors[key], expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]


@pytest.mark.parametrize("variant", [Variant(blocks=1, channels=16, flow_channels=8), Variant(
    blocks=4, channels=48, flow_channels=24, tail="egvsr"
)], ids=lambda v: v.name)  # fmt: skip
def test_the_variant_is_inferred_from_shapes(variant: Variant) -> None:
    assert infer(Generator(variant).state_dict(), source="x").variant == variant


def broken(change: str) -> dict[str, torch.Tensor]:
    state = restatement.published_state(2, bd=True)
    key = "srnet.resblocks.1.conv.2.weight"
    match change:
        case "missing":
            del state[key]
        case "extra":
            state["srnet.attention.weight"] = torch.zeros(3)
        case "shape":
            state[key] = state[key][:, :32]
        case "gap":
            state = {k.replace("resblocks.1", "resblocks.2"): v for k, v in state.items()}
        case "nan":
            state[key][0, 0, 0, 0] = float("nan")
        case "kernels":
            state["upsample_func.kernels"] = torch.rand(4, 4)
        case "foreign":
            state = {"layer1.weight": torch.rand(3, 3)}
        case _:
            raise AssertionError(change)
    return state


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "missing: srnet.resblocks.1.conv.2.weight"),
        ("extra", "not expected: srnet.attention.weight"),
        ("shape", r"resblocks.1.conv.2.weight is \[64, 32, 3, 3\], expected \[64, 64, 3, 3\]"),
        ("gap", "blocks"),
        ("nan", "NaN"),
        ("kernels", "kernels"),
        ("foreign", "layer1.weight"),
    ],
)
def test_wrong_tensors_are_named(change: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        infer(broken(change), source="file.pth")


@pytest.mark.parametrize("s", [2, 3, 8])
@pytest.mark.parametrize("variant", [
    Variant(blocks=1, channels=16, flow_channels=8),
    Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle"),
    Variant(blocks=1, channels=24, flow_channels=0, tail="shuffle"),
], ids=lambda v: v.name)  # fmt: skip
def test_another_scale_is_named(variant: Variant, s: int) -> None:
    words = rf"file\.pth is of scale x{s}, expected x4: its first convolution reads \d+ channels"
    with pytest.raises(ModelError, match=f"{words}, {3 * s * s} of them") as error:
        infer(of_scale(variant, s), source="file.pth")
    assert "trained for x4" in error.value.hint


def test_shapes_that_tell_no_scale_are_damage() -> None:
    small = Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle")
    state = Generator(small).state_dict()
    odd = {**state, "srnet.conv_in.0.weight": torch.rand(16, 20, 3, 3)}
    # 15 channels would be x2, but the pixel shuffle is that of x4.
    torn = {**state, "srnet.conv_in.0.weight": torch.rand(16, 15, 3, 3)}
    for tensors in (odd, torn):
        with pytest.raises(ModelError, match=r"does not fit .*, expected \[16, 51, 3, 3\]"):
            infer(tensors, source="file.pth")


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)


def test_a_pickle_that_would_run_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "exploded"
    monkeypatch.setenv("BOMB", str(target))
    plain, zipped = tmp_path / "plain.pth", tmp_path / "zip.pth"
    plain.write_bytes(pickle.dumps({"x": _Bomb()}))
    torch.save({"x": _Bomb()}, zipped)
    for path in (plain, zipped):
        with pytest.raises(ModelError, match="run code"):
            load_weights(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pth"):
        load_weights(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, Generator(Variant(blocks=1, channels=16, flow_channels=8)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(path)


def test_other_objects_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="named tensors"):
        load_weights(tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no weights file"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(ModelError, match="folder"):
        load_weights(tmp_path)
