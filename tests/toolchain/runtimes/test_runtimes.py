"""One contract for every runtime, and the choice between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teco.core.errors import MACHINE, TecoError
from teco.core.pixels import to_pixels, to_tensor
from teco.inference.stream import Stream
from teco.model.opening import Model, open_model
from teco.runtimes import NAMES, RUNTIMES, SessionOptions, find, open_session
from teco.runtimes import auto as auto_module
from teco.runtimes.base import FrameSession, moving_frames
from teco.runtimes.pytorch import PyTorchSession

TOLERANCE = {"openvino-bf16": 0.05}
"""Largest difference from PyTorch, pictures in [0, 1]; bfloat16 has 8 bits of mantissa."""

GPU = frozenset(("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx", "pytorch-cuda"))


@pytest.fixture(scope="module")
def model(tiny_onnx: Path, tiny_weights: Path) -> Model:
    """A model as a zoo entry is: both an ONNX file and the weights it was made of."""
    return replace(open_model(str(tiny_onnx)), weights=tiny_weights)


@pytest.fixture(scope="module")
def reference(tiny_weights: Path) -> PyTorchSession:
    from teco_models.checkpoint import build, load_weights

    return PyTorchSession(build(load_weights(tiny_weights)))


def or_skip(name: str, model: Model):
    """A session of the runtime, or a skip with the runtime's own reason."""
    runtime = find(name)
    reason = runtime.why_unavailable() or runtime.why_not(model)
    if reason:
        if name in GPU and os.environ.get("TECO_REQUIRE") == "gpu":
            pytest.fail(reason)
        pytest.skip(reason)
    return runtime.open(model, SessionOptions(threads=1))


# torch.compile takes half a minute for the first step.
CONTRACT = [
    pytest.param(
        name,
        marks=[pytest.mark.gpu] if name in GPU else [pytest.mark.slow] if "compile" in name else [],
    )
    for name in NAMES
    if name not in ("tensorrt", "tensorrt-rtx")  # engines: test_gpu_sessions.py
]


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, PyTorchSession]:
    """A network without a flow net, whose state is more than the two pictures."""
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import build, load_weights, save_weights
    from teco_models.variant import Variant

    folder = tmp_path_factory.mktemp("free")
    generator = Generator(Variant(blocks=1, channels=16, flow_channels=0, tail="shuffle"))
    initialise(generator, seed=2)
    save_weights(folder / "free.safetensors", generator)
    weights = load_weights(folder / "free.safetensors")
    path = export_onnx(weights, folder, ExportOptions(target="openvino"))
    model = replace(open_model(str(path)), weights=folder / "free.safetensors")
    return model, PyTorchSession(build(weights))


