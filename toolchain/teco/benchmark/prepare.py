"""A benchmark as the user asks for it -> one that can run; what cannot be done is said here."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from teco.benchmark import SHIPPED_CLIP
from teco.benchmark.measure.candidates import USUAL_SIZE, choose
from teco.benchmark.options import BenchOptions, BenchRequest, ClipRequest
from teco.benchmark.quality.clip import TruthClip, open_truth
from teco.benchmark.quality.measure import Gallery, QualityOptions
from teco.benchmark.record.fail_if import Condition, parse
from teco.benchmark.record.record import Record
from teco.benchmark.run import Bench
from teco.benchmark.siblings import siblings
from teco.core import machine
from teco.core.errors import FAILED, MACHINE, USAGE, Interrupted, TecoError
from teco.evaluation.quality import parse_metrics
from teco.model.opening import (
    DEFAULT_MODEL,
    ENGINE_SUFFIX,
    Model,
    check_frame_size,
    common_scale,
    open_model,
)
from teco.runtimes import require_any
from teco_calibration.metrics.quality import UNITS, Lpips
from teco_models import zoo

log = logging.getLogger(__name__)

FAMILY_CLIP = ClipRequest(path=SHIPPED_CLIP, frames=18)
FAMILY_SIZE = (48, 80)
"""LR (h, w) of the shipped clip: small, since every shipped model is measured on it."""


def prepare(request: BenchRequest) -> Bench:
    """Open the clip and the models, and choose the candidates.

    Raises:
        TecoError, ClipError, ModelError: options contradict each other, or something cannot be
            found, read or run here.
    """
    _check(request)
    conditions_of(request)
    specs = list(request.models) or [DEFAULT_MODEL]
    if request.family:
        # The shipped clip is degraded by BD for all of them.
        specs = [e.name for e in zoo.entries() if open_model(e.name).variant.degradation == "bd"]
    clip, quality, size = None, None, request.size
    engine = _lone_engine(request)
    others, notes = siblings(engine) if engine is not None else ([], [])
    specs += others
    if request.clip.path is not None:
        clip = _open_clip(request.clip, request.clip.path, request.size, specs)
        size = size or clip.size
    elif _on_shipped_clip(request):
        frames = request.clip.frames or FAMILY_CLIP.frames
        clip = open_truth(SHIPPED_CLIP, max_frames=frames, fit=FAMILY_SIZE)
        if engine is not None:
            clip = open_truth(
                SHIPPED_CLIP, max_frames=frames, fit=_within(engine, FAMILY_SIZE),
                degradation=engine.variant.degradation, scale=engine.variant.scale,
            )  # fmt: skip
    if engine is not None and size is None:
        size = _within(engine, USUAL_SIZE)
    here = machine.inspect()
    selection = choose(
        specs, request.runtimes, size, here, threads=request.threads, share=request.family
    )
    if not selection.candidates and not selection.static:
        require_any()
        raise TecoError(
            "no runtime here can run what was given",
            hint="; ".join(dict.fromkeys(x.why for x in selection.unavailable)),
            exit_code=MACHINE,
        )
    if engine is not None and not selection.candidates and request.clip.path is None:
        clip = None
    if clip is not None:
        quality = _quality_options(request)
    for note in notes if selection.candidates else ():
        log.info(note)
    options = BenchOptions(
        threads=request.threads, repetitions=request.repetitions, budget_s=request.budget_s,
        latency_only=request.latency_only, clip=clip, quality=quality,
        gallery=Gallery() if request.gallery and clip is not None else None,
        gate=request.gate, command=request.command,
    )  # fmt: skip
    return Bench(selection, options, here)


def conditions_of(request: BenchRequest) -> tuple[Condition, ...]:
    """The conditions on which the benchmark fails.

    Raises:
        TecoError: one is none, or needs what is not measured.
    """
    clip = request.clip.path is not None or _on_shipped_clip(request)
    return tuple(
        parse(text, clip=clip, latency_only=request.latency_only) for text in request.fail_if
    )


def raise_failures(request: BenchRequest, record: Record, *, kept: Path | None = None) -> None:
    """Raise where a benchmark was not what was asked for.

    Args:
        request: what was asked for.
        record: what came of it.
        kept: the file that holds the record.

    Raises:
        TecoError: it was ended early, a condition holds, or not everything could be measured.
    """
    if not record.complete:
        where = f"{kept} holds what was measured" if kept else "what was measured is above"
        raise Interrupted(record.stopped, hint=f"{where}, and says that it is not complete")
    # What an engine is measured beside is there to compare with, not to be judged.
    kind = "engine" if _lone_engine(request) is not None else None
    failed = [line for one in conditions_of(request) for line in one.failures(record, kind)]
    if failed:
        raise TecoError("; ".join(failed), exit_code=FAILED)
    if not record.rows:
        whys = dict.fromkeys(one.why for one in (*record.static, *record.unavailable))
        raise TecoError("; ".join(whys), exit_code=MACHINE)
    for row in record.rows:
        if row.latency is None:
            raise TecoError(
                f"{row.key} could not be measured: {'; '.join(row.notes)}", exit_code=FAILED
            )


def _lone_engine(request: BenchRequest) -> Model | None:
    """The engine where nothing else was named: it is measured beside what it was made from."""
    alone = len(request.models) == 1 and request.runtimes in (("all",), ("auto",))
    if not alone or not request.models[0].lower().endswith(ENGINE_SUFFIX):
        return None
    return open_model(request.models[0])


def _within(engine: Model, size: tuple[int, int]) -> tuple[int, int]:
    """The size nearest to this one that an engine takes."""
    assert engine.engine_manifest is not None
    low, high = engine.engine_manifest.limits
    h, w = (min(max(x, a), b) for a, x, b in zip(low, size, high, strict=True))
    return h, w


def _on_shipped_clip(request: BenchRequest) -> bool:
    """Whether quality is measured although no clip was named."""
    return request.family or _lone_engine(request) is not None


def _check(request: BenchRequest) -> None:
    """Raise TecoError for options that contradict each other."""
    if request.family and request.models:
        raise TecoError(
            "--family is every shipped model, and names were given as well",
            hint="leave one of both out",
            exit_code=USAGE,
        )
    clip = request.clip
    needing = {
        "--truth": clip.truth is not None,
        "--fit": clip.fit,
        "--shrink": clip.shrink != 1,
        "--frames": clip.frames is not None and not _on_shipped_clip(request),
    }
    for option, given in needing.items():
        if given and clip.path is None:
            raise TecoError(f"{option} needs --clip", hint="add --clip CLIP", exit_code=USAGE)


def _open_clip(
    asked: ClipRequest, path: Path, size: tuple[int, int] | None, specs: list[str]
) -> TruthClip:
    """The clip, in a size that the models can take."""
    models = [open_model(spec) for spec in specs]
    scale = common_scale(models, hint="measure them one after the other, or leave --clip out")
    expected = {m.variant.degradation: m.name for m in models}
    if len(expected) > 1 and asked.truth is None:
        said = ", ".join(f"{name} expects {how}" for how, name in expected.items())
        raise TecoError(
            f"one clip cannot be made small for all of these models: {said}",
            hint="measure them one after the other, or leave --clip out; `teco table` compares "
            "each with its own bicubic",
            exit_code=USAGE,
        )
    target = size or next((m.static_size for m in models if m.static_size), None)
    found = open_truth(
        path, truth=asked.truth, degradation=models[0].variant.degradation, shrink=asked.shrink,
        max_frames=asked.frames, fit=target if asked.fit else None, scale=scale,
    )  # fmt: skip
    for model in models:
        try:
            check_frame_size(model, *found.size)
        except TecoError as error:
            raise TecoError(
                error.message,
                hint=f"--fit resizes the clip; or {error.hint}",
                exit_code=error.exit_code,
            ) from error
    return found


def _quality_options(request: BenchRequest) -> QualityOptions:
    """What to measure; metrics that nobody asked for by name may be missing."""
    names = ",".join(UNITS) if request.metrics is None else request.metrics
    if request.metrics is None and (why := Lpips.why_unavailable()):
        log.info("without LPIPS and tLP: %s", why)
        names = ",".join(m for m in UNITS if m not in ("lpips", "tlp"))
    frames = request.clip.frames or 40
    options = QualityOptions(
        metrics=parse_metrics(names), threads=request.threads, scene_frames=min(40, frames)
    )
    if request.clip.path is None:
        return replace(
            options, distance_frames=4, scene_frames=18, places=2, length=6, run=51, crop=(32, 48)
        )
    return options
