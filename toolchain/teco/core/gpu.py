"""Which NVIDIA GPUs are here and how they are doing: the one place that asks.

NVML is asked first (nvidia-ml-py loads the driver's own library and puts nothing on a GPU), then
the program ``nvidia-smi``, which may be on the path where the library is not, then the CUDA driver:
a Jetson has neither of the others, or ones that do not know the answer. The last way has not yet
been run on a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

_T = TypeVar("_T")

_MAJOR, _MINOR = 75, 76
"""CUdevice_attribute, CUDA driver API."""

_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE, CUDA driver API."""

THROTTLE_BITS = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's clock event reasons that are no choice of anybody's: slowdown by the hardware, thermal by
software and by hardware, power brake (nvml.h, nvmlClocksEventReason...)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU; what its driver does not tell is empty.

    Attributes:
        name: of the product.
        compute_capability: 89 for 8.9; 0 where it is not told.
        driver: version.
        memory: with its unit, "24564 MiB".
    """

    name: str
    compute_capability: int = 0
    driver: str = ""
    memory: str = ""

    @property
    def capability(self) -> str:
        """The compute capability as it is written, "8.9"."""
        major, minor = divmod(self.compute_capability, 10)
        return f"{major}.{minor}" if self.compute_capability else ""

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability or 'unknown'})"


def find() -> tuple[Gpu, ...]:
    """The GPUs in CUDA's order, so that the first is the one that everything here runs on.

    Empty without one. Never fails. NVML and nvidia-smi count by slot and know nothing of
    ``CUDA_VISIBLE_DEVICES``; CUDA counts the fastest first, so with several it is asked.
    """
    found = _ask_nvml(_describe) or _from_nvidia_smi()
    if not found or (len(found) == 1 and "CUDA_VISIBLE_DEVICES" not in os.environ):
        return tuple(found or _from_cuda() or ())
    known = {(g.name, g.compute_capability): g for g in reversed(found)}
    if (ordered := _from_cuda()) is None:
        return tuple(found)
    return tuple(known.get((g.name, g.compute_capability), g) for g in ordered)


def driver_cuda() -> str | None:
    """The newest CUDA that the driver runs, "13.0"; None where there is no driver."""
    found = _with_nvml(pynvml.nvmlSystemGetCudaDriverVersion)
    if found is not None:
        return f"{found // 1000}.{found % 1000 // 10}"
    page = "\n".join(_run_nvidia_smi())
    match = re.search(r"CUDA (?:UMD |Driver )?Version\s*:\s*(\d+\.\d+)", page)
    return match[1] if match else None


def free_bytes() -> int | None:
    """Free memory of the first GPU of :func:`find`; None without one, or where several are alike
    and nothing tells which of them it is."""

    def named(handle: Any) -> tuple[str, int]:
        name = pynvml.nvmlDeviceGetName(handle)
        return name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)

    free = _ask_nvml(named)
    if not free:
        for line in _query_nvidia_smi("name,memory.free"):
            name, _, text = line.rpartition(",")
            if match := re.match(r"\s*(\d+) MiB", text):
                free.append((name.strip(), int(match[1]) * 2**20))
    if len(free) > 1:
        first = find()[:1]
        free = [one for one in free if first and one[0] == first[0].name]
    return free[0][1] if len(free) == 1 else None


def process_bytes(pid: int) -> int | None:
    """What a process holds on all GPUs, its CUDA context counted; None where nobody tells.

    The driver does not know it of a process in a container with process numbers of its own, and
    under Windows' display driver model.
    """

    def of(handle: Any) -> list[int | None]:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return [p.usedGpuMemory for p in running if p.pid == pid]

    held = [used for found in _ask_nvml(of) for used in found]
    known = [used for used in held if used is not None]
    return sum(known) if known and len(known) == len(held) else None


def throttled() -> bool:
    """Whether a GPU holds its clocks down now, for heat or power supply."""
    reasons = _ask_nvml(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
    if not reasons:  # a driver before 535 does not know that name
        told = _query_nvidia_smi("clocks_throttle_reasons.active")
        reasons = [int(line, 16) for line in told if re.fullmatch("0x[0-9a-fA-F]+", line)]
    return any(found & THROTTLE_BITS for found in reasons)


# --- NVML ------------------------------------------------------------------------------------


def _with_nvml(ask: Callable[[], _T]) -> _T | None:
    """The answer of NVML; None where there is no driver, or it does not know one."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return ask()
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _ask_nvml(ask: Callable[[Any], _T]) -> list[_T]:
    """The answers for each GPU's handle; empty where one has none."""

    def of_each() -> list[_T]:
        count = pynvml.nvmlDeviceGetCount()
        return [ask(pynvml.nvmlDeviceGetHandleByIndex(n)) for n in range(count)]

    return _with_nvml(of_each) or []


def _describe(handle: Any) -> Gpu:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(
        pynvml.nvmlDeviceGetName(handle),
        major * 10 + minor,
        pynvml.nvmlSystemGetDriverVersion(),
        f"{total // 2**20} MiB",
    )


# --- nvidia-smi ------------------------------------------------------------------------------


def _run_nvidia_smi(*arguments: str) -> list[str]:
    """The lines that it prints; none where it is absent or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, encoding="utf-8", errors="replace",
            timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _query_nvidia_smi(fields: str) -> list[str]:
    """One line for each GPU with these fields."""
    return _run_nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader")


def _from_nvidia_smi() -> list[Gpu]:
    found: list[Gpu] = []
    for line in _query_nvidia_smi("name,compute_cap,driver_version,memory.total"):
        fields = [x.strip() for x in line.rsplit(",", 3)]
        if len(fields) == 4:
            name, capability, driver, memory = ("" if x.startswith("[") else x for x in fields)
            major, _, minor = capability.partition(".")
            known = major.isdecimal() and minor.isdecimal()  # an old driver prints [N/A]
            found.append(Gpu(name, int(major + minor) if known else 0, driver, memory))
    if found:
        return found
    # A driver too old to know compute_cap refuses the whole question.
    for line in _query_nvidia_smi("name,driver_version,memory.total"):
        fields = [x.strip() for x in line.rsplit(",", 2)]
        if len(fields) == 3:
            found.append(Gpu(fields[0], driver=fields[1], memory=fields[2]))
    return found


# --- the CUDA driver -------------------------------------------------------------------------


def _from_cuda() -> list[Gpu] | None:
    """The GPUs that CUDA shows, without their memory; None where it cannot be asked."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            cuda = ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        return None
    count = ctypes.c_int()
    # With CUDA_VISIBLE_DEVICES empty, cuInit says that there is no device: none is to be seen.
    if (error := cuda.cuInit(0)) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return [] if error == _NO_DEVICE else None
    found: list[Gpu] = []
    for n in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        failed = (
            cuda.cuDeviceGet(ctypes.byref(device), n)
            or cuda.cuDeviceGetName(name, len(name), device)
            or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
            or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        )
        if not failed:
            text = name.value.decode(errors="replace")
            found.append(Gpu(text, major.value * 10 + minor.value))
    return found
