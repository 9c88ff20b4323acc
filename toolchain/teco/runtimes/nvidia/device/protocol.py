"""What sessions need of CUDA, and nothing more: one GPU, one stream, memory, events, graphs.

Addresses and sizes are plain integers, in bytes; host memory is NumPy arrays of uint8. Everything
that takes a stream runs in order on the one stream a device owns, and returns before it is done
unless it says otherwise. Errors of CUDA's are :class:`CudaError`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError

Bytes = NDArray[np.uint8]

Event = Any
"""A point on the stream; only the device that made it may look inside."""

Graph = Any
"""What was captured, not yet runnable."""

Executable = Any
"""An instantiated graph."""


class CudaError(TecoError):
    """CUDA refused a call.

    Args:
        what: the call, by its name in CUDA's documentation.
        reason: CUDA's own words.
        hint: what to do next.
    """

    def __init__(self, what: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{what} failed: {reason}", hint=hint, exit_code=MACHINE)


class Device(Protocol):
    """One GPU with one stream of its own, in its primary context.

    That context is the one PyTorch, TensorRT and every user of CUDA's runtime library shares, so
    that addresses mean the same to all of them.
    """

    @property
    def name(self) -> str:
        """The GPU, and the bindings it is reached through."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream, a ``cudaStream_t``; does not wait for the default stream."""
        ...

    @property
    def can_capture(self) -> bool:
        """Whether these bindings know CUDA graphs."""
        ...

    def alloc(self, size: int) -> int:
        """Address of ``size`` new bytes on the GPU, aligned to at least 256.

        Raises:
            CudaError: there is no room.
        """
        ...

    def free(self, address: int) -> None:
        """Give back what :meth:`alloc` gave."""
        ...

    def alloc_host(self, size: int) -> Bytes:
        """``size`` bytes of page-locked host memory, which the GPU copies to and from by itself.

        Freed with the last array that looks at it, so that a frame that was handed out stays
        readable whatever becomes of its session.
        """
        ...

    def upload(self, target: int, source: Bytes) -> None:
        """Copy page-locked host memory to the GPU."""
        ...

    def download(self, target: Bytes, source: int) -> None:
        """Fill page-locked host memory from the GPU; there after :meth:`synchronise`."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy from one place on the GPU to another."""
        ...

    def zero(self, address: int, size: int) -> None:
        """Write zero bytes."""
        ...

    def make_event(self) -> Event: ...

    def record(self, event: Event) -> None:
        """The event happens when everything before it on the stream is done."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two recorded events; waits for the second."""
        ...

    def free_event(self, event: Event) -> None: ...

    def wait_for(self, stream: int) -> None:
        """Let this device's stream wait for what another stream has been given so far.

        Args:
            stream: its handle; 1 and 2 are CUDA's legacy and per-thread default streams.
        """
        ...

    def begin_capture(self) -> None:
        """From now on, what is put on the stream is recorded instead of run."""
        ...

    def end_capture(self) -> Graph:
        """Stop recording.

        Raises:
            CudaError: something was done that cannot be captured.
        """
        ...

    def instantiate(self, graph: Graph) -> Executable:
        """Make a graph runnable; it is used up."""
        ...

    def launch(self, executable: Executable) -> None:
        """Run what was captured, with the addresses it was captured with."""
        ...

    def free_executable(self, executable: Executable) -> None: ...

    def synchronise(self) -> None:
        """Wait until the stream is done."""
        ...

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU, all programs counted."""
        ...

    def close(self) -> None:
        """Give the stream back. What was allocated must have been freed."""
        ...
