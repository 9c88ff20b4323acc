"""The two ways to CUDA, with modules in their place that answer as the documented ones do."""

from __future__ import annotations

import ctypes
import enum
import gc
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from teco.core.errors import MACHINE, TecoError
from teco.runtimes.nvidia import device
from teco.runtimes.nvidia.device.cuda_python import CudaPython
from teco.runtimes.nvidia.device.protocol import CudaError, Device
from teco.runtimes.nvidia.device.pycuda import PyCuda


class Code(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class FakeRuntime:
    """``cuda.bindings.runtime``: each function gives a tuple of the error and the results."""

    cudaError_t = Code
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="H2D", cudaMemcpyDeviceToHost="D2H", cudaMemcpyDeviceToDevice="D2D"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2
    cudaStream_t = int

    def __init__(self, gpus: int = 1, **errors: Code) -> None:
        self.gpus, self.errors, self.calls = gpus, errors, []
        self.memory: dict[int, ctypes.Array] = {}

    def __getattr__(self, name: str):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.errors:
                return (self.errors[name], None)
            return (Code.cudaSuccess, *self.results(name, *arguments))

        return call

    def results(self, name: str, *arguments):
        if name == "cudaGetDeviceCount":
            return (self.gpus,)
        if name == "cudaGetDeviceProperties":
            return (SimpleNamespace(name=b"Fake 4090\0\0"),)
        if name in ("cudaMalloc", "cudaMallocHost"):
            block = (ctypes.c_uint8 * arguments[0])()
            self.memory[ctypes.addressof(block)] = block
            return (ctypes.addressof(block),)
        if name in ("cudaFree", "cudaFreeHost"):
            del self.memory[arguments[0]]
            return ()
        if name == "cudaMemcpyAsync":
            ctypes.memmove(*arguments[:3])
            return ()
        if name == "cudaMemsetAsync":
            ctypes.memset(*arguments[:3])
            return ()
        if name == "cudaMemGetInfo":
            return (5, 7)
        if name == "cudaEventElapsedTime":
            return (2.5,)
        if name == "cudaStreamCreateWithFlags":
            return (77,)
        made = ("cudaEventCreate", "cudaEventCreateWithFlags", "cudaStreamEndCapture",
                "cudaGraphInstantiate")  # fmt: skip
        return (name,) if name in made else ()

    def cudaGetErrorString(self, error: Code):
        return Code.cudaSuccess, error.name.encode()


class FakeDriver:
    """``pycuda.driver``: objects, exceptions, and a context that must be current."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self, broken: str = "") -> None:
        self.depth, self.broken, self.calls = 0, broken, []
        driver = self

        class Stream:
            handle = 77

            def __init__(self, flags: int) -> None:
                assert flags == 1
                driver.used("Stream")

            def synchronize(self) -> None:
                driver.used("synchronize")

        self.Stream = Stream

    def used(self, name: str) -> None:
        assert self.depth == 1, f"{name} without a context"
        self.calls.append(name)
        if name == self.broken:
            raise self.MemoryError(f"{name} failed: out of memory")

    def init(self) -> None:
        if self.broken == "init":
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def Device(self, index: int):
        def change(by: int) -> None:
            self.depth += by

        context = SimpleNamespace(
            push=lambda: change(1), pop=lambda: change(-1),
            synchronize=lambda: self.used("context"), detach=lambda: self.calls.append("detach"),
        )  # fmt: skip
        return SimpleNamespace(name=lambda: "Fake 4090", retain_primary_context=lambda: context)

    def mem_alloc(self, size: int):
        self.used("mem_alloc")
        block = (ctypes.c_uint8 * size)()

        class Allocation:
            def __int__(self) -> int:
                return ctypes.addressof(block)

            free = staticmethod(lambda: self.used("free"))

        return Allocation()

    def pagelocked_empty(self, size: int, dtype):
        self.used("pagelocked_empty")
        return np.empty(size, dtype)

    def memcpy_htod_async(self, target: int, source: np.ndarray, stream) -> None:
        self.used("htod")
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, target: np.ndarray, source: int, stream) -> None:
        self.used("dtoh")
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def memcpy_dtod_async(self, target: int, source: int, size: int, stream) -> None:
        self.used("dtod")
        ctypes.memmove(target, source, size)

    def memset_d8_async(self, address: int, value: int, size: int, stream) -> None:
        self.used("memset")
        ctypes.memset(address, value, size)

    def Event(self):
        self.used("Event")
        return SimpleNamespace(
            record=lambda stream: self.used("record"), time_since=lambda other: 2.5,
            synchronize=lambda: self.used("event"),
        )  # fmt: skip

    def mem_get_info(self):
        self.used("mem_get_info")
        return 5, 7


def both() -> list[Device]:
    return [CudaPython(runtime=FakeRuntime()), PyCuda(driver=FakeDriver())]


@pytest.mark.parametrize("gpu", both(), ids=["cuda-python", "pycuda"])
def test_bytes_go_there_and_back(gpu: Device) -> None:
    assert gpu.name.startswith("Fake 4090, ")
    assert gpu.stream == 77
    there, elsewhere = gpu.alloc(8), gpu.alloc(8)
    up, down = gpu.alloc_host(8), gpu.alloc_host(8)
    up[:] = np.arange(8)
    gpu.upload(there, up)
    gpu.copy(elsewhere, there, 8)
    gpu.zero(there, 4)
    gpu.download(down, elsewhere)
    gpu.synchronise()
    assert down.tolist() == list(range(8))
    gpu.download(down, there)
    assert down.tolist() == [0, 0, 0, 0, 4, 5, 6, 7]
    start, end = gpu.make_event(), gpu.make_event()
    gpu.record(start)
    gpu.record(end)
    assert gpu.elapsed_ms(start, end) == 2.5
    if gpu.can_capture:
        gpu.begin_capture()
        executable = gpu.instantiate(gpu.end_capture())
        gpu.launch(executable)
        gpu.free_executable(executable)
    gpu.wait_for(1)
    assert gpu.memory() == (5, 7)
    gpu.free(there)
    gpu.free(elsewhere)
    for event in (start, end):
        gpu.free_event(event)
    gpu.close()
    gpu.close()


def test_page_locked_memory_lives_as_long_as_anything_looks_at_it() -> None:
    runtime = FakeRuntime()
    gpu = CudaPython(runtime=runtime)
    view = gpu.alloc_host(16)[4:].view(np.float32)
    gc.collect()
    assert len(runtime.memory) == 1
    view[:] = 1
    del view
    gc.collect()
    assert runtime.memory == {}


def test_both_have_all_of_the_protocol() -> None:
    """With the parameters in the protocol's order and by its names."""
    for name, member in inspect.getmembers(Device, inspect.isfunction):
        if name.startswith("_"):
            continue
        wanted = list(inspect.signature(member).parameters)
        for adapter in (CudaPython, PyCuda):
            assert list(inspect.signature(getattr(adapter, name)).parameters) == wanted, name


def test_every_name_is_one_of_cuda_bindings() -> None:
    """The real module, which can be loaded without a GPU, has what the adapter calls."""
    real = pytest.importorskip("cuda.bindings.runtime")
    runtime = FakeRuntime()
    gpu = CudaPython(runtime=runtime)
    test_bytes_go_there_and_back(gpu)
    for name in {call[0] for call in runtime.calls}:
        assert hasattr(real, name), name
    for group in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name in vars(getattr(FakeRuntime, group)):
            assert hasattr(getattr(real, group), name), name
    for name in ("cudaStreamNonBlocking", "cudaEventDisableTiming"):
        assert int(getattr(real, name)) == getattr(FakeRuntime, name)


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (FakeRuntime(cudaGetDeviceCount=Code.cudaErrorInsufficientDriver), "InsufficientDriver"),
        (FakeRuntime(cudaGetDeviceCount=Code.cudaErrorNoDevice), "cudaErrorNoDevice"),
        (FakeRuntime(gpus=0), "CUDA finds 0 GPUs"),
    ],
)
def test_cuda_python_without_a_gpu(runtime, words) -> None:
    with pytest.raises(TecoError, match=words) as error:
        CudaPython(runtime=runtime)
    assert error.value.exit_code == MACHINE


