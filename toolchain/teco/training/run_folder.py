"""The folder of a training run: its checkpoint, its weights, its log and its sample pictures."""

from __future__ import annotations

import json
from collections.abc import Generator as Yields
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from teco.core.errors import USAGE, TecoError
from teco.core.files import lock_file, unlock, write_beside, writing
from teco.training.options import STAGES, Stage, TrainOptions
from teco_models.arch.discriminator import Discriminator
from teco_models.checkpoint import AnyGenerator, save_discriminator, save_weights

CHECKPOINT = "last.pt"
WEIGHTS = "weights.safetensors"
DISCRIMINATOR = "discriminator.safetensors"
LOG = "log.jsonl"
SAMPLES = "samples"


@dataclass(frozen=True)
class RunFolder:
    """Where a run leaves what it makes; everything but the log is written beside and renamed."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that the run needs to go on."""
        return self.path / CHECKPOINT

    @property
    def weights(self) -> Path:
        """The averaged weights so far."""
        return self.path / WEIGHTS

    @property
    def discriminator(self) -> Path:
        """What the GAN stage trains against."""
        return self.path / DISCRIMINATOR

    @property
    def figures(self) -> Path:
        """One JSON object a line."""
        return self.path / LOG

    @contextmanager
    def held(self) -> Yields[None]:
        """Let no other run write here meanwhile.

        Raises:
            TecoError: one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / ".running"
        file.touch()
        try:
            descriptor = lock_file(file)
        except BlockingIOError as error:
            raise TecoError(
                f"another run is training in {self.path}",
                hint="wait for its end, stop it, or give another --out",
                exit_code=USAGE,
            ) from error
        try:
            yield
        finally:
            unlock(descriptor)

    def stage_weights(self, stage: Stage) -> Path:
        """The weights with which a stage ended."""
        return self.path / f"weights-{stage}.safetensors"

    def keep_sample(self, stage: Stage, iteration: int, png: bytes) -> None:
        """Keep a picture of a validation."""
        folder = self.path / SAMPLES
        folder.mkdir(parents=True, exist_ok=True)
        write_beside(folder / f"{stage}-{iteration:06d}.png", png)

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line of figures."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.figures.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, stage: Stage, iteration: int) -> None:
        """Drop the log's lines from after a checkpoint; they are about to be written again."""
        if not self.figures.exists():
            return
        here = (STAGES.index(stage), iteration)
        kept: list[str] = []
        for line in self.figures.read_text().splitlines(keepends=True):
            try:
                record = json.loads(line)
                place = (STAGES.index(record["stage"]), record["iteration"])
            except (ValueError, KeyError, TypeError):
                continue  # half written when the process or the machine went down
            if line.endswith("\n") and place <= here:
                kept.append(line)
        write_beside(self.figures, "".join(kept).encode())

    def save(
        self,
        state: dict[str, Any],
        average: AnyGenerator,
        metadata: Mapping[str, str],
        discriminator: Discriminator | None,
        ended: Stage | None,
    ) -> None:
        """Write the checkpoint, and the networks by themselves.

        Args:
            state: of the whole run.
            average: the averaged generator.
            metadata: text fields for its weights.
            discriminator: in the GAN stage.
            ended: the stage that has just ended, whose weights are also kept by themselves.

        Raises:
            TecoError: a file cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if wrong := [k for k, v in average.state_dict().items() if not bool(v.isfinite().all())]:
            raise TecoError(
                f"the averaged weights are no longer numbers ({wrong[0]}), so nothing was written "
                f"to {self.path}",
                hint="go on from an older checkpoint, or start again with a lower learning rate",
            )
        try:
            with writing(self.checkpoint) as part:
                torch.save(state, part)
            save_weights(self.weights, average, metadata=metadata)
            if discriminator is not None:
                save_discriminator(self.discriminator, discriminator)
            if ended is not None:
                save_weights(self.stage_weights(ended), average, metadata=metadata)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise TecoError(
                f"the checkpoint could not be kept in {self.path}: {error}",
                hint="free some space; the previous checkpoint is still valid, and the same "
                "command goes on from it",
            ) from error

    def read(self, device: torch.device) -> dict[str, Any]:
        """What :meth:`save` wrote.

        Raises:
            TecoError: it is no checkpoint.
        """
        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint, map_location=device, weights_only=True
            )
            state["options"] = dict(state["options"])
        except (MemoryError, torch.OutOfMemoryError):
            raise  # nothing is wrong with the file
        except Exception as error:  # whatever is wrong with the file, it is no checkpoint
            raise TecoError(
                f"{self.checkpoint} is no readable checkpoint: {_reason(error)}",
                hint="move it away to start again, or give another --out",
            ) from error
        return state


@contextmanager
def complete(path: Path) -> Yields[None]:
    """Name the checkpoint in what goes wrong while its contents are put in place."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        # But for a missing entry, torch names the tensors that do not fit.
        said = _reason(error) if isinstance(error, KeyError) else " ".join(str(error).split())
        raise TecoError(
            f"{path} is no complete checkpoint: {said[:200]}",
            hint="move it away to start again, or give another --out",
        ) from error


def changed_options(saved: Mapping[str, Any], options: TrainOptions) -> list[str]:
    """What a checkpoint's options and a run's differ in, each in words."""
    # An option that is younger than the checkpoint was at its default then.
    defaults = {f.name: f.default for f in fields(options) if f.default is not MISSING}
    before = {**defaults, **saved}
    return [
        f"{name} was {before.get(name)!r}, is now {value!r}"
        for name, value in asdict(options).items()
        if before.get(name) != value
    ]


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be read, in words: foreign bytes make torch say anything, a bare
    number included."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"{error.args[0]!r} is not in it"
    return "it is damaged, was cut off, or is something else"
