"""What this machine can run, what is missing, and what to type to have it.

Everything here is read: nothing is installed, no model is opened, and nothing is put on a GPU.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teco.core import gpu
from teco.core.errors import TecoError
from teco.core.gpu import Gpu
from teco.core.machine import Machine, inspect, version_of
from teco.model.engine import api
from teco.runtimes import RUNTIMES
from teco.runtimes.base import PACKAGES_OF_ONNXRUNTIME, package_version
from teco.runtimes.nvidia import device
from teco_calibration.metrics.quality import Lpips
from teco_models import zoo


@dataclass(frozen=True)
class Part:
    """A library that something needs.

    Attributes:
        version: of what is installed; None where it is absent or does not load.
        reason: None where it works, else why not, one sentence.
        command: what to type to have it; "" where there is nothing to type.
    """

    version: str | None
    reason: str | None
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Everything that ``teco doctor`` says.

    Attributes:
        machine: processor, memory, system, packages.
        cpu_precisions: precision -> the CPU's instructions that are faster at it than at float32.
        gpus: NVIDIA's.
        driver_cuda: the newest CUDA that the driver runs, None without one.
        cuda_toolkit: version and place, None where none is found.
        cuda_packages: Python packages that bring a part of CUDA, with their versions.
        runtimes: by name.
        builders: what builds engines, "rtx" and "tensorrt".
        adapters: what sessions of engines hold device memory with; one is enough.
        conflict: None, or how two packages of ONNX Runtime stand in each other's way.
        lpips: None where the metric can be measured, else why not.
        models: names of those that are shipped.
    """

    machine: Machine
    cpu_precisions: dict[str, tuple[str, ...]]
    gpus: tuple[Gpu, ...]
    driver_cuda: str | None
    cuda_toolkit: str | None
    cuda_packages: dict[str, str]
    runtimes: dict[str, Part]
    builders: dict[str, Part]
    adapters: dict[str, Part]
    conflict: Part | None
    lpips: str | None
    models: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; scripts read these names, so they are added to and never taken away."""
        facts = asdict(self)
        facts["runtimes"] = {name: part.reason for name, part in self.runtimes.items()}
        facts["runtime_versions"] = {name: part.version for name, part in self.runtimes.items()}
        parts = self.runtimes | self.builders
        facts["commands"] = {name: part.command for name, part in parts.items() if part.reason}
        for shown, found in zip(facts["gpus"], self.gpus, strict=True):
            shown["compute_capability"] = found.capability
        return facts


def examine() -> DoctorReport:
    """Look at this machine."""
    machine = inspect()
    return DoctorReport(
        machine=machine,
        cpu_precisions=cpu_precisions(machine.cpu_flags),
        gpus=gpu.find(),
        driver_cuda=gpu.driver_cuda(),
        cuda_toolkit=cuda_toolkit(),
        cuda_packages=cuda_packages(),
        runtimes=runtimes(),
        builders=builders(),
        adapters=adapters(),
        conflict=conflict(),
        lpips=Lpips.why_unavailable(),
        models=tuple(entry.name for entry in zoo.entries()),
    )


def runtimes() -> dict[str, Part]:
    """Each runtime, and what would make it run here."""
    found: dict[str, Part] = {}
    for runtime in RUNTIMES:
        reason = runtime.why_unavailable()
        found[runtime.name] = Part(package_version(runtime), reason, what_to_type(reason or ""))
    return found


def conflict() -> Part | None:
    """What is wrong where two packages of ONNX Runtime are installed: both bring one folder."""
    found = {p: v for p in PACKAGES_OF_ONNXRUNTIME if (v := version_of(p))}
    if len(found) < 2:
        return None
    both = " and ".join(f"{package} {version}" for package, version in found.items())
    extra = "nvidia" if gpu.find() else "cpu"
    return Part(
        None,
        f"{both} are installed in one folder, and what was installed last is what runs",
        f"pip uninstall -y {' '.join(found)} && pip install 'teco[{extra}]'",
    )


_CUDA_PACKAGE = re.compile(
    r"nvidia-(cuda-|cudnn|cublas|curand)|cuda-(python|bindings|toolkit)|pycuda"
)


def cuda_packages() -> dict[str, str]:
    """Name -> version of every Python package that brings a part of CUDA, sorted."""
    named = {
        str(d.metadata["Name"] or "").lower().replace("_", "-"): d.version
        for d in importlib.metadata.distributions()
    }
    found = {name: version for name, version in named.items() if _CUDA_PACKAGE.match(name)}
    return dict(sorted(found.items()))


def cuda_toolkit() -> str | None:
    """Version and place of an installed CUDA toolkit, None where none is found.

    nvcc on the path, then what ``CUDA_PATH`` or ``CUDA_HOME`` names, then the usual folder.
    """
    roots = (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    folders = [str(Path(root) / "bin") for root in roots if root]
    candidates = (shutil.which("nvcc"), *(shutil.which("nvcc", path=f) for f in folders))
    for nvcc in candidates:
        if nvcc is None:
            continue
        try:
            out = subprocess.run(
                [nvcc, "--version"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        if match := re.search(r"release (\d+\.\d+)", out):
            return f"{match[1]} at {nvcc}"
    return None


def what_to_type(reason: str) -> str:
    """The command that a runtime's sentence is answered with; "" where none helps."""
    if match := re.search(r"\bpip (?:un)?install .*$", reason):
        return match[0].replace(", then pip", " && pip").rstrip(".")
    if match := re.search(r"\bapt install .*$", reason):
        return match[0]
    if "NVIDIA GPU" in reason:
        return "nvidia-smi   (it must list a GPU: install the GPU's driver first)"
    return ""


def builders() -> dict[str, Part]:
    """What builds engines: "rtx" and "tensorrt". A type-stub package is not TensorRT."""
    return {target: _bindings(target) for target in api.TARGETS}


def _bindings(target: str) -> Part:
    try:
        version = api.load(target, f"building an engine for {api.PRODUCTS[target]}").__version__
    except TecoError as error:
        return Part(None, error.message, error.hint)
    if target == "tensorrt" and not gpu.find():
        return Part(
            version,
            "TensorRT builds on the GPU that is to run the engine, and none is found",
            "teco export --formats rtx   (builds for TensorRT-RTX on any machine)",
        )
    return Part(version, None)


_ADAPTERS = {
    "cuda-python": (("cuda-python", "cuda-bindings"), "pip install 'teco[cuda]'"),
    "pycuda": (("pycuda",), "pip install 'teco[pycuda]'   (compiles; needs the CUDA toolkit)"),
}


def adapters() -> dict[str, Part]:
    """What sessions of engines can hold device memory with; one of them is enough."""
    found: dict[str, Part] = {}
    for name, (packages, command) in _ADAPTERS.items():
        if device.is_there(name):
            found[name] = Part(next((v for p in packages if (v := version_of(p))), "?"), None)
        else:
            found[name] = Part(None, f"{device.MODULES[name]} is not installed", command)
    return found


_GOOD_AT = {
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "asimdhp"),
}
"""Precision -> instructions any of which multiply it faster than float32."""


def cpu_precisions(flags: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Precision -> which of the CPU's instructions are for it; those without any are left out."""
    have = set(flags)
    found = {kind: tuple(f for f in names if f in have) for kind, names in _GOOD_AT.items()}
    return {kind: names for kind, names in found.items() if names}
