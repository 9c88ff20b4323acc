"""Measuring the table: step times first, while the machine is idle, then quality set by set."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from teco.core import machine
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.log import Progress, no_progress
from teco.core.machine import usable_cores
from teco.core.pixels import Pixels
from teco.evaluation.quality import (
    BASELINES,
    Method,
    Pairs,
    QualityMeter,
    count_frames,
    degraded_pairs,
    interpolation,
    network,
    parse_metrics,
    truth_size,
)
from teco.evaluation.table.report import (
    SHOWN,
    Entrant,
    MethodResult,
    SetResult,
    TableOptions,
    TableReport,
    folder_of,
    is_baseline,
)
from teco.evaluation.table.sets import GIVEN_FOLDERS, ClipSet, SetClip
from teco.measurement.latency import measure_latency
from teco.model.opening import Model, check_frame_size, common_scale, open_model
from teco.runtimes import Runtime, SessionOptions, find, open_session
from teco.video.clips import open_source
from teco_calibration.metrics.quality import Lpips, Metric
from teco_models import zoo
from teco_models.variant import SCALE, Degradation

ProgressBars = Callable[[str, str], AbstractContextManager[Progress]]
"""(what is done, its unit) -> shows how far it is; see :func:`teco.cli.options.progress`."""


@contextmanager
def silent(_label: str, _unit: str) -> Generator[Progress]:
    """:data:`ProgressBars` that show nothing."""
    yield no_progress


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
    """The models of a table: (spec, model); every shipped one of scale 4 where none is named.

    ``bicubic`` and ``bilinear`` are in every table; naming them alone leaves the networks out.

    Raises:
        TecoError, ModelError: one cannot be found or read; or they enlarge differently, so that no
            clip can be made small for all of them.
    """
    named = specs or [entry.name for entry in zoo.entries()]
    found = [(spec, open_model(spec)) for spec in dict.fromkeys(named) if not is_baseline(spec)]
    if not specs:
        return [(spec, model) for spec, model in found if model.variant.scale == SCALE]
    common_scale((model for _, model in found), hint="make a table of each scale")
    return found


def make_table(
    sets: Sequence[ClipSet],
    specs: Sequence[str],
    options: TableOptions,
    *,
    left_out: tuple[str, ...] = (),
    progress: ProgressBars = silent,
) -> TableReport:
    """Measure interpolations and models on sets.

    Everything that can be found wrong without measuring is found before the first step.

    Args:
        sets: from :func:`teco.evaluation.table.sets.find_sets`.
        specs: models as users name them, see :func:`open_models`.
        options: how.
        left_out: sentences of :func:`measurable`, for the record.
        progress: shows how far each of the two parts is.

    Raises:
        TecoError, ClipError, ModelError: a clip, a model or a runtime cannot be used.
    """
    here = machine.inspect()
    opened = open_models(specs)
    models = [model for _, model in opened]
    degradations = _degradations(models)
    scale = models[0].variant.scale if models else SCALE
    if scale != SCALE:  # nothing is published of it
        options = replace(options, published=False)
    frames = _check_clips(sets, models, degradations, options, scale)
    for model in models:
        check_frame_size(model, *options.size)
    entered = [
        _Entered(model, runtime := _runtime_for(model, options),
                 _entrant(name, spec, model, runtime, options))
        for name, (spec, model) in zip(_unique_names(opened), opened, strict=True)
    ]  # fmt: skip
    warnings: list[str] = []
    if options.repetitions is not None and entered:
        with progress("timing", "steps") as show:
            entered, warnings = _timed(entered, options, show)
    entered.sort(key=lambda one: _cost_key(one.entrant))
    methods = sum(len(BASELINES[d]) for d in degradations) + len(entered)
    with progress("quality", "frames") as show:
        meter = QualityMeter(options.metrics, show, None if frames is None else frames * methods)
        entrants, results = _measured(sets, entered, degradations, options, scale, meter)
    return TableReport(
        options=options,
        threads=options.threads or usable_cores(),
        entrants=entrants,
        sets=results,
        machine=here,
        left_out=left_out,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Entered:
    """A model that is going to be measured, and how."""

    model: Model
    runtime: Runtime
    entrant: Entrant


def _timed(
    entered: Sequence[_Entered], options: TableOptions, progress: Progress
) -> tuple[list[_Entered], list[str]]:
    """The models with the latency of their steps, and what makes it less sure."""
    assert options.repetitions is not None
    # Under the table's names, which tell two files of one name apart.
    timed = measure_latency(
        [(replace(one.model, name=one.entrant.name), one.runtime) for one in entered],
        options.size, repetitions=options.repetitions, threads=options.threads, progress=progress,
    )  # fmt: skip
    return [
        replace(one, entrant=replace(one.entrant, timing=timing, details=timing.details))
        for one, timing in zip(entered, timed.results, strict=True)
    ], [warning.text for warning in timed.warnings]


def _measured(
    sets: Sequence[ClipSet],
    entered: Sequence[_Entered],
    degradations: Sequence[Degradation],
    options: TableOptions,
    scale: int,
    meter: QualityMeter,
) -> tuple[tuple[Entrant, ...], tuple[SetResult, ...]]:
    """The quality of interpolations and models, set by set."""
    found: list[list[MethodResult]] = [[] for _ in sets]

    def add(method: Method, degradation: Degradation, entrant: Entrant | None = None) -> None:
        for one, results in zip(sets, found, strict=True):
            row = meter.row(method, (_pairs(c, degradation, options, scale) for c in one.clips))
            results.append(MethodResult(degradation, row, entrant))

    for degradation in degradations:
        for name in BASELINES[degradation]:
            shown = name if len(degradations) == 1 else f"{name} ({SHOWN[degradation]})"
            add(interpolation(name, degradation, shown, scale), degradation)
    entrants: list[Entrant] = []
    for one in entered:
        with closing(one.runtime.open(one.model, SessionOptions(threads=options.threads))) as s:
            entrant = replace(one.entrant, details=s.details)
            method = network(entrant.name, s, reverse_warm_up=options.reverse_warm_up)
            add(method, one.model.variant.degradation, entrant)
        entrants.append(entrant)
    return tuple(entrants), tuple(
        SetResult(one, tuple(results)) for one, results in zip(sets, found, strict=True)
    )


def _pairs(clip: SetClip, degradation: Degradation, options: TableOptions, scale: int) -> Pairs:
    """(truth, low resolution) of a clip, as the options ask."""
    if options.inputs == "given":
        return given_pairs(clip, degradation, options.max_frames)
    codec = options.codec if degradation == "real" else ""
    return degraded_pairs(
        clip.truth, degradation, options.shrink, options.max_frames, codec=codec, scale=scale
    )


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


def _degradations(models: Sequence[Model]) -> list[Degradation]:
    """The degradations that the models are for, BD first; BD where there are none."""
    found = {model.variant.degradation for model in models} or {"bd"}
    return [degradation for degradation in BASELINES if degradation in found]


def _check_clips(
    sets: Sequence[ClipSet],
    models: Sequence[Model],
    degradations: Sequence[Degradation],
    options: TableOptions,
    scale: int,
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
    clips = [clip for one in sets for clip in one.clips]
    for clip in clips:
        width, height = truth_size(clip.truth, options.shrink, scale)
        sizes = [(height // scale, width // scale)]
        if options.inputs == "given":
            sizes = [_given_size(clip, degradation) for degradation in degradations]
        for model in models:
            check_frame_size(model, *sizes[-1])
    return count_frames((clip.truth for clip in clips), options.max_frames)


def _given_size(clip: SetClip, degradation: Degradation) -> tuple[int, int]:
    """(h, w) of the inputs that lie beside a truth."""
    if degradation not in clip.given:
        folders = [k for k, v in GIVEN_FOLDERS.items() if v == degradation]
        raise TecoError(
            f"no {degradation.upper()} inputs lie beside {clip.truth}",
            hint=f"expected them in a folder {' or '.join(folders)} beside GT; "
            "or leave --inputs given out to make them from the truth",
            exit_code=USAGE,
        )
    with open_source(clip.given[degradation]) as source:
        return source.height, source.width


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
