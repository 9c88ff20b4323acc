"""A choice over a moment: its pictures, and the pace at which it would go through the whole clip.

The frames go through the same threads as in ``teco upscale`` (:func:`teco.inference.upscale.pump`),
from the decoder to the encoder with its usual settings, so that all three take their share of the
machine. Before anything is timed the encoder is filled: x264 decides on a frame when it has seen 40
more, and until then costs next to nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from teco.core.pixels import Pixels
from teco.inference.deadline import cheap_centred
from teco.inference.stream import Stream
from teco.inference.upscale import pump
from teco.page.viewer import Crop
from teco.preview.moment import Moment
from teco.runtimes import Session
from teco.video.clips import Frame, FrameSink, open_sink
from teco.video.file.encoders import USUAL, lookahead
from teco.video.frames import Aborting, Closing

TARGET = "preview.mkv"
"""What the frames are encoded into, in a temporary folder."""

CODEC = USUAL.codec_for(Path(TARGET).suffix)

WARM = 4
"""Frames before anything is timed or shown: the first step prepares more than it does, and the
first pictures have no past. The encoder is filled with these."""

LEAST = 8
"""Frames that are timed at least."""

ENOUGH_S, MOST_S = 3.0, 6.0
"""Seconds of timing: enough for few frames that were gone through again, and at most."""

FEW = 24
"""Frames that are too few to tell a pace from: they are gone through again, from memory."""

KEPT = 12
"""Pictures of a choice that are kept, about, until it is known which of them all choices have."""

THUMBNAIL = 640
"""Width of the picture that shows the whole frame, at most."""


class BicubicSession:
    """What players do without a network, in the place of one."""

    runtime = "opencv"
    details = "bicubic interpolation"

    def __init__(self, scale: int) -> None:
        self._scale = scale

    def step(self, lr: Any, state: Any) -> tuple[Any, Any]:
        """Frames come as pixels, see :meth:`enlarge`."""
        raise NotImplementedError

    def enlarge(self, frame: Pixels, state: Any) -> tuple[Pixels, Any]:
        """See :class:`teco.runtimes.base.FrameSession`."""
        return cheap_centred(frame, self._scale), ()

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one choice did.

    Attributes:
        frame_s: seconds a frame, from file to file.
        step_s: of these, in the network alone.
        timed: frames of which that is the mean.
        repeats: share of the frames that repeated the one before and were not stepped.
        length: frames that the moment turned out to have; None where its end was not reached.
        pictures: number of a frame in the moment -> what is shown of it.
        thumbnails: the same frames whole, as they came, shrunk.
    """

    frame_s: float
    step_s: float
    timed: int
    repeats: float
    length: int | None
    pictures: dict[int, Pixels]
    thumbnails: dict[int, Pixels]


@dataclass
class _Pace:
    """When frames were done: handed to the encoder's queue, and the last one encoded."""

    patient: bool
    marks: list[float] = field(default_factory=lambda: [perf_counter()])
    gone_through: bool = False
    ended: float = 0.0

    def tell(self, _done: int, _total: int | None) -> None:
        self.marks.append(perf_counter())

    def is_enough(self) -> bool:
        """Whether no more frames are needed."""
        if len(self.marks) <= WARM + LEAST:
            return False
        seconds = self.marks[-1] - self.marks[WARM]
        if self.gone_through:
            return seconds >= ENOUGH_S
        return seconds >= MOST_S and not self.patient

    @property
    def _from(self) -> int:
        # Of a single picture, everything from the beginning.
        return min(WARM, len(self.marks) - 2)

    @property
    def timed(self) -> int:
        return len(self.marks) - 1 - self._from

    @property
    def seconds(self) -> float:
        """A frame, from an empty queue to an empty queue."""
        return (self.ended - self.marks[self._from]) / self.timed


