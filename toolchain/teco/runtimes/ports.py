"""From frames to what a model's ports take, and back: what all sessions share.

A session subclasses :class:`PortedSession` and says how one step runs on tensors as the contract
names them (:class:`teco.model.contract.StreamContract`); for a file with 8-bit ports it subclasses
:class:`PortedFrameSession` too, which makes it a :class:`teco.runtimes.base.FrameSession`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.pixels import Array, Pixels, to_pixels, to_tensor
from teco.model.contract import StreamContract
from teco.runtimes.base import State


def shape_of(expressions: tuple[str, ...], h: int, w: int) -> tuple[int, ...]:
    """Evaluate a contract's shape: products of numbers, h and w, such as ``4*h``."""
    names = {"h": h, "w": w}
    sizes: list[int] = []
    for text in expressions:
        value = 1
        for factor in text.split("*"):
            value *= names[factor] if factor in names else int(factor)
        sizes.append(value)
    return tuple(sizes)


def size_of(contract: StreamContract, shape: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of a frame of this shape, which is in the port's own form."""
    h, w = (shape[contract.layout.index(axis)] for axis in "HW")
    return h, w


def shapes_of(contract: StreamContract) -> dict[str, tuple[str, ...]]:
    """Shape of every graph output, as expressions in the LR frame's h and w."""
    h, w = (f"{contract.scale}*{extent}" for extent in "hw")
    shapes: dict[str, tuple[str, ...]] = {
        s.source: s.shape for s in contract.states if s.source in contract.outputs
    }
    shapes[contract.picture] = ("1", h, w, "3") if contract.layout == "NHWC" else ("1", "3", h, w)
    if contract.check:
        shapes[contract.check] = ("1",)
    return shapes


def check_ports(
    path: Path, contract: StreamContract, inputs: Collection[str], outputs: Collection[str]
) -> None:
    """Raise TecoError where a graph's ports are not those that its manifest names."""
    expected = (set(contract.inputs), set(contract.outputs))
    for kind, names, found in zip(("inputs", "outputs"), expected, (inputs, outputs), strict=True):
        if lacking := sorted(names - set(found)):
            raise TecoError(
                f"{path} has no {kind} called {', '.join(lacking)}, which its manifest names",
                hint="file and manifest do not belong together; export it again with `teco export`",
            )
    if more := sorted(set(inputs) - expected[0]):
        raise TecoError(
            f"{path} wants inputs that its manifest does not name: {', '.join(more)}",
            hint="file and manifest do not belong together; export it again with `teco export`",
        )


def zeros(contract: StreamContract, h: int, w: int) -> dict[str, NDArray[Any]]:
    """The state that starts a scene, by the names of the inputs that take it."""
    return {s.input: np.zeros(shape_of(s.shape, h, w), np.dtype(s.dtype)) for s in contract.states}


def to_port(contract: StreamContract, lr: Array) -> NDArray[Any]:
    """(1, 3, h, w) float32 in [0, 1] -> the frame as the port takes it.

    Raises:
        FloatingPointError: values that are not finite, for a port that could not show them.
    """
    if contract.dtype == "float32":
        return lr
    if contract.dtype == "float16":
        return lr.astype(np.float16)
    if not np.isfinite(lr.sum()):
        raise FloatingPointError
    return to_pixels(lr)[None]


def from_port(contract: StreamContract, picture: NDArray[Any]) -> Array:
    """The HR frame as the port gives it -> (1, 3, H, W) float32."""
    if contract.dtype == "uint8":
        return to_tensor(picture[0])
    return picture.astype(np.float32, copy=False)


class PortedSession(ABC):
    """:class:`teco.runtimes.base.Session` over a contract's own tensors.

    Args:
        runtime: name of the runtime.
        details: what it runs on.
        contract: of the file.
    """

    def __init__(self, runtime: str, details: str, contract: StreamContract) -> None:
        self.runtime = runtime
        self.details = details
        self._contract = contract

    @abstractmethod
    def _run(
        self, frame: NDArray[Any], state: State | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None, State]:
        """One step.

        Args:
            frame: as the port takes it; it is not changed and may be kept as state.
            state: what the last step returned, or None.

        Returns:
            The HR frame as the port gives it, on the host; the contract's ``check`` if it has one;
            the state for the next step.
        """

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        """See :class:`teco.runtimes.base.Session`."""
        contract = self._contract
        picture, check, state = self._run(to_port(contract, lr), state)
        self._require_finite(check)
        return from_port(contract, picture), state

    def _require_finite(self, check: NDArray[Any] | None) -> None:
        if check is not None and not np.isfinite(check).all():
            raise FloatingPointError


class PortedFrameSession(PortedSession):
    """The same for a file whose ports are 8-bit frames."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        # A copy, because the frame becomes state and the caller's memory is the caller's.
        picture, check, state = self._run(np.array(frame, order="C")[None], state)
        self._require_finite(check)
        return picture[0], state
