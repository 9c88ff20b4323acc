"""An NVIDIA driver made up: its library as nvidia-ml-py shows it, and its program nvidia-smi."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from teco.core import gpu

PAGE = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
"""


class NVMLError(Exception):
    """As the module has it."""


def nvml(
    gpus: Sequence[Mapping[str, Any]] = (), *, driver: str = "580.65.06", cuda: int = 13000
) -> SimpleNamespace:
    """What of ``pynvml`` is used. A GPU without a value does not know the answer.

    Args:
        gpus: for each ``name``, ``capability`` (major, minor), ``total`` and ``free`` bytes,
            ``reasons`` bits, ``processes`` as (number, bytes). None at all: no library.
    """
    calls: list[str] = []

    def init() -> None:
        if not gpus:
            raise NVMLError("Library Not Found")
        calls.append("init")

    def of(key: str) -> Any:
        def ask(handle: int) -> Any:
            if key not in gpus[handle]:
                raise NVMLError("Function Not Found")
            return gpus[handle][key]

        return ask

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlSystemGetCudaDriverVersion=lambda: cuda,
        nvmlSystemGetDriverVersion=lambda: driver,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetName=of("name"),
        nvmlDeviceGetCudaComputeCapability=of("capability"),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(
            total=of("total")(handle), free=of("free")(handle)
        ),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in of("processes")(handle)
        ],
        nvmlDeviceGetCurrentClocksEventReasons=of("reasons"),
        calls=calls,
    )


def program(folder: Path, name: str, body: str) -> None:
    """An executable of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def nvidia_smi(folder: Path, rows: str, *, knows_capability: bool = True) -> None:
    """One that answers queries with these rows, and prints its page when asked for nothing."""
    refuse = "" if knows_capability else '*compute_cap*) echo "not a valid field" >&2; exit 2;;'
    program(
        folder,
        "nvidia-smi",
        f'case "$*" in\n{refuse}\n--query-gpu=*) cat <<E\n{rows}\nE\n;;\n*) cat <<E\n{PAGE}E\n;;\n'
        "esac",
    )


def only_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's library is not there, nor a CUDA driver; programs are first looked for here."""

    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu, "pynvml", nvml())
    monkeypatch.setattr(gpu, "ctypes", SimpleNamespace(CDLL=no_library))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
