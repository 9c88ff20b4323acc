"""Where a long clip is cut into parts that can be made by themselves, and in any run.

A part begins at a scene cut, where the recurrence starts afresh anyway. Where none comes for long,
it begins within the scene: the state is dropped, and the frames before are stepped once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from teco.core.pixels import Pixels
from teco.inference.recurrence import Kind

LEAST = 250
"""Frames of a part at least: so often x264 begins anew by itself (its keyint)."""

AREA = 1_000_000
"""LR pixels of a frame above which parts have fewer frames: they take longer."""

FEWEST = 24
"""Frames of a part at least, however large."""

MOST = 4
"""Times the least; then a part begins within a scene."""

LEAD_IN = 32
"""Frames that are stepped before a part within a scene. Against the state that was never dropped,
the first frame of such a part differs by 83 dB (GoPro clip, real-cpu at 180x320) and 69 dB (cups,
noisy and nearly still), at most 1 and 4 of 255 levels; after 16 frames by 68 and 61 dB."""


def least_frames(h: int, w: int) -> int:
    """Frames of a part of LR (h, w) frames, before a cut ends it."""
    return max(FEWEST, min(LEAST, LEAST * AREA // (h * w)))


class FramePlace(Enum):
    """What a frame is to the part that it lies in."""

    SKIPPED = auto()
    GOES_ON = auto()
    BEGINS = auto()
    BEGINS_WITHIN_A_SCENE = auto()


class SegmentPlan:
    """Says of each frame, from a clip's first on, whether a part begins with it.

    The answers depend on the frames alone, so that a run that goes on finds the same parts.

    Args:
        least: frames of a part.
        done: frames that an earlier run has made; whole parts.
    """

    def __init__(self, least: int, done: int = 0) -> None:
        self._least = least
        self.done = done
        self._frame = 0
        self._length = 0
        self._recent: deque[Pixels] = deque(maxlen=LEAD_IN)

    @property
    def lead_in(self) -> Sequence[Pixels]:
        """The frames before the last one, of its scene, repeats left out."""
        return tuple(self._recent)[:-1] if self._frame else ()

    def takes(self, frame: Pixels, kind: Kind) -> FramePlace:
        """The next frame, which nobody changes afterwards, and what it is to the recurrence."""
        begins = FramePlace.GOES_ON
        if self._length >= self._least and kind is Kind.STARTS:
            begins = FramePlace.BEGINS
        elif self._length >= MOST * self._least:
            begins = FramePlace.BEGINS_WITHIN_A_SCENE
        self._length = 1 if begins is not FramePlace.GOES_ON else self._length + 1
        if kind is Kind.STARTS:
            self._recent.clear()
        if kind is not Kind.REPEATS or begins is not FramePlace.GOES_ON:
            self._recent.append(frame)
        self._frame += 1
        return FramePlace.SKIPPED if self._frame <= self.done else begins
