"""`teco verify`: what is right passes, and every lie is found by the check that is there for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_files import HOST, make, make_tensorrt, mutate

import teco.verification.engine_file
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.model.engine import api
from teco.model.manifest import METADATA_KEY, manifest_path
from teco.model.opening import Model, open_model
from teco.runtimes import SessionOptions, find
from teco.verification.report import Report, VerifyOptions
from teco.verification.temporal_gate import bounds_of
from teco.verification.verify import verify

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")


def copy(source: Path, folder: Path) -> Path:
    """An ONNX file and its manifest."""
    shutil.copy(manifest_path(source), folder)
    return Path(shutil.copy(source, folder))


def lie(path: Path, *, inside: bool, beside: bool = True, **changes: object) -> None:
    """Change the manifests of a file, and the sha256 with it, so that the lie is consistent."""
    if inside:
        model = onnx.load(str(path))
        for entry in model.metadata_props:
            if entry.key == METADATA_KEY:
                entry.value = json.dumps(json.loads(entry.value) | changes)
        path.write_bytes(model.SerializeToString())
    record = json.loads(manifest_path(path).read_text())
    record |= {"sha256": sha256_of(path), **(changes if beside else {})}
    manifest_path(path).write_text(json.dumps(record))


def flip(path: Path, bit: int) -> None:
    """Flip a bit of the float (counted from its end) in the middle of the largest convolution."""
    model = onnx.load(str(path))
    kernels = [t for t in model.graph.initializer if len(t.dims) == 4 and t.raw_data]
    tensor = max(kernels, key=lambda t: len(t.raw_data))
    kind = np.uint32 if tensor.data_type == onnx.TensorProto.FLOAT else np.uint16
    values = np.frombuffer(tensor.raw_data, kind).copy()
    # The value that is nearest to a half: not one that is nothing by chance.
    floats = np.abs(values.view(np.float32 if kind is np.uint32 else np.float16))
    values[int(np.argmax(floats))] ^= kind(1 << bit)
    tensor.raw_data = values.tobytes()
    path.write_bytes(model.SerializeToString())
    record = json.loads(manifest_path(path).read_text()) | {"sha256": sha256_of(path)}
    manifest_path(path).write_text(json.dumps(record))


def answers(report: Report) -> dict[str, str]:
    return {f.check: f.answer for f in report.findings}


def refused(report: Report) -> dict[str, str]:
    """Check -> sentence of what does not hold."""
    return {f.check: f.text for f in report.findings if f.answer == "no"}


@pytest.fixture(scope="module")
def options(tiny_weights) -> VerifyOptions:
    return VerifyOptions(weights=tiny_weights, threads=1)


@pytest.fixture
def file(tmp_path, tiny_onnx) -> Path:
    return copy(tiny_onnx, tmp_path)


# --- ONNX files ------------------------------------------------------------------------------


def test_what_is_right(file, options):
    seen: list[tuple[int, int | None]] = []
    report = verify(str(file), options, lambda *x: seen.append(x))
    found = answers(report)
    assert set(found.values()) == {"yes"}
    for check in ("file", "manifest", "ports", "precision", "weights", "values"):
        assert check in found
    assert {c for c in found if c.startswith("gate ")} >= {"gate max_steps", "gate worst_psnr"}
    assert report.exit_code == 0
    assert report.verdict == "tiny.onnx is what it says"
    assert report.parity is not None
    assert 0 < report.parity.max_abs < 1e-4
    assert report.gate is not None
    assert report.gate.numbers.frames == 30
    assert seen[-1] == (30, 30)


BESIDE = {
    "label": ({"precision_asked": "int8"}, "file", "none of the file's tensors are int8"),
    "label fp16": ({"precision_asked": "fp16"}, "file", "none of the file's tensors are float16"),
    "sha": ({"sha256": "a" * 64}, "file", "its sha256 is"),
    "size": ({"size": "16x24"}, "manifest", "size is '16x24' in tiny.json and 'dynamic' inside"),
    "weights": ({"weights_sha256": "b" * 64}, "manifest", "weights_sha256 is 'bbbb"),
    "variant": ({"variant": "teco-x4-b2-c16-f8-shuffle"}, "manifest", "variant is"),
    "counts": ({"precision_found": {"float32": 1}}, "manifest", "precision_found is"),
    "rewrites": ({"rewrites": {}}, "manifest", "rewrites is {}"),
}


@pytest.mark.parametrize("mutation", BESIDE)
def test_a_manifest_beside_that_lies(file, options, mutation):
    changes, check, words = BESIDE[mutation]
    mutate(file, **changes)
    report = verify(str(file), options)
    assert report.exit_code == 1
    assert words in refused(report)[check]
    assert report.gate is None, "it was run all the same"
    assert "is not what it says" in report.verdict


BOTH = {
    "label": (
        {"precision_asked": "int8", "precision_found": {"float32": 1, "int8": 1}},
        "precision",
        "labelled int8 and its convolutions",
    ),
    "size": ({"size": "16x24"}, "ports", "takes dynamic frames, its manifest 16x24"),
    "weights": ({"weights_sha256": "b" * 64}, "weights", "was made from bbbbbbbbbbbb..."),
    "variant": ({"variant": "teco-x4-b2-c16-f8-shuffle"}, "weights", "the file says teco-x4-b2"),
    "no flow": ({"variant": "teco-x4-b1-c16-f0-shuffle"}, "ports", "its state is not that of"),
    "counts": ({"precision_found": {"float32": 1}}, "precision", "its manifest says {'float32'"),
}


@pytest.mark.parametrize("mutation", BOTH)
def test_manifests_that_agree_on_a_lie(file, options, mutation):
    changes, check, words = BOTH[mutation]
    lie(file, inside=True, **changes)
    report = verify(str(file), options)
    assert report.exit_code == 1
    assert answers(report)["manifest"] == "yes"
    assert words in refused(report)[check]
    assert report.gate is None


def test_a_sign_in_the_weights_with_the_sha_corrected(file, options):
    """Too little for the gate's 8-bit steps perhaps; not for the values."""
    flip(file, 31)
    report = verify(str(file), options)
    assert {f.check: f.answer for f in report.findings[:5]} == dict.fromkeys(
        ("file", "manifest", "ports", "precision", "weights"), "yes"
    )
    assert "largest difference from pytorch" in refused(report)["values"]
    assert report.exit_code == 1


