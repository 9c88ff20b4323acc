"""Enlarged pictures and the clip's own sound, as NUT into a player's standard input.

NUT, not y4m: it keeps timestamps, variable rates and colour, and holds the sound as well, so that
one pipe is enough for every player.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from fractions import Fraction
from time import perf_counter
from typing import Any

import av
from av.error import FFmpegError

from teco.core.errors import TecoError
from teco.video.colour import Converter, output_colour
from teco.video.file.container import describe_picture, give_up
from teco.video.file.other_streams import OtherStreams
from teco.video.frames import Aborting, Frame, FrameSource, check_pixels

AHEAD = Fraction(1, 2)
"""Seconds by which the sound runs before the picture: decoders want some before they begin."""

PIX_FMT = "yuv420p"
"""What every player shows without converting. Pictures four times larger have even sides."""


class PlayerGone(TecoError):
    """The player was closed while there was still something to play."""


class NutFeed(Aborting):
    """A :class:`teco.video.frames.FrameSink` that is a pipe. Timestamps begin at zero.

    Args:
        descriptor: the pipe's writing end; closed by commit and abort.
        source: the clip: timestamps, colour, and the sound to copy.
        width, height: of the pictures to come.
        wrote: told after each frame: its moment, and the seconds that writing it took.
    """

    def __init__(
        self,
        descriptor: int,
        source: FrameSource,
        width: int,
        height: int,
        *,
        wrote: Callable[[float, float], None] = lambda _moment, _took: None,
    ) -> None:
        self.name = "the player"
        self.notices: list[str] = []
        self.open = threading.Event()
        """Nothing is written before this is set."""
        self._descriptor = descriptor
        self._wrote = wrote
        self._size = (width, height)
        self._source = source
        self._converter = Converter(output_colour(source.colour, PIX_FMT, width, height))
        self._time_base = Fraction(1, 25)
        self._shift: Fraction | None = None
        self._end: Fraction | None = None
        self._others: OtherStreams | None = None
        self._stream: Any = None
        self._container: Any = None

    def _start(self, time_base: Fraction) -> Any:
        """The container, whose header goes out with the first frame, in that frame's clock."""
        source, media = self._source, self._source.media
        self._time_base = time_base
        width, height = self._size
        container: Any = av.open(
            f"pipe:{self._descriptor}", "w", format="nut",
            # Packets go out as they come, not sorted over streams that may have gaps; and no index
            # is gathered for the end, which would be memory for every frame.
            container_options={
                "max_interleave_delta": "1", "flush_packets": "1", "write_index": "0",
            },
        )  # fmt: skip
        self._stream = container.add_stream(
            "rawvideo", rate=(source.rate or Fraction(25)).limit_denominator(65535),
            width=width, height=height, pix_fmt=PIX_FMT, time_base=time_base,
        )  # fmt: skip
        aspect = None if media is None else source.pixel_aspect
        describe_picture(self._stream.codec_context, self._converter.colour, aspect)
        if media is None:
            return container
        self._others = OtherStreams(media, "nut", self.notices)
        for stream in self._others.streams():
            if stream.type == "audio":
                self._others.add(stream, container)
        self._others.start(container)
        return container

    def write(self, frame: Frame) -> None:
        """Add one frame, uint8 (height, width, 3) RGB; waits while the player has enough.

        Raises:
            PlayerGone: nobody reads any more.
        """
        self.open.wait()
        check_pixels(frame, *self._size, self.name)
        began = perf_counter()
        if self._container is None:
            with self._muxing():
                self._container = self._start(frame.time_base)
        moment = frame.pts * frame.time_base
        coded = self._converter.frame_of(frame.pixels, frame.layout, PIX_FMT)
        coded.pts = round((moment - self._zero(frame)) / self._time_base)
        coded.time_base = self._time_base
        self._end = moment + (frame.duration or 0) * frame.time_base
        with self._muxing():
            if self._others is not None:
                self._others.copy_until(moment + AHEAD)
            for packet in self._stream.encode(coded):
                self._container.mux_one(packet)
        self._wrote(self.moment(frame), perf_counter() - began)

    def moment(self, frame: Frame) -> float:
        """When the player will show it, in seconds from its beginning."""
        return float(frame.pts * frame.time_base - self._zero(frame))

    def _zero(self, frame: Frame) -> Fraction:
        """The source's moment that is the player's zero; ``frame`` may be the first one."""
        if self._shift is None:
            # The sound of a whole file keeps the file's clock, and the picture keeps to it.
            media = self._source.media
            own = frame.pts * frame.time_base if media is None else Fraction(0)
            self._shift = (media.start if media else None) or own
        return self._shift

    def commit(self) -> None:
        """The end: the player has everything and plays it out."""
        with self._muxing():
            if self._others is not None:
                self._others.copy_rest(self._end if self._others.media.max_frames else None)
        self._close()

    def abort(self) -> None:
        """Break off; nothing after commit."""
        self.open.set()
        self._close()

    def _close(self) -> None:
        if self._others is not None:
            self._others.close()
            self._others = None
        container, self._container = self._container, None
        give_up(container)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @contextlib.contextmanager
    def _muxing(self) -> Generator[None]:
        try:
            yield
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PlayerGone("the player was closed") from error
        except FFmpegError as error:
            raise TecoError(f"the player could not be fed: {error.strerror}") from error
