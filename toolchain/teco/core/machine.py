"""What this machine is and has, as a record; what is missing, in a sentence."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from teco.core import gpu
from teco.core.errors import MACHINE, TecoError


@dataclass(frozen=True)
class Machine:
    """A record of the machine, for benchmark reports and ``teco doctor``.

    Attributes:
        cpu: model name.
        cores: logical processors this process may use.
        cpu_flags: instruction sets that matter to the runtimes.
        memory_gib: physical memory.
        gpus: name, driver and memory of NVIDIA GPUs.
        os: system and release.
        python: version.
        packages: versions of what runs and makes models; absent ones are left out.
        governor: CPU frequency governor, where the system tells.
        load: one-minute load average when the record was made.
    """

    cpu: str
    cores: int
    cpu_flags: tuple[str, ...]
    memory_gib: float
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)
    governor: str | None = None
    load: float | None = None


_PACKAGES = (
    "teco",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime-ep-webgpu",
    "openvino",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "lpips",
    "lmdb",
    "av",
    "opencv-python-headless",
    "tensorrt",
    "tensorrt-rtx",
)

_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
    "amx_int8", "asimd", "asimddp", "asimdhp", "i8mm", "bf16",
)  # fmt: skip


def inspect() -> Machine:
    """Look at this machine. Never fails; what cannot be found out is empty."""
    info = _read("/proc/cpuinfo")
    names = [x.split(":", 1)[1].strip() for x in info.splitlines() if x.startswith("model name")]
    flags = next(
        (
            set(x.split(":", 1)[1].split())
            for x in info.splitlines()
            if x.startswith(("flags", "Features"))
        ),
        set[str](),
    )
    versions = {name: v for name in _PACKAGES if (v := version_of(name))}
    return Machine(
        cpu=names[0] if names else platform.processor() or platform.machine(),
        cores=usable_cores(),
        cpu_flags=tuple(f for f in _FLAGS if f in flags),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=tuple(", ".join(x for x in (g.name, g.driver, g.memory) if x) for g in gpu.find()),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=versions,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        load=psutil.getloadavg()[0],
    )


def usable_cores() -> int:
    """Logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version_of(package: str) -> str | None:
    """Installed version of a distribution, None when absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_extra(module: str, extra: str, purpose: str) -> str | None:
    """None when ``module`` can be imported, else the sentence that says what to install."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"{purpose} needs {module}, which is not installed: {_install(extra)}"


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Raise the sentence of :func:`missing_extra` as an error with exit code 3."""
    if missing_extra(module, extra, purpose):
        raise TecoError(
            f"{purpose} needs {module}, which is not installed",
            hint=_install(extra),
            exit_code=MACHINE,
        )


def _install(extra: str) -> str:
    """The command; what adds PyTorch to an install with an ONNX Runtime must not bring another."""
    if extra == "torch" and importlib.util.find_spec("onnxruntime") is None:
        extra = "train"
    return f"pip install 'teco[{extra}]'"


def install_elsewhere(extra: str) -> str:
    """The command that installs this teco with an extra on another machine, for what is emitted.

    It comes from where this one came from: a repository with its commit, or an index with its
    version. A checkout is nothing that another machine has, and the index may know another ``teco``
    or none; what to put in its place is said then.
    """
    checkout = f"pip install 'CHECKOUT[{extra}]'    # CHECKOUT: a copy of teco's repository"
    try:
        own = importlib.metadata.distribution("teco")
    except importlib.metadata.PackageNotFoundError:
        return checkout
    origin = own.read_text("direct_url.json")  # PEP 610; an index leaves none
    if origin is None:
        return f"pip install 'teco[{extra}]=={own.version}'"
    source: dict[str, Any] = json.loads(origin)
    if (vcs := source.get("vcs_info")) is None or source["url"].startswith("file:"):
        return checkout
    where = f"{vcs['vcs']}+{source['url']}@{vcs['commit_id']}"
    return f"pip install 'teco[{extra}] @ {where}'"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
