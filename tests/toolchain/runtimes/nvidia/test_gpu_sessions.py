"""Every GPU runtime against float32 on the CPU; skipped with the runtime's own reason elsewhere.

``TECO_REQUIRE=gpu`` turns the skip into a failure. Only the float32 cases of ``pytorch-cuda`` and
``onnxruntime-cuda`` have run on a GPU yet. ``scripts/gpu_check.py`` runs these tests and prints a
table.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teco.core import gpu
from teco.core.errors import TecoError
from teco.exporting.engines.rtx import RtxOptions, build_rtx
from teco.exporting.engines.tensorrt import TensorRtOptions, build_tensorrt
from teco.model.conversion import as_planes
from teco.model.opening import Model, open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import PlaneSession, moving_frames
from teco.runtimes.nvidia import device
from teco.runtimes.pytorch import PyTorchSession
from teco.verification import planes
from teco.verification.planes import ExactPlanes
from teco.verification.temporal_gate import default_frames

pytestmark = pytest.mark.gpu

FRAMES = 30
SIZE = (16, 24)
OTHER = (24, 32)

ONNX_RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx")
ENGINES = ("tensorrt", "tensorrt-rtx")
BOUNDS = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest difference from PyTorch over the clip, pictures in [0, 1]. For fp32 a GPU sums in another
order and the recurrence carries it; TensorRT-RTX and the ONNX Runtime providers on top of TensorRT
may use TF32, see :data:`TF32`. fp16 has 11 bits of mantissa."""

TF32 = {"onnxruntime-tensorrt": 2e-2, "onnxruntime-rtx": 2e-2}

CASES = [
    ("pytorch-cuda", "fp32"),
    *((name, precision) for name in (*ONNX_RUNTIMES, *ENGINES) for precision in BOUNDS),
]


def need(name: str) -> None:
    """Skip, or fail where a GPU was promised, with the runtime's own reason."""
    reason = find(name).why_unavailable()
    if reason is not None:
        if os.environ.get("TECO_REQUIRE") == "gpu":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def reference(tiny_weights: Path) -> PyTorchSession:
    from teco_models.checkpoint import build, load_weights

    return PyTorchSession(build(load_weights(tiny_weights)))


@pytest.fixture(scope="module")
def made(tiny_weights: Path, tmp_path_factory):
    """A model for a runtime, made when it is first asked for."""
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    models: dict[tuple, Model] = {}

    def onnx(precision: str, size: tuple[int, int] | None, io: str) -> Model:
        key = ("onnx", precision, size, io)
        if key not in models:
            folder = tmp_path_factory.mktemp("onnx")
            options = ExportOptions(precision=precision, size=size, io=io, target="tensorrt")
            path = export_onnx(load_weights(tiny_weights), folder, options)
            models[key] = replace(open_model(str(path)), weights=tiny_weights)
        return models[key]

    def engine(name: str, precision: str, size: tuple[int, int] | None, io: str) -> Model:
        key = (name, precision, size, io)
        if key not in models:
            folder = tmp_path_factory.mktemp("engine")
            source = onnx(precision, size, io)
            profile = ((8, 8), SIZE, (64, 64)) if size is None else None
            if name == "tensorrt":
                path = build_tensorrt(source, folder, TensorRtOptions(profile=profile))
            else:
                sm = (gpu.find()[0].compute_capability,)
                try:
                    path = build_rtx(source, folder, RtxOptions(sm=sm, profile=profile))
                except TecoError as error:  # a data centre GPU, which RTX does not build for
                    pytest.skip(error.message)
            models[key] = open_model(str(path))
        return models[key]

    def make(
        name: str, precision: str, size: tuple[int, int] | None = SIZE, io: str = "fp32"
    ) -> Model:
        need(name)
        if name == "pytorch-cuda":
            return onnx("fp32", None, io)
        kind = engine if name in ENGINES else lambda _name, *of: onnx(*of)
        model = kind(name, precision, size, io)
        if reason := find(name).why_not(model):
            pytest.skip(reason)
        return model

    return make


