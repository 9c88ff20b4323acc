"""What every runtime offers: open a model, run its step. No runtime is imported here.

A session takes and gives frames as float32 arrays (1, 3, h, w), RGB in [0, 1], or, where it can
(:class:`FrameSession`), as 8-bit frames; the recurrent state is opaque and stays where the runtime
computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.machine import usable_cores, version_of
from teco.core.memory import is_refused_memory
from teco.core.pixels import Array, Pixels, to_pixels
from teco.core.planes import Layout
from teco.model.contract import StreamContract
from teco.model.conversion import Conversion
from teco.model.opening import Model

Precision = Literal["fp32", "bf16", "fp16"]

Device = Literal["cpu", "cuda", "gpu", "npu"]
"""``cuda`` is an NVIDIA GPU through CUDA, ``gpu`` one of any maker through something else."""

PACKAGES_OF_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime")
"""Both bring the same module; the one with GPU providers is looked for first."""

State = Any
"""Whatever a session hands out as state; only the session that made it may look inside."""


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        threads: CPU threads for one step; None takes every core this process may use.
    """

    threads: int | None = None

    @property
    def thread_count(self) -> int:
        return self.threads or usable_cores()


class Session(Protocol):
    """A model that is ready to step."""

    @property
    def runtime(self) -> str:
        """Name of the runtime that made it."""
        ...

    @property
    def details(self) -> str:
        """What it runs on as the runtime itself reports it, for people."""
        ...

    def step(self, lr: Array, state: State | None) -> tuple[Array, State]:
        """One recurrent step.

        Args:
            lr: (1, 3, h, w), h and w at least 8; the size may only change where state is None.
            state: what the last step returned; None starts a scene.

        Returns:
            The (1, 3, s h, s w) output of scale s, not clamped, and the state for the next step.
            The array is only promised until the step after next: runtimes reuse their memory. A
            file with 8-bit ports rounds the frame to 8-bit levels and gives such levels, both as
            floats.

        Raises:
            FloatingPointError: a file with 8-bit ports met values that are not finite; with other
                ports they are in the output.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


@runtime_checkable
class FrameSession(Protocol):
    """A session that also takes and gives 8-bit frames, which it converts where it computes.

    Files with 8-bit ports do nothing else; for others it saves passes over the HR frame.
    """

    def enlarge(self, frame: Pixels, state: State | None) -> tuple[Pixels, State]:
        """As :meth:`Session.step`, from 8-bit LR frame to 8-bit HR frame.

        Args:
            frame: (h, w, 3) uint8 RGB; the caller may change it afterwards.
            state: what the last call of this method returned; None starts a scene. States of
                :meth:`Session.step` may be of another kind.

        Returns:
            (4h, 4w, 3) uint8, rounded to nearest, then clipped, which is the caller's to keep; and
            the state for the next call.

        Raises:
            FloatingPointError: the model gave values that are not finite.
        """
        ...


@runtime_checkable
class PlaneSession(Protocol):
    """A session of a file that takes and gives 8-bit 4:2:0 planes (:mod:`teco.core.planes`).

    It does nothing else: :meth:`Session.step` raises TecoError.
    """

    @property
    def layout(self) -> Layout:
        """How its planes lie."""
        ...

    @property
    def conversion(self) -> Conversion | None:
        """What it was told last by :meth:`convert_by`."""
        ...

    def convert_by(self, conversion: Conversion) -> None:
        """Say how the samples of the pictures to come stand for RGB; to be said before the first
        one, and again only where a scene begins."""
        ...

    def enlarge_planes(self, picture: Pixels, state: State | None) -> tuple[Pixels, State]:
        """As :meth:`Session.step`, from a packed LR picture to a packed HR picture.

        Args:
            picture: (3 h / 2, w) uint8; the caller may change it afterwards.
            state: what the last call returned; None starts a scene.

        Returns:
            (3 s h / 2, s w) uint8, which is the caller's to keep; and the state for the next call.

        Raises:
            FloatingPointError: the model gave values that are not finite.
            TecoError: it is no packed picture, or nothing was said of its colours.
        """
        ...


@runtime_checkable
class StateArrays(Protocol):
    """A session whose state can be taken apart."""

    @property
    def contract(self) -> StreamContract:
        """Of its file: the shapes of the states."""
        ...

    def to_arrays(self, state: State) -> dict[str, NDArray[Any]]:
        """The state by the names of the inputs that take it; views of memory that the session may
        write again."""
        ...

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> State:
        """Inverse of :meth:`to_arrays`, of contiguous arrays that nobody changes."""
        ...


class Runtime(Protocol):
    """A way to run models, described before anything heavy is imported."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it computes float32 files in float32. Where it does not, ``auto`` takes it for
        float16 exports that passed their gate, and for float32 files only with ``--quality fast``.
        """
        ...

    @property
    def precision(self) -> Precision:
        """What it computes a float32 file in: fp32, or the lower precision that it is named for."""
        ...

    @property
    def device(self) -> Device:
        """Where it computes."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that bring it, as pip knows them; the first one installed counts."""
        ...

    @property
    def module(self) -> str:
        """What it imports to open a model."""
        ...

    @property
    def form(self) -> str:
        """Which target's file (``teco export --for``) it prefers, where a shipped model has one; ""
        for the usual file."""
        ...

    @property
    def slow_to_open(self) -> str:
        """Why opening a model takes minutes, to end a sentence with; "" where it does not.

        "all" takes no such runtime, ``auto`` only where there is nothing else.
        """
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """File endings it opens."""
        ...

    def why_unavailable(self) -> str | None:
        """None when it can run here, else one sentence that says what would make it."""
        ...

    def why_not(self, model: Model) -> str | None:
        """None when it can open this model, else one sentence."""
        ...

    def open(self, model: Model, options: SessionOptions) -> Session:
        """Make a session.

        Raises:
            TecoError: it is unavailable, cannot open this model, or fails to.
        """
        ...


