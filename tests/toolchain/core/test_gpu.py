"""Facts of NVIDIA GPUs: from the driver's library, else from its program, else none."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import nvidia_driver
import pytest

from teco.core import gpu
from teco.core.gpu import Gpu

ADA = {"name": "NVIDIA GeForce RTX 4090", "capability": (8, 9), "total": 24564 << 20,
       "free": 24000 << 20, "reasons": 0x4}  # fmt: skip
BLACKWELL = {**ADA, "name": "NVIDIA GeForce RTX 5090", "capability": (12, 0), "reasons": 0x40}


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder of programs, where the driver's library is not."""
    nvidia_driver.only_programs(tmp_path, monkeypatch)
    return tmp_path


def test_the_library_is_asked_first(programs, monkeypatch) -> None:
    nvidia_driver.nvidia_smi(programs, "Another, 5.0, 1, 1 MiB")
    driver = nvidia_driver.nvml([ADA, BLACKWELL])
    monkeypatch.setattr(gpu, "pynvml", driver)
    assert gpu.find() == (
        Gpu("NVIDIA GeForce RTX 4090", 89, "580.65.06", "24564 MiB"),
        Gpu("NVIDIA GeForce RTX 5090", 120, "580.65.06", "24564 MiB"),
    )
    assert [g.capability for g in gpu.find()] == ["8.9", "12.0"]
    assert gpu.driver_cuda() == "13.0"
    assert gpu.free_bytes() == 24000 << 20
    assert gpu.throttled(), "the second is too hot"
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([ADA], cuda=12090))
    assert not gpu.throttled(), "a power cap is somebody's choice"
    assert gpu.driver_cuda() == "12.9"
    assert driver.calls.count("init") == driver.calls.count("shutdown") > 0


def test_what_the_library_does_not_know_the_program_may(programs, monkeypatch) -> None:
    old = {k: v for k, v in ADA.items() if k not in ("reasons", "capability")}
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([old]))
    nvidia_driver.nvidia_smi(programs, "Old, 6.1, 470.1, 8192 MiB")
    assert gpu.find() == (Gpu("Old", 61, "470.1", "8192 MiB"),)
    nvidia_driver.nvidia_smi(programs, "0x0000000000000008")
    assert gpu.throttled()


class CudaDriver:
    """``libcuda``, as ctypes shows it: these GPUs in this order."""

    def __init__(self, gpus: list[tuple[str, int, int]], error: int = 0) -> None:
        self.gpus, self.error = gpus, error

    def cuInit(self, flags: int) -> int:
        return self.error

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, buffer, length: int, device) -> int:
        buffer.value = self.gpus[device.value][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value, which: int, device) -> int:
        value._obj.value = self.gpus[device.value][1 if which == 75 else 2]
        return 0


def test_two_gpus_come_in_cudas_order(programs, monkeypatch) -> None:
    """What runs first is what CUDA counts first, and what it hides is not there."""
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([ADA, BLACKWELL]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ada, blackwell = ("NVIDIA GeForce RTX 4090", 8, 9), ("NVIDIA GeForce RTX 5090", 12, 0)

    def ask(*seen: tuple[str, int, int], error: int = 0) -> list[str]:
        driver = CudaDriver(list(seen), error)
        monkeypatch.setattr(gpu, "ctypes", SimpleNamespace(
            CDLL=lambda name: driver, c_int=ctypes.c_int, byref=ctypes.byref,
            create_string_buffer=ctypes.create_string_buffer,
        ))  # fmt: skip
        return [str(g) for g in gpu.find()]

    first, second = (str(g) for g in gpu.find())
    assert ask(blackwell, ada) == [second, first]
    assert gpu.find()[0].memory == "24564 MiB", "NVML's facts are kept"
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([{**ADA, "free": 1}, BLACKWELL]))
    assert gpu.free_bytes() == 24000 << 20, "of the one that CUDA counts first"
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([ADA, BLACKWELL]))
    assert ask(blackwell) == [second]
    assert ask(error=3) == [first, second], "a driver that cannot be asked"
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([ADA]))
    assert ask(error=100) == [first]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert ask(error=100) == []


def test_what_a_process_holds(programs, monkeypatch) -> None:
    """Not what other programs, or candidates that were opened since, took of the GPU."""
    one, two = ({"processes": p} for p in ([(7, 600 << 20), (8, 1)], [(8, 2), (7, 100 << 20)]))
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([one, two]))
    assert gpu.process_bytes(7) == 700 << 20
    assert gpu.process_bytes(9) is None, "a container's numbers are others"
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml([{"processes": [(7, None)]}]))
    assert gpu.process_bytes(7) is None
    monkeypatch.setattr(gpu, "pynvml", nvidia_driver.nvml())
    assert gpu.process_bytes(7) is None


def test_the_program(programs) -> None:
    nvidia_driver.nvidia_smi(
        programs,
        "NVIDIA GeForce RTX 5090, 12.0, 580.65.06, 32607 MiB\n"
        "Quadro, one, with commas, 7.5, 580.65.06, [N/A]\nOld, [N/A], 1.2, 5 MiB",
    )
    assert gpu.find() == (
        Gpu("NVIDIA GeForce RTX 5090", 120, "580.65.06", "32607 MiB"),
        Gpu("Quadro, one, with commas", 75, "580.65.06", ""),
        Gpu("Old", 0, "1.2", "5 MiB"),
    )
    assert gpu.driver_cuda() == "13.0"
    nvidia_driver.nvidia_smi(programs, "One, 1234 MiB")
    assert gpu.free_bytes() == 1234 << 20


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [
        ("0x0000000000000000", False),
        ("0x0000000000000001", False),
        ("0x80", True),
        ("[N/A]", False),
    ],
)
def test_throttling_by_the_program(programs, bits, throttled) -> None:
    nvidia_driver.nvidia_smi(programs, bits)
    assert gpu.throttled() is throttled


def test_a_driver_that_does_not_know_compute_cap(programs) -> None:
    nvidia_driver.nvidia_smi(programs, "Tesla K80, 440.33.01, 11441 MiB", knows_capability=False)
    assert gpu.find() == (Gpu("Tesla K80", 0, "440.33.01", "11441 MiB"),)


@pytest.mark.parametrize(
    "body",
    ["exit 9", "echo 'NVIDIA-SMI has failed'; exit 1", "echo", "echo 'No devices were found'",
     "kill $$"],
)  # fmt: skip
def test_a_program_that_finds_none(programs, body) -> None:
    nvidia_driver.program(programs, "nvidia-smi", body)
    assert gpu.find() == ()
    assert gpu.driver_cuda() is None
    assert gpu.free_bytes() is None
    assert not gpu.throttled()


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("CUDA Version: 12.4 |", "12.4"),
        ("CUDA UMD Version: 13.1", "13.1"),
        ("CUDA Version: N/A", None),
    ],
)
def test_the_programs_own_page(programs, line, version) -> None:
    nvidia_driver.program(programs, "nvidia-smi", f"echo '| {line}'")
    assert gpu.driver_cuda() == version