def bound(name: str, precision: str) -> float:
    return max(BOUNDS[precision], TF32.get(name, 0))


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_thirty_recurrent_frames(name, precision, made, reference) -> None:
    session = find(name).open(made(name, precision), SessionOptions())
    try:
        state = expected_state = first = None
        clip = moving_frames(*SIZE, FRAMES)
        for lr in clip:
            expected, expected_state = reference.step(lr, expected_state)
            found, state = session.step(lr, state)
            assert found.dtype == np.float32
            assert float(np.abs(found - expected).max()) <= bound(name, precision)
            first = found.copy() if first is None else first
        # A new scene forgets the old one; the past matters otherwise.
        again, fresh = session.step(clip[0], None)
        assert np.array_equal(again, first)
        with_past = session.step(clip[1], fresh)[0].copy()
        without, _ = session.step(clip[1], None)
        assert float(np.abs(with_past - without).max()) > 1e-4
    finally:
        session.close()


@pytest.mark.parametrize("io", ["nv12", "i420"])
@pytest.mark.parametrize("name", [*ONNX_RUNTIMES, *ENGINES])
def test_planes(name, io, made, reference) -> None:
    """At most a step from the host path in float64, three where TF32 may be used."""
    model = made(name, "fp32", SIZE, io)
    session = find(name).open(model, SessionOptions())
    assert isinstance(session, PlaneSession)
    exact = ExactPlanes(reference, session.layout)
    for conversion in (planes.USUAL, planes.OTHER):
        session.convert_by(conversion)
        exact.convert_by(conversion)
        state = expected_state = None
        for frame in default_frames(*SIZE, 8):
            picture = as_planes(frame, session.layout, conversion)
            expected, expected_state = exact.enlarge_planes(picture, expected_state)
            found, state = session.enlarge_planes(picture, state)
            steps = np.abs(found.astype(int) - expected).max()
            assert steps <= (3 if name in TF32 else 1)
    session.close()


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_another_size(name, precision, made, reference) -> None:
    session = find(name).open(made(name, precision, None), SessionOptions())
    try:
        for size in (SIZE, OTHER, SIZE):
            state = expected_state = None
            for lr in moving_frames(*size, 4):
                expected, expected_state = reference.step(lr, expected_state)
                found, state = session.step(lr, state)
                assert float(np.abs(found - expected).max()) <= bound(name, precision)
    finally:
        session.close()


@pytest.mark.parametrize("name", [*ONNX_RUNTIMES, *ENGINES])
def test_frames_of_a_host_programs_own(name, made) -> None:
    """PyTorch's memory in, PyTorch's view of the picture out, nothing over the host."""
    torch = pytest.importorskip("torch")
    model = made(name, "fp32")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    session, other = (find(name).open(model, SessionOptions()) for _ in range(2))
    try:
        state = other_state = None
        for lr in moving_frames(*SIZE, 6):
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                frame = torch.from_numpy(lr).cuda()
            array, state = session.step_on_device(frame, state)
            expected, other_state = other.step(lr, other_state)
            found = torch.as_tensor(array, device="cuda").cpu().numpy()
            assert np.array_equal(found, expected)
        with pytest.raises(TecoError, match="expected float32"):
            session.step(frame.half(), state)
        with pytest.raises(TecoError, match="not contiguous"):
            session.step(frame.transpose(2, 3).contiguous().transpose(2, 3), state)
    finally:
        session.close()
        other.close()


@pytest.mark.parametrize("name", ENGINES)
def test_events_time_the_step(name, made) -> None:
    session = find(name).open(made(name, "fp32"), SessionOptions())
    try:
        session.step(moving_frames(*SIZE, 1)[0], None)
        assert 0 < session.last_step_ms < 1000
        assert "without CUDA graphs" not in session.details
    finally:
        session.close()


@pytest.mark.parametrize("name", ENGINES)
def test_memory_is_given_back(name, made) -> None:
    """Ten sessions cost no more than the first, which loads libraries and kernels."""
    model = made(name, "fp32")
    gpu = device.open_device()

    def once() -> int:
        session = find(name).open(model, SessionOptions())
        session.step(moving_frames(*SIZE, 1)[0], None)
        session.close()
        gc.collect()
        return gpu.memory()[0]

    once()
    after = once()
    for _ in range(8):
        free = once()
    gpu.close()
    assert after - free < 8 << 20
