"""Measuring the table: step times first, while the machine is idle, then quality set by set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from teco.core import machine
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.machine import usable_cores
from teco.core.pixels import Pixels
from teco.evaluation.quality import (
    BASELINES,
    QualityRow,
    parse_metrics,
    row_of,
    truth_frames,
    truth_size,
)
from teco.evaluation.table.report import (
    Entrant,
    MethodResult,
    SetResult,
    TableOptions,
    TableReport,
    folder_of,
    is_baseline,
)
from teco.evaluation.table.sets import GIVEN_FOLDERS, ClipSet, Degradation, SetClip
from teco.inference.stream import Stream
from teco.measurement.latency import measure_latency, warnings_for
from teco.model.opening import Model, check_frame_size, open_model
from teco.runtimes import Runtime, Session, SessionOptions, find, open_session
from teco.video.clips import open_source
from teco_calibration.degrade import baseline, degrade
from teco_calibration.metrics.quality import Lpips, Metric, SequenceQuality, SequenceResult
from teco_models import zoo
from teco_models.variant import SCALE

Report = Callable[[int, "int | None"], None]
Progress = Callable[[str, str], AbstractContextManager[Report]]
"""Told (what, unit), gives a function of (done, total or None); see teco.cli.options.progress."""

Enlarge = Callable[[Iterable[Pixels]], Iterator[Pixels]]
"""Low-resolution pictures in order -> their enlargements in order."""


@contextmanager
def silent(_label: str, _unit: str) -> Generator[Report]:
    """A :data:`Progress` that shows nothing."""
    yield lambda done, total: None


def measurable(text: str) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Metric names as typed -> those that can be measured here, and why the others cannot.

    LPIPS and tLP need packages and a backbone that the base install lacks; a table without them
    is of use, one that stops after an hour is not.

    Raises:
        TecoError: a name is unknown, or none of the metrics can be measured.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    need = [name for name in names if name in ("lpips", "tlp")]
    kept = [name for name in names if name not in need]
    reason = Lpips.why_unavailable() if need else None
    if reason is None or not kept:
        return parse_metrics(",".join(names)), ()
    shown = " and ".join({"lpips": "LPIPS", "tlp": "tLP"}[name] for name in need)
    verb = "is" if len(need) == 1 else "are"
    return parse_metrics(",".join(kept)), (f"{shown} {verb} left out: {reason}",)


def open_models(specs: Sequence[str]) -> list[tuple[str, Model]]:
    """The models of a table: (spec, model); every shipped one where none is named.

    ``bicubic`` and ``bilinear`` are in every table; naming them alone leaves the networks out.

    Raises:
        TecoError, ModelError: one cannot be found or read.
    """
    if not specs:
        specs = [entry.name for entry in zoo.entries()]
    return [(spec, open_model(spec)) for spec in dict.fromkeys(specs) if not is_baseline(spec)]


def make_table(
    sets: Sequence[ClipSet],
    specs: Sequence[str],
    options: TableOptions,
    *,
    left_out: tuple[str, ...] = (),
    progress: Progress = silent,
) -> TableReport:
    """Measure interpolations and models on sets.

    Everything that can be found wrong without measuring is found before the first step.

    Args:
        sets: from :func:`teco.evaluation.table.sets.find_sets`.
        specs: models as users name them, see :func:`open_models`.
        options: how.
        left_out: sentences of :func:`measurable`, for the record.
        progress: shows how far it is.

    Raises:
        TecoError, ClipError, ModelError: a clip, a model or a runtime cannot be used.
    """
    here = machine.inspect()
    opened = open_models(specs)
    names = _unique_names(opened)
    degradations = _degradations(opened)
    frames = _check_clips(sets, opened, degradations, options)
    for _, model in opened:
        check_frame_size(model, *options.size)
    runtimes = [_runtime_for(model, options) for _, model in opened]

    warnings: list[str] = []
    entrants = [
        _entrant(name, spec, model, runtime, options)
        for name, (spec, model), runtime in zip(names, opened, runtimes, strict=True)
    ]
    if options.repetitions is not None and opened:
        pairs = [(model, runtime) for (_, model), runtime in zip(opened, runtimes, strict=True)]
        with progress("timing", "steps") as show:
            timings = measure_latency(
                pairs, options.size,
                repetitions=options.repetitions, threads=options.threads, report=show,
            )  # fmt: skip
        # Under the table's names, which tell two files of one name apart.
        timings = [replace(t, model=name) for t, name in zip(timings, names, strict=True)]
        warnings += warnings_for(timings, here.load)
        entrants = [
            replace(entrant, timing=timing, details=timing.details)
            for entrant, timing in zip(entrants, timings, strict=True)
        ]

    order = sorted(range(len(entrants)), key=lambda i: _cost_key(entrants[i]))
    methods = len(BASELINES) * len(degradations) + len(entrants)
    with progress("quality", "frames") as show:
        judge = _QualityPass(sets, options, show, None if frames is None else frames * methods)
        judged: list[list[MethodResult]] = [[] for _ in sets]
        for degradation in degradations:
            for name in BASELINES:
                label = name if len(degradations) == 1 else f"{name} ({degradation.upper()})"
                rows = judge.rows(label, degradation, _interpolation(name, degradation))
                for found, row in zip(judged, rows, strict=True):
                    found.append(MethodResult(degradation, row))
        for i in order:
            entrant, (_, model), runtime = entrants[i], opened[i], runtimes[i]
            session = runtime.open(model, SessionOptions(threads=options.threads))
            try:
                entrants[i] = entrant = replace(entrant, details=session.details)
                degradation = model.variant.degradation
                rows = judge.rows(entrant.name, degradation, _recurrence(session, options.warm_up))
                for found, row in zip(judged, rows, strict=True):
                    found.append(MethodResult(degradation, row, entrant))
            finally:
                session.close()

    return TableReport(
        options=options,
        threads=options.threads or usable_cores(),
        entrants=tuple(entrants[i] for i in order),
        sets=tuple(
            SetResult(clips, tuple(found)) for clips, found in zip(sets, judged, strict=True)
        ),
        machine=here,
        left_out=left_out,
        warnings=tuple(warnings),
    )


# --- quality ---------------------------------------------------------------------------------


class _QualityPass:
    """Runs one method after the other over all sets, with one LPIPS network for all."""

    def __init__(
        self, sets: Sequence[ClipSet], options: TableOptions, show: Report, total: int | None
    ) -> None:
        self._sets = sets
        self._options = options
        self._show = show
        self._total = total
        self._done = 0
        self._lpips = Lpips() if {"lpips", "tlp"} & set(options.metrics) else None

    def rows(
        self, method: str, degradation: Degradation, fresh: Callable[[], Enlarge]
    ) -> Iterator[QualityRow]:
        """One row per set; ``fresh`` is asked for every clip, so that none sees another's state."""
        for one in self._sets:
            results: list[SequenceResult] = []
            for clip in one.clips:
                quality = SequenceQuality(self._options.metrics, lpips=self._lpips)
                pairs = _pairs(clip, degradation, self._options)
                judge_clip(fresh(), pairs, quality, self._count)
                results.append(quality.result())
            yield row_of(method, results)

    def _count(self) -> None:
        self._done += 1
        self._show(self._done, self._total)