def test_an_exponent_in_the_weights_is_found_by_the_gate(file, options):
    flip(file, 29)
    report = verify(str(file), options)
    assert {"values", "gate max_steps", "gate worst_psnr"} <= set(refused(report))


@pytest.mark.slow
def test_an_exponent_in_half_precision(tmp_path, tiny_weights, options):
    """Values are not compared one by one there: the gate alone must find it."""
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    choice = ExportOptions(name="half", precision="fp16", size=(16, 24))
    path = export_onnx(load_weights(tiny_weights), tmp_path, choice)
    report = verify(str(path), options)
    assert set(answers(report).values()) == {"yes"}
    assert report.parity is None
    assert report.gate is not None
    assert report.gate.bounds.name == "fp16"
    flip(path, 14)
    # A worst frame, or no pictures at all.
    assert {"gate worst_psnr", "gate pictures"} & set(refused(verify(str(path), options)))


def test_without_a_manifest_beside(file, options):
    manifest_path(file).unlink()
    report = verify(str(file), options)
    assert answers(report)["file"] == "not run"
    assert report.exit_code == 0
    assert "not run here: file" in report.verdict
    assert not report.as_dict()["complete"]


def test_weights_that_are_nowhere(file, tiny_weights, tmp_path):
    report = verify(str(file), VerifyOptions())
    assert report.exit_code == USAGE
    assert "give --weights FILE" in report.wanting
    assert answers(report)["gate"] == "not run"
    report = verify(str(file), VerifyOptions(model="live"))
    live = open_model("live").manifest
    assert live is not None
    assert f"the shipped live has sha256 {live.weights_sha256[:12]}" in refused(report)["weights"]


def test_what_a_file_is_judged_by():
    """As at its export: int8 without a truth on the reference, float16 ports by fp16's bounds."""

    def judged(precision: str, io: str = "fp32", **facts: bool) -> str:
        return bounds_of(precision, io, **{"on_truth": False, **facts})[0].name

    assert judged("int8") == "int8-reference"
    assert judged("int8", on_truth=True).startswith("int8")
    assert judged("fp32", exact=False) == "int8-reference"
    found = [judged("fp32"), judged("fp32", "fp16"), judged("fp16", "uint8")]
    assert found == ["fp32", "fp16", "fp16"]


