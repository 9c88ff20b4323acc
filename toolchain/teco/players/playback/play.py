"""``teco play``: enlarge a clip while it is watched, in a player that is already there.

Decoder, network and pipe run at the same time (:mod:`teco.video.overlap`). In deadline mode a frame
whose step would end after it has to be on its way is enlarged without the network, so that picture
and sound go on; how many is said on the screen and at the end.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from teco.core.errors import TecoError
from teco.core.log import Progress, no_progress
from teco.core.pixels import Pixels
from teco.core.planes import Layout, frame_size, require_even
from teco.inference.recurrence import StreamStats
from teco.inference.stream import Stream
from teco.inference.upscale import as_taken, conversion_of
from teco.players.playback.feed import NutFeed, PlayerGone
from teco.players.playback.programs import MpvControl, Program
from teco.runtimes import Session
from teco.runtimes.base import PlaneSession
from teco.video.clips import FrameSource, open_source
from teco.video.overlap import Reader, Writer
from teco_models.variant import SCALE, check_size

LEAD = 1.0
"""Seconds of finished pictures that may wait for the player: they even out slow frames."""

LEAD_BYTES = 256 * 2**20
"""The same as memory, for large pictures."""

FILL_SECONDS = 3.0
"""How long the lead is filled before playing begins, with models that are slow to fill it."""

MARGIN = 0.1
"""Seconds between a picture's leaving here and its being shown: conversion, pipe, the player."""

WAITED = 0.02
"""Seconds that a write takes only where the pipe is full."""


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """How a clip is played.

    Attributes:
        start, end: seconds; the range of the clip.
        scene_cuts: reset the recurrence at scene cuts.
        deadline: enlarge without the network what would be late.
        centred, scale: of the network, see :class:`teco.inference.stream.Stream`.
        planes: how those of the model lie, if it takes planes.
        osd: show the rate on the screen.
        extra: further arguments for the player.
    """

    start: float | None = None
    end: float | None = None
    scene_cuts: bool = True
    deadline: bool = True
    centred: bool = False
    scale: int = SCALE
    planes: Layout | None = None
    osd: bool = True
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlayResult:
    """What was played.

    Attributes:
        stats: frames, steps, fallbacks, late frames, repeats.
        seconds: from the first picture that went to the player to the last.
        closed: whether the player was closed before the end.
        notices: what the source and the feed had to say.
    """

    stats: StreamStats
    seconds: float
    closed: bool
    notices: tuple[str, ...]

    @property
    def late_share(self) -> float:
        """Share of frames that were not the network's in time."""
        return (self.stats.fallbacks + self.stats.late) / max(1, self.stats.frames)


