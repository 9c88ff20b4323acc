"""The deploy form and the exported file compute what the generator computes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import teco.exporting.onnx
from teco.core.errors import TecoError
from teco.core.files import sha256_of
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.exporting.stored_weights import store_half
from teco.exporting.trace import trace
from teco.model.contract import StreamContract
from teco.model.manifest import METADATA_KEY, Manifest, Parity
from teco.model.opening import open_model
from teco.model.weights_digest import weights_digest
from teco.training.init import initialise
from teco.verification.parity import ParityError, measure_parity
from teco_models.arch.generator import Generator
from teco_models.checkpoint import Weights, infer, load_weights, save_weights
from teco_models.deploy.step import (
    TARGETS,
    DeployStep,
    EngineRewrites,
    Rewrites,
    deploy_step,
    interleave,
    output_phase,
    transposed_phase,
)
from teco_models.variant import Variant

VARIANTS = (
    Variant(blocks=1, channels=16, flow_channels=8),
    Variant(blocks=1, channels=16, flow_channels=8, degradation="bi"),
    Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle", flow_norm="raw"),
    Variant(blocks=1, channels=32, flow_channels=8, tail="egvsr"),
    Variant(blocks=1, channels=16, flow_channels=8, back_projection=True),
    Variant(
        blocks=1,
        channels=16,
        flow_channels=8,
        tail="shuffle",
        back_projection=True,
        lucas_kanade=True,
    ),
)
SMALL = VARIANTS[0]
FREE = (
    Variant(blocks=2, channels=16, flow_channels=0, tail="shuffle"),
    Variant(blocks=1, channels=16, flow_channels=0, tail="shuffle", degradation="bi"),
    Variant(blocks=1, channels=16, flow_channels=0, tail="transposed"),
    Variant(blocks=1, channels=32, flow_channels=0, tail="egvsr"),
)
"""Without a flow net."""


def generator_of(variant: Variant) -> Generator:
    generator = Generator(variant)
    initialise(generator, seed=1)
    with torch.no_grad():
        # The start's flow is nearly zero; the warp is to be tested with some.
        if generator.fnet is not None:
            # With back-projection less of it: on a chaotic past, rounding comes round and grows.
            gain = 2 if variant.back_projection else 20
            generator.fnet.flow[2].weight.mul_(gain)  # type: ignore[operator]
        if generator.srnet.back is not None:
            generator.srnet.back.mask.weight.normal_(std=0.1)  # it starts as zero
    return generator.eval()


def weights_of(variant: Variant) -> Weights:
    return infer(generator_of(variant).state_dict(), source="test")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("size", [(8, 8), (11, 21), (16, 24)])
def test_rewrites_are_exact(variant: Variant, size: tuple[int, int]) -> None:
    generator = generator_of(variant)
    plain = Rewrites(**dict.fromkeys((f.name for f in fields(Rewrites)), False))
    singles = [replace(Rewrites(), **{f.name: False}) for f in fields(Rewrites)]
    engine = TARGETS["tensorrt"]
    assert isinstance(engine, EngineRewrites)
    all_of_them = (Rewrites(), plain, *singles, engine, replace(engine, grid_by_axes=False))
    forms = [DeployStep(generator, r) for r in all_of_them]
    frames = torch.rand(5, 1, 3, *size)
    with torch.inference_mode():
        for form in forms:
            lr_prev, expected = generator.initial_state(frames[0])
            found = expected
            for lr in frames:
                expected = generator.step(lr, lr_prev, expected)
                found = form(lr, lr_prev, found)
                lr_prev = lr
                # What back-projection puts into the past comes round again.
                allowed = 4e-5 if variant.back_projection else 2e-6
                assert float((found - expected).abs().max()) < allowed


@pytest.mark.parametrize("variant", FREE, ids=lambda v: v.name)
def test_rewrites_are_exact_without_a_flow_net(variant: Variant) -> None:
    generator = generator_of(variant)
    plain = Rewrites(**dict.fromkeys((f.name for f in fields(Rewrites)), False))
    singles = [replace(Rewrites(), **{f.name: False}) for f in fields(Rewrites)]
    frames = torch.rand(5, 1, 3, 9, 13)
    with torch.inference_mode():
        for rewrites in (Rewrites(), plain, *singles):
            form = deploy_step(generator, rewrites)
            state = generator.initial_state(frames[0])
            lr_prev, latent = state[0], state[2]
            phases = torch.zeros(1, 48, 9, 13)
            for lr in frames:
                expected, state = generator.advance(lr, state)
                found, phases, latent = form(lr, lr_prev, phases, latent)
                lr_prev = lr
                assert float((found - expected).abs().max()) < 2e-6


def test_a_file_without_a_flow_net_says_how_it_is_driven(tmp_path: Path) -> None:
    """Export verifies it on a rollout; here the contract, through a second runtime's eyes."""
    variant = FREE[0]
    path = export_onnx(weights_of(variant), tmp_path, ExportOptions(size=(10, 14)))
    model = open_model(str(path))
    assert model.manifest is not None
    contract = model.manifest.contract
    assert contract == StreamContract.of(variant)
    graph = onnx.load(path).graph
    assert [x.name for x in graph.output] == list(contract.outputs) == ["hr", "phases", "latent"]
    assert [x.name for x in graph.input] == ["lr", *(s.input for s in contract.states)]
    assert not any(node.op_type == "GridSample" for node in graph.node)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_transposed_convolution_by_phases(h: int, w: int, cin: int, cout: int) -> None:
    torch.manual_seed(h * 100 + w)
    up = torch.nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1, bias=False)
    x = torch.rand(1, cin, h, w)
    with torch.inference_mode():
        expected = up(x)
        for py in range(2):
            for px in range(2):
                padded = torch.nn.functional.pad(x, (0, px, 0, py))
                part = torch.nn.functional.conv2d(padded, transposed_phase(up.weight, py, px))
                assert torch.allclose(part, expected[:, :, py::2, px::2], atol=1e-6)


