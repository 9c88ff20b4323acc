"""File to file: decode, step and encode at the same time (:mod:`teco.video.overlap`)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import av

from teco import __version__
from teco.core.errors import USAGE, Interrupted, TecoError
from teco.core.files import content_stamp
from teco.core.log import Progress, no_progress
from teco.core.pixels import Pixels
from teco.core.planes import Layout, frame_size, require_even
from teco.core.text import spoken
from teco.inference.beside import WIDTHS, Comparison, beside
from teco.inference.output_size import OutputSize, resized
from teco.inference.segments import SegmentPlan, least_frames
from teco.inference.stream import Stream
from teco.inference.tiles import TiledSession
from teco.model.conversion import Conversion, as_planes
from teco.runtimes.base import PlaneSession, Session
from teco.video.clips import (
    PICTURE_SUFFIXES,
    Frame,
    FrameSink,
    FrameSource,
    holds_16_bits,
    is_folder_target,
    open_sink,
    open_source,
    written_colour,
)
from teco.video.colour import Colour, output_colour
from teco.video.file.encoders import USUAL, EncoderSettings
from teco.video.frames import ResumableSink
from teco.video.overlap import Reader, Writer
from teco.video.segments import describe, folder_of
from teco_models.variant import SCALE, check_size

LONGEST_AT_ONCE = 250
"""Frames of a clip that is made at once: nothing of it is kept where the work breaks off."""

MINUTE, HOUR = 60.0, 3600.0

_TIMED_FROM = 2
"""The frame after which steps are timed: the first ones prepare more than they do."""


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How a clip is read, enlarged and written.

    Attributes:
        start, end: seconds; the range of the clip, end exclusive.
        max_frames: stop after so many.
        rate: frames a second of a folder of images.
        scene_cuts: reset the recurrence at scene cuts.
        reverse_warm_up: see :class:`teco.inference.stream.Stream`.
        deinterlace: make progressive frames of interlaced ones.
        encoder: of the output. A pixel format of more than 8 bits takes the clip through the
            network in 16, if the clip has more than 8 itself.
        compare: show bicubic on the left and the network on the right.
        to: the size that the output ends at; None for what the network makes.
        overwrite: replace an existing output.
    """

    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    rate: float | None = None
    scene_cuts: bool = True
    reverse_warm_up: int = 0
    deinterlace: bool = True
    encoder: EncoderSettings = USUAL
    compare: Comparison | None = None
    to: OutputSize | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Prospect:
    """What is left of a job once a few of its frames have been timed.

    Attributes:
        frames: that are left.
        width, height: of the pictures.
        seconds: that they will take.
    """

    frames: int
    width: int
    height: int
    seconds: float

    @property
    def time(self) -> str:
        """In days, hours and minutes."""
        return spoken(self.seconds)


@dataclass(frozen=True)
class UpscaleResult:
    """What was done.

    Attributes:
        frames: of the output, those of an earlier run among them.
        resumed: of these, frames of an earlier run.
        scenes: how often the recurrence started afresh, in the frames that this run made.
        seconds: from the first frame asked for to the last one encoded.
        step_seconds: of these, inside the runtime.
        notices: what the source and the output had to say.
    """

    frames: int
    resumed: int
    scenes: int
    seconds: float
    step_seconds: float
    notices: tuple[str, ...]

    @property
    def fps(self) -> float:
        return (self.frames - self.resumed) / self.seconds if self.seconds else 0.0


