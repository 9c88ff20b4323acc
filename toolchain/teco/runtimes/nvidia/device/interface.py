"""Arrays on the GPU, as others hand them over and as sessions hand them out.

The CUDA Array Interface, version 3, as Numba's documentation specifies it: an attribute
``__cuda_array_interface__`` that PyTorch, CuPy, PyCUDA, Numba and JAX have and read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from teco.core.errors import USAGE, TecoError

ATTRIBUTE = "__cuda_array_interface__"
VERSION = 3


@dataclass(frozen=True)
class DeviceArray:
    """Memory on the GPU that a session owns, C-contiguous, readable by whoever knows the interface.

    It is promised until the step after next, like the arrays on the host. Work on it must wait for
    ``stream``; readers of the interface's version 3 do so by themselves.

    Attributes:
        address: of the first value.
        shape: (1, 3, 4h, 4w).
        dtype: of the values.
        stream: handle of the stream that writes it.
        owner: whose memory it is; kept alive as long as this is.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int
    owner: object = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream,
            "version": VERSION,
        }


def is_device_array(value: object) -> bool:
    """Whether it says that its memory is on a GPU. PyTorch's tensors on the CPU raise instead."""
    try:
        return hasattr(value, ATTRIBUTE)
    except (TypeError, RuntimeError):
        return False


@dataclass(frozen=True)
class Borrowed:
    """Another's memory, checked.

    Attributes:
        address: of the first value, C-contiguous from there.
        nbytes: length.
        stream: handle of the stream to wait for; None where there is nothing to wait for.
    """

    address: int
    nbytes: int
    stream: int | None


def borrow(value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Borrowed:
    """What a frame's interface says, after it was compared with what is expected.

    Args:
        value: has ``__cuda_array_interface__``.
        shape: expected.
        dtype: expected; a frame is not converted on the GPU.

    Raises:
        TecoError: another shape or type, a view that is not contiguous, masked or without memory,
            or an interface that contradicts its specification; exit code 2.
    """
    interface: Any = getattr(value, ATTRIBUTE)
    try:
        found_shape = tuple(int(x) for x in interface["shape"])
        found = np.dtype(interface["typestr"])
        address, strides = int(interface["data"][0]), interface.get("strides")
        stream, masked = interface.get("stream"), interface.get("mask") is not None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _refused(f"has an incomplete {ATTRIBUTE}: {error!r}") from error
    if found_shape != shape:
        raise _refused(f"is {_words(found_shape)}, expected {_words(shape)}")
    if found != dtype:
        raise _refused(f"is {found.name}, expected {dtype.name}; convert it on the GPU first")
    if masked:
        raise _refused("is masked, which no model takes")
    usual = _contiguous(shape, dtype.itemsize)
    if strides is not None and tuple(int(x) for x in strides) != usual:
        raise _refused(
            f"is not contiguous: its strides are {_words(strides)} bytes, expected "
            f"{_words(usual)}; make it so first (torch: .contiguous())"
        )
    if address == 0:
        raise _refused("has no memory: its address is 0")
    if stream is not None and (type(stream) is not int or stream == 0):
        # 0 could mean either of two default streams, which is why the specification forbids it.
        raise _refused(f"says stream {stream!r}, expected None, 1, 2 or a handle")
    return Borrowed(address, prod(shape) * dtype.itemsize, stream)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * prod(shape[n + 1 :]) for n in range(len(shape)))


def _words(values: Any) -> str:
    return "x".join(str(x) for x in values) or "a single value"


def _refused(why: str) -> TecoError:
    return TecoError(f"the frame on the GPU {why}", exit_code=USAGE)