class _OverAndOver(Closing):
    """The frames of a moment; few ones again and again, until there was time enough."""

    def __init__(self, moment: Moment, pace: _Pace) -> None:
        self._pace = pace
        self.source = source = moment.open()
        self.width, self.height = source.width, source.height
        self.rate = source.rate
        self.count: int | None = None
        self.colour, self.depth = source.colour, source.depth
        self.pixel_aspect, self.name = source.pixel_aspect, source.name
        self.notices, self.media = source.notices, source.media
        self.length: int | None = None
        """Of the moment, once its end was reached."""

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        held: list[Frame] = []
        frames: Iterable[Frame] = self.source
        while True:
            for frame in frames:
                if self._pace.is_enough():
                    return
                if self.length is None and index <= FEW:
                    held.append(frame)
                yield replace(frame, index=index)
                index += 1
            self._pace.gone_through = True
            if self.length is None:
                self.length = index
            # One picture again would not be stepped.
            if self.length > FEW or self.length == 1:
                return
            frames = held

    def close(self) -> None:
        self.source.close()


class _Filled(Aborting):
    """A sink that is full of the first pictures before it is given others."""

    def __init__(self, sink: FrameSink, rate: Fraction, pace: _Pace) -> None:
        self._sink, self._pace = sink, pace
        self._held: list[Pixels] = []
        self._is_full = False
        self._tick = 1 / rate
        self.name, self.notices = sink.name, sink.notices

    def fill(self, picture: Pixels) -> None:
        """The next picture, in the thread that makes them; returns when the encoder is full."""
        if self._is_full:
            return
        self._held.append(picture)
        if len(self._held) < WARM:
            return
        # To and fro, so that the encoder sees movement and no cuts.
        order = [*range(WARM), *range(WARM - 2, 0, -1)]
        for n in range(lookahead(CODEC, USUAL.preset) + 2 * WARM):
            pixels = self._held[order[n % len(order)]]
            self._sink.write(Frame(pixels, n, n, self._tick, 1))
        self._held.clear()
        self._is_full = True

    def write(self, frame: Frame) -> None:
        if frame.index >= WARM:
            self._sink.write(frame)

    def commit(self) -> None:
        """The queue is empty. Nobody wants the file."""
        self._pace.ended = perf_counter()
        self.abort()

    def abort(self) -> None:
        self._sink.abort()


def measure(
    moment: Moment, session: Session, crop: Crop, scale: int, *, patient: bool = False
) -> Measured:
    """Go through a moment with a session, which is left open.

    Args:
        moment: of a clip.
        session: bicubic or a network.
        crop: what is kept of the pictures.
        scale: of the session.
        patient: go through all of the moment, however long that takes.

    Raises:
        TecoError: the clip cannot be read, a picture of this size cannot be encoded, or the session
            fails.
    """
    pace = _Pace(patient)
    every = max(1, moment.frames // KEPT)
    pictures: dict[int, Pixels] = {}
    thumbnails: dict[int, Pixels] = {}
    with (
        tempfile.TemporaryDirectory(prefix="teco-preview-") as folder,
        _OverAndOver(moment, pace) as frames,
    ):
        stream = Stream(session)
        with (
            open_sink(
                Path(folder) / TARGET,
                source=frames.source,
                width=scale * moment.width,
                height=scale * moment.height,
                rate=moment.rate,
            ) as sink,
            _Filled(sink, moment.rate, pace) as filled,
        ):
            seen = 0

            def finish(frame: Pixels, enlarged: Pixels) -> Pixels:
                nonlocal seen
                first_time = frames.length is None or seen < frames.length
                if first_time and seen % every == 0:
                    pictures[seen] = crop.of(enlarged).copy()
                    thumbnails[seen] = _shrunk(frame)
                seen += 1
                filled.fill(enlarged)
                return enlarged

            pump(stream, frames, filled, pace.tell, finish=finish)
    stats = stream.stats
    return Measured(
        frame_s=pace.seconds,
        step_s=stats.step_seconds / max(1, stats.steps),
        timed=pace.timed,
        repeats=stats.repeats / stats.frames,
        length=frames.length,
        pictures=pictures,
        thumbnails=thumbnails,
    )


def _shrunk(frame: Pixels) -> Pixels:
    h, w = frame.shape[:2]
    if w <= THUMBNAIL:
        return frame.copy()
    size = (THUMBNAIL, max(1, round(h * THUMBNAIL / w)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
