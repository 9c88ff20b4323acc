"""Runtimes for GPUs and NPUs of others than NVIDIA, as far as it goes without one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from teco.core.errors import MACHINE, TecoError
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, doctor, find, openvino, usable, webgpu
from teco.runtimes.doctor import what_to_type
from teco.runtimes.nvidia.onnxruntime_binding import plugin_devices
from teco.runtimes.openvino import OpenVino

ROWS = ("openvino-gpu", "openvino-gpu-fp16", "openvino-npu")


def of(name: str) -> OpenVino:
    runtime = find(name)
    assert isinstance(runtime, OpenVino)
    return runtime


# --- OpenVINO -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openvino", *ROWS])
def test_the_installed_plugins_take_every_setting(name: str) -> None:
    """They answer without a device."""
    ov = pytest.importorskip("openvino")
    known = ov.Core().get_property(of(name).plugin, "SUPPORTED_PROPERTIES")
    for key in of(name).settings(1):
        assert known.get(key) == "RW", f"{of(name).plugin} does not take {key}"
    # Why an NPU is asked for no precision: it has one.
    npu = ov.Core().get_property("NPU", "OPTIMIZATION_CAPABILITIES")
    assert "FP16" in npu
    assert "FP32" not in npu


def test_only_float32_is_exact() -> None:
    assert of("openvino-gpu").settings(1)["INFERENCE_PRECISION_HINT"] == "f32"
    assert of("openvino-gpu-fp16").settings(1)["INFERENCE_PRECISION_HINT"] == "f16"
    assert [of(name).exact for name in ROWS] == [True, False, False]


@pytest.mark.parametrize("name", ROWS)
def test_each_says_which_device_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino, "devices", lambda: ("CPU",))
    reason = find(name).why_unavailable()
    assert reason is not None
    assert ("Intel NPU" if "npu" in name else "Intel GPU") in reason
    assert "finds CPU only" in reason
    assert what_to_type(reason) == ("" if "npu" in name else "apt install intel-opencl-icd")
    with pytest.raises(TecoError) as error:
        find(name).open(open_model("real-cpu"), SessionOptions())
    assert error.value.exit_code == MACHINE
    # One of several, as OpenVINO numbers them.
    monkeypatch.setattr(openvino, "devices", lambda: ("CPU", "GPU.0", "GPU.1", "NPU"))
    assert find(name).why_unavailable() is None


@pytest.mark.parametrize("name", ROWS)
def test_models_are_compiled_for_the_size_of_the_frames(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU plugin under the name of the other: sizes are fixed, and the settings are those of
    the row; a GPU that settles on another precision is refused."""
    ov = pytest.importorskip("openvino")
    import numpy as np

    seen: list[tuple[str, bool, dict[str, object]]] = []
    settled = {"openvino-gpu": "f32", "openvino-gpu-fp16": "f16", "openvino-npu": ""}[name]

    class Compiled:
        def __init__(self, inner) -> None:
            self.create_infer_request, self.input = inner.create_infer_request, inner.input

        def get_property(self, _key: str) -> SimpleNamespace:
            return SimpleNamespace(to_string=lambda: settled)

    real = ov.Core

    class Core:
        def read_model(self, path: str):
            return real().read_model(path)

        def get_property(self, device: str, key: str) -> str:
            return f"{device} {key}"

        def compile_model(self, network, device: str, settings: dict[str, object]) -> Compiled:
            dynamic = any(port.partial_shape.is_dynamic for port in network.inputs)
            seen.append((device, dynamic, settings))
            return Compiled(real().compile_model(network, "CPU"))

    monkeypatch.setattr(openvino, "devices", lambda: ("CPU", "GPU", "NPU"))
    monkeypatch.setattr(ov, "Core", Core)
    session = find(name).open(open_model("real-cpu"), SessionOptions(threads=1))
    assert seen == []  # the size is not known yet
    picture, state = session.step(np.zeros((1, 3, 16, 24), np.float32), None)
    session.step(np.zeros((1, 3, 16, 24), np.float32), state)
    assert picture.shape == (1, 3, 64, 96)
    assert seen == [(of(name).plugin, False, of(name).settings(1))]
    if settled:
        settled = "bf16"
        other = find(name).open(open_model("real-cpu"), SessionOptions(threads=1))
        with pytest.raises(TecoError, match="settled on bf16"):
            other.step(np.zeros((1, 3, 16, 24), np.float32), None)


