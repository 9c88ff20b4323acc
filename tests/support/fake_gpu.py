"""A GPU made of host memory, and a TensorRT whose engines compute on it.

Everything a session does is really done: copies copy, graphs replay what was captured with the
addresses it was captured with, and what is freed twice, read after it was freed, or left over is an
error.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from teco.model.contract import StreamContract
from teco.runtimes.nvidia.device.protocol import CudaError
from teco.runtimes.ports import shape_of, shapes_of, size_of

STREAM = 0x57


class _Pinned:
    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


@dataclass
class FakeDevice:
    """See teco.runtimes.nvidia.device.protocol.Device.

    Attributes:
        live: address -> memory.
        log: every call that was made, by name and its numbers.
        pinned: how many page-locked arrays are alive.
        fail: name of a call that raises, and after how many of them.
    """

    name: str = "Fake GPU"
    stream: int = STREAM
    can_capture: bool = True
    live: dict[int, np.ndarray] = field(default_factory=dict)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    pinned: int = 0
    events: int = 0
    graphs: int = 0
    closed: int = 0
    fail: tuple[str, int] | None = None
    clock: float = 0.0
    _next: int = 0x1000
    _captured: list[Callable[[], None]] | None = None

    def _note(self, name: str, *numbers: Any) -> None:
        if self.fail is not None and self.fail[0] == name:
            self.fail = (name, self.fail[1] - 1)
            if self.fail[1] < 0:
                raise CudaError(name, "told to fail")
        self.log.append((name, *numbers))

    def count(self, name: str) -> int:
        return sum(entry[0] == name for entry in self.log)

    def run(self, work: Callable[[], None]) -> None:
        """On the stream: now, or into the graph that is being captured."""
        if self._captured is not None:
            self._captured.append(work)
        else:
            work()

    def at(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.live[address][:size].view(dtype).reshape(shape)

    def alloc(self, size: int) -> int:
        self._note("alloc", size)
        assert self._captured is None, "memory must not be allocated while capturing"
        address = self._next
        self._next += -(-size // 256) * 256
        # What new memory holds is anything but zeros.
        self.live[address] = np.full(size, 0xC5, np.uint8)
        return address

    def free(self, address: int) -> None:
        self._note("free", address)
        del self.live[address]  # KeyError: freed twice

    def alloc_host(self, size: int) -> np.ndarray:
        self._note("alloc_host", size)
        owner = _Pinned(np.full(size, 0xC5, np.uint8))
        self.pinned += 1
        weakref.finalize(owner, self._unpin)
        return np.asarray(owner)

    def _unpin(self) -> None:
        self.pinned -= 1

    def upload(self, target: int, source: np.ndarray) -> None:
        self._note("upload", target, source.nbytes)
        self.live[target][: source.nbytes] = source

    def download(self, target: np.ndarray, source: int) -> None:
        self._note("download", source, target.nbytes)
        target[:] = self.live[source][: target.nbytes]

    def copy(self, target: int, source: int, size: int) -> None:
        self._note("copy", target, source, size)
        self.live[target][:size] = self.live[source][:size]

    def zero(self, address: int, size: int) -> None:
        self._note("zero", address, size)
        self.live[address][:size] = 0

    def make_event(self) -> SimpleNamespace:
        self._note("make_event")
        self.events += 1
        return SimpleNamespace(at=None)

    def record(self, event: SimpleNamespace) -> None:
        self._note("record")
        self.clock += 1.5
        event.at = self.clock

    def elapsed_ms(self, start: SimpleNamespace, end: SimpleNamespace) -> float:
        return end.at - start.at

    def free_event(self, event: SimpleNamespace) -> None:
        self._note("free_event")
        self.events -= 1

    def wait_for(self, stream: int) -> None:
        self._note("wait_for", stream)

    def begin_capture(self) -> None:
        self._note("begin_capture")
        assert self._captured is None
        self._captured = []

    def end_capture(self) -> list[Callable[[], None]]:
        captured, self._captured = self._captured, None
        self._note("end_capture")
        assert captured is not None
        return captured

    def instantiate(self, graph: list[Callable[[], None]]) -> list[Callable[[], None]]:
        self._note("instantiate")
        self.graphs += 1
        return graph

    def launch(self, executable: list[Callable[[], None]]) -> None:
        self._note("launch", id(executable))
        for work in executable:
            work()

    def free_executable(self, executable: list[Callable[[], None]]) -> None:
        self._note("free_executable")
        self.graphs -= 1

    def synchronise(self) -> None:
        self._note("synchronise")
        assert self._captured is None

    def memory(self) -> tuple[int, int]:
        return 1 << 30, 1 << 31

    def close(self) -> None:
        self.closed += 1

    def assert_empty(self) -> None:
        """All was given back, once, and the device was closed once."""
        left = (len(self.live), self.events, self.graphs, self.pinned, self.closed)
        assert left == (0, 0, 0, 0, 1)


def grown(x: np.ndarray) -> np.ndarray:
    return x.repeat(4, axis=2).repeat(4, axis=3)


def step(values: dict[str, np.ndarray], contract: StreamContract) -> dict[str, np.ndarray]:
    """What the fake network computes: every state takes part, each with its own weight."""
    if contract.planes is not None:
        return step_on_planes(values, contract)
    if contract.dtype == "uint8":
        return step_on_pictures(values, contract)
    frame = values[contract.frame].astype(np.float32)
    out = {contract.picture: 0.5 * grown(frame)}
    for n, state in enumerate(contract.states):
        past = values[state.input].astype(np.float32)
        plain = past.mean(axis=1, keepdims=True)
        whole = plain if plain.shape[2] == out[contract.picture].shape[2] else grown(plain)
        out[contract.picture] = out[contract.picture] + 0.25 / (n + 1) * whole
        if state.source not in (contract.frame, contract.picture):
            out[state.source] = 0.5 * past + frame.mean(axis=1, keepdims=True)
    return out


def step_on_pictures(
    values: dict[str, np.ndarray], contract: StreamContract
) -> dict[str, np.ndarray]:
    """The same between 8-bit ports: the float picture is a state beside the one that is shown."""
    frame, past = (
        values[name].transpose(0, 3, 1, 2).astype(np.float32) / 255
        for name in (contract.frame, contract.states[0].input)
    )
    hr = 0.5 * grown(frame) + 0.25 * grown(past.mean(axis=1, keepdims=True))
    hr = hr + 0.125 * values[contract.states[1].input]
    levels = np.rint(hr * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    bad = np.float32(np.nan) if (values[contract.frame] == 13).all() else np.float32(0)
    return {
        contract.picture: levels,
        contract.states[1].source: hr,
        contract.check: hr.sum(axis=(1, 2, 3)) + bad,
    }


def step_on_planes(
    values: dict[str, np.ndarray], contract: StreamContract
) -> dict[str, np.ndarray]:
    """The same between planes: every plane enlarged, the luma with a share of the past, chroma with
    a share of what the conversion's inputs add up to."""
    y = values[contract.frame].transpose(0, 3, 1, 2).astype(np.float32) / 255
    past = values[contract.states[1].input]
    hr = 0.5 * grown(np.repeat(y, 3, axis=1)) + 0.25 * past
    told = sum(values[name].sum() for name in contract.conversion)
    luma = np.rint(hr[:, :1] * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    out = {contract.picture: luma, contract.states[1].source: hr}
    out[contract.states[0].source] = np.repeat(y, 3, axis=1)
    for given, made in contract.chroma:
        out[made] = (grown(values[given].transpose(0, 3, 1, 2)) + np.uint8(told)).transpose(
            0, 2, 3, 1
        )
    bad = np.float32(np.nan) if (values[contract.frame] == 13).all() else np.float32(0)
    return out | {contract.check: hr.sum(axis=(1, 2, 3)) + bad}


class Kind(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    UINT8 = np.uint8
    BF16 = "bfloat16"  # NumPy has none


class Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


@dataclass
class Made:
    """What the fake engines are and did.

    Attributes:
        device: they run on.
        contract: their ports.
        size: static (h, w), None for dynamic.
        kinds: port -> type, FLOAT where not named.
        shapes: port -> shape that contradicts the contract.
        names: port of the contract -> another name.
        refuse: "load", "context", "run" or "capture".
        capturable: what a context answers.
        scratch: bytes a context wants.
    """

    device: FakeDevice
    contract: StreamContract = field(default_factory=StreamContract)
    size: tuple[int, int] | None = (16, 24)
    kinds: dict[str, Kind] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    refuse: str = ""
    capturable: bool = True
    scratch: int = 1000
    contexts: list[Any] = field(default_factory=list)
    config: Any = None
    cache: Any = None

    @property
    def ports(self) -> list[tuple[str, Mode, tuple[int, ...]]]:
        c = self.contract
        wanted = [(name, Mode.INPUT, shape) for name, shape in c.inputs.items()]
        wanted += [(name, Mode.OUTPUT, shapes_of(c)[name]) for name in c.outputs]
        ports = []
        for name, mode, shape in wanted:
            if self.size is None:
                found = tuple(int(x) if x.isdecimal() else -1 for x in shape)
            else:
                found = shape_of(shape, *self.size)
            ports.append((self.names.get(name, name), mode, self.shapes.get(name, found)))
        return ports


class Context:
    def __init__(self, made: Made) -> None:
        self.made, self.addresses, self.shapes = made, {}, {}
        self.scratch: tuple[int, int] | None = None
        self.runs = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        if self.made.size is not None:
            return []
        return [
            name
            for name, mode, shape in self.made.ports
            if mode is Mode.INPUT and -1 in shape and name not in self.shapes
        ]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        fixed = next(shape for n, _, shape in self.made.ports if n == name)
        if -1 not in fixed:
            return fixed
        contract = self.made.contract
        size = size_of(contract, self.shapes[contract.frame])
        return self.shapes.get(name) or shape_of(shapes_of(contract)[name], *size)

    def update_device_memory_size_for_shapes(self) -> int:
        return self.made.scratch

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.made.scratch
        self.scratch = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory in self.made.device.live
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == STREAM
        return self.made.capturable

    def execute_async_v3(self, stream: int) -> bool:
        made, device = self.made, self.made.device
        assert stream == STREAM
        assert self.scratch is not None
        assert self.scratch[0] in device.live
        self.runs += 1
        capturing = device._captured is not None
        if made.refuse == "run" or (made.refuse == "capture" and capturing):
            return False
        bound = {
            name: (address, self.get_tensor_shape(name), made.kinds.get(name, Kind.FLOAT).value)
            for name, address in self.addresses.items()
        }

        def work() -> None:
            values = {name: device.at(*what).copy() for name, what in bound.items()}
            for name, value in step(values, made.contract).items():
                device.at(*bound[name])[:] = value

        device.run(work)
        return True


class Cache:
    """Grows with what is compiled, refuses what it did not write itself."""

    def __init__(self, made: Made) -> None:
        self.made, self.loaded = made, b""

    def deserialize(self, blob: bytes) -> bool:
        good = blob.startswith(b"kernels")
        self.loaded = blob if good else b""
        return good

    def serialize(self) -> bytes:
        return self.loaded or b"kernels" * sum(c.runs > 0 for c in self.made.contexts)


def bindings(made: Made) -> Any:
    """A module such as ``tensorrt`` or ``tensorrt_rtx``."""

    class Config:
        def set_execution_context_allocation_strategy(self, strategy: str) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> Cache:
            made.cache = Cache(made)
            return made.cache

        def set_runtime_cache(self, cache: Cache) -> bool:
            self.cache = cache
            return True

    class Engine:
        @property
        def num_io_tensors(self) -> int:
            return len(made.ports)

        def get_tensor_name(self, index: int) -> str:
            return made.ports[index][0]

        def _port(self, name: str) -> tuple[str, Mode, tuple[int, ...]]:
            return next(p for p in made.ports if p[0] == name)

        def get_tensor_mode(self, name: str) -> Mode:
            return self._port(name)[1]

        def get_tensor_dtype(self, name: str) -> Kind:
            return made.kinds.get(name, Kind.FLOAT)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._port(name)[2]

        def create_runtime_config(self) -> Config:
            made.config = Config()
            return made.config

        def create_execution_context(self, how: Any) -> Context | None:
            assert "USER_MANAGED" in (how, getattr(how, "strategy", None))
            if made.refuse == "context":
                return None
            made.contexts.append(Context(made))
            return made.contexts[-1]

    class Runtime:
        engine_header_size = 8

        def __init__(self, log: Any) -> None:
            self.log = log

        def get_engine_validity(self, data: bytes) -> tuple[Any, int]:
            return SimpleNamespace(name="VALID"), 0

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if made.refuse == "load":
                self.log.log(SimpleNamespace(name="ERROR"), "the fake runtime was told to refuse")
                return None
            return Engine()

    class ILogger:
        pass

    return SimpleNamespace(
        __version__="1.7.1.116",
        ILogger=ILogger,
        Runtime=Runtime,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        CudaGraphStrategy=SimpleNamespace(DISABLED="disabled"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        EngineInvalidityDiagnostics=SimpleNamespace(__members__={}),
    )
