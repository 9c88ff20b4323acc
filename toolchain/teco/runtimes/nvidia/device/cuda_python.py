"""CUDA through NVIDIA's cuda-python (``cuda.bindings.runtime``).

Written against cuda-bindings 13.5, whose functions give a tuple of the error and the results; the
names used here are those of CUDA 12 as well. Not yet run on a GPU.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from teco.core.errors import MACHINE, TecoError
from teco.runtimes.nvidia.device.protocol import Bytes, CudaError, Event, Executable, Graph


class CudaPython:
    """See :class:`teco.runtimes.nvidia.device.protocol.Device`.

    Args:
        index: of the GPU, in CUDA's order.
        runtime: the module ``cuda.bindings.runtime``; None imports it.

    Raises:
        TecoError: the module cannot be loaded, or CUDA finds no driver or no GPU; exit code 3.
    """

    can_capture = True

    def __init__(self, index: int = 0, runtime: Any = None) -> None:
        try:
            self._cuda: Any = runtime or importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError) as error:
            raise TecoError(
                f"cuda-python is installed but cannot be loaded: {str(error).splitlines()[0]}",
                hint="pip install --force-reinstall cuda-python",
                exit_code=MACHINE,
            ) from error
        count = self._call("cudaGetDeviceCount")
        if count <= index:
            raise TecoError(
                f"CUDA finds {count} GPUs, number {index} was asked for", exit_code=MACHINE
            )
        # The runtime library works in the device's primary context by itself.
        self._call("cudaSetDevice", index)
        name = self._call("cudaGetDeviceProperties", index).name
        self.name = f"{name.decode(errors='replace').rstrip(chr(0))}, cuda-python"
        self._stream: Any = self._call(
            "cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking
        )

    @property
    def stream(self) -> int:
        return int(self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """A function of CUDA's by name: its only result, or None.

        Raises:
            CudaError: it gave an error.
        """
        error, *results = getattr(self._cuda, name)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(error)
            raise CudaError(name, reason, _HINTS.get(getattr(error, "name", ""), ""))
        return results[0] if results else None

    def alloc(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def alloc_host(self, size: int) -> Bytes:
        address = int(self._call("cudaMallocHost", size))
        return np.asarray(_Pinned(address, size, lambda: self._cuda.cudaFreeHost(address)))

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        what = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self._call("cudaMemcpyAsync", target, source, size, what, self._stream)

    def upload(self, target: int, source: Bytes) -> None:
        self._copy(target, source.ctypes.data, source.nbytes, "HostToDevice")

    def download(self, target: Bytes, source: int) -> None:
        self._copy(target.ctypes.data, source, target.nbytes, "DeviceToHost")

    def copy(self, target: int, source: int, size: int) -> None:
        self._copy(target, source, size, "DeviceToDevice")

    def zero(self, address: int, size: int) -> None:
        self._call("cudaMemsetAsync", address, 0, size, self._stream)

    def make_event(self) -> Event:
        return self._call("cudaEventCreate")

    def record(self, event: Event) -> None:
        self._call("cudaEventRecord", event, self._stream)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", start, end))

    def free_event(self, event: Event) -> None:
        self._call("cudaEventDestroy", event)

    def wait_for(self, stream: int) -> None:
        other = self._cuda.cudaStream_t(stream)
        event = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDisableTiming)
        try:
            self._call("cudaEventRecord", event, other)
            self._call("cudaStreamWaitEvent", self._stream, event, 0)
        finally:
            # CUDA keeps what a pending wait needs.
            self._call("cudaEventDestroy", event)

    def begin_capture(self) -> None:
        # Other threads (a decoder, PyTorch) may allocate meanwhile.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Graph:
        return self._call("cudaStreamEndCapture", self._stream)

    def instantiate(self, graph: Graph) -> Executable:
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, executable: Executable) -> None:
        self._call("cudaGraphLaunch", executable, self._stream)

    def free_executable(self, executable: Executable) -> None:
        self._call("cudaGraphExecDestroy", executable)

    def synchronise(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def memory(self) -> tuple[int, int]:
        error, free, total = self._cuda.cudaMemGetInfo()
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise CudaError("cudaMemGetInfo", str(error))
        return int(free), int(total)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._call("cudaStreamDestroy", stream)


class _Pinned:
    """Host memory that NumPy's arrays refer to as their base, freed with the last of them."""

    def __init__(self, address: int, size: int, free: Callable[[], object]) -> None:
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }
        # Not at the interpreter's end: the driver may be gone by then, and takes all with it.
        weakref.finalize(self, free).atexit = False


_HINTS = {
    "cudaErrorMemoryAllocation": "close other programs that use the GPU, or use smaller frames",
    "cudaErrorInsufficientDriver": "install or update the NVIDIA driver",
    "cudaErrorNoDevice": "there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES hides it",
}
