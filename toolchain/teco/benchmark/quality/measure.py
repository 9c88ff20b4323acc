"""Quality of a benchmark's candidates on a clip with a truth, and their distance from float32.

For each model the float32 step of its weights runs over the clip once: its frames are measured
on the truth, and the first of them kept in a temporary file. Then each candidate runs. One that
should compute float32 is compared with these first: one that stays within one 8-bit step in every
value shows the same frames but for rounding, so it shares the reference's figures, which say
where they were measured. Any other is measured on the truth itself. Nothing is shared on the
strength of a label.

Cold-start curves and drift come from the middle of the frames of the clip's first scene
(:mod:`teco_calibration.temporal_gate.recurrence`): they need hundreds of steps, and the network
does the same to every part of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt

from teco.benchmark.quality.clip import TruthClip, first_scene
from teco.benchmark.quality.gate import open_reference
from teco.benchmark.quality.records import clip_of, cold_start_of, distance_of, quality_of, trend_of
from teco.benchmark.record.quality import ClipRecord, ColdStart, DistanceRecord, Quality, Trend
from teco.core.pixels import Pixels
from teco.evaluation.quality import BASELINES, Enlarge, QualityMeter, enlarged, interpolation
from teco.inference.stream import Stream
from teco.model.opening import Model
from teco.runtimes import Runtime, Session, SessionOptions
from teco.runtimes.base import PlaneSession
from teco.verification.planes import ThroughPlanes
from teco.verification.temporal_gate import SessionStepper
from teco_calibration.metrics.distance import Distances
from teco_calibration.metrics.quality import Metric, SequenceResult
from teco_calibration.temporal_gate.recurrence import SHORTEST, measure_recurrence

PartProgress = Callable[[str, int, "int | None"], None]
"""Told what is being done, and (done, total or None) of it."""


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """How thorough.

    Attributes:
        metrics: to measure on the truth.
        threads: of each session.
        distance_frames: compared with the reference.
        recurrence: measure cold-start curves and drift.
        scene_frames: of the first scene that these are measured on, however many the clip is cut
            to for the rest.
        places, length, run: resets, frames after each, and frames of the long run; see
            :func:`teco_calibration.temporal_gate.recurrence.measure_recurrence`.
        crop: (h, w) of the low-resolution middle that is taken for them, at most.
    """

    metrics: tuple[Metric, ...]
    threads: int | None = None
    distance_frames: int = 30
    recurrence: bool = True
    scene_frames: int = 40
    places: int = 4
    length: int = 12
    run: int | None = None
    crop: tuple[int, int] = (64, 96)


@dataclass
class Gallery:
    """Pictures that a report shows, kept while they pass.

    Attributes:
        frames: which of the clip.
        pixels: method -> one (H, W, 3) uint8 array per frame; the truth is ``"truth"``.
    """

    frames: tuple[int, ...] = ()
    pixels: dict[str, list[Pixels]] = field(default_factory=dict)

    def choose(self, count: int, wanted: int) -> None:
        """Spread ``wanted`` frames over a clip of ``count``; the first ones are still cold."""
        picks = {math.ceil(count * (n + 1) / (wanted + 1)) - 1 for n in range(min(wanted, count))}
        self.frames = tuple(sorted(picks))

    def offer(self, method: str, frame: int, pixels: Pixels) -> None:
        """Keep a frame if it is one to show."""
        if frame in self.frames:
            self.pixels.setdefault(method, []).append(pixels)


@dataclass(frozen=True, kw_only=True)
class MeasuredQuality:
    """A candidate's figures.

    Attributes:
        index: of the candidate in what was asked for.
        quality: shared with others where their frames are the same.
        distance: None where there is no reference.
        shows: the method in the gallery whose frames are this candidate's.
        note: why something is missing, or "".
    """

    index: int
    quality: Quality
    distance: DistanceRecord | None
    shows: str
    note: str = ""


def measure_interpolations(
    clip: TruthClip,
    options: QualityOptions,
    *,
    gallery: Gallery | None = None,
    wanted: int = 2,
    progress: PartProgress = lambda what, done, total: None,
) -> tuple[ClipRecord, tuple[Quality, ...]]:
    """Bicubic and bilinear on the clip, and what the clip is.

    Args:
        clip: with its truth.
        options: metrics.
        gallery: filled with the truth and both.
        wanted: frames for it.
        progress: told how far it is.

    Raises:
        TecoError, ClipError: the clip cannot be used.
    """
    frames = 0
    for _ in clip.pairs():
        frames += 1
        progress("reading the clip", frames, clip.max_frames)
    if gallery is not None:
        gallery.choose(frames, wanted)
        for n, (truth, _) in enumerate(clip.pairs()):
            gallery.offer("truth", n, truth)
    measuring = _Measuring(clip, options, frames, gallery, progress)
    rows: list[Quality] = []
    for name in BASELINES[clip.degradation]:
        enlarge = interpolation(name, clip.degradation, scale=clip.scale).start()
        rows.append(quality_of(name, "", measuring.quality(name, enlarge)))
    return clip_of(clip, frames), tuple(rows)


def measure_quality(
    candidates: Sequence[tuple[Model, Runtime]],
    clip: TruthClip,
    options: QualityOptions,
    *,
    frames: int,
    gallery: Gallery | None = None,
    progress: PartProgress = lambda what, done, total: None,
) -> Iterator[MeasuredQuality]:
    """Every candidate's figures, each given out when it is done.

    Args:
        candidates: what to measure; those of one model one after the other.
        clip: with its truth.
        options: how thorough.
        frames: of the clip, for progress.
        gallery: filled with frames of those that are measured, under
        :attr:`MeasuredQuality.shows`.
        progress: told how far it is.

    Raises:
        TecoError, ClipError: a session failed, or the clip does not fit a static file.
    """
    measuring = _Measuring(clip, options, frames, gallery, progress)
    by_model: dict[int, list[int]] = {}
    for index, (model, _) in enumerate(candidates):
        by_model.setdefault(id(model), []).append(index)
    for indices in by_model.values():
        model = candidates[indices[0]][0]
        with _reference(model, measuring) as reference:
            for index in indices:
                yield measuring.candidate(index, *candidates[index], reference)


# --- one model -------------------------------------------------------------------------------


class _Measuring:
    """What all candidates share."""

    def __init__(
        self,
        clip: TruthClip,
        options: QualityOptions,
        frames: int,
        gallery: Gallery | None,
        progress: PartProgress,
    ) -> None:
        self.clip = clip
        self.options = options
        self.frames = frames
        self.progress = progress
        self._gallery = gallery
        self.lpips = QualityMeter(options.metrics).lpips

    def quality(
        self,
        name: str,
        enlarge: Enlarge,
        see: Callable[[int, Pixels], None] = lambda n, frame: None,
    ) -> SequenceResult:
        """One method on the clip, and some of its frames into the gallery."""

        def shown(n: int, frame: Pixels) -> None:
            see(n, frame)
            if self._gallery is not None:
                self._gallery.offer(name, n, frame)

        def told(done: int, _total: int | None) -> None:
            self.progress(f"quality of {name}", done, self.frames)

        meter = QualityMeter(self.options.metrics, told, self.frames, lpips=self.lpips)
        return meter.clip(enlarge, self.clip.pairs(), shown)

    def candidate(
        self, index: int, model: Model, runtime: Runtime, reference: _Reference
    ) -> MeasuredQuality:
        name = f"{model.name} on {runtime.name}"
        session = runtime.open(model, SessionOptions(threads=self.options.threads))
        if isinstance(session, PlaneSession):
            # The clip is RGB: what 4:2:0 loses of it is lost, and said by the figures.
            session = ThroughPlanes(session, samples=False)
        with closing(session):
            if reference.quality is not None and _should_agree(model, runtime):
                distances = Distances()
                frames = enlarged(Stream(session).run, self.clip.pairs())
                for n, (_, pixels) in zip(range(reference.stored), frames, strict=False):
                    distances.add(pixels, reference.output(n))
                    self.progress(f"distance of {name}", n + 1, reference.stored)
                distance = distance_of(distances, reference.runtime, self.clip.size)
                if distance is not None and distance.is_rounding:
                    return MeasuredQuality(
                        index=index, quality=reference.quality,
                        distance=replace(distance, psnr_drop=0.0),
                        shows=reference.shows,
                    )  # fmt: skip
            distances = Distances()

            def compare(n: int, frame: Pixels) -> None:
                if n < reference.stored:
                    distances.add(frame, reference.output(n))

            result = self.quality(name, Stream(session).run, compare)
            distance = distance_of(distances, reference.runtime, self.clip.size)
            recurrence = self.recurrence(session, model, name)
            quality = quality_of(model.name, runtime.name, result, *recurrence)
        if distance is not None and reference.quality is not None:
            own, of_reference = (q.means.get("psnr") for q in (quality, reference.quality))
            if own is not None and of_reference is not None:
                distance = replace(distance, psnr_drop=of_reference - own)
        return MeasuredQuality(
            index=index, quality=quality, distance=distance, shows=name, note=reference.note
        )

    def recurrence(
        self, session: Session, model: Model, name: str
    ) -> tuple[ColdStart | None, Trend | None, tuple[str, ...]]:
        """The cold-start curve, the drift, and why there are none where the scene is too short."""
        o = self.options
        if not o.recurrence:
            return None, None, ()
        crop = o.crop if model.static_size is None else None
        scene = first_scene(self.clip, o.scene_frames, crop)
        if len(scene) < 3 * SHORTEST:
            why = f"the first scene has {len(scene)} frames, a cold-start curve and drift need "
            return None, None, (f"{why}{3 * SHORTEST}",)
        found = measure_recurrence(
            SessionStepper(session),
            [lr for lr, _ in scene],
            [truth for _, truth in scene],
            places=o.places,
            length=o.length,
            run=o.run,
            lpips=self.lpips,
            report=lambda done, total: self.progress(f"cold start of {name}", done, total),
        )
        return cold_start_of(found), trend_of("psnr", found.drift), ()


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The float32 step of one model: its figures, and its first frames.

    Attributes:
        note: why there is none, or "".
        runtime: that it ran on.
        quality: its figures; None where there is none.
        shows: its name in the gallery.
        stored: frames that are kept.
        outputs: uint8 (stored or more, H, W, 3), in a file.
    """

    note: str = ""
    runtime: str = ""
    quality: Quality | None = None
    shows: str = ""
    stored: int = 0
    outputs: npt.NDArray[np.uint8] | None = None

    def output(self, n: int) -> Pixels:
        """Frame n, below :attr:`stored`."""
        assert self.outputs is not None
        return np.asarray(self.outputs[n])


