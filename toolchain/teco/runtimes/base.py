"""What every runtime offers: open a model, run its step. No runtime is imported here.

Pictures cross this border as float32 arrays (1, 3, h, w), RGB in [0, 1]; the recurrent state is
opaque and stays where the runtime computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from teco.artifact import Model
from teco.machine import usable_cores

Array = NDArray[np.float32]
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
            The (1, 3, 4h, 4w) output, not clamped, and the state for the next step. The array is
            only promised until the step after next: runtimes reuse their memory.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


@runtime_checkable
class PictureSession(Protocol):
    """A session that can also make the 8-bit picture where it computes, which saves two passes."""

    def enlarge(self, lr: Array, state: State | None) -> tuple[NDArray[np.uint8], State]:
        """As :meth:`Session.step`, giving (4h, 4w, 3) uint8, rounded to nearest, then clipped.

        The picture is the caller's to keep.

        Raises:
            FloatingPointError: the model gave values that are no numbers.
        """
        ...


class Runtime(Protocol):
    """A way to run models, described before anything heavy is imported."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it computes in float32; ``auto`` only picks those."""
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


def needs_onnx(model: Model, runtime: str) -> str | None:
    """The sentence for a model that has no ONNX file."""
    if model.onnx is not None:
        return None
    return f"{runtime} runs ONNX files, and {model.name} is {model.kind}"
