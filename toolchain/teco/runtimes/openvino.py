"""OpenVINO: on CPUs in float32 or bfloat16, on Intel GPUs in float32 or float16, on Intel NPUs.

On a GPU or an NPU it has not yet been run; that the plugins of the installed OpenVINO take every
setting is tested, which needs neither. An NPU computes in float16 and takes no dynamic shapes, so
models are compiled for the size of the frames alone, on GPUs too, where that is what makes them
fast. State goes through the host's memory, which is the GPU's own where that is part of the
processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError
from teco.core.machine import missing_extra
from teco.core.pixels import Pixels, to_tensor
from teco.core.signal_stack import kept_signal_stack
from teco.model.contract import StreamContract
from teco.model.opening import Model
from teco.runtimes.base import Precision, Session, SessionOptions, State, cannot_load, needs_onnx
from teco.runtimes.ports import (
    PortedFrameSession,
    PortedPlaneSession,
    PortedSession,
    check_ports,
    shape_of,
    size_of,
)
from teco_calibration.cache import cache_dir

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision -> OpenVINO's name of its element type."""

_LACKING = {
    "gpu": "an Intel GPU and its compute driver, and OpenVINO finds {found} only: "
    "apt install intel-opencl-icd",
    "npu": "an Intel NPU (Core Ultra) and its driver (github.com/intel/linux-npu-driver), and "
    "OpenVINO finds {found} only",
}
"""Device -> what a runtime on it needs, to end a sentence with."""