class Schedule:
    """When a picture has to leave here, by what is known of the player.

    mpv says where it is. Of others only the pipe is known: a write that had to wait means that the
    player has all it wants, so the picture just written cannot be late, and the next ones are due
    one after the other from there. That is a late bound, never an early one.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._anchor: float | None = None  # when the clip's moment 0 would have left

    def wrote(self, moment: float, took: float) -> None:
        """The picture of ``moment`` has left, which took so many seconds."""
        left = self._clock() - moment
        if self._anchor is None:
            self._anchor = left
        elif took > WAITED:
            self._anchor = max(self._anchor, left)

    def due(self, moment: float, position: float | None) -> float | None:
        """Clock time at which the picture of ``moment`` must be there; None while nothing runs.

        Args:
            moment: seconds from the first picture.
            position: what the player says it shows; None where it does not say.
        """
        if position is not None:
            return self._clock() + moment - position - MARGIN
        return None if self._anchor is None else self._anchor + moment


def play(
    make_session: Callable[[int, int], Session],
    path: str | Path,
    program: Program,
    options: PlayOptions,
    progress: Progress = no_progress,
) -> PlayResult:
    """Play a clip, enlarged four times.

    Args:
        make_session: opens the model for (h, w) frames.
        path: a clip, as :func:`teco.video.clips.open_source` takes it.
        program: the player.
        options: the rest.
        progress: told after each frame; the total may be an estimate, see FrameSource.count.

    Raises:
        TecoError: the clip cannot be read.
        TecoError: the player ended with an error.
    """
    with open_source(
        path, start=options.start, end=options.end, planes=options.planes, forgiving=True
    ) as source:
        check_size(source.height, source.width)
        if options.planes is not None:
            require_even(source.height, source.width, source.name)
        session = make_session(source.height, source.width)
        try:
            return play_source(session, source, program, options, progress)
        finally:
            session.close()


def play_source(
    session: Session,
    source: FrameSource,
    program: Program,
    options: PlayOptions,
    progress: Progress = no_progress,
) -> PlayResult:
    """The same with a session and a source that are open, and stay so."""
    width, height = source.width * options.scale, source.height * options.scale
    rate = float(source.rate or 25)
    lead = max(2, min(math.ceil(rate * LEAD), LEAD_BYTES // (3 * width * height)))
    schedule = Schedule()
    if isinstance(session, PlaneSession):
        session.convert_by(conversion_of(source))
    # A first step is slower than all others; what it is like must not count for the rest.
    _warm(session, source.height, source.width)
    stream = Stream(
        session, scene_cuts=options.scene_cuts, centred=options.centred, scale=options.scale
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teco-play-")))
        listens = folder / "mpv" if program.name == "mpv" else None
        title = f"{Path(source.name).name} x{options.scale}"
        reading, writing = os.pipe()
        errors = stack.enter_context((folder / "errors").open("w+b"))
        try:
            process = subprocess.Popen(
                program.command(title, listens, options.extra),
                stdin=reading, stdout=errors, stderr=errors,  # mpv's errors are on stdout
            )  # fmt: skip
        finally:
            os.close(reading)
        stack.callback(_end, process)
        feed = stack.enter_context(NutFeed(writing, source, width, height, wrote=schedule.wrote))
        control = MpvControl(listens) if listens else None
        if control is not None:
            stack.callback(control.close)
        began = perf_counter()
        closed = False
        try:
            _Playing(stream, source, feed, schedule, control, process, options, progress).run(lead)
            process.wait()
        except PlayerGone:
            closed = True
            process.wait()
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            hint = f"see whether it plays the clip by itself: {program.name} CLIP"
            if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
                hint = (
                    "DISPLAY and WAYLAND_DISPLAY are not set, so there is no screen for a window; "
                    "`teco upscale CLIP big.mkv` writes a file"
                )
            raise TecoError(
                f"{program.name} ended with {process.returncode}: "
                + ("; ".join(said[-2:])[:300] or "it said nothing"),
                hint=hint,
            )
        seconds = perf_counter() - began
    return PlayResult(stream.stats, seconds, closed, (*source.notices, *feed.notices))


@dataclass(frozen=True)
class _Playing:
    """All that takes part while a clip is played."""

    stream: Stream
    source: FrameSource
    feed: NutFeed
    schedule: Schedule
    control: MpvControl | None
    process: subprocess.Popen[bytes]
    options: PlayOptions
    progress: Progress

    def run(self, lead: int) -> None:
        """Every frame from the decoder to the player, ``lead`` of them ahead of it."""
        with Reader(self.source) as reader, Writer(self.feed, lead) as writer:
            try:
                self._pump(reader, writer, lead)
                writer.finish()
            except PlayerGone:
                raise
            except BaseException:
                # Before the writer is waited for, which may itself be waiting for the player.
                _end(self.process)
                self.feed.open.set()
                raise
        self.feed.commit()

    def _pump(self, reader: Reader, writer: Writer, lead: int) -> None:
        stats = self.stream.stats
        began = perf_counter()
        screen = _Screen(stats, self.control)
        for given in reader:
            frame = as_taken(given, self.stream.session)
            due = None
            if self.options.deadline and self.feed.open.is_set():
                position = self.control.position() if self.control else None
                due = self.schedule.due(self.feed.moment(frame), position)
            picture = self.stream.push(frame.pixels, due=due)
            if self.options.osd:
                picture = screen.show(picture)
            writer.put(frame.with_pixels(picture))
            self.progress(stats.frames, self.source.count)
            # Playing begins when the lead is full, or has taken long enough to fill.
            if stats.frames >= lead or perf_counter() - began > FILL_SECONDS:
                self.feed.open.set()
        self.feed.open.set()


def _warm(session: Session, h: int, w: int) -> None:
    """Two steps that nobody sees, in the kind of calls that the stream will make."""
    quiet = Stream(session, scene_cuts=False)
    rng = np.random.default_rng(0)
    shape = (3 * h // 2, w) if isinstance(session, PlaneSession) else (h, w, 3)
    for _ in range(2):
        quiet.push(rng.integers(0, 256, shape, dtype=np.uint8))


def _end(process: subprocess.Popen[bytes]) -> None:
    """The player ends with us, whatever happened."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Screen:
    """The rate on the screen: mpv draws it itself, into others' pictures it is drawn here."""

    def __init__(self, stats: StreamStats, control: MpvControl | None) -> None:
        self._stats = stats
        self._control = control
        self._times: deque[float] = deque(maxlen=48)
        self._text = ""
        self._renewed = 0.0

    def show(self, picture: Pixels) -> Pixels:
        """The picture, with the text in it where the player cannot draw it."""
        now = perf_counter()
        self._times.append(now)
        if now - self._renewed >= 1 and len(self._times) > 1:
            self._renewed = now
            rate = (len(self._times) - 1) / (self._times[-1] - self._times[0])
            late = self._stats.fallbacks + self._stats.late
            share = 100 * late / max(1, self._stats.frames)
            self._text = f"teco {rate:.1f} fps" + (f", {share:.1f}% late" if late else "")
            if self._control is not None:
                self._control.show(self._text)
        if self._control is not None or not self._text:
            return picture
        return written_on(picture, self._text)


def written_on(picture: Pixels, text: str) -> Pixels:
    """A copy with a line of text at the top left, white on black; of planes, in the luma."""
    import cv2

    out = picture.copy()
    height, _ = frame_size(picture)
    scale = max(0.4, height / 900)
    place = (round(12 * scale), round(30 * scale))
    for colour, thickness in ((0, 4), (255, 1)):
        cv2.putText(
            out[:height], text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (colour,) * 3,
            max(1, round(thickness * scale)), cv2.LINE_AA,
        )  # fmt: skip
    return out