def test_output_convolution_by_phases() -> None:
    conv = torch.nn.Conv2d(5, 3, 3, padding=1, bias=False)
    x = torch.rand(1, 5, 12, 14)
    total = torch.zeros(1, 12, 6, 7)
    with torch.inference_mode():
        for py in range(2):
            for px in range(2):
                part = torch.nn.functional.pad(x[:, :, py::2, px::2], (px, 1 - px, py, 1 - py))
                weight = output_phase(conv.weight, py, px)
                total += torch.nn.functional.conv2d(part, weight)
        found = interleave(list(total.chunk(4, dim=1)))
        assert torch.allclose(found, conv(x), atol=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    return export_onnx(weights_of(SMALL), folder, ExportOptions(frames=30))


def test_a_dynamic_file_and_its_manifest(exported: Path) -> None:
    model = open_model(str(exported))
    manifest = model.manifest
    assert manifest is not None
    assert model.variant == SMALL
    assert model.static_size is None
    assert manifest.sha256 == sha256_of(exported)
    assert manifest.weights_sha256 == weights_digest(weights_of(SMALL))
    assert manifest.precision_found.keys() == {"float32"}
    assert manifest.parity is not None
    assert manifest.parity.frames == 30
    assert manifest.parity.max_abs <= 1e-4
    assert manifest.parity.sizes == ("45x75", "64x96")
    assert sorted(p.name for p in exported.parent.iterdir()) == [
        f"{SMALL.name}.json",
        f"{SMALL.name}.onnx",
    ]


def test_what_is_inside_the_file(exported: Path) -> None:
    model = onnx.load(str(exported), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [x.version for x in model.opset_import if x.domain == ""] == [18]
    assert {n.domain for n in model.graph.node} == {""}
    raw = exported.read_bytes()
    for trace_of_origin in (b"site-packages", b".py", b"stack_trace", str(Path.home()).encode()):
        assert trace_of_origin not in raw
    (grid,) = [n for n in model.graph.node if n.op_type == "GridSample"]
    modes = {a.name: onnx.helper.get_attribute_value(a) for a in grid.attribute}
    assert modes["mode"] == b"bilinear"
    assert modes["padding_mode"] == b"border"
    inside = {p.key: p.value for p in model.metadata_props}
    assert Manifest.from_json(inside[METADATA_KEY], source="x").variant == SMALL.name
    ports = [i.name for i in model.graph.input] + [o.name for o in model.graph.output]
    assert ports == ["lr", "lr_prev", "hr_prev", "hr"]
    shapes = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in model.graph.input
    }
    assert shapes["lr"] == [1, 3, "h", "w"]
    assert shapes["hr_prev"] == [1, 3, "4*h", "4*w"]


def test_a_static_file(tmp_path: Path) -> None:
    path = export_onnx(weights_of(SMALL), tmp_path, ExportOptions(size=(19, 30)))
    assert path.name == f"{SMALL.name}-19x30.onnx"
    model = open_model(str(path))
    assert model.static_size == (19, 30)
    assert model.manifest is not None
    assert model.manifest.parity is not None
    assert model.manifest.parity.sizes == ("19x30",)


def test_the_target_decides_the_form(tmp_path: Path) -> None:
    options = ExportOptions(size=(16, 24), target="openvino")
    path = export_onnx(weights_of(SMALL), tmp_path, options)
    assert path.stem.endswith("-16x24-openvino")
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.rewrites["phase_tail"]
    assert not manifest.rewrites["phase_up"]
    kinds = {n.op_type for n in onnx.load(str(path)).graph.node}
    assert {"ConvTranspose", "DepthToSpace"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS[1:], ids=lambda v: v.name)
def test_every_kind_of_variant_exports(tmp_path: Path, variant: Variant) -> None:
    path = export_onnx(weights_of(variant), tmp_path, ExportOptions(frames=30))
    manifest = open_model(str(path)).manifest
    assert manifest is not None
    assert manifest.parity is not None
    assert manifest.parity.max_abs <= 1e-4


def test_the_file_alone_says_how_to_be_driven(exported: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(exported.read_bytes())
    model = open_model(str(alone))
    assert model.variant == SMALL
    assert model.manifest is not None
    assert model.manifest.contract.states[1].shape == ("1", "3", "4*h", "4*w")


@pytest.mark.slow
def test_half_weights_are_smaller_and_the_same(tmp_path: Path) -> None:
    generator = generator_of(SMALL).half().float()
    weights = infer(generator.state_dict(), source="x")
    full = export_onnx(weights, tmp_path, ExportOptions(name="full", size=(16, 24)))
    options = ExportOptions(name="half", half_weights=True, size=(16, 24))
    half = export_onnx(weights, tmp_path, options)
    assert half.stat().st_size < 0.65 * full.stat().st_size
    manifests = [open_model(str(p)).manifest for p in (full, half)]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0].weights_sha256 == manifests[1].weights_sha256
    assert manifests[0].precision_found == manifests[1].precision_found


def test_half_weights_leave_alone_what_would_change() -> None:
    model = trace(DeployStep(generator_of(SMALL)), StreamContract(), (16, 24))
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    store_half(model)  # these weights were never rounded to half precision
    after = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in before.items():
        stored = after.get(name, after.get(f"{name}.half"))
        assert stored is not None
        assert np.array_equal(stored.astype(value.dtype), value)


def test_parity_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy form that computes something else must not get a name."""
    original = DeployStep.forward

    def wrong(self: DeployStep, lr: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return original(self, lr, a, b) * 1.001

    monkeypatch.setattr(DeployStep, "forward", wrong)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_onnx(weights_of(SMALL), tmp_path, ExportOptions(size=(16, 24)))
    assert list(tmp_path.iterdir()) == []


def test_parity_sees_a_past_that_is_ignored(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification that never fed the state back would call a frame-by-frame network equal."""
    model = open_model(str(exported))
    weights = weights_of(SMALL)
    honest = measure_parity(model, weights, ((16, 24),), 10)
    assert model.manifest is not None
    contract = model.manifest.contract
    stuck = replace(
        contract, states=(contract.states[0], replace(contract.states[1], source="hr_zero"))
    )
    forgetful = replace(model, manifest=replace(model.manifest, contract=stuck))

    import teco.runtimes.onnxruntime as module

    step = module._CpuSession.step

    def forget(self: object, lr: object, state: dict[str, object] | None) -> object:
        if state is not None:
            hr = state["hr_prev"]
            assert isinstance(hr, np.ndarray)
            state = {**state, "hr_prev": np.zeros_like(hr)}
        return step(self, lr, state)  # type: ignore[arg-type]

    monkeypatch.setattr(module._CpuSession, "step", forget)
    dishonest = measure_parity(
        replace(forgetful, manifest=model.manifest), weights, ((16, 24),), 10
    )
    assert honest.max_abs < 1e-4 < dishonest.max_abs


def test_existing_files_and_folders(exported: Path, tmp_path: Path) -> None:
    weights = weights_of(SMALL)
    with pytest.raises(TecoError, match="exists already"):
        export_onnx(weights, exported.parent)
    with pytest.raises(TecoError, match="does not exist"):
        export_onnx(weights, tmp_path / "nowhere")
    with pytest.raises(TecoError, match="at least 10"):
        export_onnx(weights, tmp_path, ExportOptions(frames=9))


def test_manifest_round_trips(exported: Path) -> None:
    text = exported.with_suffix(".json").read_text()
    manifest = Manifest.from_json(text, source="x")
    assert manifest.to_json() == text
    bare = replace(manifest, parity=Parity(10, ("8x8",), 0.0, 0, None))
    assert Manifest.from_json(bare.to_json(), source="x") == bare


@pytest.mark.parametrize("field", ["variant", "contract", "parity", "sha256", "size", "schema"])
def test_manifest_without_a_field_is_refused(exported: Path, field: str) -> None:
    data = json.loads(exported.with_suffix(".json").read_text())
    if field == "sha256":
        data["surprise"] = data.pop(field)
    else:
        del data[field]
    with pytest.raises(TecoError, match=r"manifest"):
        Manifest.from_json(json.dumps(data), source="m.json")


def test_the_shipped_model_is_its_weights() -> None:
    """Every zoo entry: the ONNX file was made from the weights beside it, and matches its hash."""
    from teco_models import zoo

    assert zoo.entries()
    for entry in zoo.entries():
        manifest = open_model(entry.name).manifest
        assert manifest is not None
        assert manifest.weights_sha256 == weights_digest(load_weights(entry.weights))
        assert manifest.variant == load_weights(entry.weights).variant.name
        # A name says what it is: the variant, its GAN form, or what it is for.
        purpose = ("bd-cpu", "live", "real-cpu", "real-cpu-textured", "real-cpu-x2")
        assert entry.name in (manifest.variant, f"{manifest.variant}-gan", *purpose)
        assert manifest.weights_sha256[:16] in entry.card.read_text()


def test_export_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teco.exporting.onnx, "require_extra", _refuse)
    with pytest.raises(TecoError, match="onnxscript"):
        export_onnx(weights_of(SMALL), tmp_path)


