"""One clock for a recording whose own clock jumps.

A transport or program stream counts from any number, may be joined to another with ``cat``, and may
start anew where a recorder lost its signal. Players go on; so does what is written here: what
follows a jump is shifted behind what came before, all streams by the same time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from av.format import Flags

BACK = Fraction(1, 2)
"""Seconds by which a stream's decoding time may go back before its clock is taken to have started
anew; less is reordering or a damaged packet."""

AHEAD = Fraction(10)
"""Seconds of nothing in all streams that are taken for a jump; ffmpeg's dts_delta_threshold."""


def may_jump(container: Any) -> bool:
    """Whether the container is of a kind whose clock may start anew (libav's AVFMT_TS_DISCONT),
    Ogg apart: its chained streams are new streams to libav."""
    return bool(container.format.flags & Flags.ts_discont.value) and (
        "ogg" not in container.format.name
    )


class ContinuousClock:
    """Moves the timestamps of packets, which it is shown in the file's order.

    Every reader of a file needs its own, shown all of the sound and pictures: each finds the same
    jumps.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self._shifts = [Fraction(0)]
        self._at: dict[int, int] = {}  # stream -> which shift is its own
        self._end: dict[int, Fraction] = {}  # stream -> where its last packet ended, unshifted

    def place(self, packet: Any) -> None:
        """Shift a packet's timestamps in place."""
        if packet.dts is None:
            return
        stream, base = packet.stream.index, packet.time_base
        now = packet.dts * base
        which = self._at.get(stream, len(self._shifts) - 1)
        if packet.stream.type in ("video", "audio"):
            end = self._end.get(stream)
            # Where another stream of the same stretch has gone on, this one only had nothing.
            reached = max((e for s, e in self._end.items() if self._at[s] == which), default=now)
            if end is not None and (now < end - BACK or now > max(end, reached) + AHEAD):
                which += 1
                if which == len(self._shifts):
                    # The first stream to jump sets the pace; the others keep beside it.
                    self._shifts.append(self._shifts[-1] + end - now)
                    self.jumps += 1
            self._end[stream] = now + (packet.duration or 0) * base
        else:
            # Captions come seldom: they go with the pictures.
            which = max(self._at.values(), default=which)
        self._at[stream] = which
        ticks = round(self._shifts[which] / base)
        packet.dts += ticks
        if packet.pts is not None:
            packet.pts += ticks
