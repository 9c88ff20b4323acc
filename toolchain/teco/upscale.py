"""File to file: decode, step and encode at the same time, in bounded queues.

Three threads: the decoder runs ahead by a few frames, the caller's thread steps, the encoder
writes behind. All three spend their time in code that releases the interpreter's lock.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

from teco.errors import TecoError
from teco.pictures import Picture
from teco.runtimes.base import Session
from teco.stream import Stream
from teco_calibration.clips import Frame, FrameSink, FrameSource, open_sink, open_source
from teco_models.variant import SCALE, check_size

QUEUE = 4
"""Frames that may wait on either side: enough to even out a slow frame, little memory."""

PATIENCE = 1.0
"""Seconds to wait, after a failure, for a thread that a pipe may block for ever."""


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How a clip is read, enlarged and written.

    Attributes:
        start, end: seconds; the range of the clip, end exclusive.
        max_frames: stop after so many.
        rate: frames a second of a folder of pictures.
        scene_cuts: reset the recurrence at scene cuts.
        warm_up: see :class:`teco.stream.Stream`.
        codec, crf, preset, pix_fmt: of the output; None leaves the container's default codec.
        overwrite: replace an existing output.
    """

    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    rate: float | None = None
    scene_cuts: bool = True
    warm_up: int = 0
    codec: str | None = None
    crf: float = 16
    preset: str = "medium"
    pix_fmt: str = "yuv420p"
    overwrite: bool = False


@dataclass(frozen=True)
class UpscaleResult:
    """What was done.

    Attributes:
        frames: written.
        scenes: how often the recurrence started afresh.
        seconds: from the first frame asked for to the last one encoded.
        step_seconds: of these, inside the runtime.
        notices: what the source and the output had to say.
    """

    frames: int
    scenes: int
    seconds: float
    step_seconds: float
    notices: tuple[str, ...]

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class UpscaleProgress:
    """Told after each frame; ``total`` is None or an estimate, see FrameSource.count."""

    done: int
    total: int | None


def upscale(
    make_session: Callable[[int, int], Session],
    source_path: str | Path,
    sink_path: str | Path,
    options: UpscaleOptions,
    report: Callable[[UpscaleProgress], None] = lambda _: None,
) -> UpscaleResult:
    """Enlarge a clip.

    Args:
        make_session: opens the model for (h, w) frames; called once the input and the output are
            known to be usable, because it takes seconds.
        source_path: video file, folder of pictures, or "-" for y4m on stdin.
        sink_path: video file, folder, or "-" for y4m on stdout. Appears only when complete.
        options: the rest.
        report: progress.

    Raises:
        ClipError: the input or the output is not as it must be.
        ModelError: frames smaller than 8x8.
    """
    o = options
    with open_source(
        source_path, start=o.start, end=o.end, max_frames=o.max_frames, rate=o.rate
    ) as source:
        check_size(source.height, source.width)
        with open_sink(
            sink_path,
            source=source,
            width=source.width * SCALE,
            height=source.height * SCALE,
            codec=o.codec,
            crf=o.crf,
            preset=o.preset,
            pix_fmt=o.pix_fmt,
            overwrite=o.overwrite,
        ) as sink:
            session = make_session(source.height, source.width)
            try:
                stream = Stream(session, scene_cuts=o.scene_cuts, warm_up=o.warm_up)
                seconds = _pump(stream, source, sink, report)
            finally:
                session.close()
            notices = (*source.notices, *sink.notices)
    stats = stream.stats
    return UpscaleResult(stats.frames, stats.resets, seconds, stats.step_seconds, notices)


def _pump(
    stream: Stream,
    source: FrameSource,
    sink: FrameSink,
    report: Callable[[UpscaleProgress], None],
) -> float:
    """Everything from the first frame to the last, then commit; returns the seconds it took."""
    began = perf_counter()
    inside: deque[Frame] = deque()  # frames in the stream, no more than it looks ahead

    with _Reader(source) as reader, _Writer(sink) as writer:

        def pictures() -> Iterator[Picture]:
            for frame in reader:
                inside.append(frame)
                yield frame.pixels

        for done, picture in enumerate(stream.run(pictures()), start=1):
            writer.put(inside.popleft().with_pixels(picture))
            report(UpscaleProgress(done, source.count))
        if not stream.stats.frames:
            raise TecoError(f"{source.name} has no frames", hint="give a clip with a picture")
        writer.finish()
    sink.commit()
    return perf_counter() - began


class _Pipe:
    """A bounded queue between two threads that either side can break off."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Frame | None] = queue.Queue(QUEUE)
        self._broken = threading.Event()
        self.error: BaseException | None = None

    def put(self, item: Frame | None) -> bool:
        """Wait for room; False when the other side has broken off."""
        while not self._broken.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> Frame | None:
        """Wait for an item; None at the end or when the other side has broken off."""
        while not self._broken.is_set():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def break_off(self, error: BaseException | None = None) -> None:
        self.error = self.error or error
        self._broken.set()


class _Worker(threading.Thread):
    """A thread that is waited for, unless it may be blocked on standard input or output.

    Nothing wakes such a thread before the other end of the pipe does; it is left behind, and
    :func:`teco.cli.main` ends the process without it.
    """

    def __init__(self, name: str, work: Callable[[], None], clip: str) -> None:
        self._piped = clip == "-"
        super().__init__(target=work, name=f"teco-{name}", daemon=self._piped)

    def leave(self) -> None:
        self.join(PATIENCE if self._piped else None)


class _Reader:
    """Decodes ahead in a thread of its own."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._pipe = _Pipe()
        self._thread = _Worker("decode", self._work, source.name)

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._source:
                if not self._pipe.put(frame):
                    return
        except BaseException as caught:  # handed over to the caller's thread, whatever it is
            error = caught
        # What was decoded before the error is still delivered, as the source promises.
        self._pipe.error = error
        self._pipe.put(None)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._pipe.get()) is not None:
            yield frame
        if self._pipe.error is not None:
            raise self._pipe.error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.break_off()
        self._thread.leave()


class _Writer:
    """Encodes behind in a thread of its own."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._pipe = _Pipe()
        self._thread = _Worker("encode", self._work, sink.name)

    def _work(self) -> None:
        try:
            while (frame := self._pipe.get()) is not None:
                self._sink.write(frame)
        except BaseException as caught:  # handed over to the caller's thread, whatever it is
            self._pipe.break_off(caught)

    def put(self, frame: Frame) -> None:
        """Queue a frame.

        Raises:
            BaseException: what went wrong while an earlier one was written.
        """
        if not self._pipe.put(frame):
            self._raise()

    def finish(self) -> None:
        """Wait until everything is written."""
        self._pipe.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._pipe.error is not None:
            raise self._pipe.error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.break_off()
        self._thread.leave()
