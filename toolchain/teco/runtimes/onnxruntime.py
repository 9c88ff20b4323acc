"""ONNX Runtime on the CPU. On GPUs: :mod:`teco.runtimes.onnxruntime_gpu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from teco.artifact import Model, StreamContract
from teco.errors import MACHINE, TecoError
from teco.machine import missing_extra
from teco.runtimes.base import Array, Session, SessionOptions, State, needs_onnx

PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name: str
    exact: bool = True
    suffixes: tuple[str, ...] = (".onnx",)

    def why_unavailable(self) -> str | None:
        return missing_extra("onnxruntime", "gpu", self.name)

    def why_not(self, model: Model) -> str | None:
        return needs_onnx(model, self.name)

    def open(self, model: Model, options: SessionOptions) -> Session:
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if reason := self.why_not(model):
            raise TecoError(reason, hint="`teco export` makes an ONNX file of it")
        import onnxruntime as ort

        assert model.onnx is not None
        assert model.manifest is not None
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.thread_count
        settings.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(model.onnx), settings, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no base but Exception
            raise TecoError(
                f"{self.name} cannot load {model.onnx}: {str(error).splitlines()[0][:200]}",
                hint="export it again with `teco export`",
            ) from error
        return _CpuSession(self.name, session, model.manifest.contract, options.thread_count)


def _zeros(contract: StreamContract, lr: Array) -> dict[str, Array]:
    h, w = lr.shape[2:]
    return {s.input: np.zeros(shape_of(s.shape, h, w), np.float32) for s in contract.states}


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


class _CpuSession:
    """State is a dict of arrays; outputs are fresh arrays, so nothing is copied."""

    def __init__(self, runtime: str, session: Any, contract: StreamContract, threads: int) -> None:
        self.runtime = runtime
        self.details = f"CPU, {threads} threads, float32"
        self._session: Any = session
        self._contract = contract

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        contract = self._contract
        feeds = {contract.frame: lr, **(_zeros(contract, lr) if state is None else state)}
        fetched = self._session.run(contract.outputs, feeds)
        values = {contract.frame: lr, **dict(zip(contract.outputs, fetched, strict=True))}
        return values[contract.picture], {s.input: values[s.source] for s in contract.states}

    def close(self) -> None:
        self._session = None
