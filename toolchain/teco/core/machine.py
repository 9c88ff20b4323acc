"""What this machine is and has, as a record; what is missing, in a sentence."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from teco.core.errors import MACHINE, TecoError


@dataclass(frozen=True)
class Machine:
    """A record of the machine, for benchmark reports and ``teco doctor``.

    Attributes:
        cpu: model name.
        cores: logical processors this process may use.
        cpu_flags: instruction sets that matter to the runtimes.
        memory_gib: physical memory.
        gpus: name and driver of NVIDIA GPUs, as nvidia-smi says.
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
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = None
    return Machine(
        cpu=names[0] if names else platform.processor() or platform.machine(),
        cores=usable_cores(),
        cpu_flags=tuple(f for f in _FLAGS if f in flags),
        memory_gib=round(_memory_bytes() / 2**30, 1),
        gpus=nvidia_gpus(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=versions,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        load=load,
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
    return f"{purpose} needs {module}, which is not installed: pip install 'teco[{extra}]'"


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Raise the sentence of :func:`missing_extra` as an error with exit code 3."""
    if missing_extra(module, extra, purpose):
        raise TecoError(
            f"{purpose} needs {module}, which is not installed",
            hint=f"pip install 'teco[{extra}]'",
            exit_code=MACHINE,
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def nvidia_gpus() -> tuple[str, ...]:
    """Name, driver and memory of each NVIDIA GPU as nvidia-smi prints them; empty without one."""
    return nvidia_smi("name,driver_version,memory.total")


def nvidia_smi(fields: str) -> tuple[str, ...]:
    """One line for each GPU with these fields; empty where nvidia-smi cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in out.splitlines() if line.strip())
