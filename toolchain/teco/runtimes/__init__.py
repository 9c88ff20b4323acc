"""One file per runtime, and the explicit table of them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from teco.core import gpu
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.names import did_you_mean
from teco.model.kept_forms import kept
from teco.model.opening import ENGINE_SUFFIX, Model
from teco.runtimes.base import Runtime, Session, SessionOptions
from teco.runtimes.nvidia.onnxruntime_gpu import OnnxRuntimeGpu
from teco.runtimes.nvidia.tensorrt import TensorRt
from teco.runtimes.nvidia.tensorrt_rtx import TensorRtRtx
from teco.runtimes.onnxruntime import OnnxRuntime
from teco.runtimes.openvino import OpenVino
from teco.runtimes.pytorch import PyTorch
from teco.runtimes.webgpu import OnnxRuntimeWebGpu

if TYPE_CHECKING:
    from teco.runtimes.auto import RuntimeChoice

Wish = Literal["float32", "gated", "any"]
"""What ``auto`` may take. ``float32``: nothing else. ``gated``: on an NVIDIA GPU also a form in
float16 whose gate passed (:mod:`teco.model.kept_forms`). ``any``: runtimes that lower the precision
by themselves too, such as to bfloat16."""

RUNTIMES: tuple[Runtime, ...] = (
    OnnxRuntime(name="onnxruntime"),
    OnnxRuntimeGpu(name="onnxruntime-cuda", kind="cuda"),
    OnnxRuntimeGpu(name="onnxruntime-tensorrt", kind="tensorrt"),
    OnnxRuntimeGpu(name="onnxruntime-rtx", kind="rtx"),
    OnnxRuntimeWebGpu(name="onnxruntime-webgpu"),
    OpenVino(name="openvino", precision="fp32"),
    OpenVino(name="openvino-bf16", precision="bf16"),
    OpenVino(name="openvino-gpu", precision="fp32", device="gpu"),
    OpenVino(name="openvino-gpu-fp16", precision="fp16", device="gpu"),
    OpenVino(name="openvino-npu", precision="fp16", device="npu"),
    PyTorch(name="pytorch", device="cpu"),
    PyTorch(name="pytorch-cuda", device="cuda"),
    PyTorch(name="pytorch-compile", device="cpu", compiled=True),
    TensorRt(name="tensorrt", target="tensorrt"),
    TensorRtRtx(name="tensorrt-rtx", target="rtx"),
)

NAMES = tuple(runtime.name for runtime in RUNTIMES)


def find(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        TecoError: there is none.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    near = did_you_mean(name, NAMES)
    runtime, _, precision = name.rpartition("-")
    if runtime in NAMES and precision in ("fp32", "fp16", "int8"):
        near = (
            f"{precision} is how a file is made: `teco export --{precision}`, then --model FILE "
            f"--runtime {runtime}; "
        )
    raise TecoError(
        f"no runtime is called {name!r}",
        hint=f"{near}runtimes: auto, {', '.join(NAMES)}",
        exit_code=USAGE,
    )


def of_engine(model: Model) -> Runtime | None:
    """The one runtime an engine is for; None for a model that is no engine."""
    if model.engine is None:
        return None
    return next(r for r in RUNTIMES if ENGINE_SUFFIX in r.suffixes and r.why_not(model) is None)


def usable(model: Model) -> list[Runtime]:
    """Runtimes that can run this model on this machine."""
    return [r for r in RUNTIMES if r.why_not(model) is None and r.why_unavailable() is None]


def open_session(model: Model, name: str, options: SessionOptions) -> Session:
    """A session of the named runtime; ``auto`` measures which float32 one is fastest here.

    An engine has no choice: ``auto`` is the runtime it was built for, whatever its precision.

    Args:
        model: from :func:`teco.model.opening.open_model`.
        name: of a runtime, or "auto".
        options: how it runs.

    Raises:
        TecoError: the runtime is unknown, unavailable or cannot open the model.
    """
    chosen = choose(model, name, options)
    return chosen.runtime.open(chosen.model, options)


def choose(
    model: Model,
    name: str,
    options: SessionOptions,
    wish: Wish = "float32",
    *,
    size: tuple[int, int] | None = None,
    among: str = "",
) -> RuntimeChoice:
    """What is to be opened on what.

    Args:
        model, name, options: as of :func:`open_session`.
        wish: what "auto" may take.
        size: LR (h, w) of the frames, None where that is not known.
        among: :attr:`RuntimeChoice.identity`, or the name of a runtime alone, that "auto" takes
            where it is there: that of work which goes on. Nothing is measured then.

    Raises:
        TecoError: as of :func:`open_session`.
    """
    from teco.runtimes.auto import RuntimeChoice, fastest

    if name != "auto":
        return RuntimeChoice(find(name), model)
    if (only := of_engine(model)) is not None:
        return RuntimeChoice(only, model)
    named = [RuntimeChoice(r, model) for r in usable(model)]
    forms: list[RuntimeChoice] = []
    if wish != "float32" and gpu.find():
        # On processors float16 is computed in float32, and slower for its casts.
        forms = [
            RuntimeChoice(r, form, kept=True)
            for form in kept(model, size)
            for r in usable(form)
            if r.device != "cpu"
        ]
    if among:
        # It may be no candidate: it was asked for by name, or by another wish.
        for choice in (*named, *forms):
            if among in (choice.runtime.name, choice.identity):
                said = f"{choice.model.name}, in float16, which it was begun with"
                return replace(choice, why=said) if choice.kept else choice
    candidates = [c for c in named if c.runtime.exact or wish == "any"] + forms
    if not candidates:
        require_any()
        reasons = [r.why_not(model) or r.why_unavailable() for r in RUNTIMES if r.exact]
        raise TecoError(
            f"no runtime here can run {model.name}",
            hint="; ".join(dict.fromkeys(x for x in reasons if x)),
            exit_code=MACHINE,
        )
    chosen = fastest(candidates, options, size)
    lower = [c for c in candidates if not c.runtime.exact or c.kept]
    if wish == "any" and not lower and not importlib.util.find_spec("openvino"):
        why = (
            "what is installed computes in float32, so that fast is as balanced; "
            "pip install 'teco[openvino]' brings what computes in bfloat16 on a processor that can"
        )
        return replace(chosen, why=why)
    return chosen


def require_any() -> None:
    """Raise TecoError, exit code 3, in a base install: no package that runs models is there."""
    if not any(importlib.util.find_spec(name) for name in ("onnxruntime", "openvino", "torch")):
        raise TecoError(
            "nothing that runs models is installed: neither ONNX Runtime, OpenVINO nor PyTorch",
            hint=what_to_install(),
            exit_code=MACHINE,
        )


def what_to_install() -> str:
    """The extras that bring what runs models; the one for this machine comes first."""
    ways = ["'teco[cpu]' on any machine", "'teco[openvino]' on Intel and AMD processors"]
    ways.insert(0 if gpu.find() else 2, "'teco[nvidia]' with an NVIDIA GPU")
    return f"pip install {', or '.join(ways)}"


__all__ = [
    "NAMES",
    "RUNTIMES",
    "Runtime",
    "Session",
    "SessionOptions",
    "Wish",
    "choose",
    "find",
    "of_engine",
    "open_session",
    "require_any",
    "usable",
    "what_to_install",
]
