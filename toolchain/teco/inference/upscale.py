"""File to file: decode, step and encode at the same time (:mod:`teco.video.overlap`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from teco.core.errors import TecoError
from teco.core.log import Progress, no_progress
from teco.core.pixels import Pixels
from teco.inference.stream import Stream
from teco.runtimes.base import Session
from teco.video.clips import Frame, FrameSink, FrameSource, open_sink, open_source
from teco.video.overlap import Reader, Writer
from teco_models.variant import SCALE, check_size


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How a clip is read, enlarged and written.

    Attributes:
        start, end: seconds; the range of the clip, end exclusive.
        max_frames: stop after so many.
        rate: frames a second of a folder of images.
        scene_cuts: reset the recurrence at scene cuts.
        reverse_warm_up: see :class:`teco.inference.stream.Stream`.
        codec, crf, preset, pix_fmt: of the output; None leaves the container's default codec.
        overwrite: replace an existing output.
    """

    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    rate: float | None = None
    scene_cuts: bool = True
    reverse_warm_up: int = 0
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


def upscale(
    make_session: Callable[[int, int], Session],
    source_path: str | Path,
    sink_path: str | Path,
    options: UpscaleOptions,
    progress: Progress = no_progress,
) -> UpscaleResult:
    """Enlarge a clip.

    Args:
        make_session: opens the model for (h, w) frames; called once the input and the output are
            known to be usable, because it takes seconds.
        source_path: video file, folder of images, or "-" for y4m on stdin.
        sink_path: video file, folder, or "-" for y4m on stdout. Appears only when complete.
        options: the rest.
        progress: told after each frame; the total may be an estimate, see FrameSource.count.

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
                stream = Stream(session, scene_cuts=o.scene_cuts, reverse_warm_up=o.reverse_warm_up)
                seconds = _pump(stream, source, sink, progress)
            finally:
                session.close()
            notices = (*source.notices, *sink.notices)
    stats = stream.stats
    return UpscaleResult(stats.frames, stats.resets, seconds, stats.step_seconds, notices)


def _pump(
    stream: Stream,
    source: FrameSource,
    sink: FrameSink,
    progress: Progress,
) -> float:
    """Everything from the first frame to the last, then commit; returns the seconds it took."""
    began = perf_counter()
    inside: deque[Frame] = deque()  # frames in the stream, no more than it looks ahead

    with Reader(source) as reader, Writer(sink) as writer:

        def frames() -> Iterator[Pixels]:
            for frame in reader:
                inside.append(frame)
                yield frame.pixels

        for done, enlarged in enumerate(stream.run(frames()), start=1):
            writer.put(inside.popleft().with_pixels(enlarged))
            progress(done, source.count)
        if not stream.stats.frames:
            raise TecoError(f"{source.name} has no frames", hint="give a clip with a picture")
        writer.finish()
    sink.commit()
    return perf_counter() - began
