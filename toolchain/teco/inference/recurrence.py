"""The recurrence, driven in order as the stream contract says: state, scenes, repeats, steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.memory import is_refused_memory
from teco.core.pixels import Pixels, check_frame, to_8_bits, to_deep_pixels, to_pixels, to_tensor
from teco.core.planes import are_planes, frame_size
from teco.inference.deadline import cheap, cheap_centred, cheap_planes
from teco.model.conversion import sketch_of
from teco.runtimes.base import FrameSession, PlaneSession, Session, State
from teco_models.variant import SCALE, check_size

STALE = 4
"""Frames that may pass without a step before the state is too old to go on from.

Measured on a walking camera (``scripts/measure_seek.py``): with the 3-block network, going on after
4 frames passed over is closer to sequential play than a cold start (36.8 against 34.4 dB), after 8
hardly (34.8); `live` would bear 16.
"""


class Kind(Enum):
    """What a frame is to the one before it."""

    STARTS = auto()
    """A scene begins: the first frame, a cut, another size."""
    GOES_ON = auto()
    REPEATS = auto()
    """The same bits as the one before."""


@dataclass
class StreamStats:
    """What a stream has done so far.

    Attributes:
        frames: given out.
        steps: network steps, reverse warm-up and pre-roll included.
        resets: how often the state began afresh: scenes, the first one included, and a state that
            had become too old.
        repeats: frames given out once more without a step, because the frame was the same.
        fallbacks: frames enlarged without the network, because a step would have been late.
        late: frames that the network made and that came after they were due all the same.
        step_seconds: time inside the runtime.
    """

    frames: int = 0
    steps: int = 0
    resets: int = 0
    repeats: int = 0
    fallbacks: int = 0
    late: int = 0
    step_seconds: float = 0.0


class Recurrence:
    """One session's state over frames in order. Not for several threads.

    Args:
        session: the model. Of one that takes planes, frames are packed pictures
            (:mod:`teco.core.planes`) wherever pixels are spoken of here.
        scene_cuts: look for cuts.
        recurrent: False zeroes the state before every frame.
        centred: the network's frames lie about pixel centres, and so must what stands in for them.
        scale: of the model; 4 where it is not centred.
    """

    def __init__(
        self,
        session: Session,
        *,
        scene_cuts: bool,
        recurrent: bool,
        centred: bool = False,
        scale: int = SCALE,
    ) -> None:
        self._enlarge = partial(cheap_centred, scale=scale) if centred else cheap
        if isinstance(session, PlaneSession):
            self._enlarge = partial(
                cheap_planes, layout=session.layout, scale=scale, centred=centred
            )
        self.session = session
        self.stats = StreamStats()
        self._recurrent = recurrent
        self._state: State | None = None
        self._passed = 0  # frames since the state's own
        self._seen: Pixels | None = None  # the last frame looked at, a copy
        self._shown: Pixels | None = None  # what was given out for it
        self._detector = None
        if scene_cuts:
            from teco.inference.scene_cuts import SceneCutDetector

            self._detector = SceneCutDetector()

    def reset(self) -> None:
        """The next frame starts a scene."""
        self.begin()
        self._seen = self._shown = None
        if self._detector is not None:
            self._detector.reset()

    def begin(self) -> None:
        """Forget the past: the next step is a scene's first."""
        self._state = None
        self._passed = 0

    def begin_with(self, lead_in: Iterable[Pixels]) -> None:
        """Forget the past, then step frames that lead up to the next one and drop what comes out.

        What follows depends on nothing before them.
        """
        self.begin()
        self._shown = None
        for frame in lead_in:
            self.step(frame)

    def look(self, frame: Pixels, cut: bool | None) -> Kind:
        """Say what the next frame is; to be asked once of each, in order.

        Raises:
            ModelError: it is smaller than 8x8.
            TecoError: it is no frame, see :func:`teco.core.pixels.check_frame`.
        """
        if not isinstance(self.session, PlaneSession):
            check_frame(frame)
        check_size(*frame_size(frame))
        seen, self._seen = self._seen, None  # whatever fails below, nothing repeats this frame
        kind = self._kind(frame, seen, cut)
        self._seen = seen if kind is Kind.REPEATS else frame.copy()
        return kind

    def _kind(self, frame: Pixels, seen: Pixels | None, cut: bool | None) -> Kind:
        if seen is not None and seen.shape != frame.shape:
            seen = None
        if seen is not None and not cut and np.array_equal(seen, frame):
            return Kind.REPEATS
        # The detector is shown every frame but repeats, also where its answer is not needed.
        found = self._detector is not None and self._detector.is_cut(self._sketch(frame))
        starts = seen is None or (found if cut is None else cut)
        return Kind.STARTS if starts else Kind.GOES_ON

    def _sketch(self, frame: Pixels) -> Pixels:
        """Of a frame, RGB for the detector of cuts."""
        if not are_planes(frame) or not isinstance(self.session, PlaneSession):
            return to_8_bits(frame)
        if self.session.conversion is None:
            raise TecoError(
                f"{self.session.layout} planes came before it was said how they stand for RGB",
                hint="session.convert_by(teco.model.conversion.Conversion.of('bt709', "
                "full_range=False))",
                exit_code=USAGE,
            )
        return sketch_of(frame, self.session.layout, self.session.conversion)

    def needs_step(self, kind: Kind) -> bool:
        """Whether :meth:`emit` would run the network."""
        return kind is not Kind.REPEATS or self._shown is None or self._passed > 0

    def emit(self, frame: Pixels, kind: Kind) -> Pixels:
        """The HR frame; read-only. Not stepped where it repeats one that was."""
        if not self.needs_step(kind):
            assert self._shown is not None
            self.stats.frames += 1
            self.stats.repeats += 1
            return self._shown
        if kind is Kind.STARTS or self._passed > STALE:
            self.begin()
        self._shown = None
        out = self.step(frame)
        if out.dtype != np.uint8:
            # A sum is the cheapest look at every value; half-precision models are known to
            # overflow, and a black frame would hide it.
            with np.errstate(over="ignore"):  # of values so large that they are no picture either
                total = out.sum()
            if not np.isfinite(total):
                raise self._not_finite()
            out = to_pixels(out) if frame.dtype == np.uint8 else to_deep_pixels(out)
        return self._give(out)

    def pass_over(self, frame: Pixels, kind: Kind) -> Pixels:
        """The frame enlarged without the network; the state stays that of the last step."""
        if kind is Kind.STARTS:
            self.begin()
        self.stats.fallbacks += 1
        if kind is Kind.REPEATS and self._shown is not None:
            return self._give(self._shown)
        self._passed += 1
        return self._give(self._enlarge(frame))

    def _give(self, out: Any) -> Pixels:
        out.flags.writeable = False
        self._shown = out
        self.stats.frames += 1
        return out

    def step(self, frame: Pixels) -> Any:
        """One step with the session's best kind of output, so that a scene's state is of one kind.

        Returns:
            Pixels of an 8-bit frame from a FrameSession, planes of planes, else a tensor that was
            not looked at.
        """
        if self._state is None and (self._recurrent or not self.stats.steps):
            self.stats.resets += 1
        try:
            if isinstance(self.session, PlaneSession) and are_planes(frame):
                began = perf_counter()
                out, state = self.session.enlarge_planes(frame, self._state)
            elif isinstance(self.session, FrameSession) and frame.dtype == np.uint8:
                began = perf_counter()
                out, state = self.session.enlarge(frame, self._state)
            else:
                lr = to_tensor(frame)
                began = perf_counter()
                out, state = self.session.step(lr, self._state)
        except FloatingPointError as error:
            raise self._not_finite() from error
        except Exception as error:
            if not is_refused_memory(error):
                raise
            h, w = frame_size(frame)
            raise TecoError(
                f"the system has too little memory for a frame of {w}x{h}",
                hint=f"see what it takes: teco estimate --size {h}x{w}",
                exit_code=MACHINE,
            ) from error
        self.stats.step_seconds += perf_counter() - began
        self.stats.steps += 1
        self._passed = 0
        self._state = state if self._recurrent else None
        return out

    def _not_finite(self) -> TecoError:
        return TecoError(
            f"the model gave values that are not finite at frame {self.stats.frames}",
            hint="try another --runtime; report it with what `teco doctor` prints",
        )
