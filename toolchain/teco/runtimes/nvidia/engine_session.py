"""Engines as sessions, the part that TensorRT-RTX and TensorRT share.

Tensors take turns as :mod:`teco.runtimes.nvidia.turns` says, the last LR and HR frame among them.
Each turn has its own CUDA graph, because a graph holds the addresses it was captured with.

Frames come from the host through page-locked memory, or from anywhere on the GPU by one copy there.
Not yet run on a GPU; tests run every line of it on a device made of host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import FAILED, TecoError
from teco.core.pixels import Pixels
from teco.model.contract import StreamContract
from teco.runtimes.base import State
from teco.runtimes.nvidia.device.interface import DeviceArray, borrow, is_device_array
from teco.runtimes.nvidia.device.protocol import Bytes, CudaError, Device
from teco.runtimes.nvidia.turns import TurnPlanes, TurnSession
from teco.runtimes.ports import shape_of, shapes_of

DTYPES = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "UINT8": np.dtype(np.uint8),
}
"""TensorRT's name of a type -> NumPy's, of ports that a session can drive."""

_ALIGNMENT = 256
"""Bytes; what TensorRT wants of the scratch memory it is given."""


@dataclass(frozen=True)
class Port:
    """An engine's input or output.

    Attributes:
        name: as the engine says.
        is_input: else it is an output.
        dtype: of its values.
        shape: of its tensor, -1 for a dynamic extent.
    """

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def ports_of(engine: Any, name: str) -> dict[str, Port]:
    """An engine's ports.

    Args:
        engine: a deserialised engine, :class:`teco.model.engine.api.Engine`.
        name: of the file, for messages.

    Raises:
        TecoError: a port of a type that no session drives.
    """
    ports: dict[str, Port] = {}
    for index in range(engine.num_io_tensors):
        port = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(port).name
        if kind not in DTYPES:
            raise TecoError(
                f"port {port} of {name} is {kind}, expected {' or '.join(DTYPES)}",
                hint="export it again with --io fp32, fp16, uint8 or nv12",
            )
        shape = tuple(int(x) for x in engine.get_tensor_shape(port))
        is_input = engine.get_tensor_mode(port).name == "INPUT"
        ports[port] = Port(port, is_input, DTYPES[kind], shape)
    return ports


def check_ports(
    ports: dict[str, Port],
    contract: StreamContract,
    limits: tuple[tuple[int, int], tuple[int, int]],
    name: str,
) -> None:
    """Compare what a deserialised engine has with what its manifest says.

    Args:
        ports: of :func:`ports_of`.
        contract: the manifest's.
        limits: least and greatest LR (h, w) of the manifest.
        name: of the file, for messages.

    Raises:
        TecoError: they differ.
    """
    again = "the manifest is of another engine; build both again with `teco export`"
    inputs = contract.inputs
    found = {p.name for p in ports.values() if p.is_input}
    if found != set(inputs):
        raise TecoError(
            f"{name} has inputs {_list(found)}, its manifest says {_list(inputs)}", hint=again
        )
    found = set(ports) - found
    if found != set(contract.outputs):
        raise TecoError(
            f"{name} has outputs {_list(found)}, its manifest says {_list(contract.outputs)}",
            hint=again,
        )
    for port, expected in {**inputs, **shapes_of(contract)}.items():
        low, high = (shape_of(expected, h, w) for h, w in limits)
        shape = ports[port].shape
        fits = len(shape) == len(low) and all(
            x == -1 or x == a == b for x, a, b in zip(shape, low, high, strict=True)
        )
        if not fits:
            raise TecoError(
                f"{port} of {name} is {_size(shape)}, its manifest says {_size(low)}"
                + (f" to {_size(high)}" if low != high else ""),
                hint=again,
            )
    for port, dtype in contract.dtypes.items():
        if ports[port].dtype.name != dtype:
            raise TecoError(
                f"{port} of {name} is {ports[port].dtype.name}, its manifest says {dtype}",
                hint=again,
            )


@dataclass
class _Sides:
    """Everything that depends on the frame's size.

    Attributes:
        size: (h, w).
        addresses: source (given input or output) -> its memory, for both sides.
        nbytes: source -> length.
        given: page-locked memory of the inputs that are given, by name, for both turns.
        pictures: the same of the HR frame, its planes one after the other.
        checks: the same of the contract's check, empty where it has none.
        graphs: for both turns; empty where the engine cannot be captured.
    """

    size: tuple[int, int]
    addresses: dict[str, tuple[int, int]]
    nbytes: dict[str, int]
    given: dict[str, tuple[Bytes, Bytes]]
    pictures: tuple[Bytes, Bytes]
    checks: tuple[Bytes, ...] = ()
    graphs: tuple[Any, ...] = ()


class EngineSession(TurnSession):
    """A deserialised engine with its memory; see :class:`teco.runtimes.base.Session`.

    Args:
        runtime: name to report.
        details: what it runs on, for people.
        device: where everything lies; closed by this session, also when it cannot be made.
        context: :class:`teco.model.engine.api.Context` of the engine, which was created to be given
            its scratch memory.
        ports: of :func:`ports_of`, checked.
        contract: how it is driven.
        check_size: raises TecoError for an (h, w) that the engine was not built for.
        capturable: asked once shapes are set; whether the context can be captured now.
        keep: called after the engine was made ready for a size, and at the end while the GPU can
            still be used.
        first_error: of the bindings' log.
    """

    def __init__(
        self,
        runtime: str,
        details: str,
        device: Device,
        context: Any,
        ports: dict[str, Port],
        contract: StreamContract,
        *,
        check_size: Callable[[tuple[int, int]], None],
        capturable: Callable[[], bool],
        keep: Callable[[], None],
        first_error: Callable[[], str],
    ) -> None:
        super().__init__(runtime, contract)
        self._details = details
        self._device = device
        self._context: Any = context
        self._ports = ports
        self._check_size = check_size
        self._capturable = capturable
        self._keep = keep
        self._first_error = first_error
        self._sides: _Sides | None = None
        self._unread = False
        """Whether steps were started whose end nobody has waited for."""
        self._all, self._sized = ExitStack(), ExitStack()
        """What is given back at the end, and what already when the size changes."""
        with ExitStack() as undo:
            undo.callback(device.close)
            self._events: list[Any] = []
            for _ in range(2):
                self._events.append(device.make_event())
                undo.callback(device.free_event, self._events[-1])
            undo.callback(self._forget)
            undo.callback(self._release)
            self._all = undo.pop_all()

    @property
    def details(self) -> str:
        graphs = self._sides is None or self._sides.graphs
        return self._details + ("" if graphs else ", without CUDA graphs")

    @property
    def last_step_ms(self) -> float | None:
        """Milliseconds the GPU took for the last step's network, by CUDA's events.

        Copies to and from it are not counted. None before the first step. Waits for the step.
        """
        if self._steps == 0 or self._sides is None:
            return None
        return self._device.elapsed_ms(*self._events)

    def _fetch(self, turn: int) -> tuple[NDArray[Any], ...]:
        sides, contract = self._sized_sides, self._contract
        parts: dict[str, Bytes] = {}
        begin = 0
        for name in contract.pictures:
            parts[name] = sides.pictures[turn][begin : begin + sides.nbytes[name]]
            begin += sides.nbytes[name]
            self._device.download(parts[name], sides.addresses[name][turn])
        if sides.checks:
            self._device.download(sides.checks[turn], sides.addresses[contract.check][turn])
        self._wait()
        if sides.checks and not np.isfinite(sides.checks[turn].view(np.float32)).all():
            raise FloatingPointError
        return tuple(
            part.view(self._ports[name].dtype).reshape(self._shape(name, sides.size))
            for name, part in parts.items()
        )

    def step_on_device(self, lr: Any, state: State | None) -> tuple[DeviceArray, State]:
        """The same with the HR frame left on the GPU, in the port's own type; does not wait.

        The array is promised until the step after next, or until the next scene starts: a last HR
        frame that is state too is where zeros are then written. Its stream says when it is there.
        NaN behind 8-bit ports is not seen, because that would be to wait.
        """
        turn = self._run({self._contract.frame: lr}, state)
        sides = self._sized_sides
        picture = self._contract.picture
        array = DeviceArray(
            address=sides.addresses[picture][turn],
            shape=self._shape(picture, sides.size),
            dtype=self._ports[picture].dtype,
            stream=self._device.stream,
            owner=self,
        )
        return array, self._token()

    def close(self) -> None:
        """Give everything back, once. Frames on the host stay readable, those on the GPU do not.

        Raises:
            CudaError: CUDA failed earlier and says so now; what can be given back is.
        """
        self._all.close()

    def _forget(self) -> None:
        """Let the engine go, while there is still a device to free its memory on."""
        try:
            self._keep()
        finally:
            self._events.clear()
            # Both hold on to the engine.
            self._keep, self._capturable = (lambda: None), (lambda: False)
            self._context = None

    @property
    def _sized_sides(self) -> _Sides:
        assert self._sides is not None
        return self._sides

    def _shape(self, source: str, size: tuple[int, int]) -> tuple[int, ...]:
        """Of a given input or an output, for LR frames of (h, w)."""
        shapes = {**self._contract.given, **shapes_of(self._contract)}
        return shape_of(shapes[source], *size)

    @property
    def _is_open(self) -> bool:
        return self._context is not None

    def _start_scene(self, size: tuple[int, int], past: int) -> None:
        if self._size != size:
            self._resize(size)
        sides = self._sized_sides
        for source in dict.fromkeys(s.source for s in self._contract.states):
            self._device.zero(sides.addresses[source][past], sides.nbytes[source])

    def _execute(self, turn: int) -> None:
        sides, device = self._sized_sides, self._device
        device.record(self._events[0])
        if sides.graphs:
            device.launch(sides.graphs[turn])
        else:
            self._enqueue(sides, turn)
        device.record(self._events[1])
        self._unread = True

    def _put(self, name: str, value: Any, turn: int) -> None:
        sides = self._sized_sides
        target, dtype = sides.addresses[name][turn], self._ports[name].dtype
        if is_device_array(value):
            found = borrow(value, self._shape(name, sides.size), dtype)
            if found.stream is not None:
                self._device.wait_for(found.stream)
            self._device.copy(target, found.address, found.nbytes)
            return
        if self._unread:
            self._wait()  # the memory of two steps ago may still be being read
        staged: NDArray[Any] = sides.given[name][turn].view(dtype).reshape(value.shape)
        np.copyto(staged, value, casting="same_kind")
        self._device.upload(target, sides.given[name][turn])

    def _wait(self) -> None:
        self._device.synchronise()
        self._unread = False

    def _bind(self, sides: _Sides, turn: int) -> None:
        """Outputs and what is given to this turn's side, what was before to the other."""
        contract, context = self._contract, self._context
        past = 1 - turn
        bound = {n: sides.addresses[n][turn] for n in (*contract.given, *contract.outputs)}
        bound |= {s.input: sides.addresses[s.source][past] for s in contract.states}
        for name, address in bound.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"the engine refused memory for {name}")

    def _enqueue(self, sides: _Sides, turn: int) -> None:
        self._bind(sides, turn)
        if not self._context.execute_async_v3(self._device.stream):
            raise self._failed("the engine could not run")

    def _failed(self, what: str) -> TecoError:
        return TecoError(f"{what}: {self._first_error() or 'no reason given'}", exit_code=FAILED)

    def _resize(self, size: tuple[int, int]) -> None:
        """Memory and graphs for LR frames of (h, w), in place of what there was."""
        self._check_size(size)
        self._release()
        device, context, contract = self._device, self._context, self._contract
        with ExitStack() as undo:

            def alloc(length: int) -> int:
                address = device.alloc(length)
                undo.callback(device.free, address)
                return address

            sources = (*contract.given, *contract.outputs)
            shapes = {s: self._shape(s, size) for s in sources}
            nbytes = {s: prod(shapes[s]) * self._ports[s].dtype.itemsize for s in sources}
            addresses = {s: (alloc(nbytes[s]), alloc(nbytes[s])) for s in sources}
            picture = sum(nbytes[name] for name in contract.pictures)
            pin = device.alloc_host
            given = {name: (pin(nbytes[name]), pin(nbytes[name])) for name in contract.given}
            pictures = (pin(picture), pin(picture))
            checks = (pin(4), pin(4)) if contract.check else ()
            sides = _Sides(size, addresses, nbytes, given, pictures, checks)
            inputs = {name: shapes[name] for name in contract.given}
            inputs |= {s.input: shapes[s.source] for s in contract.states}
            for name, shape in inputs.items():
                if -1 in self._ports[name].shape and not context.set_input_shape(name, shape):
                    raise self._failed(f"the engine refused {_size(shape)} for {name}")
            if missing := context.infer_shapes():
                raise self._failed(f"the engine does not know the shape of {_list(missing)}")
            scratch = max(context.update_device_memory_size_for_shapes(), _ALIGNMENT)
            context.set_device_memory(alloc(scratch), scratch)
            for pair in addresses:
                for address in addresses[pair]:
                    device.zero(address, nbytes[pair])
            # A run before the capture: TensorRT puts off work until the first one after its shapes
            # were set, and TensorRT-RTX compiles then; neither may be captured.
            for turn in (0, 1):
                self._enqueue(sides, turn)
            device.synchronise()
            if device.can_capture and self._capturable():
                sides.graphs = tuple(self._capture(sides, turn, undo) for turn in (0, 1))
            self._sides, self._size = sides, size
            self._sized = undo.pop_all()
        self._keep()

    def _capture(self, sides: _Sides, turn: int, undo: ExitStack) -> Any:
        device = self._device
        self._bind(sides, turn)
        device.begin_capture()
        try:
            ran = self._context.execute_async_v3(device.stream)
        except BaseException:
            self._abandon_capture()
            raise
        if not ran:
            self._abandon_capture()
            raise self._failed("the engine could not be captured in a CUDA graph")
        executable = device.instantiate(device.end_capture())
        undo.callback(device.free_executable, executable)
        return executable

    def _abandon_capture(self) -> None:
        """End a capture of which nothing is wanted; a stream left capturing can do nothing else."""
        try:
            graph = self._device.end_capture()
        except CudaError:
            return  # what broke it has broken the capture too
        self._device.free_executable(self._device.instantiate(graph))

    def _release(self) -> None:
        """What depends on the size, when the GPU no longer uses it."""
        try:
            if self._sides is not None:
                self._device.synchronise()
        finally:
            self._sides, self._size, self._unread = None, None, False
            self._sized.close()


class EngineFrameSession(EngineSession):
    """The same for an engine with 8-bit ports; see :class:`teco.runtimes.base.FrameSession`."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :meth:`teco.runtimes.base.FrameSession.enlarge`.

        Args:
            frame: (h, w, 3) uint8 on the host; on the GPU, (1, h, w, 3).
            state: as :meth:`step`'s, and the same kind.
        """
        given = frame if is_device_array(frame) else np.asarray(frame)[None]
        (picture,) = self._fetch(self._run({self._contract.frame: given}, state))
        # The host memory is written again two steps on, and the frame is the caller's to keep.
        return picture[0].copy(), self._token()


class EnginePlaneSession(TurnPlanes, EngineSession):
    """The same for an engine with planes."""


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "(none)"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join("?" if x == -1 else str(x) for x in shape) or "a single value"
