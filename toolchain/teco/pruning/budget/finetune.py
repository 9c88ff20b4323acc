"""The measured damage of a cut: prune, fine-tune briefly, validate."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from teco.pruning.budget.reduce import reduce_to
from teco.training.data.sequences import Shot
from teco.training.loop import DivergedError, Progress, Trainer
from teco.training.options import LoopOptions, TrainOptions
from teco.training.validate import Validator
from teco_models.checkpoint import Weights, build, save_weights
from teco_models.variant import Variant


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
        report: told (iterations done, of how many) within each.
    """

    def __init__(
        self,
        teacher: Weights,
        shots: list[Shot],
        validator: Validator,
        options: FineTuneOptions | None = None,
        *,
        report: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> None:
        self.teacher = teacher
        self.shots = shots
        self.validator = validator
        self.options = options or FineTuneOptions()
        self.report = report
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

        def show(progress: Progress) -> None:
            self.report(progress.iteration, progress.total)

        with tempfile.TemporaryDirectory(prefix="teco-tune-") as folder:
            start = Path(folder) / "start.safetensors"
            save_weights(start, build(weights))
            loop = LoopOptions(
                out=Path(folder) / "run", checkpoint_every=o.iterations, workers=o.workers,
                init=start,
            )  # fmt: skip
            trainer = Trainer(options, loop, self.shots, None)
            try:
                trainer.run(show)
            except DivergedError:
                return math.nan
            return self.reference - self.validator(trainer.average).psnr