@cache
def devices() -> tuple[str, ...]:
    """What OpenVINO finds here, such as ``("CPU", "GPU.0", "GPU.1")``; asked once."""
    import openvino as ov

    with kept_signal_stack():
        return tuple(ov.Core().available_devices)


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO with one inference precision."""

    name: str
    precision: Precision
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    suffixes: tuple[str, ...] = (".onnx",)
    packages: tuple[str, ...] = ("openvino",)
    module: str = "openvino"
    form: str = "openvino"
    slow_to_open: str = ""

    @property
    def exact(self) -> bool:
        return self.precision == "fp32"

    @property
    def plugin(self) -> str:
        """What OpenVINO calls the device; of several GPUs, the first."""
        return self.device.upper()

    def settings(self, threads: int) -> dict[str, Any]:
        """How a model is compiled: for the least time of one frame, in the precision of the row.

        Args:
            threads: of a CPU.
        """
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self.device != "npu":  # which has one precision, and no such setting
            settings["INFERENCE_PRECISION_HINT"] = _HINTS[self.precision]
        if self.device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = threads
        else:
            # Compiling takes seconds on a GPU and longer on an NPU.
            settings["CACHE_DIR"] = str(cache_dir() / "openvino")
        return settings

    def why_unavailable(self) -> str | None:
        if missing := missing_extra("openvino", "openvino", self.name):
            return missing
        if self.device != "cpu":
            found = devices()
            if any(name.partition(".")[0] == self.plugin for name in found):
                return None
            return f"{self.name} needs {_LACKING[self.device].format(found=', '.join(found))}"
        if self.precision == "fp32":
            return None
        import openvino as ov

        with kept_signal_stack():
            able: Any = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" in able:
            return None
        return f"{self.name} needs a CPU with bfloat16 instructions, which this one lacks"

    def why_not(self, model: Model) -> str | None:
        return needs_onnx(model, self.name)

    def open(self, model: Model, options: SessionOptions) -> Session:
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if reason := self.why_not(model):
            raise TecoError(reason, hint="`teco export` makes an ONNX file of it")
        import openvino as ov

        model = model.form(self.form)
        assert model.onnx is not None
        assert model.manifest is not None
        settings = self.settings(options.thread_count)
        contract = model.manifest.contract
        path = model.onnx

        def compile_for(size: tuple[int, int] | None, frames: bool) -> Any:
            try:
                network = ov.Core().read_model(str(path))
                names = [{n for p in ps for n in p.get_names()}
                         for ps in (network.inputs, network.outputs)]  # fmt: skip
                check_ports(path, contract, *names)
                if size is not None:
                    network.reshape({p: shape_of(d, *size) for p, d in contract.inputs.items()})
                half_state = self.precision == "bf16"
                ports = with_ports(network, contract, half_state=half_state, frames=frames)
                with kept_signal_stack():
                    compiled = ov.Core().compile_model(ports, self.plugin, settings)
            except TecoError:
                raise
            except Exception as error:  # pybind turns its errors into RuntimeError and others
                raise cannot_load(self.name, path, error) from error
            self._check_precision(compiled)
            return compiled

        if self.device == "cpu":
            compiled = compile_for(None, False)
            threads = compiled.get_property("INFERENCE_NUM_THREADS")
            details = f"CPU, {threads} threads, {_HINTS[self.precision]}"
        else:
            # One size at a time; a file of one size is compiled now, for what is wrong with it.
            if model.static_size is not None:
                compile_for(model.static_size, False)
            name = ov.Core().get_property(self.plugin, "FULL_DEVICE_NAME")
            details = f"{name}, {_HINTS[self.precision]}"
        kind: type[_Session] = _FrameSession
        if contract.planes is not None:
            kind = _PlaneFileSession
        elif contract.dtype == "uint8":
            kind = _FrameFileSession
        elif contract.dtype == "float16" or contract.picture in {s.source for s in contract.states}:
            kind = _Session
        return kind(self.name, details, contract, compile_for)

    def _check_precision(self, compiled: Any) -> None:
        """Raise TecoError where the plugin settled on another one than was asked for."""
        if self.device == "npu":
            return
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != _HINTS[self.precision]:
            raise TecoError(
                f"{self.name} was asked for and OpenVINO settled on {found}", exit_code=MACHINE
            )


CHECK = "teco_check"
"""Output that is not finite where the HR frame is not: a sum over what the frame is made from."""


def with_ports(
    network: Any, contract: StreamContract, *, half_state: bool, frames: bool = False
) -> Any:
    """A read model with the ports that suit the plugins.

    Args:
        network: ``openvino.Model``; changed.
        contract: how it is driven.
        half_state: what only becomes state is bfloat16 at the port. A bfloat16 plan rounds it to
            that anyway, on its way in; so nothing changes but half the memory traffic.
        frames: the HR frame comes as (1, 4h, 4w, 3) uint8, and :data:`CHECK` beside it. Only where
            the HR frame is no state.
    """
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.preprocess import PrePostProcessor

    carried = [s for s in contract.states if s.source in contract.carried and s.dtype == "float32"]
    # A float frame beside the 8-bit one is not rounded at its port; only states at LR are.
    carried = [s for s in carried if s.shape[2] == "h"]
    if frames:
        luma = "hr_luma"
        made_of = network.output(luma if luma in contract.outputs else carried[0].source)
        made_of = _before_clamps(made_of.get_node().input_value(0))
        total = ops.reduce_sum(made_of, ops.constant([0, 1, 2, 3]))
        total.output(0).set_names({CHECK})
        network.add_outputs(total.output(0))
    if not (half_state and carried) and not frames:
        return network
    ports = PrePostProcessor(network)
    if half_state:
        for state in carried:
            ports.input(state.input).tensor().set_element_type(ov.Type.bf16)
            ports.output(state.source).tensor().set_element_type(ov.Type.bf16)
    if frames:
        picture = ports.output(contract.picture)

        def to_levels(port: Any) -> Any:
            levels = ops.round(ops.multiply(port, ops.constant(255.0, ov.Type.f32)), "half_to_even")
            return ops.clamp(levels, 0.0, 255.0).output(0)

        picture.postprocess().custom(to_levels)
        picture.model().set_layout(ov.Layout("NCHW"))
        picture.tensor().set_layout(ov.Layout("NHWC"))
        picture.tensor().set_element_type(ov.Type.u8)
    return ports.build()


SIZES_KEPT = 3
"""Compiled models that a session keeps, the oldest given up: a stream has one size, or few."""


def _before_clamps(port: Any) -> Any:
    """What a port is made from, clamps and reordering undone: after a clamp, what is not finite may
    be a number."""
    while (node := port.get_node()).get_type_name() in (
        "DepthToSpace", "Clamp", "Minimum", "Maximum",
    ):  # fmt: skip
        inputs: list[Any] = node.input_values()
        port = next(p for p in inputs if p.get_node().get_type_name() != "Constant")
    return port


_Compile = Callable[[tuple[int, int] | None, bool], Any]
"""(LR size or None for any, whether 8-bit frames come out) -> ``openvino.CompiledModel``."""


class _Session(PortedSession):
    """Two requests in turn: one reads, as its state, the memory the other wrote as its output.

    A clip has one size, and a model compiled for that size alone is faster: with shapes that are
    known OpenVINO fuses elementwise operations (a step of real-cpu at 180x320, two Zen 5 cores:
    42 ms for any size and 37 for this one in float32, 31 and 26 in bfloat16).
    """

    def __init__(
        self, runtime: str, details: str, contract: StreamContract, compile_for: _Compile
    ) -> None:
        super().__init__(runtime, details, contract)
        self._compile_for = compile_for
        self._fitted: tuple[tuple[int, int], bool] | None = None
        self._known: dict[tuple[tuple[int, int], bool], Any] = {}
        """LR size and whether 8-bit frames come out -> what is compiled for that."""
        self._makes_frames = False
        self._compiled: Any = None
        self._requests: list[Any] = []
        self._turn = 0

    def _fit(self, size: tuple[int, int], frames: bool) -> None:
        """Stand ready for frames of (h, w)."""
        if (size, frames) == self._fitted:
            return
        if (size, frames) not in self._known:
            if len(self._known) == SIZES_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[size, frames] = self._compile_for(size, frames)
        self._fitted = size, frames
        self._makes_frames = frames
        self._compiled = self._known[size, frames]
        self._requests = [self._compiled.create_infer_request() for _ in range(2)]
        self._turn = 0

    def _run(
        self, given: Mapping[str, NDArray[Any]], state: State | None, *, frames: bool = False
    ) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None, State]:
        import openvino as ov

        contract = self._contract
        size = size_of(contract, given[contract.frame].shape)
        self._fit(size, frames)
        taken = {name: ov.Tensor(value, shared_memory=True) for name, value in given.items()}
        request = self._requests[self._turn]
        self._turn = 1 - self._turn
        past = self._zeros(*size) if state is None else state
        for name, value in {**taken, **past}.items():
            request.set_tensor(name, value)
        request.infer()
        values = {**taken, **{n: request.get_tensor(n) for n in contract.outputs}}
        check = values[contract.check].data if contract.check else self._own_check(request)
        following = {s.input: values[s.source] for s in contract.states}
        return tuple(values[name].data for name in contract.pictures), check, following

    def _own_check(self, request: Any) -> NDArray[Any] | None:
        """What stands for the contract's check where the file has none."""
        return None

    def _zeros(self, h: int, w: int) -> dict[str, Any]:
        import openvino as ov

        zeros: dict[str, Any] = {}
        for state in self._contract.states:
            kind = self._compiled.input(state.input).get_element_type()
            zeros[state.input] = ov.Tensor(kind, ov.Shape(shape_of(state.shape, h, w)))
            # Bytes, because numpy knows no bfloat16; zero looks the same in every type.
            np.frombuffer(zeros[state.input].data, np.uint8)[:] = 0
        return zeros

    @property
    def contract(self) -> StreamContract:
        """See :class:`teco.runtimes.base.StateArrays`."""
        return self._contract

    def to_arrays(self, state: State) -> dict[str, NDArray[Any]]:
        """See :class:`teco.runtimes.base.StateArrays`; bfloat16 as the integers of its bits."""
        return {
            name: np.frombuffer(t.data, np.uint16).reshape(tuple(t.shape))
            if t.get_element_type().get_type_name() == "bf16"
            else t.data
            for name, t in state.items()
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> State:
        """See :class:`teco.runtimes.base.StateArrays`."""
        import openvino as ov

        state: dict[str, Any] = {}
        for name, value in arrays.items():
            if value.dtype == np.uint16:
                state[name] = ov.Tensor(ov.Type.bf16, ov.Shape(value.shape))
                np.frombuffer(state[name].data, np.uint8)[:] = value.reshape(-1).view(np.uint8)
            else:
                state[name] = ov.Tensor(value, shared_memory=True)
        return state

    def close(self) -> None:
        with kept_signal_stack():
            self._requests, self._known = [], {}
            self._fitted = self._compiled = None


class _FrameFileSession(PortedFrameSession, _Session):
    """A session for a file with 8-bit ports."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        picture, state = super().enlarge(frame, state)
        # It is handed to others, who keep it; this memory is written again two steps on.
        return picture.copy(), state


class _PlaneFileSession(PortedPlaneSession, _Session):
    """A session for a file with planes, which are copied when they are put together."""


class _FrameSession(_Session):
    """A session whose model can also make 8-bit frames, by a graph of its own."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        given = {self._contract.frame: to_tensor(frame)}
        (picture,), check, state = self._run(given, state, frames=True)
        self._require_finite(check)
        # The frame is handed to others, who keep it; this memory is written again two steps on.
        return picture[0].copy(), state

    def _own_check(self, request: Any) -> NDArray[Any] | None:
        return request.get_tensor(CHECK).data if self._makes_frames else None
