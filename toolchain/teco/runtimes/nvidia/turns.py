"""What sessions share whose tensors stay on the GPU, each of them twice.

Every tensor that outlives a step exists twice, and steps take turns: on turn 0 the model reads side
1 and writes side 0, on turn 1 the other way round. So nothing is copied to become state, and no
state ever leaves the GPU; but only the last one exists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError
from teco.core.pixels import Array, Pixels
from teco.core.planes import packed
from teco.model.contract import StreamContract
from teco.runtimes.base import State
from teco.runtimes.nvidia.device.interface import DeviceArray, is_device_array
from teco.runtimes.ports import (
    TakesPlanes,
    from_port,
    no_pictures,
    shape_of,
    size_of,
    to_port,
)

_EXPECTED = {
    "NCHW": "1x3xHEIGHTxWIDTH", "NHWC": "1xHEIGHTxWIDTHx3",
    "NV12": "1xHEIGHTxWIDTHx1 and 1xHALFxHALFx2", "I420": "1xHEIGHTxWIDTHx1 and 1xHALFxHALFx1",
}  # fmt: skip
"""Layout of a port -> the frame it takes, for messages."""


@dataclass(frozen=True)
class _Token:
    """The state of a session after a step: all there is to say is which step it was."""

    session: object
    step: int


class TurnSession(ABC):
    """See :class:`teco.runtimes.base.Session`.

    Args:
        runtime: name to report.
        contract: how the model is driven.
    """

    def __init__(self, runtime: str, contract: StreamContract) -> None:
        self.runtime = runtime
        self._contract = contract
        self._steps = 0
        self._size: tuple[int, int] | None = None
        """(h, w) that there is memory for."""

    @property
    @abstractmethod
    def _is_open(self) -> bool:
        """Whether it was not closed."""

    @abstractmethod
    def _start_scene(self, size: tuple[int, int], past: int) -> None:
        """Have zeros on side ``past``, and memory for LR frames of (h, w)."""

    @abstractmethod
    def _put(self, name: str, value: Any, turn: int) -> None:
        """Bring what an input takes, of the right shape, to the turn's side."""

    @abstractmethod
    def _execute(self, turn: int) -> None:
        """Run, or start to run, the model."""

    @abstractmethod
    def _fetch(self, turn: int) -> tuple[NDArray[Any], ...]:
        """The HR frame of the step that was started, on the host and as the ports give it.

        Raises:
            FloatingPointError: the contract's check is not finite.
        """

    def step(self, lr: Any, state: State | None) -> tuple[Array, State]:
        """See :meth:`teco.runtimes.base.Session.step`.

        Args:
            lr: (1, 3, h, w) floats on the host, or anything on this GPU with
                ``__cuda_array_interface__`` of the port's own type and shape: what the contract
                says, such as (1, h, w, 3) uint8.
            state: of the last step, None for a new scene. An older one is gone: the memory of two
                steps is all there is.

        Raises:
            TecoError: a size that the model does not take, or that changes within a scene; a frame
                that is not as it must be; an older state; CUDA or the model failed.
            FloatingPointError: see :meth:`teco.runtimes.base.Session.step`.
        """
        if not is_device_array(lr):
            if np.ndim(lr) != 4 or np.shape(lr)[:2] != (1, 3):
                raise _misshapen(np.shape(lr), "NCHW")
            lr = to_port(self._contract, np.asarray(lr, np.float32))
        (picture,) = self._fetch(self._run({self._contract.frame: lr}, state))
        return from_port(self._contract, picture), self._token()

    def _token(self) -> _Token:
        return _Token(self, self._steps)

    def _run(self, given: Mapping[str, Any], state: State | None) -> int:
        """Start a step on every input but the state, by name; returns its turn."""
        if not self._is_open:
            raise TecoError(f"this {self.runtime} session is closed", exit_code=USAGE)
        size, turn = self._size_of(given), self._steps % 2
        if state is None:
            self._start_scene(size, 1 - turn)
        else:
            self._check_state(state, size)
        for name, value in given.items():
            self._put(name, value, turn)
        self._execute(turn)
        self._steps += 1
        return turn

    def _size_of(self, given: Mapping[str, Any]) -> tuple[int, int]:
        contract = self._contract
        shape = _shape(given[contract.frame])
        size = size_of(contract, shape) if len(shape) == 4 else (0, 0)
        for name, expected in contract.frames.items():
            if _shape(given[name]) != shape_of(expected, *size):
                raise _misshapen(_shape(given[name]), contract.layout)
        return size

    def _check_state(self, state: State, size: tuple[int, int]) -> None:
        if not isinstance(state, _Token) or state.session is not self or self._size is None:
            raise TecoError("the state is not one of this session's", exit_code=USAGE)
        if state.step != self._steps:
            raise TecoError(
                f"the state is that of step {state.step} and the last step was {self._steps}; "
                f"{self.runtime} keeps the last one only",
                exit_code=USAGE,
            )
        if self._size != size:
            h, w = self._size
            raise TecoError(
                f"the frame is {size[0]}x{size[1]} and the scene's are {h}x{w}",
                hint="start a new scene (state None) where the size changes",
                exit_code=USAGE,
            )


def _misshapen(shape: tuple[int, ...], layout: str) -> TecoError:
    found = "x".join(map(str, shape)) or "a single value"
    return TecoError(f"the frame is {found}, expected {_EXPECTED[layout]}", exit_code=USAGE)


def _shape(value: Any) -> tuple[int, ...]:
    on_device = is_device_array(value)
    found: Any = value.__cuda_array_interface__["shape"] if on_device else np.shape(value)
    return tuple(int(x) for x in found)


class TurnPlanes(TakesPlanes, TurnSession):
    """The same for a file with planes; see :class:`teco.runtimes.base.PlaneSession`."""

    def step_on_device(self, lr: Any, state: State | None) -> tuple[DeviceArray, State]:
        """Planes that stay on the GPU are not taken yet.

        Raises:
            TecoError: always.
        """
        raise no_pictures(self._contract.io)

    def enlarge_planes(self, picture: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :meth:`teco.runtimes.base.PlaneSession.enlarge_planes`; ``state`` is as
        :meth:`TurnSession.step`'s."""
        return packed(*self._fetch(self._run(self._given(picture), state))), self._token()
