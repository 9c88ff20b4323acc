"""``auto`` where there is an NVIDIA GPU: a form in float16, its gate, and how to have float32.

The GPU is named by a stand-in, and its runtimes are ONNX Runtime's CPU session under other names.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import teco
from teco import runtimes
from teco.core import gpu
from teco.core.errors import USAGE, Interrupted, TecoError
from teco.core.gpu import Gpu
from teco.model import kept_forms
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import Model, identity_of, open_model
from teco.runtimes import SessionOptions, auto, choose
from teco.runtimes.onnxruntime import OnnxRuntime

THREADS = SessionOptions(threads=1)


@dataclass(frozen=True, kw_only=True)
class Glow(OnnxRuntime):
    """A row of a GPU; ``wrong`` is added to every picture."""

    device: Literal["cuda"] = "cuda"  # type: ignore[assignment]
    wrong: float = 0.0

    def open(self, model: Model, options: SessionOptions) -> Any:
        session: Any = OnnxRuntime(name="onnxruntime").open(model, options)
        session.runtime = self.name
        inner, wrong = session.step, np.float32(self.wrong)

        def step(lr: Any, state: Any) -> Any:
            picture, state = inner(lr, state)
            return picture + wrong, state

        session.step = step
        return session


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """The tiny network in float16, exported with its gate."""
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    options = ExportOptions(precision="fp16", name="tiny-fp16")
    return export_onnx(load_weights(tiny_weights), tmp_path_factory.mktemp("half"), options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[tuple[str, bool], float]:
    """Rows "cpu" and "glow" on a machine with a GPU and an empty cache; (row, is float16) ->
    seconds of a step, to be changed."""
    monkeypatch.setenv("TECO_CACHE", str(tmp_path))
    monkeypatch.setattr(gpu, "find", lambda: (Gpu("A GPU", 89),))
    monkeypatch.setattr(runtimes, "RUNTIMES", (OnnxRuntime(name="cpu"), Glow(name="glow")))
    seconds = {("cpu", False): 0.2, ("glow", False): 0.1, ("glow", True): 0.05}

    def trial(runtime: Any, model: Model, *_: object) -> float:
        assert model.manifest is not None
        return seconds[runtime.name, model.manifest.precision_asked == "fp16"]

    monkeypatch.setattr(auto, "_trial", trial)
    return seconds


def test_float16_is_taken_where_its_gate_passed_and_said(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    model = open_model(str(tiny_onnx))
    assert choose(model, "auto", THREADS, "gated").runtime.name == "glow"
    assert choose(model, "auto", THREADS, "gated").why == ""  # there was no question
    assert kept_forms.keep(half)
    found = choose(model, "auto", THREADS, "gated")
    assert (found.runtime.name, found.model.name) == ("glow", "tiny-fp16")
    for word in ("float16", "gate passed", "50.0 ms", "100.0 ms", "--quality balanced"):
        assert word in found.why
    # Remembered, with the sentence; and the agreement here is on record.
    assert choose(model, "auto", THREADS, "gated") == found
    records = [json.loads(p.read_text()) for p in (tmp_path / "auto").iterdir()]
    (record,) = (r for r in records if r["fastest"] == "glow tiny-fp16")
    assert record["psnr_beside_float32"].keys() == {"glow tiny-fp16"}


def test_float32_on_request_and_without_a_gpu(
    machine: dict[Any, float],
    half: Path,
    tiny_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = open_model(str(tiny_onnx))
    kept_forms.keep(half)
    assert choose(model, "auto", THREADS, "any").model.name == "tiny-fp16"
    exact = choose(model, "auto", THREADS)
    assert (exact.model, exact.runtime.name, exact.why) == (model, "glow", "")
    assert choose(model, "glow", THREADS, "gated").model is model  # a runtime by name changes none
    monkeypatch.setattr(gpu, "find", lambda: ())
    assert choose(model, "auto", THREADS, "gated").model is model


def test_a_slower_form_is_left_and_that_is_said(
    machine: dict[Any, float], half: Path, tiny_onnx: Path
) -> None:
    kept_forms.keep(half)
    machine["glow", True] = 0.3
    found = choose(open_model(str(tiny_onnx)), "auto", THREADS, "gated")
    assert not found.kept
    assert "no faster" in found.why


def test_a_form_that_is_wrong_on_this_machine_is_left(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gate passed where it was made; here it is 0.01 off: 40 dB, where 50 are required."""
    kept_forms.keep(half)
    wrong = Glow(name="glow", wrong=0.01)
    monkeypatch.setattr(runtimes, "RUNTIMES", (OnnxRuntime(name="cpu"), wrong))
    machine["glow", False] = 0.3  # so that the reference is the other row
    found = choose(open_model(str(tiny_onnx)), "auto", THREADS, "gated")
    assert (found.runtime.name, found.kept) == ("cpu", False)
    assert "50 dB" in found.why
    assert "glow tiny-fp16 (39" in found.why


