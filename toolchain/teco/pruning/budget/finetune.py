"""What a cut costs in quality, measured: prune, fine-tune briefly, validate."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teco.core.errors import USAGE, TecoError
from teco.core.log import Progress, no_progress
from teco.pruning.budget.reduce import reduce_to
from teco.pruning.structured import read_truth
from teco.training.data import prepare
from teco.training.data.sequences import BLUR_MARGIN, Shot
from teco.training.loop import DivergedError, IterationRecord, Trainer
from teco.training.options import LoopOptions, TrainOptions
from teco.training.validate import Validator
from teco_calibration.cache import cache_dir
from teco_models.checkpoint import Weights, build, save_weights
from teco_models.variant import Variant

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    """How each candidate is fine-tuned; the same for all, or they could not be compared.

    Attributes:
        iterations: of the recurrent stage. A few hundred heal what a cut tore and show what it
            cannot make up for.
        lr: peak learning rate.
        batch: sequences an iteration.
        frames: length of a sequence.
        crop: HR pixels.
        threads: CPU threads.
        workers: data processes.
        seed: of the data; each candidate sees the same.
    """

    iterations: int = 300
    lr: float = 3e-4
    batch: int = 4
    frames: int = 5
    crop: int = 128
    threads: int = 1
    workers: int = 1
    seed: int = 0


class FineTune:
    """dB of PSNR-Y that a variant has lost against its teacher after a short fine-tuning.

    Without distillation: the teacher's pass would cost more than all the rest of a small network's
    training, and the order of the candidates is what is wanted.

    Args:
        teacher: its weights.
        shots: training data.
        validator: judges teacher and candidates on a clip that is not trained on.
        options: the same for all.
        progress: told the iterations that are done, within each.
    """

    def __init__(
        self,
        teacher: Weights,
        shots: list[Shot],
        validator: Validator,
        options: FineTuneOptions | None = None,
        *,
        progress: Progress = no_progress,
    ) -> None:
        self.teacher = teacher
        self.shots = shots
        self.validator = validator
        self.options = options or FineTuneOptions()
        self.progress = progress
        self.reference = validator(build(teacher)).psnr

    def __call__(self, variant: Variant) -> float:
        """dB lost; negative where the candidate came out better, NaN where its loss diverged."""
        o = self.options
        weights, _ = reduce_to(self.teacher, variant)
        options = TrainOptions(
            variant=variant.name, flow_iterations=0, iterations=o.iterations, lr=o.lr,
            batch=o.batch, frames=o.frames, crop=o.crop, threads=o.threads, seed=o.seed,
            warm_up=max(1, o.iterations // 10),
            # Averaged over the last tenth or so; the default would average over more than there is.
            ema=max(0.0, 1 - 10 / o.iterations),
        )  # fmt: skip

        def watch(done: IterationRecord) -> None:
            self.progress(done.iteration, done.total)

        with tempfile.TemporaryDirectory(prefix="teco-tune-") as folder:
            start = Path(folder) / "start.safetensors"
            save_weights(start, build(weights))
            loop = LoopOptions(
                out=Path(folder) / "run", checkpoint_every=o.iterations, workers=o.workers,
                init=start,
            )  # fmt: skip
            trainer = Trainer(options, loop, self.shots, None)
            try:
                trainer.run(watch)
            except DivergedError:
                return math.nan
            return self.reference - self.validator(trainer.average).psnr


def fine_tune_on(
    teacher: Weights,
    folders: list[Path],
    clip: str,
    options: FineTuneOptions,
    *,
    shrink: float,
    frames: int,
    progress: Progress = no_progress,
) -> FineTune:
    """Prepare a user's clips.

    Args:
        teacher: its weights.
        folders: clips to train on.
        clip: that candidates are judged on.
        options: of each fine-tuning.
        shrink: the clip is averaged by area to 1/shrink of its size first.
        frames: of the clip.
        progress: told the iterations that are done, within each.

    Raises:
        TecoError: the clip, or every clip to train on, is too small for a crop.
        ClipError, ModelError: one cannot be read.
    """
    needed = options.crop + 2 * BLUR_MARGIN
    # First, because what is wrong with a clip is found in a moment and preparing takes minutes.
    truth = read_truth(clip, shrink, frames)
    smallest = min(truth[0].shape[:2])
    if smallest < needed:
        raise TecoError(
            f"{clip} is {smallest} pixels high or wide after shrinking, judging fine-tunings needs "
            f"{needed}",
            hint="give a larger --clip, or a smaller --shrink",
            exit_code=USAGE,
        )
    shots = prepare.prepare(folders, cache_dir() / "frames")
    log.info("%d shots, %d frames to fine-tune on", len(shots), sum(len(s.frames) for s in shots))
    largest = max(min(s.frames.shape[1:3]) for s in shots)
    if largest < needed:
        raise TecoError(
            f"no clip in --data is at least {needed} pixels high and wide, which a fine-tuning "
            f"needs (the largest is {largest} after shrinking)",
            hint="give larger clips, or say in a clips.toml beside them that they are shrunk less",
            exit_code=USAGE,
        )
    return FineTune(teacher, shots, Validator(np.stack(truth)), options, progress=progress)
