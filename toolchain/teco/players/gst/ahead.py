"""Warm-up for players that hand over frames one by one: a scene's first frames are held back."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np

from teco.core.pixels import Pixels
from teco.inference.scene_cuts import SceneCutDetector
from teco.inference.stream import Stream

Tag = TypeVar("Tag")


class Ahead(Generic[Tag]):
    """What :meth:`teco.inference.stream.Stream.run` does with warm-up, for one frame at a time.

    At the start of a scene ``warm_up`` frames are waited for, run backwards and dropped, then the
    scene is shown from its first frame on; within it nothing is held. Without warm-up every frame
    is answered at once.

    Args:
        stream: made without a detector and without warm-up: where scenes begin is decided here.
        warm_up: frames.
        scene_cuts: look for cuts.
    """

    def __init__(self, stream: Stream, *, warm_up: int, scene_cuts: bool) -> None:
        self.stream = stream
        self.warm_up = warm_up
        self._detector = SceneCutDetector() if scene_cuts else None
        self._last: Pixels | None = None
        # The scene that waits, in order: (picture, tag, whether it repeats the one before).
        self._held: deque[tuple[Pixels, Tag, bool]] = deque()

    @property
    def held(self) -> int:
        """Frames given and not yet answered."""
        return len(self._held)

    def feed(
        self, picture: Pixels, tag: Tag, *, due: float | None = None
    ) -> list[tuple[Tag, Pixels]]:
        """The next frame; what can be shown now, in order, each with the tag it came with.

        Args:
            picture: (h, w, 3) uint8 RGB, not changed afterwards.
            tag: anything that belongs to it.
            due: as :meth:`teco.inference.stream.Stream.push`; not heeded while frames are held.
        """
        last, self._last = self._last, picture
        if last is not None and last.shape != picture.shape:
            last = None
        repeats = last is not None and np.array_equal(last, picture)
        cut = not repeats and self._detector is not None and self._detector.is_cut(picture)
        starts = last is None or cut
        if self.warm_up == 0:
            return [(tag, self.stream.push(picture, cut=starts, due=due))]
        done: list[tuple[Tag, Pixels]] = []
        if starts:
            done = self.drain()
        elif not self._held:
            return [(tag, self.stream.push(picture, cut=False, due=due))]
        self._held.append((picture, tag, repeats))
        if len(self._held) > self.warm_up:
            done += self.drain()
        return done

    def drain(self) -> list[tuple[Tag, Pixels]]:
        """What is held, however little: at the end of a clip or before a scene."""
        held, self._held = list(self._held), deque()
        first = True
        for picture, _, repeats in reversed(held[1:]):
            if not repeats:
                self.stream.push(picture, cut=first)
                first = False
        done: list[tuple[Tag, Pixels]] = []
        for picture, tag, _ in held:
            done.append((tag, self.stream.push(picture, cut=first)))
            first = False
        return done

    def reset(self) -> None:
        """Drop what is held; the next frame starts a scene."""
        self._held.clear()
        self._last = None
        if self._detector is not None:
            self._detector.reset()
        self.stream.reset()