def _refuse(module: str, extra: str, purpose: str) -> None:
    if module == "onnxscript":
        raise TecoError(f"{purpose} needs {module}", hint=extra, exit_code=3)


@pytest.mark.slow
def test_weights_are_shared_with_the_file_beside(tmp_path: Path) -> None:
    from teco.runtimes import SessionOptions, find

    generator = generator_of(SMALL).half().float()
    save_weights(tmp_path / "m.safetensors", generator, half=True)
    weights = load_weights(tmp_path / "m.safetensors")
    alone = export_onnx(weights, tmp_path, ExportOptions(name="alone", half_weights=True))
    options = ExportOptions(name="m", half_weights=True, shared_with=tmp_path / "m.safetensors")
    shared = export_onnx(weights, tmp_path, options)
    saved = alone.stat().st_size - shared.stat().st_size
    assert saved > 0.5 * (tmp_path / "m.safetensors").stat().st_size
    frame = np.random.default_rng(0).random((1, 3, 16, 24), dtype=np.float32)
    pictures = []
    for path in (alone, shared):
        session = find("onnxruntime").open(open_model(str(path)), SessionOptions(threads=1))
        _, state = session.step(frame, None)
        pictures.append(session.step(frame, state)[0].copy())
        session.close()
    assert np.array_equal(*pictures)
    # Neither a changed file nor a missing one is taken in silence.
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(bytes(data))
    with pytest.raises(TecoError, match="sha256 differs"):
        open_model(str(shared))
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(TecoError, match="not beside it"):
        open_model(str(shared))