def test_on_a_clip(file, options, make_clip, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", width=96, height=80, frames=6)
    from dataclasses import replace

    report = verify(str(file), replace(options, clip=str(clip), frames=31))
    assert report.exit_code == 0
    assert report.gate is not None
    assert report.gate.numbers.on_truth
    assert report.gate.numbers.frames == 31


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.onnx",), "nowhere.onnx does not exist"),
        (("clip.mp4",), "nothing that can be verified"),
        (("live", "--weights", "a.pth", "--model", "live"), "both say what the file was made from"),
        (("live", "--model", "nothing"), "no shipped model is called nothing"),
        (("live", "--runtime", "nothing"), "no runtime is called 'nothing'"),
        (("live", "--runtime", "pytorch"), "pytorch runs weights"),
        (("live", "--weights", "nowhere.pth"), "no weights file at nowhere.pth"),
    ],
)
def test_questions_that_are_wrong(teco, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    teco("verify", *arguments).refuses(2, words)


def test_a_runtime_that_rounds_by_itself(teco):
    pytest.importorskip("openvino")
    if find("openvino-bf16").why_unavailable():
        pytest.skip("no bfloat16 here")
    teco("verify", "live", "--runtime", "openvino-bf16").refuses(2, "in a lower precision than")


def test_too_few_frames(teco, file, tiny_weights):
    done = teco("verify", file, "--weights", tiny_weights, "--frames", 5)
    done.refuses(2, "the fp32 bounds are for 30 recurrent frames")


def test_the_command(teco, file, tiny_weights):
    done = teco("verify", file, "--weights", tiny_weights)
    assert done.code == 0
    text = done.stdout.decode()
    assert text.splitlines()[0] == f"{file}: teco-x4-b1-c16-f8-shuffle, fp32, dynamic"
    assert text.splitlines()[-1] == "tiny.onnx is what it says"
    flip(file, 29)
    done = teco("verify", file, "--weights", tiny_weights, "--json")
    assert done.code == 1
    facts = json.loads(done.stdout)
    assert not facts["holds"]
    assert not facts["gate"]["accepted"]
    assert {"check": "ports", "answer": "yes"}.items() <= facts["checks"][2].items()


@pytest.mark.parametrize("content", [b"", b"\x08\x07 no protobuf", b"PK\x03\x04"])
def test_files_that_are_no_onnx(teco, tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    done = teco("verify", path)
    assert done.code == 1
    assert "cannot be loaded as ONNX" in done.stdout.decode()
    assert "Traceback" not in done.stderr


def test_without_torch_the_shipped_file_is_the_reference(tmp_path, monkeypatch):
    """And a shipped file cannot be compared with itself."""
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a)
    )
    report = verify("live", VerifyOptions(threads=1))
    assert answers(report)["gate"] == "not run"
    assert report.exit_code == 0
    shipped = open_model("live")
    assert shipped.onnx is not None
    assert shipped.weights is not None
    path = copy(shipped.onnx, tmp_path)
    shutil.copy(shipped.weights, tmp_path)
    report = verify(str(path), VerifyOptions(threads=1))
    assert set(answers(report).values()) == {"yes"}
    assert "from onnxruntime 0.0e+00" in str([f.text for f in report.findings])


# --- engines ---------------------------------------------------------------------------------


def test_an_engine_on_a_machine_without_its_gpu(teco, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "teco.model.engine.preflight.look", lambda *_: HOST.__class__((), "Linux", "x86_64", {})
    )
    path = make(tmp_path)
    done = teco("verify", path)
    assert done.code == 0
    text = done.stdout.decode()
    assert "TensorRT-RTX 1.7.1.116 for SM 75, 89 as it says" in text
    assert "not run here: source, machine, gate" in text
    done = teco("verify", path, "--runtime", "tensorrt-rtx")
    assert done.code == 3
    done = teco("verify", path, "--runtime", "onnxruntime")
    done.refuses(2, "does not run", "--runtime tensorrt-rtx")


