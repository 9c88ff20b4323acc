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
from dataclasses import dataclass
from pathlib import Path

from teco.core import gpu
from teco.core.errors import TecoError
from teco.core.machine import nvidia_smi, version_of
from teco.model.engine import api
from teco.runtimes.nvidia import device


@dataclass(frozen=True)
class GpuReport:
    """One NVIDIA GPU as nvidia-smi describes it; "" for what it does not know.

    Attributes:
        name: of the product.
        compute_capability: "8.9".
        driver: version.
        memory: with its unit, "24564 MiB".
    """

    name: str
    compute_capability: str
    driver: str
    memory: str


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


def find_gpus() -> tuple[GpuReport, ...]:
    """Each GPU in the driver's order; empty without one. Never fails."""
    found: list[GpuReport] = []
    for line in nvidia_smi("name,compute_cap,driver_version,memory.total"):
        fields = [x.strip() for x in line.rsplit(",", 3)]
        if len(fields) == 4:
            found.append(GpuReport(*("" if x.startswith("[") else x for x in fields)))  # "[N/A]"
    if found:
        return tuple(found)
    # A driver too old to know compute_cap refuses the whole question; a Jetson has no nvidia-smi.
    for line in nvidia_smi("name,driver_version,memory.total"):
        name, driver, memory = (x.strip() for x in line.rsplit(",", 2))
        found.append(GpuReport(name, "", driver, memory))
    if found:
        return tuple(found)
    return tuple(
        GpuReport(g.name, "{}.{}".format(*divmod(g.compute_capability, 10)), "", "")
        for g in gpu.find()
    )


def driver_cuda() -> str | None:
    """The newest CUDA that the driver runs, "13.0", from the head of nvidia-smi's own page."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        out = subprocess.run(
            [program], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"CUDA (?:UMD |Driver )?Version\s*:\s*(\d+\.\d+)", out)
    return match[1] if match else None


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