def upscale(
    make_session: Callable[[FrameSource], Session],
    source_path: str | Path,
    sink_path: str | Path,
    options: UpscaleOptions,
    progress: Progress = no_progress,
    tell: Callable[[str], None] | None = None,
    model_id: Callable[[], str] = str,
    go_on: Callable[[Prospect], bool] | None = None,
    scale: int = SCALE,
    centred: bool = True,
    planes: Layout | None = None,
) -> UpscaleResult:
    """Enlarge a clip.

    Args:
        make_session: opens the model for a source's frames; called once the input and the output
            are known to be usable, because it takes seconds.
        source_path: video file, folder of images, or "-" for y4m on stdin.
        sink_path: video file, folder, or "-" for y4m on stdout. Appears only when complete.
        options: the rest.
        progress: told after each frame; the total may be an estimate, see FrameSource.count.
        go_on: told what is left once a few frames have been timed, where that takes more than a
            minute; False gives the work up.
        model_id: gives what tells the model from others, such as a hash, once the session is made:
            unfinished work of another one is not gone on with.
        scale: of the model.
        centred: the model's frames lie about pixel centres (all but those of BD networks).
        planes: the layout of a model that takes planes: decoded planes then go to it, and its own
            to the encoder, without a conversion.
        tell: given each notice once, as soon as it is known: most before the long work.

    Raises:
        ClipError: the input or the output is not as it must be.
        ModelError: frames smaller than 8x8.
        Interrupted: ``go_on`` said no.
    """
    o = options
    deep = _is_deep(sink_path, o.encoder.pix_fmt)
    with open_source(
        source_path, start=o.start, end=o.end, max_frames=o.max_frames, rate=o.rate, deep=deep,
        deinterlace=o.deinterlace, planes=planes, forgiving=True,
    ) as source:  # fmt: skip
        notices = _Notices(tell)
        if source.depth > 8 and not deep:
            notices.add(
                eight_bits(source)
                if planes is None
                else f"the {source.depth} bits of the clip become 8, as the model's planes have"
            )
        check_size(source.height, source.width)
        if planes is not None:
            _check_planes(o, source, planes)
        width, height = written_size(o, source, scale)
        is_picture = is_folder_target(sink_path) or Path(sink_path).suffix in PICTURE_SUFFIXES
        notices.add(*_of_resizing(o, source, scale, is_picture))
        resumable = source.name != "-" and (source.count or LONGEST_AT_ONCE + 1) > LONGEST_AT_ONCE
        with open_sink(
            sink_path,
            source=source,
            width=width,
            height=height,
            encoder=o.encoder,
            overwrite=o.overwrite,
            planes=planes,
            square=o.to is not None
            and o.to.is_square(source.width, source.height, source.pixel_aspect),
        ) as sink:
            notices.add(*source.notices, *sink.notices)
            session = make_session(source)
            try:
                if isinstance(session, PlaneSession):
                    size = source.width * scale, source.height * scale
                    written = written_colour(sink_path, source, o.encoder, *size)
                    session.convert_by(conversion_of(source, written))
                stream = Stream(session, scene_cuts=o.scene_cuts, reverse_warm_up=o.reverse_warm_up)
                plan = None
                if resumable and isinstance(sink, ResumableSink):
                    pictures = is_folder_target(sink_path)
                    done = sink.resume(_job(o, source, model_id(), session, pictures))
                    plan = SegmentPlan(least_frames(source.height, source.width), done)
                    if done:
                        notices.add(f"going on after {done} frames of an earlier run")
                finish = None if planes is not None else partial(
                    _finished, how=o.compare, size=(width, height), centred=centred,
                    scale=scale,
                )  # fmt: skip
                seconds = pump(stream, source, sink, progress, go_on, plan, finish)
            except BaseException as error:
                sink.abort()
                if not isinstance(sink, ResumableSink) or not sink.kept:
                    raise
                kept = f"{sink.kept} frames are kept in {folder_of(Path(sink_path))}"
                if isinstance(error, KeyboardInterrupt | Interrupted):
                    raise Interrupted(
                        f"interrupted; {kept}", hint="the same command goes on from there"
                    ) from error
                notices.add(f"{kept}; the same command goes on from there")
                raise
            finally:
                session.close()
            notices.add(*source.notices, *sink.notices)
    stats = stream.stats
    said = tuple(notices.all)
    done = plan.done if plan is not None else 0
    return UpscaleResult(
        frames=done + stats.frames, resumed=done, scenes=stats.resets, seconds=seconds,
        step_seconds=stats.step_seconds, notices=said,
    )  # fmt: skip


