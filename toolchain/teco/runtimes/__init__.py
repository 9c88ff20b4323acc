"""One file per runtime, and the explicit table of them."""

from __future__ import annotations

from teco.artifact import Model
from teco.errors import MACHINE, USAGE, TecoError
from teco.runtimes.base import Runtime, Session, SessionOptions
from teco.runtimes.onnxruntime import OnnxRuntime
from teco.runtimes.openvino import OpenVino
from teco.runtimes.pytorch import PyTorch

RUNTIMES: tuple[Runtime, ...] = (
    OnnxRuntime(name="onnxruntime", device="cpu"),
    OnnxRuntime(name="onnxruntime-cuda", device="cuda"),
    OpenVino(name="openvino", precision="f32"),
    OpenVino(name="openvino-bf16", precision="bf16"),
    PyTorch(name="pytorch", device="cpu"),
    PyTorch(name="pytorch-cuda", device="cuda"),
    PyTorch(name="pytorch-compile", device="cpu", compiled=True),
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
    raise TecoError(
        f"no runtime is called {name!r}",
        hint=f"runtimes: auto, {', '.join(NAMES)}",
        exit_code=USAGE,
    )


def usable(model: Model) -> list[Runtime]:
    """Runtimes that can run this model on this machine."""
    return [r for r in RUNTIMES if r.why_not(model) is None and r.why_unavailable() is None]


def open_session(model: Model, name: str, options: SessionOptions) -> Session:
    """A session of the named runtime; ``auto`` measures which exact one is fastest here.

    Raises:
        TecoError: the runtime is unknown, unavailable or cannot open the model.
    """
    if name != "auto":
        return find(name).open(model, options)
    from teco.runtimes.auto import fastest

    candidates = [r for r in usable(model) if r.exact]
    if not candidates:
        reasons = [r.why_not(model) or r.why_unavailable() for r in RUNTIMES if r.exact]
        raise TecoError(
            f"no runtime here can run {model.name}",
            hint="; ".join(dict.fromkeys(x for x in reasons if x)),
            exit_code=MACHINE,
        )
    return fastest(candidates, model, options).open(model, options)


__all__ = [
    "NAMES",
    "RUNTIMES",
    "Runtime",
    "Session",
    "SessionOptions",
    "find",
    "open_session",
    "usable",
]
