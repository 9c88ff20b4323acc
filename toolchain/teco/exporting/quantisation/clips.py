"""What integers are calibrated and judged on: a crop of each clip, or moving test frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import teco
from teco.core.errors import USAGE, TecoError
from teco.model.int8 import EXAMPLE
from teco.verification.temporal_gate import GateClip, default_frames, read_clip
from teco_calibration.int8_ranges import RANGES
from teco_models.variant import SCALE, Degradation

CROP = (60, 92)
"""Largest LR size that is looked at, from the middle; no multiples of 8, so that the flow is
mirrored (see :data:`teco.verification.parity.GATE_SIZE`). Small, because hundreds of frames are
run."""

MIN_FRAMES = 8
"""Of a clip's first scene. The recurrence has then got over its start, see
:data:`teco_calibration.metrics.drift.SETTLE` for how fast that is."""

MAX_FRAMES = 24
"""That are read of a clip; played to and fro by the gate."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Where ranges come from and how they are cut.

    Attributes:
        clips: video files or folders, the truth; empty for the example clip of a checkout, or,
            where that is not installed, for moving test frames.
        range: of :data:`teco_calibration.int8_ranges.RANGES`.

    Raises:
        TecoError: there is no such range; exit code 2.
    """

    clips: tuple[str, ...] = ()
    range: str = "percentile"

    def __post_init__(self) -> None:
        if self.range not in RANGES:
            raise TecoError(
                f"no range is called {self.range!r}",
                hint=f"ranges: {', '.join(RANGES)}",
                exit_code=USAGE,
            )


@dataclass(frozen=True, kw_only=True)
class CalibrationScenes:
    """Scenes of one size.

    Attributes:
        names: of the clips, without their folders; empty for moving test frames.
        scenes: each with its truth, unless they are those.
    """

    names: tuple[str, ...]
    scenes: tuple[GateClip, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)"""
        h, w = self.scenes[0].frames[0].shape[:2]
        return h, w


def example_clip() -> Path | None:
    """The example with a truth, which lies in a checkout and not in a wheel."""
    path = Path(teco.__file__).parents[2] / "examples" / EXAMPLE
    return path if path.is_file() else None


def read_scenes(clips: Sequence[str], degradation: Degradation) -> CalibrationScenes:
    """Read clips, degrade them, and cut all to one size.

    Raises:
        TecoError: a clip cannot be read, or its first scene is too short.
        ClipError, ModelError: a clip is too small, smaller than 32x32.
    """
    if not clips:
        example = example_clip()
        if example is None:
            frames = default_frames(*CROP, MAX_FRAMES)
            return CalibrationScenes(names=(), scenes=(GateClip(frames),))
        clips = (str(example),)
    whole = [_read(clip, degradation) for clip in clips]
    h = min(CROP[0], *(s.frames[0].shape[0] for s in whole))
    w = min(CROP[1], *(s.frames[0].shape[1] for s in whole))
    return CalibrationScenes(
        names=tuple(Path(clip).name for clip in clips),
        scenes=tuple(_middle(scene, h, w) for scene in whole),
    )


def _read(clip: str, degradation: Degradation) -> GateClip:
    scene = read_clip(clip, degradation, max_frames=MAX_FRAMES)
    if len(scene.frames) < MIN_FRAMES:
        raise TecoError(
            f"the first scene of {clip} has {len(scene.frames)} "
            f"{'frame' if len(scene.frames) == 1 else 'frames'}; int8 is calibrated on at least "
            f"{MIN_FRAMES}",
            hint="give another --calibrate, or none for the default",
            exit_code=USAGE,
        )
    return scene


def _middle(scene: GateClip, h: int, w: int) -> GateClip:
    assert scene.truth is not None
    height, width = scene.frames[0].shape[:2]
    y, x = (height - h) // 2, (width - w) // 2
    s = SCALE
    return GateClip(
        [f[y : y + h, x : x + w].copy() for f in scene.frames],
        [t[s * y : s * (y + h), s * x : s * (x + w)].copy() for t in scene.truth],
    )
