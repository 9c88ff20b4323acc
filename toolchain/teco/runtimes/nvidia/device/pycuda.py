"""CUDA through PyCUDA (``pycuda.driver``), in the GPU's primary context.

Written against PyCUDA's documentation (``retain_primary_context`` since 2020.1). It has no CUDA
graphs, so sessions run step by step and say so. Not yet run on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from teco.core.errors import MACHINE, TecoError
from teco.runtimes.nvidia.device.protocol import Bytes, CudaError, Event, Executable, Graph

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, CUDA driver API."""


class PyCuda:
    """See :class:`teco.runtimes.nvidia.device.protocol.Device`.

    The context is made current for each call and given back after it, so that a session may be
    used from any thread and leaves a host program's own context alone.

    Args:
        index: of the GPU, in CUDA's order.
        driver: the module ``pycuda.driver``; None imports it.

    Raises:
        TecoError: the module cannot be loaded, or finds no driver or no GPU; exit code 3.
    """

    can_capture = False

    def __init__(self, index: int = 0, driver: Any = None) -> None:
        try:
            self._cuda: Any = driver or importlib.import_module("pycuda.driver")
        except (ImportError, OSError) as error:  # libcuda.so.1 is the driver's
            raise TecoError(
                f"PyCUDA is installed but cannot be loaded: {str(error).splitlines()[0]}",
                hint="install the NVIDIA driver, or compile PyCUDA again",
                exit_code=MACHINE,
            ) from error
        self._context: Any = None
        self._memory: dict[int, Any] = {}
        with self._checked("cuInit"):
            self._cuda.init()
            gpu = self._cuda.Device(index)
            self.name = f"{gpu.name()}, PyCUDA"
            self._context = gpu.retain_primary_context()
        with self._current("cuStreamCreate"):
            self._stream: Any = self._cuda.Stream(_NON_BLOCKING)

    @contextmanager
    def _checked(self, what: str) -> Generator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            hint = "close other programs that use the GPU, or use smaller frames"
            raise CudaError(what, _first_line(error), hint) from error
        except self._cuda.Error as error:
            raise CudaError(what, _first_line(error)) from error

    @contextmanager
    def _current(self, what: str) -> Generator[None]:
        with self._checked(what):
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def alloc(self, size: int) -> int:
        with self._current("cuMemAlloc"):
            memory = self._cuda.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        with self._current("cuMemFree"):
            self._memory.pop(address).free()

    def alloc_host(self, size: int) -> Bytes:
        with self._current("cuMemHostAlloc"):
            # Its base is PyCUDA's own allocation, freed with the last array.
            return self._cuda.pagelocked_empty(size, np.uint8)

    def upload(self, target: int, source: Bytes) -> None:
        with self._current("cuMemcpyHtoDAsync"):
            self._cuda.memcpy_htod_async(target, source, self._stream)

    def download(self, target: Bytes, source: int) -> None:
        with self._current("cuMemcpyDtoHAsync"):
            self._cuda.memcpy_dtoh_async(target, source, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        with self._current("cuMemcpyDtoDAsync"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    def zero(self, address: int, size: int) -> None:
        with self._current("cuMemsetD8Async"):
            self._cuda.memset_d8_async(address, 0, size, self._stream)

    def make_event(self) -> Event:
        with self._current("cuEventCreate"):
            return self._cuda.Event()

    def record(self, event: Event) -> None:
        with self._current("cuEventRecord"):
            event.record(self._stream)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self._current("cuEventElapsedTime"):
            end.synchronize()
            return float(end.time_since(start))

    def free_event(self, event: Event) -> None:
        """PyCUDA destroys an event with its last reference, which the caller gives up."""

    def wait_for(self, stream: int) -> None:
        # PyCUDA cannot record an event on a stream that it did not make; waiting for everything
        # in the context orders the two all the same.
        with self._current("cuCtxSynchronize"):
            self._context.synchronize()

    def begin_capture(self) -> None:
        raise _no_graphs("cuStreamBeginCapture")

    def end_capture(self) -> Graph:
        raise _no_graphs("cuStreamEndCapture")

    def instantiate(self, graph: Graph) -> Executable:
        raise _no_graphs("cuGraphInstantiate")

    def launch(self, executable: Executable) -> None:
        raise _no_graphs("cuGraphLaunch")

    def free_executable(self, executable: Executable) -> None:
        """There is none."""

    def synchronise(self) -> None:
        with self._current("cuStreamSynchronize"):
            self._stream.synchronize()

    def memory(self) -> tuple[int, int]:
        with self._current("cuMemGetInfo"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        context, self._context, self._stream = self._context, None, None
        if context is not None:
            # Where it is not current and another thread retained it, detach() takes it for gone
            # and leaks it (context::detach in PyCUDA's cuda.hpp); where it is current, it is
            # released from any thread and the context below is made current again.
            with self._checked("cuDevicePrimaryCtxRelease"):
                context.push()
                context.detach()


def _no_graphs(what: str) -> CudaError:
    return CudaError(what, "PyCUDA has no CUDA graphs", "install cuda-python, which has them")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
