"""A training run, from its data to its weights."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from teco.core.log import Progress, ShowProgress
from teco.training.data import real_degradation
from teco.training.data.photo_clips import PhotoClipOptions, photo_shots, usable_photographs
from teco.training.data.pool import ClipPool, PoolOptions
from teco.training.data.prepare import StoreOptions, prepare
from teco.training.data.sequences import SampleOptions, Shot, notices
from teco.training.distributed import Processes, wait_for_first
from teco.training.loop import IterationRecord, Trainer, check_stages
from teco.training.options import LoopOptions, TrainOptions
from teco.training.run_folder import RunFolder
from teco.training.tensorboard import Board
from teco.training.validate import Validator, read_frames
from teco_models.variant import Variant

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The clips of a run.

    Attributes:
        folders: to train on, see :mod:`teco.training.data.layouts`.
        photos: folder of photographs that are moved about, beside the clips or instead of them.
        photo_clips: how many clips are made of them, for variants that are degraded by BD.
        pool_clips: how many clips the pool holds, for variants of the real degradation.
        crops: windows cut once from each clip of a large set of pictures; 0 for none.
        validation: clip to validate on; None leaves validation out.
        validation_shrink: it is averaged by area to 1/shrink of its size first.
        validation_frames: of it.
    """

    folders: tuple[Path, ...] = ()
    photos: Path | None = None
    photo_clips: int = 200
    pool_clips: int = 600
    crops: int = 0
    validation: str | None = None
    validation_shrink: float = 2.0
    validation_frames: int = 24


def _shots(data: RunData, cache: Path, seed: int, progress: ShowProgress) -> list[Shot]:
    shots: list[Shot] = []
    if data.folders:
        shots += prepare(list(data.folders), cache, store=StoreOptions(crops=data.crops))
    if data.photos is not None:
        asked = PhotoClipOptions(clips=data.photo_clips, seed=seed)
        with progress("moving photographs", "clips") as show:
            shots += photo_shots(data.photos, cache, asked, show)
    return shots


def _pool(data: RunData, cache: Path, options: TrainOptions, progress: ShowProgress) -> ClipPool:
    """The clips of a run for the real degradation; those that are not there yet are made."""
    # A few frames and pixels more than a sequence has, so that each is cut in many ways.
    asked = PoolOptions(
        clips=data.pool_clips, frames=options.frames + 4, size=max(320, 2 * options.crop),
        seed=options.seed, scale=Variant.parse(options.variant).scale,
    )  # fmt: skip
    shots: list[Shot] = []
    if data.folders:
        shots = prepare(
            list(data.folders), cache, store=StoreOptions(crops=data.crops, crop_size=asked.size)
        )
    photographs = [] if data.photos is None else usable_photographs(data.photos, asked.size)
    pool = ClipPool(asked, photographs, shots, cache)
    if left := len(shots) - len(pool.shots):
        log.info(
            "note: %d of %d shots are left out: they have fewer than %d frames or are smaller than "
            "%d pixels", left, len(shots), asked.frames, asked.size,
        )  # fmt: skip
    for reason in real_degradation.missing():
        log.warning("note: %s; it is left out of the degradation", reason)
    with progress("rendering and encoding", "clips") as show:
        pool.fill(options.threads, show)
    return pool


def _source(
    options: TrainOptions, data: RunData, cache: Path, progress: ShowProgress
) -> ClipPool | list[Shot]:
    """What the run's variant learns from."""
    if Variant.parse(options.variant).degradation == "real":
        source = _pool(data, cache, options, progress)
        log.info(
            "%d clips of %d photographs and %d shots",
            len(source), len(source.photographs), len(source.shots),
        )  # fmt: skip
    else:
        source = _shots(data, cache, options.seed, progress)
        log.info("%d shots, %d frames", len(source), sum(len(s.frames) for s in source))
        for line in notices(source, SampleOptions(crop=options.crop, frames=options.frames)):
            log.info("note: %s", line)
    return source


def train(
    options: TrainOptions,
    loop: LoopOptions,
    data: RunData,
    processes: Processes,
    progress: ShowProgress,
) -> Path:
    """Prepare the data, then run stage after stage, from a checkpoint where there is one.

    Args:
        options: what to compute.
        loop: where things go.
        data: what to train and to validate on.
        processes: this process among its peers; the first one speaks for all.
        progress: shows how far preparations and stages are.

    Returns:
        The weights.

    Raises:
        TecoError, ClipError, ModelError: see :func:`teco.training.data.prepare.prepare` and
            :class:`teco.training.loop.Trainer`.
    """
    if not processes.first:
        logging.getLogger("teco").setLevel(logging.WARNING)
    with RunFolder(loop.out).held() if processes.first else nullcontext():
        # What can be found wrong is found before the clips are made, which takes its time.
        check_stages(options)
        validator = None
        if data.validation is not None and processes.first:
            variant = Variant.parse(options.variant)
            validator = Validator(
                read_frames(data.validation, data.validation_shrink, data.validation_frames),
                degradation=variant.degradation,
                scale=variant.scale,
            )
        with wait_for_first(processes):
            source = _source(options, data, loop.out / "frames", progress)
        trainer = Trainer(options, loop, source, validator, processes)
        if trainer.resume():
            log.info(
                "going on from %s: %s %d/%d",
                trainer.folder.checkpoint, trainer.stage, trainer.iteration, trainer.total,
            )  # fmt: skip
        _run_stages(trainer, processes, progress)
        return trainer.folder.weights


def _run_stages(trainer: Trainer, processes: Processes, progress: ShowProgress) -> None:
    folder = trainer.loop.out / "tensorboard"
    with Board(folder) if processes.first else nullcontext() as board:
        more = True
        while more:
            with progress(f"{trainer.options.variant} {trainer.stage}", "iterations") as show:

                def watch(done: IterationRecord, show: Progress = show) -> None:
                    if board is None:
                        return
                    show(done.iteration, done.total)
                    board.add(done)
                    if done.validation:
                        log.info("%s %d: %s", done.stage, done.iteration, done.validation.to_text())

                more = trainer.run_stage(watch)
