"""Stepping an ONNX Runtime session whose tensors stay on the GPU. Not yet run on a GPU.

Two bindings hold the addresses of the two turns (:mod:`teco.runtimes.nvidia.turns`), and where CUDA
graphs are on, ``gpu_graph_id`` tells them apart.
"""

from __future__ import annotations

import importlib
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError
from teco.core.pixels import Pixels
from teco.model.contract import StreamContract
from teco.runtimes.base import State
from teco.runtimes.nvidia import device
from teco.runtimes.nvidia.device.interface import DeviceArray, borrow, is_device_array
from teco.runtimes.nvidia.device.protocol import Device
from teco.runtimes.nvidia.turns import TurnPlanes, TurnSession
from teco.runtimes.ports import shape_of, shapes_of

_DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}


@cache
def plugin_devices(plugin: str) -> tuple[str, list[Any]]:
    """What a plugin package offers, after its library was registered, which can be done once.

    Args:
        plugin: the package's module.

    Returns:
        The provider's name, which the plugin says, and ONNX Runtime's devices of that name.

    Raises:
        TecoError: the package cannot be imported, or its library not be loaded; exit code 3.
    """
    try:
        import onnxruntime as ort

        module: Any = importlib.import_module(plugin)
        name = str(module.get_ep_name())
        ort.register_execution_provider_library(name, module.get_library_path())
        return name, [d for d in ort.get_ep_devices() if d.ep_name == name]
    except Exception as error:  # its exceptions share no base but Exception
        raise TecoError(
            f"{plugin} cannot be loaded: {' '.join(str(error).split())[:200]}",
            hint=f"pip install --force-reinstall {plugin.replace('_', '-')}",
            exit_code=MACHINE,
        ) from error