def judge_clip(
    enlarge: Enlarge,
    pairs: Iterable[tuple[Pixels, Pixels]],
    quality: SequenceQuality,
    report: Callable[[], None] = lambda: None,
) -> None:
    """Enlarge a sequence and compare it.

    Args:
        enlarge: gives as many pictures as it takes, in order; it may look ahead.
        pairs: (truth, low resolution), uint8 (H, W, 3) and (h, w, 3) RGB.
        quality: takes the comparison.
        report: called after each frame.
    """
    inside: deque[Pixels] = deque()  # truths of frames inside, no more than it looks ahead

    def inputs() -> Iterator[Pixels]:
        for truth, small in pairs:
            inside.append(truth)
            yield small

    for picture in enlarge(inputs()):
        quality.add(inside.popleft(), picture)
        report()


def _interpolation(
    name: Literal["bicubic", "bilinear"], degradation: Degradation
) -> Callable[[], Enlarge]:
    one = baseline(name, degradation)
    return lambda: lambda pictures: map(one, pictures)


def _recurrence(session: Session, warm_up: int) -> Callable[[], Enlarge]:
    """A stream of its own for every clip."""
    return lambda: Stream(session, warm_up=warm_up).run


def _pairs(
    clip: SetClip, degradation: Degradation, options: TableOptions
) -> Iterator[tuple[Pixels, Pixels]]:
    """(truth, low resolution) of a clip, as the options ask."""
    if options.inputs == "given":
        yield from given_pairs(clip, degradation, options.max_frames)
        return
    for truth in truth_frames(clip.truth, options.shrink, options.max_frames):
        yield truth, degrade(truth, degradation)


