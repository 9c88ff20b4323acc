"""ONNX Runtime on the CPU. On GPUs: :mod:`teco.runtimes.nvidia.onnxruntime_gpu`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from teco.core.errors import MACHINE, TecoError
from teco.core.machine import missing_extra
from teco.model.contract import StreamContract
from teco.model.opening import Model
from teco.runtimes.base import (
    PACKAGES_OF_ONNXRUNTIME,
    Precision,
    Session,
    SessionOptions,
    State,
    cannot_load,
    needs_onnx,
)
from teco.runtimes.ports import (
    PortedFrameSession,
    PortedPlaneSession,
    PortedSession,
    check_ports,
    size_of,
    zeros,
)

PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name: str
    exact: bool = True
    suffixes: tuple[str, ...] = (".onnx",)
    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"
    packages: tuple[str, ...] = PACKAGES_OF_ONNXRUNTIME
    module: str = "onnxruntime"
    form: str = ""
    slow_to_open: str = ""

    def why_unavailable(self) -> str | None:
        return missing_extra("onnxruntime", "cpu", self.name)

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
            raise cannot_load(self.name, model.onnx, error) from error
        contract = model.manifest.contract
        check_ports(
            model.onnx, contract,
            [p.name for p in session.get_inputs()], [p.name for p in session.get_outputs()],
        )  # fmt: skip
        kind = _CpuFrameSession if contract.dtype == "uint8" else _CpuSession
        kind = _CpuPlaneSession if contract.planes is not None else kind
        return kind(self.name, session, contract, options.thread_count)


class _CpuSession(PortedSession):
    """State is a dict of arrays; outputs are fresh arrays, so nothing is copied."""

    def __init__(self, runtime: str, session: Any, contract: StreamContract, threads: int) -> None:
        super().__init__(runtime, f"CPU, {threads} threads, float32", contract)
        self._session: Any = session

    def _run(
        self, given: Mapping[str, NDArray[Any]], state: State | None
    ) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None, State]:
        contract = self._contract
        if state is None:
            state = zeros(contract, *size_of(contract, given[contract.frame].shape))
        fetched = self._session.run(contract.outputs, {**given, **state})
        values = {**given, **dict(zip(contract.outputs, fetched, strict=True))}
        following = {s.input: values[s.source] for s in contract.states}
        pictures = tuple(values[name] for name in contract.pictures)
        return pictures, values.get(contract.check), following

    @property
    def contract(self) -> StreamContract:
        """See :class:`teco.runtimes.base.StateArrays`."""
        return self._contract

    def to_arrays(self, state: State) -> dict[str, NDArray[Any]]:
        """See :class:`teco.runtimes.base.StateArrays`."""
        return state

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> State:
        """See :class:`teco.runtimes.base.StateArrays`."""
        return arrays

    def close(self) -> None:
        self._session = None


class _CpuFrameSession(PortedFrameSession, _CpuSession):
    """The same for a file with 8-bit ports."""


class _CpuPlaneSession(PortedPlaneSession, _CpuSession):
    """The same for a file with planes."""