@pytest.mark.parametrize(
    "name",
    [
        "teco-x4-b2-c16", "teco-x4-b1-c16-bp-lk", "teco-x4-b1-c16-f0-shuffle",
        "teco-x4-b1-c16-egvsr",
    ],
)  # fmt: skip
def test_the_arrangement_for_a_cpu_changes_the_speed_alone(name: str) -> None:
    """Every kind of layer beside the plain module; what went in is as it was afterwards."""
    import torch

    from teco.runtimes.pytorch import arranged_for_cpu
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import Weights, build
    from teco_models.variant import Variant

    generator = Generator(Variant.parse(name))
    initialise(generator, seed=4)
    weights = Weights(generator.variant, generator.state_dict())
    plain, arranged = build(weights), arranged_for_cpu(weights)
    convolution = next(m for m in arranged.modules() if isinstance(m, torch.nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    ours, theirs = PyTorchSession(arranged), PyTorchSession(plain)
    state = other = None
    for lr in moving_frames(17, 24, 4):
        before = lr.copy()
        kept = [] if state is None else [x.clone() for x in state]
        hr, following = ours.step(lr, state)
        expected, other = theirs.step(lr, other)
        assert hr.flags.c_contiguous
        np.testing.assert_allclose(hr, expected, atol=2e-5)
        np.testing.assert_array_equal(lr, before)
        assert all(torch.equal(a, b) for a, b in zip(kept, state or (), strict=True))
        state = following


def test_a_session_on_the_cpu_keeps_and_gives_back_memory(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teco.runtimes import pytorch

    told: list[str] = []
    monkeypatch.setattr(pytorch, "keep_freed_memory", lambda: told.append("keep"))
    monkeypatch.setattr(pytorch, "give_back", lambda: told.append("give back"))
    session = find("pytorch").open(open_model(str(tiny_weights)), SessionOptions(threads=1))
    assert told == ["keep"]
    session.close()
    assert told == ["keep", "give back"]


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_without_a_flow_net(name: str, free: tuple[Model, PyTorchSession]) -> None:
    follows_pytorch(name, *free)


@pytest.mark.parametrize("name", ["openvino", "openvino-bf16"])
def test_pictures_made_inside_are_those_made_outside(
    name: str, free: tuple[Model, PyTorchSession]
) -> None:
    """Also after floats were asked for, with another size, and from a fresh scene."""
    model, _ = free
    session = or_skip(name, model)
    assert isinstance(session, FrameSession)
    floats = or_skip(name, model)
    for h, w in ((16, 24), (11, 21)):
        state = other = None
        for lr in moving_frames(h, w, 5):
            given = to_pixels(lr)
            picture, state = session.enlarge(given, state)
            hr, other = floats.step(to_tensor(given), other)
            assert picture.shape == (4 * h, 4 * w, 3)
            assert picture.dtype == np.uint8
            # Rounding may fall the other way where two plans sum in another order.
            assert int(np.abs(picture.astype(int) - to_pixels(hr)).max()) <= 1
    hr, _ = session.step(moving_frames(16, 24, 1)[0], None)
    assert hr.shape == (1, 3, 64, 96)


def test_pictures_made_inside_are_the_callers_to_keep(free: tuple[Model, PyTorchSession]) -> None:
    """A queue of encoders holds several; the session's memory is written again two steps on."""
    frames = [np.ascontiguousarray((255 * f[0].transpose(1, 2, 0)).astype(np.uint8))
              for f in moving_frames(16, 24, 8)]  # fmt: skip
    kept = list(Stream(or_skip("openvino", free[0]), scene_cuts=False).run(frames))
    other = Stream(or_skip("openvino", free[0]), scene_cuts=False)
    assert all(np.array_equal(a, other.push(f).copy()) for a, f in zip(kept, frames, strict=True))
    warmed = Stream(or_skip("openvino", free[0]), scene_cuts=False, warm_up=2)
    assert len(list(warmed.run(frames))) == 8


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name: str, model: Model, reference: PyTorchSession) -> None:
    follows_pytorch(name, model, reference)


def follows_pytorch(name: str, model: Model, reference: PyTorchSession) -> None:
    """Equal to PyTorch over a scene; state is handed on; None starts afresh; sizes may change."""
    session = or_skip(name, model)
    try:
        assert session.runtime == name
        assert session.details
        tolerance = TOLERANCE.get(name, 1e-4)
        for h, w in ((16, 24), (11, 21)):
            frames = moving_frames(h, w, 6)
            state = expected_state = None
            first = None
            for lr in frames:
                expected, expected_state = reference.step(lr, expected_state)
                found, state = session.step(lr, state)
                assert found.shape == (1, 3, 4 * h, 4 * w)
                assert found.dtype == np.float32
                assert float(np.abs(found - expected).max()) <= tolerance
                first = found.copy() if first is None else first
            # A new scene is as if nothing had been before it, and the past matters otherwise.
            again, fresh = session.step(frames[0], None)
            assert np.array_equal(again, first)
            with_past, _ = session.step(frames[1], fresh)
            without, _ = session.step(frames[1], None)
            assert float(np.abs(with_past - without).max()) > 1e-4
    finally:
        session.close()


@pytest.mark.parametrize("name", CONTRACT)
def test_an_output_lives_until_the_step_after_next(name: str, model: Model) -> None:
    session = or_skip(name, model)
    try:
        frames = moving_frames(16, 24, 3)
        first, state = session.step(frames[0], None)
        kept = first.copy()
        session.step(frames[1], state)
        assert np.array_equal(first, kept)
    finally:
        session.close()


def test_names_are_unique_and_described() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for runtime in RUNTIMES:
        reason = runtime.why_unavailable()
        assert reason is None or runtime.name.split("-")[0] in reason


def test_unknown_runtime_names_the_known_ones(model: Model) -> None:
    with pytest.raises(TecoError, match="tensorflow") as error:
        open_session(model, "tensorflow", SessionOptions())
    assert "onnxruntime" in error.value.hint


def test_a_runtime_that_cannot_take_the_model_says_so(tiny_onnx: Path, tiny_weights: Path) -> None:
    weights, onnx = open_model(str(tiny_weights)), open_model(str(tiny_onnx))
    for name, model in (("onnxruntime", weights), ("openvino", weights), ("pytorch", onnx)):
        with pytest.raises(TecoError, match=model.name):
            open_session(model, name, SessionOptions())


def test_an_absent_extra_is_one_sentence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name)
    )
    with pytest.raises(TecoError, match=r"teco\[openvino\]") as error:
        open_session(model, "openvino", SessionOptions())
    assert error.value.exit_code == MACHINE