def test_a_gpu_that_computes_something_else_is_left_in_float32_too(
    machine: dict[Any, float], tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(str(tiny_onnx))
    assert choose(model, "auto", THREADS).runtime.name == "glow"
    monkeypatch.setattr(
        runtimes, "RUNTIMES", (OnnxRuntime(name="cpu"), Glow(name="glow2", wrong=0.01))
    )
    machine["glow2", False] = 0.1
    found = choose(model, "auto", THREADS)
    assert found.runtime.name == "cpu"
    assert "glow2 (39" in found.why


def test_work_that_goes_on_takes_what_it_was_begun_with(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(str(tiny_onnx))
    kept_forms.keep(half)
    (form,) = kept_forms.kept(model)
    monkeypatch.delattr(auto, "_trial")  # nothing is measured

    def among(text: str, wish: runtimes.Wish = "gated") -> tuple[str, bool]:
        found = choose(model, "auto", THREADS, wish, among=text)
        return found.runtime.name, found.kept

    assert among(f"cpu {identity_of(model)}") == ("cpu", False)
    assert among(f"glow {identity_of(model)}") == ("glow", False)
    assert among(f"glow {identity_of(form)}") == ("glow", True)
    assert among("cpu") == ("cpu", False)  # of a runtime alone, what was named
    # One that auto would not consider: it takes minutes to open, and is no float32.
    slow = Glow(name="slow", slow_to_open="compiles for minutes", exact=False)
    monkeypatch.setattr(runtimes, "RUNTIMES", (OnnxRuntime(name="cpu"), slow))
    assert among(f"slow {identity_of(model)}", "float32") == ("slow", False)


def test_what_is_gone_or_not_wished_for_is_not_gone_on_with(
    machine: dict[Any, float], half: Path, tiny_onnx: Path
) -> None:
    model = open_model(str(tiny_onnx))
    kept_forms.keep(half)
    (form,) = kept_forms.kept(model)
    at = f"glow {identity_of(form)}"
    assert choose(model, "auto", THREADS, "float32", among=at).model is model
    assert choose(model, "auto", THREADS, "gated", among=f"gone {identity_of(model)}").kept


def test_auto_takes_what_is_slow_to_open_where_there_is_nothing_else(
    machine: dict[Any, float], tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Glow(name="slow", slow_to_open="compiles for minutes")
    monkeypatch.setattr(runtimes, "RUNTIMES", (slow,))
    assert choose(open_model(str(tiny_onnx)), "auto", THREADS).runtime is slow


@pytest.fixture
def film(
    machine: dict[Any, float], make_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Enlarges a clip of 40 frames by ``auto``, kept in parts of 12; ``stop`` breaks it off after
    so many frames. What it said."""
    for name, value in (
        ("segments.LEAST", 12), ("segments.FEWEST", 12), ("segments.MOST", 1),
        ("upscale.LONGEST_AT_ONCE", 12),
    ):  # fmt: skip
        monkeypatch.setattr(f"teco.inference.{name}", value)
    machine["cpu", False] = 99  # of a large picture, from which that of these is told
    clip = make_clip(tmp_path / "in.mp4", width=24, height=16, frames=40)

    def run(model: Path, stop: int | None = None, quality: Any = None) -> list[str]:
        said: list[str] = []

        def progress(now: Any) -> None:
            if now.done == stop:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted) if stop else nullcontext():
            teco.upscale(
                clip, tmp_path / "out.mp4", model=model, threads=1, preset="ultrafast",
                quality=quality, progress=progress, tell=said.append,
            )  # fmt: skip
        return said

    return run


def test_a_float32_film_goes_on_once_a_form_is_kept(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, film: Any
) -> None:
    film(tiny_onnx, stop=35)
    assert kept_forms.keep(half)
    model = open_model(str(tiny_onnx))
    assert choose(model, "auto", THREADS, "gated", size=(16, 24)).kept  # left to itself
    said = film(tiny_onnx)
    assert any("going on after" in line for line in said), said
    assert not any("float16" in line for line in said), said


def test_a_film_goes_on_in_float16(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, film: Any, tmp_path: Path
) -> None:
    assert kept_forms.keep(half)
    assert any("tiny-fp16, in float16" in line for line in film(tiny_onnx, stop=35))
    job = json.loads((tmp_path / ".out.mp4.teco-segments" / "job.json").read_text())
    (form,) = kept_forms.kept(open_model(str(tiny_onnx)))
    assert (job["runtime"], job["model"]) == ("glow", identity_of(form))
    with pytest.raises(TecoError, match=r"model was tiny-fp16 .*, is tiny") as error:
        film(tiny_onnx, quality="balanced")
    assert error.value.exit_code == USAGE
    # By now float32 is the faster.
    shutil.rmtree(tmp_path / "auto")
    machine["glow", True] = 0.5
    said = film(tiny_onnx)
    assert any("going on after" in line for line in said), said
    assert any("tiny-fp16, in float16" in line for line in said), said


@pytest.mark.parametrize("fails", ["in the trial", "beside float32"])
def test_a_form_that_fails_is_said_and_tried_again(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, tmp_path: Path, fails: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept_forms.keep(half)
    model = open_model(str(tiny_onnx))

    def out_of_memory(*_: object) -> float:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        if fails == "in the trial":
            del machine["glow", True]
            patch.setattr(auto, "agreement", lambda *_: float("inf"))
        else:
            patch.setattr(auto, "agreement", out_of_memory)
        found = choose(model, "auto", THREADS, "gated")
    assert not found.kept
    assert "failed beside float32: glow tiny-fp16" in found.why
    assert "no faster" not in found.why
    assert not (tmp_path / "auto").exists()
    machine["glow", True] = 0.05
    assert choose(model, "auto", THREADS, "gated").kept


def test_agreement_is_remembered_of_these_weights_alone(
    machine: dict[Any, float], tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same graph with other weights, which the GPU gets wrong."""
    model = open_model(str(tiny_onnx))
    assert model.manifest is not None
    other = replace(model, manifest=replace(model.manifest, weights_sha256="a" * 64))
    assert choose(model, "auto", THREADS).runtime.name == "glow"
    monkeypatch.setattr(auto, "agreement", lambda *_: 30.0)
    assert choose(model, "auto", THREADS).runtime.name == "glow"
    assert choose(other, "auto", THREADS).runtime.name == "cpu"


def test_what_is_kept_and_what_is_found(
    machine: dict[Any, float], half: Path, tiny_onnx: Path, tmp_path: Path, tiny_x2: Path
) -> None:
    model = open_model(str(tiny_onnx))
    assert not kept_forms.keep(tiny_onnx)  # float32 has no gate to pass
    assert kept_forms.kept(model) == []
    assert kept_forms.keep(half)
    assert [m.name for m in kept_forms.kept(model)] == ["tiny-fp16"]
    assert kept_forms.kept(open_model(str(tiny_x2))) == []  # other weights
    assert kept_forms.kept(open_model(str(half))) == []  # itself
    # Of one size: for frames of that size alone. One that was tampered with is not found.
    (form,) = kept_forms.kept(model)
    static = replace(form, manifest=replace(form.manifest, size="16x24"))
    assert kept_forms.takes(static, (16, 24))
    assert not kept_forms.takes(static, (24, 16))
    assert not kept_forms.takes(static, None)
    assert form.onnx is not None
    data = form.onnx.read_bytes()
    form.onnx.write_bytes(data + b"x")
    assert kept_forms.kept(model) == []


@pytest.mark.skipif(os.name == "nt", reason="modes say nothing there")
def test_files_of_others_or_that_others_may_write_are_left(
    half: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path))
    model = open_model(str(tiny_onnx))
    copy = tmp_path / "tiny-fp16.onnx"
    for path in (copy, manifest_path(copy)):
        path.write_bytes(manifest_path(half).read_bytes() if path != copy else half.read_bytes())
        path.chmod(0o666)  # as with an umask of 0
    assert kept_forms.keep(copy)
    (form,) = kept_forms.kept(model)
    assert form.onnx is not None
    for path in (form.onnx, manifest_path(form.onnx)):
        for mode in (0o620, 0o602):
            path.chmod(mode)
            assert kept_forms.kept(model) == []
        path.chmod(0o600)
    assert len(kept_forms.kept(model)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        assert kept_forms.kept(model) == []
    form.onnx.unlink()
    form.onnx.symlink_to(copy)
    assert kept_forms.kept(model) == []


@pytest.mark.parametrize("name", ["weights_sha256", "sha256", "data_sha256"])
@pytest.mark.parametrize("value", ["/tmp/forms", "../../forms", "A" * 64, "a" * 65])
def test_a_hash_in_a_manifest_is_a_hash(tiny_onnx: Path, name: str, value: str) -> None:
    """It names a folder of the cache: another one would be searched for engines to load."""
    data = json.loads(manifest_path(tiny_onnx).read_text())
    data[name] = {"x.safetensors": value} if name == "data_sha256" else value
    with pytest.raises(TecoError, match="expected 64 hexadecimal digits"):
        Manifest.from_json(json.dumps(data), source="it")
    model = open_model(str(tiny_onnx))
    assert model.manifest is not None
    if name == "weights_sha256":  # and however it came here
        model = replace(model, manifest=replace(model.manifest, weights_sha256=value))
        with pytest.raises(ValueError, match="is no hash"):
            kept_forms.kept(model)


def test_a_copy_that_breaks_off_leaves_nothing(
    half: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path))

    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_forms.shutil, "copyfile", full)
    assert not kept_forms.keep(half)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_cache_that_cannot_be_written_keeps_nothing(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TECO_CACHE", str(blocked))
    assert not kept_forms.keep(half)


@pytest.mark.slow
def test_export_keeps_it_where_there_is_a_gpu(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teco.exporting.formats import produce_all
    from teco.exporting.options import ExportOptions
    from teco.exporting.request import ExportRequest, WeightsSource

    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    request = ExportRequest(formats=("onnx",), onnx=ExportOptions(precision="fp16"))
    for n, found in enumerate(((), (Gpu("A GPU", 89),))):
        monkeypatch.setattr(gpu, "find", lambda found=found: found)
        folder = tmp_path / str(n)
        folder.mkdir()
        (product,) = produce_all([WeightsSource(tiny_weights, None)], [request], folder)
        files = {p.name for p in (tmp_path / "cache").rglob("*.onnx")}
        assert files == ({product.path.name} if found else set())


SITE = """
import os
from dataclasses import dataclass
from typing import Literal

import teco.runtimes
from teco.core import gpu
from teco.inference import segments, upscale
from teco.runtimes import auto
from teco.runtimes.onnxruntime import OnnxRuntime


@dataclass(frozen=True, kw_only=True)
class Glow(OnnxRuntime):
    device: Literal["cuda"] = "cuda"

    def open(self, model, options):
        session = OnnxRuntime(name="onnxruntime").open(model, options)
        session.runtime = self.name
        inner, left = session.step, [int(os.environ.get("STOP_AFTER", 10**9))]

        def step(lr, state):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return inner(lr, state)

        session.step = step
        return session


segments.LEAST = segments.FEWEST = upscale.LONGEST_AT_ONCE = 12
segments.MOST = 1
gpu.find = lambda: (gpu.Gpu("A GPU", 89),)
teco.runtimes.RUNTIMES = (OnnxRuntime(name="onnxruntime"), Glow(name="glow"))
seconds = {"onnxruntime": 99.0, "glow": 0.2}
auto._trial = lambda runtime, model, *_: 0.1 if model.name == "tiny-fp16" else seconds[runtime.name]
"""


@pytest.mark.slow
def test_upscale_says_what_it_took_and_goes_on_with_it(
    run_teco, teco_environment: dict[str, str], make_clip, half: Path, tiny_onnx: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The command in a process of its own, on a machine with a stand-in for a GPU."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setitem(teco_environment, "PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setitem(teco_environment, "TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    assert kept_forms.keep(half)
    clip = make_clip(tmp_path / "in.mp4", width=24, height=16, frames=40)
    usual = ("upscale", clip, tmp_path / "out.mp4", "--model", tiny_onnx)
    balanced = (*usual, "--quality", "balanced")
    # In float16, broken off; gone on with, where float32 is another film.
    monkeypatch.setitem(teco_environment, "STOP_AFTER", "35")
    assert "tiny-fp16, in float16" in run_teco(*usual).stderr
    monkeypatch.delitem(teco_environment, "STOP_AFTER")
    run_teco(*balanced).refuses(
        2, "model was tiny-fp16", after=["timing the runtimes", "tiny on glow", "note:"]
    )
    run_teco(*usual).says("on glow", "tiny-fp16, in float16", "going on after")
    # In float32, where auto alone would take float16.
    monkeypatch.setitem(teco_environment, "STOP_AFTER", "35")
    (tmp_path / "out.mp4").unlink()
    said = run_teco(*balanced).stderr
    assert "float16" not in said
    assert "on glow" in said
    monkeypatch.delitem(teco_environment, "STOP_AFTER")
    run = run_teco(*usual)
    run.says("on glow", "going on after")
    assert "float16" not in run.stderr


def test_the_processor_is_not_tried_on_large_pictures(
    machine: dict[Any, float], tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is told from a small one; a GPU is tried at the size of the frames."""
    tried: list[tuple[str, tuple[int, int]]] = []

    def trial(runtime: Any, _model: Model, _options: object, size: tuple[int, int]) -> float:
        tried.append((runtime.name, size))
        return {"cpu": 0.01, "glow": 0.5}[runtime.name]

    monkeypatch.setattr(auto, "_trial", trial)
    found = choose(open_model(str(tiny_onnx)), "auto", THREADS, size=(960, 1600))
    assert tried == [("cpu", auto.TRIAL_SIZE), ("glow", (960, 1600))]
    assert found.runtime.name == "glow"  # 0.01 s is 1 s at a hundred times the pixels


def test_files_of_planes_are_held_against_each_other_too() -> None:
    """They take no floats; 8-bit samples that differ by one in every second place: 51.1 dB."""

    class Planes:
        layout, conversion = "NV12", None

        def __init__(self, wrong: int) -> None:
            self.wrong = wrong

        def convert_by(self, conversion: Any) -> None:
            self.conversion = conversion

        def step(self, lr: Any, state: Any) -> Any:
            raise AssertionError("it takes planes")

        def enlarge_planes(self, picture: np.ndarray, state: Any) -> Any:
            assert self.conversion is not None
            assert picture.shape == (24, 24)
            assert picture.dtype == np.uint8
            made = np.full((96, 96), 100, np.uint8)
            made[::2] += self.wrong
            return made, state

        def close(self) -> None:
            pass

    @dataclass(frozen=True)
    class Row:
        wrong: int
        name: str = "row"

        def open(self, model: Any, options: Any) -> Any:
            return Planes(self.wrong)

    def choice(wrong: int) -> auto.RuntimeChoice:
        return auto.RuntimeChoice(Row(wrong), None)  # type: ignore[arg-type]

    assert auto.agreement(choice(0), choice(0), THREADS, (16, 24)) == float("inf")
    found = auto.agreement(choice(1), choice(0), THREADS, (16, 24))
    assert found == pytest.approx(10 * np.log10(2 * 255**2), abs=0.01)
