"""`teco doctor`: what a machine has, as programs tell and as packages lie there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import nvidia_driver
import pytest
from nvidia_driver import nvidia_smi, program

from teco import runtimes
from teco.core.errors import TecoError
from teco.core.gpu import Gpu
from teco.model.engine import api
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, base, doctor, find, open_session
from teco.runtimes.doctor import Part
from teco.runtimes.nvidia import device


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder that comes first on the path; no other nvidia-smi or nvcc is found, no library."""
    nvidia_driver.only_programs(tmp_path, monkeypatch)
    for name in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_two_gpus(programs, teco):
    nvidia_smi(
        programs,
        "NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564 MiB\n"
        "Quadro, one, with commas, 7.5, 580.65.06, [N/A]",
    )
    facts = json.loads(teco("doctor", "--json").stdout)
    assert facts["gpus"] == [
        {"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9",
         "driver": "580.65.06", "memory": "24564 MiB"},
        {"name": "Quadro, one, with commas", "compute_capability": "7.5",
         "driver": "580.65.06", "memory": ""},
    ]  # fmt: skip
    assert facts["machine"]["gpus"][0] == "NVIDIA GeForce RTX 4090, 580.65.06, 24564 MiB"
    assert facts["driver_cuda"] == "13.0"
    text = teco("doctor").stdout.decode()
    assert "RTX 4090, compute capability 8.9, 24564 MiB, driver 580.65.06" in text
    assert "driver runs up to 13.0" in text


def test_toolkit(programs, monkeypatch, tmp_path):
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    program(tmp_path / "cuda" / "bin", "nvcc", "echo 'Cuda compilation tools, release 12.8, V12'")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert doctor.cuda_toolkit() == f"12.8 at {tmp_path}/cuda/bin/nvcc"
    program(programs, "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.48'")
    assert doctor.cuda_toolkit() == f"13.0 at {programs}/nvcc"
    program(programs, "nvcc", "exit 1")
    assert doctor.cuda_toolkit() == f"12.8 at {tmp_path}/cuda/bin/nvcc"


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("a needs b, which is not installed: pip install 'teco[b]'", "pip install 'teco[b]'"),
        ("x: pip uninstall a, then pip install b", "pip uninstall a && pip install b"),
        ("z needs a CPU with bfloat16 instructions, which this one lacks", ""),
    ],
)
def test_what_to_type(reason, command):
    assert doctor.what_to_type(reason) == command
    assert doctor.what_to_type("needs an NVIDIA GPU and driver").startswith("nvidia-smi ")


def test_what_a_cpu_is_good_at():
    assert doctor.cpu_precisions(("avx2", "avx512f")) == {}
    assert doctor.cpu_precisions(("avx_vnni",)) == {"int8": ("avx_vnni",)}
    found = doctor.cpu_precisions(("avx512_vnni", "avx512_bf16", "amx_bf16", "avx512_fp16"))
    assert found == {
        "int8": ("avx512_vnni",),
        "bf16": ("avx512_bf16", "amx_bf16"),
        "fp16": ("avx512_fp16",),
    }


def test_versions_of_runtimes(monkeypatch):
    installed = {"onnxruntime-gpu": "1.31.0", "onnxruntime": "1.32.0", "tensorrt-rtx": "1.7.1"}
    monkeypatch.setattr(base, "version_of", installed.get)
    assert base.package_version(find("onnxruntime-cuda")) == "1.31.0"
    assert base.package_version(find("tensorrt-rtx")) == "1.7.1"
    assert base.package_version(find("tensorrt")) is None
    assert base.package_version(find("openvino-bf16")) is None


def test_two_packages_of_onnx_runtime(programs, monkeypatch, teco):
    """They share a folder, and pip finds nothing wrong with that."""
    both = {"onnxruntime-gpu": "1.31.1", "onnxruntime": "1.32.0"}
    monkeypatch.setattr(doctor, "version_of", both.get)
    found = doctor.conflict()
    assert found is not None
    assert found.command == (
        "pip uninstall -y onnxruntime-gpu onnxruntime && pip install 'teco[cpu]'"
    )
    nvidia_smi(programs, "NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564 MiB")
    found = doctor.conflict()
    assert found is not None
    assert found.command.endswith("'teco[nvidia]'")
    del both["onnxruntime"]
    assert doctor.conflict() is None


def test_nothing_that_runs_models(monkeypatch):
    """A base install: the command that needs a runtime says which extra brings one."""
    real = importlib.util.find_spec
    missing = ("onnxruntime", "openvino", "torch")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else real(name, *a)
    )
    with pytest.raises(TecoError) as refused:
        open_session(open_model("real-cpu"), "auto", SessionOptions())
    assert refused.value.exit_code == 3
    assert refused.value.hint.startswith("pip install 'teco[cpu]'")
    monkeypatch.setattr(runtimes.gpu, "find", lambda: (Gpu("one", 89),))
    assert runtimes.what_to_install().startswith("pip install 'teco[nvidia]'")


def test_stubs_are_not_tensorrt(tmp_path, monkeypatch):
    """A folder without code makes a namespace package of the name."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    if api.is_installed("tensorrt"):
        pytest.skip("tensorrt itself is installed")
    part = doctor.builders()["tensorrt"]
    assert part.version is None
    assert part.reason is not None
    assert "not installed" in part.reason
    assert part.command == "pip install 'teco[tensorrt]'"


def test_tensorrt_without_a_gpu(monkeypatch):
    class Bindings:
        __version__ = "11.4.0"

    monkeypatch.setattr(doctor.api, "load", lambda *_: Bindings)
    monkeypatch.setattr(doctor.gpu, "find", lambda: ())
    part = doctor.builders()["tensorrt"]
    assert part.version == "11.4.0"
    assert part.reason is not None
    assert "none is found" in part.reason
    assert doctor.builders()["rtx"] == Part("11.4.0", None)


def test_adapters(tmp_path, monkeypatch):
    """cuda.bindings lies in a package that need not be there either."""
    monkeypatch.setattr(doctor.device.importlib.util, "find_spec", lambda name: None)
    assert [p.version for p in doctor.adapters().values()] == [None, None]

    def parent_is_missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(doctor.device.importlib.util, "find_spec", parent_is_missing)
    assert doctor.adapters()["cuda-python"].command == device.INSTALL


def test_layout_and_keys(programs, teco):
    nvidia_smi(programs, f"{'GPU ' * 30}, 8.9, 580.65.06, 24564 MiB")
    text = teco("doctor").stdout.decode()
    assert max(map(len, text.splitlines())) <= 100
    facts = json.loads(teco("doctor", "--json").stdout)
    # Names that scripts read: added to, never taken away.
    assert set(facts) >= {
        "machine", "runtimes", "lpips", "models", "runtime_versions", "commands", "gpus",
        "driver_cuda", "cuda_toolkit", "cuda_packages", "builders", "adapters", "cpu_precisions",
    }  # fmt: skip
    assert set(facts["builders"]) == {"rtx", "tensorrt"}
    assert facts["adapters"]["pycuda"].keys() == {"version", "reason", "command"}
