"""Parity: how close a file comes to the float32 step of its weights, frame by frame.

Used by the export, which verifies a file before it gets its name, and by ``teco verify``, which
does it afterwards.

Pictures are compared as the file gives them: floats as floats, 8-bit pictures with the reference's,
rounded; planes with the exact conversion of it (:mod:`teco.verification.planes`), in one matrix and
range at each size. A file with 8-bit ports cannot show in its pictures what its state has lost, so
there the state itself is compared as well.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.machine import usable_cores
from teco.core.pixels import Array, Pixels, to_pixels, to_tensor
from teco.model.conversion import as_planes
from teco.model.manifest import Manifest, Parity
from teco.model.opening import Model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import FrameSession, PlaneSession, Session, State, moving_frames
from teco.verification.planes import OTHER, USUAL, ExactPlanes, even
from teco.verification.reference import reference_session
from teco.verification.temporal_gate import default_frames
from teco_models.variant import SCALE, Variant

if TYPE_CHECKING:
    from teco_models.checkpoint import Weights


FRAMES = 10
"""Recurrent frames at each size, where nothing else is asked."""

DYNAMIC_SIZES = ((45, 75), (64, 96))
"""LR sizes at which a dynamic file is compared: one odd, one that FNet covers exactly."""

GATE_SIZE = (20, 28)
"""LR size at which the gate runs where no clip gives one: small because it runs a float32 PyTorch
step 72 times, and no multiple of 8, so that the flow is mirrored. A static file of more pixels is
judged by the same deploy form traced at this size; the file itself is compared frame by frame
all the same."""

MAX_DIFFERENCE = 2e-4
"""Largest difference from PyTorch that is rounding, pictures in [0, 1]; 1/20 of an 8-bit step.
Networks that undo BD's blur and read their own output give it back enlarged: bd-cpu stands at
1.2e-4 after 30 frames, and at no more than that after 120."""


class ParityError(TecoError):
    """A file does not compute what its weights compute."""


def measure_parity(
    model: Model, weights: Weights, sizes: tuple[tuple[int, int], ...], frames: int
) -> Parity:
    """Run ONNX Runtime (CPU) beside the float32 PyTorch step over recurrent frames.

    They run at the same time, on half of the cores each.

    Args:
        model: with an ONNX file.
        weights: what it was made from.
        sizes: LR (h, w) that it takes.
        frames: recurrent frames at each.

    Raises:
        ParityError: frames of another size, or values that are not finite.
    """
    import torch

    usual = torch.get_num_threads()
    share = max(1, min(usual, usable_cores() // 2))
    reference = reference_session(weights)
    candidate = find("onnxruntime").open(
        model, SessionOptions(threads=max(1, usable_cores() - share))
    )
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(share,)) as beside:
            return compare(candidate, reference, model, sizes, frames, beside=beside)
    finally:
        torch.set_num_threads(usual)
        candidate.close()


def compares_floats(candidate: Session, reference: Session, model: Model) -> bool:
    """Whether :func:`compare` sees more of the file than 8-bit pictures: floats, or its state.

    Only these two sessions show the state of a file with 8-bit ports.
    """
    assert model.manifest is not None
    if model.manifest.contract.dtype != "uint8":
        return True
    return (candidate.runtime, reference.runtime) == ("onnxruntime", "pytorch")


def compare(
    candidate: Session,
    reference: Session,
    model: Model,
    sizes: tuple[tuple[int, int], ...],
    frames: int,
    *,
    beside: Executor | None = None,
) -> Parity:
    """Run both over drifting frames.

    Each keeps its own state, so that differences may grow as they would in use.

    Args:
        candidate: an open session of ``model``.
        reference: another with float ports. Only PyTorch's shows its state for comparison.
        model: with its manifest.
        sizes: LR (h, w), each run from a cold start.
        frames: recurrent frames at each size.
        beside: runs the reference, which otherwise waits for its turn.

    Raises:
        ParityError: the candidate gives frames of another size, or values that are not finite.
    """
    assert model.manifest is not None
    found = _Differences(model.manifest, model.name)
    states = found.pictures and compares_floats(candidate, reference, model)
    layout = model.manifest.contract.planes
    sizes = tuple(even(size, layout) for size in sizes)
    exact = None if layout is None else ExactPlanes(reference, layout)
    for (h, w), conversion in zip(sizes, cycle((USUAL, OTHER)), strict=False):
        state = expected_state = None
        if exact is not None and isinstance(candidate, PlaneSession):
            exact.convert_by(conversion)
            candidate.convert_by(conversion)
        for lr, picture in _frames(h, w, frames, pictures=found.pictures):
            given: Any = lr
            if exact is not None and picture is not None:
                given = picture = as_planes(picture, exact.layout, conversion)
            expect: Any = reference.step if exact is None else exact.enlarge_planes
            running = beside and beside.submit(expect, given, expected_state)
            made, state = _step(candidate, lr, picture, state, model.name)
            step = running.result() if running else expect(given, expected_state)
            expected, expected_state = step
            found.add(made, expected)
            if states:
                found.add_state(state, expected_state)
    return found.result(sizes, frames)


def _frames(h: int, w: int, count: int, *, pictures: bool) -> list[tuple[Array, Pixels | None]]:
    """Frames for the reference, and as pictures where the file takes such."""
    if pictures:
        return [(to_tensor(picture), picture) for picture in default_frames(h, w, count)]
    return [(lr, None) for lr in moving_frames(h, w, count)]


def _step(
    candidate: Session, lr: Array, picture: Pixels | None, state: State | None, name: str
) -> tuple[NDArray[Any], State]:
    if picture is None:
        return candidate.step(lr, state)
    assert isinstance(candidate, FrameSession | PlaneSession)
    try:
        if isinstance(candidate, PlaneSession):
            return candidate.enlarge_planes(picture, state)
        return candidate.enlarge(picture, state)
    except FloatingPointError as error:
        raise ParityError(f"{name} gave values that are not finite") from error


class _Differences:
    """Takes what the file and PyTorch gave, in order.

    Args:
        manifest: of the file.
        name: of the file, for messages.

    Attributes:
        pictures: whether the file gives 8-bit pictures.
    """

    def __init__(self, manifest: Manifest, name: str) -> None:
        self.pictures = manifest.contract.dtype == "uint8"
        self._manifest = manifest
        self._computed = Variant.parse(manifest.variant).computed_alignment
        self._name = name
        self._worst, self._steps, self._psnr = 0.0, 0, float("inf")

    def add(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        """One picture of each, the file's as it gave it; the other in floats, or planes too."""
        wanted = expected
        levels = found
        if self.pictures and expected.dtype != np.uint8:
            wanted = to_pixels(expected)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            raise ParityError(
                f"{self._name} gave {list(found.shape)} with "
                f"{int((~np.isfinite(found)).sum())} values that are not finite, expected "
                f"{list(wanted.shape)}"
            )
        if not self.pictures:
            self._worst = max(self._worst, float(np.abs(found - expected).max()))
            levels, wanted = to_pixels(found), to_pixels(expected)
        apart = levels.astype(np.float32) - wanted
        self._steps = max(self._steps, int(np.abs(apart).max()))
        error = float(np.mean(apart * apart, dtype=np.float64))
        if error:
            self._psnr = min(self._psnr, float(10 * np.log10(255**2 / error)))

    def add_state(self, found: dict[str, NDArray[Any]], expected: tuple[Any, ...]) -> None:
        """The states after the same step; the file's as ONNX Runtime's CPU session keeps them."""
        for name, value in found.items():
            if value.dtype == np.uint8:
                continue  # the frame as it was given
            wanted = self._state(name, expected)
            if value.dtype != np.float32 or value.shape != wanted.shape:
                raise ParityError(
                    f"{self._name} keeps {name} as {value.dtype} {list(value.shape)}, expected "
                    f"float32 {list(wanted.shape)}"
                )
            # Features have no range of their own: relative to their largest, and where they are
            # read with a small gain, as far as they reach a frame.
            scale = max(1.0, float(np.abs(wanted).max())) if name == "latent_prev" else 1.0
            if name == "latent_prev" and self._computed:
                from teco_models.arch.computed_alignment import GAIN_DETAIL

                scale /= GAIN_DETAIL
            self._worst = max(self._worst, float(np.abs(value - wanted).max()) / scale)

    def _state(self, name: str, expected: tuple[Any, ...]) -> Array:
        """What PyTorch keeps, (previous frame, previous picture[, features]), as the file does.

        Of computed alignment both keep the same: luma, the output's luma, features.
        """
        own = {"luma_prev": 0, "hr_luma_prev": 1, "lr_prev": 0}
        if name in own:
            kept: Array = expected[own[name]].numpy()
            return kept
        if name == "latent_prev":
            return expected[2].numpy()
        picture: Array = expected[1].numpy()
        if name == "hr_prev":
            return picture
        assert name == "phases_prev"
        h, w = (x // SCALE for x in picture.shape[2:])
        split = picture.reshape(3, h, SCALE, w, SCALE)
        # teco_models.deploy.step.FreeStep: phase * 3 + c where pixels are stacked, else c * 16 +
        # phase.
        stacked = self._manifest.rewrites["stack_pixels"]
        order = (2, 4, 0, 1, 3) if stacked else (0, 2, 4, 1, 3)
        return split.transpose(order).reshape(1, 3 * SCALE * SCALE, h, w)

    def result(self, sizes: tuple[tuple[int, int], ...], frames: int) -> Parity:
        """Everything that was added."""
        return Parity(
            frames=frames,
            sizes=tuple(f"{h}x{w}" for h, w in sizes),
            max_abs=self._worst,
            max_steps=self._steps,
            min_psnr=None if self._psnr == float("inf") else round(self._psnr, 2),
        )
