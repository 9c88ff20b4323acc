"""OpenVINO on CPUs, in float32 or bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from teco.artifact import Model, StreamContract
from teco.errors import MACHINE, TecoError
from teco.machine import missing_extra
from teco.runtimes.base import Array, Session, SessionOptions, State, needs_onnx
from teco.runtimes.onnxruntime import shape_of


@dataclass(frozen=True, kw_only=True)
class OpenVino:
    """OpenVINO with one inference precision."""

    name: str
    precision: Literal["f32", "bf16"]
    suffixes: tuple[str, ...] = (".onnx",)

    @property
    def exact(self) -> bool:
        return self.precision == "f32"

    def why_unavailable(self) -> str | None:
        if missing := missing_extra("openvino", "openvino", self.name):
            return missing
        if self.precision == "f32":
            return None
        import openvino as ov

        if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
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
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.thread_count,
        }
        try:
            compiled = ov.Core().compile_model(str(model.onnx), "CPU", settings)
        except Exception as error:  # pybind turns its errors into RuntimeError and others
            reason = str(error).strip().splitlines()[-1][:200]
            raise TecoError(
                f"{self.name} cannot load {model.onnx}: {reason}",
                hint="export it again with `teco export`",
            ) from error
        # What the plugin settled on, not what was asked for.
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != self.precision:
            raise TecoError(
                f"{self.name} was asked for and OpenVINO settled on {found}", exit_code=MACHINE
            )
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        details = f"CPU, {threads} threads, {found}"
        return _Session(self.name, compiled, model.manifest.contract, details)


class _Session:
    """Two requests in turn: one reads, as its state, the memory the other wrote as its output."""

    def __init__(self, runtime: str, compiled: Any, contract: StreamContract, details: str) -> None:
        self.runtime = runtime
        self.details = details
        self._contract = contract
        self._compiled = compiled
        self._requests = [compiled.create_infer_request() for _ in range(2)]
        self._turn = 0

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        import openvino as ov

        contract = self._contract
        if state is None:
            import numpy as np

            h, w = lr.shape[2:]
            state = {
                s.input: np.zeros(shape_of(s.shape, h, w), np.float32) for s in contract.states
            }
        request = self._requests[self._turn]
        self._turn = 1 - self._turn
        for name, value in {contract.frame: lr, **state}.items():
            request.set_tensor(name, ov.Tensor(value, shared_memory=True))
        request.infer()
        values = {contract.frame: lr}
        values |= {name: request.get_tensor(name).data for name in contract.outputs}
        return values[contract.picture], {s.input: values[s.source] for s in contract.states}

    def close(self) -> None:
        self._requests = []
        self._compiled = None