def test_auto_takes_the_fastest_exact_one_and_remembers(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path))
    times = {"onnxruntime": 0.2, "openvino": 0.1, "openvino-bf16": 0.01, "pytorch": 0.3}
    tried: list[str] = []

    def trial(candidate, model, options, size) -> float:
        tried.append(candidate.name)
        return times[candidate.name]

    monkeypatch.setattr(auto_module, "_trial", trial)
    session = open_session(model, "auto", SessionOptions(threads=1))
    session.close()
    expected = "openvino" if find("openvino").why_unavailable() is None else "onnxruntime"
    assert session.runtime == expected
    assert "openvino-bf16" not in tried
    assert "pytorch-compile" not in tried
    (record,) = (tmp_path / "auto").iterdir()
    assert json.loads(record.read_text())["fastest"] == expected
    tried.clear()
    open_session(model, "auto", SessionOptions(threads=1)).close()
    assert tried == []
    # Another number of threads is another question.
    open_session(model, "auto", SessionOptions(threads=2)).close()
    assert tried


def test_auto_survives_an_unwritable_cache(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TECO_CACHE", str(blocked))
    session = open_session(model, "auto", SessionOptions(threads=1))
    assert find(session.runtime).exact
    session.close()


def test_openvino_leaves_the_signal_stack_alone(tiny_onnx: Path) -> None:
    """Sessions closed in another order than the reverse left a freed one; a signal then killed.

    In a process of its own, which a failure would end.
    """
    if reason := find("openvino").why_unavailable():
        pytest.skip(reason)
    program = (
        "import os, signal, sys\n"
        "from teco.model.opening import open_model\n"
        "from teco.runtimes import SessionOptions, open_session\n"
        "import numpy as np\n"
        "heard = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))\n"
        "model = open_model(sys.argv[1])\n"
        "lr = np.zeros((1, 3, 16, 24), np.float32)\n"
        "def opened():\n"
        "    session = open_session(model, 'openvino', SessionOptions(threads=1))\n"
        "    session.step(lr, None)\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return session\n"
        "sessions = [opened() for _ in range(3)]\n"
        "for session in sessions:\n"
        "    session.close()\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "del sessions, session\n"
        "for _ in range(20):\n"
        "    np.zeros(10_000_000).sum()\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "print(len(heard))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_onnx)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "26\n"), done.stderr


def test_fast_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ONNX Runtime alone there is nothing faster than float32, and the remedy is named."""
    import importlib.util

    from teco import runtimes

    model = open_model("real-cpu")
    one = [runtimes.find("onnxruntime")]
    monkeypatch.setattr(runtimes, "usable", lambda _model: one)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    options = SessionOptions(threads=1)
    assert "'teco[openvino]'" in runtimes.choose(model, "auto", options, "any").why
    assert not runtimes.choose(model, "auto", options, "float32").why