def given_pairs(
    clip: SetClip, degradation: Degradation, max_frames: int | None = None
) -> Iterator[tuple[Pixels, Pixels]]:
    """(truth, low resolution that came with the set), frame by frame in order.

    Where the truth is no multiple of 4, a set's own inputs cover the rest (134 rows for ToS3's 534)
    or leave it out; the truth is cut in the second case, the output by the official rule in the
    first.

    Raises:
        TecoError: the sizes do not fit, or one has more frames.
        ClipError: one cannot be read.
    """
    folder = clip.given[degradation]
    with (
        open_source(clip.truth, max_frames=max_frames) as truths,
        open_source(folder, max_frames=max_frames) as smalls,
    ):
        height, width = truths.height, truths.width
        h, w = smalls.height, smalls.width
        for full, small in ((height, h), (width, w)):
            if small not in (full // SCALE, -(-full // SCALE)):
                raise TecoError(
                    f"the pictures of {folder} are {w}x{h}, expected a quarter of the truth's "
                    f"{width}x{height}",
                    hint="leave --inputs given out to make them from the truth",
                )
        for truth, small in zip_longest(truths, smalls):
            if truth is None or small is None:
                # zip_longest: the one that is None ended first
                shorter, longer = (truths, smalls) if truth is None else (smalls, truths)
                raise TecoError(
                    f"{shorter.name} has fewer frames than {longer.name}",
                    hint="both need the same pictures; leave --inputs given out to make the "
                    "inputs from the truth",
                )
            yield truth.pixels[: h * SCALE, : w * SCALE], small.pixels


# --- checks and choices before anything runs ---------------------------------------------------


def _degradations(opened: Sequence[tuple[str, Model]]) -> list[Degradation]:
    """The degradations that the models are for, BD first; BD where there are none."""
    found = {model.variant.degradation for _, model in opened} or {"bd"}
    order: tuple[Degradation, ...] = ("bd", "bi")
    return [degradation for degradation in order if degradation in found]


def _check_clips(
    sets: Sequence[ClipSet],
    opened: Sequence[tuple[str, Model]],
    degradations: Sequence[Degradation],
    options: TableOptions,
) -> int | None:
    """Raise for what cannot be measured; the frames of all clips, None where not known.

    Raises:
        TecoError, ClipError, ModelError: a clip cannot be read, is too small, lacks the inputs
            asked for, or has another size than a static model.
    """
    if options.inputs == "given" and options.shrink != 1:
        raise TecoError(
            "--shrink changes the truth, and inputs that are given do not change with it",
            hint="leave out --shrink or --inputs given",
            exit_code=USAGE,
        )
    total: int | None = 0
    for one in sets:
        for clip in one.clips:
            width, height = truth_size(clip.truth, options.shrink)
            h, w = height // SCALE, width // SCALE
            if options.inputs == "given":
                for degradation in degradations:
                    if degradation not in clip.given:
                        folders = [k for k, v in GIVEN_FOLDERS.items() if v == degradation]
                        raise TecoError(
                            f"no {degradation.upper()} inputs lie beside {clip.truth}",
                            hint=f"expected them in a folder {' or '.join(folders)} beside GT; "
                            "or leave --inputs given out to make them from the truth",
                            exit_code=USAGE,
                        )
                    with open_source(clip.given[degradation]) as source:
                        h, w = source.height, source.width
            for _, model in opened:
                check_frame_size(model, h, w)
            with open_source(clip.truth, max_frames=options.max_frames) as source:
                count = source.count
            if count is not None and options.max_frames is not None:
                count = min(count, options.max_frames)
            total = None if total is None or count is None else total + count
    return total


def _runtime_for(model: Model, options: TableOptions) -> Runtime:
    """The runtime that will run a model.

    Raises:
        TecoError: it is unknown, unavailable or cannot open the model.
    """
    if options.runtime == "auto":
        session = open_session(model, "auto", SessionOptions(threads=options.threads))
        session.close()
        return find(session.runtime)
    runtime = find(options.runtime)
    if reason := runtime.why_unavailable() or runtime.why_not(model):
        raise TecoError(
            reason, hint="name another --runtime, or leave the model out", exit_code=MACHINE
        )
    return runtime


def _unique_names(opened: Sequence[tuple[str, Model]]) -> list[str]:
    """Names that tell the models apart: their own, with a folder where two are alike."""
    names = [model.name for _, model in opened]
    longer = [
        name if names.count(name) == 1 else folder_of(Path(spec).absolute())
        for name, (spec, _) in zip(names, opened, strict=True)
    ]
    return [
        name if longer.count(name) == 1 else spec
        for name, (spec, _) in zip(longer, opened, strict=True)
    ]


def _entrant(
    name: str, spec: str, model: Model, runtime: Runtime, options: TableOptions
) -> Entrant:
    # A runtime that takes ONNX runs the ONNX file, PyTorch the weights.
    file = model.onnx if ".onnx" in runtime.suffixes else model.weights
    return Entrant(
        name=name,
        spec=spec,
        variant=model.variant,
        cost=model.variant.cost(*options.size),
        sha256="" if file is None else sha256_of(file),
        runtime=runtime.name,
        details="",
    )


def _cost_key(entrant: Entrant) -> tuple[float, int, str]:
    """From cheap to dear: MACs, then parameters; names so that the order is one."""
    return entrant.cost.macs["total"], entrant.params, entrant.name
