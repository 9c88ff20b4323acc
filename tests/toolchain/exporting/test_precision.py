"""fp16: the deploy form, the types in the file, the gate's word, the command that makes it all."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import teco.exporting.acceptance
import teco.exporting.trace
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.exporting.formats import Product, produce
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco.exporting.request import ExportRequest, parse_formats, parse_sizes, parse_sm, shipped_with
from teco.model.contract import StreamContract
from teco.model.engine import api
from teco.model.engine.precision_check import check_precision, of_onnx
from teco.model.engine.preflight import read
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import open_model
from teco.runtimes.base import moving_frames
from teco_calibration.temporal_gate.verdict import FP16
from teco_models import zoo
from teco_models.variant import Variant

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

needs_rtx = pytest.mark.skipif(
    not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
)

TINY = {"blocks": 1, "channels": 16}
KINDS = (
    Variant(**TINY, flow_channels=8),
    Variant(**TINY, flow_channels=8, degradation="bi", tail="shuffle", flow_norm="raw"),
    Variant(blocks=1, channels=32, flow_channels=8, tail="egvsr"),
    Variant(**TINY, flow_channels=8, back_projection=True),
    Variant(**TINY, flow_channels=8, tail="shuffle", back_projection=True, lucas_kanade=True),
    Variant(**TINY, flow_channels=0, tail="shuffle"),
    Variant(**TINY, flow_channels=0, tail="transposed"),
)
SIZE = (16, 24)


def generator_of(variant: Variant):
    """Random weights whose flow and mask do something."""
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator

    generator = Generator(variant)
    initialise(generator, seed=1)
    with torch.no_grad():
        if generator.fnet is not None:
            generator.fnet.flow[2].weight.mul_(20)
        if generator.srnet.back is not None:
            generator.srnet.back.mask.weight.normal_(std=0.1)
    return generator.eval()


def rollout(step, variant: Variant, h: int, w: int, count: int) -> list[np.ndarray]:
    """Pictures of a deployed step over drifting frames."""
    channels = variant.channels
    frames = [torch.from_numpy(f) for f in moving_frames(h, w, count)]
    rest = (
        (torch.zeros(1, 3, 4 * h, 4 * w),)
        if variant.has_flow
        else (torch.zeros(1, 48, h, w), torch.zeros(1, channels, h, w))
    )
    previous, pictures = torch.zeros(1, 3, h, w), []
    with torch.inference_mode():
        for lr in frames:
            found = step(lr, previous, *rest)
            rest = (found,) if variant.has_flow else found[1:]
            previous = lr
            assert all(x.dtype == torch.float32 for x in rest), "a state that is not float32"
            pictures.append((found if variant.has_flow else found[0]).numpy())
    return pictures


# --- the deploy form -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", KINDS, ids=lambda v: v.name)
def test_half_is_close_to_float(variant):
    """In PyTorch, where every tensor really is rounded to float16, unlike in ONNX Runtime."""
    from teco_models.deploy.step import Rewrites, deploy_step

    generator = generator_of(variant)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    for rewrites in (Rewrites(), Rewrites(phase_warp=False, split_input=False, phase_tail=False)):
        half = rollout(deploy_step(generator, rewrites, "fp16"), variant, 11, 21, 4)
        full = rollout(deploy_step(generator, rewrites), variant, 11, 21, 4)
        errors = [float(np.mean((a - b) ** 2)) for a, b in zip(half, full, strict=True)]
        assert max(errors) > 0, "the same as float32"
        assert -10 * np.log10(max(errors)) > FP16.worst_psnr
    after = generator.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items()), "the caller's weights changed"


def test_only_convolutions_are_half():
    from teco_models.deploy.step import deploy_step

    step = deploy_step(generator_of(KINDS[4]), precision="fp16")
    for name, module in step.named_modules():
        values = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for key, value in values:
            convolution = isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
            wanted = torch.float16 if convolution else torch.float32
            assert value.dtype == wanted, f"{name}.{key}"


# --- the file --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tiny_weights):
    from teco_models.checkpoint import load_weights

    return load_weights(tiny_weights)


@pytest.fixture(scope="module")
def half(tmp_path_factory, weights) -> Path:
    """Larger than the gate's size, so that its verdict is on the same form at that size."""
    folder = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teco.exporting.acceptance, "GATE_SIZE", (9, 10))
        path = export_onnx(weights, folder, ExportOptions(size=SIZE, precision="fp16"))
    assert sorted(x.suffix for x in folder.iterdir()) == [".json", ".onnx"]
    return path


