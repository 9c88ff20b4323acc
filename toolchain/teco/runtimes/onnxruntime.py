"""ONNX Runtime: CPU, and CUDA with the state bound on the device.

The CUDA path is written against ONNX Runtime's I/O binding documentation and has not yet been run
on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from teco.artifact import Model, StreamContract
from teco.errors import MACHINE, TecoError
from teco.machine import missing_extra, nvidia_gpus
from teco.runtimes.base import Session, SessionOptions, State, needs_onnx
from teco.runtimes.ports import PortedPictureSession, PortedSession, size_of, zeros

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """One execution provider of ONNX Runtime."""

    name: str
    device: Literal["cpu", "cuda"]
    exact: bool = True
    suffixes: tuple[str, ...] = (".onnx",)

    def why_unavailable(self) -> str | None:
        if missing := missing_extra("onnxruntime", "gpu", self.name):
            return missing
        if self.device == "cpu":
            return None
        import onnxruntime as ort

        if PROVIDERS["cuda"] not in ort.get_available_providers():
            return (
                f"{self.name} needs an ONNX Runtime with CUDA; the installed {ort.__version__} has "
                f"{', '.join(ort.get_available_providers())}: pip uninstall onnxruntime, then "
                "pip install --force-reinstall --no-deps onnxruntime-gpu"
            )
        if not nvidia_gpus():
            # The provider is compiled in whether or not there is something to run it on.
            return f"{self.name} needs an NVIDIA GPU and driver; nvidia-smi finds none"
        return None

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
        provider = PROVIDERS[self.device]
        # TF32 would be a lower precision under the name of float32.
        chosen = provider if self.device == "cpu" else (provider, {"use_tf32": "0"})
        try:
            session = ort.InferenceSession(str(model.onnx), settings, providers=[chosen])
        except Exception as error:  # its exceptions share no base but Exception
            raise TecoError(
                f"{self.name} cannot load {model.onnx}: {str(error).splitlines()[0][:200]}",
                hint="export it again with `teco export`",
            ) from error
        got = session.get_providers()
        if provider not in got:
            # ONNX Runtime falls back silently (onnxruntime#12639); a benchmark must not.
            raise TecoError(
                f"{self.name} was asked for and ONNX Runtime gave {', '.join(got)}",
                hint="check the CUDA and cuDNN versions that this onnxruntime-gpu wants",
                exit_code=MACHINE,
            )
        contract = model.manifest.contract
        pictures = contract.dtype == "uint8"
        if self.device == "cuda":
            on_gpu = _CudaPictureSession if pictures else _CudaSession
            return on_gpu(self.name, session, contract)
        on_cpu = _CpuPictureSession if pictures else _CpuSession
        return on_cpu(self.name, session, contract, options.thread_count)


class _CpuSession(PortedSession):
    """State is a dict of arrays; outputs are fresh arrays, so nothing is copied."""

    def __init__(self, runtime: str, session: Any, contract: StreamContract, threads: int) -> None:
        super().__init__(runtime, f"CPU, {threads} threads, float32", contract)
        self._session: Any = session

    def _run(
        self, frame: NDArray[Any], state: State | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None, State]:
        contract = self._contract
        given = zeros(contract, *size_of(contract, frame)) if state is None else state
        fetched = self._session.run(contract.outputs, {contract.frame: frame, **given})
        values = {contract.frame: frame, **dict(zip(contract.outputs, fetched, strict=True))}
        following = {s.input: values[s.source] for s in contract.states}
        return values[contract.picture], values.get(contract.check), following

    def close(self) -> None:
        self._session = None


class _CpuPictureSession(PortedPictureSession, _CpuSession):
    """The same for a file with 8-bit ports."""


class _CudaSession(PortedSession):
    """State is OrtValues on the device; only the picture is copied to the host."""

    def __init__(self, runtime: str, session: Any, contract: StreamContract) -> None:
        super().__init__(runtime, "CUDA, device 0", contract)
        self._session: Any = session

    def _run(
        self, frame: NDArray[Any], state: State | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None, State]:
        import onnxruntime as ort

        contract = self._contract
        given = ort.OrtValue.ortvalue_from_numpy(frame, "cuda", 0)
        if state is None:
            fresh = zeros(contract, *size_of(contract, frame))
            state = {k: ort.OrtValue.ortvalue_from_numpy(v, "cuda", 0) for k, v in fresh.items()}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(contract.frame, given)
        for name, value in state.items():
            binding.bind_ortvalue_input(name, value)
        for name in contract.outputs:
            binding.bind_output(name, "cuda", 0)
        self._session.run_with_iobinding(binding)
        fetched = binding.get_outputs()
        values = {contract.frame: given, **dict(zip(contract.outputs, fetched, strict=True))}
        check = values[contract.check].numpy() if contract.check else None
        following = {s.input: values[s.source] for s in contract.states}
        return values[contract.picture].numpy(), check, following

    def close(self) -> None:
        self._session = None


class _CudaPictureSession(PortedPictureSession, _CudaSession):
    """The same for a file with 8-bit ports."""