@contextmanager
def _reference(model: Model, measuring: _Measuring) -> Generator[_Reference]:
    """Run the float32 step over the clip; its frames are there until this is left."""
    o = measuring.options
    session = open_reference(model, SessionOptions(threads=o.threads))
    if isinstance(session, str):
        yield _Reference(note=session)
        return
    h, w = measuring.clip.size
    name = f"{model.name} in float32"
    with TemporaryFile(prefix="teco-bench-") as file:
        s = model.variant.scale
        shape = (o.distance_frames, s * h, s * w, 3)
        outputs = np.memmap(file, np.uint8, "w+", shape=shape)
        stored = 0

        def keep(n: int, frame: Pixels) -> None:
            nonlocal stored
            if n < o.distance_frames:
                outputs[n] = frame
                stored = n + 1

        with closing(session):
            result = measuring.quality(name, Stream(session).run, keep)
            recurrence = measuring.recurrence(session, model, name)
        yield _Reference(
            runtime=session.runtime,
            quality=quality_of(model.name, session.runtime, result, *recurrence),
            shows=name,
            stored=stored,
            outputs=outputs,
        )


def _should_agree(model: Model, runtime: Runtime) -> bool:
    """Whether its labels promise float32; what it does decides. It saves measuring it twice."""
    return runtime.exact and (model.manifest is None or model.manifest.precision_asked == "fp32")