def test_no_room() -> None:
    gpu = CudaPython(runtime=FakeRuntime(cudaMalloc=Code.cudaErrorMemoryAllocation))
    with pytest.raises(CudaError, match="cudaMalloc failed") as error:
        gpu.alloc(1)
    assert "smaller frames" in error.value.hint
    with pytest.raises(CudaError, match="out of memory") as error:
        PyCuda(driver=FakeDriver(broken="mem_alloc")).alloc(1)
    assert "smaller frames" in error.value.hint


def test_pycuda_without_a_gpu_or_graphs() -> None:
    with pytest.raises(CudaError, match="no CUDA-capable device") as error:
        PyCuda(driver=FakeDriver(broken="init"))
    assert error.value.exit_code == MACHINE
    without = PyCuda(driver=FakeDriver())
    assert not without.can_capture
    for call in (without.begin_capture, without.end_capture):
        with pytest.raises(CudaError, match="no CUDA graphs"):
            call()


def test_pycuda_leaves_the_context_as_it_was() -> None:
    driver = FakeDriver()
    gpu = PyCuda(driver=driver)
    gpu.synchronise()
    assert driver.depth == 0
    broken = PyCuda(driver=driver)
    driver.broken = "synchronize"
    with pytest.raises(CudaError):
        broken.synchronise()
    assert driver.depth == 0


def test_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(device, "installed", lambda: None)
    reason = device.why_unavailable("running this")
    assert reason is not None
    assert reason.endswith("pip install 'teco[cuda]'")  # `teco doctor` shows it as a command
    with pytest.raises(TecoError, match="neither is installed") as error:
        device.open_device("running this")
    assert error.value.exit_code == MACHINE
    monkeypatch.setattr(device, "installed", lambda: "pycuda")
    assert device.why_unavailable("running this") is None


def test_cuda_python_comes_first(monkeypatch) -> None:
    there = {"cuda.bindings.runtime", "pycuda.driver"}
    find = lambda name: object() if name in there else None  # noqa: E731
    monkeypatch.setattr(device.importlib.util, "find_spec", find)
    assert device.installed() == "cuda-python"
    there.discard("cuda.bindings.runtime")
    assert device.installed() == "pycuda"
    there.clear()
    assert device.installed() is None


def test_bindings_that_cannot_be_loaded(monkeypatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", broken)
    for adapter in (CudaPython, PyCuda):
        with pytest.raises(TecoError, match=r"cannot be loaded: libcuda\.so\.1") as error:
            adapter()
        assert error.value.exit_code == MACHINE