def on_noise(model: Model, session: Session, h: int, w: int) -> Callable[[State | None], State]:
    """A step on one random frame, through the ports that the model has: for timing.

    The values do not change the time: convolutions take as long whatever they multiply.

    Args:
        model: what the session runs.
        session: open.
        h, w: LR size.

    Returns:
        Takes a state and gives the next.
    """
    rng = np.random.default_rng(0)
    if isinstance(session, PlaneSession):
        planes, step = rng.integers(0, 256, (3 * h // 2, w), np.uint8), session.enlarge_planes
        session.convert_by(Conversion.of("bt709", full_range=False))
        return lambda state: step(planes, state)[1]
    lr = rng.random((1, 3, h, w), np.float32)
    if model.manifest is not None and model.manifest.contract.dtype == "uint8":
        assert isinstance(session, FrameSession)
        frame, enlarge = to_pixels(lr), session.enlarge
        return lambda state: enlarge(frame, state)[1]
    return lambda state: session.step(lr, state)[1]


def moving_frames(h: int, w: int, count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """(1, 3, h, w) frames of a textured picture that drifts, for verification anywhere.

    Random frames would not do: the flow between them means nothing, and the recurrence would
    carry noise.
    """
    rng = np.random.default_rng(seed)
    size = (h + count + 8, w + count + 8)
    texture = rng.random((3, *size))
    for axis in (1, 2):  # a little blur, so that the texture has a scale
        texture = (texture + np.roll(texture, 1, axis) + np.roll(texture, -1, axis)) / 3
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    frames: list[NDArray[np.float32]] = []
    for t in range(count):
        frame = texture[None, :, t : t + h, t // 2 : t // 2 + w]
        frames.append(np.ascontiguousarray(frame, dtype=np.float32))
    return frames


def package_version(runtime: Runtime) -> str | None:
    """Version of the package that brings a runtime, None where none is installed."""
    return next((v for p in runtime.packages if (v := version_of(p))), None)


def cannot_load(runtime: str, path: Path, error: Exception) -> Exception:
    """What to raise for what a runtime said on opening a file.

    Args:
        runtime: its name.
        path: of the file.
        error: as the runtime raised it.

    Returns:
        MemoryError where the system refused it memory, else a TecoError with the end of what it
        said.
    """
    if is_refused_memory(error):
        return MemoryError(str(error))
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return TecoError(
        f"{runtime} cannot load {path}: {reason[-1][:200]}",
        hint="export it again with `teco export`",
    )


def needs_onnx(model: Model, runtime: str) -> str | None:
    """The sentence for a model that has no ONNX file."""
    if model.onnx is not None:
        return None
    return f"{runtime} runs ONNX files, and {model.name} is {model.kind}"