def written_size(options: UpscaleOptions, source: FrameSource, scale: int) -> tuple[int, int]:
    """Width and height of what is written of a clip.

    Raises:
        TecoError: the clip cannot end at the size that was asked for.
    """
    width, height = source.width * scale, source.height * scale
    if options.to is not None:
        width, height = options.to.of(source.width, source.height, source.pixel_aspect)
    return width * (1 if options.compare is None else WIDTHS[options.compare]), height


def _check_planes(options: UpscaleOptions, source: FrameSource, planes: Layout) -> None:
    """Raise TecoError for what cannot be made of planes."""
    require_even(source.height, source.width, source.name)
    if options.compare is not None or options.to is not None:
        raise TecoError(
            f"{'--compare' if options.compare else '--to'} works on RGB pictures, and the model "
            f"gives {planes} planes",
            hint="take a model with RGB ports (teco export --io uint8)",
            exit_code=USAGE,
        )


def _of_resizing(
    options: UpscaleOptions, source: FrameSource, scale: int, pictures: bool
) -> list[str]:
    """What to say where the network's pictures are resized by much, or pixels are not square and
    the output is no picture, whose sink says that itself."""
    if options.to is None:
        return []
    aspect = source.pixel_aspect
    width, height = options.to.of(source.width, source.height, aspect)
    said: list[str] = []
    if height > source.height * scale:
        rest = f"{height / (source.height * scale):.3g}"
        said.append(f"the network enlarges {scale} times, Lanczos the rest, {rest} times")
    elif 2 * height <= source.height * scale:
        said.append(f"the network enlarges {scale} times, and its pictures are shrunk to the size")
    if aspect not in (None, 1) and not pictures:
        ratio = f"{aspect.numerator}:{aspect.denominator}"
        said.append(
            f"the clip's pixels are {ratio}: {width}x{height} is the shape that it is shown in, "
            "and the output's pixels are square"
            if options.to.is_square(source.width, source.height, aspect)
            else f"the clip's pixels are {ratio}, and so are the output's: {width}x{height} is "
            f"shown as {round(width * aspect)}x{height}"
        )
    return said


def _finished(
    frame: Pixels,
    enlarged: Pixels,
    *,
    how: Comparison | None,
    size: tuple[int, int],
    centred: bool,
    scale: int,
) -> Pixels:
    """What is written of a frame and the frame enlarged.

    Args:
        frame, enlarged: (h, w, 3) and (scale * h, scale * w, 3).
        how: beside bicubic, see :func:`teco.inference.beside.beside`; None: alone.
        size: width and height of what is written.
        centred, scale: as of :func:`upscale`.
    """
    if how is not None:
        enlarged = beside(how, frame, enlarged, centred=centred, scale=scale)
    return resized(enlarged, *size)


def _job(
    options: UpscaleOptions, source: FrameSource, model_id: str, session: Session, pictures: bool
) -> dict[str, str]:
    """All that decides what the pictures look like: how they are made, of what, by what.

    Args:
        pictures: a folder of them is made, and nothing encoded.
    """
    how = {**vars(options), **({} if pictures else asdict(options.encoder))}
    how = describe({k: v for k, v in how.items() if k not in ("encoder", "overwrite")})
    path = Path(source.name)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file())
        facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        stamp = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    else:
        stamp = f"{content_stamp(path)} {path.stat().st_mtime_ns}"
    tiles = session if isinstance(session, TiledSession) else None
    return {
        **how,
        "clip": f"{path.name} {stamp}",
        "model": model_id,
        "runtime": session.runtime,
        "runtime's details": session.details if tiles is None else tiles.details_below,
        "tile": "" if tiles is None else "x".join(str(n) for n in tiles.window),
        "teco": __version__,
        "PyAV": av.__version__,
    }