@pytest.fixture(scope="module")
def full(weights):
    """The same step in float32, as an ONNX model."""
    from teco_models.checkpoint import build
    from teco_models.deploy.step import deploy_step

    contract = StreamContract.of(weights.variant)
    return teco.exporting.trace.trace(deploy_step(build(weights)), contract, SIZE)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, None, 3, 3), None, (4, 1, 3, 3)])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_kernel_that_is_an_input_counts_unless_it_is_known_to_see_one_channel(shape, kind):
    if shape and kind == "ConvTranspose":
        shape = (shape[1], shape[0], *shape[2:])
    info = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    node = onnx.helper.make_node(kind, ["x", "kernel"], ["y"])
    ends = [info("x", shape=None), info("kernel", shape=shape)], [info("y", shape=None)]
    graph = onnx.helper.make_graph([node], "one", *ends)
    opset = [onnx.helper.make_opsetid("", 18)]
    proof = of_onnx(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9))
    assert proof.convolutions == ({} if shape and 1 in shape else {"fp32": 1})


def test_types_in_the_file(half):
    assert half.name == "teco-x4-b1-c16-f8-shuffle-16x24-fp16.onnx"
    model = onnx.load(str(half))
    onnx.checker.check_model(model, full_check=True)
    proof = of_onnx(model)
    assert proof.grids == proof.warps == {"fp32": 1}
    # The upsampling of flow and frame are convolutions too, and stay.
    assert proof.convolutions["fp32"] == 2
    assert proof.convolutions["fp16"] > 15
    assert set(proof.ports.values()) == {"fp32"}
    assert proof.layers["fp16"] > proof.layers["fp32"] > 0
    manifest = open_model(str(half)).manifest
    assert manifest.precision_asked == "fp16"
    assert set(manifest.precision_found) == {"float16", "float32"}


def test_the_gates_verdict_is_in_the_manifest(half):
    manifest = open_model(str(half)).manifest
    gate = manifest.gate
    assert gate.accepted
    assert gate.bounds == FP16
    assert gate.numbers.frames == 30
    assert manifest.gate_size == "9x10"
    assert manifest.parity.sizes == ("16x24",)
    assert gate.numbers.within_one >= 0.999
    data = json.loads(manifest_path(half).read_text())
    assert data["gate"]["accepted"] is True
    assert Manifest.from_json(manifest.to_json(), source="x") == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"precision_asked": "fp32"},
        {"precision_asked": "int8"},
        {"precision_found": {"float32": 60}},
    ],
)
def test_a_label_that_the_types_do_not_bear_out(half, tmp_path, change):
    for source in (half, manifest_path(half)):
        shutil.copy(source, tmp_path)
    beside = tmp_path / manifest_path(half).name
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    with pytest.raises(TecoError, match=r"precision_asked is .* float16"):
        open_model(str(tmp_path / half.name))


def test_a_verdict_that_does_not_follow_from_its_numbers(half):
    data = json.loads(manifest_path(half).read_text())
    data["gate"]["numbers"]["within_one"] = 0.9
    with pytest.raises(TecoError, match="verdict"):
        Manifest.from_json(json.dumps(data), source="x")
    data["gate"]["accepted"] = False
    data["gate"]["reasons"] = ["90% of values are within one step of 255 of the reference, "
                               "required 99.9%"]  # fmt: skip
    with pytest.raises(TecoError, match="the gate did not accept it: 90%"):
        Manifest.from_json(json.dumps(data), source="x")


def test_labels_are_checked_against_the_graph(half, full):
    with pytest.raises(TecoError, match=r"labelled fp32 and .* are fp16"):
        check_precision(of_onnx(onnx.load(str(half))), "fp32")
    with pytest.raises(TecoError, match="labelled fp16 and its convolutions are fp32"):
        check_precision(of_onnx(full), "fp16")
    coarse = replace(of_onnx(onnx.load(str(half))), grids={"fp16": 1})
    with pytest.raises(TecoError, match="fp16 cannot place a pixel"):
        check_precision(coarse, "fp16")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("label", "labelled fp16 and its convolutions are fp32"),
        ("gate", r"not close enough to float32: .* required 200 dB"),
        ("weights", r"dB against PyTorch's float32 .* required 50 dB"),
    ],
)
def test_what_is_refused_leaves_nothing(
    weights, half, full, tmp_path, untouched, monkeypatch, spoil, words
):
    """A float32 graph, a gate that nothing passes, a graph of other weights."""

    def trace(*_):
        graph = full if spoil == "label" else onnx.load(str(half))
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        del copy.metadata_props[:]
        return copy

    monkeypatch.setattr(teco.exporting.trace, "trace", trace)
    monkeypatch.setattr(teco.exporting.acceptance, "GATE_SIZE", SIZE)
    if spoil == "gate":
        monkeypatch.setattr(teco.exporting.acceptance, "check_parity", lambda *_: None)
        monkeypatch.setattr(teco.exporting.acceptance, "FP16", replace(FP16, worst_psnr=200.0))
    if spoil == "weights":
        bias = weights.tensors["srnet.conv_shuffle.bias"] + 0.05
        weights = replace(weights, tensors={**weights.tensors, "srnet.conv_shuffle.bias": bias})
    with untouched(tmp_path), pytest.raises(TecoError, match=words):
        export_onnx(weights, tmp_path, ExportOptions(size=SIZE, precision="fp16"))


