"""OpenVINO on CPUs, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError
from teco.core.machine import missing_extra
from teco.core.pixels import Array, Pixels, to_tensor
from teco.core.signal_stack import kept_signal_stack
from teco.model.contract import StreamContract
from teco.model.opening import Model
from teco.runtimes.base import Precision, Session, SessionOptions, State, needs_onnx
from teco.runtimes.ports import (
    PortedFrameSession,
    PortedSession,
    shape_of,
    size_of,
)

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precision -> OpenVINO's name of its element type."""


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO with one inference precision."""

    name: str
    precision: Precision
    suffixes: tuple[str, ...] = (".onnx",)
    device: Literal["cpu"] = "cpu"
    packages: tuple[str, ...] = ("openvino",)
    module: str = "openvino"
    slow_to_open: str = ""

    @property
    def exact(self) -> bool:
        return self.precision == "fp32"

    def why_unavailable(self) -> str | None:
        if missing := missing_extra("openvino", "openvino", self.name):
            return missing
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

        assert model.onnx is not None
        assert model.manifest is not None
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.thread_count,
        }
        contract = model.manifest.contract
        try:
            network = ov.Core().read_model(str(model.onnx))
            half_state = self.precision == "bf16"
            with kept_signal_stack():
                compiled = ov.Core().compile_model(
                    with_ports(network, contract, half_state=half_state), "CPU", settings
                )
        except Exception as error:  # pybind turns its errors into RuntimeError and others
            reason = str(error).strip().splitlines()[-1][:200]
            raise TecoError(
                f"{self.name} cannot load {model.onnx}: {reason}",
                hint="export it again with `teco export`",
            ) from error
        # What the plugin settled on, not what was asked for.
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != _HINTS[self.precision]:
            raise TecoError(
                f"{self.name} was asked for and OpenVINO settled on {found}", exit_code=MACHINE
            )
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        details = f"CPU, {threads} threads, {found}"
        if contract.dtype == "uint8":
            return _FrameFileSession(self.name, compiled, contract, details)
        if contract.dtype == "float16" or contract.picture in {s.source for s in contract.states}:
            return _Session(self.name, compiled, contract, details)

        def compile_frames() -> Any:
            again = ov.Core().read_model(str(model.onnx))
            ports = with_ports(again, contract, half_state=half_state, frames=True)
            with kept_signal_stack():
                return ov.Core().compile_model(ports, "CPU", settings)

        return _FrameSession(self.name, compiled, contract, details, compile_frames)


CHECK = "teco_check"
"""Output that is not finite where the HR frame is not: a sum over what the frame is made from."""


def with_ports(
    network: Any, contract: StreamContract, *, half_state: bool, frames: bool = False
) -> Any:
    """A read model with the ports that suit the CPU plugin.

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
        made_of = network.output(carried[0].source).get_node().input_value(0)
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


class _Session(PortedSession):
    """Two requests in turn: one reads, as its state, the memory the other wrote as its output."""

    def __init__(self, runtime: str, compiled: Any, contract: StreamContract, details: str) -> None:
        super().__init__(runtime, details, contract)
        self._take(compiled)

    def _take(self, compiled: Any) -> None:
        self._compiled: Any = compiled
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(2)]
        self._turn = 0

    def _run(
        self, frame: NDArray[Any], state: State | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None, State]:
        import openvino as ov

        contract = self._contract
        given = ov.Tensor(frame, shared_memory=True)
        request = self._requests[self._turn]
        self._turn = 1 - self._turn
        past = self._zeros(*size_of(contract, frame.shape)) if state is None else state
        for name, value in {contract.frame: given, **past}.items():
            request.set_tensor(name, value)
        request.infer()
        values = {contract.frame: given, **{n: request.get_tensor(n) for n in contract.outputs}}
        check = values[contract.check].data if contract.check else self._own_check(request)
        following = {s.input: values[s.source] for s in contract.states}
        return values[contract.picture].data, check, following

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

    def close(self) -> None:
        with kept_signal_stack():
            self._requests = []
            self._compiled = None


class _FrameFileSession(PortedFrameSession, _Session):
    """A session for a file with 8-bit ports."""

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        picture, state = super().enlarge(frame, state)
        # It is handed to others, who keep it; this memory is written again two steps on.
        return picture.copy(), state


class _FrameSession(_Session):
    """A session whose model can also make 8-bit frames, by a graph of its own.

    It is compiled when it is first asked for.
    """

    def __init__(
        self,
        runtime: str,
        compiled: Any,
        contract: StreamContract,
        details: str,
        compile_frames: Callable[[], Any],
    ) -> None:
        super().__init__(runtime, compiled, contract, details)
        self._floats: Any = compiled
        self._frames: Any = None
        self._compile_frames = compile_frames
        self._makes_frames = False

    def _switch(self, frames: bool) -> None:
        if self._makes_frames != frames:
            self._makes_frames = frames
            if frames and self._frames is None:
                self._frames = self._compile_frames()
            self._take(self._frames if frames else self._floats)

    def close(self) -> None:
        with kept_signal_stack():
            super().close()
            self._floats = self._frames = None

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        self._switch(frames=False)
        return super().step(lr, state)

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        self._switch(frames=True)
        picture, check, state = self._run(to_tensor(frame), state)
        self._require_finite(check)
        # The frame is handed to others, who keep it; this memory is written again two steps on.
        return picture[0].copy(), state

    def _own_check(self, request: Any) -> NDArray[Any] | None:
        return request.get_tensor(CHECK).data if self._makes_frames else None
