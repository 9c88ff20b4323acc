"""ONNX Runtime: CPU, and CUDA with the state bound on the device.

The CUDA path is written against ONNX Runtime's I/O binding documentation and has not yet been run
on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from teco.artifact import Model, StreamContract
from teco.errors import MACHINE, TecoError
from teco.machine import missing_extra, nvidia_gpus
from teco.runtimes.base import Array, Session, SessionOptions, State, needs_onnx

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
        if self.device == "cuda":
            return _CudaSession(self.name, session, contract)
        return _CpuSession(self.name, session, contract, options.thread_count)


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


class _CudaSession:
    """State is OrtValues on the device; only the picture is copied to the host."""

    def __init__(self, runtime: str, session: Any, contract: StreamContract) -> None:
        self.runtime = runtime
        self.details = "CUDA, device 0"
        self._session: Any = session
        self._contract = contract

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        import onnxruntime as ort

        contract = self._contract
        frame = ort.OrtValue.ortvalue_from_numpy(lr, "cuda", 0)
        if state is None:
            zeros = _zeros(contract, lr)
            state = {k: ort.OrtValue.ortvalue_from_numpy(v, "cuda", 0) for k, v in zeros.items()}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(contract.frame, frame)
        for name, value in state.items():
            binding.bind_ortvalue_input(name, value)
        for name in contract.outputs:
            binding.bind_output(name, "cuda", 0)
        self._session.run_with_iobinding(binding)
        fetched = binding.get_outputs()
        values = {contract.frame: frame, **dict(zip(contract.outputs, fetched, strict=True))}
        return values[contract.picture].numpy(), {
            s.input: values[s.source] for s in contract.states
        }

    def close(self) -> None:
        self._session = None
