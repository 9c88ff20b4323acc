"""A training run, from its data to its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from teco.core.log import Progress
from teco.training.data.photo_clips import PhotoClipOptions, photo_shots
from teco.training.data.prepare import StoreOptions, prepare
from teco.training.data.sequences import SampleOptions, Shot, notices
from teco.training.distributed import Processes, wait_for_first
from teco.training.loop import IterationRecord, Trainer
from teco.training.options import LoopOptions, TrainOptions
from teco.training.tensorboard import Board
from teco.training.validate import Validator, read_frames

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The clips of a run.

    Attributes:
        folders: to train on, see :mod:`teco.training.data.layouts`.
        photos: folder of photographs that are moved about, beside the clips or instead of them.
        photo_clips: how many clips are made of them.
        crops: windows cut once from each clip of a large set of pictures; 0 for none.
        validation: clip to validate on; None leaves validation out.
        validation_shrink: it is averaged by area to 1/shrink of its size first.
        validation_frames: of it.
    """

    folders: tuple[Path, ...] = ()
    photos: Path | None = None
    photo_clips: int = 200
    crops: int = 0
    validation: str | None = None
    validation_shrink: float = 2.0
    validation_frames: int = 24


def _shots(
    data: RunData,
    cache: Path,
    seed: int,
    progress: Callable[[str, str], AbstractContextManager[Progress]],
) -> list[Shot]:
    shots: list[Shot] = []
    if data.folders:
        shots += prepare(list(data.folders), cache, store=StoreOptions(crops=data.crops))
    if data.photos is not None:
        asked = PhotoClipOptions(clips=data.photo_clips, seed=seed)
        with progress("moving photographs", "clips") as show:
            shots += photo_shots(data.photos, cache, asked, show)
    return shots


def train(
    options: TrainOptions,
    loop: LoopOptions,
    data: RunData,
    processes: Processes,
    progress: Callable[[str, str], AbstractContextManager[Progress]],
) -> Path:
    """Prepare the data, then run stage after stage, from a checkpoint where there is one.

    Args:
        options: what to compute.
        loop: where things go.
        data: what to train and to validate on.
        processes: this process among its peers; the first one speaks for all.
        progress: shows how far a stage is, given its name and its unit.

    Returns:
        The weights.

    Raises:
        TecoError, ClipError, ModelError: see :func:`teco.training.data.prepare.prepare` and
            :class:`teco.training.loop.Trainer`.
    """
    if not processes.first:
        logging.getLogger("teco").setLevel(logging.WARNING)
    with wait_for_first(processes):
        shots = _shots(data, loop.out / "frames", options.seed, progress)
    log.info("%d shots, %d frames", len(shots), sum(len(s.frames) for s in shots))
    for line in notices(shots, SampleOptions(crop=options.crop, frames=options.frames)):
        log.info("note: %s", line)
    validator = None
    if data.validation is not None and processes.first:
        validator = Validator(
            read_frames(data.validation, data.validation_shrink, data.validation_frames)
        )
    trainer = Trainer(options, loop, shots, validator, processes)
    if trainer.resume():
        log.info(
            "going on from %s: %s %d/%d",
            trainer.folder.checkpoint, trainer.stage, trainer.iteration, trainer.total,
        )  # fmt: skip
    with Board(loop.out / "tensorboard") if processes.first else nullcontext() as board:
        more = True
        while more:
            with progress(f"{options.variant} {trainer.stage}", "iterations") as show:

                def watch(done: IterationRecord, show: Progress = show) -> None:
                    if board is None:
                        return
                    show(done.iteration, done.total)
                    board.add(done)
                    if done.validation:
                        log.info("%s %d: %s", done.stage, done.iteration, done.validation.to_text())

                more = trainer.run_stage(watch)
    return trainer.folder.weights
