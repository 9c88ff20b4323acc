"""The part of TensorRT's Python bindings that teco builds and runs with, as protocols.

``tensorrt`` 10 and 11 and ``tensorrt_rtx`` have the same class names, so one piece of code builds
with either and takes the module as an argument. None of them need be installed to read or check
that code; tests check the stubs of ``tensorrt`` 10, and stubs made of the installed
``tensorrt_rtx``, against these protocols.

Only what all three have stands in :class:`Bindings`: no precision flags, no calibrator, no
``layer.precision``, which TensorRT 11 has removed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol, cast

from teco.core.errors import MACHINE, TecoError


class Named(Protocol):
    """A value of one of the bindings' enumerations."""

    @property
    def name(self) -> str: ...


class Tensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> Named: ...
    @property
    def shape(self) -> Any: ...  # Dims: a sequence of int, -1 for a dynamic extent
    @property
    def is_shape_tensor(self) -> bool: ...


class EngineLayer(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Named: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int, /) -> Tensor | None: ...
    def get_output(self, index: int, /) -> Tensor | None: ...


class Network(Protocol):
    @property
    def num_layers(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_layer(self, index: int, /) -> EngineLayer: ...
    def get_input(self, index: int, /) -> Tensor: ...
    def get_output(self, index: int, /) -> Tensor: ...


class Profile(Protocol):
    # None by the bindings' word; a profile that contradicts itself raises or is refused by add.
    def set_shape(self, name: str, least: Any, usual: Any, most: Any, /) -> object: ...


class HostMemory(Protocol):
    """Serialised bytes; :func:`to_bytes` copies them."""

    @property
    def nbytes(self) -> int: ...


class TimingCache(Protocol):
    def serialize(self) -> HostMemory: ...


class Config(Protocol):
    progress_monitor: Any
    profiling_verbosity: Any
    hardware_compatibility_level: Any

    def set_flag(self, flag: Any, /) -> None: ...
    def clear_flag(self, flag: Any, /) -> None: ...
    def set_memory_pool_limit(self, pool: Any, size: int, /) -> None: ...
    def add_optimization_profile(self, profile: Any, /) -> int: ...
    def create_timing_cache(self, data: bytes, /) -> TimingCache: ...
    def set_timing_cache(self, cache: Any, ignore_mismatch: bool, /) -> bool: ...
    def get_timing_cache(self) -> TimingCache: ...


class RtxConfig(Config, Protocol):
    """What ``tensorrt_rtx`` adds."""

    @property
    def num_compute_capabilities(self) -> int: ...
    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int, /) -> None: ...
    def set_compute_capability(self, capability: Any, index: int, /) -> bool: ...


class Builder(Protocol):
    def create_network(self, flags: int, /) -> Network: ...
    def create_builder_config(self) -> Config: ...
    def create_optimization_profile(self) -> Profile: ...
    def build_serialized_network(self, network: Any, config: Any, /) -> HostMemory | None: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def parse(self, model: bytes, path: str, /) -> bool: ...  # path: for weights beside the file
    def get_error(self, index: int, /) -> ParserError: ...


class Inspector(Protocol):
    execution_context: Any  # Context; the last one, with its shapes

    def get_engine_information(self, form: Any, /) -> str: ...


class Context(Protocol):
    """An engine with what it needs to run."""

    def set_input_shape(self, name: str, shape: tuple[int, ...], /) -> bool: ...
    def infer_shapes(self) -> list[str]: ...  # names of inputs that lack something
    def get_tensor_shape(self, name: str, /) -> Any: ...  # Dims
    def set_tensor_address(self, name: str, memory: int, /) -> bool: ...
    def update_device_memory_size_for_shapes(self) -> int: ...
    def set_device_memory(self, memory: int, size: int, /) -> None: ...
    def execute_async_v3(self, stream_handle: int, /) -> bool: ...


class RtxContext(Context, Protocol):
    """What ``tensorrt_rtx`` adds."""

    def is_stream_capturable(self, stream: int, /) -> bool: ...


class RuntimeCache(Protocol):
    """Kernels that TensorRT-RTX compiled on this machine."""

    def deserialize(self, blob: bytes, /) -> bool: ...
    def serialize(self) -> HostMemory: ...


class RuntimeConfig(Protocol):
    """How a context of ``tensorrt_rtx`` runs."""

    cuda_graph_strategy: Any
    dynamic_shapes_kernel_specialization_strategy: Any

    def create_runtime_cache(self) -> Any: ...  # RuntimeCache; stubs lack its name
    def set_runtime_cache(self, cache: Any, /) -> bool: ...
    def set_execution_context_allocation_strategy(self, strategy: Any, /) -> None: ...