ENGINE = {
    "label": {"precision_asked": "fp32"},
    "sha": {"sha256": "a" * 64},
    "size": {"size": "32x48"},
    "sm": {"compute_capabilities": [75, 86]},
    "release": {"runtime_version": "1.6.1.120"},
}


@pytest.mark.parametrize("mutation", ENGINE)
def test_an_engine_whose_manifest_lies(tmp_path, mutation):
    path = make(tmp_path)
    mutate(path, **ENGINE[mutation])
    report = verify(str(path), VerifyOptions())
    assert list(answers(report).values()) == ["no"]
    assert report.exit_code == 1


def test_engine_and_onnx_part_that_disagree(tmp_path):
    path = make(tmp_path)
    record = json.loads(manifest_path(path).read_text())
    mutate(path, model=record["model"] | {"precision_asked": "fp32"})
    report = verify(str(path), VerifyOptions())
    assert refused(report) == {"manifest": "labelled fp16, its ONNX file fp32"}
    mutate(path, model=record["model"], onnx_sha256="3" * 64)
    assert "two different sha256" in refused(verify(str(path), VerifyOptions()))["manifest"]


def test_a_tensorrt_plan_says_nothing_in_its_header(tmp_path):
    report = verify(str(make_tensorrt(tmp_path)), VerifyOptions())
    assert answers(report)["header"] == "not run"


class FakeRuntime:
    """Runs the ONNX file in an engine's place."""

    name = "tensorrt-rtx"
    exact = True
    suffixes = (".plan",)

    def __init__(self, onnx: Path) -> None:
        self.onnx = onnx

    def why_unavailable(self) -> str | None:
        return None

    def why_not(self, model: Model) -> str | None:
        return None

    def open(self, model: object, options: SessionOptions):
        return find("onnxruntime").open(open_model(str(self.onnx)), options)


@pytest.fixture
def engine(tmp_path, tiny_weights) -> Path:
    """A real engine of a static file that lies beside it."""
    if not api.is_installed("rtx"):
        pytest.skip("tensorrt_rtx is not installed: pip install 'teco[rtx]'")
    from teco.exporting.engines.rtx import RtxOptions, build_rtx
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    choice = ExportOptions(name="step", size=(16, 24), target="tensorrt")
    path = export_onnx(load_weights(tiny_weights), tmp_path, choice)
    return build_rtx(open_model(str(path)), tmp_path, RtxOptions(sm=(89,)))


def test_a_real_engine(engine, options, monkeypatch):
    report = verify(str(engine), options)
    found = answers(report)
    assert [found[x] for x in ("file", "header", "manifest", "precision", "source")] == ["yes"] * 5
    assert found["machine"] == found["gate"] == "not run"
    # A GPU that fits, and a session.
    here = HOST.__class__(HOST.gpus, "Linux", "x86_64", {"rtx": api.installed_version("rtx")})
    monkeypatch.setattr("teco.model.engine.preflight.look", lambda *_: here)
    monkeypatch.setattr("teco.model.engine.validity.check_validity", lambda _: None)
    runtime = FakeRuntime(engine.with_name("step.onnx"))
    monkeypatch.setattr(teco.verification.engine_file, "find", lambda _: runtime)
    monkeypatch.setattr(
        teco.verification.engine_file, "open_model", lambda _: open_model(str(runtime.onnx))
    )
    report = verify(str(engine), options)
    assert set(answers(report).values()) == {"yes"}
    assert report.gate is not None
    honest = runtime.onnx.read_bytes()
    flip(runtime.onnx, 29)
    report = verify(str(engine), options)
    assert {"gate max_steps", "gate worst_psnr"} <= set(refused(report))
    assert answers(report)["source"] == "not run", "it is another file now"
    # A count that the parsed file does not bear out.
    record = json.loads(manifest_path(engine).read_text())
    layers = record["proof"]["layers"]
    mutate(engine, proof=record["proof"] | {"layers": {"fp32": layers["fp32"] + 1}})
    runtime.onnx.write_bytes(honest)
    assert "it says fp32 in" in refused(verify(str(engine), options))["source"]


def test_no_such_engine(tmp_path):
    with pytest.raises(TecoError, match="does not exist") as error:
        verify(str(tmp_path / "no.plan"), VerifyOptions())
    assert error.value.exit_code == USAGE
    assert MACHINE == 3
