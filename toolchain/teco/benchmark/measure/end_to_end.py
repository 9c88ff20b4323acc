"""File to file in a candidate's process: ``teco upscale`` itself, timed from outside."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from teco.inference.upscale import UpscaleOptions, upscale
from teco.runtimes.base import FrameSession, PlaneSession, Session
from teco.video.file.encoders import USUAL

ENCODER = f"libx264, {USUAL.preset}, crf {USUAL.crf:g}, {USUAL.pix_fmt}"
"""What ``teco upscale`` encodes with if nothing else is said."""


class _Kept:
    """A session that outlives the upscaling."""

    def __init__(self, session: Session) -> None:
        self.runtime, self.details = session.runtime, session.details
        self.step = session.step

    def close(self) -> None:
        """Nothing: it is used again."""


class _KeptFrames(_Kept):
    """The same for one that takes and makes 8-bit frames."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.enlarge = session.enlarge


class _KeptPlanes(_Kept):
    """The same for one that takes and makes planes."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.layout = session.layout
        self.convert_by, self.enlarge_planes = session.convert_by, session.enlarge_planes
        self._session = session

    @property
    def conversion(self) -> Any:
        return self._session.conversion


def run(session: Session, scale: int, clip: Path, folder: Path, frames: int) -> dict[str, Any]:
    """Enlarge the first frames of a clip into a file in ``folder``; times in ms.

    Gaps are between one frame handed to the encoder and the next: while its queue has room that
    is decoding and stepping, and when it has none the encoder's own pace.
    """
    planes = session.layout if isinstance(session, PlaneSession) else None
    kept = _KeptPlanes(session) if planes is not None else _Kept(session)
    if isinstance(session, FrameSession):
        kept = _KeptFrames(session)
    times: list[float] = []

    def note(_done: int, _total: int | None) -> None:
        times.append(1000 * perf_counter())

    target = folder / "end_to_end.mp4"
    options = UpscaleOptions(max_frames=frames, overwrite=True)
    try:
        result = upscale(
            lambda _source: kept, clip, target, options, note, scale=scale, planes=planes
        )
    finally:
        target.unlink(missing_ok=True)
    return {
        "frames": result.frames,
        "seconds": result.seconds,
        "gaps": [b - a for a, b in pairwise(times)],
        "step_ms": 1000 * result.step_seconds / result.frames,
    }
