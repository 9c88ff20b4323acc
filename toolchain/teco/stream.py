"""The recurrence, driven as the stream contract says: order, state, reset, scene cuts, warm-up.

One class for every runtime. A stream takes pictures in order and gives pictures in order; whoever
needs them in another order (players) stands on top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from time import perf_counter
from typing import Any

import numpy as np

from teco.errors import USAGE, TecoError
from teco.pictures import Picture, to_picture, to_tensor
from teco.runtimes.base import PictureSession, Session, State
from teco_models.variant import check_size


@dataclass
class StreamStats:
    """What a stream has done so far.

    Attributes:
        frames: pictures given out.
        steps: network steps, warm-up included.
        resets: scenes started, the first one included.
        step_seconds: time inside the runtime.
    """

    frames: int = 0
    steps: int = 0
    resets: int = 0
    step_seconds: float = 0.0


class Stream:
    """Pictures in order through one session.

    Args:
        session: the model.
        scene_cuts: start a new scene where :class:`teco.scenecut.SceneCutDetector` finds a cut.
            Without it the last shot's picture is warped into the next one.
        warm_up: at the start of a scene, first run so many of the coming frames backwards and
            drop what comes out (TecoGAN-PyTorch does it with 5). Only :meth:`run` can look ahead.
        recurrent: False zeroes the state before every frame, to see what the past is worth.

    Raises:
        TecoError: ``warm_up`` is negative.
    """

    def __init__(
        self,
        session: Session,
        *,
        scene_cuts: bool = True,
        warm_up: int = 0,
        recurrent: bool = True,
    ) -> None:
        if warm_up < 0:
            raise TecoError(f"warm-up is {warm_up}, expected 0 or more", exit_code=USAGE)
        self.session = session
        self.warm_up = warm_up
        self.recurrent = recurrent
        self.stats = StreamStats()
        self._state: State | None = None
        self._shape: tuple[int, ...] | None = None
        self._detector = None
        if scene_cuts:
            from teco.scenecut import SceneCutDetector

            self._detector = SceneCutDetector()

    def reset(self) -> None:
        """Start a new scene with the next picture."""
        self._state = None
        self._shape = None
        if self._detector is not None:
            self._detector.reset()

    def push(self, picture: Picture) -> Picture:
        """The next picture, (h, w, 3) uint8 RGB, enlarged; no look-ahead and no warm-up.

        Raises:
            ModelError: the picture is smaller than 8x8.
        """
        if self._starts_scene(picture):
            self._state = None
        return self._emit(picture)

    def run(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        """All pictures in order, with warm-up; holds at most ``warm_up + 1`` of them."""
        if self.warm_up == 0:
            for picture in pictures:
                yield self.push(picture)
            return
        source = iter(pictures)
        ahead: deque[tuple[Picture, bool]] = deque()  # (picture, whether it starts a scene)

        def fetch() -> bool:
            picture = next(source, None)
            if picture is not None:
                ahead.append((picture, self._starts_scene(picture)))
            return picture is not None

        while ahead or fetch():
            picture, starts = ahead.popleft()
            if starts:
                self._state = None
                while len(ahead) < self.warm_up and fetch():
                    pass
                scene = list(takewhile(lambda item: not item[1], ahead))
                # Mirrored: frame k, ..., 2, 1, then the scene itself from frame 0.
                for other, _ in reversed(scene):
                    self._step(other)
            yield self._emit(picture)

    def _starts_scene(self, picture: Picture) -> bool:
        check_size(*picture.shape[:2])
        changed = picture.shape != self._shape
        self._shape = picture.shape
        cut = self._detector is not None and self._detector.is_cut(picture)
        return changed or cut

    def _emit(self, picture: Picture) -> Picture:
        out = self._step(picture)
        if not isinstance(self.session, PictureSession):
            # A sum is the cheapest look at every value; half-precision models are known to
            # overflow, and a black picture would hide it.
            if not np.isfinite(out.sum()):
                raise self._no_numbers()
            out = to_picture(out)
        self.stats.frames += 1
        return out

    def _no_numbers(self) -> TecoError:
        return TecoError(
            f"the model gave values that are no numbers at frame {self.stats.frames}",
            hint="try another --runtime; report it with what `teco doctor` prints",
        )

    def _step(self, picture: Picture) -> Any:
        """One step with the session's best kind of output, so that a scene's state is of one kind.

        Returns:
            A picture from a PictureSession, else a tensor that has not been looked at.
        """
        if self._state is None and (self.recurrent or not self.stats.steps):
            self.stats.resets += 1
        try:
            if isinstance(self.session, PictureSession):
                began = perf_counter()
                out, state = self.session.enlarge(picture, self._state)
            else:
                lr = to_tensor(picture)
                began = perf_counter()
                out, state = self.session.step(lr, self._state)
        except FloatingPointError as error:
            raise self._no_numbers() from error
        self.stats.step_seconds += perf_counter() - began
        self.stats.steps += 1
        self._state = state if self.recurrent else None
        return out
