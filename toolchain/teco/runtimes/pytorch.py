"""PyTorch: the reference, on CPU or CUDA, optionally through ``torch.compile``.

The CUDA path ran on an NVIDIA H200 (torch 2.11); ``torch.compile`` there has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from teco.core.allocator import give_back, keep_freed_memory
from teco.core.errors import MACHINE, TecoError
from teco.core.machine import missing_extra
from teco.core.pixels import Array
from teco.model.opening import WEIGHTS_SUFFIXES, Model
from teco.runtimes.base import Precision, Session, SessionOptions, State

if TYPE_CHECKING:
    from teco_models.checkpoint import AnyGenerator, Weights


@dataclass(frozen=True, kw_only=True)
class PyTorch:
    """PyTorch on one device."""

    name: str
    device: Literal["cpu", "cuda"]
    compiled: bool = False
    exact: bool = True
    suffixes: tuple[str, ...] = WEIGHTS_SUFFIXES
    precision: Precision = "fp32"
    packages: tuple[str, ...] = ("torch",)
    module: str = "torch"

    @property
    def form(self) -> str:
        return ""

    @property
    def slow_to_open(self) -> str:
        return "compiles for minutes" if self.compiled else ""

    def why_unavailable(self) -> str | None:
        for module in ("torch", "safetensors"):
            if missing := missing_extra(module, "torch", self.name):
                return missing
        if self.device == "cpu":
            return None
        import torch

        if torch.cuda.is_available():
            return None
        return f"{self.name} needs an NVIDIA GPU and driver; torch {torch.__version__} finds none"

    def why_not(self, model: Model) -> str | None:
        if model.weights is not None:
            return None
        return f"{self.name} runs weights, and {model.name} is {model.kind}"

    def open(self, model: Model, options: SessionOptions) -> Session:
        """See :class:`teco.runtimes.base.Runtime`.

        Two settings of the whole process come with it: PyTorch's number of threads and, on the
        CPU, that freed memory stays with the process (:mod:`teco.core.allocator`). Closing the
        session gives back what is free then.
        """
        if reason := self.why_unavailable():
            raise TecoError(reason, exit_code=MACHINE)
        if reason := self.why_not(model):
            raise TecoError(reason, hint="give the .safetensors file, or a shipped model's name")
        import torch

        from teco_models.checkpoint import build_any, load_weights

        assert model.weights is not None
        torch.set_num_threads(options.thread_count)
        weights = load_weights(model.weights)
        eager = self.device == "cpu" and not self.compiled
        if eager:
            keep_freed_memory()
        return PyTorchSession(
            arranged_for_cpu(weights) if eager else build_any(weights),
            runtime=self.name,
            device=self.device,
            compiled=self.compiled,
            threads=options.thread_count,
        )


def arranged_for_cpu(weights: Weights) -> AnyGenerator:
    """The generator in eval mode, laid out for the step on a CPU; for nothing that trains.

    Channels last is what oneDNN computes in: in PyTorch's own order it was 2.5 times as slow on a
    CPU with AVX-512 (3 blocks at 180x320). Activations in place save the widest tensors a second
    copy; the values are the same.
    """
    import torch
    from torch import nn

    from teco_models.checkpoint import build_any

    generator = build_any(weights).to(memory_format=torch.channels_last)
    for module in generator.modules():
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = True
    return generator


class PyTorchSession:
    """A generator as a session; state is its own, on the device.

    Args:
        generator: in eval mode.
        runtime: name to report.
        device: where to run.
        compiled: run the step through ``torch.compile``.
        threads: CPU threads, for the report only.
    """

    def __init__(
        self,
        generator: AnyGenerator,
        *,
        runtime: str = "pytorch",
        device: str = "cpu",
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        import torch

        self.runtime = runtime
        where = f"CPU, {threads} threads" if device == "cpu" else torch.cuda.get_device_name()
        self.details = f"{where}, float32{', torch.compile' if compiled else ''}"
        self._device = torch.device(device)
        # TF32 would be a lower precision under the name of float32.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._generator: Any = generator.to(self._device).eval()
        step: Any = self._generator.advance
        self._step: Any = torch.compile(step, dynamic=False) if compiled else step
        self._events: Any = None
        if device == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._stepped = False

    @property
    def last_step_ms(self) -> float | None:
        """Milliseconds the GPU took for the last step's network, by CUDA's events.

        Copies to and from it are not counted. None before the first step and on a CPU.
        """
        if self._events is None or not self._stepped:
            return None
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1]))

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        import torch

        with torch.inference_mode():
            frame = torch.from_numpy(lr).to(self._device)
            previous = self._generator.initial_state(frame) if state is None else state
            if self._events is not None:
                self._events[0].record()
            picture, following = self._step(frame, previous)
            if self._events is not None:
                self._events[1].record()
                self._stepped = True
            # The last layer's layout is not the caller's business.
            return picture.contiguous().cpu().numpy(), following

    def close(self) -> None:
        self._generator = None
        self._step = None
        if self._device.type == "cpu":
            give_back()
