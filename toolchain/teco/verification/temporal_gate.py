"""The temporal gate on two open sessions: a candidate beside its float32 reference.

What is measured and what is allowed is :mod:`teco_calibration.temporal_gate.comparison` and
:mod:`teco_calibration.temporal_gate.verdict`. This module chooses the bounds, brings sessions into
the shape that the gate drives, and gives it frames. HR frames are rounded to 8 bits as in
:mod:`teco.core.pixels`, so that the gate judges what a user would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from teco.core.log import Progress, no_progress
from teco.core.pixels import Pixels, to_pixels, to_tensor
from teco.evaluation.quality import truth_frames, truth_size
from teco.runtimes.base import FrameSession, PlaneSession, Session, State, moving_frames
from teco.verification.planes import ExactPlanes, ThroughPlanes
from teco_calibration.degrade import degrade
from teco_calibration.metrics.quality import Lpips
from teco_calibration.temporal_gate.comparison import EVERY, compare, endless
from teco_calibration.temporal_gate.verdict import INT8, Bounds, Verdict
from teco_models.variant import SCALE, Degradation, check_size

WITHOUT_TRUTH = replace(
    INT8, name="int8-reference", psnr_loss=None, lpips_loss=None, loss_drift=None, worst_psnr=41.5
)
"""Where there is no truth: as far from the reference as costs a picture at 30 dB on its truth 0.3
dB, if both errors are independent: -10 log10((10^0.03 - 1) 10^-3) = 41.45."""


def lossy_bounds(on_truth: bool) -> tuple[Bounds, str]:
    """Bounds for what is allowed to cost something, and a sentence where they are not all there.

    Args:
        on_truth: whether there is one.
    """
    if not on_truth:
        return WITHOUT_TRUTH, "the moving test frames have no truth; judged on the reference"
    if reason := Lpips.why_unavailable():
        return replace(INT8, name="int8-psnr", lpips_loss=None), f"LPIPS is not judged: {reason}"
    return INT8, ""


def bounds_of(precision: str, io: str, *, on_truth: bool, exact: bool = True) -> tuple[Bounds, str]:
    """What a file is judged by: what its label allows, as at its export.

    Args:
        precision: of its label.
        io: its ports, as ``teco export --io`` calls them.
        on_truth: whether there is one.
        exact: whether the runtime computes what the file says; one that lowers the precision by
            itself is judged by what that costs.

    Returns:
        The bounds, and a sentence on what of them cannot be judged here, or "".
    """
    if precision == "int8" or not exact:
        return lossy_bounds(on_truth)
    return Bounds.named("fp16" if io == "fp16" else precision), ""


class SessionStepper:
    """A session with its state, as :class:`teco_calibration.temporal_gate.comparison.GateStepper`.

    Not :class:`teco.inference.stream.Stream`: the gate says itself where scenes start, and to it
    values that are not finite are a finding, not a failure.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._state: State | None = None

    def reset(self) -> None:
        self._state = None

    def step(self, lr: Pixels) -> Pixels:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8, rounded to nearest, then clipped.

        Raises:
            FloatingPointError: the model gave values that are not finite.
        """
        if isinstance(self._session, FrameSession):
            picture, self._state = self._session.enlarge(lr, self._state)
            return picture
        hr, self._state = self._session.step(to_tensor(lr), self._state)
        if not np.isfinite(hr.sum()):
            raise FloatingPointError
        return to_pixels(hr)


@dataclass(frozen=True)
class GateClip:
    """One scene to judge on.

    Attributes:
        frames: uint8 (h, w, 3) RGB, what the models are given.
        truth: uint8 (s h, s w, 3) of each, s the model's scale, or None.
    """

    frames: Sequence[Pixels]
    truth: Sequence[Pixels] | None = None


def read_clip(
    clip: str,
    degradation: Degradation,
    *,
    shrink: float = 1.0,
    max_frames: int = 60,
    scale: int = SCALE,
) -> GateClip:
    """The first scene of a clip, degraded, with itself as the truth.

    Args:
        clip: video file or folder of pictures; the truth.
        degradation: the model's own.
        shrink: area-average the clip to 1/shrink of its size first, as ``teco eval`` does.
        max_frames: to read; all of them are kept in memory.
        scale: the model's.

    Raises:
        TecoError, ClipError, ModelError: the clip cannot be used.
    """
    from teco.inference.scene_cuts import SceneCutDetector

    truth_size(clip, shrink, scale)
    detector = SceneCutDetector()
    frames: list[Pixels] = []
    truth: list[Pixels] = []
    for picture in truth_frames(clip, shrink, max_frames, scale):
        lr = degrade(picture, degradation, scale=scale)
        if detector.is_cut(lr):
            break
        frames.append(lr)
        truth.append(picture)
    return GateClip(frames, truth)


def default_frames(h: int, w: int, count: int) -> list[Pixels]:
    """(h, w, 3) uint8 frames of a texture that drifts, where no clip is at hand.

    They have no truth, and no picture of the world looks like them: enough to see whether a
    precision or an engine follows its reference, not how good its pictures are.

    Raises:
        ModelError: smaller than 8x8.
    """
    check_size(h, w)
    return [to_pixels(frame) for frame in moving_frames(h, w, count)]


def run_temporal_gate(
    candidate: Session,
    reference: Session,
    clip: GateClip,
    *,
    bounds: Bounds,
    count: int | None = None,
    every: int = EVERY,
    progress: Progress = no_progress,
) -> Verdict:
    """Judge a model beside its float32 reference on a clip, played to and fro for long enough.

    Of a long clip no more is used than a quarter of the frames that are run, so that every place
    comes again at least once: without that, drift cannot be told from content. Where the bounds do
    not judge drift, all of it is.

    Args:
        candidate: an open session. Of one that takes planes the samples are compared, or, where
            there is a truth, RGB through them; likewise then of the reference.
        reference: another, which computes the same weights in float32; any exact runtime.
        clip: one scene.
        bounds: what is allowed.
        count: recurrent frames to run, at least ``bounds.frames``, which is the default.
        every: measure LPIPS and tOF on every such frame only; LPIPS only if the bounds limit it.
        progress: told how many of ``count`` frames are done.

    Raises:
        TecoError: a session failed.
        ClipError: the clip cannot be judged by these bounds, or LPIPS cannot be measured here.
        ModelError: its pictures are smaller than 8x8.
    """
    count = bounds.frames if count is None else count
    if isinstance(candidate, PlaneSession):
        if not isinstance(reference, PlaneSession):
            reference = ExactPlanes(reference, candidate.layout)
        samples = clip.truth is None
        candidate = ThroughPlanes(candidate, samples=samples)
        reference = ThroughPlanes(reference, samples=samples)
    frames, truth = clip.frames, clip.truth
    if bounds.error_drift is not None or bounds.loss_drift is not None:
        share = max(2, count // 4)
        frames, truth = frames[:share], None if truth is None else truth[:share]
    for frame in frames[:1]:
        check_size(*frame.shape[:2])
    return compare(
        SessionStepper(candidate),
        SessionStepper(reference),
        endless(frames, count),
        bounds=bounds,
        truth=None if truth is None else endless(truth, count),
        lpips=None if bounds.lpips_loss is None or truth is None else Lpips(),
        every=every,
        report=lambda done: progress(done, count),
    )