class _Notices:
    """Sentences in the order in which they became known, each once."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.all: list[str] = []
        self._tell = tell

    def add(self, *texts: str) -> None:
        for text in texts:
            if text not in self.all:
                self.all.append(text)
                if self._tell is not None:
                    self._tell(text)


def conversion_of(source: FrameSource, written: Colour | None = None) -> Conversion:
    """How the planes of a clip stand for RGB.

    Args:
        source: the clip; one in RGB is given a matrix.
        written: what the enlarged ones are to be in; None for the same.
    """
    own = output_colour(source.colour, "yuv420p", source.width, source.height)
    conversion = Conversion.of(own.matrix, own.full_range)
    if written is None or (written.matrix, written.full_range) == (own.matrix, own.full_range):
        return conversion
    return conversion.into(Conversion.of(written.matrix, written.full_range))


def as_taken(frame: Frame, session: Session) -> Frame:
    """The frame as planes, where the session takes planes and the decoder had none."""
    if frame.layout is not None or not isinstance(session, PlaneSession):
        return frame
    assert session.conversion is not None
    packed = as_planes(frame.pixels, session.layout, session.conversion)
    return replace(frame, pixels=packed, layout=session.layout)


def eight_bits(source: FrameSource) -> str:
    """That a clip loses bits, and how it would not."""
    return (
        f"the {source.depth} bits of the clip become 8; --pix-fmt yuv420p10le keeps 10 "
        "(with --codec libx264, libx265, libsvtav1 or ffv1)"
    )


def _is_deep(sink_path: str | Path, pix_fmt: str) -> bool:
    """Whether the output holds more than 8 bits: a pixel format that does, or a folder of PNGs."""
    if holds_16_bits(sink_path):
        return True
    try:
        return max((c.bits for c in av.VideoFormat(pix_fmt).components), default=8) > 8
    except ValueError:  # the sink says what is wrong with it
        return False


def pump(
    stream: Stream,
    source: FrameSource,
    sink: FrameSink,
    progress: Progress,
    go_on: Callable[[Prospect], bool] | None = None,
    plan: SegmentPlan | None = None,
    finish: Callable[[Pixels, Pixels], Pixels] | None = None,
) -> float:
    """Everything from the first frame to the last, then commit; returns the seconds it took.

    Args:
        stream, source, sink: what frames go through.
        progress: told after each frame, when the sink's queue has room for it.
        go_on: see :func:`upscale`.
        plan: where parts begin; frames that it skips are decoded and looked at, no more.
        finish: makes what is written of a frame and the frame enlarged; None: the latter.

    Raises:
        Interrupted: ``go_on`` said no.
        TecoError: there was no frame; and whatever source, stream and sink raise.
    """
    done = plan.done if plan is not None else 0
    began = perf_counter()
    inside: deque[Frame] = deque()  # frames in the stream, no more than it looks ahead

    with Reader(source) as reader, Writer(sink) as writer:

        def frames() -> Iterator[Pixels]:
            for given in reader:
                frame = as_taken(given, stream.session)
                if frame.index >= done:
                    inside.append(frame)
                yield frame.pixels

        if plan is None:
            enlarged_frames = ((False, out) for out in stream.run(frames()))
        else:
            enlarged_frames = stream.run_in_segments(frames(), plan)
        timed = began
        for count, (begins, enlarged) in enumerate(enlarged_frames, start=1):
            frame = inside.popleft()
            shown = enlarged if finish is None else finish(frame.pixels, enlarged)
            if count == _TIMED_FROM:
                timed = perf_counter()
            elif count == _TIMED_FROM + 2 and go_on is not None and source.count:
                left = source.count - done - count
                height, width = frame_size(shown)
                ahead = Prospect(left, width, height, (perf_counter() - timed) / 2 * left)
                if ahead.seconds > MINUTE and not go_on(ahead):
                    raise Interrupted("given up before the long work")
            writer.put(replace(frame, pixels=shown, starts_segment=begins))
            progress(done + count, source.count)
        if not (stream.stats.frames or done):
            raise TecoError(f"{source.name} has no frames", hint="give a clip with a picture")
        writer.finish()
    sink.commit()
    return perf_counter() - began