class Engine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int, /) -> str: ...
    def get_tensor_mode(self, name: str, /) -> Named: ...
    def get_tensor_dtype(self, name: str, /) -> Named: ...
    def get_tensor_shape(self, name: str, /) -> Any: ...  # Dims
    # Dims, the least, the usual and the most, of an input
    def get_tensor_profile_shape(self, name: str, profile_index: int, /) -> list[Any]: ...
    # How: an allocation strategy, or with RTX a RuntimeConfig. None where it fails.
    def create_execution_context(self, how: Any, /) -> Context | None: ...
    def create_engine_inspector(self) -> Inspector: ...
    def serialize(self) -> HostMemory: ...


class RtxEngine(Engine, Protocol):
    """What ``tensorrt_rtx`` adds."""

    def create_runtime_config(self) -> RuntimeConfig: ...


class EngineDeserializer(Protocol):
    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, data: bytes, /) -> Engine | None: ...


class Refitter(Protocol):
    def refit_cuda_engine(self) -> bool: ...


class OnnxRefitter(Protocol):
    @property
    def num_errors(self) -> int: ...
    def refit_from_bytes(self, model: bytes, path: str, /) -> bool: ...
    def get_error(self, index: int, /) -> ParserError: ...


class Bindings(Protocol):
    """The module: ``tensorrt`` or ``tensorrt_rtx``. Enumerations are opaque here."""

    @property
    def __version__(self) -> str: ...
    @property
    def ILogger(self) -> type[Any]: ...
    @property
    def IProgressMonitor(self) -> type[Any]: ...
    @property
    def Builder(self) -> Callable[[Any], Builder]: ...
    @property
    def OnnxParser(self) -> Callable[[Any, Any], OnnxParser]: ...
    @property
    def OnnxParserRefitter(self) -> Callable[[Any, Any], OnnxRefitter]: ...
    @property
    def Refitter(self) -> Callable[[Any, Any], Refitter]: ...
    @property
    def Runtime(self) -> Callable[[Any], EngineDeserializer]: ...
    @property
    def BuilderFlag(self) -> Any: ...
    @property
    def MemoryPoolType(self) -> Any: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> Any: ...
    @property
    def ProfilingVerbosity(self) -> Any: ...
    @property
    def LayerInformationFormat(self) -> Any: ...
    @property
    def HardwareCompatibilityLevel(self) -> Any: ...
    @property
    def ExecutionContextAllocationStrategy(self) -> Any: ...


class RtxRuntime(EngineDeserializer, Protocol):
    """What ``tensorrt_rtx`` adds."""

    @property
    def engine_header_size(self) -> int: ...
    def deserialize_cuda_engine(self, data: bytes, /) -> RtxEngine | None: ...
    def get_engine_validity(self, data: bytes, /) -> Any: ...  # (EngineValidity, bits of reasons)


class RtxBindings(Bindings, Protocol):
    """What ``tensorrt_rtx`` adds."""

    @property
    def Runtime(self) -> Callable[[Any], RtxRuntime]: ...
    @property
    def ComputeCapability(self) -> Any: ...
    @property
    def EngineInvalidityDiagnostics(self) -> Any: ...
    @property
    def CudaGraphStrategy(self) -> Any: ...
    @property
    def DynamicShapesKernelSpecializationStrategy(self) -> Any: ...


def to_bytes(memory: HostMemory) -> bytes:
    """A copy. Host memory is a buffer, which not all of the stubs say."""
    return bytes(cast(Any, memory))


TARGETS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""Kind of engine -> module that builds and runs it."""

PRODUCTS = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
"""Kind of engine -> its maker's name for it."""


def is_installed(target: str) -> bool:
    """Whether the module of ``rtx`` or ``tensorrt`` is there; nothing is imported.

    A folder ``tensorrt`` that holds only type stubs makes a namespace package of that name, which
    is not TensorRT.
    """
    spec = importlib.util.find_spec(TARGETS[target])
    return spec is not None and spec.origin is not None


def load(target: str, purpose: str) -> Bindings:
    """Import the bindings of ``rtx`` or ``tensorrt``.

    Args:
        target: key of :data:`TARGETS`.
        purpose: what needs them, to begin the sentence with.

    Raises:
        TecoError: they are not installed, or cannot be loaded; exit code 3.
    """
    module = TARGETS[target]
    if not is_installed(target):
        raise TecoError(
            f"{purpose} needs {module}, which is not installed",
            hint=f"pip install 'teco[{target}]'",
            exit_code=MACHINE,
        )
    try:
        return cast(Bindings, importlib.import_module(module))
    except (ImportError, OSError) as error:  # a library it links is missing, or of another build
        raise TecoError(
            f"{purpose} needs {module}, which is installed but cannot be loaded: "
            f"{str(error).splitlines()[0]}",
            hint=f"pip install --force-reinstall 'teco[{target}]'",
            exit_code=MACHINE,
        ) from error


def installed_version(target: str) -> str | None:
    """Full version that the bindings report, None when they are absent or cannot be loaded."""
    try:
        return load(target, "").__version__
    except TecoError:
        return None