# --- the command -----------------------------------------------------------------------------


@needs_rtx
@pytest.mark.slow
def test_the_command_twice(teco, tiny_weights, tmp_path):
    """ONNX and engine in one go, with the same bytes, and `teco info` of the engine."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        done = teco(
            "export", "--weights", tiny_weights, "--fp16", "--formats", "rtx,onnx", "--sm",
            "75,86,89,120", "--size", "16x24", "-o", folder,
        )  # fmt: skip
        done.says(
            "convolutions), GridSample fp32",
            "gate fp16 at 16x24, the reference again PyTorch's float32: 30",
        )
    base = "teco-x4-b1-c16-f8-shuffle-16x24-fp16"
    names = [f"{base}-rtx.json", f"{base}-rtx.plan", f"{base}-tensorrt.json"]
    names.append(f"{base}-tensorrt.onnx")
    assert done.stdout.decode().split() == [str(folders[1] / names[n]) for n in (3, 1)]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert sorted(x.name for x in folders[0].iterdir()) == names
    engine = read(folders[0] / names[1])
    assert engine.compute_capabilities == (75, 86, 89, 120)
    assert engine.onnx_sha256 == sha256_of(folders[0] / names[3])
    assert engine.proof.grids == {"fp32": 1}
    assert engine.proof.convolutions["fp16"] > 15
    assert engine.model.gate.accepted
    assert engine.model.rewrites["stack_pixels"] is False
    told = teco("info", folders[0] / names[1])
    told.says()
    assert b"SM 75, SM 86, SM 89, SM 120" in told.stdout
    assert json.loads(teco("info", folders[0] / names[1], "--json").stdout)["target"] == "rtx"


def test_several_precisions_and_what_is_refused(teco, tiny_weights, half, tmp_path, monkeypatch):
    """A file each; one that is refused is in the table, and the others are made."""
    from teco.verification.parity import ParityError

    asked: list[str] = []
    made = Product(
        "onnx", half, half.stat().st_size, open_model(str(half)).manifest,
        of_onnx(onnx.load(str(half))),
    )  # fmt: skip

    def produce(_weights, _folder, request, **_):
        asked.append(request.onnx.precision)
        if request.onnx.precision == "int8":
            raise ParityError("int8 is too far", hint="take --fp16")
        return [made]

    monkeypatch.setattr("teco.exporting.formats.produce", produce)
    flags = ("--int8", "--fp16", "--fp32")
    done = teco("export", "--weights", tiny_weights, "--size", "9x10", *flags, "-o", tmp_path)
    assert asked == ["fp32", "fp16", "int8"]
    assert done.stdout.decode().split() == [str(half)] * 2
    done.refuses(
        1,
        "1 of 3 were refused: tiny int8",
        "take --fp16",
        after=("refused", "file", half.name, "tiny"),
    )
    table = done.stderr[done.stderr.index("file ") :]
    assert table.count(half.name) == 2
    assert "accepted" in table
    asked.clear()
    assert teco("export", "--weights", tiny_weights, "-o", tmp_path).code == 0
    assert asked == ["fp32"]
    # Alone, what is refused is the whole answer.
    teco("export", "--weights", tiny_weights, "--int8", "-o", tmp_path).refuses(
        1, "int8 is too far"
    )


@needs_rtx
def test_an_engine_alone_leaves_no_onnx_file(weights, tmp_path):
    request = ExportRequest(formats=("rtx",), sm=(89,), onnx=ExportOptions(size=SIZE))
    (product,) = produce(weights, tmp_path, request)
    assert product.path.name == "teco-x4-b1-c16-f8-shuffle-16x24-fp32-rtx.plan"
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".json", ".plan"]
    assert product.manifest.precision_asked == "fp32"
    assert product.model.gate is None


@needs_rtx
def test_a_gpu_that_cannot_be_built_for_is_said_before_the_work(teco, tiny_weights, tmp_path):
    done = teco(
        "export", "--weights", tiny_weights, "--formats", "onnx,rtx", "--sm", "90", "-o", tmp_path
    )
    done.refuses(USAGE, "SM 90", "tensorrt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formats", "onnx,trt"], ["'trt' is no format", "onnx, rtx, tensorrt"]),
        (["--formats", ","], ["names no format"]),
        (["--sm", "89"], ["--sm chooses GPUs", "--formats onnx,rtx"]),
        (["--formats", "rtx", "--sm", "ada"], ["'ada' is no list of compute capabilities"]),
        (["--fp16", "--half-weights"], ["leave --half-weights out"]),
        (["--blocks", "0"], ["no number of blocks"]),
        (["--blocks", "some"], ["no number of blocks"]),
    ],
)
def test_wrong_usage(teco, tiny_weights, tmp_path, arguments, words):
    source = [] if "--blocks" in arguments else ["--weights", tiny_weights]
    teco("export", *source, "-o", tmp_path, *arguments).refuses(USAGE, *words)
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_without_a_gpu_is_said_before_the_work(teco, tiny_weights, tmp_path, monkeypatch):
    from teco.core import gpu

    monkeypatch.setattr(gpu, "find", lambda: ())
    done = teco("export", "--weights", tiny_weights, "--formats", "onnx,tensorrt", "-o", tmp_path)
    done.refuses(MACHINE, "--formats rtx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_shipped_models_and_a_table(teco, tiny_weights, tmp_path, monkeypatch):
    """Two of one variant under their own names, in one table."""
    places = tmp_path / "zoo"
    for name in ("first", "second-gan"):
        (places / name).mkdir(parents=True)
        (places / name / f"{name}.onnx").touch()
        shutil.copy(tiny_weights, places / name / f"{name}.safetensors")
    monkeypatch.setattr(zoo, "HERE", places)
    out = tmp_path / "out"
    out.mkdir()
    done = teco("export", "--blocks", "all", "--fp16", "--size", "8x8", "-o", out, "--json")
    done.says("file", "proof", "accepted, ")
    records = json.loads(done.stdout)
    names = ["first-8x8-fp16.onnx", "second-gan-8x8-fp16.onnx"]
    assert [Path(r["path"]).name for r in records] == names
    for record in records:
        assert record["bytes"] == Path(record["path"]).stat().st_size
        assert record["proof"].startswith("fp16 in ")
        assert record["manifest"]["gate"]["accepted"]
    for name in names:
        assert any(line.startswith(name) for line in done.stderr.splitlines())


def test_the_shipped_model_of_so_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "HERE", tmp_path)
    for name in (
        "live", "teco-x4-b3-c64-gan", "teco-x4-b3-c64-bp-lk-gan", "teco-x4-b3-c64-bp-lk",
        "teco-x4-b5-c64-gan", "teco-x4-b7-c32", "teco-x4-b1-c64-f0-shuffle",
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.onnx").touch()
    found = {n: e.name if (e := shipped_with(n)) else None for n in (1, 3, 5, 7)}
    assert found == {1: None, 3: "teco-x4-b3-c64-bp-lk", 5: "teco-x4-b5-c64-gan", 7: None}


def test_sizes_of_engines():
    text = "8x8, 576x720,1080x1920"
    sizes = ((8, 8), (576, 720), (1080, 1920))
    assert parse_sizes(text, ("onnx", "rtx"), None) == sizes
    assert parse_sizes(None, ("onnx",), None) is None
    for wrong, formats, size, words in (
        ("8x8,16x16", ("rtx",), None, "not three LR sizes"),
        ("8x8,16x16,big", ("rtx",), None, "not three LR sizes"),
        ("8x8,16x16,12x99", ("rtx",), None, "no smaller than the one before"),
        ("4x8,16x16,32x32", ("rtx",), None, "no frame may be below 8x8"),
        (text, ("onnx",), None, "--formats is onnx"),
        (text, ("rtx",), (16, 24), "--size is 16x24"),
    ):
        with pytest.raises(TecoError, match=words) as error:
            parse_sizes(wrong, formats, size)
        assert error.value.exit_code == 2


def test_lists():
    assert parse_formats("rtx, onnx,rtx") == ("onnx", "rtx")
    assert parse_sm("75,8.9,SM120", ("rtx",)) == (75, 89, 120)
    for wrong in ("", "8x9", "123456"):
        with pytest.raises(TecoError):
            parse_sm(wrong, ("rtx",))
