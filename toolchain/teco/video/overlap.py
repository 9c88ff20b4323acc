"""Decode, step and write at the same time, in bounded queues.

Three threads: the decoder runs ahead by a few frames, the caller's thread steps, the writer follows
behind. All three spend their time in code that releases the interpreter's lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Self

from teco.video.clips import Frame, FrameSink, FrameSource

QUEUE = 4
"""Frames that may wait on either side: enough to even out a slow frame, little memory."""

PATIENCE = 1.0
"""Seconds to wait, after a failure, for a thread that a pipe may block for ever."""


class Pipe:
    """A bounded queue between two threads that either side can break off."""

    def __init__(self, size: int = QUEUE) -> None:
        self._queue: queue.Queue[Frame | None] = queue.Queue(size)
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


class BackgroundWorker(threading.Thread):
    """A thread that is waited for, unless it may be blocked on standard input or output.

    Nothing wakes such a thread before the other end of the pipe does; it is left behind, and
    :func:`teco.cli.main` ends the process without it.
    """

    def __init__(self, name: str, work: Callable[[], None], clip: str) -> None:
        self._piped = clip == "-"
        super().__init__(target=work, name=f"teco-{name}", daemon=self._piped)

    def leave(self) -> None:
        self.join(PATIENCE if self._piped else None)


class Reader:
    """Decodes ahead in a thread of its own."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._pipe = Pipe()
        self._thread = BackgroundWorker("decode", self._work, source.name)

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


class Writer:
    """Encodes behind in a thread of its own, by at most ``size`` frames."""

    def __init__(self, sink: FrameSink, size: int = QUEUE) -> None:
        self._sink = sink
        self._pipe = Pipe(size)
        self._thread = BackgroundWorker("encode", self._work, sink.name)

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
