"""Frames of two half pictures, taken apart: bwdif, as libavfilter has it.

A network that is shown combs enlarges combs. Only frames that say they are interlaced are changed;
the number of frames stays (one of each pair of fields, ``send_frame``).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError
from av.filter import Graph


class Deinterlacer:
    """Interlaced frames become progressive ones; from the first interlaced frame on, one frame
    late.

    Args:
        time_base: of the frames' timestamps.
        every: "tff" or "bff" where all frames are interlaced and none says so; "" asks each.

    Attributes:
        used: whether an interlaced frame came.
    """

    def __init__(self, time_base: Fraction, *, every: str = "") -> None:
        self.used = False
        self._every = every
        self._time_base = time_base
        self._filter: Any = None
        self._shape: tuple[int, int, str] | None = None
        self._durations: dict[int, int] = {}

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The next frame; what can be shown now, with timestamps in the frame's own time base."""
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            yield from self.drain()
        if self._filter is None:
            if not (self._every or frame.interlaced_frame):
                yield frame
                return
            self._filter = self._begin(frame, shape)
        if frame.pts is not None:
            self._durations[frame.pts] = frame.duration
        frame.time_base = self._time_base
        self._filter.vpush(frame)
        yield from self._pull()

    def drain(self) -> Iterator[av.VideoFrame]:
        """What is held: at the end."""
        if self._filter is not None:
            self._filter.vpush(None)
            yield from self._pull()
            self._filter = None

    def _begin(self, frame: av.VideoFrame, shape: tuple[int, int, str]) -> Any:
        self.used = True
        self._shape = shape
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format,
            time_base=self._time_base,
        )  # fmt: skip
        which = f"deint=all:parity={self._every}" if self._every else "deint=interlaced"
        filtered = graph.add("bwdif", f"mode=send_frame:{which}")
        sink = graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        return graph

    def _pull(self) -> Iterator[av.VideoFrame]:
        while True:
            try:
                frame = self._filter.vpull()
            except (BlockingIOError, EOFError, FFmpegError):
                return
            if frame.pts is not None and frame.time_base:
                # The filter counts in halves of a tick.
                frame.pts = round(frame.pts * Fraction(frame.time_base) / self._time_base)
                frame.time_base = self._time_base
                frame.duration = self._durations.pop(frame.pts, 0)
            yield frame