class Place:
    """Memory of the first GPU, as an ONNX Runtime built for CUDA gives it."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new ``OrtValue``."""
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, "cuda", 0)

    def upload(self, target: Any, source: NDArray[Any]) -> None:
        """Fill an ``OrtValue`` of the same shape and type; done when it returns."""
        target.update_inplace(source)

    def download(self, source: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A new array with an ``OrtValue``'s values."""
        return source.numpy()


class PluginPlace(Place):
    """The same through a plugin, whose memory ONNX Runtime itself was not built for.

    Such memory is named by kind and vendor, and copied by ``copy_tensors``, which asks the plugin.

    Args:
        vendor: PCI vendor.
    """

    def __init__(self, vendor: int) -> None:
        self._vendor = vendor

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype.type, "gpu", 0, vendor_id=self._vendor
        )

    def upload(self, target: Any, source: NDArray[Any]) -> None:
        import onnxruntime as ort

        ort.copy_tensors([ort.OrtValue.ortvalue_from_numpy(source)], [target])

    def download(self, source: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        import onnxruntime as ort

        values = np.empty(shape, dtype)
        ort.copy_tensors([source], [ort.OrtValue.ortvalue_from_numpy(values)])
        return values


class BoundSession(TurnSession):
    """See :class:`teco.runtimes.base.Session`.

    Args:
        runtime: name to report.
        details: what it runs on, for people.
        session: ``InferenceSession`` on one of the GPU providers.
        contract: how it is driven.
        place: where its tensors lie.
        graphs: whether the provider was told to run CUDA graphs.
    """

    def __init__(
        self,
        runtime: str,
        details: str,
        session: Any,
        contract: StreamContract,
        place: Place,
        *,
        graphs: bool,
    ) -> None:
        super().__init__(runtime, contract)
        self.details = details
        self._session: Any = session
        self._place = place
        self._graphs = graphs
        ports = [*session.get_inputs(), *session.get_outputs()]
        self._dtypes = {p.name: _dtype(p.name, p.type) for p in ports}
        self._sides: dict[str, tuple[Any, Any]] = {}
        self._zeros: dict[str, Any] = {}
        self._bindings: list[Any] = []
        self._device: Device | None = None

    def _fetch(self, turn: int) -> tuple[NDArray[Any], ...]:
        contract = self._contract
        if contract.check and not np.isfinite(self._download(contract.check, turn)).all():
            raise FloatingPointError
        return tuple(self._download(name, turn) for name in contract.pictures)

    def _download(self, name: str, turn: int) -> NDArray[Any]:
        value = self._sides[name][turn]
        return self._place.download(value, tuple(value.shape()), self._dtypes[name])

    def step_on_device(self, lr: Any, state: State | None) -> tuple[DeviceArray, State]:
        """The same with the HR frame left on the GPU, until the step after next or a new scene."""
        turn = self._run({self._contract.frame: lr}, state)
        picture = self._contract.picture
        value = self._sides[picture][turn]
        array = DeviceArray(
            address=int(value.data_ptr()),
            shape=tuple(int(x) for x in value.shape()),
            dtype=self._dtypes[picture],
            stream=1,  # a run returns when it is done, so any stream will do
            owner=self,
        )
        return array, self._token()

    def close(self) -> None:
        self._bindings, self._sides, self._zeros = [], {}, {}
        self._session = None
        if self._device is not None:
            self._device.close()
            self._device = None

    @property
    def _is_open(self) -> bool:
        return self._session is not None

    def _execute(self, turn: int) -> None:
        self._session.run_with_iobinding(self._bindings[turn], self._run_options(turn))

    def _run_options(self, turn: int) -> Any:
        if not self._graphs:
            return None
        import onnxruntime as ort

        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(turn + 1))
        return options

    def _start_scene(self, size: tuple[int, int], past: int) -> None:
        if self._size != size:
            self._resize(size)
        for source, zeros in self._zeros.items():
            self._place.upload(self._sides[source][past], zeros)

    def _resize(self, size: tuple[int, int]) -> None:
        contract = self._contract
        given = contract.given
        named = {**given, **shapes_of(contract)}
        shapes = {source: shape_of(shape, *size) for source, shape in named.items()}
        self._size, self._bindings, self._sides, self._zeros = None, [], {}, {}
        for source, shape in shapes.items():
            dtype = self._dtypes[source]
            self._sides[source] = (self._place.empty(shape, dtype), self._place.empty(shape, dtype))
        for state in contract.states:
            shape = shapes[state.source]
            self._zeros[state.source] = np.zeros(shape, self._dtypes[state.source])
        for turn in (0, 1):
            binding = self._session.io_binding()
            for name in given:
                binding.bind_ortvalue_input(name, self._sides[name][turn])
            for name in contract.outputs:
                binding.bind_ortvalue_output(name, self._sides[name][turn])
            for state in contract.states:
                binding.bind_ortvalue_input(state.input, self._sides[state.source][1 - turn])
            self._bindings.append(binding)
        self._size = size

    def _put(self, name: str, value: Any, turn: int) -> None:
        dtype, target = self._dtypes[name], self._sides[name][turn]
        if not is_device_array(value):
            self._place.upload(target, np.ascontiguousarray(value, dtype=dtype))
            return
        shape = tuple(int(x) for x in target.shape())
        found = borrow(value, shape, dtype)
        if self._device is None:
            self._device = device.open_device("a frame on the GPU")
        if found.stream is not None:
            self._device.wait_for(found.stream)
        self._device.copy(int(target.data_ptr()), found.address, prod(shape) * dtype.itemsize)
        self._device.synchronise()  # ONNX Runtime's own stream knows nothing of this one


class BoundFrameSession(BoundSession):
    """The same for a file with 8-bit ports; see :class:`teco.runtimes.base.FrameSession`."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :meth:`teco.runtimes.base.FrameSession.enlarge`.

        Args:
            frame: (h, w, 3) uint8 on the host; on the GPU, (1, h, w, 3).
            state: as :meth:`step`'s, and the same kind.
        """
        given = frame if is_device_array(frame) else np.asarray(frame)[None]
        (picture,) = self._fetch(self._run({self._contract.frame: given}, state))
        return picture[0], self._token()


class BoundPlaneSession(TurnPlanes, BoundSession):
    """The same for a file with planes."""


def _dtype(name: str, kind: str) -> np.dtype[Any]:
    if kind not in _DTYPES:
        raise TecoError(
            f"port {name} is {kind}, expected {' or '.join(_DTYPES)}",
            hint="export it again with --io fp32, fp16, uint8 or nv12",
        )
    return _DTYPES[kind]