# --- WebGPU ---------------------------------------------------------------------------------

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""A Vulkan made of software, which Chromium brings."""

PROGRAM = """
import json, sys
import numpy as np
from teco.runtimes.base import moving_frames
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
found = {}
for name in sys.argv[1:]:
    model = open_model(name)
    one = find("onnxruntime-webgpu").open(model, SessionOptions(threads=1))
    other = find("onnxruntime").open(model, SessionOptions(threads=1))
    gaps = []
    for h, w in ((16, 24), (11, 21)):
        a = b = first = None
        frames = moving_frames(h, w, 4)
        for lr in frames:
            mine, a = one.step(lr, a)
            truth, b = other.step(lr, b)
            gaps.append(float(np.abs(mine - truth).max()))
            first = mine.copy() if first is None else first
        again, _ = one.step(frames[0], None)
        assert np.array_equal(first, again), "a new scene is as if nothing had been before it"
    found[name] = [max(gaps), one.details]
    one.close()
    other.close()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_webgpu_computes_what_the_processor_does() -> None:
    """On a Vulkan made of software: state on the device, two sizes, a new scene."""
    if importlib.util.find_spec(webgpu.PLUGIN) is None:
        pytest.skip(f"{webgpu.PLUGIN} is not installed: pip install 'teco[webgpu]'")
    if not SWIFTSHADER.exists():
        pytest.skip(f"there is no {SWIFTSHADER}: apt install chromium")
    environment = {
        **os.environ, "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
        "VK_ICD_FILENAMES": str(SWIFTSHADER), "XDG_RUNTIME_DIR": "/tmp",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "real-cpu", "live"], env=environment, check=False,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert all(gap < 1e-4 for gap, _ in found.values()), found
    assert all("WebGpuExecutionProvider" in details for _, details in found.values())


def test_webgpu_takes_the_form_for_browsers_alone(tiny_onnx: Path) -> None:
    runtime = find("onnxruntime-webgpu")
    assert runtime.why_not(open_model("live")) is None
    plain = open_model(str(tiny_onnx))
    assert "`teco export --for web`" in str(runtime.why_not(plain))
    assert plain.manifest is not None
    assert runtime.why_not(replace(plain, manifest=replace(plain.manifest, target="web"))) is None


def test_webgpu_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = find("onnxruntime-webgpu")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == webgpu.PLUGIN else real(name)
    )
    assert what_to_type(str(runtime.why_unavailable())) == "pip install 'teco[webgpu]'"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name == webgpu.PLUGIN else real(name)
    )
    monkeypatch.setattr(webgpu, "plugin_devices", lambda _: ("its own", []))
    reason = str(runtime.why_unavailable())
    assert "Vulkan driver" in reason
    assert what_to_type(reason) == "apt install libvulkan1 mesa-vulkan-drivers"


def test_a_broken_plugin_is_said_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"{webgpu.PLUGIN}.py").write_text("raise ImportError('libdawn.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, webgpu.PLUGIN, raising=False)
    monkeypatch.setattr(webgpu, "_SINCE", (1,))
    plugin_devices.cache_clear()
    reason = str(find("onnxruntime-webgpu").why_unavailable())
    assert "libdawn.so: no such file" in reason
    assert what_to_type(reason) == "pip install --force-reinstall onnxruntime-ep-webgpu"
    assert doctor.runtimes()["onnxruntime"].reason is None
    assert "onnxruntime" in [r.name for r in usable(open_model("real-cpu"))]
