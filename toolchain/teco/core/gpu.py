"""Which NVIDIA GPUs are here, and their compute capability."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from teco.core.machine import nvidia_smi

# CUdevice_attribute, CUDA driver API.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver says.
        compute_capability: 89 for 8.9.
    """

    name: str
    compute_capability: int

    def __str__(self) -> str:
        major, minor = divmod(self.compute_capability, 10)
        return f"{self.name} (compute capability {major}.{minor})"


def find() -> tuple[Gpu, ...]:
    """The GPUs in the driver's order; empty without one. Never fails.

    nvidia-smi is asked first, which loads nothing into this process; Jetsons have none or one that
    does not know the answer, so the driver itself is asked then. The second way has not yet been
    run on a GPU.
    """
    return from_nvidia_smi() or _from_driver()


def from_nvidia_smi() -> tuple[Gpu, ...]:
    """What ``nvidia-smi --query-gpu=name,compute_cap`` says; empty when it cannot be asked."""
    found: list[Gpu] = []
    for line in nvidia_smi("name,compute_cap"):
        name, _, capability = line.rpartition(",")
        major, _, minor = capability.strip().partition(".")
        if major.isdecimal() and minor.isdecimal():  # an old driver prints [N/A]
            found.append(Gpu(name.strip(), int(major) * 10 + int(minor)))
    return tuple(found)


def _from_driver() -> tuple[Gpu, ...]:
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            cuda = ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
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
    return tuple(found)
