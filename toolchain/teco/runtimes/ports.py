"""From frames to what a model's ports take, and back: what all sessions share.

A session subclasses :class:`PortedSession` and says how one step runs on tensors as the contract
names them (:class:`teco.model.contract.StreamContract`); for a file with 8-bit ports it subclasses
:class:`PortedFrameSession` too, which makes it a :class:`teco.runtimes.base.FrameSession`, and for
one with planes :class:`PortedPlaneSession`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import USAGE, TecoError
from teco.core.pixels import Array, Pixels, to_pixels, to_tensor
from teco.core.planes import Layout, are_planes, packed, planes_of
from teco.model.contract import StreamContract
from teco.model.conversion import Conversion
from teco.runtimes.base import State


def shape_of(expressions: tuple[str, ...], h: int, w: int) -> tuple[int, ...]:
    """Evaluate a contract's shape: products of numbers, h and w, such as ``4*h``; ``h/2`` too."""
    names = {"h": h, "w": w, "h/2": h // 2, "w/2": w // 2}
    sizes: list[int] = []
    for text in expressions:
        value = 1
        for factor in text.split("*"):
            value *= names[factor] if factor in names else int(factor)
        sizes.append(value)
    return tuple(sizes)


def size_of(contract: StreamContract, shape: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of a frame of this shape, which is in the port's own form; of planes, the luma's."""
    h, w = shape[2:4] if contract.layout == "NCHW" else shape[1:3]
    return h, w


def shapes_of(contract: StreamContract) -> dict[str, tuple[str, ...]]:
    """Shape of every graph output, as expressions in the LR frame's h and w."""
    shapes: dict[str, tuple[str, ...]] = {
        s.source: s.shape for s in contract.states if s.source in contract.outputs
    }
    shapes |= contract.pictures
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
        self, given: Mapping[str, NDArray[Any]], state: State | None
    ) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None, State]:
        """One step.

        Args:
            given: every input but the state, by name and as the port takes it; the arrays are not
                changed and may be kept as state.
            state: what the last step returned, or None.

        Returns:
            The HR frame as the ports give it, one array each, on the host; the contract's ``check``
            if it has one; the state for the next step.
        """

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        """See :class:`teco.runtimes.base.Session`."""
        contract = self._contract
        (picture,), check, state = self._run({contract.frame: to_port(contract, lr)}, state)
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
        given = {self._contract.frame: np.array(frame, order="C")[None]}
        (picture,), check, state = self._run(given, state)
        self._require_finite(check)
        return picture[0], state


class TakesPlanes:
    """What sessions of files with planes share, wherever they compute."""

    _contract: StreamContract
    _conversion: Conversion | None = None

    @property
    def layout(self) -> Layout:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        assert self._contract.planes is not None
        return self._contract.planes

    @property
    def conversion(self) -> Conversion | None:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        return self._conversion

    def convert_by(self, conversion: Conversion) -> None:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        self._conversion = conversion

    def step(self, lr: Any, state: State | None) -> tuple[Any, State]:
        """Raises TecoError: such a file takes no floats."""
        raise no_pictures(self._contract.io)

    def _given(self, picture: Pixels) -> dict[str, NDArray[Any]]:
        """A packed picture and the conversion, by the names of the inputs; views.

        Raises:
            TecoError: it is no packed picture of even sides, or nothing was said of its colours.
        """
        contract, conversion = self._contract, self._conversion
        if conversion is None:
            raise TecoError("nothing was said of the matrix and the range of the planes")
        odd = not are_planes(picture) or picture.shape[0] % 3 or picture.shape[1] % 2
        if odd or picture.dtype != np.uint8:
            raise TecoError(
                f"a frame is {picture.dtype} {picture.shape}, expected uint8 {self.layout} planes "
                "of even sides, (3 h / 2, w)"
            )
        planes = planes_of(np.ascontiguousarray(picture), self.layout)
        found: dict[str, NDArray[Any]] = {
            name: plane[None] for name, plane in zip(contract.frames, planes, strict=True)
        }
        return {**found, **dict(zip(contract.conversion, conversion.inputs, strict=True))}


def no_pictures(io: str) -> TecoError:
    """What to raise where somebody has RGB for a file that takes planes.

    Args:
        io: its ports.
    """
    return TecoError(
        f"the model has {io} ports, which take the planes of a decoder, and RGB was handed over",
        hint="`teco upscale` and `teco play` hand over planes; elsewhere take a model exported "
        "with --io uint8",
        exit_code=USAGE,
    )


class PortedPlaneSession(TakesPlanes, PortedSession):
    """The same for a file whose ports are planes."""

    def enlarge_planes(self, picture: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.PlaneSession`."""
        planes, check, state = self._run(self._given(picture), state)
        self._require_finite(check)
        return packed(*planes), state
