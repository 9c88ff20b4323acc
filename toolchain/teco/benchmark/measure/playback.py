"""Playback in a candidate's process: frames with a time, through the core that players use.

A player has a few frames in hand when it begins to show: frame n is due at
``start + (BUFFER + n) / rate``, and is asked for no sooner than it could have been decoded, BUFFER
frames ahead. :meth:`teco.inference.stream.Stream.push` leaves the network out where a step would be
late.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from teco.inference.stream import Stream
from teco.inference.upscale import as_taken, conversion_of
from teco.runtimes.base import PlaneSession, Session
from teco.video.clips import open_source

BUFFER = 3
"""Frames that players keep ready, as mpv's video output does at most."""


def run(session: Session, clip: Path, frames: int) -> dict[str, Any]:
    """Play the first frames of a clip; times in ms.

    One frame is enlarged before the clock starts, as a player fills its queue before it shows.
    """
    planes = session.layout if isinstance(session, PlaneSession) else None
    with open_source(clip, max_frames=frames, planes=planes) as source:
        if isinstance(session, PlaneSession):
            session.convert_by(conversion_of(source))
        decoded = [as_taken(frame, session).pixels for frame in source]
        rate = float(source.rate or 25)
    stream = Stream(session)
    stream.push(decoded[0])
    stream.reset()
    before = stream.stats.fallbacks
    dropped = 0
    late_ms: list[float] = []
    start = perf_counter()
    for n, pixels in enumerate(decoded):
        ahead = start + n / rate - perf_counter()
        if ahead > 0:
            sleep(ahead)
        due = start + (n + BUFFER) / rate
        stream.push(pixels, due=due)
        if stream.stats.fallbacks > before:
            before = stream.stats.fallbacks
            dropped += 1
        else:
            late_ms.append(1000 * max(0.0, perf_counter() - due))
    late = sum(x > 0 for x in late_ms)
    return {
        "rate": rate,
        "frames": len(decoded),
        "shown": len(decoded) - dropped - late,
        "late": late,
        "dropped": dropped,
        "late_ms": late_ms,
        "buffer": BUFFER,
    }
